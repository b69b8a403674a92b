//! Many writes, one durable commit. Writes go to one thread, which puts all that wait into one commit, so that concurrent writers share
//! one `fsync`. Nothing is answered before it is on disk, and a commit that fails fails every write in it.
//!
//! It knows octets and write ids, and not what a row says.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;

use redb::{Database, ReadableTable};
use tokio::sync::{oneshot, watch};
use tracing::error;

use super::away;
use super::file::{OpenError, Table, begin_write, definition};
use super::view::View;
use crate::store::{KEY_MISFIT, StoreError, WriteId, encoding};
use crate::telemetry::metrics::{Histogram, group_size};

/// Writes in one commit, at most: enough to share an `fsync`, few enough to hold no writer up.
pub(super) const MAX_GROUP: usize = 256;
/// Writes that wait, at most. Above it the store throttles.
const MAX_WAITING: usize = 4_096;

/// The thread that writes, and the way to it.
pub(super) struct Writer {
    /// `None` only while it is dropped.
    pub(super) writes: Option<mpsc::SyncSender<Write>>,
    pub(super) thread: Option<thread::JoinHandle<()>>,
    /// Closed when the thread has ended. Why, if a commit failed.
    pub(super) ended: watch::Receiver<Option<StoreError>>,
}

/// Waits for the thread, so that what it holds is on disk, and the file closed and free, when the store is gone.
impl Drop for Writer {
    fn drop(&mut self) {
        self.writes = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, its writes were answered so.
            let _ = thread.join();
        }
    }
}

/// Some writes in one table that happen together, on one condition.
pub(super) struct Replacement {
    pub(super) table: Table,
    /// The row that the condition is on, and its new octets; `None` removes it.
    pub(super) row: (Vec<u8>, Option<Vec<u8>>),
    pub(super) expected: Expected,
    /// Other rows that are written or removed with it, by their keys.
    pub(super) beside: Vec<(Vec<u8>, Beside)>,
}

/// What has to be there.
pub(super) enum Expected {
    /// A row of this write id, or none.
    Row(Option<WriteId>),
    /// Whatever is there.
    Anything,
}

/// What becomes of a row beside the one that the condition is on.
pub(super) enum Beside {
    /// It is written where nothing is.
    Insert(Vec<u8>),
    /// It is written where something is.
    Replace(Vec<u8>),
    Remove,
}

/// `None`: done. Otherwise the octets of the present row, if there is one.
pub(super) type Refusal = Option<Option<Vec<u8>>>;

/// What one write of a commit is answered.
pub(super) type Outcome = Result<Refusal, StoreError>;

pub(super) struct Write {
    pub(super) replacement: Replacement,
    pub(super) answer: oneshot::Sender<Outcome>,
}

impl Replacement {
    /// A row's new octets, and nothing beside it; `None` removes it.
    pub(super) fn of(table: Table, key: Vec<u8>, octets: Option<Vec<u8>>, expected: Option<WriteId>) -> Self {
        Self { table, row: (key, octets), expected: Expected::Row(expected), beside: Vec::new() }
    }

    /// A row is removed, whatever it is.
    pub(super) fn erasing(table: Table, key: Vec<u8>) -> Self {
        Self { table, row: (key, None), expected: Expected::Anything, beside: Vec::new() }
    }
}

impl Writer {
    /// A writer to a file. What it commits, the view shows before anybody is answered.
    pub(super) fn start(path: &Path, view: &Arc<View>) -> Result<Self, OpenError> {
        let (writes, waiting) = mpsc::sync_channel(MAX_WAITING);
        let written = Arc::clone(view);
        let (failed, ended) = watch::channel(None);
        let sizes = group_size();
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                write_groups(&waiting, &sizes, |group| {
                    let committed = commit(&written.db, group);
                    let seen = committed.and_then(|refusals| written.renew().map_err(away).map(|()| refusals));
                    seen.inspect_err(|error| {
                        error!(%error, "a commit failed: nothing is written any more");
                        failed.send_replace(Some(error.clone()));
                    })
                });
            })
            .map_err(|error| OpenError::Io(path.to_owned(), error))?;
        Ok(Self { writes: Some(writes), thread: Some(thread), ended })
    }

    /// Waits until nothing can be written any more.
    pub(super) async fn failed(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Why not, if a commit failed and the thread did not end otherwise.
    pub(super) fn failure(&self) -> Option<StoreError> {
        self.ended.borrow().clone()
    }

    /// Whether nothing can be written any more.
    pub(super) fn has_failed(&self) -> bool {
        self.ended.has_changed().is_err()
    }

    /// Answered when it is on disk.
    pub(super) async fn write(&self, replacement: Replacement) -> Outcome {
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
}

/// The writer's thread: all that waits, in one commit. It ends when the store is dropped, or when a commit fails or panics; then every
/// write is answered as away.
pub(super) fn write_groups(
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
pub(super) fn commit(db: &Database, replacements: &[Replacement]) -> Result<Vec<Outcome>, StoreError> {
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

/// The outcome is this write's. An error is the whole commit's.
fn apply(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    replacement: &Replacement,
) -> Result<Outcome, StoreError> {
    if let Expected::Row(expected) = replacement.expected {
        let present = table.get(replacement.row.0.as_slice()).map_err(away)?;
        // A row that can't be read is refused and not overwritten: whoever asked learns that it is corrupt.
        let write_id = present.as_ref().map(|present| encoding::write_id(present.value())).transpose().ok();
        if write_id != Some(expected) {
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

fn writer_gone() -> StoreError {
    StoreError::Away("its writer has stopped; restart the service".to_owned())
}
