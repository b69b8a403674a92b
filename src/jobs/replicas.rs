//! What each replica reports to the store, so that waiting for all of them is a fact and not a guess.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use minicbor::{Decode, Encode};
use tokio::time::sleep;
use tracing::warn;

use super::record::{BadRecord, decode, encode, micros, time, version};
use crate::crypto::Version;
use crate::keyring::Keyring;
use crate::store::{
    ChangeError, Decision, OperationId, OperationRow, Operations, StoreError, WriteId, change, row_time,
};

/// How often a replica reports.
const REPORT: Duration = Duration::from_secs(10);
/// One that has not reported for so long is gone: it can't reach the store, so it writes nothing either.
const GONE: SignedDuration = SignedDuration::from_secs(60);
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
    /// The generator's.
    pub fn random() -> Result<Self, getrandom::Error> {
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
    /// Which.
    pub id: String,
    /// Of which release.
    pub release: String,
    /// The versions of codebase and environment key that it seals under. `None`: it does not seal.
    pub primaries: Option<(Version, Version)>,
    /// Since when these are its primaries.
    pub primaries_since: Timestamp,
    /// When it reported.
    pub report_time: Timestamp,
}

impl Replica {
    /// Whether it may still seal.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now.duration_since(self.report_time) < GONE
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
    primaries_since: i64,
    #[n(4)]
    report_time: i64,
}

/// Reports this replica's primaries now and every ten seconds, for as long as the process lives.
pub async fn report_for_ever(
    id: ReplicaId,
    keyring: Keyring,
    operations: Arc<dyn Operations>,
    clock: fn() -> Timestamp,
) {
    let mut known: Option<(Option<(Version, Version)>, Timestamp)> = None;
    loop {
        let (primaries, now) = (keyring.primaries().await.ok(), row_time(clock()));
        let since = match known {
            Some((before, since)) if before == primaries => since,
            Some(_) | None => now,
        };
        known = Some((primaries, since));
        let report = Replica {
            id: id.as_str().to_owned(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            primaries,
            primaries_since: since,
            report_time: now,
        };
        if let Err(error) = write(operations.as_ref(), &report).await {
            warn!(%error, "this replica's primaries could not be reported");
        }
        sleep(REPORT).await;
    }
}

pub(super) async fn write(operations: &dyn Operations, report: &Replica) -> Result<(), ChangeError> {
    let body = encode(&ReplicaFields {
        release: report.release.clone(),
        codebase: report.primaries.map(|(codebase, _)| codebase.get()),
        environment: report.primaries.map(|(_, environment)| environment.get()),
        primaries_since: micros(report.primaries_since),
        report_time: micros(report.report_time),
    });
    let id = OperationId { kind: KIND, id: report.id.clone() };
    change(operations, &id, |_| {
        let row = WriteId::random()
            .map(|write_id| OperationRow { id: id.clone(), write_id, body: body.clone() })
            .map_err(|_| ChangeError::Store(StoreError::Away("the system's generator did not answer".to_owned())));
        std::future::ready(row.map(|row| Decision::Replace(row, ())))
    })
    .await
}

/// Every replica that reported in the last day.
pub(super) async fn all(operations: &dyn Operations, now: Timestamp) -> Result<Vec<Replica>, StoreError> {
    let (mut replicas, mut after) = (Vec::new(), None);
    loop {
        let page = operations.query(KIND, after.as_deref(), 500).await?;
        for row in page.rows {
            let replica = read(&row)?;
            if now.duration_since(replica.report_time) < FORGOTTEN {
                replicas.push(replica);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(replicas);
        }
    }
}

fn read(row: &OperationRow) -> Result<Replica, BadRecord> {
    let fields: ReplicaFields = decode(&row.body)?;
    let primaries = match (fields.codebase, fields.environment) {
        (Some(codebase), Some(environment)) => Some((version(codebase)?, version(environment)?)),
        (None, _) | (_, None) => None,
    };
    Ok(Replica {
        id: row.id.id.clone(),
        release: fields.release,
        primaries,
        primaries_since: time(fields.primaries_since)?,
        report_time: time(fields.report_time)?,
    })
}
