//! What each replica reports to the store, so that waiting for all of them is a fact and not a guess.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use minicbor::{Decode, Encode};
use tokio::time::sleep;
use tracing::warn;

use super::record::{BadRecord, decode, encode, micros, time, version};
use crate::crypto::Version;
use crate::keyring::Keyring;
use crate::randomness::NoRandomness;
use crate::store::{
    ChangeError, Decision, OperationId, OperationRow, Operations, StoreError, WriteId, change, row_time,
};

/// How often a replica reports.
const REPORT: Duration = Duration::from_secs(10);
/// One that has not reported for so long is gone: it can't reach the store, so it writes nothing either.
pub const GONE: SignedDuration = SignedDuration::from_secs(60);
/// A report further ahead of this process's clock than this comes from a clock that is wrong, or meets one.
pub const AHEAD: SignedDuration = SignedDuration::from_secs(5);
/// And is forgotten after so long.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(24);
/// Of reports in the operations table.
pub(super) const KIND: &str = "replica";

/// The name of a process, new at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaId(String);

impl ReplicaId {
    /// 64 random bits.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        Ok(Self(format!("{:016x}", getrandom::u64()?)))
    }

    /// Lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a replica reported last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The name of its process.
    pub id: String,
    /// Of which release.
    pub release: String,
    /// The version of the codebase key that it seals under, from its start to its end. `None`: a release before this one did not tell.
    pub codebase: Option<Version>,
    /// The version of the environment key that it seals under. `None`: it does not seal now, for want of keys that are fresh, and has to
    /// read them before it does.
    pub environment: Option<Version>,
    /// What it wraps new customer keys with.
    pub wraps_with: String,
    /// Since when these are its primaries.
    pub since: Timestamp,
    /// Whether it had others before. One that has had these from its start has nothing under way under others.
    pub had_others: bool,
    /// When it reported.
    pub report_time: Timestamp,
}

impl Replica {
    /// Whether it may still seal.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now.duration_since(self.report_time) < GONE
    }

    /// Whether one of the two clocks is wrong, so that its times say nothing here.
    fn is_from_the_future(&self, now: Timestamp) -> bool {
        self.report_time.max(self.since).duration_since(now) > AHEAD
    }
}

/// What the replicas reported in the last day.
pub struct Reported {
    /// Those whose reports can be read.
    pub replicas: Vec<Replica>,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Reported {
    /// Of replicas whose reports can all be read.
    #[cfg(test)]
    pub(crate) fn of(replicas: Vec<Replica>) -> Self {
        Self { replicas, unreadable: Vec::new() }
    }

    /// How many may seal, under nobody knows what: their reports can't be read here. They are logged.
    pub fn unreadable(&self, now: Timestamp) -> usize {
        self.unreadable.iter().filter(|report| report.may_be_alive(now)).count()
    }
}

/// A report that this release can't read: a newer one wrote it, or it is damaged.
pub(super) struct Unreadable {
    /// `None`: not even that can be read.
    report_time: Option<Timestamp>,
}

impl Unreadable {
    /// Whether its replica may still seal, as far as anybody can tell.
    fn may_be_alive(&self, now: Timestamp) -> bool {
        self.report_time.is_none_or(|time| now.duration_since(time) < GONE)
    }
}

#[derive(Encode, Decode)]
struct ReplicaFields {
    #[n(0)]
    release: String,
    #[n(1)]
    codebase: Option<u32>,
    #[n(2)]
    environment: Option<u32>,
    #[n(3)]
    since: i64,
    #[n(4)]
    report_time: i64,
    #[n(5)]
    wraps_with: String,
    #[n(6)]
    had_others: bool,
}

/// The one field of a report that is read also where the others can't be.
#[derive(Decode)]
struct ReportTime {
    #[n(4)]
    report_time: i64,
}

/// Reports for one replica.
pub struct Reporter {
    id: ReplicaId,
    keyring: Keyring,
    wraps_with: String,
    operations: Arc<dyn Operations>,
    clock: fn() -> Timestamp,
    known: Mutex<Option<Known>>,
    /// Of those whose reports are from the future.
    met: Mutex<HashMap<String, Met>>,
}

/// A report from the future, and when this process first met it so, by its own clock.
#[derive(Clone, Copy)]
struct Met {
    report_time: Timestamp,
    reported: Timestamp,
    since: Timestamp,
    changed: Timestamp,
}

/// What was reported last.
#[derive(Clone, Copy)]
struct Known {
    primaries: (Version, Option<Version>),
    since: Timestamp,
    had_others: bool,
}

impl Reporter {
    /// Reports of this replica, which wraps customer keys with `wraps_with`.
    pub fn new(
        id: ReplicaId,
        keyring: Keyring,
        wraps_with: String,
        operations: Arc<dyn Operations>,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self { id, keyring, wraps_with, operations, clock, known: Mutex::default(), met: Mutex::default() }
    }

    /// The replica that this is.
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }

    /// What this replica wraps customer keys with.
    pub fn wraps_with(&self) -> &str {
        &self.wraps_with
    }

    /// Reports once. To be done before the replica serves, so that none seals which nobody knows of.
    pub async fn report(&self) {
        if let Err(error) = write(self.operations.as_ref(), &self.present().await).await {
            warn!(%error, "this replica's primaries could not be reported");
        }
    }

    /// Reports every ten seconds, for as long as the process lives; and forgets replicas that are long gone.
    pub async fn report_for_ever(self: Arc<Self>) {
        if let Err(error) = forget_gone(self.operations.as_ref(), (self.clock)()).await {
            warn!(%error, "reports of replicas that are gone could not be removed");
        }
        loop {
            sleep(REPORT).await;
            self.report().await;
        }
    }

