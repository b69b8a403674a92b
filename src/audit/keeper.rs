//! Keeps the log safe: syncs its file, and stores the head of what is synced. A machine that loses its power must not look like a
//! thief. No call waits for it, and none fails if the store or the MAC key is away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

use super::entry::{Hash, StreamId};
use super::heads::{BadHead, CheckpointMac, Head, record_id};
use super::writer::Queue;
use crate::factors::FactorError;
use crate::randomness::NoRandomness;
use crate::store::{ChangeError, Decision, OperationRow, Operations, WriteId, change, row_time};

/// A head is stored after so many entries.
pub(super) const EVERY_ENTRIES: u64 = 1_000;
/// Or after so long, if there were any.
const EVERY: Duration = Duration::from_secs(10);
/// And when that fails, again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A head that takes longer to store counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the heads of one stream go.
pub(super) struct Heads {
    pub(super) stream: StreamId,
    pub(super) operations: Arc<dyn Operations>,
    pub(super) mac: Option<Arc<dyn CheckpointMac>>,
    pub(super) clock: fn() -> Timestamp,
}

/// Why a head was not stored. It is tried again, and no call fails for it.
#[derive(Debug, thiserror::Error)]
enum HeadError {
    #[error("its MAC can't be made: {0}")]
    Mac(#[from] FactorError),
    #[error(transparent)]
    Store(#[from] ChangeError),
    #[error("the store's record of this stream is not one of ours: {0}")]
    Bad(#[from] BadHead),
    #[error("the store has a later head of this stream, which only this process writes")]
    Ahead,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    #[error("nobody answered in time")]
    TimedOut,
}

/// What is on disk.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Safe {
    seq: u64,
    hash: Hash,
    /// Nothing comes after it.
    closed: bool,
}

impl Heads {
    async fn store(&self, safe: Safe) -> Result<(), HeadError> {
        timeout(PATIENCE, self.store_head(safe)).await.map_err(|_| HeadError::TimedOut)?
    }

    async fn store_head(&self, Safe { seq, hash, closed }: Safe) -> Result<(), HeadError> {
        let mut head = Head { stream: self.stream, seq, hash, closed, time: row_time((self.clock)()), mac: None };
        if let Some(mac) = &self.mac {
            head.mac = Some(mac.make(&head.message()).await?);
        }
        let head = &head;
        change(self.operations.as_ref(), &record_id(&self.stream), |present: Option<OperationRow>| async move {
            if let Some(row) = present {
                let present = Head::from_record(&row)?;
                if present.seq > head.seq || present.closed {
                    return Err(HeadError::Ahead);
                }
            }
            let write_id = WriteId::random()?;
            Ok(Decision::Replace(head.record(write_id), ()))
        })
        .await
    }
}

/// Syncs the file and stores the heads, for as long as the stream is written.
pub(super) struct Keeper {
    end: Mutex<Option<oneshot::Sender<bool>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Keeper {
    /// Stores the head of the stream that has no entry yet, and starts.
    pub(super) async fn start(heads: Heads, queue: Arc<Queue>, fsync_interval: Duration) -> Self {
        let written = queue.written();
        let safe = Safe { seq: written.seq, hash: written.hash, closed: false };
        let first = heads.store(safe).await;
        if let Err(error) = &first {
            warn!(%error, "the head of the audit stream is not stored yet");
        }
        let stored = first.is_ok().then_some(safe.seq);
        let (end, ending) = oneshot::channel();
        let (made_safe, is_safe) = watch::channel(safe);
        let tasks = vec![
            tokio::spawn(keep_safe(queue, fsync_interval, ending, made_safe)),
            tokio::spawn(keep_head(heads, is_safe, stored)),
        ];
        Self { end: Mutex::new(Some(end)), tasks: Mutex::new(tasks) }
    }

    /// Stores the last head. `closed`: the stream's last entry is written.
    pub(super) async fn end(&self, closed: bool) {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        // Gone, they have nothing to store.
        let _ = end.map(|end| end.send(closed));
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        if timeout(PATIENCE, futures_util::future::join_all(tasks)).await.is_err() {
            warn!("the last head of the audit stream is not stored");
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(JoinHandle::abort);
    }
}

/// Syncs what was written, every so often and after many entries.
async fn keep_safe(
    queue: Arc<Queue>,
    every: Duration,
    mut ending: oneshot::Receiver<bool>,
    made_safe: watch::Sender<Safe>,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let ended = tokio::select! {
            _ = ticks.tick() => None,
            () = queue.many_written.notified() => None,
            // Dropped without a word, the process has not ended the stream.
            closed = &mut ending => Some(closed.unwrap_or(false)),
        };
        let written = queue.written();
        let safe = Safe { seq: written.seq, hash: written.hash, closed: ended.unwrap_or(false) };
        let before = *made_safe.borrow();
        if safe != before && sync(&queue, written.file).await {
            made_safe.send_replace(safe);
        }
        if ended.is_some() {
            return;
        }
    }
}

/// Whether what was written is safe now.
async fn sync(queue: &Queue, file: Option<Arc<std::fs::File>>) -> bool {
    let Some(file) = file else { return true };
    let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
    match synced.map_err(std::io::Error::from).and_then(|synced| synced) {
        Ok(()) => {
            if queue.set_unsafe(false) {
                info!("the audit log can be synced again; whether it lost something, its verification tells");
            }
            true
        }
        Err(error) => {
            if !queue.set_unsafe(true) {
                error!(%error, "the audit log can't be synced: nothing is opened or sealed until it can");
            }
            false
        }
    }
}

/// Stores heads of what is safe, until the stream has ended.
async fn keep_head(heads: Heads, mut safe: watch::Receiver<Safe>, mut stored: Option<u64>) {
    let (mut due_at, mut failing) = (Instant::now() + EVERY, stored.is_none());
    loop {
        let due = worth_a_head(&mut safe, stored, due_at).await;
        let (present, is_last) = due.map_or_else(|| (*safe.borrow(), true), |safe| (safe, safe.closed));
        match heads.store(present).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    info!("the head of the audit stream is stored again");
                }
                (stored, due_at) = (Some(present.seq), Instant::now() + EVERY);
                if is_last {
                    return;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "the head of the audit stream is not stored: it is tried again");
                }
                sleep(TRY_AGAIN).await;
                due_at = Instant::now();
            }
        }
    }
}

/// Waits for [`EVERY_ENTRIES`] entries, or from `due_at` on for any. `None`: nothing will come.
async fn worth_a_head(safe: &mut watch::Receiver<Safe>, stored: Option<u64>, due_at: Instant) -> Option<Safe> {
    let at_least = |entries| move |safe: &Safe| safe.closed || stored.is_none_or(|stored| safe.seq - stored >= entries);
    let many = timeout_at(due_at, safe.wait_for(at_least(EVERY_ENTRIES))).await.map(|safe| safe.ok().map(|safe| *safe));
    match many {
        Ok(many) => many,
        Err(_) => safe.wait_for(at_least(1)).await.ok().map(|safe| *safe),
    }
}

#[cfg(test)]
mod tests;
