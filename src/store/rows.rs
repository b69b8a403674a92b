//! What stands in a row, as domain values. Each backend writes them in its own form.

use std::fmt;
use std::num::NonZeroU64;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::crypto::Version;
use crate::ids::{Caller, CredentialRef, CustomerId};
use crate::randomness::NoRandomness;
use crate::secret::Kind;

/// A time as rows keep it: in whole microseconds. What is answered before a row was read again is then what is answered after.
pub fn row_time(time: Timestamp) -> Timestamp {
    from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// [`Timestamp::from_microsecond`], but for the microseconds of the last second that there is, too: jiff refuses them.
pub(super) fn from_microsecond(microsecond: i64) -> Result<Timestamp, jiff::Error> {
    let nanos = microsecond.rem_euclid(1_000_000) * 1_000;
    Timestamp::new(microsecond.div_euclid(1_000_000), i32::try_from(nanos).unwrap_or_default())
}

/// A mark of one write of a row, new at every write whatever it changes. It is never shown to callers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WriteId([u8; 16]);

impl WriteId {
    /// 16 octets from the operating system's generator.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let mut octets = [0; 16];
        getrandom::fill(&mut octets)?;
        Ok(Self(octets))
    }

    pub(super) fn from_octets(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    pub(super) fn octets(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Debug for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteId({:032x})", u128::from_be_bytes(self.0))
    }
}

/// A row that is replaced on the condition of its write id.
pub trait Versioned {
    /// The mark of the write that made it.
    fn write_id(&self) -> WriteId;
}

/// The callers' count of a secret's changes, from 1. Envelopes are bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(NonZeroU64);

impl Revision {
    /// The first.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for 0, which is no revision.
    pub fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// The number, from 1.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The one after. `None` after 2^64 - 1.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

/// One credential, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialRow {
    /// Which one.
    pub id: CredentialRef,
    /// The mark of the write that made this row.
    pub write_id: WriteId,
    /// The revision of its secret; of a tombstone, of its last one.
    pub revision: Revision,
    /// When the secret of this life was first stored.
    pub create_time: Timestamp,
    /// When the secret last changed.
    pub update_time: Timestamp,
    /// Whom it answered what, so that retries change nothing.
    pub changes: Changes,
    /// Who was given the secret to refresh it. A tombstone keeps them: what the last holder did is still recognised.
    pub leases: Leases,
    /// Whether there is a secret.
    pub life: Life,
}

/// Whether a row has a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It has.
    Living(Living),
    /// A tombstone: the revision stays, so that nothing of the former life can match a later one.
    Deleted {
        /// When.
        time: Timestamp,
    },
}

/// A sealed secret and the hints beside it.
#[derive(Clone, PartialEq, Eq)]
pub struct Living {
    /// The envelope, as it was read: nothing has checked it.
    pub envelope: Vec<u8>,
    /// The kind that the envelope must be bound to.
    pub kind: Kind,
    /// Whether it can be used.
    pub state: State,
    /// When the tokens were last issued anew.
    pub refresh_time: Option<Timestamp>,
    /// When the access token ends, if that is known.
    pub access_token_expire_time: Option<Timestamp>,
}

impl fmt::Debug for Living {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Living").field("kind", &self.kind).field("state", &self.state).finish_non_exhaustive()
    }
}

/// Whether a credential can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Active,
    /// Its customer has to consent again.
    NeedsReauth {
        /// Why.
        reason: String,
        /// Since when.
        time: Timestamp,
    },
}

impl Versioned for CredentialRow {
    fn write_id(&self) -> WriteId {
        self.write_id
    }
}

/// What names one change: SHA-256 of the caller's key, or 32 random octets where the caller gave none, so that a
/// change whose answer was lost is recognised even under a later one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey([u8; 32]);

impl IdempotencyKey {
    /// The caller's own.
    pub fn given(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// For a call without one.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let mut octets = [0; 32];
        getrandom::fill(&mut octets)?;
        Ok(Self(octets))
    }

    pub(super) fn from_octets(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    pub(super) fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey")
    }
}

