//! Encrypt, decrypt, get, delete: the order of the steps, top to bottom. It knows traits only; what a request may contain was
//! checked at the edge, what becomes of a call `decide` says, and how the row is written is `store::change`'s.

mod batch;
mod decide;
mod ending;
mod error;
mod listing;
mod refreshing;
mod reseal;

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;

pub use batch::{Opened, Reading};
pub use decide::Condition;
pub use error::VaultError;
pub use listing::ListFilter;
pub use refreshing::{GivenLease, Refreshed};
pub use reseal::{Resealed, Target};

use crate::access::{DecryptCredential, DeleteCredential, EncryptCredential, GetCredential, Permit};
use crate::audit::entry::Subject;
use crate::audit::{AuditLog, Changing, Disclosure, Event, Made, Origin, Reason};
use crate::crypto::{self, Context, Envelope, Lineage, Plaintext, Root, Salt};
use crate::ids::{Caller, CredentialRef, CustomerId, Deployment};
use crate::keyring::Keyring;
use crate::randomness::NoRandomness;
use crate::refresh::waiting::Waiting;
use crate::secret::{Kind, Secret, View, stored};
use crate::store::{
    Change, Changes, CredentialRow, Credentials, Decision, IdempotencyKey, Leases, Life, Living, Revision, State,
    StoreClock, WriteId, change, row_time,
};
use decide::{Delete, Encrypt, decide_delete, decide_encrypt, living, readable};

/// What is known of a credential without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Which one.
    pub id: CredentialRef,
    /// The kind of its secret.
    pub kind: Kind,
    /// Whether it can be used.
    pub state: State,
    /// The count of its secret's changes.
    pub revision: Revision,
    /// What it is sealed under, by its header. `None` if the header can't be read, or is no longer there.
    pub lineage: Option<Lineage>,
    /// When it was first stored.
    pub create_time: Timestamp,
    /// When its secret last changed.
    pub update_time: Timestamp,
    /// When its tokens were last issued anew.
    pub refresh_time: Option<Timestamp>,
    /// When its access token ends, if that is known.
    pub access_token_expire_time: Option<Timestamp>,
}

/// Seals and opens credentials.
pub struct Vault {
    deployment: Deployment,
    credentials: Arc<dyn Credentials>,
    keyring: Keyring,
    audit: AuditLog,
    waiting: Waiting,
    /// For re-encryption.
    unwrapping: Semaphore,
    clock: fn() -> Timestamp,
    /// Of a store that tells its time: the clock has to agree with it.
    store_clock: Option<Arc<StoreClock>>,
}

impl Vault {
    /// A vault over a store, a keyring and an audit log.
    pub fn new(
        deployment: Deployment,
        credentials: Arc<dyn Credentials>,
        keyring: Keyring,
        audit: AuditLog,
        clock: fn() -> Timestamp,
    ) -> Self {
        let waiting = Waiting::new(Arc::clone(&credentials));
        let unwrapping = Semaphore::new(reseal::UNWRAPPED_AT_ONCE);
        Self { deployment, credentials, keyring, audit, waiting, unwrapping, clock, store_clock: None }
    }

    /// With a store that tells its time: no lease is given while the clock does not agree with it.
    #[must_use]
    pub fn with_store_clock(self, store_clock: Option<Arc<StoreClock>>) -> Self {
        Self { store_clock, ..self }
    }

    /// Seals a secret and stores it. A retry under the same key changes nothing.
    ///
    /// # Errors
    /// A [`VaultError`]. After [`StoreError::Away`](crate::store::StoreError::Away) the change may have happened; after a
    /// [`VaultError::Keyring`], too, if its answer was lost and it could not be opened to be compared.
    pub async fn encrypt(
        &self,
        permit: &Permit<EncryptCredential>,
        secret: Secret,
        condition: Condition,
        key: Option<IdempotencyKey>,
    ) -> Result<Credential, VaultError> {
        let (caller, EncryptCredential { id, kind }) = (permit.caller(), permit.asked());
        if secret.kind() != *kind {
            return Err(VaultError::Internal("a permit for one kind of secret was used for another"));
        }
        let hints = &Hints::of(&secret);
        let plaintext = &stored::encode(secret).map_err(|_| VaultError::SecretTooLong)?;
        let key = key_or_random(key)?;
        let now = row_time((self.clock)());

        let entries = self.changing(caller, Event::EncryptCredential, id);
        let announced = &entries;
        let encrypted = change(self.credentials.as_ref(), id, |present: Option<CredentialRow>| async move {
            let expected = present.as_ref().map(|row| row.revision);
            let decided = match decide_encrypt(present.as_ref(), caller, &key, condition, now) {
                Err(VaultError::CredentialNotFound) => return Err(self.missing(&id.customer).await),
                decided => decided?,
            };
            let (revision, create_time) = match decided {
                Encrypt::Repeated(made) => {
                    return self.repeated(present, &made, hints, plaintext).await.map(Decision::Done);
                }
                Encrypt::Seal { revision, create_time } => (revision, create_time),
            };
            let (lineage, root) = self.keyring.primary(&id.customer).await?;
            let envelope = self.seal(&root, lineage, id, hints.kind, revision, plaintext)?;
            let (changes, leases) =
                present.map_or_else(|| (Changes::default(), Leases::default()), |row| (row.changes, row.leases));
            let made = Change { key, caller: caller.clone(), revision, time: now };
            let row = CredentialRow {
                id: id.clone(),
                write_id: WriteId::random()?,
                revision,
                create_time,
                update_time: now,
                changes: changes.with(made),
                leases,
                life: Life::Living(hints.living(&envelope, now)),
            };
            let answer = shown(&row)?;
            announced.announce(expected).await?;
            Ok(Decision::Replace(row, answer))
        })
        .await;
        self.waiting.changed(id);
        entries
            .settle(encrypted, |made| Made { revision: Some(made.revision), versions: made.lineage.map(Into::into) })
            .await
    }

