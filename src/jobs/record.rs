//! Jobs and their parts as they stand in the operations table: CBOR arrays, in which a field's number is its place (RFC 8949), as in rows.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use minicbor::{Decode, Encode};

use super::plan::{Failure, ItemId, Job, JobKind, JobState, Part, Progress, VersionCount};
use crate::crypto::Version;
use crate::ids::{Caller, CredentialId, CustomerId};
use crate::store::{OperationRow, StoreError};

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
        i128::from(now.as_millisecond().saturating_sub(END_OF_NAMES - left)) < age.as_millis()
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
    dry_run: bool,
    #[n(2)]
    state: u8,
    #[n(3)]
    caller: String,
    #[n(4)]
    customer: Option<String>,
    #[n(5)]
    codebase: u32,
    #[n(6)]
    environment: u32,
    #[n(7)]
    wraps_with: String,
    #[n(8)]
    rate: Option<u32>,
    #[n(9)]
    pass: u32,
    #[n(10)]
    pass_time: Option<i64>,
    #[n(11)]
    parts: u32,
    #[n(12)]
    total: u64,
    #[n(13)]
    changed: u64,
    #[n(14)]
    create_time: i64,
    #[n(15)]
    update_time: i64,
}

/// Customer and credential.
type ItemFields = (String, Option<String>);

#[derive(Encode, Decode)]
struct PartFields {
    #[n(0)]
    pass: u32,
    #[n(1)]
    holder: String,
    #[n(2)]
    lease_time: Option<i64>,
    #[n(3)]
    after: Option<ItemFields>,
    #[n(4)]
    is_done: bool,
    #[n(5)]
    done: u64,
    #[n(6)]
    changed: u64,
    #[n(7)]
    skipped: u64,
    #[n(8)]
    failed: u64,
    /// With their reasons.
    #[n(9)]
    failures: Vec<(ItemFields, String)>,
    /// Factor, version, records.
    #[n(10)]
    counts: Vec<(u8, u32, u64)>,
}

pub(super) fn write_job(job: &Job) -> Vec<u8> {
    encode(&JobFields {
        kind: match job.kind {
            JobKind::Reencryption => 1,
            JobKind::CustomerKeyRotation => 2,
            JobKind::Rewrap => 3,
        },
        dry_run: job.dry_run,
        state: match job.state {
            JobState::Running => 1,
            JobState::Done => 2,
            JobState::DoneWithFailures => 3,
            JobState::Cancelled => 4,
        },
        caller: job.caller.as_str().to_owned(),
        customer: job.customer.as_ref().map(ToString::to_string),
        codebase: job.primaries.0.get(),
        environment: job.primaries.1.get(),
        wraps_with: job.wraps_with.clone(),
        rate: job.rate.map(NonZeroU32::get),
        pass: job.pass,
        pass_time: job.pass_time.map(micros),
        parts: job.parts,
        total: job.total,
        changed: job.changed,
        create_time: micros(job.create_time),
        update_time: micros(job.update_time),
    })
}

pub(super) fn read_job(row: &OperationRow) -> Result<Job, BadRecord> {
    let fields: JobFields = decode(&row.body)?;
    Ok(Job {
        id: JobId::parse(&row.id.id).ok_or(BadRecord)?,
        kind: match fields.kind {
            1 => JobKind::Reencryption,
            2 => JobKind::CustomerKeyRotation,
            3 => JobKind::Rewrap,
            _ => return Err(BadRecord),
        },
        dry_run: fields.dry_run,
        state: match fields.state {
            1 => JobState::Running,
            2 => JobState::Done,
            3 => JobState::DoneWithFailures,
            4 => JobState::Cancelled,
            _ => return Err(BadRecord),
        },
        caller: Caller::new(&fields.caller),
        customer: fields.customer.map(|id| CustomerId::parse(&id)).transpose().map_err(|_| BadRecord)?,
        primaries: (version(fields.codebase)?, version(fields.environment)?),
        wraps_with: fields.wraps_with,
        rate: fields.rate.and_then(NonZeroU32::new),
        pass: fields.pass,
        pass_time: fields.pass_time.map(time).transpose()?,
        parts: fields.parts,
        total: fields.total,
        changed: fields.changed,
        create_time: time(fields.create_time)?,
        update_time: time(fields.update_time)?,
    })
}

pub(super) fn write_part(part: &Part) -> Vec<u8> {
    let item = |id: &ItemId| (id.customer.to_string(), id.credential.as_ref().map(ToString::to_string));
    let progress = &part.progress;
    let counts = progress.counts.iter().map(|(version, records)| match version {
        VersionCount::Codebase(version) => (1, *version, *records),
        VersionCount::Environment(version) => (2, *version, *records),
        VersionCount::Customer(version) => (3, *version, *records),
    });
    encode(&PartFields {
        pass: part.pass,
        holder: part.holder.clone(),
        lease_time: part.lease_time.map(micros),
        after: part.after.as_ref().map(item),
        is_done: part.is_done,
        done: progress.done,
        changed: progress.changed,
        skipped: progress.skipped,
        failed: progress.failed,
        failures: progress.failures.iter().map(|failure| (item(&failure.id), failure.reason.clone())).collect(),
        counts: counts.collect(),
    })
}

pub(super) fn read_part(row: &OperationRow) -> Result<Part, BadRecord> {
    let fields: PartFields = decode(&row.body)?;
    let item = |(customer, credential): ItemFields| {
        let customer = CustomerId::parse(&customer).map_err(|_| BadRecord)?;
        let credential = credential.map(|id| CredentialId::parse(&id)).transpose().map_err(|_| BadRecord)?;
        Ok(ItemId { customer, credential })
    };
    let failures = fields.failures.into_iter().map(|(id, reason)| Ok(Failure { id: item(id)?, reason }));
    let counts = fields.counts.into_iter().map(|(factor, version, records)| match factor {
        1 => Ok((VersionCount::Codebase(version), records)),
        2 => Ok((VersionCount::Environment(version), records)),
        3 => Ok((VersionCount::Customer(version), records)),
        _ => Err(BadRecord),
    });
    Ok(Part {
        pass: fields.pass,
        holder: fields.holder,
        lease_time: fields.lease_time.map(time).transpose()?,
        after: fields.after.map(item).transpose()?,
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
