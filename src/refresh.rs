//! Refresh leases: one caller at a time refreshes a Salesforce token. What becomes of a call is decided here, in pure code over the row;
//! the order of the steps around that is `vault::refreshing`'s and `vault::ending`'s, and who waits for whom is `waiting`'s.
//!
//! Salesforce takes each refresh token once, and a second use revokes the connection. So the token is disclosed to one holder at a time,
//! and after a holder that never came back only when it can no longer be using it. docs/REFRESH.md tells the cases.

pub mod waiting;

use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use crate::ids::Caller;
use crate::randomness::NoRandomness;
use crate::secret::{Kind, SalesforceOAuth, SecretString, prints_as_its_name};
use crate::store::{
    AbandonCause, CredentialRow, IdempotencyKey, Lease, LeaseEnd, Leases, Life, Living, Revision, State, TokenHash,
};

/// A lease has lapsed only so long after its expiry: it was given by another replica's clock. A replica whose clock is more than 2 s off
/// the store's is not ready, so two that are may be 4 s apart.
pub const CLOCK_ALLOWANCE: SignedDuration = SignedDuration::from_secs(5);
/// After a lease has lapsed, nobody gets the refresh token for so long: its holder may be on its way with the new ones.
pub const LAPSE_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Why there is nothing to be done about a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing lives there.
    #[error("the credential does not exist")]
    NotFound,
    /// The customer has to consent again.
    #[error("the credential needs a new consent")]
    NeedsReauth,
    /// There is no refresh token.
    #[error("the credential has no refresh token")]
    NotRefreshable,
    /// Somebody else is at it.
    #[error("the credential is being refreshed")]
    InProgress {
        /// From when on the lease may be had, if its holder does not come back.
        available: Timestamp,
        /// The revision that is there.
        current: Revision,
    },
    /// The lease is not remembered, or is not the present one where it has to be.
    #[error("the lease is lost")]
    LeaseLost,
    /// The secret has changed since.
    #[error("the credential is at revision {}", current.get())]
    RevisionMismatch {
        /// Its revision.
        current: Revision,
    },
}

/// What a holder shows for its lease. The store knows its hash alone.
pub struct LeaseToken(Zeroizing<[u8; 32]>);

prints_as_its_name!(LeaseToken);

impl LeaseToken {
    /// Characters of its text.
    pub const LENGTH: usize = 43;

    /// 32 octets from the operating system's generator.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let mut octets = Zeroizing::new([0; 32]);
        getrandom::fill(octets.as_mut())?;
        Ok(Self(octets))
    }

    /// `None` unless it is as [`LeaseToken::expose_secret`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut octets = Zeroizing::new([0; 32]);
        let length = Base64UrlUnpadded::decode(text, octets.as_mut()).ok()?.len();
        (length == octets.len()).then_some(Self(octets))
    }

    /// The text, in base64url.
    pub fn expose_secret(&self) -> String {
        Base64UrlUnpadded::encode_string(self.0.as_ref())
    }

    /// What the row knows of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.as_ref())
    }
}

/// What a caller asks for who wants tokens that are good.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// Whose access token Salesforce refused.
    pub rejected: Option<Revision>,
    /// Where nothing was refused, a token that is known to end within this is not good enough.
    pub min_validity: Duration,
    /// For how long to wait for somebody else's refresh.
    pub wait: Duration,
    /// How long a lease is to last.
    pub ttl: Duration,
    /// Names the call. The same caller gets the same lease again under the same name.
    pub key: Option<IdempotencyKey>,
}

impl Acquire {
    /// The shortest lease. Its holder starts its call to Salesforce while the time-out of that call and 15 s remain: a lease that is good
    /// for anything is longer by that time-out, and some.
    pub const MIN_TTL: Duration = Duration::from_secs(15);
    /// The longest: nobody else can refresh meanwhile.
    pub const MAX_TTL: Duration = Duration::from_secs(120);
    /// Where the caller names none.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(60);
    /// The longest wait: less than the longest deadline of a call.
    pub const MAX_WAIT: Duration = Duration::from_secs(8);
    /// The longest validity that can be asked for.
    pub const MAX_MIN_VALIDITY: Duration = Duration::from_hours(1);
}

/// What the opened secret tells of a row: nothing beside the envelope is authentic.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Whether there is a refresh token.
    pub refreshable: bool,
    /// When the access token ends, if that is known.
    pub expire_time: Option<Timestamp>,
}

