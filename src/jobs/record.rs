//! Jobs and their parts as they stand in the operations table: CBOR maps with numbered fields (RFC 8949), as rows have them.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use minicbor::{Decode, Encode};

use super::plan::{Failure, Job, JobKind, JobState, Part, Progress, VersionCount};
use crate::crypto::Version;
use crate::ids::{CredentialId, CredentialRef, CustomerId};
use crate::store::StoreError;
use crate::vault::Target;

/// Of jobs in the operations table.
pub(super) const JOB: &str = "job";
/// Of their parts.
pub(super) const PART: &str = "job-part";

/// In milliseconds since 1970: in the year 2286. Thirteen digits.
const END_OF_NAMES: i64 = 9_999_999_999_999;

/// The name of a job. Names are in the order of their start, the last first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Arc<str>);

impl JobId {
    /// A new name: the milliseconds that are left of the year 2286's end, so that the last job comes first, and 32 random bits.
    pub(super) fn new(now: Timestamp, random: u32) -> Self {
        let left = END_OF_NAMES.saturating_sub(now.as_millisecond()).max(0);
        Self(format!("{left:013}-{random:08x}").into())
    }

    /// Takes what [`JobId::as_str`] gave. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (left, random) = text.split_once('-')?;
        let is_one = left.len() == 13
            && left.bytes().all(|octet| octet.is_ascii_digit())
            && random.len() == 8
            && random.bytes().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'));
        is_one.then(|| Self(text.into()))
    }

    /// Whether it was named so lately.
    pub(super) fn is_younger_than(&self, age: SignedDuration, now: Timestamp) -> bool {
        let left = self.0.split('-').next().and_then(|left| left.parse::<i64>().ok()).unwrap_or_default();
        now.as_millisecond().saturating_sub(END_OF_NAMES - left) < age.as_millis() as i64
    }

    /// Digits, a hyphen, lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record is not of its form.
#[derive(Debug)]
pub(super) struct BadRecord;

impl From<BadRecord> for StoreError {
    fn from(_: BadRecord) -> Self {
        Self::Corrupt("a record of jobs or replicas is not of its form".to_owned())
    }
}

#[derive(Encode, Decode)]
struct JobFields {
    #[n(0)]
    kind: u8,
    #[n(1)]
    state: u8,
    #[n(2)]
    customer: Option<String>,
    #[n(3)]
    codebase: u32,
    #[n(4)]
    environment: u32,
    #[n(5)]
    rate: Option<u32>,
    #[n(6)]
    pass: u32,
    #[n(7)]
    pass_time: i64,
    #[n(8)]
    parts: u32,
    #[n(9)]
    total: u64,
    #[n(10)]
    changed: u64,
    #[n(11)]
    create_time: i64,
    #[n(12)]
    update_time: i64,
}

#[derive(Encode, Decode)]
struct PartFields {
    #[n(0)]
    holder: String,
    #[n(1)]
    lease_time: Option<i64>,
    #[n(2)]
    after: Option<(String, String)>,
    #[n(3)]
    is_done: bool,
    #[n(4)]
    done: u64,
    #[n(5)]
    changed: u64,
    #[n(6)]
    skipped: u64,
    #[n(7)]
    failed: u64,
    #[n(8)]
    failures: Vec<(String, String, String)>,
    /// Factor, version, records.
    #[n(9)]
    counts: Vec<(u8, u32, u64)>,
}

pub(super) fn write_job(job: &Job) -> Vec<u8> {
    encode(&JobFields {
        kind: match job.kind {
            JobKind::Reencryption => 1,
            JobKind::Count => 2,
        },
        state: match job.state {
            JobState::Running => 1,
            JobState::Done => 2,
            JobState::DoneWithFailures => 3,
            JobState::Cancelled => 4,
        },
        customer: job.customer.as_ref().map(|customer| customer.as_str().to_owned()),
        codebase: job.target.codebase.get(),
        environment: job.target.environment.get(),
        rate: job.rate,
        pass: job.pass,
        pass_time: micros(job.pass_time),
        parts: job.parts,
        total: job.total,
        changed: job.changed,
        create_time: micros(job.create_time),
        update_time: micros(job.update_time),
    })
}

