//! The embedded backend: one redb file, for development and small deployments of one process.
//!
//! Reads run where they are asked for: a few pages, mostly in redb's cache. Writes go to one thread, which puts all that
//! wait into one durable commit, so that concurrent writers share one `fsync`. Nothing is answered before it is on disk, and
//! a commit that fails fails every write in it.

mod view;

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tokio::sync::{oneshot, watch};
use tracing::error;

use self::view::View;
use super::encoding::{self, BadRow};
use super::{
    CredentialRow, Credentials, CustomerRow, CustomerWrite, Customers, Extent, KEY_MISFIT, KeyRow, Met, OperationId,
    OperationRow, Operations, Page, Replaced, Rows, StoreError, WriteId,
};
use crate::crypto::Version;
use crate::ids::{CredentialId, CredentialRef, CustomerId, Deployment};
use crate::telemetry::metrics::{Histogram, group_size};

/// Rows as they stand in the file: keys and octets.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Credentials,
    Customers,
    Operations,
}

const ALL_TABLES: [Table; 3] = [Table::Credentials, Table::Customers, Table::Operations];
/// What the file is: its format, and the deployment whose records it holds.
const ABOUT: Definition = Definition::new("about");

/// Names of the marks in [`ABOUT`].
const FORMAT: &[u8] = b"format";
const DEPLOYMENT: &[u8] = b"deployment";
/// Of the tables' layout.
const FILE_FORMAT: &[u8] = b"triseal store 1";
/// Stands between the parts of a key. No id contains it.
const SEPARATOR: u8 = 0;
/// The sort key of a customer's own row, before those of its wrapped keys.
const CUSTOMER: &str = "customer";
/// Writes in one commit, at most: enough to share an `fsync`, few enough to hold no writer up.
const MAX_GROUP: usize = 256;
/// Writes that wait, at most. Above it the store throttles.
const MAX_WAITING: usize = 4_096;
/// redb's page cache, in octets. What is not in it is in the system's, at the price of a call.
const CACHE_OCTETS: usize = 8 << 20;
/// The same while a file is checked, which reads every page once.
const CHECK_CACHE_OCTETS: usize = 1 << 20;

/// Why a store file was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process: stop that one, or name another by --data or store.embedded.path")]
    Locked(PathBuf),
    /// It is damaged, or something else than a store.
    #[error("{0} is damaged or no store file ({1}): restore it from a backup, or name another by store.embedded.path")]
    Damaged(PathBuf, String),
    /// Its last process was killed, so that it can't be read without being mended.
    #[error(
        "{0} was not closed by its last process: start the service on it (or on a copy), stop it, and read it then"
    )]
    NotClosed(PathBuf),
    /// It can't be read or written.
    #[error(
        "{0} can't be opened: {1}: it must be a file that the service's user owns and may write, in a folder that is there and \
         that it may write to; or name another by store.embedded.path"
    )]
    Io(PathBuf, std::io::Error),
    /// Its records are bound to another deployment and would not open here.
    #[error("{0} belongs to the deployment {1:?}: set `deployment` to it, or name another file")]
    OtherDeployment(PathBuf, String),
    /// A newer release wrote it.
    #[error("{0} has a format that this release does not know: use the release that wrote it, or a newer one")]
    UnknownFormat(PathBuf),
}

const fn definition(table: Table) -> Definition {
    Definition::new(match table {
        Table::Credentials => "credentials",
        Table::Customers => "customers",
        Table::Operations => "operations",
    })
}

/// A store in one file.
pub struct EmbeddedStore {
    view: Arc<View>,
    /// `None` only while it is dropped.
    writes: Option<mpsc::SyncSender<Write>>,
    writer: Option<thread::JoinHandle<()>>,
    /// Closed when the writer has ended. Why, if a commit failed.
    writing: watch::Receiver<Option<StoreError>>,
}

/// Waits for the writer, so that what it holds is on disk, and the file closed and free, when the store is gone.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.writes = None;
        if let Some(writer) = self.writer.take() {
            // If it panicked, its writes were answered so.
            let _ = writer.join();
        }
    }
}

