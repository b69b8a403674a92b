//! Rows as octets, for backends that keep octets: `format (1) || write id (16) || CBOR`. The write id stands at a fixed
//! place, so that a condition is checked without decoding a row.
//!
//! The CBOR is arrays, in which a field's number is its place (RFC 8949, by minicbor): a new field comes last, is optional, and a release
//! that does not know it passes it over. One that an older release must not lose when it rewrites a row raises the format, which that
//! release then refuses.

use jiff::Timestamp;
use minicbor::{Decode, Encode};

use super::rows::{
    AbandonCause, Change, Changes, CredentialRow, CustomerRow, CustomerState, Erasure, IdempotencyKey, KeyRow,
    KeyVersion, KeyVersionState, Lease, LeaseEnd, Leases, Life, Living, OperationId, OperationRow, Revision, State,
    TokenHash, WriteId, from_microsecond,
};
use crate::crypto::Version;
use crate::ids::{Caller, CredentialRef, CustomerId};
use crate::secret::Kind;

const FORMAT: u8 = 1;
/// A credential that has leases: a release that does not know them must not rewrite the row without.
const FORMAT_WITH_LEASES: u8 = 2;
const WRITE_ID_OCTETS: usize = 16;

/// Why octets are not read as a row. Says where, and nothing of what stands there.
pub(super) enum BadRow {
    /// They are no row of ours.
    Corrupt(&'static str),
    /// A newer release wrote them.
    Newer,
}

#[derive(Encode, Decode)]
struct CredentialFields<'a> {
    #[n(0)]
    revision: u64,
    #[n(1)]
    create_time: i64,
    #[n(2)]
    update_time: i64,
    #[b(3)]
    changes: Vec<ChangeFields<'a>>,
    #[b(4)]
    living: Option<LivingFields<'a>>,
    #[n(5)]
    delete_time: Option<i64>,
    #[b(6)]
    leases: Option<Vec<LeaseFields<'a>>>,
}

#[derive(Encode, Decode)]
struct LeaseFields<'a> {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    token: [u8; 32],
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    key: [u8; 32],
    #[b(2)]
    caller: &'a str,
    #[n(3)]
    revision: u64,
    #[n(4)]
    time: i64,
    #[n(5)]
    expire_time: i64,
    #[n(6)]
    after_lapse: bool,
    /// The revision that it made, and when.
    #[n(7)]
    completed: Option<(u64, i64)>,
    /// 1: invalid grant; 2: transient.
    #[n(8)]
    abandoned: Option<u8>,
}

#[derive(Encode, Decode)]
struct ChangeFields<'a> {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    key: [u8; 32],
    #[b(1)]
    caller: &'a str,
    #[n(2)]
    revision: u64,
    #[n(3)]
    time: i64,
}

#[derive(Encode, Decode)]
struct LivingFields<'a> {
    #[b(0)]
    #[cbor(with = "minicbor::bytes")]
    envelope: &'a [u8],
    #[b(1)]
    kind: &'a str,
    #[n(2)]
    needs_reauth: Option<NeedsReauthFields>,
    #[n(3)]
    refresh_time: Option<i64>,
    #[n(4)]
    access_token_expire_time: Option<i64>,
}

#[derive(Encode, Decode)]
struct NeedsReauthFields {
    #[n(0)]
    reason: String,
    #[n(1)]
    time: i64,
}

#[derive(Encode, Decode)]
struct CustomerFields {
    #[n(0)]
    state: u8,
    #[n(1)]
    destroy_time: Option<i64>,
    #[n(2)]
    primary: u32,
    #[n(3)]
    versions: Vec<KeyVersionFields>,
    #[n(4)]
    create_time: i64,
    #[n(5)]
    erasure: Option<ErasureFields>,
}

#[derive(Encode, Decode)]
struct ErasureFields {
    #[n(0)]
    key_versions: u32,
    #[n(1)]
    credentials: Option<u64>,
    #[n(2)]
    end_time: Option<i64>,
    #[n(3)]
    backups_end_time: Option<i64>,
}