impl Known {
    /// Of this secret.
    pub fn of(oauth: &SalesforceOAuth) -> Self {
        Self {
            refreshable: !oauth.refresh_token.expose_secret().is_empty(),
            expire_time: oauth.access_token_expire_time,
        }
    }
}

/// One caller's attempt to get good tokens.
pub struct Attempt<'a> {
    /// Whose.
    pub caller: &'a Caller,
    /// What it asks for.
    pub asked: &'a Acquire,
    /// The name of the call: its own, or a random one.
    pub key: IdempotencyKey,
    /// Of the token that a lease would get. The same at every attempt of one call, so that its own write is recognised.
    pub token: TokenHash,
    /// The time.
    pub now: Timestamp,
}

/// What an attempt comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// The tokens that are there are good, as far as anybody knows.
    Fresh,
    /// This lease stands in the row already.
    Held(Lease),
    /// It is to be put there.
    Given(Lease),
}

/// Whether a row can be refreshed or read at all, before it is opened.
///
/// # Errors
/// [`Refusal::NotFound`], [`Refusal::NotRefreshable`], [`Refusal::NeedsReauth`].
pub fn check_acquire(row: Option<&CredentialRow>) -> Result<(&CredentialRow, &Living), Refusal> {
    let (row, living) = living(row)?;
    match (living.kind, &living.state) {
        (Kind::Password | Kind::Opaque, _) => Err(Refusal::NotRefreshable),
        (Kind::SalesforceOAuth, State::NeedsReauth { .. }) => Err(Refusal::NeedsReauth),
        (Kind::SalesforceOAuth, State::Active) => Ok((row, living)),
    }
}

/// What an attempt comes to at a row that [`check_acquire`] lets through.
///
/// # Errors
/// [`Refusal::RevisionMismatch`] for a revision that is yet to come, [`Refusal::NotRefreshable`], [`Refusal::InProgress`].
pub fn decide_acquire(row: &CredentialRow, known: Known, attempt: &Attempt<'_>) -> Result<Acquired, Refusal> {
    let is_dead = match attempt.asked.rejected {
        Some(rejected) if rejected > row.revision => {
            return Err(Refusal::RevisionMismatch { current: row.revision });
        }
        Some(rejected) => rejected == row.revision,
        None => known.expire_time.is_some_and(|end| end <= after(attempt.now, attempt.asked.min_validity)),
    };
    if !is_dead {
        return Ok(Acquired::Fresh);
    }
    if !known.refreshable {
        return Err(Refusal::NotRefreshable);
    }
    let Some(present) = present_lease(row) else { return Ok(Acquired::Given(lease(row, attempt))) };
    if present.caller == *attempt.caller && present.key == attempt.key {
        if let Some(held) = row.leases.find(&attempt.token, attempt.caller) {
            return Ok(Acquired::Held(held.clone()));
        }
        // The same lease under a further token: the former answer was lost, or came, and this attempt is the one that comes too late.
        if attempt.now < present.expire_time {
            return Ok(Acquired::Given(Lease { token: attempt.token, ..present.clone() }));
        }
    }
    let available = available_time(present);
    if attempt.now < available {
        return Err(Refusal::InProgress { available, current: row.revision });
    }
    Ok(Acquired::Given(lease(row, attempt)))
}

/// What someone who waits is to do about a row that was read meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait on.
    Wait,
    /// There may be a lease to be had.
    Try,
    /// There is an answer, whichever.
    Answer,
}

/// For someone who waits because somebody else was refreshing the revision `dead`. A row of an older one was read before that.
pub fn decide_next(row: &CredentialRow, dead: Revision, now: Timestamp) -> Next {
    if row.revision < dead {
        return Next::Wait;
    }
    if row.revision > dead || check_acquire(Some(row)).is_err() {
        return Next::Answer;
    }
    match present_lease(row) {
        Some(lease) if now < available_time(lease) => Next::Wait,
        Some(_) | None => Next::Try,
    }
}

/// What a holder that comes with new tokens has done, or is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complete {
    /// It has brought them before.
    Repeated {
        /// Which revision they made.
        made: Revision,
        /// When.
        time: Timestamp,
    },
    /// They are the only living ones: seal them at this revision, and note it in this lease.
    Save {
        /// The next.
        revision: Revision,
        /// As it is to stand in the row.
        lease: Lease,
    },
}

