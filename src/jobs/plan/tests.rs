//! When a job goes on, and when it has ended.

use super::*;
use crate::jobs::record::{read_job, read_part, write_job, write_part};
use crate::store::{OperationId, OperationRow, WriteId};

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + second).unwrap()
}

fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

fn job(kind: JobKind) -> Job {
    Job {
        id: JobId::parse("0000000000001-0000000a").unwrap(),
        kind,
        dry_run: false,
        state: JobState::Running,
        caller: Caller::new("spiffe://example.org/security"),
        customer: None,
        primaries: (version(2), version(3)),
        wraps_with: "new".to_owned(),
        rate: None,
        pass: 1,
        pass_time: Some(time(0)),
        parts: 1,
        total: 0,
        changed: 0,
        create_time: time(0),
        update_time: time(0),
    }
}

fn replica(primaries: Option<(u32, u32)>, wraps_with: &str, since: i64, report: i64) -> Replica {
    Replica {
        id: "0".to_owned(),
        release: "1".to_owned(),
        codebase: primaries.map(|(codebase, _)| version(codebase)),
        environment: primaries.map(|(_, environment)| version(environment)),
        wraps_with: wraps_with.to_owned(),
        since: time(since),
        had_others: true,
        report_time: time(report),
    }
}

const STALENESS: SignedDuration = SignedDuration::from_secs(10);

fn settles(job: &Job, replicas: &[Replica], now: i64) -> Option<i64> {
    settled(job, replicas, STALENESS, time(now)).map(|at| at.duration_since(time(0)).as_secs())
}

#[test]
fn nothing_is_settled_while_a_replica_may_undo_it() {
    let job = job(JobKind::Reencryption);
    let good = replica(Some((2, 3)), "new", -100, 0);
    // 5 s that clocks differ, 10 s that a customer is believed, 15 s that a call takes.
    assert_eq!(settles(&job, std::slice::from_ref(&good), 0), Some(30));
    assert_eq!(settles(&job, &[], 0), None, "nobody knows");
    for behind in [(1, 3), (2, 2), (1, 9)] {
        let behind = replica(Some(behind), "new", -100, 0);
        assert_eq!(settles(&job, &[good.clone(), behind.clone()], 59), None);
        assert_eq!(settles(&job, &[replica(Some((2, 3)), "new", -100, 30), behind], 60), Some(30), "it is gone");
    }
    // One that came to the target later, is beyond it, or does not seal at all.
    for (other, at) in [((Some((2, 3))), 115), (Some((9, 9)), 115), (None, 115)] {
        assert_eq!(settles(&job, &[good.clone(), replica(other, "new", 100, 50)], 50), Some(at));
    }
    // One that does not seal now. Its environment's key it must read anew, and its codebase's is that of its build.
    let stale = |codebase| Replica { environment: None, ..replica(Some((codebase, 1)), "new", -100, 0) };
    assert_eq!(settles(&job, &[good.clone(), stale(2)], 0), Some(30));
    assert_eq!(settles(&job, &[good.clone(), stale(1)], 0), None);
    // One that has started since, and was never below it.
    let started = Replica { had_others: false, ..replica(Some((2, 3)), "new", 100, 100) };
    assert_eq!(settles(&job, &[good.clone(), started], 100), Some(30));
    let rewrap = super::tests::job(JobKind::Rewrap);
    assert_eq!(settles(&rewrap, &[good.clone(), replica(Some((1, 1)), "new", -100, 0)], 0), Some(30));
    assert_eq!(settles(&rewrap, &[good, replica(Some((2, 3)), "old", -100, 0)], 0), None);
}

#[test]
fn a_pass_begins_when_all_is_settled_and_not_before() {
    let waiting = Job { pass: 2, pass_time: None, ..job(JobKind::Reencryption) };
    assert_eq!(begun(&waiting, None, time(100)), None);
    assert_eq!(begun(&waiting, Some(time(101)), time(100)), None);
    let began = begun(&waiting, Some(time(100)), time(100)).unwrap();
    assert_eq!((began.pass, began.pass_time), (2, Some(time(100))));
    assert_eq!(begun(&began, Some(time(100)), time(101)), None, "once");
    // The first pass of a rewrap begins when all replicas wrap with the target, and waits for nothing else.
    let first = Job { pass_time: None, ..job(JobKind::Rewrap) };
    assert_eq!(begun(&first, None, time(100)), None);
    assert_eq!(begun(&first, Some(time(130)), time(100)).unwrap().pass_time, Some(time(100)));
    let at_once = JobKind::ALL.map(|kind| (begins_at_once(kind, false), begins_at_once(kind, true)));
    assert_eq!(at_once, [(true, true), (true, true), (false, true)]);
}

