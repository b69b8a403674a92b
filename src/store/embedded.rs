//! The embedded backend: one redb file, for development and small deployments of one process.
//!
//! Reads run where they are asked for: a few pages, mostly in redb's cache, as the last commit left them (`view`). Writes go to one thread
//! (`writer`). How the file is made and opened (`file`) and what its keys look like (`keys`) stands by itself; here are the ports.

mod file;
mod keys;
mod view;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use redb::Database;
use tracing::error;

pub use self::file::{OpenError, operations_in_file};
use self::file::{Table, damaged};
use self::keys::{
    CUSTOMER, SEPARATOR, credential_key, credential_ref, customer_id, key, operation_id, wrapped_key_key,
};
use self::view::View;
use self::writer::{Beside, Expected, MAX_GROUP, Replacement, Writer};
use super::encoding::{self, BadRow};
use super::{
    CredentialRow, Credentials, CustomerRow, CustomerWrite, Customers, Extent, KeyRow, Met, OperationId, OperationRow,
    Operations, Page, Replaced, Rows, StoreError, WriteId,
};
use crate::crypto::Version;
use crate::ids::{CredentialRef, CustomerId, Deployment};

/// Rows as they stand in the file: keys and octets.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A store in one file.
pub struct EmbeddedStore {
    /// First, so that it ends before the view closes the file.
    writer: Writer,
    view: Arc<View>,
}

/// The credentials of an [`EmbeddedStore`].
pub struct EmbeddedCredentials(pub Arc<EmbeddedStore>);
/// The customers of an [`EmbeddedStore`].
pub struct EmbeddedCustomers(pub Arc<EmbeddedStore>);
/// The service's own records of an [`EmbeddedStore`].
pub struct EmbeddedOperations(pub Arc<EmbeddedStore>);

impl EmbeddedStore {
    /// Opens a store file, or makes a new one where there is none. The whole file is checked, so that a damaged one is noticed
    /// here and not later.
    ///
    /// # Errors
    /// An [`OpenError`], which names the file and what to do. No record is changed.
    pub fn open(path: &Path, deployment: &Deployment) -> Result<Self, OpenError> {
        Self::over(path, file::open(path, deployment)?)
    }