/// Some writes in one table that happen together, on one condition.
struct Replacement {
    table: Table,
    /// The row that the condition is on, and its new octets; `None` removes it.
    row: (Vec<u8>, Option<Vec<u8>>),
    expected: Option<WriteId>,
    /// Other rows that are written or removed with it, by their keys.
    beside: Vec<(Vec<u8>, Beside)>,
}

/// What becomes of a row beside the one that the condition is on.
enum Beside {
    /// It is written where nothing is.
    Insert(Vec<u8>),
    /// It is written where something is.
    Replace(Vec<u8>),
    Remove,
}

/// `None`: done. Otherwise the octets of the present row, if there is one.
type Refusal = Option<Option<Vec<u8>>>;

/// What one write of a commit is answered.
type Outcome = Result<Refusal, StoreError>;

struct Write {
    replacement: Replacement,
    answer: oneshot::Sender<Outcome>,
}

impl EmbeddedStore {
    /// Opens a store file, or makes a new one where there is none. The whole file is checked, so that a damaged one is noticed
    /// here and not later.
    ///
    /// # Errors
    /// An [`OpenError`], which names the file and what to do. No record is changed.
    pub fn open(path: &Path, deployment: &Deployment) -> Result<Self, OpenError> {
        let exists = path.try_exists().map_err(|error| OpenError::Io(path.to_owned(), error))?;
        let made = if exists { None } else { make_file(path, deployment)? };
        let db = made.map_or_else(|| open_file(path, deployment), Ok)?;
        Self::over(path, db)
    }

    /// A new store that nothing outlives, for what is run again and again.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn in_memory(deployment: &Deployment) -> Result<Self, OpenError> {
        let path = Path::new("memory");
        let db = builder().create_with_backend(redb::backends::InMemoryBackend::new());
        let db = db.map_err(|error| open_error(path, error))?;
        mark(&db, deployment).map_err(|error| damaged(path, &error))?;
        Self::over(path, db)
    }

    /// A store over a database of ours.
    fn over(path: &Path, db: Database) -> Result<Self, OpenError> {
        let view = Arc::new(View::new(db).map_err(|error| damaged(path, &error))?);
        let (writes, waiting) = mpsc::sync_channel(MAX_WAITING);
        let written = Arc::clone(&view);
        let (ended, writing) = watch::channel(None);
        let sizes = group_size();
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                write_groups(&waiting, &sizes, |group| {
                    let committed = commit(&written.db, group);
                    let seen = committed.and_then(|refusals| written.renew().map_err(away).map(|()| refusals));
                    seen.inspect_err(|error| {
                        error!(%error, "a commit failed: nothing is written any more");
                        ended.send_replace(Some(error.clone()));
                    })
                });
            })
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self { view, writes: Some(writes), writer: Some(writer), writing })
    }

    /// Waits until nothing can be written any more: a commit failed, and the file has to be opened anew by another process.
    pub async fn failed(&self) {
        let mut writing = self.writing.clone();
        while writing.changed().await.is_ok() {}
    }

    /// Why not, if a commit failed and the writer did not end otherwise.
    pub fn failure(&self) -> Option<StoreError> {
        self.writing.borrow().clone()
    }

    /// Whether nothing can be written any more.
    pub fn has_failed(&self) -> bool {
        self.writing.has_changed().is_err()
    }

    async fn write(&self, replacement: Replacement) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let write = Write { replacement, answer };
        let gone = || self.failure().unwrap_or_else(writer_gone);
        let writes = self.writes.as_ref().ok_or_else(gone)?;
        writes.try_send(write).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StoreError::Throttled,
            mpsc::TrySendError::Disconnected(_) => gone(),
        })?;
        answered.await.map_err(|_| gone())?
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
        let encoded = (credential_key(&row.id), Some(encoding::encode_credential(&row)));
        let refusal =
            self.0.write(Replacement { table: Table::Credentials, row: encoded, expected, beside: vec![] }).await?;
        replaced(refusal, |octets| encoding::decode_credential(row.id, octets))
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

    async fn remove(&self, id: &CredentialRef, expected: WriteId) -> Result<Replaced<CredentialRow>, StoreError> {
        let row = (credential_key(id), None);
        let expected = Some(expected);
        let refusal = self.0.write(Replacement { table: Table::Credentials, row, expected, beside: vec![] }).await?;
        match refusal {
            // It was gone before.
            Some(None) => Ok(Replaced::Done),
            refusal => replaced(refusal, |octets| encoding::decode_credential(id.clone(), octets)),
        }
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
        let refusal = self.0.write(Replacement { table: Table::Customers, row, expected, beside }).await?;
        replaced(refusal, |octets| encoding::decode_customer(customer.id, octets))
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
        let encoded = (key(row.id.kind, &row.id.id), Some(encoding::encode_operation(&row)));
        let refusal =
            self.0.write(Replacement { table: Table::Operations, row: encoded, expected, beside: vec![] }).await?;
        replaced(refusal, |octets| encoding::decode_operation(row.id, octets))
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
        let row = (key(id.kind, &id.id), None);
        let expected = Some(expected);
        let refusal = self.0.write(Replacement { table: Table::Operations, row, expected, beside: vec![] }).await?;
        match refusal {
            // It was gone before.
            Some(None) => Ok(Replaced::Done),
            refusal => replaced(refusal, |octets| encoding::decode_operation(id.clone(), octets)),
        }
    }
}

