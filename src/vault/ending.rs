//! What ends a lease, or the tokens that it is for: new tokens, however late they come; giving up; marking. What becomes of a call is
//! decided in `crate::refresh`.

use jiff::Timestamp;

use super::decide::{check_revision, living};
use super::{
    Change, Credential, CredentialRow, Decision, Hints, Life, Living, Revision, Secret, State, Vault, VaultError,
    WriteId, change, key_or_random, shown, stored,
};
use crate::access::{AbandonRefresh, CompleteRefresh, MarkNeedsReauth, Permit};
use crate::audit::{Event, Made};
use crate::crypto::{self, Envelope, Plaintext};
use crate::ids::CredentialRef;
use crate::keyring::KeyringError;
use crate::refresh::{Abandon, Complete, LeaseToken, Refusal, decide_abandon, decide_complete, merged};
use crate::secret::{Kind, SalesforceOAuth};
use crate::store::{AbandonCause, StoreError, row_time};
use crate::telemetry::metrics::{self, LeaseEvent};

impl Vault {
    /// Stores the tokens that a holder brings, whatever has become of its lease, its customer or the credential's state, as long as they
    /// may be the only living ones.
    ///
    /// # Errors
    /// A [`VaultError`]. Unless it is [`VaultError::LeaseLost`], [`VaultError::RevisionMismatch`] or [`VaultError::CredentialNotFound`],
    /// the holder tries again.
    pub async fn complete_refresh(
        &self,
        permit: &Permit<CompleteRefresh>,
        token: &LeaseToken,
        brought: &SalesforceOAuth,
    ) -> Result<Credential, VaultError> {
        let (caller, CompleteRefresh(id)) = (permit.caller(), permit.asked());
        let (token, now) = (token.hash(), row_time((self.clock)()));
        let entries = self.changing(caller, Event::CompleteRefresh, id);
        let announced = &entries;
        let completed = change(self.credentials.as_ref(), id, |present: Option<CredentialRow>| async move {
            let decided = match decide_complete(present.as_ref(), caller, &token, now) {
                Err(Refusal::NotFound) => return Err(self.missing_of_any(id).await),
                decided => decided?,
            };
            let row = present.as_ref().ok_or(VaultError::CredentialNotFound)?;
            let (revision, lease) = match decided {
                Complete::Repeated { made, time } => {
                    return Ok(Decision::Done(first_answer(row, brought, made, time)));
                }
                Complete::Save { revision, lease } => (revision, lease),
            };
            let (row, former) = living(row).ok_or(VaultError::CredentialNotFound)?;
            let Secret::SalesforceOAuth(old) = stored::decode(former.kind, &self.open_of_any(row, former).await?)?
            else {
                return Err(VaultError::NotRefreshable);
            };
            let secret = Secret::SalesforceOAuth(merged(brought, old, now));
            let hints = Hints::of(&secret);
            let plaintext = stored::encode(secret).map_err(|_| VaultError::SecretTooLong)?;
            let (lineage, root) = self.keyring.upkeep_primary(&id.customer).await.map_err(erased)?;
            let envelope = self.seal(&root, lineage, id, hints.kind, revision, &plaintext)?;
            announced.announce(Some(row.revision)).await?;
            let row = CredentialRow {
                write_id: WriteId::random()?,
                revision,
                update_time: now,
                leases: row.leases.with(lease),
                life: Life::Living(hints.living(&envelope, now)),
                ..row.clone()
            };
            let answer = shown(&row)?;
            Ok(Decision::Replace(row, answer))
        })
        .await;
        self.waiting.changed(id);
        // Retries that were answered as before are not counted again.
        if completed.is_ok() && entries.is_announced() {
            metrics::refresh_lease(LeaseEvent::Completed);
        }
        let made = |made: &Credential| Made { revision: Some(made.revision), versions: made.lineage.map(Into::into) };
        entries.settle(completed, made).await.map_err(|error| match error {
            // ABORTED would tell the holder that its tokens are of no use.
            VaultError::ChangedConcurrently => StoreError::Throttled.into(),
            error => error,
        })
    }

