//! Conditional writes to DynamoDB: sent again while they are throttled, and each told whether it was carried out, refused, or neither.

use std::time::Duration;

use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, Delete as TransactDelete, Put as TransactPut, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem,
};
use tokio::time::sleep;

use super::super::{KEY_MISFIT, StoreError, WriteId};
use super::tables::Table;
use super::wire::{Attributes, DynamoStore, Item, Key, WRITE_ID, blob, item_of, key_item};
use crate::aws::{self, word};

/// A write that is throttled was not carried out, and is sent at most so often.
const SENDINGS: u32 = 3;
/// The longest pause before the second sending, in milliseconds. It doubles with each.
const FIRST_PAUSE_MS: u64 = 50;
/// An item has at most 400 KiB, with its keys and names
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>).
const MAX_ROW_OCTETS: usize = 390 * 1024;

/// Conditions on an item, by the name of its partition key.
const ABSENT: &str = "attribute_not_exists(#name)";
const PRESENT: &str = "attribute_exists(#name)";
/// A condition on an item cancelled a transaction.
const FAILED: &str = "ConditionalCheckFailed";

/// An item that is written whole.
pub(super) struct Put {
    pub(super) key: Key,
    pub(super) write_id: WriteId,
    pub(super) octets: Vec<u8>,
}

/// What is written in the same transaction.
pub(super) enum Beside {
    /// Where nothing is.
    Insert(Put),
    /// Where something is.
    Replace(Put),
    Delete(Key),
}

/// A write as it is sent, perhaps more than once.
enum Write {
    Put {
        condition: Condition,
        item: Attributes,
    },
    /// Without a condition: whatever is there.
    Delete {
        condition: Option<Condition>,
        key: Key,
    },
    Transaction {
        items: Vec<TransactWriteItem>,
        token: String,
    },
}

/// What became of one sending of a write.
enum Sent {
    Done,
    /// The condition failed. This is the present item.
    Refused(Option<Attributes>),
    /// Another transaction has the item: nothing was written, and no condition looked at.
    Busy,
}

impl DynamoStore {
    /// Writes `put`, and what is `beside` it in the same transaction, on the condition that the present item of that key has the
    /// write id `expected`, or that there is none. `Some`: refused, with the present item.
    ///
    /// Also refused is a write that met another transaction: with the item as it is then, which may still be the expected one.
    pub(super) async fn replace(
        &self,
        table: Table,
        expected: Option<WriteId>,
        put: Put,
        beside: Vec<Beside>,
    ) -> Result<Option<Option<Item>>, StoreError> {
        let puts = beside.iter().filter_map(|beside| match beside {
            Beside::Insert(put) | Beside::Replace(put) => Some(put),
            Beside::Delete(_) => None,
        });
        if puts.chain([&put]).any(|put| put.octets.len() > MAX_ROW_OCTETS) {
            return Err(StoreError::Refused("the row is longer than DynamoDB takes".to_owned()));
        }
        let condition = Condition::of(table, expected);
        let (key, write_id) = (put.key.clone(), put.write_id);
        let item = item_of(table, put);
        let write = if beside.is_empty() {
            Write::Put { condition, item }
        } else {
            // Were the network to deliver it twice, it would be one transaction.
            let token = format!("{:032x}", u128::from_be_bytes(write_id.octets()));
            Write::Transaction { items: self.transaction(table, &condition, item, beside)?, token }
        };
        self.settle(table, &key, write).await
    }

    /// Removes an item, if an `expected` is given on the condition that it has that write id. `Some`: refused, with the present item.
    pub(super) async fn remove(
        &self,
        table: Table,
        key: &Key,
        expected: Option<WriteId>,
    ) -> Result<Option<Option<Item>>, StoreError> {
        let condition = expected.map(|expected| Condition::of(table, Some(expected)));
        self.settle(table, key, Write::Delete { condition, key: key.clone() }).await
    }

    /// Sends a write, again while it is throttled, and finds out what became of it.
    async fn settle(&self, table: Table, key: &Key, write: Write) -> Result<Option<Option<Item>>, StoreError> {
        let mut sendings = 1;
        let sent = loop {
            let sent = match &write {
                Write::Put { condition, item } => self.put(table, condition, item).await,
                Write::Delete { condition, key } => self.delete(table, condition.as_ref(), key).await,
                Write::Transaction { items, token } => self.transact(table, items, token).await,
            };
            match sent {
                Err(StoreError::Throttled) if sendings < SENDINGS => sleep(pause(sendings)).await,
                sent => break sent?,
            }
            sendings += 1;
        };
        match sent {
            Sent::Done => Ok(None),
            Sent::Refused(present) => Ok(Some(present.map(|attributes| Item { table, attributes }))),
            Sent::Busy => self.get(table, key).await.map(Some),
        }
    }