/// One change of a row that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub key: IdempotencyKey,
    /// Who made it.
    pub caller: Caller,
    /// The revision that it made; of a deletion, the one that it ended.
    pub revision: Revision,
    /// When.
    pub time: Timestamp,
}

/// The changes that a row remembers: the last [`Changes::MAX`] of the last 24 hours, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub(super) Vec<Change>);

impl Changes {
    /// A row remembers at most so many.
    pub const MAX: usize = 8;
    /// And each for so long.
    const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

    /// The change that this caller made under this key, if it is remembered.
    pub fn find(&self, key: &IdempotencyKey, caller: &Caller, now: Timestamp) -> Option<&Change> {
        let remembered = |change: &&Change| is_remembered(change, now);
        self.0
            .iter()
            .filter(remembered)
            .find(|change| change.caller == *caller && bool::from(change.key.0.ct_eq(&key.0)))
    }

    /// These changes and one more.
    #[must_use]
    pub fn with(&self, change: Change) -> Self {
        let mut kept: Vec<_> = self.0.iter().filter(|old| is_remembered(old, change.time)).cloned().collect();
        kept.push(change);
        let surplus = kept.len().saturating_sub(Self::MAX);
        Self(kept.split_off(surplus))
    }
}

fn is_remembered(change: &Change, now: Timestamp) -> bool {
    now.duration_since(change.time) < Changes::REMEMBERED
}

/// SHA-256 of a lease's token, which is all that a row knows of it.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of this token.
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    pub(super) fn from_octets(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    pub(super) fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// The right to refresh a token, given to one caller for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What its holder shows.
    pub token: TokenHash,
    /// What the call that asked for it was named.
    pub key: IdempotencyKey,
    /// Whose it is.
    pub caller: Caller,
    /// The revision whose secret it disclosed.
    pub revision: Revision,
    /// Since when.
    pub time: Timestamp,
    /// Until when.
    pub expire_time: Timestamp,
    /// Whether the one before it had lapsed.
    pub after_lapse: bool,
    /// Whether it has ended by something else than time, and by what.
    pub end: Option<LeaseEnd>,
}

impl Lease {
    /// Whether the two were given to one call, which was answered twice: a lease under two tokens.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.caller, self.key, self.revision, self.time) == (&other.caller, other.key, other.revision, other.time)
    }
}

/// What ended a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Its holder brought the new tokens.
    Completed {
        /// The revision that they made.
        made: Revision,
        /// When.
        time: Timestamp,
    },
    /// Its holder gave it up.
    Abandoned(AbandonCause),
}

/// Why a holder gave its lease up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbandonCause {
    /// Salesforce refused the refresh token for good.
    InvalidGrant,
    /// Anything that may pass.
    Transient,
}

/// The leases that a row remembers: the last [`Leases::MAX`], oldest first. One that was answered again stands here under each of its tokens,
/// and takes two places: whichever answer came, its holder is not the one who is forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases(pub(super) Vec<Lease>);

impl Leases {
    /// A row remembers at most so many.
    pub const MAX: usize = 4;

    /// The one of this caller with this token, if it is remembered.
    pub fn find(&self, token: &TokenHash, caller: &Caller) -> Option<&Lease> {
        self.0.iter().find(|lease| lease.token == *token && lease.caller == *caller)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.0.iter()
    }

    /// The last one given.
    pub fn last(&self) -> Option<&Lease> {
        self.0.last()
    }

    /// These and one more; in the place of one of the same token. What has no room is forgotten: first what was given up, since of that no
    /// tokens are to come.
    #[must_use]
    pub fn with(&self, lease: Lease) -> Self {
        let mut kept = self.0.clone();
        match kept.iter_mut().find(|kept| kept.token == lease.token) {
            Some(place) => *place = lease,
            None => kept.push(lease),
        }
        while kept.len() > Self::MAX {
            let given_up = kept.iter().position(|kept| matches!(kept.end, Some(LeaseEnd::Abandoned(_))));
            kept.remove(given_up.unwrap_or(0));
        }
        Self(kept)
    }

    /// These, of which one has been given up, under each of its tokens.
    #[must_use]
    pub fn ended(&self, given_up: &Lease, cause: AbandonCause) -> Self {
        let mut kept = self.0.clone();
        for lease in kept.iter_mut().filter(|lease| lease.is_same(given_up)) {
            lease.end = Some(LeaseEnd::Abandoned(cause));
        }
        Self(kept)
    }
}

