//! Requests about keys and jobs, and what is answered of jobs and replicas.

use std::num::NonZeroU32;

use jiff::Timestamp;
use tonic::Status;

use super::{Check, timestamp};
use crate::crypto::Version;
use crate::grpc::wire::v1;
use crate::ids::CustomerId;
use crate::jobs::{Job, JobId, JobKind, JobState, Progress, Reported, VersionCount};
use crate::keyring::{NoPageToken, PageTokens};
use crate::store::Page;

/// Records a second: more than any store writes.
const MAX_RATE: u32 = 1_000_000;

pub(in crate::grpc) fn retire_request(
    request: &v1::RetireCustomerKeyVersionRequest,
) -> Result<(CustomerId, Version), Status> {
    let mut check = Check::default();
    let id = check.id("customer_id", CustomerId::parse(&request.customer_id));
    let version = Version::new(request.version);
    if version.is_none() {
        check.wrong("version", "must be at least 1");
    }
    check.done(id.zip(version))
}

/// What the requests that start a job have in common: whose, and how fast.
pub(in crate::grpc) fn start_request(
    customer_id: &str,
    rate: u32,
) -> Result<(Option<CustomerId>, Option<NonZeroU32>), Status> {
    let mut check = Check::default();
    let customer = match customer_id {
        "" => None,
        id => check.id("customer_id", CustomerId::parse(id)),
    };
    if rate > MAX_RATE {
        check.wrong("rate", format!("must be at most {MAX_RATE}; 0 means as fast as it goes"));
    }
    check.done(Some((customer, NonZeroU32::new(rate))))
}

pub(in crate::grpc) fn job_id(id: &str) -> Result<JobId, Status> {
    let mut check = Check::default();
    let id = JobId::parse(id);
    if id.is_none() {
        check.wrong("job_id", "must be the name of a job, as its start answered it");
    }
    check.done(id)
}

pub(in crate::grpc) fn list_jobs_request(
    request: &v1::ListJobsRequest,
    tokens: &PageTokens<'_>,
) -> Result<(Option<JobId>, usize), Status> {
    let mut check = Check::default();
    let limit = check.page_size(request.page_size);
    let after = check.place(&request.page_token, tokens, JobId::parse);
    check.done(Some((after, limit)))
}

/// A job, and how far its present pass has come.
pub(in crate::grpc) fn job_message(job: &Job, progress: Option<Progress>) -> v1::Job {
    let (kind, state) = words(job);
    let progress = progress.unwrap_or_default();
    let under_way =
        if job.state == JobState::Running || job.state == JobState::Cancelled { progress.changed } else { 0 };
    let due = match (job.kind, job.dry_run) {
        (JobKind::CustomerKeyRotation | JobKind::Rewrap, true) => progress.untouched(),
        (JobKind::CustomerKeyRotation | JobKind::Rewrap, false) | (JobKind::Reencryption, _) => 0,
    };
    let counts = progress.counts.into_iter().map(|(version, records)| {
        let (factor, version) = match version {
            VersionCount::Codebase(version) => (v1::Factor::Codebase, version),
            VersionCount::Environment(version) => (v1::Factor::Environment, version),
            VersionCount::Customer(version) => (v1::Factor::Customer, version),
        };
        v1::VersionCount { factor: factor.into(), version, records }
    });
    let failures = progress.failures.into_iter().map(|failure| v1::JobFailure {
        customer_id: failure.id.customer.to_string(),
        credential_id: failure.id.credential.map(|id| id.to_string()).unwrap_or_default(),
        reason: failure.reason,
    });
    v1::Job {
        job_id: job.id.to_string(),
        kind: kind.into(),
        state: state.into(),
        dry_run: job.dry_run,
        customer_id: job.customer.as_ref().map(ToString::to_string).unwrap_or_default(),
        target: match job.kind {
            JobKind::Reencryption => Some(primaries(job.primaries)),
            JobKind::CustomerKeyRotation | JobKind::Rewrap => None,
        },
        total: job.total,
        done: progress.done,
        changed: job.changed + under_way,
        skipped: progress.skipped,
        failed: progress.failed,
        failures: failures.collect(),
        counts: counts.collect(),
        create_time: Some(timestamp(job.create_time)),
        update_time: Some(timestamp(job.update_time)),
        pass: job.pass,
        waiting: job.state == JobState::Running && job.pass_time.is_none(),
        rate: job.rate.map_or(0, NonZeroU32::get),
        caller: job.caller.as_str().to_owned(),
        due,
        target_kms_key_arn: match job.kind {
            JobKind::Rewrap => job.wraps_with.clone(),
            JobKind::Reencryption | JobKind::CustomerKeyRotation => String::new(),
        },
    }
}

fn words(job: &Job) -> (v1::JobKind, v1::JobState) {
    let kind = match job.kind {
        JobKind::Reencryption => v1::JobKind::Reencryption,
        JobKind::CustomerKeyRotation => v1::JobKind::CustomerKeyRotation,
        JobKind::Rewrap => v1::JobKind::Rewrap,
    };
    let state = match job.state {
        JobState::Running => v1::JobState::Running,
        JobState::Done => v1::JobState::Done,
        JobState::DoneWithFailures => v1::JobState::DoneWithFailures,
        JobState::Cancelled => v1::JobState::Cancelled,
    };
    (kind, state)
}

pub(in crate::grpc) fn list_jobs_response(
    page: &Page<Job, JobId>,
    tokens: &PageTokens<'_>,
) -> Result<v1::ListJobsResponse, NoPageToken> {
    Ok(v1::ListJobsResponse {
        jobs: page.rows.iter().map(|job| job_message(job, None)).collect(),
        next_page_token: tokens.seal(page.next.as_ref().map_or("", JobId::as_str))?,
    })
}

/// The replicas, and the time by which their reports are to be judged, if it is known.
pub(in crate::grpc) fn list_replicas_response(reported: Reported, now: Option<Timestamp>) -> v1::ListReplicasResponse {
    // Without a time nobody may be taken for gone.
    let unreadable = reported.unreadable(now.unwrap_or(Timestamp::MIN));
    let replicas = reported.replicas.into_iter().map(|replica| v1::Replica {
        replica_id: replica.id,
        release: replica.release,
        primaries: replica.codebase.map(|codebase| v1::Lineage {
            codebase_version: codebase.get(),
            environment_version: replica.environment.map_or(0, Version::get),
            customer_version: 0,
        }),
        primaries_time: Some(timestamp(replica.since)),
        report_time: Some(timestamp(replica.report_time)),
        kms_key_arn: replica.wraps_with,
    });
    let unreadable_replicas = u32::try_from(unreadable).unwrap_or(u32::MAX);
    v1::ListReplicasResponse { replicas: replicas.collect(), time: now.map(timestamp), unreadable_replicas }
}

fn primaries((codebase, environment): (Version, Version)) -> v1::Lineage {
    v1::Lineage { codebase_version: codebase.get(), environment_version: environment.get(), customer_version: 0 }
}