pub(super) fn read_job(id: &str, body: &[u8]) -> Result<Job, BadRecord> {
    let fields: JobFields = decode(body)?;
    Ok(Job {
        id: JobId::parse(id).ok_or(BadRecord)?,
        kind: match fields.kind {
            1 => JobKind::Reencryption,
            2 => JobKind::Count,
            _ => return Err(BadRecord),
        },
        state: match fields.state {
            1 => JobState::Running,
            2 => JobState::Done,
            3 => JobState::DoneWithFailures,
            4 => JobState::Cancelled,
            _ => return Err(BadRecord),
        },
        customer: fields.customer.map(|id| CustomerId::parse(&id)).transpose().map_err(|_| BadRecord)?,
        target: Target { codebase: version(fields.codebase)?, environment: version(fields.environment)? },
        rate: fields.rate,
        pass: fields.pass,
        pass_time: time(fields.pass_time)?,
        parts: fields.parts,
        total: fields.total,
        changed: fields.changed,
        create_time: time(fields.create_time)?,
        update_time: time(fields.update_time)?,
    })
}

pub(super) fn write_part(part: &Part) -> Vec<u8> {
    let pair = |id: &CredentialRef| (id.customer.as_str().to_owned(), id.credential.as_str().to_owned());
    let progress = &part.progress;
    encode(&PartFields {
        holder: part.holder.clone(),
        lease_time: part.lease_time.map(micros),
        after: part.after.as_ref().map(pair),
        is_done: part.is_done,
        done: progress.done,
        changed: progress.changed,
        skipped: progress.skipped,
        failed: progress.failed,
        failures: progress
            .failures
            .iter()
            .map(|failure| {
                let (customer, credential) = pair(&failure.id);
                (customer, credential, failure.reason.clone())
            })
            .collect(),
        counts: progress
            .counts
            .iter()
            .map(|(version, count)| match version {
                VersionCount::Codebase(version) => (1, *version, *count),
                VersionCount::Environment(version) => (2, *version, *count),
                VersionCount::Customer(version) => (3, *version, *count),
            })
            .collect(),
    })
}

pub(super) fn read_part(body: &[u8]) -> Result<Part, BadRecord> {
    let fields: PartFields = decode(body)?;
    let pair = |(customer, credential): (String, String)| {
        let (customer, credential) = (CustomerId::parse(&customer), CredentialId::parse(&credential));
        Ok(CredentialRef { customer: customer.map_err(|_| BadRecord)?, credential: credential.map_err(|_| BadRecord)? })
    };
    let failures = fields
        .failures
        .into_iter()
        .map(|(customer, credential, reason)| Ok(Failure { id: pair((customer, credential))?, reason }));
    let counts = fields.counts.into_iter().map(|(factor, version, count)| match factor {
        1 => Ok((VersionCount::Codebase(version), count)),
        2 => Ok((VersionCount::Environment(version), count)),
        3 => Ok((VersionCount::Customer(version), count)),
        _ => Err(BadRecord),
    });
    Ok(Part {
        holder: fields.holder,
        lease_time: fields.lease_time.map(time).transpose()?,
        after: fields.after.map(pair).transpose()?,
        is_done: fields.is_done,
        progress: Progress {
            done: fields.done,
            changed: fields.changed,
            skipped: fields.skipped,
            failed: fields.failed,
            failures: failures.collect::<Result<_, _>>()?,
            counts: counts.collect::<Result<_, _>>()?,
        },
    })
}

pub(super) fn encode<T: Encode<()>>(fields: &T) -> Vec<u8> {
    let mut octets = Vec::new();
    match minicbor::encode(fields, &mut octets) {
        Ok(()) => octets,
        // As in store::encoding: neither a vector nor a derived encoder fails.
        Err(_) => unreachable!("a vector takes every encoding"),
    }
}

pub(super) fn decode<'a, T: Decode<'a, ()>>(octets: &'a [u8]) -> Result<T, BadRecord> {
    minicbor::decode(octets).map_err(|_| BadRecord)
}

pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

pub(super) fn time(micros: i64) -> Result<Timestamp, BadRecord> {
    Timestamp::from_microsecond(micros).map_err(|_| BadRecord)
}

pub(super) fn version(number: u32) -> Result<Version, BadRecord> {
    Version::new(number).ok_or(BadRecord)
}