/// A customer: its state, and the versions of its key without the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerRow {
    /// Who.
    pub id: CustomerId,
    /// The mark of the write that made this row.
    pub write_id: WriteId,
    /// Whether its credentials open.
    pub state: CustomerState,
    /// The version that seals.
    pub primary: Version,
    /// Every version, in the order in which they were made.
    pub versions: Vec<KeyVersion>,
    /// When it was created.
    pub create_time: Timestamp,
}

/// States of a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CustomerState {
    /// Its credentials open and can be sealed.
    Active,
    /// Nothing opens or seals.
    Disabled,
    /// As disabled, and destroyed on a day.
    PendingDestruction {
        /// Which.
        destroy_time: Timestamp,
    },
    /// Its keys are erased, and its credentials are or are being.
    Destroyed {
        /// When the first key was erased.
        destroy_time: Timestamp,
        /// What was erased.
        erasure: Erasure,
    },
}

/// What a customer's destruction has erased so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erasure {
    /// Wrapped keys.
    pub key_versions: u32,
    /// Credentials that are there to be erased, tombstones among them. `None` until they have been counted.
    pub credentials: Option<u64>,
    /// When the last of them was gone. `None`: not yet.
    pub end_time: Option<Timestamp>,
    /// From when on no backup that is kept as the settings said then holds any of it.
    pub backups_end_time: Option<Timestamp>,
}

/// One version of a customer's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVersion {
    /// Which.
    pub version: Version,
    /// Whether it opens.
    pub state: KeyVersionState,
    /// When it was made.
    pub create_time: Timestamp,
    /// Until when it was the primary. `None`: it is, or it never was.
    pub primary_until: Option<Timestamp>,
    /// The KMS key that wraps it.
    pub kms_key_arn: String,
}

/// Whether a key version opens. Which one seals is the customer's `primary`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyVersionState {
    /// It opens.
    Enabled,
    /// It is refused.
    Retired,
}

impl Versioned for CustomerRow {
    fn write_id(&self) -> WriteId {
        self.write_id
    }
}

/// A customer key, wrapped. It stands in a row of its own beside the customer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Which version.
    pub version: Version,
    /// As KMS gave it.
    pub wrapped: Vec<u8>,
    /// The KMS key that wraps it.
    pub kms_key_arn: String,
}

/// A changed customer, and the keys that change with it in one transaction.
#[derive(Clone, Debug)]
pub struct CustomerWrite {
    /// The customer. The condition is on this row.
    pub customer: CustomerRow,
    /// A new key. There is none of its version: one that is there is never written over, also where the customer's own row is gone.
    pub key: Option<KeyRow>,
    /// A key that was read and is wrapped anew. It takes the place of the one of its version.
    pub rewrapped: Option<KeyRow>,
    /// Keys that are erased: at most [`CustomerWrite::MAX_ERASED`].
    pub erased: Vec<Version>,
}

impl CustomerWrite {
    /// A transaction of DynamoDB writes 100 items at most, and one of them is the customer.
    pub const MAX_ERASED: usize = 90;

    /// A customer whose keys stay as they are.
    pub fn of(customer: CustomerRow) -> Self {
        Self { customer, key: None, rewrapped: None, erased: Vec::new() }
    }
}

impl Versioned for CustomerWrite {
    fn write_id(&self) -> WriteId {
        self.customer.write_id
    }
}

/// What names one of the service's own records.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    /// What sort of record, such as `fingerprint`.
    pub kind: &'static str,
    /// Which one. Printable ASCII.
    pub id: String,
}

/// One of the service's own records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationRow {
    /// Which one.
    pub id: OperationId,
    /// The mark of the write that made this row.
    pub write_id: WriteId,
    /// Its content, in the form of its kind.
    pub body: Vec<u8>,
}