    /// Takes the report back, at the end: nothing is sealed here any more, and nobody has to wait.
    pub async fn leave(&self) {
        let id = OperationId { kind: KIND, id: self.id.to_string() };
        if let Err(error) = remove(self.operations.as_ref(), &id).await {
            warn!(%error, "this replica's report could not be taken back: jobs wait for it for a minute");
        }
    }

    /// What is to be reported now.
    pub(super) async fn present(&self) -> Replica {
        let environment = self.keyring.primaries().await.ok().map(|(_, environment)| environment);
        let primaries = (self.keyring.codebase_primary(), environment);
        let now = row_time((self.clock)());
        let known = {
            let mut last = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let known = match *last {
                Some(known) if known.primaries == primaries => known,
                before => Known { primaries, since: now, had_others: before.is_some() },
            };
            *last = Some(known);
            known
        };
        Replica {
            id: self.id.to_string(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            codebase: Some(primaries.0),
            environment,
            wraps_with: self.wraps_with.clone(),
            since: known.since,
            had_others: known.had_others,
            report_time: now,
        }
    }

    /// Reports from the future, with this process's own times in the place of theirs: a replica is alive for as long as its report is
    /// seen to change. Each is named in the log when it is met.
    pub(super) fn by_our_time(&self, replicas: Vec<Replica>, now: Timestamp) -> Vec<Replica> {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.retain(|id, _| replicas.iter().any(|replica| replica.id == *id && replica.is_from_the_future(now)));
        let replaced = replicas.into_iter().map(|replica| {
            if !replica.is_from_the_future(now) {
                return replica;
            }
            let known = met.entry(replica.id.clone()).or_insert_with(|| {
                let ahead_s = replica.report_time.max(replica.since).duration_since(now).as_secs();
                warn!(
                    replica = replica.id,
                    ahead_s, "the report of a replica is from the future: its clock is wrong, or was, or this one's is"
                );
                Met { report_time: replica.report_time, reported: now, since: replica.since, changed: now }
            });
            if known.report_time != replica.report_time {
                (known.report_time, known.reported) = (replica.report_time, now);
            }
            if known.since != replica.since {
                (known.since, known.changed) = (replica.since, now);
            }
            Replica { report_time: known.reported, since: replica.since.min(known.changed), ..replica }
        });
        replaced.collect()
    }
}

/// Why a report was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    #[error(transparent)]
    Store(#[from] ChangeError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

pub(super) async fn write(operations: &dyn Operations, report: &Replica) -> Result<(), ReportError> {
    let body = encode(&ReplicaFields {
        release: report.release.clone(),
        codebase: report.codebase.map(Version::get),
        environment: report.environment.map(Version::get),
        since: micros(report.since),
        report_time: micros(report.report_time),
        wraps_with: report.wraps_with.clone(),
        had_others: report.had_others,
    });
    let id = OperationId { kind: KIND, id: report.id.clone() };
    change(operations, &id, |_| {
        let row = WriteId::random().map(|write_id| OperationRow { id: id.clone(), write_id, body: body.clone() });
        std::future::ready(row.map(|row| Decision::Replace(row, ())).map_err(ReportError::from))
    })
    .await
}

async fn forget_gone(operations: &dyn Operations, now: Timestamp) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = operations.query(KIND, after.as_deref(), 500).await?;
        for row in page.rows {
            if report_time(&row).is_some_and(|time| now.duration_since(time) >= FORGOTTEN) {
                remove(operations, &row.id).await?;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Nobody but its replica writes a report, so the row that is read is the one that goes.
pub(super) async fn remove(operations: &dyn Operations, id: &OperationId) -> Result<(), StoreError> {
    if let Some(row) = operations.get(id).await? {
        operations.remove(id, row.write_id).await?;
    }
    Ok(())
}

/// Every replica that reported in the last day. A report that can't be read is logged, and hides no other.
pub(super) async fn all(operations: &dyn Operations, now: Timestamp) -> Result<Reported, StoreError> {
    let (mut reported, mut after) = (Reported { replicas: Vec::new(), unreadable: Vec::new() }, None);
    loop {
        let page = operations.query(KIND, after.as_deref(), 500).await?;
        for row in page.rows {
            let time = report_time(&row);
            if time.is_some_and(|time| now.duration_since(time) >= FORGOTTEN) {
                continue;
            }
            match read(&row) {
                Ok(replica) => reported.replicas.push(replica),
                Err(BadRecord) => {
                    warn!(
                        replica = row.id.id,
                        "the report of a replica can't be read: a job that must know what it seals under waits"
                    );
                    reported.unreadable.push(Unreadable { report_time: time });
                }
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(reported);
        }
    }
}

fn report_time(row: &OperationRow) -> Option<Timestamp> {
    decode::<ReportTime>(&row.body).and_then(|fields| time(fields.report_time)).ok()
}

fn read(row: &OperationRow) -> Result<Replica, BadRecord> {
    let fields: ReplicaFields = decode(&row.body)?;
    Ok(Replica {
        id: row.id.id.clone(),
        release: fields.release,
        codebase: fields.codebase.map(version).transpose()?,
        environment: fields.environment.map(version).transpose()?,
        wraps_with: fields.wraps_with,
        since: time(fields.since)?,
        had_others: fields.had_others,
        report_time: time(fields.report_time)?,
    })
}
