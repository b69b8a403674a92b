//! The DynamoDB backend: three tables, which somebody else has made. A row stands there as its octets (`encoding`), with its keys and
//! its write id beside them as attributes; docs/adr/0008 says why. It never overwrites what it can't read, and makes no table unless
//! an operator asks for it.
//!
//! Requests and what DynamoDB answers to them are in `wire` and `write`.

mod date;
mod tables;
mod wire;
mod write;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tracing::error;

use super::encoding::{self, BadRow};
use super::{
    CredentialRow, Credentials, CustomerRow, CustomerWrite, Customers, Extent, KeyRow, Met, OperationId, OperationRow,
    Operations, Page, Replaced, Rows, StoreError, WriteId,
};
use crate::config;
use crate::crypto::Version;
use crate::ids::{CredentialId, CredentialRef, CustomerId};
pub use tables::{Created, Table};
pub use wire::DynamoStore;
use wire::{Item, Key};
use write::{Beside, Put};

/// The names of the tables.
#[derive(Clone, Debug)]
pub struct TableNames {
    /// Sealed credentials.
    pub credentials: String,
    /// Customers and their wrapped keys.
    pub customers: String,
    /// The service's own records.
    pub operations: String,
}

/// A walk over all credentials is cut into so many segments of a parallel scan: more than there are replicas to take them.
const PARTS: u32 = 16;
impl From<&config::Dynamodb> for TableNames {
    fn from(settings: &config::Dynamodb) -> Self {
        Self {
            credentials: settings.credentials_table.clone(),
            customers: settings.customers_table.clone(),
            operations: settings.operations_table.clone(),
        }
    }
}

/// The sort key of a customer's own row.
const CUSTOMER: &str = "customer";
/// Rows of one request for [`all_operations`].
const PAGE: usize = 1_000;
/// Stands after the sort keys of all rows of a customer: `key#…` in digits.
const AFTER_KEYS: &str = "key#~";

/// The credentials of a [`DynamoStore`].
pub struct DynamoCredentials(pub Arc<DynamoStore>);
/// The customers of a [`DynamoStore`].
pub struct DynamoCustomers(pub Arc<DynamoStore>);
/// The service's own records of a [`DynamoStore`].
pub struct DynamoOperations(pub Arc<DynamoStore>);

#[async_trait]
impl Rows for DynamoCredentials {
    type Id = CredentialRef;
    type Row = CredentialRow;
    type Write = CredentialRow;

    async fn get(&self, id: &CredentialRef) -> Result<Option<CredentialRow>, StoreError> {
        let item = self.0.get(Table::Credentials, &credential_key(id)).await?;
        read(item, |octets| encoding::decode_credential(id.clone(), octets))
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: CredentialRow,
    ) -> Result<Replaced<CredentialRow>, StoreError> {
        let octets = encoding::encode_credential(&row);
        let put = Put { key: credential_key(&row.id), write_id: row.write_id, octets };
        let refusal = self.0.replace(Table::Credentials, expected, put, Vec::new()).await?;
        replaced(refusal, |octets| encoding::decode_credential(row.id, octets))
    }
}

#[async_trait]
impl Credentials for DynamoCredentials {
    async fn query(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        let one_page = |after, limit| async move {
            match customer {
                Some(customer) => self.0.query(Table::Credentials, customer.as_str(), after, limit).await,
                None => self.0.scan(Table::Credentials, None, None, after, limit).await,
            }
        };
        page(one_page, after.map(credential_key), limit, credential_ref, encoding::decode_credential).await
    }

    fn parts(&self) -> u32 {
        PARTS
    }