impl Versioned for OperationRow {
    fn write_id(&self) -> WriteId {
        self.write_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str, caller: &str, revision: u64, second: i64) -> Change {
        Change {
            key: IdempotencyKey::given(name),
            caller: Caller::new(caller),
            revision: Revision::new(revision).unwrap(),
            time: Timestamp::from_second(second).unwrap(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_change_is_remembered_for_its_caller_and_for_24_hours() {
        let changes = Changes::default().with(change("a", "realtask", 3, 1000));
        let find = |name: &str, caller: &str, now| {
            changes.find(&IdempotencyKey::given(name), &Caller::new(caller), now).map(|change| change.revision.get())
        };
        assert_eq!(find("a", "realtask", at(1000)), Some(3));
        assert_eq!(find("a", "realtask", at(1000 + 86_399)), Some(3));
        assert_eq!(find("a", "realtask", at(1000 + 86_400)), None);
        assert_eq!(find("a", "realsync", at(1000)), None);
        assert_eq!(find("b", "realtask", at(1000)), None);
    }

    #[test]
    fn the_last_eight_changes_are_remembered() {
        let mut changes = Changes::default();
        for number in 1..=10 {
            changes = changes.with(change(&format!("key {number}"), "realtask", number, 1000));
        }
        let known = |number: u64| {
            let key = IdempotencyKey::given(&format!("key {number}"));
            changes.find(&key, &Caller::new("realtask"), at(1001)).is_some()
        };
        assert_eq!((1..=10).filter(|number| known(*number)).collect::<Vec<_>>(), (3..=10).collect::<Vec<_>>());
    }

    fn lease(token: &str, caller: &str) -> Lease {
        Lease {
            token: TokenHash::of(token.as_bytes()),
            key: IdempotencyKey::given(token),
            caller: Caller::new(caller),
            revision: Revision::FIRST,
            time: at(0),
            expire_time: at(60),
            after_lapse: false,
            end: None,
        }
    }

    #[test]
    fn the_last_four_leases_are_remembered_each_for_its_caller_and_token() {
        let tokens = ["a", "b", "c", "d", "e"];
        let leases = tokens.iter().fold(Leases::default(), |leases, token| leases.with(lease(token, "realtask")));
        let hash = |token: &str| TokenHash::of(token.as_bytes());
        let known = |token, caller| leases.find(&hash(token), &Caller::new(caller)).is_some();
        assert_eq!(tokens.map(|token| known(token, "realtask")), [false, true, true, true, true]);
        assert!(!known("e", "realsync"));

        let end = Some(LeaseEnd::Abandoned(AbandonCause::Transient));
        let ended = leases.with(Lease { end, ..lease("c", "realtask") });
        assert_eq!((ended.0.len(), ended.0[1].end, ended.0[3].end), (4, end, None), "in its place");
        // Of what was given up no tokens are to come: it goes first.
        let next = ended.with(lease("f", "realtask"));
        assert_eq!(next.0.iter().map(|lease| lease.token).collect::<Vec<_>>(), ["b", "d", "e", "f"].map(hash));
        // One lease under two tokens ends under both.
        let twice = leases.with(Lease { token: hash("f"), ..lease("e", "realtask") });
        let given_up = twice.ended(&lease("e", "realtask"), AbandonCause::Transient);
        assert_eq!(given_up.0.iter().map(|lease| lease.end).collect::<Vec<_>>(), [None, None, end, end]);
    }

    #[test]
    fn every_time_is_kept_to_the_microsecond() {
        for (time, kept) in [
            ("9999-12-30T22:00:00.999999999Z", "9999-12-30T22:00:00.999999Z"),
            ("1970-01-01T00:00:00.0000009Z", "1970-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59.9999999Z", "1970-01-01T00:00:00Z"),
            ("1969-12-31T23:59:58.25Z", "1969-12-31T23:59:58.25Z"),
            ("-009999-01-02T01:59:59Z", "-009999-01-02T01:59:59Z"),
        ] {
            let kept_time = row_time(time.parse().unwrap());
            assert_eq!(kept_time.to_string(), kept);
            assert_eq!(row_time(kept_time), kept_time);
        }
    }

    #[test]
    fn an_old_change_makes_room() {
        let changes = Changes::default().with(change("old", "a", 1, 0)).with(change("new", "a", 2, 90_000));
        assert_eq!(changes.0.len(), 1);
    }
}
