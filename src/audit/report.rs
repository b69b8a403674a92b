//! The question of a breach: which credentials did this caller see, at which revision, in which view? The same for a customer
//! or a credential. The log is verified on the way, since an answer from one that was tampered with is none.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use jiff::Timestamp;

use super::entry::{Outcome, StreamId, entry_time};
use super::finding::Verdict;
use super::heads::{CheckpointMac, Head};
use super::line::Line;
use super::verify::{Verifier, VerifyError};
use super::words::{Event, Reason};
use crate::factors::FactorError;
use crate::ids::{CredentialId, CustomerId};

/// The outcome of a change of which nobody knows whether it was made.
pub const UNKNOWN: &str = "unknown";
/// Different rows in one report. Memory is bounded; a narrower question has fewer.
const MAX_ROWS: usize = 1_000_000;

/// Whom and when the report is about. All that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Who asked.
    pub caller: Option<String>,
    /// Whose credentials.
    pub customer: Option<CustomerId>,
    /// Which credential.
    pub credential: Option<CredentialId>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before this.
    pub until: Option<Timestamp>,
}

/// What happened, and how often. Entries that differ in nothing but time and request are one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Who asked. Empty: the service itself.
    pub caller: String,
    /// Whose.
    pub customer: String,
    /// Which credential. Empty, as any field that does not apply.
    pub credential: String,
    /// What was asked for.
    pub event: String,
    /// How much of the secret.
    pub view: String,
    /// Which revision was read, or made; of a change that is unknown, the one that it expected.
    pub revision: Option<u64>,
    /// `ok`, a reason, or [`UNKNOWN`].
    pub outcome: String,
}

/// How often, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// Entries.
    pub count: u64,
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
}

impl Row {
    /// Whether the caller has the secret of that revision from it: it was shown, or handed in.
    pub fn discloses(&self) -> Disclosed {
        let is_secret = [
            Event::EncryptCredential,
            Event::DecryptCredential,
            Event::BatchDecryptCredentials,
            Event::AcquireRefresh,
            Event::CompleteRefresh,
        ];
        if !is_secret.iter().any(|event| event.as_str() == self.event) {
            return Disclosed::No;
        }
        match self.outcome.as_str() {
            Outcome::OK => Disclosed::Yes,
            UNKNOWN => Disclosed::Perhaps,
            _ => Disclosed::No,
        }
    }

    /// Which revision's secret the caller has or may have, if the log says so: a change that is unknown would have made another one
    /// than it expected.
    pub fn revision_seen(&self) -> Option<u64> {
        match self.discloses() {
            Disclosed::Yes => self.revision,
            Disclosed::Perhaps if self.event == Event::AcquireRefresh.as_str() => self.revision,
            Disclosed::Perhaps | Disclosed::No => None,
        }
    }
}

/// Whether a caller has a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disclosed {
    /// It has.
    Yes,
    /// It may have: an intent was written, and no outcome.
    Perhaps,
    /// Not from this.
    No,
}

impl Disclosed {
    /// For programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Perhaps => "perhaps",
            Self::No => "no",
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The log's.
    #[error(transparent)]
    Log(#[from] VerifyError),
    /// Memory is bounded.
    #[error("the report has more than {MAX_ROWS} rows: ask for less, such as a shorter time")]
    TooManyRows,
}

/// Reads logs, and then answers.
pub struct Report {
    verifier: Verifier,
    selection: Selection,
}

/// The answer.
#[derive(Debug)]
pub struct Answer {
    /// In the order of their fields.
    pub rows: Vec<(Row, Times)>,
    /// Whether the log may be believed.
    pub verdict: Verdict,
}

impl Report {
    /// `heads` and `partial` as [`Verifier::new`].
    pub fn new(filter: Filter, heads: Option<Vec<Head>>, partial: bool) -> Self {
        let since = filter.since.map(entry_time).unwrap_or_default();
        let until = filter.until.map(entry_time);
        let (rows, intents, ended) = (HashMap::new(), HashMap::new(), HashSet::new());
        let selection = Selection { filter, since, until, rows, intents, ended };
        Self { verifier: Verifier::new(heads, partial), selection }
    }

    /// Reads one file. Those of a stream are read in their order: an intent that is read after its outcome counts as unknown.
    ///
    /// # Errors
    /// A [`ReportError`].
    pub fn read(&mut self, name: &str, log: impl Read) -> Result<(), ReportError> {
        let Self { verifier, selection } = self;
        verifier.read_with(name, log, |line| selection.entry(line))?;
        if selection.is_full() { Err(ReportError::TooManyRows) } else { Ok(()) }
    }