    async fn scan(
        &self,
        extent: &Extent,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError> {
        let one_page = |after, limit| async move {
            match extent {
                Extent::Customer(customer) => self.0.query(Table::Credentials, customer.as_str(), after, limit).await,
                Extent::Part { index, of } => {
                    self.0.scan(Table::Credentials, None, Some((*index, *of)), after, limit).await
                }
            }
        };
        met(one_page, after.map(credential_key), limit, credential_ref, encoding::decode_credential).await
    }

    async fn erase(&self, id: &CredentialRef) -> Result<(), StoreError> {
        match self.0.remove(Table::Credentials, &credential_key(id), None).await? {
            None | Some(None) => Ok(()),
            // A transaction has it.
            Some(Some(_)) => Err(StoreError::Throttled),
        }
    }
}

#[async_trait]
impl Rows for DynamoCustomers {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        let item = self.0.get(Table::Customers, &customer_key(id)).await?;
        read(item, |octets| encoding::decode_customer(id.clone(), octets))
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        write: CustomerWrite,
    ) -> Result<Replaced<CustomerRow>, StoreError> {
        let CustomerWrite { customer, key, rewrapped, erased } = write;
        let write_id = customer.write_id;
        let put = |row: KeyRow| Put {
            key: wrapped_key_key(&customer.id, row.version),
            write_id,
            octets: encoding::encode_key(write_id, &row),
        };
        let written = key.map(|row| Beside::Insert(put(row))).into_iter();
        let rewritten = rewrapped.map(|row| Beside::Replace(put(row)));
        let erased = erased.into_iter().map(|version| Beside::Delete(wrapped_key_key(&customer.id, version)));
        let beside = written.chain(rewritten).chain(erased).collect();
        let put = Put { key: customer_key(&customer.id), write_id, octets: encoding::encode_customer(&customer) };
        let refusal = self.0.replace(Table::Customers, expected, put, beside).await?;
        replaced(refusal, |octets| encoding::decode_customer(customer.id, octets))
    }
}

impl DynamoCustomers {
    /// Customers' own rows.
    async fn one_page(&self, after: Option<Key>, limit: usize) -> Result<(Vec<Item>, Option<Key>), StoreError> {
        self.0.scan(Table::Customers, Some(CUSTOMER), None, after, limit).await
    }
}

#[async_trait]
impl Customers for DynamoCustomers {
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError> {
        let item = self.0.get(Table::Customers, &wrapped_key_key(customer, version)).await?;
        read(item, |octets| encoding::decode_key(version, octets))
    }

    async fn query(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        let one_page = |after, limit| self.one_page(after, limit);
        page(one_page, after.map(after_customer), limit, customer_id, encoding::decode_customer).await
    }

    async fn scan(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        let one_page = |after, limit| self.one_page(after, limit);
        met(one_page, after.map(after_customer), limit, customer_id, encoding::decode_customer).await
    }
}

#[async_trait]
impl Rows for DynamoOperations {
    type Id = OperationId;
    type Row = OperationRow;
    type Write = OperationRow;

    async fn get(&self, id: &OperationId) -> Result<Option<OperationRow>, StoreError> {
        let item = self.0.get(Table::Operations, &operation_key(id)).await?;
        read(item, |octets| encoding::decode_operation(id.clone(), octets))
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: OperationRow,
    ) -> Result<Replaced<OperationRow>, StoreError> {
        let octets = encoding::encode_operation(&row);
        let put = Put { key: operation_key(&row.id), write_id: row.write_id, octets };
        let refusal = self.0.replace(Table::Operations, expected, put, Vec::new()).await?;
        replaced(refusal, |octets| encoding::decode_operation(row.id, octets))
    }
}

#[async_trait]
impl Operations for DynamoOperations {
    async fn query(
        &self,
        kind: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<OperationRow, String>, StoreError> {
        let one_page = |after, limit| async move { self.0.query(Table::Operations, kind, after, limit).await };
        let after = after.map(|id| (kind.to_owned(), id.to_owned()));
        let decode = |id, octets: &[u8]| encoding::decode_operation(OperationId { kind, id }, octets);
        page(one_page, after, limit, |(_, id)| Ok(id.clone()), decode).await
    }

    async fn remove(&self, id: &OperationId, expected: WriteId) -> Result<Replaced<OperationRow>, StoreError> {
        match self.0.remove(Table::Operations, &operation_key(id), Some(expected)).await? {
            // It was gone before.
            Some(None) => Ok(Replaced::Done),
            refusal => replaced(refusal, |octets| encoding::decode_operation(id.clone(), octets)),
        }
    }
}

/// All of the service's own records of a kind, for whoever may read it.
///
/// # Errors
/// A [`StoreError`]; also for one record that can't be read.
pub async fn all_operations(store: &DynamoStore, kind: &'static str) -> Result<Vec<OperationRow>, StoreError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let (items, last) = store.query(Table::Operations, kind, after, PAGE).await?;
        for item in items {
            let (_, id) = item.key().map_err(bad_row)?;
            let row = item.octets().and_then(|octets| encoding::decode_operation(OperationId { kind, id }, octets));
            rows.push(row.map_err(bad_row)?);
        }
        after = last;
        if after.is_none() {
            return Ok(rows);
        }
    }
}

fn read<R>(item: Option<Item>, decode: impl FnOnce(&[u8]) -> Result<R, BadRow>) -> Result<Option<R>, StoreError> {
    item.map(|item| item.octets().and_then(decode)).transpose().map_err(bad_row)
}