#[derive(Encode, Decode)]
struct KeyVersionFields {
    #[n(0)]
    version: u32,
    #[n(1)]
    retired: bool,
    #[n(2)]
    create_time: i64,
    #[n(3)]
    kms_key_arn: String,
    #[n(4)]
    primary_until: Option<i64>,
}

#[derive(Encode, Decode)]
struct KeyFields {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    wrapped: Vec<u8>,
    #[n(1)]
    kms_key_arn: String,
}

/// The write id of an encoded row.
pub(super) fn write_id(row: &[u8]) -> Result<WriteId, BadRow> {
    let rest = match row.split_first() {
        Some((&(FORMAT | FORMAT_WITH_LEASES), rest)) => rest,
        Some(_) => return Err(BadRow::Newer),
        None => return Err(BadRow::Corrupt("a row is empty")),
    };
    rest.first_chunk::<WRITE_ID_OCTETS>()
        .map(|octets| WriteId::from_octets(*octets))
        .ok_or(BadRow::Corrupt("a row is cut off"))
}

pub(super) fn encode_credential(row: &CredentialRow) -> Vec<u8> {
    let (living, delete_time) = match &row.life {
        Life::Living(living) => (Some(living_fields(living)), None),
        Life::Deleted { time } => (None, Some(micros(*time))),
    };
    let changes = row.changes.0.iter().map(|change| ChangeFields {
        key: *change.key.octets(),
        caller: change.caller.as_str(),
        revision: change.revision.get(),
        time: micros(change.time),
    });
    let leases: Vec<_> = row.leases.0.iter().map(lease_fields).collect();
    let format = if leases.is_empty() { FORMAT } else { FORMAT_WITH_LEASES };
    encode_as(
        format,
        row.write_id,
        &CredentialFields {
            revision: row.revision.get(),
            create_time: micros(row.create_time),
            update_time: micros(row.update_time),
            changes: changes.collect(),
            living,
            delete_time,
            leases: (!leases.is_empty()).then_some(leases),
        },
    )
}

pub(super) fn decode_credential(id: CredentialRef, octets: &[u8]) -> Result<CredentialRow, BadRow> {
    let (write_id, fields) = decode::<CredentialFields<'_>>(octets)?;
    let life = match (fields.living, fields.delete_time) {
        (Some(living), None) => Life::Living(living_from(living)?),
        (None, Some(time)) => Life::Deleted { time: timestamp(time)? },
        (Some(_), Some(_)) | (None, None) => return Err(BadRow::Corrupt("a credential is neither living nor deleted")),
    };
    let mut changes: Vec<Change> = Vec::with_capacity(fields.changes.len());
    for change in fields.changes {
        // Mostly one caller's.
        let known = changes.last().map(|last| &last.caller).filter(|caller| caller.as_str() == change.caller);
        changes.push(Change {
            key: IdempotencyKey::from_octets(change.key),
            caller: known.cloned().unwrap_or_else(|| Caller::new(change.caller)),
            revision: revision(change.revision)?,
            time: timestamp(change.time)?,
        });
    }
    Ok(CredentialRow {
        id,
        write_id,
        revision: revision(fields.revision)?,
        create_time: timestamp(fields.create_time)?,
        update_time: timestamp(fields.update_time)?,
        changes: Changes(changes),
        leases: Leases(fields.leases.unwrap_or_default().into_iter().map(lease_from).collect::<Result<_, _>>()?),
        life,
    })
}

fn lease_fields(lease: &Lease) -> LeaseFields<'_> {
    let (completed, abandoned) = match lease.end {
        None => (None, None),
        Some(LeaseEnd::Completed { made, time }) => (Some((made.get(), micros(time))), None),
        Some(LeaseEnd::Abandoned(AbandonCause::InvalidGrant)) => (None, Some(1)),
        Some(LeaseEnd::Abandoned(AbandonCause::Transient)) => (None, Some(2)),
    };
    LeaseFields {
        token: *lease.token.octets(),
        key: *lease.key.octets(),
        caller: lease.caller.as_str(),
        revision: lease.revision.get(),
        time: micros(lease.time),
        expire_time: micros(lease.expire_time),
        after_lapse: lease.after_lapse,
        completed,
        abandoned,
    }
}

