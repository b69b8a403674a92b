//! What the replicas of the service report of the versions that they seal under.
//!
//! Time is told by the service, whose clock the store confirms, so that whatever the operator's clock says does not matter; and no report,
//! for one from a clock that is ahead would make all others look old.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};
use triseal::factors::rotation::UNDER_WAY;
use triseal::grpc::v1;
use triseal::jobs::{AHEAD, GONE};

use super::say;
use crate::client::Service;
use crate::failure::Failure;
use crate::job::{self, counted};
use crate::output::Format;
use crate::status::{Again, retry_after};

/// Between two looks at the replicas.
const LOOK: Duration = Duration::from_secs(2);
/// Longer than the service goes on with keys that it can't read anew (its max_age, 15 min).
const LONGEST_WAIT: Duration = Duration::from_mins(30);

/// Whose version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Factor {
    Codebase,
    Environment,
}

impl Factor {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Codebase => "codebase",
            Self::Environment => "environment",
        }
    }

    /// The version that a replica seals under. `None`: it does not seal, and reads the keys anew before it does.
    fn primary(self, replica: &v1::Replica) -> Option<u32> {
        let primaries = replica.primaries.as_ref()?;
        let version = match self {
            Self::Codebase => primaries.codebase_version,
            Self::Environment => primaries.environment_version,
        };
        (version > 0).then_some(version)
    }
}

/// All replicas that reported in the last day, and what the time was then.
pub(super) struct Fleet {
    replicas: Vec<v1::Replica>,
    /// More of them, whose reports the service can't read.
    unreadable: u32,
    now: Timestamp,
}

impl Fleet {
    fn of(answer: v1::ListReplicasResponse) -> Result<Self, Failure> {
        let now = answer.time.and_then(timestamp).ok_or_else(|| {
            let message = "the replica that answered does not know the time: the store does not confirm its clock";
            Failure::refused(message.to_owned()).with_hint("try again in a minute, or set its clock right")
        })?;
        Ok(Self { replicas: answer.replicas, unreadable: answer.unreadable_replicas, now })
    }

    fn living(&self, within: SignedDuration) -> Vec<&v1::Replica> {
        let is_living =
            |replica: &&v1::Replica| reported(replica).is_some_and(|time| self.now.duration_since(time) < within);
        self.replicas.iter().filter(is_living).collect()
    }
}

/// All replicas that reported in the last day.
pub(super) async fn replicas(service: &Service) -> Result<Fleet, Failure> {
    let answer = service.keys().list_replicas(service.request(v1::ListReplicasRequest {})).await;
    Fleet::of(answer.map_err(|status| job::refusal(&status, Again::Reads))?.into_inner())
}

/// Waits until every living replica seals under a version, or a later one.
pub(super) async fn wait_until_all_seal_under(
    factor: Factor,
    version: u32,
    service: &Service,
    format: Format,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let answer = service.keys().list_replicas(service.request(v1::ListReplicasRequest {})).await;
        let waits_for = match answer {
            Ok(answer) => match Fleet::of(answer.into_inner()).map(|fleet| behind(&fleet, factor, version)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(waits_for)) => waits_for,
                Err(failure) => failure.message,
            },
            Err(status) if retry_after(&status).is_some() => job::refusal(&status, Again::Reads).message,
            Err(status) => return Err(job::refusal(&status, Again::Reads)),
        };
        if waits_for != told {
            say(format, &format!("waiting: {waits_for}"));
            told = waits_for;
        }
        if began.elapsed() >= LONGEST_WAIT {
            return Err(Failure::failed(format!("waited for half an hour: {told}")).with_hint(
                "fix why they can't read the keys (see their logs), or stop them; then: triseal reencrypt start",
            ));
        }
        sleep(LOOK).await;
    }
}