    /// Opens a secret.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn decrypt(
        &self,
        permit: &Permit<DecryptCredential>,
        revision: Option<Revision>,
    ) -> Result<(Secret, Credential), VaultError> {
        let opened = self.read(permit.asked(), revision).await;
        self.disclosed(Event::DecryptCredential, permit, opened).await
    }

    async fn read(
        &self,
        DecryptCredential { id, view }: &DecryptCredential,
        revision: Option<Revision>,
    ) -> Result<(Secret, Credential), VaultError> {
        let row = self.credentials.get(id).await?;
        match readable(row.as_ref(), *view, revision)? {
            Some((row, living)) => self.opened(row, living, *view).await,
            None => Err(self.missing(&id.customer).await),
        }
    }

    /// What may be answered: what the audit log has an entry of.
    async fn disclosed(
        &self,
        event: Event,
        permit: &Permit<DecryptCredential>,
        opened: Result<(Secret, Credential), VaultError>,
    ) -> Result<(Secret, Credential), VaultError> {
        let (origin, DecryptCredential { id, view }) = (Origin::of(permit.caller()), permit.asked());
        match opened {
            Ok((secret, credential)) => {
                let lineage = credential.lineage.ok_or(VaultError::Malformed)?;
                let disclosure =
                    Disclosure { event, credential: id, view: *view, revision: credential.revision, lineage };
                let _written = self.audit.read(&origin, disclosure).await?;
                Ok((secret, credential))
            }
            Err(error) => {
                let subject = Subject { view: Some(*view), ..Subject::credential(id) };
                let _written = self.audit.refusal(&origin, event, subject, Reason::from(&error)).await?;
                Err(error)
            }
        }
    }

    /// What is known of a credential.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn get(&self, permit: &Permit<GetCredential>) -> Result<Credential, VaultError> {
        let GetCredential(id) = permit.asked();
        let found = self.known(id).await;
        let entries = self.changing(permit.caller(), Event::GetCredential, id);
        entries
            .settle(found, |shown| Made { revision: Some(shown.revision), versions: shown.lineage.map(Into::into) })
            .await
    }

    async fn known(&self, id: &CredentialRef) -> Result<Credential, VaultError> {
        match self.credentials.get(id).await?.as_ref().and_then(living) {
            Some((row, _)) => shown(row),
            None => Err(self.missing(&id.customer).await),
        }
    }

    /// Erases a secret. A tombstone stays, so that nothing of this life can match a later one.
    ///
    /// # Errors
    /// A [`VaultError`]. After [`StoreError::Away`](crate::store::StoreError::Away) the change may have happened.
    pub async fn delete(
        &self,
        permit: &Permit<DeleteCredential>,
        revision: Option<Revision>,
    ) -> Result<(), VaultError> {
        let (caller, DeleteCredential(id)) = (permit.caller(), permit.asked());
        let key = key_or_random(None)?;
        let now = row_time((self.clock)());
        let entries = self.changing(caller, Event::DeleteCredential, id);
        let announced = &entries;
        let deleted = change(self.credentials.as_ref(), id, |present: Option<CredentialRow>| async move {
            match decide_delete(present, caller, &key, revision, WriteId::random()?, now)? {
                Delete::Done => Ok(Decision::Done(())),
                Delete::Missing => Err(self.missing(&id.customer).await),
                Delete::Bury(row) => {
                    announced.announce(Some(row.revision)).await?;
                    Ok(Decision::Replace(*row, ()))
                }
            }
        })
        .await;
        self.waiting.changed(id);
        entries.settle(deleted, |()| Made::default()).await
    }

    /// The entries of a change of one credential.
    fn changing(&self, caller: &Caller, event: Event, id: &CredentialRef) -> Changing<'_> {
        Changing::new(&self.audit, Origin::of(caller), event, Subject::credential(id))
    }

    fn seal(
        &self,
        root: &Root,
        lineage: Lineage,
        id: &CredentialRef,
        kind: Kind,
        revision: Revision,
        plaintext: &Plaintext,
    ) -> Result<Envelope, VaultError> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(NoRandomness::from)?;
        let context = self.context(id, kind, revision)?;
        crypto::seal(root, lineage, &context, Salt::new(salt), plaintext)
            .map_err(|_| VaultError::Internal("a plaintext within its limits was not sealed"))
    }

    /// The secret of a row that may be read.
    async fn opened(
        &self,
        row: &CredentialRow,
        living: &Living,
        view: View,
    ) -> Result<(Secret, Credential), VaultError> {
        let plaintext = self.open(row, living).await?;
        let mut secret = stored::decode(living.kind, &plaintext)?;
        if view == View::Access {
            secret.drop_refresh_token();
        }
        let mut credential = shown(row)?;
        // The row's own column is a hint; the opened secret is not.
        credential.access_token_expire_time = secret.access_token_expire_time();
        Ok((secret, credential))
    }

    async fn open(&self, row: &CredentialRow, living: &Living) -> Result<Plaintext, VaultError> {
        let envelope = Envelope::parse(living.envelope.clone()).map_err(|_| VaultError::Malformed)?;
        let root = self.keyring.root(&row.id.customer, envelope.lineage()).await?;
        Ok(crypto::open(&root, &self.context(&row.id, living.kind, row.revision)?, &envelope)?)
    }

    fn context<'a>(&'a self, id: &'a CredentialRef, kind: Kind, revision: Revision) -> Result<Context<'a>, VaultError> {
        let (customer, credential) = (id.customer.as_str(), id.credential.as_str());
        Context::new(self.deployment.as_str(), customer, credential, kind.as_str(), revision.get())
            .map_err(|_| VaultError::Internal("an id is longer than an id can be"))
    }

    /// The answer to a retry: what the first call was answered, unless the key named another secret.
    async fn repeated(
        &self,
        present: Option<CredentialRow>,
        made: &Change,
        hints: &Hints,
        plaintext: &Plaintext,
    ) -> Result<Credential, VaultError> {
        let row = present.ok_or(VaultError::Internal("a change is remembered by no row"))?;
        let at_it = living(&row).filter(|(row, _)| row.revision == made.revision);
        let lineage = match at_it {
            Some((row, living)) => {
                let stored = self.open(row, living).await?;
                if !stored.is_same(plaintext) {
                    // What a newer release wrote can't be compared: its octets differ, whatever they say.
                    drop(stored::decode(living.kind, &stored)?);
                    return Err(VaultError::IdempotencyKeyReused);
                }
                shown(row)?.lineage
            }
            // Changed or deleted since: nothing is left to compare with.
            None => None,
        };
        Ok(Credential {
            id: row.id,
            kind: hints.kind,
            state: State::Active,
            revision: made.revision,
            lineage,
            create_time: row.create_time,
            update_time: made.time,
            refresh_time: hints.refresh_time(made.time),
            access_token_expire_time: hints.access_token_expire_time,
        })
    }

    /// Why there is no living credential: perhaps there is no such customer, or it may not be used.
    async fn missing(&self, customer: &CustomerId) -> VaultError {
        match self.keyring.check_active(customer).await {
            Ok(()) => VaultError::CredentialNotFound,
            Err(error) => error.into(),
        }
    }
}

