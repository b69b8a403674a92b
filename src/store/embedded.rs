//! The embedded backend: one redb file, for development and small deployments of one process.
//!
//! Reads run where they are asked for: a few pages, mostly in redb's cache. Writes go to one thread, which puts all that
//! wait into one durable commit, so that concurrent writers share one `fsync`. Nothing is answered before it is on disk, and
//! a commit that fails fails every write in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use super::encoding::{self, BadRow};
use super::{
    CredentialRow, Credentials, CustomerRow, CustomerWrite, Customers, KeyRow, OperationId, OperationRow, Operations,
    Page, Replaced, Rows, StoreError, WriteId,
};
use crate::crypto::Version;
use crate::ids::{CredentialId, CredentialRef, CustomerId, Deployment};

/// Rows as they stand in the file: keys and octets.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const CREDENTIALS: Table = Table::new("credentials");
const CUSTOMERS: Table = Table::new("customers");
const OPERATIONS: Table = Table::new("operations");
/// What the file is: its format, and the deployment whose records it holds.
const ABOUT: Table = Table::new("about");

/// Of the tables' layout.
const FILE_FORMAT: &[u8] = b"triseal store 1";
/// Stands between the parts of a key. No id contains it.
const SEPARATOR: u8 = 0;
/// The sort key of a customer's own row, before those of its wrapped keys.
const CUSTOMER: &str = "customer";
/// Writes in one commit, at most: enough to share an `fsync`, few enough to hold no writer up.
const MAX_GROUP: usize = 256;
/// Writes that wait, at most. Requests in flight are bounded below it.
const MAX_WAITING: usize = 4_096;
/// redb's page cache, in octets. Its default of 1 GiB is too much for a development service.
const CACHE_OCTETS: usize = 32 << 20;

/// Why a store file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process: stop that one, or name another --data directory")]
    Locked(PathBuf),
    /// It is damaged, or something else than a store.
    #[error("{0} is damaged or no store file ({1}): nothing was changed; restore it from a backup")]
    Damaged(PathBuf, String),
    /// It can't be read or written.
    #[error("{0} can't be opened: {1}")]
    Io(PathBuf, io::Error),
    /// Its records are bound to another deployment and would not open here.
    #[error("{0} belongs to the deployment {1:?}: set `deployment` to it, or name another file")]
    OtherDeployment(PathBuf, String),
    /// A newer release wrote it.
    #[error("{0} has a format that this release does not know: use the release that wrote it, or a newer one")]
    UnknownFormat(PathBuf),
}

/// A store in one file.
pub struct EmbeddedStore {
    db: Arc<Database>,
    writes: mpsc::SyncSender<Write>,
}

/// Some puts in one table that happen together, on one condition.
struct Replacement {
    table: Table,
    /// The row that the condition is on, and its new octets.
    row: (Vec<u8>, Vec<u8>),
    expected: Option<WriteId>,
    /// Another row that is written with it.
    beside: Option<(Vec<u8>, Vec<u8>)>,
}

/// `None`: done. Otherwise the octets of the present row, if there is one.
type Refusal = Option<Option<Vec<u8>>>;

struct Write {
    replacement: Replacement,
    answer: oneshot::Sender<Result<Refusal, StoreError>>,
}

