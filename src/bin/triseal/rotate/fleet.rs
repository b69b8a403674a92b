//! What the replicas of the service report of the versions that they seal under.
//!
//! Time is told by the newest report: one is due every 10 s, so that whatever the operator's clock says does not matter.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};
use triseal::factors::rotation::UNDER_WAY;
use triseal::grpc::v1;
use triseal::jobs::GONE;

use super::say;
use crate::client::Service;
use crate::failure::Failure;
use crate::job;
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

    /// The version that a replica seals under. `None`: it does not seal.
    fn primary(self, replica: &v1::Replica) -> Option<u32> {
        let primaries = replica.primaries.as_ref()?;
        Some(match self {
            Self::Codebase => primaries.codebase_version,
            Self::Environment => primaries.environment_version,
        })
    }
}

/// All replicas that reported in the last day.
pub(super) async fn replicas(service: &Service) -> Result<Vec<v1::Replica>, Failure> {
    let answer = service.keys().list_replicas(service.request(v1::ListReplicasRequest {})).await;
    Ok(answer.map_err(|status| job::refusal(&status, Again::Reads))?.into_inner().replicas)
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
            Ok(answer) => match behind(&answer.into_inner().replicas, factor, version) {
                Ok(()) => return Ok(()),
                Err(waits_for) => waits_for,
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
fn behind(replicas: &[v1::Replica], factor: Factor, version: u32) -> Result<(), String> {
    let living = living(replicas, GONE);
    if living.is_empty() {
        return Err("no replica has reported".to_owned());
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
pub(super) fn nobody_seals_under(replicas: &[v1::Replica], factor: Factor, version: u32) -> Result<(), Failure> {
    let under_way = SignedDuration::try_from(UNDER_WAY).unwrap_or_default();
    let Some(now) = newest(replicas) else {
        return Err(Failure::refused("no replica has reported, so nobody knows who seals under what".to_owned()));
    };
    // What one that is gone had under way, too.
    for replica in living(replicas, GONE + under_way) {
        if factor.primary(replica) == Some(version) {
            let message = format!(
                "replica {} seals under {} version {version}, or did so until a moment ago",
                replica.replica_id,
                factor.as_str()
            );
            return Err(Failure::refused(message).with_hint("wait until `triseal replicas` shows another version"));
        }
        let since = replica.primaries_time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
        let known = since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
        if known < under_way {
            let wait = (under_way - known).as_secs() + 1;
            let message = format!("replica {} changed its primary less than a minute ago", replica.replica_id);
            return Err(Failure::refused(message).with_hint(format!("try again in {wait} s")));
        }
    }
    Ok(())
}

fn living(replicas: &[v1::Replica], within: SignedDuration) -> Vec<&v1::Replica> {
    let now = newest(replicas).unwrap_or(Timestamp::MAX);
    let is_living = |replica: &&v1::Replica| reported(replica).is_some_and(|time| now.duration_since(time) < within);
    replicas.iter().filter(is_living).collect()
}

fn newest(replicas: &[v1::Replica]) -> Option<Timestamp> {
    replicas.iter().filter_map(reported).max()
}

fn reported(replica: &v1::Replica) -> Option<Timestamp> {
    replica.report_time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
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

    #[test]
    fn it_waits_for_every_living_replica_that_seals() {
        assert!(behind(&[], Environment, 2).is_err());
        let (new, old) = (replica(Some((1, 2)), 0, 1_000), replica(Some((1, 1)), 0, 995));
        assert!(
            behind(&[new.clone(), old], Environment, 2).unwrap_err().contains("3e3 seals under environment version 1")
        );
        let (gone, sealing_nothing) = (replica(Some((1, 1)), 0, 900), replica(None, 0, 995));
        assert_eq!(behind(&[new.clone(), gone, sealing_nothing], Environment, 2), Ok(()));
        assert!(behind(&[new], Codebase, 2).is_err());
    }

    #[test]
    fn a_version_is_retired_only_when_nobody_can_have_sealed_under_it_for_a_minute() {
        let refusal = |replicas: &[v1::Replica], factor, version| {
            nobody_seals_under(replicas, factor, version)
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
        assert!(refusal(&[new, changed], Environment, 1).unwrap_err().contains("try again in 11 s"));
    }
}
