//! Writing to the audit log. Its calls are made so that the order is hard to get wrong: a change needs an [`Intent`], which its
//! outcome consumes, and an answer needs an [`Audited`], which only a written entry gives.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use tracing::{debug, error};

use super::entry::{Chain, Entry, Outcome, StreamId, Subject, Versions};
use super::heads::CheckpointMac;
use super::keeper::{EVERY_ENTRIES, Heads, Keeper};
use super::sink::Sink;
use super::words::{Event, Reason};
use super::writer::{Queue, Writer};
use crate::crypto::Lineage;
use crate::ids::{Caller, CredentialRef, RequestId, TraceId};
use crate::randomness::NoRandomness;
use crate::secret::View;
use crate::store::{Operations, Revision};
use crate::telemetry;

/// Why an entry was not written, or not in time. Nothing may be shown or changed then; what the log says in the end, if it
/// says more, errs on the side of having been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// Perhaps standard output has a reader that does not read.
    #[error("the audit log did not take the entry in time")]
    TimedOut,
    /// The sink refuses what it is given.
    #[error("the audit log can't be written")]
    Failing,
    /// As many entries wait as may.
    #[error("the audit log has too many entries waiting")]
    Full,
    /// The service is stopping.
    #[error("the audit log is closed")]
    Closed,
    /// No entry has room for the caller's identity.
    #[error("the caller's identity is too long for the audit log")]
    TooLong,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The sink does not take the first entry.
    #[error(
        "the audit log does not start: {0}; mend what audit.sink names, since nothing is opened or sealed without it"
    )]
    NotWritten(#[from] AuditError),
    /// There is no name for the stream.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// There is no thread to be had.
    #[error("the audit log's thread can't be started: {0}")]
    NoThread(std::io::Error),
}

/// The time limits of a log.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two `fsync` of a file.
    pub fsync_interval: Duration,
    /// A call waits for its entry no longer.
    pub timeout: Duration,
}

/// Who asks, and under which names: the same in every entry of one request.
#[derive(Clone, Debug)]
pub struct Origin {
    /// `None`: the service itself.
    pub caller: Option<Caller>,
    /// The request, or a job.
    pub request: Option<RequestId>,
    /// The trace that it belongs to.
    pub trace: Option<TraceId>,
}

impl Origin {
    /// A caller, in the call that this is part of.
    pub fn of(caller: &Caller) -> Self {
        Self { caller: Some(caller.clone()), request: telemetry::request_id(), trace: telemetry::trace_id() }
    }

    /// The service itself, under a name such as a job's.
    pub fn service(request: Option<RequestId>) -> Self {
        Self { caller: None, request, trace: None }
    }
}

/// A secret that was opened and is about to be shown.
#[derive(Clone, Copy, Debug)]
pub struct Disclosure<'a> {
    /// By which call.
    pub event: Event,
    /// Which credential's.
    pub credential: &'a CredentialRef,
    /// How much of it.
    pub view: View,
    /// At which revision.
    pub revision: Revision,
    /// Sealed under which key versions.
    pub lineage: Lineage,
}

/// An entry was written: what it tells may be told.
#[must_use = "an answer is given only for an entry that was written"]
#[derive(Debug)]
pub struct Audited(());

/// A change that was announced and may now be made. Dropped without its outcome, the report shows it as unknown.
#[must_use = "an intent without its outcome is reported as unknown"]
pub struct Intent {
    log: AuditLog,
    entry: Entry,
}

/// The audit log of this process. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

struct Inner {
    target: Target,
    clock: fn() -> Timestamp,
}

enum Target {
    Written {
        queue: Arc<Queue>,
        keeper: Keeper,
        timeout: Duration,
    },
    Recorded(Mutex<(Chain, Vec<u8>)>),
    /// [`AuditLog::insecure_none`]
    None,
}