/// Whether every living replica seals under a version or a later one, or does not seal; else for whom to wait.
fn behind(fleet: &Fleet, factor: Factor, version: u32) -> Result<(), String> {
    let living = fleet.living(GONE);
    if living.is_empty() {
        return Err("no replica has reported".to_owned());
    }
    if fleet.unreadable > 0 {
        return Err(format!(
            "{} of unreadable reports may seal under another version",
            counted(fleet.unreadable.into(), "replica")
        ));
    }
    match living.iter().find(|replica| factor.primary(replica).is_some_and(|primary| primary < version)) {
        None => Ok(()),
        Some(replica) => {
            let primary = factor.primary(replica).unwrap_or_default();
            Err(format!("replica {} seals under {} version {primary}", replica.replica_id, factor.as_str()))
        }
    }
}

/// Whether no replica seals under a version, or did so until a moment ago; else why it is too early to retire it.
pub(super) fn nobody_seals_under(fleet: &Fleet, factor: Factor, version: u32) -> Result<(), Failure> {
    let under_way = SignedDuration::try_from(UNDER_WAY).unwrap_or_default();
    if fleet.living(GONE).is_empty() {
        return Err(Failure::refused("no replica has reported, so nobody knows who seals under what".to_owned()));
    }
    if fleet.unreadable > 0 {
        let replicas = counted(fleet.unreadable.into(), "replica");
        let message = format!("the service can't read the reports of {replicas}, so nobody knows under what they seal");
        return Err(Failure::refused(message).with_hint(
            "ask a replica of the newest release; or stop them and wait a minute (docs/OPERATING.md, Jobs, if that does not help)",
        ));
    }
    let is_ahead = |replica: &&v1::Replica| {
        let times = [reported(replica), replica.primaries_time.and_then(timestamp)];
        times.iter().flatten().any(|time| time.duration_since(fleet.now) > AHEAD)
    };
    if let Some(replica) = fleet.replicas.iter().find(is_ahead) {
        let message =
            format!("the report of replica {} is from the future: nobody knows when it was made", replica.replica_id);
        return Err(Failure::refused(message).with_hint(
            "set that machine's clock right, and restart the replica; one that is gone: remove its row (docs/OPERATING.md, Jobs)",
        ));
    }
    // What one that is gone had under way, too.
    for replica in fleet.living(GONE + under_way) {
        if factor.primary(replica) == Some(version) {
            let message = format!(
                "replica {} seals under {} version {version}, or did so until a moment ago",
                replica.replica_id,
                factor.as_str()
            );
            return Err(Failure::refused(message).with_hint("wait until `triseal replicas` shows another version"));
        }
        // One without fresh environment keys reads them anew before it seals; the codebase version it has is its own.
        if factor == Factor::Codebase && factor.primary(replica).is_none() {
            let message = format!("replica {} does not tell under which codebase version it seals", replica.replica_id);
            return Err(
                Failure::refused(message).with_hint("its release is older: replace it, and try again in a minute")
            );
        }
        let since = replica.primaries_time.and_then(timestamp);
        let known = since.map_or(SignedDuration::ZERO, |since| fleet.now.duration_since(since));
        if known < under_way {
            let wait = (under_way - known).as_secs() + 1;
            let message = format!("replica {} changed its primary less than a minute ago", replica.replica_id);
            return Err(Failure::refused(message).with_hint(format!("try again in {wait} s")));
        }
    }
    Ok(())
}

fn reported(replica: &v1::Replica) -> Option<Timestamp> {
    replica.report_time.and_then(timestamp)
}