impl EmbeddedStore {
    /// Opens a store file, or makes a new one where there is none. The whole file is checked, so that a damaged one is noticed
    /// here and not later.
    ///
    /// # Errors
    /// An [`OpenError`], which names the file and what to do. The file is left as it is.
    pub fn open(path: &Path, deployment: &Deployment) -> Result<Self, OpenError> {
        if !path.try_exists().map_err(|error| OpenError::Io(path.to_owned(), error))? {
            make_file(path, deployment)?;
        }
        let db = Arc::new(open_file(path, deployment)?);
        let (writes, waiting) = mpsc::sync_channel(MAX_WAITING);
        let writer = Arc::clone(&db);
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_groups(&writer, &waiting))
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self { db, writes })
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let table = self.db.begin_read().map_err(away)?.open_table(table).map_err(away)?;
        Ok(table.get(key).map_err(away)?.map(|value| value.value().to_vec()))
    }

    async fn write(&self, replacement: Replacement) -> Result<Refusal, StoreError> {
        let (answer, answered) = oneshot::channel();
        let write = Write { replacement, answer };
        self.writes.try_send(write).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StoreError::Throttled,
            mpsc::TrySendError::Disconnected(_) => writer_gone(),
        })?;
        answered.await.map_err(|_| writer_gone())?
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
        let table = self.db.begin_read().map_err(away)?.open_table(table).map_err(away)?;
        let from = after.map_or(Included(prefix), Excluded);
        let mut found = Vec::new();
        for entry in table.range::<&[u8]>((from, Unbounded)).map_err(away)? {
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
        let octets = self.0.read(CREDENTIALS, &credential_key(id))?;
        octets.map(|octets| encoding::decode_credential(id.clone(), &octets)).transpose().map_err(bad_row)
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: CredentialRow,
    ) -> Result<Replaced<CredentialRow>, StoreError> {
        let put = (credential_key(&row.id), encoding::encode_credential(&row));
        let refusal = self.0.write(Replacement { table: CREDENTIALS, row: put, expected, beside: None }).await?;
        replaced(refusal, |octets| encoding::decode_credential(row.id, octets))
    }
}

#[async_trait]
impl Credentials for EmbeddedCredentials {
    async fn query(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        let prefix = customer.map_or_else(Vec::new, |customer| key(customer.as_str(), ""));
        let after = after.map(credential_key);
        let found = self.0.range(CREDENTIALS, &prefix, after.as_deref(), limit, |_| true)?;
        let rows = found.iter().map(|(key, octets)| encoding::decode_credential(credential_ref(key)?, octets));
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(bad_row)?;
        Ok(page(rows, limit, |row| row.id.clone()))
    }
}

#[async_trait]
impl Rows for EmbeddedCustomers {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        let octets = self.0.read(CUSTOMERS, &key(id.as_str(), CUSTOMER))?;
        octets.map(|octets| encoding::decode_customer(id.clone(), &octets)).transpose().map_err(bad_row)
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        write: CustomerWrite,
    ) -> Result<Replaced<CustomerRow>, StoreError> {
        let CustomerWrite { customer, key: wrapped } = write;
        let beside = wrapped
            .map(|row| (wrapped_key_key(&customer.id, row.version), encoding::encode_key(customer.write_id, &row)));
        let put = (key(customer.id.as_str(), CUSTOMER), encoding::encode_customer(&customer));
        let refusal = self.0.write(Replacement { table: CUSTOMERS, row: put, expected, beside }).await?;
        replaced(refusal, |octets| encoding::decode_customer(customer.id, octets))
    }
}

#[async_trait]
impl Customers for EmbeddedCustomers {
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError> {
        let octets = self.0.read(CUSTOMERS, &wrapped_key_key(customer, version))?;
        octets.map(|octets| encoding::decode_key(version, &octets)).transpose().map_err(bad_row)
    }

    async fn query(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        let after = after.map(|customer| key(customer.as_str(), CUSTOMER));
        let own_row = [&[SEPARATOR], CUSTOMER.as_bytes()].concat();
        let found = self.0.range(CUSTOMERS, b"", after.as_deref(), limit, |key| key.ends_with(&own_row))?;
        let rows = found.iter().map(|(key, octets)| encoding::decode_customer(customer_id(key)?, octets));
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(bad_row)?;
        Ok(page(rows, limit, |row| row.id.clone()))
    }
}

#[async_trait]
impl Rows for EmbeddedOperations {
    type Id = OperationId;
    type Row = OperationRow;
    type Write = OperationRow;

    async fn get(&self, id: &OperationId) -> Result<Option<OperationRow>, StoreError> {
        let octets = self.0.read(OPERATIONS, &key(id.kind, &id.id))?;
        octets.map(|octets| encoding::decode_operation(id.clone(), &octets)).transpose().map_err(bad_row)
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: OperationRow,
    ) -> Result<Replaced<OperationRow>, StoreError> {
        let put = (key(row.id.kind, &row.id.id), encoding::encode_operation(&row));
        let refusal = self.0.write(Replacement { table: OPERATIONS, row: put, expected, beside: None }).await?;
        replaced(refusal, |octets| encoding::decode_operation(row.id, octets))
    }
}