    /// A new store that nothing outlives, for what is run again and again.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn in_memory(deployment: &Deployment) -> Result<Self, OpenError> {
        let path = Path::new("memory");
        Self::over(path, file::in_memory(path, deployment)?)
    }

    /// A store over a database of ours.
    fn over(path: &Path, db: Database) -> Result<Self, OpenError> {
        let view = Arc::new(View::new(db).map_err(|error| damaged(path, &error))?);
        Ok(Self { writer: Writer::start(path, &view)?, view })
    }

    /// Waits until nothing can be written any more: a commit failed, and the file has to be opened anew by another process.
    pub async fn failed(&self) {
        self.writer.failed().await;
    }

    /// Why not, if a commit failed and the writer did not end otherwise.
    pub fn failure(&self) -> Option<StoreError> {
        self.writer.failure()
    }

    /// Whether nothing can be written any more.
    pub fn has_failed(&self) -> bool {
        self.writer.has_failed()
    }

    /// Writes, and reads the row that a refusal shows.
    async fn replace<R>(
        &self,
        replacement: Replacement,
        decode: impl FnOnce(&[u8]) -> Result<R, BadRow>,
    ) -> Result<Replaced<R>, StoreError> {
        match self.writer.write(replacement).await? {
            None => Ok(Replaced::Done),
            Some(None) => Ok(Replaced::Refused(None)),
            Some(Some(octets)) => decode(&octets).map(|row| Replaced::Refused(Some(row))).map_err(bad_row),
        }
    }

    /// The keys and octets of at most `limit` rows whose keys start with `prefix`, after `after`, for which `wanted`.
    fn range(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Entries, StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let tables = self.view.tables();
        let from = after.map_or(Included(prefix), Excluded);
        let mut found = Vec::new();
        for entry in tables.table(table).range::<&[u8]>((from, Unbounded)).map_err(away)? {
            let (key, value) = entry.map_err(away)?;
            if found.len() == limit || !key.value().starts_with(prefix) {
                break;
            }
            if wanted(key.value()) {
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl Rows for EmbeddedCredentials {
    type Id = CredentialRef;
    type Row = CredentialRow;
    type Write = CredentialRow;

    async fn get(&self, id: &CredentialRef) -> Result<Option<CredentialRow>, StoreError> {
        let decode = |octets: &[u8]| encoding::decode_credential(id.clone(), octets);
        self.0.view.tables().get(Table::Credentials, &credential_key(id), decode)
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: CredentialRow,
    ) -> Result<Replaced<CredentialRow>, StoreError> {
        let (key, octets) = (credential_key(&row.id), encoding::encode_credential(&row));
        let replacement = Replacement::of(Table::Credentials, key, Some(octets), expected);
        self.0.replace(replacement, |octets| encoding::decode_credential(row.id, octets)).await
    }
}

#[async_trait]
impl Credentials for EmbeddedCredentials {
    /// All as one commit left them.
    async fn get_many(&self, ids: &[&CredentialRef]) -> Vec<Result<Option<CredentialRow>, StoreError>> {
        let tables = self.0.view.tables();
        let get = |id: &&CredentialRef| {
            let decode = |octets: &[u8]| encoding::decode_credential(CredentialRef::clone(id), octets);
            tables.get(Table::Credentials, &credential_key(id), decode)
        };
        ids.iter().map(get).collect()
    }

    async fn query(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        let prefix = customer.map_or_else(Vec::new, |customer| key(customer.as_str(), ""));
        let after = after.map(credential_key);
        let wanted = |key: &[u8]| is_ours(key, credential_ref);
        let found = self.0.range(Table::Credentials, &prefix, after.as_deref(), limit, wanted)?;
        Ok(page(&found, limit, credential_ref, encoding::decode_credential))
    }

    async fn scan(
        &self,
        extent: &Extent,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError> {
        let prefix = match extent {
            Extent::Customer(customer) => key(customer.as_str(), ""),
            // One process walks one file: more parts would not be faster.
            Extent::Part { of: 1, .. } => Vec::new(),
            Extent::Part { .. } => return Err(StoreError::Refused("this store is walked as a whole".to_owned())),
        };
        let after = after.map(credential_key);
        let wanted = |key: &[u8]| is_ours(key, credential_ref);
        let found = self.0.range(Table::Credentials, &prefix, after.as_deref(), limit, wanted)?;
        Ok(met(&found, limit, credential_ref, encoding::decode_credential))
    }

    /// One whole group on its way to the disk, and one that collects meanwhile.
    fn writes_at_once(&self) -> usize {
        2 * MAX_GROUP
    }

    async fn erase(&self, id: &CredentialRef) -> Result<(), StoreError> {
        self.0.writer.write(Replacement::erasing(Table::Credentials, credential_key(id))).await.map(|_| ())
    }
}

#[async_trait]
impl Rows for EmbeddedCustomers {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        let decode = |octets: &[u8]| encoding::decode_customer(id.clone(), octets);
        self.0.view.tables().get(Table::Customers, &key(id.as_str(), CUSTOMER), decode)
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        write: CustomerWrite,
    ) -> Result<Replaced<CustomerRow>, StoreError> {
        let CustomerWrite { customer, key: wrapped, rewrapped, erased } = write;
        let octets = |row: &KeyRow| encoding::encode_key(customer.write_id, row);
        let written = wrapped.map(|row| (row.version, Beside::Insert(octets(&row)))).into_iter();
        let rewritten = rewrapped.map(|row| (row.version, Beside::Replace(octets(&row))));
        let erased = erased.into_iter().map(|version| (version, Beside::Remove));
        let beside = written.chain(rewritten).chain(erased);
        let beside = beside.map(|(version, row)| (wrapped_key_key(&customer.id, version), row)).collect();
        let row = (key(customer.id.as_str(), CUSTOMER), Some(encoding::encode_customer(&customer)));
        let expected = Expected::Row(expected);
        let replacement = Replacement { table: Table::Customers, row, expected, beside };
        self.0.replace(replacement, |octets| encoding::decode_customer(customer.id, octets)).await
    }
}

impl EmbeddedCustomers {
    fn customers(&self, after: Option<&CustomerId>, limit: usize) -> Result<Entries, StoreError> {
        let after = after.map(|customer| key(customer.as_str(), CUSTOMER));
        let own_row = [&[SEPARATOR], CUSTOMER.as_bytes()].concat();
        let wanted = |key: &[u8]| key.ends_with(&own_row) && is_ours(key, customer_id);
        self.0.range(Table::Customers, b"", after.as_deref(), limit, wanted)
    }
}

#[async_trait]
impl Customers for EmbeddedCustomers {
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError> {
        let decode = |octets: &[u8]| encoding::decode_key(version, octets);
        self.0.view.tables().get(Table::Customers, &wrapped_key_key(customer, version), decode)
    }

    async fn query(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        let found = self.customers(after, limit)?;
        Ok(page(&found, limit, customer_id, encoding::decode_customer))
    }

    async fn scan(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        let found = self.customers(after, limit)?;
        Ok(met(&found, limit, customer_id, encoding::decode_customer))
    }
}

#[async_trait]
impl Rows for EmbeddedOperations {
    type Id = OperationId;
    type Row = OperationRow;
    type Write = OperationRow;

    async fn get(&self, id: &OperationId) -> Result<Option<OperationRow>, StoreError> {
        let decode = |octets: &[u8]| encoding::decode_operation(id.clone(), octets);
        self.0.view.tables().get(Table::Operations, &key(id.kind, &id.id), decode)
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: OperationRow,
    ) -> Result<Replaced<OperationRow>, StoreError> {
        let (key, octets) = (key(row.id.kind, &row.id.id), encoding::encode_operation(&row));
        let replacement = Replacement::of(Table::Operations, key, Some(octets), expected);
        self.0.replace(replacement, |octets| encoding::decode_operation(row.id, octets)).await
    }
}

#[async_trait]
impl Operations for EmbeddedOperations {
    async fn query(
        &self,
        kind: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<OperationRow, String>, StoreError> {
        let after = after.map(|after| key(kind, after));
        let found = self.0.range(Table::Operations, &key(kind, ""), after.as_deref(), limit, |_| true)?;
        Ok(page(&found, limit, operation_id, |id, octets| encoding::decode_operation(OperationId { kind, id }, octets)))
    }

    async fn remove(&self, id: &OperationId, expected: WriteId) -> Result<Replaced<OperationRow>, StoreError> {
        let removal = Replacement::of(Table::Operations, key(id.kind, &id.id), None, Some(expected));
        match self.0.replace(removal, |octets| encoding::decode_operation(id.clone(), octets)).await? {
            // It was gone before.
            Replaced::Refused(None) => Ok(Replaced::Done),
            removed => Ok(removed),
        }
    }
}

/// Whether a row's key names anything. One that does not is passed over and logged: no page can end at it, and a list goes on.
fn is_ours<I>(key: &[u8], id: impl Fn(&[u8]) -> Result<I, BadRow>) -> bool {
    id(key).map_err(|bad| error!(error = %bad_row(bad), key = %key.escape_ascii(), "row left out of a list")).is_ok()
}

/// A row that can't be read is left out and logged, so that it hides no other; whoever asks for it by name learns what is wrong.
fn page<R, I: Clone>(
    found: &[(Vec<u8>, Vec<u8>)],
    limit: usize,
    id: impl Fn(&[u8]) -> Result<I, BadRow>,
    decode: impl Fn(I, &[u8]) -> Result<R, BadRow>,
) -> Page<R, I> {
    let (mut rows, mut last) = (Vec::with_capacity(found.len()), None);
    for (key, octets) in found {
        let read = id(key).and_then(|id| {
            last = Some(id.clone());
            decode(id, octets)
        });
        match read {
            Ok(row) => rows.push(row),
            Err(bad) => error!(error = %bad_row(bad), key = %key.escape_ascii(), "row left out of a list"),
        }
    }
    Page { rows, next: if found.len() < limit { None } else { last } }
}

/// As [`page`], with the rows that can't be read.
fn met<R, I: Clone>(
    found: &[(Vec<u8>, Vec<u8>)],
    limit: usize,
    id: impl Fn(&[u8]) -> Result<I, BadRow>,
    decode: impl Fn(I, &[u8]) -> Result<R, BadRow>,
) -> Page<Met<I, R>, I> {
    // Those whose keys name nothing were passed over before.
    let named = found.iter().filter_map(|(key, octets)| Some((id(key).ok()?, octets)));
    let rows: Vec<_> =
        named.map(|(id, octets)| Met { id: id.clone(), row: decode(id, octets).map_err(bad_row) }).collect();
    let last = rows.last().map(|met| met.id.clone());
    Page { rows, next: if found.len() < limit { None } else { last } }
}

fn bad_row(bad: BadRow) -> StoreError {
    match bad {
        BadRow::Corrupt(what) => StoreError::Corrupt(what.to_owned()),
        BadRow::Newer => StoreError::Newer,
    }
}

/// redb's errors: of the file system, or of a file that is damaged. Their texts name pages and not rows.
fn away(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Corrupt(what),
        redb::Error::Io(error) => {
            // The system's own word for it, such as that there is no space left, and nothing of redb's.
            let system = error.raw_os_error().map(std::io::Error::from_raw_os_error);
            let answer = system.map_or_else(|| error.kind().to_string(), |error| error.to_string());
            StoreError::Away(format!("the file system answered: {answer}"))
        }
        error => StoreError::Away(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