fn lease_from(fields: LeaseFields<'_>) -> Result<Lease, BadRow> {
    let end = match (fields.completed, fields.abandoned) {
        (None, None) => None,
        (Some((made, time)), None) => Some(LeaseEnd::Completed { made: revision(made)?, time: timestamp(time)? }),
        (None, Some(1)) => Some(LeaseEnd::Abandoned(AbandonCause::InvalidGrant)),
        (None, Some(2)) => Some(LeaseEnd::Abandoned(AbandonCause::Transient)),
        (_, Some(_)) => return Err(BadRow::Corrupt("the end of a lease is unknown")),
    };
    Ok(Lease {
        token: TokenHash::from_octets(fields.token),
        key: IdempotencyKey::from_octets(fields.key),
        caller: Caller::new(fields.caller),
        revision: revision(fields.revision)?,
        time: timestamp(fields.time)?,
        expire_time: timestamp(fields.expire_time)?,
        after_lapse: fields.after_lapse,
        end,
    })
}

fn living_fields(living: &Living) -> LivingFields<'_> {
    LivingFields {
        envelope: &living.envelope,
        kind: living.kind.as_str(),
        needs_reauth: match &living.state {
            State::Active => None,
            State::NeedsReauth { reason, time } => {
                Some(NeedsReauthFields { reason: reason.clone(), time: micros(*time) })
            }
        },
        refresh_time: living.refresh_time.map(micros),
        access_token_expire_time: living.access_token_expire_time.map(micros),
    }
}

fn living_from(fields: LivingFields<'_>) -> Result<Living, BadRow> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == fields.kind);
    Ok(Living {
        envelope: fields.envelope.to_vec(),
        kind: kind.ok_or(BadRow::Corrupt("a credential's kind is unknown"))?,
        state: match fields.needs_reauth {
            None => State::Active,
            Some(fields) => State::NeedsReauth { reason: fields.reason, time: timestamp(fields.time)? },
        },
        refresh_time: fields.refresh_time.map(timestamp).transpose()?,
        access_token_expire_time: fields.access_token_expire_time.map(timestamp).transpose()?,
    })
}

pub(super) fn encode_customer(row: &CustomerRow) -> Vec<u8> {
    let (state, destroy_time, erasure) = match row.state {
        CustomerState::Active => (1, None, None),
        CustomerState::Disabled => (2, None, None),
        CustomerState::PendingDestruction { destroy_time } => (3, Some(micros(destroy_time)), None),
        CustomerState::Destroyed { destroy_time, erasure } => (4, Some(micros(destroy_time)), Some(erasure)),
    };
    let erasure = erasure.map(|erasure| ErasureFields {
        key_versions: erasure.key_versions,
        credentials: erasure.credentials,
        end_time: erasure.end_time.map(micros),
        backups_end_time: erasure.backups_end_time.map(micros),
    });
    let versions = row.versions.iter().map(|key| KeyVersionFields {
        version: key.version.get(),
        retired: key.state == KeyVersionState::Retired,
        create_time: micros(key.create_time),
        kms_key_arn: key.kms_key_arn.clone(),
        primary_until: key.primary_until.map(micros),
    });
    encode(
        row.write_id,
        &CustomerFields {
            state,
            destroy_time,
            primary: row.primary.get(),
            versions: versions.collect(),
            create_time: micros(row.create_time),
            erasure,
        },
    )
}

