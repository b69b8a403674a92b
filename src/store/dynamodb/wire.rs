//! Requests to DynamoDB, and what it answers: items, refusals, and every failure told apart. It knows no row.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Delete as TransactDelete, Put as TransactPut,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use tokio::time::sleep;

use super::super::encoding::{self, BadRow};
use super::super::{KEY_MISFIT, StoreClock, StoreError, WriteId};
use super::TableNames;
use super::date::Listen;
use super::tables::{PROBE, Table};
use crate::aws::{self, Failure, Patience, word};

/// Reading takes some 5 ms. All attempts end before a call without a deadline of its own (5 s) does, so that its caller is told the
/// reason.
const READING: Patience =
    Patience { attempt: Duration::from_millis(1_500), operation: Duration::from_millis(4_500), attempts: 3 };
/// The SDK sends a write once. Were it to send one again after a lost answer, the second's refusal would hide that the first may
/// have been carried out; `store::change` knows what to do then.
const WRITING: Patience =
    Patience { attempt: Duration::from_millis(2_000), operation: Duration::from_millis(2_000), attempts: 1 };
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

/// Attributes of every item, beside its keys.
const ROW: &str = "row";
const WRITE_ID: &str = "write_id";

/// Partition and sort key of an item.
pub(super) type Key = (String, String);

/// Names and values.
type Attributes = HashMap<String, AttributeValue>;

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

/// An item as it was read.
pub(super) struct Item {
    table: Table,
    attributes: Attributes,
}

impl Item {
    pub(super) fn key(&self) -> Result<Key, BadRow> {
        key_of(self.table, &self.attributes).ok_or(BadRow::Corrupt("an item has no keys"))
    }

    /// The row's octets, whose write id is the one that stands beside them.
    pub(super) fn octets(&self) -> Result<&[u8], BadRow> {
        let blob = |name| self.attributes.get(name).and_then(|value| value.as_b().ok()).map(AsRef::as_ref);
        let octets: &[u8] = blob(ROW).ok_or(BadRow::Corrupt("an item has no row"))?;
        let write_id = encoding::write_id(octets)?;
        // Otherwise every write would be refused, and nobody told why.
        if blob(WRITE_ID) == Some(&write_id.octets()[..]) {
            Ok(octets)
        } else {
            Err(BadRow::Corrupt("the write id beside a row is not its own"))
        }
    }

    pub(super) fn is_probe(&self) -> bool {
        self.key().is_ok_and(|(partition, _)| partition == PROBE)
    }
}

/// Its keys and nothing else.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Item").field(&self.table).field(&key_of(self.table, &self.attributes)).finish()
    }
}

/// Three tables.
pub struct DynamoStore {
    pub(super) reads: Client,
    pub(super) writes: Client,
    names: TableNames,
    clock: Arc<StoreClock>,
}

/// A write as it is sent, perhaps more than once.
enum Write {
    Put { condition: Condition, item: Attributes },
    Delete { condition: Condition, key: Key },
    Transaction { items: Vec<TransactWriteItem>, token: String },
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
    /// Names the tables. Nothing is asked of them.
    pub fn new(config: &SdkConfig, names: TableNames) -> Self {
        let client = |patience: &Patience| {
            let config = Builder::from(config).timeout_config(patience.timeouts()).retry_config(patience.retries());
            Client::from_conf(config.build())
        };
        Self { reads: client(&READING), writes: client(&WRITING), names, clock: Arc::default() }
    }

    /// What it says of the time. It is listened to where the service's own records are read, one of them every few seconds.
    pub fn clock(&self) -> Arc<StoreClock> {
        Arc::clone(&self.clock)
    }

    /// The name of a table.
    pub fn name(&self, table: Table) -> &str {
        match table {
            Table::Credentials => &self.names.credentials,
            Table::Customers => &self.names.customers,
            Table::Operations => &self.names.operations,
        }
    }

    /// One item, consistently.
    pub(super) async fn get(&self, table: Table, key: &Key) -> Result<Option<Item>, StoreError> {
        let request = self.reads.get_item().table_name(self.name(table)).set_key(Some(key_item(table, key)));
        let request = request.consistent_read(true);
        let answer = match table {
            Table::Operations => request.customize().interceptor(Listen::new(&self.clock)).send().await,
            Table::Credentials | Table::Customers => request.send().await,
        };
        let answer = answer.map_err(|error| self.failure(table, &error))?;
        Ok(answer.item.map(|attributes| Item { table, attributes }))
    }

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

    /// Removes an item on the condition that it has the write id `expected`. `Some`: refused, with the present item.
    pub(super) async fn remove(
        &self,
        table: Table,
        key: &Key,
        expected: WriteId,
    ) -> Result<Option<Option<Item>>, StoreError> {
        let condition = Condition::of(table, Some(expected));
        self.settle(table, key, Write::Delete { condition, key: key.clone() }).await
    }