    /// Ends a lease whose holder has no new tokens. Of a refresh token that is refused for good, `reason` is what people read: the
    /// customer has to consent again.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn abandon_refresh(
        &self,
        permit: &Permit<AbandonRefresh>,
        token: &LeaseToken,
        cause: AbandonCause,
        reason: &str,
    ) -> Result<Credential, VaultError> {
        let (caller, AbandonRefresh(id)) = (permit.caller(), permit.asked());
        let (token, now) = (token.hash(), row_time((self.clock)()));
        let entries = self.changing(caller, Event::AbandonRefresh, id);
        let announced = &entries;
        let abandoned = change(self.credentials.as_ref(), id, |present: Option<CredentialRow>| async move {
            let decided = match decide_abandon(present.as_ref(), caller, &token, cause) {
                Err(Refusal::NotFound) => return Err(self.missing_of_any(id).await),
                decided => decided?,
            };
            let Some((row, living)) = present.as_ref().and_then(living) else {
                return Err(VaultError::CredentialNotFound);
            };
            let leases = match decided {
                Abandon::Repeated => return shown(row).map(Decision::Done),
                Abandon::End(leases) => leases,
            };
            let state = match (cause, &living.state) {
                (AbandonCause::InvalidGrant, State::Active) => {
                    State::NeedsReauth { reason: reason.to_owned(), time: now }
                }
                // The first reason stays.
                (AbandonCause::InvalidGrant, state @ State::NeedsReauth { .. }) | (AbandonCause::Transient, state) => {
                    state.clone()
                }
            };
            let life = Life::Living(Living { state, ..living.clone() });
            let row = CredentialRow { write_id: WriteId::random()?, leases, life, ..row.clone() };
            announced.announce(Some(row.revision)).await?;
            let answer = shown(&row)?;
            Ok(Decision::Replace(row, answer))
        })
        .await;
        self.waiting.changed(id);
        if abandoned.is_ok() && entries.is_announced() {
            metrics::refresh_lease(match cause {
                AbandonCause::InvalidGrant => LeaseEvent::InvalidGrant,
                AbandonCause::Transient => LeaseEvent::Abandoned,
            });
        }
        entries
            .settle(abandoned, |shown| Made { revision: Some(shown.revision), versions: shown.lineage.map(Into::into) })
            .await
    }

    /// Has the customer consent again. A credential that needs it already is left as it is.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn mark_needs_reauth(
        &self,
        permit: &Permit<MarkNeedsReauth>,
        reason: &str,
        condition: Option<Revision>,
    ) -> Result<Credential, VaultError> {
        let (caller, MarkNeedsReauth(id)) = (permit.caller(), permit.asked());
        let (key, now) = (key_or_random(None)?, row_time((self.clock)()));
        let entries = self.changing(caller, Event::MarkNeedsReauth, id);
        let announced = &entries;
        let marked = change(self.credentials.as_ref(), id, |present: Option<CredentialRow>| async move {
            let Some((row, living)) = present.as_ref().and_then(living) else {
                return Err(self.missing_of_any(id).await);
            };
            // Made before, and perhaps undone since by new tokens: not again.
            if row.changes.find(&key, caller, now).is_some() {
                return shown(row).map(Decision::Done);
            }
            check_revision(row, condition)?;
            if let State::NeedsReauth { .. } = living.state {
                return shown(row).map(Decision::Done);
            }
            announced.announce(Some(row.revision)).await?;
            let state = State::NeedsReauth { reason: reason.to_owned(), time: now };
            let made = Change { key, caller: caller.clone(), revision: row.revision, time: now };
            let changes = row.changes.with(made);
            let life = Life::Living(Living { state, ..living.clone() });
            let row = CredentialRow { write_id: WriteId::random()?, changes, life, ..row.clone() };
            let answer = shown(&row)?;
            Ok(Decision::Replace(row, answer))
        })
        .await;
        self.waiting.changed(id);
        entries
            .settle(marked, |shown| Made { revision: Some(shown.revision), versions: shown.lineage.map(Into::into) })
            .await
    }

    /// [`Vault::open`], whatever the customer's state.
    async fn open_of_any(&self, row: &CredentialRow, living: &Living) -> Result<Plaintext, VaultError> {
        let envelope = Envelope::parse(living.envelope.clone()).map_err(|_| VaultError::Malformed)?;
        let root = self.keyring.upkeep_root(&row.id.customer, envelope.lineage()).await.map_err(erased)?;
        Ok(crypto::open(&root, &self.context(&row.id, living.kind, row.revision)?, &envelope)?)
    }

    /// [`Vault::missing`], where the customer's state does not matter.
    async fn missing_of_any(&self, id: &CredentialRef) -> VaultError {
        match self.missing(&id.customer).await {
            VaultError::Keyring(
                KeyringError::CustomerDisabled
                | KeyringError::CustomerPendingDestruction
                | KeyringError::CustomerDestroyed,
            ) => VaultError::CredentialNotFound,
            error => error,
        }
    }
}

/// The credentials of a customer whose keys are erased are erased next.
fn erased(error: KeyringError) -> VaultError {
    match error {
        KeyringError::CustomerDestroyed => VaultError::CredentialNotFound,
        error => error.into(),
    }
}

/// What was answered when the tokens were stored.
fn first_answer(row: &CredentialRow, brought: &SalesforceOAuth, made: Revision, time: Timestamp) -> Credential {
    let at_it = living(row).filter(|(row, _)| row.revision == made);
    Credential {
        id: row.id.clone(),
        kind: Kind::SalesforceOAuth,
        state: State::Active,
        revision: made,
        lineage: at_it.and_then(|(_, living)| Envelope::lineage_of(&living.envelope).ok()),
        create_time: row.create_time,
        update_time: time,
        refresh_time: Some(brought.issue_time.map_or(time, row_time)),
        access_token_expire_time: brought.access_token_expire_time.map(row_time),
    }
}