fn key_or_random(key: Option<IdempotencyKey>) -> Result<IdempotencyKey, NoRandomness> {
    key.map_or_else(IdempotencyKey::random, Ok)
}

/// What stands beside the envelope, taken from the secret before it is sealed.
struct Hints {
    kind: Kind,
    issue_time: Option<Timestamp>,
    access_token_expire_time: Option<Timestamp>,
}

impl Hints {
    fn of(secret: &Secret) -> Self {
        Self {
            kind: secret.kind(),
            issue_time: secret.issue_time().map(row_time),
            access_token_expire_time: secret.access_token_expire_time().map(row_time),
        }
    }

    /// What a row has of the secret once it is sealed.
    fn living(&self, envelope: &Envelope, stored_at: Timestamp) -> Living {
        Living {
            envelope: envelope.as_octets().to_vec(),
            kind: self.kind,
            state: State::Active,
            refresh_time: self.refresh_time(stored_at),
            access_token_expire_time: self.access_token_expire_time,
        }
    }

    /// Salesforce's tokens are as new as they say, or else as the call that stored them.
    fn refresh_time(&self, stored_at: Timestamp) -> Option<Timestamp> {
        match self.kind {
            Kind::SalesforceOAuth => Some(self.issue_time.unwrap_or(stored_at)),
            Kind::Password | Kind::Opaque => None,
        }
    }
}

/// The metadata of a living row.
fn shown(row: &CredentialRow) -> Result<Credential, VaultError> {
    let (_, living) = living(row).ok_or(VaultError::CredentialNotFound)?;
    Ok(Credential {
        id: row.id.clone(),
        kind: living.kind,
        state: living.state.clone(),
        revision: row.revision,
        lineage: Envelope::lineage_of(&living.envelope).ok(),
        create_time: row.create_time,
        update_time: row.update_time,
        refresh_time: living.refresh_time,
        access_token_expire_time: living.access_token_expire_time,
    })
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unasked;