    /// Checks the MACs of all heads, as [`Verifier::check_macs`].
    ///
    /// # Errors
    /// There was no answer.
    pub async fn check_macs(&mut self, mac: &dyn CheckpointMac) -> Result<(), FactorError> {
        self.verifier.check_macs(mac).await
    }

    /// All that was selected, and what the verification found.
    pub fn finish(self) -> Answer {
        let Self { verifier, mut selection } = self;
        for (row, time) in std::mem::take(&mut selection.intents).into_values().flatten() {
            selection.count(Row { outcome: UNKNOWN.to_owned(), ..row }, &time);
        }
        let mut rows: Vec<_> = selection.rows.into_iter().collect();
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        Answer { rows, verdict: verifier.finish() }
    }
}

/// The rows so far.
struct Selection {
    filter: Filter,
    since: String,
    until: Option<String>,
    rows: HashMap<Row, Times>,
    /// Intents whose outcome was not read yet, and their times.
    intents: HashMap<Change, Vec<(Row, String)>>,
    /// Jobs whose outcome was read before their intent: it stands in the stream of another process.
    ended: HashSet<Change>,
}

/// What one process begins and any other may end.
const JOBS: [Event; 3] = [Event::ReencryptionJob, Event::CustomerKeyRotationJob, Event::RewrapJob];

/// What an intent and its outcome have in common. The request's id is of one call alone, whatever its caller asked for
/// ([`RequestId::of_call`](crate::ids::RequestId::of_call)): no later call resolves what this one left open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Change {
    /// `None`: a job, whose name no other has.
    stream: Option<StreamId>,
    request: String,
    event: String,
    caller: String,
    customer: String,
    credential: String,
}

impl Selection {
    fn entry(&mut self, line: &Line<'_>) {
        let caller = line.caller();
        let Filter { caller: by, customer, credential, .. } = &self.filter;
        let is_asked_for = by.as_deref().is_none_or(|by| caller.as_deref() == Some(by))
            && customer.as_ref().is_none_or(|id| line.customer == Some(id.as_str()))
            && credential.as_ref().is_none_or(|id| line.credential == Some(id.as_str()));
        // Beyond its bound the report is refused when the file has been read.
        if !is_asked_for || self.is_full() {
            return;
        }
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let mut row = Row {
            caller: text(caller.as_deref()),
            customer: text(line.customer),
            credential: text(line.credential),
            event: line.event.to_owned(),
            view: text(line.view),
            revision: line.revision,
            outcome: line.outcome.to_owned(),
        };
        let is_intent = line.outcome == Outcome::INTENT;
        let is_job = JOBS.iter().any(|event| event.as_str() == line.event);
        if is_intent || is_job || !self.intents.is_empty() {
            let change = Change {
                stream: (!is_job).then_some(line.stream),
                request: text(line.request()),
                event: row.event.clone(),
                caller: row.caller.clone(),
                customer: row.customer.clone(),
                credential: row.credential.clone(),
            };
            if is_intent && self.ended.remove(&change) {
                return;
            }
            if is_intent {
                return self.intents.entry(change).or_default().push((row, line.time.to_owned()));
            }
            match self.intents.remove(&change) {
                // A job that was cancelled has done what it has done.
                Some(_) if !is_job && Reason::is_in_doubt(line.outcome) => UNKNOWN.clone_into(&mut row.outcome),
                None if is_job => drop(self.ended.insert(change)),
                Some(_) | None => {}
            }
        }
        self.count(row, line.time);
    }

    fn is_full(&self) -> bool {
        self.rows.len() + self.intents.len() + self.ended.len() > MAX_ROWS
    }

    fn count(&mut self, row: Row, time: &str) {
        if *time < *self.since || self.until.as_deref().is_some_and(|until| time >= until) {
            return;
        }
        let once = || Times { count: 0, first: time.to_owned(), last: time.to_owned() };
        let times = self.rows.entry(row).or_insert_with(once);
        times.count += 1;
        if *time < *times.first {
            time.clone_into(&mut times.first);
        }
        if *time > *times.last {
            time.clone_into(&mut times.last);
        }
    }
}

#[cfg(test)]
mod tests;
