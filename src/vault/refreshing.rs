//! Refreshing without races, up to the lease: the order of the steps. What becomes of a call is decided in `crate::refresh`; what ends a
//! lease is in `ending`.

use std::pin::pin;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until};

use super::{
    Credential, CredentialRow, Decision, IdempotencyKey, Revision, Secret, Vault, VaultError, View, WriteId, change,
    key_or_random,
};
use crate::access::{AcquireRefresh, Permit};
use crate::audit::entry::Subject;
use crate::audit::{Changing, Disclosure, Event, Made, Origin, Reason};
use crate::ids::{Caller, CredentialRef};
use crate::refresh::waiting::Waiter;
use crate::refresh::{
    Acquire, Acquired, Attempt, Known, LeaseToken, Next, Refusal, check_acquire, decide_acquire, decide_next,
};
use crate::store::{Lease, StoreClock, change_from, row_time};
use crate::telemetry::metrics::{self, LeaseEvent};

impl From<Refusal> for VaultError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::CredentialNotFound,
            Refusal::NeedsReauth => Self::NeedsReauth,
            Refusal::NotRefreshable => Self::NotRefreshable,
            Refusal::InProgress { available, current } => Self::RefreshInProgress { available, current },
            Refusal::LeaseLost => Self::LeaseLost,
            Refusal::RevisionMismatch { current } => Self::RevisionMismatch { current },
        }
    }
}

/// What whoever wants good tokens gets.
#[derive(Debug)]
pub enum Refreshed {
    /// The present ones, without the refresh token.
    Fresh(Box<(Secret, Credential)>),
    /// The right to refresh them.
    Lease(Box<GivenLease>),
}

/// The right to refresh, and what is needed for that.
#[derive(Debug)]
pub struct GivenLease {
    /// To be shown with the new tokens.
    pub token: LeaseToken,
    /// Until when.
    pub expire_time: Timestamp,
    /// Whether the holder before never came back: it may have used the refresh token.
    pub after_lapse: bool,
    /// All of the secret.
    pub secret: Secret,
    /// What is known of it besides.
    pub credential: Credential,
}

/// What all attempts of one call have in common.
struct Call<'a> {
    caller: &'a Caller,
    id: &'a CredentialRef,
    asked: &'a Acquire,
    key: IdempotencyKey,
    token: &'a LeaseToken,
}

/// Before the token itself is handed over: whether what stands there is good, or a lease.
enum Outcome {
    Fresh(Secret, Credential),
    Lease(Lease, Secret, Credential),
}

impl Vault {
    /// Good tokens, or the right to get some; waits for somebody else's refresh until `until`, or until the caller is `gone`, and says so
    /// when it begins to (`waits`).
    ///
    /// # Errors
    /// A [`VaultError`]. After [`StoreError::Away`](crate::store::StoreError::Away) a lease may have been given: the same call with the
    /// same key gets it.
    pub async fn acquire_refresh(
        &self,
        permit: &Permit<AcquireRefresh>,
        asked: &Acquire,
        until: Instant,
        gone: impl Future<Output = ()> + Send,
        waits: impl Fn() + Send + Sync,
    ) -> Result<Refreshed, VaultError> {
        let mut gone = pin!(gone);
        let (caller, AcquireRefresh(id)) = (permit.caller(), permit.asked());
        let token = LeaseToken::random()?;
        let call = Call { caller, id, asked, key: key_or_random(asked.key)?, token: &token };
        let subject = || Subject { view: Some(View::Full), ..Subject::credential(id) };
        let mut waiter = None;
        let mut seen = self.waited_for(id, asked).filter(|_| Instant::now() < until);
        loop {
            let entries = Changing::new(&self.audit, Origin::of(caller), Event::AcquireRefresh, subject());
            let outcome = self.attempt(&call, seen.take(), &entries).await;
            if let Err(VaultError::RefreshInProgress { current, .. }) = outcome
                && Instant::now() < until
            {
                let waiter = waiter.get_or_insert_with(|| {
                    waits();
                    self.waiting.join(id)
                });
                if let Some(looked) = self.wait(waiter, current, until, gone.as_mut()).await {
                    entries.withdraw(Reason::RefreshInProgress).await;
                    seen = Some(looked);
                    continue;
                }
            }
            return match self.acquired(&call, outcome, entries).await? {
                Outcome::Fresh(secret, credential) => Ok(Refreshed::Fresh(Box::new((secret, credential)))),
                Outcome::Lease(lease, secret, credential) => {
                    let Lease { expire_time, after_lapse, .. } = lease;
                    Ok(Refreshed::Lease(Box::new(GivenLease { token, expire_time, after_lapse, secret, credential })))
                }
            };
        }
    }