pub(super) fn decode_customer(id: CustomerId, octets: &[u8]) -> Result<CustomerRow, BadRow> {
    let (write_id, fields) = decode::<CustomerFields>(octets)?;
    let state = match (fields.state, fields.destroy_time, fields.erasure) {
        (1, None, None) => CustomerState::Active,
        (2, None, None) => CustomerState::Disabled,
        (3, Some(time), None) => CustomerState::PendingDestruction { destroy_time: timestamp(time)? },
        (4, Some(time), Some(erasure)) => CustomerState::Destroyed {
            destroy_time: timestamp(time)?,
            erasure: Erasure {
                key_versions: erasure.key_versions,
                credentials: erasure.credentials,
                end_time: erasure.end_time.map(timestamp).transpose()?,
                backups_end_time: erasure.backups_end_time.map(timestamp).transpose()?,
            },
        },
        (_, _, _) => return Err(BadRow::Corrupt("a customer's state is unknown")),
    };
    let versions = fields.versions.into_iter().map(|key| {
        Ok(KeyVersion {
            version: version(key.version)?,
            state: if key.retired { KeyVersionState::Retired } else { KeyVersionState::Enabled },
            create_time: timestamp(key.create_time)?,
            primary_until: key.primary_until.map(timestamp).transpose()?,
            kms_key_arn: key.kms_key_arn,
        })
    });
    Ok(CustomerRow {
        id,
        write_id,
        state,
        primary: version(fields.primary)?,
        versions: versions.collect::<Result<_, _>>()?,
        create_time: timestamp(fields.create_time)?,
    })
}

/// A key has no write id of its own: it changes with its customer, whose write id stands here, too.
pub(super) fn encode_key(write_id: WriteId, row: &KeyRow) -> Vec<u8> {
    encode(write_id, &KeyFields { wrapped: row.wrapped.clone(), kms_key_arn: row.kms_key_arn.clone() })
}

pub(super) fn decode_key(version: Version, octets: &[u8]) -> Result<KeyRow, BadRow> {
    let (_, fields) = decode::<KeyFields>(octets)?;
    Ok(KeyRow { version, wrapped: fields.wrapped, kms_key_arn: fields.kms_key_arn })
}

pub(super) fn encode_operation(row: &OperationRow) -> Vec<u8> {
    let body: &minicbor::bytes::ByteSlice = row.body.as_slice().into();
    encode(row.write_id, body)
}

pub(super) fn decode_operation(id: OperationId, octets: &[u8]) -> Result<OperationRow, BadRow> {
    let (write_id, body) = decode::<minicbor::bytes::ByteVec>(octets)?;
    Ok(OperationRow { id, write_id, body: body.into() })
}

fn encode<T: Encode<()> + ?Sized>(write_id: WriteId, fields: &T) -> Vec<u8> {
    encode_as(FORMAT, write_id, fields)
}

fn encode_as<T: Encode<()> + ?Sized>(format: u8, write_id: WriteId, fields: &T) -> Vec<u8> {
    let mut octets = Vec::with_capacity(1024);
    octets.push(format);
    octets.extend_from_slice(&write_id.octets());
    match minicbor::encode(fields, &mut octets) {
        Ok(()) => octets,
        // Its error type has a variant for writers that fail and for custom encoders; a vector and derived ones have neither.
        Err(_) => unreachable!("a vector takes every encoding"),
    }
}

fn decode<'a, T: Decode<'a, ()>>(octets: &'a [u8]) -> Result<(WriteId, T), BadRow> {
    let write_id = write_id(octets)?;
    let mut decoder = minicbor::Decoder::new(octets.get(1 + WRITE_ID_OCTETS..).unwrap_or_default());
    let fields = decoder.decode().map_err(|_| BadRow::Corrupt("a row is not of its form"))?;
    if decoder.position() == decoder.input().len() {
        Ok((write_id, fields))
    } else {
        Err(BadRow::Corrupt("a row is too long"))
    }
}

fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

fn timestamp(micros: i64) -> Result<Timestamp, BadRow> {
    from_microsecond(micros).map_err(|_| BadRow::Corrupt("a time is out of range"))
}

fn revision(number: u64) -> Result<Revision, BadRow> {
    Revision::new(number).ok_or(BadRow::Corrupt("a revision is 0"))
}

fn version(number: u32) -> Result<Version, BadRow> {
    Version::new(number).ok_or(BadRow::Corrupt("a version is 0"))
}