/// All records of a kind in a store file that no process has open. The file is not changed, and whose it is does not matter.
///
/// # Errors
/// An [`OpenError`], which names the file and what to do.
pub fn operations_in_file(path: &Path, kind: &'static str) -> Result<Vec<OperationRow>, OpenError> {
    guard(path, || {
        let db = builder().open_read_only(path).map_err(|error| match error {
            DatabaseError::RepairAborted => OpenError::NotClosed(path.to_owned()),
            error => open_error(path, error),
        })?;
        let read = || {
            let txn = db.begin_read()?;
            let format = txn.open_table(ABOUT)?.get(FORMAT)?.map(|mark| mark.value().to_vec());
            let (prefix, mut rows) = (key(kind, ""), Vec::new());
            for entry in txn.open_table(definition(Table::Operations))?.range::<&[u8]>(prefix.as_slice()..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                rows.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok::<_, redb::Error>((format, rows))
        };
        let (format, rows) = read().map_err(|error| damaged(path, &error))?;
        if format.as_deref() != Some(FILE_FORMAT) {
            return Err(OpenError::UnknownFormat(path.to_owned()));
        }
        let row = |(key, octets): &(Vec<u8>, Vec<u8>)| {
            let id = OperationId { kind, id: operation_id(key)? };
            encoding::decode_operation(id, octets)
        };
        rows.iter().map(row).collect::<Result<_, _>>().map_err(|bad| damaged(path, &bad_row(bad)))
    })
}

/// The credentials of an [`EmbeddedStore`].
pub struct EmbeddedCredentials(pub Arc<EmbeddedStore>);
/// The customers of an [`EmbeddedStore`].
pub struct EmbeddedCustomers(pub Arc<EmbeddedStore>);
/// The service's own records of an [`EmbeddedStore`].
pub struct EmbeddedOperations(pub Arc<EmbeddedStore>);

/// Makes a new file, whole or not at all: under another name first, so that a crash leaves no half-made store behind. `None`:
/// another process was quicker.
fn make_file(path: &Path, deployment: &Deployment) -> Result<Option<Database>, OpenError> {
    let io = |error: std::io::Error| OpenError::Io(path.to_owned(), error);
    let mut name = path.file_name().ok_or_else(|| io(ErrorKind::InvalidInput.into()))?.to_owned();
    name.push(format!(".{:016x}.new", getrandom::u64().map_err(|error| io(error.into()))?));
    let temporary = path.with_file_name(name);
    let made = guard(path, || {
        let db = builder().create(&temporary).map_err(|error| open_error(path, error))?;
        // What stands in it is sealed, and concerns nobody else all the same.
        std::fs::set_permissions(&temporary, Permissions::from_mode(0o600)).map_err(io)?;
        mark(&db, deployment).map_err(|error| damaged(path, &error))?;
        match std::fs::hard_link(&temporary, path) {
            Ok(()) => Ok(Some(db)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(io(error)),
        }
    });
    let removed = std::fs::remove_file(&temporary);
    let made = made?;
    removed.and_then(|()| sync_directory(path)).map_err(io)?;
    Ok(made)
}

/// Opens a file that is there. redb would take an empty one for a new one, and another program's for ours.
fn open_file(path: &Path, deployment: &Deployment) -> Result<Database, OpenError> {
    let about = std::fs::metadata(path).map_err(|error| OpenError::Io(path.to_owned(), error))?;
    if about.is_file() && about.len() == 0 {
        return Err(damaged(path, &"it is empty"));
    }
    guard(path, || {
        // With a cache of its own: what a check has read is not what will be asked for, and its memory is not given back.
        let mut check = builder();
        check.set_cache_size(CHECK_CACHE_OCTETS).set_check_integrity_on_open(true);
        drop(check.open(path).map_err(|error| open_error(path, error))?);
        let db = builder().open(path).map_err(|error| open_error(path, error))?;
        let (format, owner) = marks(&db).map_err(|error| damaged(path, &error))?;
        if format.as_slice() != FILE_FORMAT {
            return Err(OpenError::UnknownFormat(path.to_owned()));
        }
        if owner.as_slice() != deployment.as_str().as_bytes() {
            return Err(OpenError::OtherDeployment(path.to_owned(), String::from_utf8_lossy(&owner).into_owned()));
        }
        Ok(db)
    })
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_OCTETS);
    builder
}

/// redb may panic on a file that was damaged by others: that is an answer, too.
fn guard<T>(path: &Path, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, &"redb panicked on it")))
}

