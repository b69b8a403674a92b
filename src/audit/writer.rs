//! The queue of entries, and the thread that chains and writes them. It may block in the sink as long as it likes: whoever waits
//! for an entry has a time limit of its own.
//!
//! What was chained is written, octet for octet, before anything else: a sink that takes half a line and then fails is
//! given the other half when it takes octets again. So a stream has no gap while its process lives.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tracing::{error, info};

use super::AuditError;
use super::entry::{Chain, Entry, Hash};
use super::sink::Sink;

/// Entries that wait, at most: more than can be in flight. Above it calls fail at once. For what has happened already, and for nothing
/// else, there is as much room again.
const MAX_WAITING: usize = 4_096;
/// Lines are handed to the sink in pieces of about so many octets, a pipe's usual size; each is answered when it is taken.
const PIECE_OCTETS: usize = 64 << 10;
/// A sink that failed is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// And one that only has no room now, such as a pipe that does not block.
const TRY_AGAIN_SOON: Duration = Duration::from_millis(2);

/// An entry on its way.
struct Queued {
    time: Timestamp,
    entry: Entry,
    /// Whether it may be left out once nobody waits for it: then what it says has not happened and will not.
    may_lapse: bool,
    accepted: oneshot::Sender<()>,
}

/// What the callers, the writer and the keeper of the head share.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    /// The sink refuses octets.
    failing: AtomicBool,
    /// What was written can't be made safe.
    unsafe_file: AtomicBool,
    written: Mutex<Written>,
    /// Many entries were written since the keeper looked.
    pub(super) many_written: Notify,
}

struct Waiting {
    entries: Vec<Queued>,
    /// When the oldest entry that the writer has taken was put in, until it is written.
    writing: Option<Timestamp>,
    /// The writer sleeps, and has to be woken.
    asleep: bool,
    /// `Some`: no entry is taken any more, and from that time on a sink that fails is given up.
    closed: Option<Instant>,
}

/// How far the stream is written.
#[derive(Clone)]
pub(super) struct Written {
    /// Of the last entry.
    pub(super) seq: u64,
    /// Of the last entry.
    pub(super) hash: Hash,
    /// What has to be synced for it to be safe. What was written to other files is.
    pub(super) file: Option<Arc<File>>,
}

impl Queue {
    pub(super) fn new(chain: &Chain, sink: &dyn Sink) -> Self {
        let (seq, hash) = chain.end();
        Self {
            waiting: Mutex::new(Waiting { entries: Vec::new(), writing: None, asleep: false, closed: None }),
            filled: Condvar::new(),
            failing: AtomicBool::new(false),
            unsafe_file: AtomicBool::new(false),
            written: Mutex::new(Written { seq, hash, file: sink.file() }),
            many_written: Notify::new(),
        }
    }

    /// Puts an entry at the end. What is returned hears when the sink has taken it. What `may_lapse` is not taken at all while nothing
    /// can be written; the rest has happened, and may be written when the sink is well again.
    pub(super) fn put(
        &self,
        entry: Entry,
        may_lapse: bool,
        clock: fn() -> Timestamp,
    ) -> Result<oneshot::Receiver<()>, AuditError> {
        if may_lapse && self.is_failing() {
            return Err(AuditError::Failing);
        }
        let (accepted, waiter) = oneshot::channel();
        let mut waiting = locked(&self.waiting);
        if waiting.closed.is_some() {
            return Err(AuditError::Closed);
        }
        if waiting.entries.len() >= if may_lapse { MAX_WAITING } else { 2 * MAX_WAITING } {
            return Err(AuditError::Full);
        }
        // Under the lock, so that times have the order of the entries.
        waiting.entries.push(Queued { time: clock(), entry, may_lapse, accepted });
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.filled.notify_one();
        }
        Ok(waiter)
    }

    /// Takes this entry and none after it. The writer ends when all are written, or when the sink still fails after `patience`.
    pub(super) fn close_with(
        &self,
        entry: Entry,
        clock: fn() -> Timestamp,
        patience: Duration,
    ) -> oneshot::Receiver<()> {
        let (accepted, waiter) = oneshot::channel();
        let mut waiting = locked(&self.waiting);
        if waiting.closed.is_none() {
            waiting.entries.push(Queued { time: clock(), entry, may_lapse: false, accepted });
            waiting.closed = Some(Instant::now() + patience);
        }
        drop(waiting);
        self.filled.notify_one();
        waiter
    }

    /// Takes no further entry, and waits for nothing.
    pub(super) fn abandon(&self) {
        locked(&self.waiting).closed.get_or_insert_with(Instant::now);
        self.filled.notify_one();
    }

    /// Whether what was written can't be made safe; answers what was known before.
    pub(super) fn set_unsafe(&self, is_unsafe: bool) -> bool {
        self.unsafe_file.swap(is_unsafe, Ordering::Relaxed)
    }

    /// Whether nothing can be accepted for now.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.unsafe_file.load(Ordering::Relaxed)
    }

    /// Whether entries are taken and written, as far as is known: one from before this time that still waits has nobody who reads
    /// what the sink was given.
    pub(super) fn goes_on(&self, before: Timestamp) -> bool {
        let waiting = locked(&self.waiting);
        let oldest = waiting.writing.or(waiting.entries.first().map(|oldest| oldest.time));
        !self.is_failing() && oldest.is_none_or(|oldest| oldest >= before)
    }

    pub(super) fn written(&self) -> Written {
        locked(&self.written).clone()
    }

    /// All that waits, in the place of `taken`, which is empty. False: nothing will come any more.
    fn take(&self, taken: &mut Vec<Queued>) -> bool {
        let mut waiting = locked(&self.waiting);
        waiting.writing = None;
        while waiting.entries.is_empty() {
            if waiting.closed.is_some() {
                return false;
            }
            waiting.asleep = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.asleep = false;
        waiting.writing = waiting.entries.first().map(|oldest| oldest.time);
        std::mem::swap(&mut waiting.entries, taken);
        true
    }

    #[cfg(test)]
    pub(super) fn written_for_test(&self, seq: u64, hash: Hash) {
        let mut written = locked(&self.written);
        (written.seq, written.hash) = (seq, hash);
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        locked(&self.waiting).entries.len()
    }

    fn is_given_up(&self) -> bool {
        locked(&self.waiting).closed.is_some_and(|patience| Instant::now() >= patience)
    }
}