impl AuditLog {
    /// Starts a new stream on a sink. Its head goes to the store, with a MAC if there is somebody to make it.
    ///
    /// # Errors
    /// A [`StartError`], if the sink does not take the first entry. A store that is away stops nothing here.
    pub async fn start(
        sink: Box<dyn Sink>,
        timing: Timing,
        operations: Arc<dyn Operations>,
        mac: Option<Arc<dyn CheckpointMac>>,
        clock: fn() -> Timestamp,
    ) -> Result<Self, StartError> {
        let stream = StreamId::random()?;
        let chain = Chain::new(stream);
        let queue = Arc::new(Queue::new(&chain, sink.as_ref()));
        // Before the first entry, so that no stream is there that the store does not know.
        let heads = Heads { stream, operations, mac, clock };
        let keeper = Keeper::start(heads, Arc::clone(&queue), timing.fsync_interval).await;
        let writer = Writer { queue: Arc::clone(&queue), chain, sink, tell_every: EVERY_ENTRIES };
        writer.spawn().map_err(StartError::NoThread)?;
        let target = Target::Written { queue, keeper, timeout: timing.timeout };
        let log = Self(Arc::new(Inner { target, clock }));
        let Audited(()) = log.write(stream_entry(Event::StreamOpened), false).await?;
        debug!(%stream, "audit log started");
        Ok(log)
    }

    /// A log that keeps its lines in memory, without a thread or a time limit: for tests.
    pub fn recording(clock: fn() -> Timestamp) -> (Self, Recording) {
        let stream = StreamId::random().unwrap_or(StreamId::ZERO);
        let target = Target::Recorded(Mutex::new((Chain::new(stream), Vec::new())));
        let log = Self(Arc::new(Inner { target, clock }));
        (log.clone(), Recording(log))
    }

    /// No log at all: for measuring what it costs.
    pub fn insecure_none() -> Self {
        Self(Arc::new(Inner { target: Target::None, clock: Timestamp::now }))
    }

    /// A secret was opened: the entry that it may be shown by. Given up before it is written, it may be left out.
    ///
    /// # Errors
    /// An [`AuditError`]: the secret must not be shown.
    pub async fn read(&self, origin: &Origin, disclosure: Disclosure<'_>) -> Result<Audited, AuditError> {
        let Disclosure { event, credential, view, revision, lineage } = disclosure;
        let subject = Subject {
            view: Some(view),
            revision: Some(revision),
            versions: Some(lineage.into()),
            ..Subject::credential(credential)
        };
        self.write(entry(origin, event, subject, Outcome::Ok), true).await
    }

    /// Something that is no secret is about to be shown.
    ///
    /// # Errors
    /// An [`AuditError`]: it must not be shown.
    pub async fn shown(&self, origin: &Origin, event: Event, subject: Subject) -> Result<Audited, AuditError> {
        self.write(entry(origin, event, subject, Outcome::Ok), true).await
    }

    /// Something was refused, or failed before anything was to be changed. As of readings, there are never so many of them that an outcome
    /// has no room; given up before it is written, it may be left out.
    ///
    /// # Errors
    /// An [`AuditError`]. What was refused stays refused.
    pub async fn refusal(
        &self,
        origin: &Origin,
        event: Event,
        subject: Subject,
        reason: Reason,
    ) -> Result<Audited, AuditError> {
        self.write(entry(origin, event, subject, Outcome::Refused(reason)), true).await
    }

    /// Long work, or a part of it, has ended: it was done, or why not. It has happened, as the outcome of an [`Intent`] has.
    ///
    /// # Errors
    /// An [`AuditError`].
    pub async fn ended(
        &self,
        origin: &Origin,
        event: Event,
        subject: Subject,
        failed: Option<Reason>,
    ) -> Result<Audited, AuditError> {
        self.write(entry(origin, event, subject, failed.map_or(Outcome::Ok, Outcome::Refused)), false).await
    }