#[test]
fn a_job_ends_with_a_pass_that_changed_nothing_and_began_when_all_was_settled() {
    let pass = |changed, failed| Progress { done: 10, changed, failed, ..Progress::default() };
    let ends = |job: &Job, progress: &Progress, settled: Option<i64>| {
        let next = after_pass(job, progress, settled.map(time), time(200));
        (next.state, next.pass, next.pass_time, next.changed, next.total)
    };
    let running = |changed| (JobState::Running, 2, None, changed, 10);
    let first = job(JobKind::Reencryption);
    assert_eq!(ends(&first, &pass(4, 0), Some(30)), running(4));
    assert_eq!(ends(&first, &pass(0, 0), Some(30)), running(0), "it began too early");
    assert_eq!(ends(&first, &pass(0, 0), None), running(0));
    let later = Job { pass_time: Some(time(30)), ..first.clone() };
    assert_eq!(ends(&later, &pass(1, 0), Some(30)), running(1), "it changed something");
    assert_eq!(ends(&later, &pass(0, 0), None), running(0), "a replica came that seals below the target");
    assert_eq!(ends(&later, &pass(0, 0), Some(31)), running(0));
    assert_eq!(ends(&later, &pass(0, 0), Some(30)).0, JobState::Done);
    assert_eq!(ends(&later, &pass(0, 3), Some(30)).0, JobState::DoneWithFailures);
    // What leaves nothing behind, and what writes nothing, needs one pass.
    for once in [Job { dry_run: true, ..first.clone() }, job(JobKind::CustomerKeyRotation)] {
        assert_eq!(ends(&once, &pass(4, 0), None).0, JobState::Done);
        assert_eq!(ends(&once, &pass(4, 1), None).0, JobState::DoneWithFailures);
    }
}

#[test]
fn a_part_is_free_for_the_present_pass_unless_it_is_held_or_done() {
    let part = Part { pass: 1, is_done: true, ..Part::default() };
    assert!(!part.clone().of_pass(1).is_free(time(0)));
    let fresh = part.of_pass(2);
    assert_eq!(fresh, Part { pass: 2, ..Part::default() });
    assert!(fresh.is_free(time(0)));
    let held = Part { lease_time: Some(time(30)), ..fresh };
    assert!(!held.is_free(time(29)) && held.is_free(time(30)));
}

#[test]
fn what_is_kept_of_failures_and_versions_is_bounded_and_all_are_counted() {
    let id = |number: u64| ItemId {
        customer: CustomerId::parse("acme").unwrap(),
        credential: Some(CredentialId::parse(&format!("c{number}")).unwrap()),
    };
    let mut progress = Progress::default();
    for number in 0..2_000 {
        progress.fails(id(number), "MALFORMED");
        progress.counts(id(number), lineage(1, u32::try_from(number).unwrap() % 1_000 + 1));
    }
    assert_eq!((progress.failed, progress.failures.len(), progress.counts.len()), (2_000, 100, 1_002));
    let mut sum = Progress::default();
    sum.add(&progress);
    sum.add(&progress);
    assert_eq!((sum.failed, sum.failures.len(), sum.counts.len()), (4_000, 100, 1_002));
    assert_eq!(sum.counts[&VersionCount::Codebase(1)], 4_000);
}

fn lineage(codebase: u32, customer: u32) -> Lineage {
    Lineage { codebase: version(codebase), environment: version(1), customer: version(customer) }
}

/// A version that is not listed would be taken for one that nothing is under.
#[test]
fn a_version_that_finds_no_room_makes_failures_of_its_records() {
    let item = ItemId { customer: CustomerId::parse("acme").unwrap(), credential: None };
    let counted = |codebase: std::ops::RangeInclusive<u32>| {
        let mut progress = Progress::default();
        for version in codebase {
            progress.counts(item.clone(), lineage(version, 1));
        }
        progress
    };
    let (full, over) = (counted(1..=1_000), counted(1..=1_002));
    assert_eq!((full.failed, full.counts.len()), (0, 1_002));
    assert_eq!((over.failed, over.failures.len(), over.counts.len()), (2, 2, 1_002));
    assert_eq!(over.failures[0].reason, "UNCOUNTED");
    // Nor where two parts have room for theirs, and not for both.
    let mut sum = counted(1..=600);
    sum.add(&counted(401..=1_003));
    assert_eq!((sum.failed, sum.counts.len()), (3, 1_002));
    let count = Job { dry_run: true, ..job(JobKind::Reencryption) };
    assert_eq!(after_pass(&count, &sum, None, time(1)).state, JobState::DoneWithFailures);
}