/// A thread that panicked holding one of these locks left nothing half done: each section is a few assignments.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's state.
pub(super) struct Writer {
    pub(super) queue: Arc<Queue>,
    pub(super) chain: Chain,
    pub(super) sink: Box<dyn Sink>,
    /// The keeper is told when so many entries were written since it was told last.
    pub(super) tell_every: u64,
}

/// The sink failed until the end.
struct GivenUp;

/// However the thread ends, nobody waits for it any longer.
struct Ended(Arc<Queue>);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.failing.store(true, Ordering::Relaxed);
        }
        self.0.abandon();
        locked(&self.0.waiting).entries.clear();
    }
}

impl Writer {
    /// Starts the thread. It ends when the queue is closed.
    pub(super) fn spawn(self) -> std::io::Result<()> {
        let ended = Ended(Arc::clone(&self.queue));
        let run = move || {
            let _ended = ended;
            self.run();
        };
        thread::Builder::new().name("audit-writer".to_owned()).spawn(run).map(drop)
    }

    fn run(mut self) {
        let (mut taken, mut lines, mut waiters) = (Vec::new(), Vec::with_capacity(2 * PIECE_OCTETS), Vec::new());
        let mut told = self.chain.end().0;
        while self.queue.take(&mut taken) {
            let mut entries = taken.drain(..).peekable();
            while let Some(Queued { time, entry, may_lapse, accepted }) = entries.next() {
                if !(may_lapse && accepted.is_closed()) {
                    self.chain.append(time, &entry, &mut lines);
                    waiters.push(accepted);
                }
                if lines.len() < PIECE_OCTETS && entries.peek().is_some() {
                    continue;
                }
                // Those who wait for what is not written hear it: their channels are dropped.
                if Self::write(&self.queue, self.sink.as_mut(), &lines).is_err() {
                    return;
                }
                lines.clear();
                let (seq, hash) = self.chain.end();
                *locked(&self.queue.written) = Written { seq, hash, file: self.sink.file() };
                // Whoever has gone does not hear of it, and the entry stands.
                waiters.drain(..).for_each(|waiter: oneshot::Sender<()>| {
                    let _ = waiter.send(());
                });
                if seq - told >= self.tell_every {
                    told = seq;
                    self.queue.many_written.notify_one();
                }
            }
        }
    }

    /// Writes whole lines, and if the sink fails, tries until it takes them.
    fn write(queue: &Queue, sink: &mut dyn Sink, mut lines: &[u8]) -> Result<(), GivenUp> {
        let mut between_lines = true;
        while !lines.is_empty() {
            let moved = if between_lines { sink.between_lines() } else { Ok(()) };
            match moved.and_then(|()| sink.write(lines)) {
                Ok(0) => Self::failed(queue, &ErrorKind::WriteZero.into())?,
                Ok(taken) => {
                    lines = lines.get(taken..).unwrap_or_default();
                    between_lines = false;
                    if queue.failing.swap(false, Ordering::Relaxed) {
                        info!("the audit log is written again");
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => Self::failed(queue, &error)?,
            }
        }
        Ok(())
    }

    fn failed(queue: &Queue, error: &std::io::Error) -> Result<(), GivenUp> {
        // A reader that is slow is no failure: whoever waits has a time limit.
        let slow = error.kind() == ErrorKind::WouldBlock;
        if !slow && !queue.failing.swap(true, Ordering::Relaxed) {
            error!(%error, "the audit log can't be written: nothing is opened or sealed until it can");
        }
        if queue.is_given_up() {
            return Err(GivenUp);
        }
        thread::sleep(if slow { TRY_AGAIN_SOON } else { TRY_AGAIN });
        Ok(())
    }
}