    /// One attempt, from the row as it stands or as somebody has read it: read, open, prove that what comes back could be sealed,
    /// announce, write.
    async fn attempt(
        &self,
        call: &Call<'_>,
        seen: Option<Looked>,
        entries: &Changing<'_>,
    ) -> Result<Outcome, VaultError> {
        let Call { caller, id, asked, key, token } = *call;
        let attempt = &Attempt { caller, asked, key, token: token.hash(), now: row_time((self.clock)()) };
        let decide = |present: Option<CredentialRow>| async move {
            let (row, living) = match check_acquire(present.as_ref()) {
                Err(Refusal::NotFound) => return Err(self.missing(&id.customer).await),
                checked => checked?,
            };
            let (mut secret, credential) = self.opened(row, living, View::Full).await?;
            let Secret::SalesforceOAuth(oauth) = &secret else { return Err(VaultError::NotRefreshable) };
            let (lease, leases) = match decide_acquire(row, Known::of(oauth), attempt)? {
                Acquired::Fresh => {
                    secret.drop_refresh_token();
                    return Ok(Decision::Done(Outcome::Fresh(secret, credential)));
                }
                Acquired::Held(lease) => return Ok(Decision::Done(Outcome::Lease(lease, secret, credential))),
                Acquired::Given(lease) => (lease.clone(), row.leases.with(lease)),
            };
            StoreClock::check_of(self.store_clock.as_deref())?;
            // Nobody is given a lease that could not be completed for want of a key.
            let _at_hand = self.keyring.primary(&id.customer).await?;
            entries.announce(Some(row.revision)).await?;
            let row = CredentialRow { write_id: WriteId::random()?, leases, ..row.clone() };
            Ok(Decision::Replace(row, Outcome::Lease(lease, secret, credential)))
        };
        match seen {
            Some(Looked { row: Some(row), turn }) => {
                let acquired =
                    change_from(self.credentials.as_ref(), id, Some(CredentialRow::clone(&row)), decide).await;
                drop(turn);
                acquired
            }
            Some(Looked { row: None, .. }) | None => change(self.credentials.as_ref(), id, decide).await,
        }
    }

    /// The row, where others wait for it already and so will whoever asks this: however many come, and come again, they cost the store
    /// what one costs.
    pub(super) fn waited_for(&self, id: &CredentialRef, asked: &Acquire) -> Option<Looked> {
        let (row, dead) = (self.waiting.lately(id)?, asked.rejected?);
        // One of an older revision is news from before: it is read again.
        let waits = row.revision == dead && decide_next(&row, dead, (self.clock)()) == Next::Wait;
        waits.then_some(Looked { row: Some(row), turn: None })
    }

    /// What may be answered: what the audit log has an entry of.
    async fn acquired(
        &self,
        call: &Call<'_>,
        outcome: Result<Outcome, VaultError>,
        entries: Changing<'_>,
    ) -> Result<Outcome, VaultError> {
        match outcome {
            Ok(Outcome::Fresh(secret, credential)) => {
                // A lease that was announced and not given, since somebody else was quicker.
                entries.withdraw(Reason::RevisionMismatch).await;
                let disclosure = Disclosure {
                    event: Event::AcquireRefresh,
                    credential: call.id,
                    view: View::Access,
                    revision: credential.revision,
                    lineage: credential.lineage.ok_or(VaultError::Malformed)?,
                };
                let _written = self.audit.read(&Origin::of(call.caller), disclosure).await?;
                Ok(Outcome::Fresh(secret, credential))
            }
            outcome => {
                if let Ok(Outcome::Lease(lease, ..)) = &outcome
                    && entries.is_announced()
                {
                    self.waiting.changed(call.id);
                    metrics::refresh_lease(if lease.after_lapse { LeaseEvent::AfterLapse } else { LeaseEvent::Given });
                }
                let made = |outcome: &Outcome| match outcome {
                    Outcome::Lease(_, _, credential) | Outcome::Fresh(_, credential) => {
                        Made { revision: Some(credential.revision), versions: credential.lineage.map(Into::into) }
                    }
                };
                entries.settle(outcome, made).await
            }
        }
    }

    /// Until there is something to be done about the credential. `None`: the time is up, or the service drains.
    async fn wait(
        &self,
        waiter: &mut Waiter,
        dead: Revision,
        until: Instant,
        gone: impl Future<Output = ()>,
    ) -> Option<Looked> {
        let looked = async {
            loop {
                let row = match waiter.next().await {
                    Ok(Some(row)) => row,
                    Ok(None) => return Looked { row: None, turn: None },
                    // Perhaps it is back before the time is up.
                    Err(_away) => continue,
                };
                match decide_next(&row, dead, (self.clock)()) {
                    Next::Wait => {}
                    Next::Answer => return Looked { row: Some(row), turn: None },
                    Next::Try => {
                        if let Some(turn) = waiter.turn() {
                            return Looked { row: Some(row), turn: Some(turn) };
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = self.waiting.closed() => None,
            () = gone => None,
            looked = looked => Some(looked),
            () = sleep_until(until) => None,
        }
    }

    /// Whoever waits for somebody else's refresh is answered, now and from now on at once: the service drains.
    pub fn stop_waiting(&self) {
        self.waiting.close();
    }
}

/// A row that was read for whoever waits, and the right to try for its lease.
pub(super) struct Looked {
    /// `None`: there was none, which is looked at again.
    row: Option<Arc<CredentialRow>>,
    turn: Option<OwnedMutexGuard<()>>,
}
