//! What becomes of a call, in pure code over the row: which secret may be read, what an encryption writes, what a deletion leaves. It
//! knows no store and no key.

use jiff::Timestamp;

use super::VaultError;
use crate::ids::Caller;
use crate::secret::{Kind, View};
use crate::store::{Change, CredentialRow, IdempotencyKey, Life, Living, Revision, State, WriteId};

/// What must be there for a secret to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there is written over.
    None,
    /// No living credential.
    Absent,
    /// A living credential at this revision.
    At(Revision),
}

#[derive(Debug)]
pub(super) enum Encrypt {
    /// This call has made its change before.
    Repeated(Change),
    /// Seal at this revision.
    Seal { revision: Revision, create_time: Timestamp },
}

pub(super) fn decide_encrypt(
    present: Option<&CredentialRow>,
    caller: &Caller,
    key: &IdempotencyKey,
    condition: Condition,
    now: Timestamp,
) -> Result<Encrypt, VaultError> {
    let Some(row) = present else {
        return match condition {
            Condition::At(_) => Err(VaultError::CredentialNotFound),
            Condition::None | Condition::Absent => Ok(Encrypt::Seal { revision: Revision::FIRST, create_time: now }),
        };
    };
    if let Some(made) = row.changes.find(key, caller, now) {
        return Ok(Encrypt::Repeated(made.clone()));
    }
    let create_time = match (&row.life, condition) {
        (Life::Living(_), Condition::Absent) => return Err(VaultError::CredentialExists { current: row.revision }),
        (Life::Living(_), Condition::At(revision)) if revision != row.revision => {
            return Err(VaultError::RevisionMismatch { current: row.revision });
        }
        (Life::Living(_), Condition::At(_) | Condition::None) => row.create_time,
        (Life::Deleted { .. }, Condition::At(_)) => return Err(VaultError::CredentialNotFound),
        (Life::Deleted { .. }, Condition::Absent | Condition::None) => now,
    };
    let revision = row.revision.next().ok_or(VaultError::Internal("a credential has no further revision"))?;
    Ok(Encrypt::Seal { revision, create_time })
}

#[derive(Debug)]
pub(super) enum Delete {
    /// This call has made its change before.
    Done,
    /// Nothing lives there.
    Missing,
    /// Put this tombstone in the row's place.
    Bury(Box<CredentialRow>),
}

pub(super) fn decide_delete(
    present: Option<CredentialRow>,
    caller: &Caller,
    key: &IdempotencyKey,
    condition: Option<Revision>,
    write_id: WriteId,
    now: Timestamp,
) -> Result<Delete, VaultError> {
    let Some(row) = present else { return Ok(Delete::Missing) };
    if row.changes.find(key, caller, now).is_some() {
        return Ok(Delete::Done);
    }
    if living(&row).is_none() {
        return Ok(Delete::Missing);
    }
    check_revision(&row, condition)?;
    let made = Change { key: *key, caller: caller.clone(), revision: row.revision, time: now };
    let changes = row.changes.with(made);
    Ok(Delete::Bury(Box::new(CredentialRow { write_id, changes, life: Life::Deleted { time: now }, ..row })))
}

/// What is to be opened for a reading. `None`: nothing lives there.
pub(super) fn readable(
    row: Option<&CredentialRow>,
    view: View,
    revision: Option<Revision>,
) -> Result<Option<(&CredentialRow, &Living)>, VaultError> {
    let Some((row, living)) = row.and_then(living) else { return Ok(None) };
    check_revision(row, revision)?;
    match (view, living.kind, &living.state) {
        (View::Access, Kind::SalesforceOAuth, State::Active) | (View::Full, _, _) => Ok(Some((row, living))),
        (View::Access, Kind::Password | Kind::Opaque, _) => Err(VaultError::NoAccessView),
        (View::Access, Kind::SalesforceOAuth, State::NeedsReauth { .. }) => Err(VaultError::NeedsReauth),
    }
}

pub(super) fn check_revision(row: &CredentialRow, wanted: Option<Revision>) -> Result<(), VaultError> {
    match wanted {
        Some(revision) if revision != row.revision => Err(VaultError::RevisionMismatch { current: row.revision }),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn living(row: &CredentialRow) -> Option<(&CredentialRow, &Living)> {
    match &row.life {
        Life::Living(living) => Some((row, living)),
        Life::Deleted { .. } => None,
    }
}