fn damaged(path: &Path, what: &dyn std::fmt::Display) -> OpenError {
    OpenError::Damaged(path.to_owned(), what.to_string())
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => OpenError::Locked(path.to_owned()),
        DatabaseError::UpgradeRequired(_) => OpenError::UnknownFormat(path.to_owned()),
        // A header that is not redb's, or that names octets beyond the end.
        DatabaseError::Storage(redb::StorageError::Io(error))
            if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            OpenError::Io(path.to_owned(), error)
        }
        error => damaged(path, &error),
    }
}

/// Marks a new file as ours, and makes the tables.
fn mark(db: &Database, deployment: &Deployment) -> Result<(), redb::Error> {
    let txn = begin_write(db)?;
    {
        let mut about = txn.open_table(ABOUT)?;
        about.insert(FORMAT, FILE_FORMAT)?;
        about.insert(DEPLOYMENT, deployment.as_str().as_bytes())?;
    }
    for table in ALL_TABLES {
        txn.open_table(definition(table))?;
    }
    Ok(txn.commit()?)
}

/// Format and deployment. A file without them is not ours, or has lost them.
fn marks(db: &Database) -> Result<(Vec<u8>, Vec<u8>), redb::Error> {
    let txn = db.begin_read()?;
    let about = txn.open_table(ABOUT)?;
    let mark = |name| match about.get(name)? {
        Some(value) => Ok(value.value().to_vec()),
        None => Err(redb::Error::Corrupted("it has no mark of ours".to_owned())),
    };
    for table in ALL_TABLES {
        txn.open_table(definition(table))?;
    }
    Ok((mark(FORMAT)?, mark(DEPLOYMENT)?))
}

/// A new file's name is on disk only when its directory is.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// The writer's thread: all that waits, in one commit. It ends when the store is dropped, or when a commit fails or panics; then every
/// write is answered as away.
fn write_groups(
    waiting: &mpsc::Receiver<Write>,
    sizes: &Histogram,
    mut commit: impl FnMut(&[Replacement]) -> Result<Vec<Outcome>, StoreError>,
) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(MAX_GROUP - 1));
        // Whoever has given up was told that it may have happened. It need not, and what is still waited for comes sooner.
        group.retain(|write| !write.answer.is_closed());
        if group.is_empty() {
            continue;
        }
        let (replacements, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|write| (write.replacement, write.answer)).unzip();
        sizes.record(replacements.len() as f64);
        let outcomes = commit(&replacements);
        for (index, answer) in answers.into_iter().enumerate() {
            let outcome = match &outcomes {
                Ok(outcomes) => outcomes.get(index).cloned().unwrap_or_else(|| Err(writer_gone())),
                Err(error) => Err(error.clone()),
            };
            // Whoever has gone does not hear of it, and the write stands.
            let _ = answer.send(outcome);
        }
        if outcomes.is_err() {
            // redb takes no write after one that failed, until the file is opened anew.
            return;
        }
    }
}

