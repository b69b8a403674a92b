//! The tables: their keys, a probe of what may be done with them, and their making, which the service never does by itself.

use std::time::Duration;

use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription, TableStatus,
};
use tokio::time::sleep;

use super::super::{StoreError, WriteId};
use super::wire::DynamoStore;
use super::write::Put;

/// The partition of rows that are written to see whether that is permitted. No id begins so.
pub(super) const PROBE: &str = "#check";
/// A new table is active after some seconds; it is looked at so often, a second apart.
const LOOKS: u32 = 60;

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Sealed credentials.
    Credentials,
    /// Customers and their wrapped keys.
    Customers,
    /// The service's own records.
    Operations,
}

/// What became of a table that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is new.
    New,
    /// It was there, with the right keys.
    Already,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Credentials, Self::Customers, Self::Operations];

    /// The names of partition and sort key. Both are texts.
    pub(super) fn keys(self) -> (&'static str, &'static str) {
        match self {
            Self::Credentials => ("customer_id", "credential_id"),
            Self::Customers => ("customer_id", "item"),
            Self::Operations => ("kind", "id"),
        }
    }
}

impl DynamoStore {
    /// Does what the service does with a table, on a row of its own: a conditional write, a consistent read, a page, and a deletion.
    /// Each with its name and whether it may be done.
    pub async fn probe(&self, table: Table, id: WriteId) -> Vec<(&'static str, Result<(), StoreError>)> {
        let key = (PROBE.to_owned(), format!("{:032x}", u128::from_be_bytes(id.octets())));
        let octets = [&[1][..], &id.octets()].concat();
        let put = Put { key: key.clone(), write_id: id, octets };
        let written = self.replace(table, None, put, Vec::new()).await.map(|_| ());
        let read = self.get(table, &key).await.map(|_| ());
        let queried = self.query(table, PROBE, None, 1).await.map(|_| ());
        let scanned = self.scan(table, None, None, None, 1).await.map(|_| ());
        let deleted = self.remove(table, &key, Some(id)).await.map(|_| ());
        vec![("PutItem", written), ("GetItem", read), ("Query", queried), ("Scan", scanned), ("DeleteItem", deleted)]
    }

    /// Makes a table, on demand and unprotected, and waits until it can be used: for development. One that is there stays as it is.
    ///
    /// # Errors
    /// A [`StoreError`]; among them one for a table of that name with other keys.
    pub async fn create(&self, table: Table) -> Result<Created, StoreError> {
        let (partition, sort) = table.keys();
        let mut request =
            self.writes.create_table().table_name(self.name(table)).billing_mode(BillingMode::PayPerRequest);
        let incomplete = |_| StoreError::Refused("a request is incomplete".to_owned());
        for (name, key_type) in [(partition, KeyType::Hash), (sort, KeyType::Range)] {
            let attribute = AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S);
            let key = KeySchemaElement::builder().attribute_name(name).key_type(key_type);
            request = request
                .attribute_definitions(attribute.build().map_err(incomplete)?)
                .key_schema(key.build().map_err(incomplete)?);
        }
        let created = match request.send().await {
            Ok(_) => Created::New,
            Err(error) => match error.as_service_error() {
                Some(CreateTableError::ResourceInUseException(_)) => Created::Already,
                Some(_) | None => return Err(self.failure(table, &error)),
            },
        };
        for _ in 0..LOOKS {
            let description = self.describe(table).await?;
            if description.as_ref().and_then(TableDescription::table_status) == Some(&TableStatus::Active) {
                return has_keys(description.as_ref(), table).then_some(created).ok_or_else(|| {
                    StoreError::Refused(format!("the table must have the keys {partition} and {sort}, both of type S"))
                });
            }
            sleep(Duration::from_secs(1)).await;
        }
        Err(StoreError::Away("the table does not become active".to_owned()))
    }

    async fn describe(&self, table: Table) -> Result<Option<TableDescription>, StoreError> {
        let answer = self.reads.describe_table().table_name(self.name(table)).send().await;
        answer.map(|answer| answer.table).map_err(|error| self.failure(table, &error))
    }
}

fn has_keys(description: Option<&TableDescription>, table: Table) -> bool {
    let (partition, sort) = table.keys();
    let keys: Vec<_> = description
        .map(|description| description.key_schema().iter().map(|key| (key.attribute_name(), key.key_type())).collect())
        .unwrap_or_default();
    keys == [(partition, &KeyType::Hash), (sort, &KeyType::Range)]
}