#[test]
fn jobs_and_parts_are_read_as_they_were_written_and_nothing_else_is() {
    let row = |id: &str, body| OperationRow {
        id: OperationId { kind: "job", id: id.to_owned() },
        write_id: WriteId::random().unwrap(),
        body,
    };
    for kind in JobKind::ALL {
        let job = Job {
            dry_run: true,
            state: JobState::DoneWithFailures,
            customer: Some(CustomerId::parse("acme").unwrap()),
            rate: NonZeroU32::new(7),
            pass_time: None,
            ..job(kind)
        };
        let written = write_job(&job);
        assert_eq!(read_job(&row(job.id.as_str(), written.clone())).unwrap(), job);
        assert!(read_job(&row("acme", written.clone())).is_err());
        for end in 0..written.len() {
            assert!(read_job(&row(job.id.as_str(), written[..end].to_vec())).is_err());
        }
    }
    let customer = CustomerId::parse("acme").unwrap();
    let item = ItemId { customer, credential: Some(CredentialId::parse("crm").unwrap()) };
    let mut progress = Progress { done: 9, changed: 3, skipped: 2, ..Progress::default() };
    progress.fails(item.clone(), "NOT_AUTHENTIC");
    progress.fails(ItemId { credential: None, ..item.clone() }, "KMS_REFUSED");
    progress.counts(item.clone(), Lineage { codebase: version(1), environment: version(2), customer: version(3) });
    let part = Part {
        pass: 3,
        holder: "me".to_owned(),
        lease_time: Some(time(1)),
        after: Some(item),
        is_done: false,
        progress,
    };
    let written = write_part(&part);
    assert_eq!(read_part(&row("p", written.clone())).unwrap(), part);
    for end in 0..written.len() {
        assert!(read_part(&row("p", written[..end].to_vec())).is_err());
    }
}

/// SplitMix64, as in `vault::model`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.unsigned_abs()) as i64
    }
}

/// A replica, in seconds: it starts, comes to the target, and is killed.
struct Simulated {
    starts: i64,
    switches: i64,
    killed: i64,
    known: Option<Replica>,
}

impl Simulated {
    fn random(random: &mut Random) -> Self {
        let starts = random.below(120) - 60;
        Self { starts, switches: random.below(150) - 50, killed: starts + random.below(300), known: None }
    }

    fn is_alive(&self, now: i64) -> bool {
        (self.starts..self.killed).contains(&now)
    }

    fn version(&self, now: i64) -> u32 {
        if now >= self.switches { 2 } else { 1 }
    }

    /// Every ten seconds from its start, as `Reporter` does.
    fn report(&mut self, now: i64) {
        if !self.is_alive(now) || (now - self.starts) % 10 != 0 {
            return;
        }
        let mut next = replica(Some((self.version(now), 3)), "new", now, now);
        match &self.known {
            Some(before) if (before.codebase, before.environment) == (next.codebase, next.environment) => {
                next = Replica { since: before.since, had_others: before.had_others, ..next };
            }
            before => next.had_others = before.is_some(),
        }
        self.known = Some(next);
    }
}

/// Replicas start, come to the target and are killed at any time, and all of them seal all the time, each call taking up to 10 s. A job
/// that has ended left no record below its target, and none is on its way.
#[test]
fn a_job_that_ended_leaves_nothing_behind_whatever_the_replicas_do() {
    let mut ends = Vec::new();
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut replicas: Vec<_> = (0..4).map(|_| Simulated::random(&mut random)).collect();
        // Whoever was asked to start it seals at the target.
        replicas.push(Simulated { starts: -60, switches: -60, killed: i64::MAX, known: None });
        let mut records = [1_u32; 40];
        // When each call ends, on which record, under which version, and whose it is.
        let mut calls: Vec<(i64, usize, u32, usize)> = Vec::new();
        let (mut job, mut at, mut changed) = (job(JobKind::Reencryption), 0, 0);
        for now in -60_i64.. {
            assert!(now < 1_000, "it does not end");
            for (index, replica) in replicas.iter_mut().enumerate() {
                replica.report(now);
                if replica.is_alive(now) && random.below(2) == 0 {
                    let record = random.below(40) as usize;
                    calls.push((now + random.below(11), record, replica.version(now), index));
                }
            }
            calls.retain(|(end, record, version, whose)| {
                let ends = *end <= now;
                if ends && replicas[*whose].is_alive(now) {
                    records[*record] = *version;
                }
                !ends && replicas[*whose].is_alive(now)
            });
            if now < 0 {
                continue;
            }
            let reports: Vec<_> = replicas.iter().filter_map(|replica| replica.known.clone()).collect();
            let settled = settled(&job, &reports, STALENESS, time(now));
            if job.pass_time.is_none() {
                job = begun(&job, settled, time(now)).unwrap_or(job);
                continue;
            }
            for record in records.iter_mut().skip(at).take(5).filter(|record| **record < 2) {
                (*record, changed) = (2, changed + 1);
            }
            at += 5;
            if at >= records.len() {
                let pass = Progress { done: 40, changed, ..Progress::default() };
                (job, at, changed) = (after_pass(&job, &pass, settled, time(now)), 0, 0);
            }
            if job.state == JobState::Done {
                assert!(records.iter().all(|version| *version == 2), "seed {seed}: {records:?}");
                assert!(calls.iter().all(|(_, _, version, _)| *version == 2), "seed {seed}: {calls:?}");
                ends.push(now);
                break;
            }
        }
    }
    assert!(ends.iter().any(|end| *end < 50) && ends.iter().any(|end| *end > 100), "it waits as long as it must");
}