/// One durable commit. Within it, each condition sees the writes before it; a refusal is answered after the commit, since the
/// row that it shows may be part of it.
fn commit(db: &Database, replacements: &[Replacement]) -> Result<Vec<Outcome>, StoreError> {
    let txn = begin_write(db).map_err(away)?;
    let mut outcomes = Vec::with_capacity(replacements.len());
    for replacements in replacements.chunk_by(|one, next| one.table == next.table) {
        let Some(first) = replacements.first() else { continue };
        let mut table = txn.open_table(definition(first.table)).map_err(away)?;
        for replacement in replacements {
            outcomes.push(apply(&mut table, replacement)?);
        }
    }
    txn.commit().map_err(away)?;
    Ok(outcomes)
}

/// In two phases, at the price of a second `fsync`: otherwise a commit that was damaged on disk looks like one that a crash
/// interrupted, and redb would silently go back to the one before.
fn begin_write(db: &Database) -> Result<WriteTransaction, redb::TransactionError> {
    let mut txn = db.begin_write()?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}

/// The outcome is this write's. An error is the whole commit's.
fn apply(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    replacement: &Replacement,
) -> Result<Outcome, StoreError> {
    {
        let present = table.get(replacement.row.0.as_slice()).map_err(away)?;
        // A row that can't be read is refused and not overwritten: whoever asked learns that it is corrupt.
        let write_id = present.as_ref().map(|present| encoding::write_id(present.value())).transpose().ok();
        if write_id != Some(replacement.expected) {
            return Ok(Ok(Some(present.map(|present| present.value().to_vec()))));
        }
    }
    for (key, row) in &replacement.beside {
        let wanted = match row {
            Beside::Insert(_) => false,
            Beside::Replace(_) => true,
            Beside::Remove => continue,
        };
        if table.get(key.as_slice()).map_err(away)?.is_some() != wanted {
            return Ok(Err(StoreError::Corrupt(KEY_MISFIT.to_owned())));
        }
    }
    let beside = replacement.beside.iter().map(|(key, row)| match row {
        Beside::Insert(octets) | Beside::Replace(octets) => (key, Some(octets)),
        Beside::Remove => (key, None),
    });
    for (key, octets) in std::iter::once((&replacement.row.0, replacement.row.1.as_ref())).chain(beside) {
        match octets {
            Some(octets) => drop(table.insert(key.as_slice(), octets.as_slice()).map_err(away)?),
            None => drop(table.remove(key.as_slice()).map_err(away)?),
        }
    }
    Ok(Ok(None))
}

fn replaced<R>(refusal: Refusal, decode: impl FnOnce(&[u8]) -> Result<R, BadRow>) -> Result<Replaced<R>, StoreError> {
    match refusal {
        None => Ok(Replaced::Done),
        Some(None) => Ok(Replaced::Refused(None)),
        Some(Some(octets)) => decode(&octets).map(|row| Replaced::Refused(Some(row))).map_err(bad_row),
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
    let bad = BadRow::Corrupt("a credential's key is no pair of ids");
    let (customer, credential) = split(key).ok_or(BadRow::Corrupt("a credential's key has one part"))?;
    match (CustomerId::parse(customer), CredentialId::parse(credential)) {
        (Ok(customer), Ok(credential)) => Ok(CredentialRef { customer, credential }),
        (Err(_), _) | (_, Err(_)) => Err(bad),
    }
}

fn customer_id(key: &[u8]) -> Result<CustomerId, BadRow> {
    let (customer, _) = split(key).ok_or(BadRow::Corrupt("a customer's key has one part"))?;
    CustomerId::parse(customer).map_err(|_| BadRow::Corrupt("a customer's key is no id"))
}

fn operation_id(key: &[u8]) -> Result<String, BadRow> {
    let (_, id) = split(key).ok_or(BadRow::Corrupt("a record's key has one part"))?;
    Ok(id.to_owned())
}

fn split(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once(char::from(SEPARATOR))
}

fn bad_row(bad: BadRow) -> StoreError {
    match bad {
        BadRow::Corrupt(what) => StoreError::Corrupt(what.to_owned()),
        BadRow::Newer => StoreError::Newer,
    }
}

fn writer_gone() -> StoreError {
    StoreError::Away("its writer has stopped; restart the service".to_owned())
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
