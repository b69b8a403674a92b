//! The file: its tables and the marks that say what it is; how one is made, opened and checked. It knows nothing of what is read from it
//! or written into it later, but that a commit must be found whole.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, WriteTransaction};

use super::bad_row;
use super::keys::{key, operation_id};
use crate::ids::Deployment;
use crate::store::{OperationId, OperationRow, encoding};

pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Credentials,
    Customers,
    Operations,
}

pub(super) const ALL_TABLES: [Table; 3] = [Table::Credentials, Table::Customers, Table::Operations];
/// What the file is: its format, and the deployment whose records it holds.
pub(super) const ABOUT: Definition = Definition::new("about");

/// Names of the marks in [`ABOUT`].
pub(super) const FORMAT: &[u8] = b"format";
const DEPLOYMENT: &[u8] = b"deployment";
/// Of the tables' layout.
const FILE_FORMAT: &[u8] = b"triseal store 1";
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

pub(super) const fn definition(table: Table) -> Definition {
    Definition::new(match table {
        Table::Credentials => "credentials",
        Table::Customers => "customers",
        Table::Operations => "operations",
    })
}

/// Opens a file, or makes a new one where there is none.
pub(super) fn open(path: &Path, deployment: &Deployment) -> Result<Database, OpenError> {
    let exists = path.try_exists().map_err(|error| OpenError::Io(path.to_owned(), error))?;
    let made = if exists { None } else { make_file(path, deployment)? };
    made.map_or_else(|| open_file(path, deployment), Ok)
}

/// One that is no file. `path` stands for it in errors.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn in_memory(path: &Path, deployment: &Deployment) -> Result<Database, OpenError> {
    let db = builder().create_with_backend(redb::backends::InMemoryBackend::new());
    let db = db.map_err(|error| open_error(path, error))?;
    mark(&db, deployment).map_err(|error| damaged(path, &error))?;
    Ok(db)
}

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

pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_OCTETS);
    builder
}

/// redb may panic on a file that was damaged by others: that is an answer, too.
fn guard<T>(path: &Path, open: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, &"redb panicked on it")))
}

pub(super) fn damaged(path: &Path, what: &dyn std::fmt::Display) -> OpenError {
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
pub(super) fn mark(db: &Database, deployment: &Deployment) -> Result<(), redb::Error> {
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
pub(super) fn marks(db: &Database) -> Result<(Vec<u8>, Vec<u8>), redb::Error> {
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

/// In two phases, at the price of a second `fsync`: otherwise a commit that was damaged on disk looks like one that a crash
/// interrupted, and redb would silently go back to the one before.
pub(super) fn begin_write(db: &Database) -> Result<WriteTransaction, redb::TransactionError> {
    let mut txn = db.begin_write()?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}