impl Operations for EmbeddedOperations {}

/// The credentials of an [`EmbeddedStore`].
pub struct EmbeddedCredentials(pub Arc<EmbeddedStore>);
/// The customers of an [`EmbeddedStore`].
pub struct EmbeddedCustomers(pub Arc<EmbeddedStore>);
/// The service's own records of an [`EmbeddedStore`].
pub struct EmbeddedOperations(pub Arc<EmbeddedStore>);

/// Makes a new file, whole or not at all: under another name, which is then linked to its own. redb marks a file as its own only
/// after it has given it a length; a process that is killed in between must not leave a file that never opens.
fn make_file(path: &Path, deployment: &Deployment) -> Result<(), OpenError> {
    let io = |error| OpenError::Io(path.to_owned(), error);
    let mut name = path.file_name().ok_or_else(|| io(io::ErrorKind::InvalidInput.into()))?.to_owned();
    name.push(format!(".{:016x}.new", getrandom::u64().map_err(|error| io(error.into()))?));
    let temporary = path.with_file_name(name);
    let made = open_file(&temporary, deployment).and_then(|db| {
        // Closed before it gets its name.
        drop(db);
        match std::fs::hard_link(&temporary, path) {
            Ok(()) => sync_directory(path).map_err(io),
            // Another process was quicker: its store is opened, or found in use.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(io(error)),
        }
    });
    // What went wrong before is told, rather than this.
    made.and(std::fs::remove_file(&temporary).map_err(io))
}

fn open_file(path: &Path, deployment: &Deployment) -> Result<Database, OpenError> {
    let opened = Database::builder().set_cache_size(CACHE_OCTETS).set_check_integrity_on_open(true).create(path);
    let db = opened.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::Locked(path.to_owned()),
        DatabaseError::UpgradeRequired(_) => OpenError::UnknownFormat(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            OpenError::Io(path.to_owned(), error)
        }
        error => OpenError::Damaged(path.to_owned(), error.to_string()),
    })?;
    about(&db, path, deployment).map_err(|error| match error {
        AboutError::Open(error) => error,
        AboutError::Redb(error) => OpenError::Damaged(path.to_owned(), error.to_string()),
    })?;
    Ok(db)
}