fn replaced<R>(
    refusal: Option<Option<Item>>,
    decode: impl FnOnce(&[u8]) -> Result<R, BadRow>,
) -> Result<Replaced<R>, StoreError> {
    match refusal {
        None => Ok(Replaced::Done),
        Some(present) => read(present, decode).map(Replaced::Refused),
    }
}

/// A page of what `one_page` reads after a key. A row that can't be read is left out and logged, so that it hides no other; whoever
/// asks for it by name learns what is wrong.
async fn page<R, I, F>(
    one_page: impl Fn(Option<Key>, usize) -> F,
    after: Option<Key>,
    limit: usize,
    id: impl Fn(&Key) -> Result<I, BadRow>,
    decode: impl Fn(I, &[u8]) -> Result<R, BadRow>,
) -> Result<Page<R, I>, StoreError>
where
    I: Clone + fmt::Debug,
    F: Future<Output = Result<(Vec<Item>, Option<Key>), StoreError>>,
{
    let page = met(one_page, after, limit, id, decode).await?;
    let readable =
        |met: Met<I, R>| met.row.map_err(|error| error!(%error, id = ?met.id, "row left out of a list")).ok();
    Ok(Page { rows: page.rows.into_iter().filter_map(readable).collect(), next: page.next })
}

/// The same, with the rows that can't be read. An item whose keys name nothing is passed over and logged.
async fn met<R, I, F>(
    one_page: impl Fn(Option<Key>, usize) -> F,
    mut after: Option<Key>,
    limit: usize,
    id: impl Fn(&Key) -> Result<I, BadRow>,
    decode: impl Fn(I, &[u8]) -> Result<R, BadRow>,
) -> Result<Page<Met<I, R>, I>, StoreError>
where
    I: Clone,
    F: Future<Output = Result<(Vec<Item>, Option<Key>), StoreError>>,
{
    let mut rows = Vec::new();
    loop {
        let (items, last) = one_page(after, limit - rows.len()).await?;
        for item in items {
            match item.key().and_then(|key| id(&key)) {
                // Of `triseald check`, which is about to take it away again.
                _ if item.is_probe() => {}
                Ok(id) => {
                    let row = item.octets().and_then(|octets| decode(id.clone(), octets)).map_err(bad_row);
                    rows.push(Met { id, row });
                }
                Err(bad) => error!(error = %bad_row(bad), item = ?item, "row left out of a list"),
            }
        }
        match last.as_ref().map(&id) {
            None => return Ok(Page { rows, next: None }),
            Some(Ok(next)) => return Ok(Page { rows, next: Some(next) }),
            // The last row that was read has no name that a page could start after: it goes on here.
            Some(Err(_)) if rows.len() < limit => after = last,
            Some(Err(bad)) => return Err(bad_row(bad)),
        }
    }
}

fn credential_key(id: &CredentialRef) -> Key {
    (id.customer.to_string(), id.credential.to_string())
}

fn customer_key(id: &CustomerId) -> Key {
    (id.to_string(), CUSTOMER.to_owned())
}

/// A page ends after all rows of its last customer, so that the next one reads none of them again.
fn after_customer(id: &CustomerId) -> Key {
    (id.to_string(), AFTER_KEYS.to_owned())
}

fn wrapped_key_key(customer: &CustomerId, version: Version) -> Key {
    // Padded, so that the versions stand in order.
    (customer.to_string(), format!("key#{:010}", version.get()))
}

fn operation_key(id: &OperationId) -> Key {
    (id.kind.to_owned(), id.id.clone())
}

fn credential_ref((customer, credential): &Key) -> Result<CredentialRef, BadRow> {
    match (CustomerId::parse(customer), CredentialId::parse(credential)) {
        (Ok(customer), Ok(credential)) => Ok(CredentialRef { customer, credential }),
        (Err(_), _) | (_, Err(_)) => Err(BadRow::Corrupt("a credential's key is no pair of ids")),
    }
}

fn customer_id((customer, _): &Key) -> Result<CustomerId, BadRow> {
    CustomerId::parse(customer).map_err(|_| BadRow::Corrupt("a customer's key is no id"))
}

fn bad_row(bad: BadRow) -> StoreError {
    match bad {
        BadRow::Corrupt(what) => StoreError::Corrupt(what.to_owned()),
        BadRow::Newer => StoreError::Newer,
    }
}

#[cfg(test)]
pub(crate) mod tests;