    async fn put(&self, table: Table, condition: &Condition, item: &Attributes) -> Result<Sent, StoreError> {
        let request = self
            .writes
            .put_item()
            .table_name(self.name(table))
            .set_item(Some(item.clone()))
            .condition_expression(condition.expression)
            .expression_attribute_names("#name", condition.name)
            .set_expression_attribute_values(condition.values.clone())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Sent::Done),
            Err(error) => match error.as_service_error() {
                Some(PutItemError::ConditionalCheckFailedException(refusal)) => Ok(Sent::Refused(refusal.item.clone())),
                Some(PutItemError::TransactionConflictException(_)) => Ok(Sent::Busy),
                Some(_) | None => Err(self.failure(table, &error)),
            },
        }
    }

    async fn delete(&self, table: Table, condition: Option<&Condition>, key: &Key) -> Result<Sent, StoreError> {
        let mut request = self.writes.delete_item().table_name(self.name(table)).set_key(Some(key_item(table, key)));
        if let Some(condition) = condition {
            request = request
                .condition_expression(condition.expression)
                .expression_attribute_names("#name", condition.name)
                .set_expression_attribute_values(condition.values.clone())
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        }
        match request.send().await {
            Ok(_) => Ok(Sent::Done),
            Err(error) => match error.as_service_error() {
                Some(DeleteItemError::ConditionalCheckFailedException(refusal)) => {
                    Ok(Sent::Refused(refusal.item.clone()))
                }
                Some(DeleteItemError::TransactionConflictException(_)) => Ok(Sent::Busy),
                Some(_) | None => Err(self.failure(table, &error)),
            },
        }
    }

    /// The write's condition is on the first item. Those beside it have their own, which fail only where the table is not as we left it.
    fn transaction(
        &self,
        table: Table,
        condition: &Condition,
        item: Attributes,
        beside: Vec<Beside>,
    ) -> Result<Vec<TransactWriteItem>, StoreError> {
        let incomplete = |_| StoreError::Refused("a request is incomplete".to_owned());
        let first = TransactPut::builder()
            .table_name(self.name(table))
            .set_item(Some(item))
            .condition_expression(condition.expression)
            .expression_attribute_names("#name", condition.name)
            .set_expression_attribute_values(condition.values.clone())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        let mut items = vec![TransactWriteItem::builder().put(first.build().map_err(incomplete)?).build()];
        let (partition_name, _) = table.keys();
        let put_if = |expression: &str, put| {
            let put = TransactPut::builder().table_name(self.name(table)).set_item(Some(item_of(table, put)));
            put.condition_expression(expression).expression_attribute_names("#name", partition_name).build()
        };
        for one in beside {
            let item = TransactWriteItem::builder();
            items.push(match one {
                Beside::Insert(put) => item.put(put_if(ABSENT, put).map_err(incomplete)?).build(),
                Beside::Replace(put) => item.put(put_if(PRESENT, put).map_err(incomplete)?).build(),
                Beside::Delete(key) => {
                    let key = Some(key_item(table, &key));
                    let delete = TransactDelete::builder().table_name(self.name(table)).set_key(key);
                    item.delete(delete.build().map_err(incomplete)?).build()
                }
            });
        }
        Ok(items)
    }

    async fn transact(&self, table: Table, items: &[TransactWriteItem], token: &str) -> Result<Sent, StoreError> {
        let request =
            self.writes.transact_write_items().set_transact_items(Some(items.to_vec())).client_request_token(token);
        match request.send().await {
            Ok(_) => Ok(Sent::Done),
            Err(error) => match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                    cancellation(cancelled.cancellation_reasons())
                        .unwrap_or_else(|code| Err(StoreError::Refused(format!("{code}{}", aws::request(&error)))))
                }
                // By another request with the same token: this very write, which may be carried out yet.
                Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                    Err(StoreError::Away("the transaction is still under way".to_owned()))
                }
                Some(_) | None => Err(self.failure(table, &error)),
            },
        }
    }
}

/// On the present item of a write's key.
struct Condition {
    expression: &'static str,
    name: &'static str,
    values: Option<Attributes>,
}

impl Condition {
    fn of(table: Table, expected: Option<WriteId>) -> Self {
        let (partition_name, _) = table.keys();
        match expected {
            None => Self { expression: ABSENT, name: partition_name, values: None },
            Some(id) => Self {
                expression: "#name = :expected",
                name: WRITE_ID,
                values: Some([(":expected".to_owned(), blob(&id.octets()))].into()),
            },
        }
    }
}

/// Why a transaction was cancelled: the write's condition is on the first item. `Err`: for another reason, of this code.
fn cancellation(reasons: &[CancellationReason]) -> Result<Result<Sent, StoreError>, String> {
    let codes: Vec<_> = reasons.iter().map(|reason| reason.code().unwrap_or_default()).collect();
    if let Some(first) = reasons.first().filter(|first| first.code() == Some(FAILED)) {
        return Ok(Ok(Sent::Refused(first.item.clone())));
    }
    if codes.contains(&"TransactionConflict") {
        return Ok(Ok(Sent::Busy));
    }
    if codes.contains(&FAILED) {
        return Ok(Err(StoreError::Corrupt(KEY_MISFIT.to_owned())));
    }
    if codes.iter().any(|code| matches!(*code, "ThrottlingError" | "ProvisionedThroughputExceeded")) {
        return Ok(Err(StoreError::Throttled));
    }
    Err(word(codes.iter().find(|code| **code != "None").copied().unwrap_or_default()))
}

/// A random pause, so that writers that were throttled together do not come back together.
fn pause(sendings: u32) -> Duration {
    let longest = FIRST_PAUSE_MS << sendings.min(8);
    // Without a generator there is no jitter, and nothing else to fear.
    Duration::from_millis(getrandom::u64().unwrap_or(longest) % (longest + 1))
}