    /// Sends a write, again while it is throttled, and finds out what became of it.
    async fn settle(&self, table: Table, key: &Key, write: Write) -> Result<Option<Option<Item>>, StoreError> {
        let mut sendings = 1;
        let sent = loop {
            let sent = match &write {
                Write::Put { condition, item } => self.put(table, condition, item).await,
                Write::Delete { condition, key } => self.delete(table, condition, key).await,
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

    async fn delete(&self, table: Table, condition: &Condition, key: &Key) -> Result<Sent, StoreError> {
        let request = self
            .writes
            .delete_item()
            .table_name(self.name(table))
            .set_key(Some(key_item(table, key)))
            .condition_expression(condition.expression)
            .expression_attribute_names("#name", condition.name)
            .set_expression_attribute_values(condition.values.clone())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
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

    /// The items of one partition after a key, and after which one the next page starts.
    pub(super) async fn query(
        &self,
        table: Table,
        partition: &str,
        after: Option<Key>,
        limit: usize,
    ) -> Result<(Vec<Item>, Option<Key>), StoreError> {
        let (partition_name, _) = table.keys();
        let request = self
            .reads
            .query()
            .table_name(self.name(table))
            .consistent_read(true)
            .key_condition_expression("#partition = :partition")
            .expression_attribute_names("#partition", partition_name)
            .expression_attribute_values(":partition", AttributeValue::S(partition.to_owned()))
            .set_exclusive_start_key(after.map(|key| key_item(table, &key)))
            .limit(page_limit(limit));
        let answer = request.send().await.map_err(|error| self.failure(table, &error))?;
        found(table, answer.items, answer.last_evaluated_key)
    }

    /// The items of a table after a key, in an order that does not change; of those, the ones with this sort key.
    pub(super) async fn scan(
        &self,
        table: Table,
        sort: Option<&str>,
        after: Option<Key>,
        limit: usize,
    ) -> Result<(Vec<Item>, Option<Key>), StoreError> {
        let mut request = self
            .reads
            .scan()
            .table_name(self.name(table))
            .consistent_read(true)
            .set_exclusive_start_key(after.map(|key| key_item(table, &key)))
            .limit(page_limit(limit));
        if let Some(sort) = sort {
            let (_, sort_name) = table.keys();
            request = request
                .filter_expression("#sort = :sort")
                .expression_attribute_names("#sort", sort_name)
                .expression_attribute_values(":sort", AttributeValue::S(sort.to_owned()));
        }
        let answer = request.send().await.map_err(|error| self.failure(table, &error))?;
        found(table, answer.items, answer.last_evaluated_key)
    }

    /// Every failure of DynamoDB, told apart. What is not known is refused.
    pub(super) fn failure<E: ProvideErrorMetadata>(&self, table: Table, error: &SdkError<E>) -> StoreError {
        match Failure::of(error) {
            Failure::Away(detail) => StoreError::Away(detail),
            Failure::Throttled => StoreError::Throttled,
            Failure::Answered { code, detail } => match code.as_str() {
                "ResourceNotFoundException" => StoreError::Absent(self.name(table).to_owned()),
                "InternalServerError" => StoreError::Away(detail),
                // AccessDeniedException, a signature or a token that is not good, and their like.
                _ => StoreError::Refused(detail),
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

fn found(
    table: Table,
    items: Option<Vec<Attributes>>,
    last: Option<Attributes>,
) -> Result<(Vec<Item>, Option<Key>), StoreError> {
    let items = items.unwrap_or_default().into_iter().map(|attributes| Item { table, attributes }).collect();
    let bad = || StoreError::Corrupt("the last item of a page has no keys".to_owned());
    let last = last.map(|attributes| key_of(table, &attributes).ok_or_else(bad)).transpose()?;
    Ok((items, last))
}

pub(super) fn item_of(table: Table, put: Put) -> Attributes {
    let mut item = key_item(table, &put.key);
    item.insert(WRITE_ID.to_owned(), blob(&put.write_id.octets()));
    item.insert(ROW.to_owned(), AttributeValue::B(Blob::new(put.octets)));
    item
}

pub(super) fn key_item(table: Table, (partition, sort): &Key) -> Attributes {
    let (partition_name, sort_name) = table.keys();
    [(partition_name, partition), (sort_name, sort)]
        .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.clone())))
        .into()
}

fn key_of(table: Table, attributes: &Attributes) -> Option<Key> {
    let (partition_name, sort_name) = table.keys();
    let text = |name| attributes.get(name).and_then(|value| value.as_s().ok()).cloned();
    Some((text(partition_name)?, text(sort_name)?))
}

fn blob(octets: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(octets))
}

fn page_limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX).max(1)
}

/// A random pause, so that writers that were throttled together do not come back together.
fn pause(sendings: u32) -> Duration {
    let longest = FIRST_PAUSE_MS << sendings.min(8);
    // Without a generator there is no jitter, and nothing else to fear.
    Duration::from_millis(getrandom::u64().unwrap_or(longest) % (longest + 1))
}