/// What becomes of new tokens, however late they come. The state of the credential and the lease's expiry do not matter: Salesforce has
/// taken the old refresh token.
///
/// # Errors
/// [`Refusal::LeaseLost`], [`Refusal::RevisionMismatch`], [`Refusal::NotFound`].
pub fn decide_complete(
    row: Option<&CredentialRow>,
    caller: &Caller,
    token: &TokenHash,
    now: Timestamp,
) -> Result<Complete, Refusal> {
    let row = row.ok_or(Refusal::NotFound)?;
    let lease = row.leases.find(token, caller);
    if let Some(LeaseEnd::Completed { made, time }) = lease.and_then(|lease| lease.end) {
        return Ok(Complete::Repeated { made, time });
    }
    living(Some(row))?;
    let lease = lease.ok_or(Refusal::LeaseLost)?;
    if lease.revision != row.revision {
        return Err(Refusal::RevisionMismatch { current: row.revision });
    }
    // The last revision of all has no next one; a row that comes to it was made by hand.
    let revision = row.revision.next().ok_or(Refusal::RevisionMismatch { current: row.revision })?;
    let end = Some(LeaseEnd::Completed { made: revision, time: now });
    Ok(Complete::Save { revision, lease: Lease { end, ..lease.clone() } })
}

/// What a holder that gives up has done, or is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abandon {
    /// It has said so before.
    Repeated,
    /// Put these into the row: the lease has ended, under each of its tokens.
    End(Leases),
}

/// What becomes of a lease that is given up. Only the present one can be.
///
/// # Errors
/// [`Refusal::LeaseLost`], [`Refusal::NotFound`].
pub fn decide_abandon(
    row: Option<&CredentialRow>,
    caller: &Caller,
    token: &TokenHash,
    cause: AbandonCause,
) -> Result<Abandon, Refusal> {
    let (row, _) = living(row)?;
    let lease = row.leases.find(token, caller).ok_or(Refusal::LeaseLost)?;
    let end = Some(LeaseEnd::Abandoned(cause));
    if lease.end == end {
        return Ok(Abandon::Repeated);
    }
    match present_lease(row) {
        Some(present) if present.is_same(lease) => Ok(Abandon::End(row.leases.ended(present, cause))),
        Some(_) | None => Err(Refusal::LeaseLost),
    }
}

/// The tokens that a holder brought, with what it left out taken from the old ones. The expiry is never taken.
pub fn merged(brought: &SalesforceOAuth, old: SalesforceOAuth, now: Timestamp) -> SalesforceOAuth {
    // Copied, since a change that is decided again is merged again.
    let copied = |token: &SecretString| SecretString::new(token.expose_secret().to_owned());
    let has_refresh_token = !brought.refresh_token.expose_secret().is_empty();
    let text = |brought: &str, old| if brought.is_empty() { old } else { brought.to_owned() };
    SalesforceOAuth {
        access_token: copied(&brought.access_token),
        refresh_token: if has_refresh_token { copied(&brought.refresh_token) } else { old.refresh_token },
        instance_url: text(&brought.instance_url, old.instance_url),
        token_url: text(&brought.token_url, old.token_url),
        identity_url: text(&brought.identity_url, old.identity_url),
        scopes: if brought.scopes.is_empty() { old.scopes } else { brought.scopes.clone() },
        issue_time: Some(brought.issue_time.unwrap_or(now)),
        access_token_expire_time: brought.access_token_expire_time,
    }
}

/// The lease that keeps others from refreshing: the last one, if it is of the revision that is there and has not ended.
fn present_lease(row: &CredentialRow) -> Option<&Lease> {
    row.leases.last().filter(|lease| lease.revision == row.revision && lease.end.is_none())
}

/// From when on another one may be given in its place: its expiry, and then the clocks' allowance and the grace.
fn available_time(lease: &Lease) -> Timestamp {
    lease.expire_time.saturating_add(CLOCK_ALLOWANCE + LAPSE_GRACE).unwrap_or(Timestamp::MAX)
}

fn lease(row: &CredentialRow, attempt: &Attempt<'_>) -> Lease {
    // Of any who has seen this refresh token and never said what became of it.
    let after_lapse = row.leases.iter().any(|lease| lease.revision == row.revision && lease.end.is_none());
    Lease {
        token: attempt.token,
        key: attempt.key,
        caller: attempt.caller.clone(),
        revision: row.revision,
        time: attempt.now,
        expire_time: after(attempt.now, attempt.asked.ttl),
        after_lapse,
        end: None,
    }
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

fn living(row: Option<&CredentialRow>) -> Result<(&CredentialRow, &Living), Refusal> {
    match row.map(|row| (row, &row.life)) {
        Some((row, Life::Living(living))) => Ok((row, living)),
        Some((_, Life::Deleted { .. })) | None => Err(Refusal::NotFound),
    }
}

#[cfg(test)]
mod tests;
