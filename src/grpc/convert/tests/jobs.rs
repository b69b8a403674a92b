//! Requests that start and name jobs, and jobs as they are shown.

use std::num::NonZeroU32;

use super::*;
use crate::grpc::convert::jobs::{
    job_id, job_message, list_jobs_request, list_jobs_response, list_replicas_response, retire_request, start_request,
};
use crate::ids::Caller;
use crate::jobs::{Failure, ItemId, Job, JobId, JobKind, JobState, Progress, Replica, Reported, VersionCount};
use crate::store::contract::{credential_ref, customer_id as customer, time as microsecond, version};

const ID: &str = "8204341789527-11522256";

fn job(kind: JobKind, state: JobState) -> Job {
    Job {
        id: JobId::parse(ID).unwrap(),
        kind,
        dry_run: false,
        state,
        caller: Caller::new("spiffe://example.org/security"),
        customer: None,
        primaries: (version(2), version(3)),
        wraps_with: "arn".to_owned(),
        rate: NonZeroU32::new(7),
        pass: 2,
        pass_time: None,
        parts: 1,
        total: 10,
        changed: 4,
        create_time: microsecond(1_000_000),
        update_time: microsecond(2_000_000),
    }
}

#[test]
fn a_rate_has_its_bound_and_none_is_as_fast_as_it_goes() {
    assert_eq!(start_request("", 0).unwrap(), (None, None));
    let (owner, rate) = start_request("acme", 1_000_000).unwrap();
    assert_eq!((owner, rate), (Some(customer("acme")), NonZeroU32::new(1_000_000)));
    assert_eq!(wrong(start_request("a/b", 1_000_001)), ["customer_id", "rate"]);
}

#[test]
fn a_version_is_from_1_and_a_job_has_a_name_of_its_form() {
    let request = |customer_id: &str, version| v1::RetireCustomerKeyVersionRequest {
        customer_id: customer_id.to_owned(),
        version,
    };
    assert_eq!(retire_request(&request("acme", 1)).unwrap(), (customer("acme"), version(1)));
    assert_eq!(wrong(retire_request(&request("", 0))), ["customer_id", "version"]);
    assert_eq!(job_id(ID).unwrap().as_str(), ID);
    for bad in ["", "acme", "8204341789527-1152225", "820434178952-11522256", "8204341789527-1152225G", "8204341789527"]
    {
        assert_eq!(wrong(job_id(bad)), ["job_id"], "{bad}");
    }
}

#[test]
fn a_list_of_jobs_goes_on_where_its_page_ended() {
    let page = Page { rows: vec![job(JobKind::Rewrap, JobState::Done)], next: Some(JobId::parse(ID).unwrap()) };
    let shown = list_jobs_response(&page, &tokens()).unwrap();
    assert_eq!((shown.jobs.len(), shown.jobs[0].kind()), (1, v1::JobKind::Rewrap));
    let request = v1::ListJobsRequest { page_size: 5, page_token: shown.next_page_token };
    assert_eq!(list_jobs_request(&request, &tokens()).unwrap(), (Some(JobId::parse(ID).unwrap()), 5));
    let bad = v1::ListJobsRequest { page_size: 1_001, page_token: "x".to_owned() };
    assert_eq!(wrong(list_jobs_request(&bad, &tokens())), ["page_size", "page_token"]);
    assert_eq!(list_jobs_response(&Page { rows: vec![], next: None }, &tokens()).unwrap().next_page_token, "");
}

#[test]
fn a_job_is_shown_with_what_all_its_passes_changed() {
    let id = credential_ref("acme", "crm");
    let failure = Failure {
        id: ItemId { customer: id.customer.clone(), credential: Some(id.credential) },
        reason: "NOT_AUTHENTIC".to_owned(),
    };
    let of_customer =
        Failure { id: ItemId { customer: id.customer, credential: None }, reason: "KMS_REFUSED".to_owned() };
    let progress = Progress {
        done: 6,
        changed: 3,
        skipped: 2,
        failed: 1,
        failures: vec![failure, of_customer],
        counts: [(VersionCount::Environment(3), 5)].into(),
    };
    let running = job_message(&job(JobKind::Reencryption, JobState::Running), Some(progress.clone()));
    assert_eq!((running.state(), running.waiting), (v1::JobState::Running, true));
    assert_eq!((running.total, running.done, running.changed), (10, 6, 7));
    let target = v1::Lineage { codebase_version: 2, environment_version: 3, customer_version: 0 };
    assert_eq!((running.target, running.pass, running.rate), (Some(target), 2, 7));
    let failures: Vec<_> = running.failures.iter().map(|failure| failure.credential_id.as_str()).collect();
    assert_eq!(failures, ["crm", ""]);
    assert_eq!((running.counts[0].factor(), running.counts[0].records), (v1::Factor::Environment, 5));
    assert_eq!((running.caller.as_str(), running.target_kms_key_arn.as_str()), ("spiffe://example.org/security", ""));
    let rewrap = job_message(&job(JobKind::Rewrap, JobState::Running), None);
    assert_eq!((rewrap.target_kms_key_arn.as_str(), rewrap.target, rewrap.waiting), ("arn", None, true));

    // What the last pass changed was added when it ended.
    let done = job_message(&job(JobKind::CustomerKeyRotation, JobState::DoneWithFailures), Some(progress));
    assert_eq!((done.changed, done.waiting, done.target), (4, false, None));
    assert_eq!((done.kind(), done.state()), (v1::JobKind::CustomerKeyRotation, v1::JobState::DoneWithFailures));
}

#[test]
fn a_dry_run_tells_what_would_be_changed() {
    let progress = || Some(Progress { done: 10, skipped: 3, failed: 1, ..Progress::default() });
    for (kind, dry_run, due) in [
        (JobKind::CustomerKeyRotation, true, 6),
        (JobKind::Rewrap, true, 6),
        (JobKind::Rewrap, false, 0),
        // It counts versions instead.
        (JobKind::Reencryption, true, 0),
    ] {
        let job = Job { dry_run, ..job(kind, JobState::Done) };
        assert_eq!(job_message(&job, progress()).due, due, "{kind:?} {dry_run}");
    }
    let listed = Page { rows: vec![Job { dry_run: true, ..job(JobKind::Rewrap, JobState::Done) }], next: None };
    assert_eq!(list_jobs_response(&listed, &tokens()).unwrap().jobs[0].due, 0);
}

#[test]
fn a_replica_that_does_not_seal_tells_under_what_its_build_would() {
    let replica = |codebase, environment| Replica {
        id: "1".to_owned(),
        release: "0.1.0".to_owned(),
        codebase,
        environment,
        wraps_with: "arn".to_owned(),
        since: microsecond(1_000_000),
        had_others: false,
        report_time: microsecond(2_000_000),
    };
    let replicas =
        vec![replica(None, None), replica(Some(version(1)), None), replica(Some(version(1)), Some(version(2)))];
    let answer = list_replicas_response(Reported::of(replicas), Some(microsecond(3_000_000)));
    let lineage = |environment_version| v1::Lineage { codebase_version: 1, environment_version, customer_version: 0 };
    let shown = answer.replicas;
    assert_eq!(shown.iter().map(|one| one.primaries).collect::<Vec<_>>(), [None, Some(lineage(0)), Some(lineage(2))]);
    assert_eq!((shown[0].primaries_time, shown[0].report_time, answer.time), (time(1, 0), time(2, 0), time(3, 0)));
    assert_eq!(list_replicas_response(Reported::of(Vec::new()), None).time, None);
}