enum AboutError {
    Open(OpenError),
    Redb(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for AboutError {
    fn from(error: E) -> Self {
        Self::Redb(error.into())
    }
}

/// Marks a new file as ours, and compares the marks of an old one. Makes the tables.
fn about(db: &Database, path: &Path, deployment: &Deployment) -> Result<(), AboutError> {
    let txn = db.begin_write()?;
    {
        let mut about = txn.open_table(ABOUT)?;
        let known = |name: &[u8]| Ok::<_, AboutError>(about.get(name)?.map(|value| value.value().to_vec()));
        let (format, owner) = (known(b"format")?, known(b"deployment")?);
        match format.as_deref() {
            None => {
                about.insert(b"format".as_slice(), FILE_FORMAT)?;
                about.insert(b"deployment".as_slice(), deployment.as_str().as_bytes())?;
            }
            Some(FILE_FORMAT) => {}
            Some(_) => return Err(AboutError::Open(OpenError::UnknownFormat(path.to_owned()))),
        }
        if let Some(owner) = owner.filter(|owner| owner != deployment.as_str().as_bytes()) {
            let owner = String::from_utf8_lossy(&owner).into_owned();
            return Err(AboutError::Open(OpenError::OtherDeployment(path.to_owned(), owner)));
        }
    }
    for table in [CREDENTIALS, CUSTOMERS, OPERATIONS] {
        txn.open_table(table)?;
    }
    txn.commit()?;
    Ok(())
}

/// A new file's name is on disk only when its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// The writer's thread. It ends when the store is dropped.
fn write_groups(db: &Database, waiting: &mpsc::Receiver<Write>) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(MAX_GROUP - 1));
        let (replacements, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|write| (write.replacement, write.answer)).unzip();
        let outcomes = commit(db, &replacements);
        for (index, answer) in answers.into_iter().enumerate() {
            let outcome = match &outcomes {
                Ok(refusals) => Ok(refusals.get(index).cloned().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            // Whoever has gone does not hear of it, and the write stands.
            let _ = answer.send(outcome);
        }
    }
}

/// One durable commit. Within it, each condition sees the writes before it; a refusal is answered after the commit, since the
/// row that it shows may be part of it.
fn commit(db: &Database, replacements: &[Replacement]) -> Result<Vec<Refusal>, StoreError> {
    let txn = db.begin_write().map_err(away)?;
    let refusals = replacements.iter().map(|replacement| apply(&txn, replacement)).collect::<Result<_, _>>()?;
    txn.commit().map_err(away)?;
    Ok(refusals)
}

fn apply(txn: &WriteTransaction, replacement: &Replacement) -> Result<Refusal, StoreError> {
    let mut table = txn.open_table(replacement.table).map_err(away)?;
    let (key, octets) = &replacement.row;
    let present = table.get(key.as_slice()).map_err(away)?.map(|value| value.value().to_vec());
    // A row that can't be read is refused and not overwritten: whoever asked learns that it is corrupt.
    let write_id = present.as_deref().map(encoding::write_id).transpose().ok();
    if write_id != Some(replacement.expected) {
        return Ok(Some(present));
    }
    for (key, octets) in std::iter::once((key, octets)).chain(replacement.beside.as_ref().map(|(k, v)| (k, v))) {
        table.insert(key.as_slice(), octets.as_slice()).map_err(away)?;
    }
    Ok(None)
}

fn replaced<R>(refusal: Refusal, decode: impl FnOnce(&[u8]) -> Result<R, BadRow>) -> Result<Replaced<R>, StoreError> {
    match refusal {
        None => Ok(Replaced::Done),
        Some(None) => Ok(Replaced::Refused(None)),
        Some(Some(octets)) => decode(&octets).map(|row| Replaced::Refused(Some(row))).map_err(bad_row),
    }
}

fn page<R, I>(rows: Vec<R>, limit: usize, id: impl Fn(&R) -> I) -> Page<R, I> {
    let next = if rows.len() < limit { None } else { rows.last().map(id) };
    Page { rows, next }
}

fn key(partition: &str, sort: &str) -> Vec<u8> {
    [partition.as_bytes(), &[SEPARATOR], sort.as_bytes()].concat()
}

fn credential_key(id: &CredentialRef) -> Vec<u8> {
    key(id.customer.as_str(), id.credential.as_str())
}

fn wrapped_key_key(customer: &CustomerId, version: Version) -> Vec<u8> {
    // Padded, so that the versions stand in order.
    key(customer.as_str(), &format!("key#{:010}", version.get()))
}

fn credential_ref(key: &[u8]) -> Result<CredentialRef, BadRow> {
    let bad = BadRow("a credential's key is no pair of ids");
    let (customer, credential) = split(key).ok_or(BadRow("a credential's key has one part"))?;
    match (CustomerId::parse(customer), CredentialId::parse(credential)) {
        (Ok(customer), Ok(credential)) => Ok(CredentialRef { customer, credential }),
        (Err(_), _) | (_, Err(_)) => Err(bad),
    }
}

fn customer_id(key: &[u8]) -> Result<CustomerId, BadRow> {
    let (customer, _) = split(key).ok_or(BadRow("a customer's key has one part"))?;
    CustomerId::parse(customer).map_err(|_| BadRow("a customer's key is no id"))
}

fn split(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once(char::from(SEPARATOR))
}

fn bad_row(bad: BadRow) -> StoreError {
    StoreError::Corrupt(bad.0.to_owned())
}

fn writer_gone() -> StoreError {
    StoreError::Away("its writer has stopped; restart the service".to_owned())
}

/// redb's errors: of the file system, or of a file that is damaged. Their texts name pages and not rows.
fn away(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Corrupt(what),
        redb::Error::Io(error) => StoreError::Away(format!("the file system answered {:?}", error.kind())),
        error => StoreError::Away(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