    /// Something is about to be changed. The subject's revision is the one that is expected there. A change that is decided
    /// anew, because another writer was quicker, has a new intent; the outcome of the last is theirs, too.
    ///
    /// # Errors
    /// An [`AuditError`]: it must not be changed.
    pub async fn intent(&self, origin: &Origin, event: Event, subject: Subject) -> Result<Intent, AuditError> {
        let entry = entry(origin, event, subject, Outcome::Intent);
        let Audited(()) = self.write(entry.clone(), true).await?;
        Ok(Intent { log: self.clone(), entry })
    }

    /// Whether entries are taken, as far as is known without trying.
    pub fn is_available(&self) -> bool {
        match &self.0.target {
            Target::Written { queue, timeout: limit, .. } => {
                let since = (self.0.clock)().saturating_sub(*limit).unwrap_or(Timestamp::MIN);
                queue.goes_on(since)
            }
            Target::Recorded(_) | Target::None => true,
        }
    }

    /// Ends the stream: its last entry, and its head as that of a closed one. Entries that come later are refused.
    pub async fn close(&self) {
        let Target::Written { queue, keeper, timeout: patience } = &self.0.target else { return };
        let last = queue.close_with(stream_entry(Event::StreamClosed), self.0.clock, *patience);
        let written = timeout(*patience, last).await.is_ok_and(|accepted| accepted.is_ok());
        if !written {
            error!("the audit log's last entries may not be written");
        }
        keeper.end(written).await;
    }

    async fn write(&self, entry: Entry, may_lapse: bool) -> Result<Audited, AuditError> {
        if !entry.fits() {
            return Err(AuditError::TooLong);
        }
        match &self.0.target {
            Target::Written { queue, timeout: limit, .. } => {
                let accepted = timeout(*limit, queue.put(entry, may_lapse, self.0.clock)?).await;
                accepted.map_err(|_| AuditError::TimedOut)?.map_err(|_| AuditError::Closed)?;
            }
            Target::Recorded(recorded) => {
                let (chain, lines) = &mut *recorded.lock().unwrap_or_else(PoisonError::into_inner);
                chain.append((self.0.clock)(), &entry, lines);
            }
            Target::None => {}
        }
        Ok(Audited(()))
    }
}

/// Without [`AuditLog::close`], the stream has no end, and its thread has one.
impl Drop for Inner {
    fn drop(&mut self) {
        if let Target::Written { queue, .. } = &self.target {
            queue.abandon();
        }
    }
}

impl Intent {
    /// It was done.
    ///
    /// # Errors
    /// An [`AuditError`]: it was done all the same, and the caller must hear of the error.
    pub async fn done(self, revision: Option<Revision>, versions: Option<Versions>) -> Result<Audited, AuditError> {
        let Self { log, mut entry } = self;
        entry.outcome = Outcome::Ok;
        entry.subject.revision = revision.or(entry.subject.revision);
        entry.subject.versions = versions.or(entry.subject.versions);
        log.write(entry, false).await
    }

    /// It was not done, or nobody knows: the reason tells.
    ///
    /// # Errors
    /// An [`AuditError`], which is not worse for the caller than what it hears anyway.
    pub async fn failed(self, reason: Reason) -> Result<Audited, AuditError> {
        let Self { log, mut entry } = self;
        entry.outcome = Outcome::Refused(reason);
        log.write(entry, false).await
    }
}

/// The lines of [`AuditLog::recording`].
pub struct Recording(AuditLog);

impl Recording {
    /// All lines so far.
    pub fn lines(&self) -> String {
        let Target::Recorded(recorded) = &self.0.0.target else { return String::new() };
        let (_, lines) = &*recorded.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(lines).into_owned()
    }
}

fn entry(origin: &Origin, event: Event, subject: Subject, outcome: Outcome) -> Entry {
    let Origin { caller, request, trace } = origin.clone();
    Entry { event, caller, request, trace, subject, outcome }
}

fn stream_entry(event: Event) -> Entry {
    let origin = Origin { caller: None, request: None, trace: None };
    entry(&origin, event, Subject::default(), Outcome::Ok)
}

#[cfg(test)]
mod tests;