fn timestamp(time: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Factor::{Codebase, Environment};

    /// Sealing under these versions since `since`, as it reported at `at`.
    fn replica(versions: Option<(u32, u32)>, since: i64, at: i64) -> v1::Replica {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        v1::Replica {
            replica_id: format!("{at:x}"),
            primaries: versions.map(|(codebase_version, environment_version)| v1::Lineage {
                codebase_version,
                environment_version,
                customer_version: 0,
            }),
            primaries_time: time(since),
            report_time: time(at),
            ..v1::Replica::default()
        }
    }

    /// As the service answers at 1,000.
    fn fleet(replicas: &[v1::Replica]) -> Fleet {
        let time = Some(prost_types::Timestamp { seconds: 1_000, nanos: 0 });
        Fleet::of(v1::ListReplicasResponse { replicas: replicas.to_vec(), time, ..Default::default() }).unwrap()
    }

    #[test]
    fn it_waits_for_every_living_replica_that_seals() {
        let behind = |replicas: &[v1::Replica], factor, version| behind(&fleet(replicas), factor, version);
        assert!(behind(&[], Environment, 2).is_err());
        let (new, old) = (replica(Some((1, 2)), 0, 1_000), replica(Some((1, 1)), 0, 995));
        assert!(
            behind(&[new.clone(), old], Environment, 2).unwrap_err().contains("3e3 seals under environment version 1")
        );
        let (gone, sealing_nothing) = (replica(Some((1, 1)), 0, 900), replica(None, 0, 995));
        assert_eq!(behind(&[new.clone(), gone, sealing_nothing], Environment, 2), Ok(()));
        assert!(behind(&[new], Codebase, 2).is_err());
        // One that has no fresh keys does not seal, and is of its build all the same.
        let stale = replica(Some((1, 0)), 0, 1_000);
        assert_eq!(behind(std::slice::from_ref(&stale), Environment, 2), Ok(()));
        assert!(behind(&[stale], Codebase, 2).is_err());
    }

    #[test]
    fn a_version_is_retired_only_when_nobody_can_have_sealed_under_it_for_a_minute() {
        let refusal = |replicas: &[v1::Replica], factor, version| {
            nobody_seals_under(&fleet(replicas), factor, version)
                .map_err(|failure| failure.message + &failure.hint.unwrap_or_default())
        };
        assert!(refusal(&[], Environment, 1).unwrap_err().contains("no replica has reported"));
        let new = replica(Some((1, 2)), 900, 1_000);
        assert_eq!(refusal(std::slice::from_ref(&new), Environment, 1), Ok(()));
        assert!(
            refusal(std::slice::from_ref(&new), Codebase, 1).unwrap_err().contains("seals under codebase version 1")
        );
        // A living one that has not read the new version, and one that died a moment ago.
        for at in [995, 885] {
            let old = replica(Some((1, 1)), 0, at);
            assert!(refusal(&[new.clone(), old], Environment, 1).unwrap_err().contains("until a moment ago"), "{at}");
        }
        assert_eq!(refusal(&[new.clone(), replica(Some((1, 1)), 0, 880)], Environment, 1), Ok(()));
        // What it had under way when it changed.
        let changed = replica(Some((1, 2)), 950, 1_000);
        assert!(refusal(&[new.clone(), changed], Environment, 1).unwrap_err().contains("try again in 11 s"));
        // One without fresh keys seals under its codebase version again as soon as it can.
        let stale = replica(Some((1, 0)), 0, 1_000);
        assert!(refusal(&[stale], Codebase, 1).unwrap_err().contains("seals under codebase version 1"));
        // By itself an old report is nobody's.
        assert!(refusal(&[replica(Some((1, 2)), 0, 900)], Environment, 1).unwrap_err().contains("has reported"));
    }

    #[test]
    fn a_report_from_the_future_makes_no_other_look_old_and_is_named() {
        let (old, new) = (replica(Some((1, 1)), 0, 995), replica(Some((1, 2)), 0, 1_000));
        let refused = |ahead: v1::Replica, factor| {
            let replicas = [old.clone(), new.clone(), ahead];
            nobody_seals_under(&fleet(&replicas), factor, 1).unwrap_err().message
        };
        assert!(refused(replica(Some((2, 2)), 0, 1_005), Environment).contains("seals under environment version 1"));
        for ahead in [replica(Some((2, 2)), 0, 1_006), replica(Some((2, 2)), 1_006, 1_000)] {
            let (id, told) = (ahead.replica_id.clone(), refused(ahead, Environment));
            assert!(told.contains("from the future") && told.contains(&id), "{told}");
        }
        // A service that does not know the time can't tell.
        let answer = v1::ListReplicasResponse { replicas: vec![new], ..Default::default() };
        assert!(Fleet::of(answer).is_err_and(|failure| failure.message.contains("does not know the time")));
    }
}
