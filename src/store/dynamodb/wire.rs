//! Requests to DynamoDB, and what it answers: items, pages, and every failure told apart. It knows no row. Writes are in `write`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::super::encoding::{self, BadRow};
use super::super::{StoreClock, StoreError};
use super::TableNames;
use super::date::Listen;
use super::tables::{PROBE, Table};
use super::write::Put;
use crate::aws::{Failure, Patience};

/// Reading takes some 5 ms. All attempts end before a call without a deadline of its own (5 s) does, so that its caller is told the
/// reason.
const READING: Patience =
    Patience { attempt: Duration::from_millis(1_500), operation: Duration::from_millis(4_500), attempts: 3 };
/// The SDK sends a write once. Were it to send one again after a lost answer, the second's refusal would hide that the first may
/// have been carried out; `store::change` knows what to do then.
const WRITING: Patience =
    Patience { attempt: Duration::from_millis(2_000), operation: Duration::from_millis(2_000), attempts: 1 };
/// Attributes of every item, beside its keys.
const ROW: &str = "row";
pub(super) const WRITE_ID: &str = "write_id";

/// Partition and sort key of an item.
pub(super) type Key = (String, String);

/// Names and values.
pub(super) type Attributes = HashMap<String, AttributeValue>;

/// An item as it was read.
pub(super) struct Item {
    pub(super) table: Table,
    pub(super) attributes: Attributes,
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

impl DynamoStore {
    /// Names the tables. Nothing is asked of them.
    pub fn new(config: &SdkConfig, names: TableNames) -> Self {
        let client = |patience: &Patience| {
            let config = Builder::from(config).timeout_config(patience.timeouts()).retry_config(patience.retries());
            Client::from_conf(config.build())
        };
        Self { reads: client(&READING), writes: client(&WRITING), names, clock: Arc::default() }
    }

    /// The one table of the service's own records, for whoever may read no other.
    pub fn of_operations(config: &SdkConfig, table: String) -> Self {
        Self::new(config, TableNames { operations: table, credentials: String::new(), customers: String::new() })
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

    /// The items of a table after a key, in an order that does not change; of those, the ones with this sort key, or those of one of
    /// so many segments.
    pub(super) async fn scan(
        &self,
        table: Table,
        sort: Option<&str>,
        segment: Option<(u32, u32)>,
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
        if let Some((index, of)) = segment {
            let number = |number| i32::try_from(number).unwrap_or(i32::MAX);
            request = request.segment(number(index)).total_segments(number(of));
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

pub(super) fn blob(octets: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(octets))
}

fn page_limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX).max(1)
}
