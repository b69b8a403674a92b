//! Waiting for somebody else's refresh: one reader for each credential and replica, however many wait, woken at once by a change that this
//! replica makes. It decides nothing: whoever waits looks at the row that was read.
//!
//! Readers are bounded by the calls that wait: some times as many as may be under way (`grpc::admission`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, Notify, OwnedMutexGuard, watch};
use tokio::time::{Instant, sleep};

use crate::ids::CredentialRef;
use crate::jitter::jittered;
use crate::store::{CredentialRow, Credentials, StoreError};
use crate::telemetry::metrics::Gauge;
use crate::telemetry::metrics::refresh_waiters;

/// Between two readings, give or take a fifth.
const READ_EVERY: Duration = Duration::from_millis(250);

/// A reading that is older tells nothing: its reader has ended, or waits for a store that is away.
const STALE: Duration = READ_EVERY.saturating_mul(2);

/// What was read last.
pub type Seen = Result<Option<Arc<CredentialRow>>, StoreError>;

/// Who waits, and for what.
pub struct Waiting {
    credentials: Arc<dyn Credentials>,
    watched: Arc<Mutex<HashMap<CredentialRef, Weak<Watched>>>>,
    /// Whether the service drains.
    closed: watch::Sender<bool>,
    waiters: Gauge,
}

/// A credential that somebody waits for.
struct Watched {
    /// And when the reading began. `None`: nothing was read yet.
    seen: watch::Sender<Option<(Instant, Seen)>>,
    /// Read now.
    nudge: Notify,
    /// Of those who find that a lease may be had, one at a time tries to get it.
    turn: Arc<Turn<()>>,
}

/// One who waits. Dropped, it does no more.
pub struct Waiter {
    watched: Arc<Watched>,
    seen: watch::Receiver<Option<(Instant, Seen)>>,
    waiters: Gauge,
}

impl Waiting {
    /// Nobody waits yet.
    pub fn new(credentials: Arc<dyn Credentials>) -> Self {
        Self { credentials, watched: Arc::default(), closed: watch::Sender::new(false), waiters: refresh_waiters() }
    }

    /// Begins to wait for changes of a credential. The first reading that is seen may have begun before this.
    pub fn join(&self, id: &CredentialRef) -> Waiter {
        let mut all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let watched = all.get(id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let watched =
                Arc::new(Watched { seen: watch::Sender::new(None), nudge: Notify::new(), turn: Arc::default() });
            all.insert(id.clone(), Arc::downgrade(&watched));
            let (shared, credentials) = (Arc::clone(&self.watched), Arc::clone(&self.credentials));
            tokio::spawn(read(Arc::downgrade(&watched), shared, credentials, id.clone()));
            watched
        });
        let seen = watched.seen.subscribe();
        self.waiters.increment(1);
        Waiter { watched, seen, waiters: self.waiters.clone() }
    }

    /// The row as it was read a moment ago for those who wait for it, if anybody does: whoever comes to wait, too, need not read it again.
    pub fn lately(&self, id: &CredentialRef) -> Option<Arc<CredentialRow>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).get(id).and_then(Weak::upgrade)?;
        let seen = watched.seen.borrow();
        let (began, row) = seen.as_ref()?;
        let row = row.as_ref().ok()?.clone();
        row.filter(|_| began.elapsed() < STALE)
    }

    /// A credential was changed by this replica: who waits for it need not wait for the next reading.
    pub fn changed(&self, id: &CredentialRef) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).get(id).and_then(Weak::upgrade);
        if let Some(watched) = watched {
            watched.nudge.notify_one();
        }
    }

    /// Nobody waits any more: the service drains.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Until [`Waiting::close`].
    pub async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives as long as this does.
        let _closed = closed.wait_for(|closed| *closed).await;
    }
}

impl Waiter {
    /// The next reading.
    pub async fn next(&mut self) -> Seen {
        // The sender lives as long as this does.
        let _changed = self.seen.changed().await;
        self.seen.borrow_and_update().as_ref().map_or(Ok(None), |(_, seen)| seen.clone())
    }

    /// The right to try for a lease, unless another one of this replica is just trying.
    pub fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.watched.turn).try_lock_owned().ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.decrement(1);
    }
}

/// Reads a credential again and again, for as long as somebody waits for it.
async fn read(
    watched: Weak<Watched>,
    all: Arc<Mutex<HashMap<CredentialRef, Weak<Watched>>>>,
    credentials: Arc<dyn Credentials>,
    id: CredentialRef,
) {
    loop {
        let pause = sleep(jittered(READ_EVERY, 0.2));
        {
            let Some(watched) = watched.upgrade() else { break };
            tokio::select! {
                () = pause => {}
                () = watched.nudge.notified() => {}
            }
        }
        if watched.strong_count() == 0 {
            break;
        }
        let began = Instant::now();
        let row = credentials.get(&id).await;
        let Some(watched) = watched.upgrade() else { break };
        watched.seen.send_replace(Some((began, row.map(|row| row.map(Arc::new)))));
    }
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    // Somebody may have come since, who has a reader of its own.
    if all.get(&id).is_some_and(|watched| watched.strong_count() == 0) {
        all.remove(&id);
    }
}

#[cfg(test)]
mod tests;
