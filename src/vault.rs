//! Encrypt, decrypt, get, list, delete: the order of the steps, top to bottom. It knows traits only; what a request may
//! contain was checked at the edge, and how the row is written is `store::change`'s.

mod batch;
mod ending;
mod refreshing;
mod reseal;

use std::sync::Arc;

use jiff::Timestamp;

pub use batch::{Opened, Reading};
pub use refreshing::{GivenLease, Refreshed};

use crate::access::{DecryptCredential, DeleteCredential, EncryptCredential, GetCredential, ListCredentials, Permit};
use crate::audit::entry::Subject;
use crate::audit::{AuditError, AuditLog, Changing, Disclosure, Event, Made, Origin, Reason};
use crate::crypto::{self, Context, Envelope, Lineage, NotAuthentic, Plaintext, Root, Salt};
use crate::ids::{Caller, CredentialRef, CustomerId, Deployment};
use crate::keyring::{Keyring, KeyringError, PageTokens};
use crate::refresh::waiting::Waiting;
use crate::secret::stored::{self, DecodeError};
use crate::secret::{Kind, Secret, View};
use crate::store::{
    Change, ChangeError, Changes, CredentialRow, Credentials, Decision, IdempotencyKey, Leases, Life, Living, Page,
    Revision, State, StoreError, WriteId, change, filtered, row_time,
};

/// Why nothing was sealed, opened, shown or erased.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// There is no living credential.
    #[error("the credential does not exist")]
    CredentialNotFound,
    /// There is one, and there must be none.
    #[error("the credential exists already, at revision {}", current.get())]
    CredentialExists {
        /// Its revision.
        current: Revision,
    },
    /// It is at another revision.
    #[error("the credential is at revision {}", current.get())]
    RevisionMismatch {
        /// Its revision.
        current: Revision,
    },
    /// The key named another secret before.
    #[error("the idempotency key was used for another secret")]
    IdempotencyKeyReused,
    /// Others changed the row each time.
    #[error("the credential was changed by others at the same time")]
    ChangedConcurrently,
    /// A view without the refresh token exists for Salesforce credentials alone.
    #[error("a credential of this kind has no access view")]
    NoAccessView,
    /// The customer has to consent again.
    #[error("the credential needs a new consent")]
    NeedsReauth,
    /// There is no refresh token.
    #[error("the credential has no refresh token")]
    NotRefreshable,
    /// Somebody else refreshes it, and did not come back in time.
    #[error("the credential is being refreshed; its lease may be had from {available} on")]
    RefreshInProgress {
        /// From when on the lease may be had, if its holder does not come back.
        available: Timestamp,
        /// Its revision.
        current: Revision,
    },
    /// The lease is not remembered, or is not the present one where it has to be.
    #[error("the lease is lost: another one was given since, or it is not the caller's")]
    LeaseLost,
    /// What is stored is no envelope.
    #[error("the stored envelope is malformed")]
    Malformed,
    /// The envelope was not sealed by these keys for this place.
    #[error("the stored envelope is not authentic")]
    NotAuthentic,
    /// A newer release wrote it.
    #[error("the stored secret has an encoding that this release does not know")]
    EncodingUnknown,
    /// Its keys did not come while others of the same batch were waiting.
    #[error("the customer's keys did not come in time")]
    TooSlow,
    /// What was opened before it in the same batch leaves no room for it in the answer.
    #[error("the answer has no room for it")]
    NoRoom,
    /// Its fields are within their limits, and together too long.
    #[error("the secret is longer than {} octets", crypto::MAX_PLAINTEXT_OCTETS - 1)]
    SecretTooLong,
    /// The audit log's: nothing was shown, and a change may have happened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The keyring's.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug, or a system without randomness.
    #[error("{0}")]
    Internal(&'static str),
}

impl From<ChangeError> for VaultError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Concurrent => Self::ChangedConcurrently,
            ChangeError::Store(error) => Self::Store(error),
        }
    }
}

impl From<&VaultError> for Reason {
    fn from(error: &VaultError) -> Self {
        use VaultError as E;
        match error {
            E::CredentialNotFound => Self::CredentialNotFound,
            E::CredentialExists { .. } => Self::CredentialExists,
            E::RevisionMismatch { .. } => Self::RevisionMismatch,
            E::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            E::ChangedConcurrently => Self::ChangedConcurrently,
            E::NoAccessView => Self::NoAccessView,
            E::NeedsReauth => Self::NeedsReauth,
            E::NotRefreshable => Self::NotRefreshable,
            E::RefreshInProgress { .. } => Self::RefreshInProgress,
            E::LeaseLost => Self::LeaseLost,
            E::Malformed => Self::Malformed,
            E::NotAuthentic => Self::NotAuthentic,
            E::EncodingUnknown => Self::EncodingUnknown,
            E::NoRoom => Self::ReplyFull,
            E::TooSlow => Self::DeadlineExceeded,
            E::SecretTooLong => Self::BadField,
            E::Audit(_) => Self::AuditUnavailable,
            E::Keyring(error) => error.into(),
            E::Store(error) => error.into(),
            E::Internal(_) => Self::Internal,
        }
    }
}

impl From<NotAuthentic> for VaultError {
    fn from(_: NotAuthentic) -> Self {
        Self::NotAuthentic
    }
}

impl From<DecodeError> for VaultError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnknownEncoding => Self::EncodingUnknown,
            DecodeError::Malformed => Self::Malformed,
        }
    }
}

pub use reseal::{Resealed, Target};

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

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Of this kind alone.
    pub kind: Option<Kind>,
    /// Only those that need a new consent (true), or that do not (false).
    pub needs_reauth: Option<bool>,
    /// Only those whose tokens were last issued before.
    pub refreshed_before: Option<Timestamp>,
}

/// Seals and opens credentials.
pub struct Vault {
    deployment: Deployment,
    credentials: Arc<dyn Credentials>,
    keyring: Keyring,
    audit: AuditLog,
    waiting: Waiting,
    clock: fn() -> Timestamp,
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
        Self { deployment, credentials, keyring, audit, waiting, clock }
    }

    /// Seals a secret and stores it. A retry under the same key changes nothing.
    ///
    /// # Errors
    /// A [`VaultError`]. After [`StoreError::Away`] the change may have happened; after a [`KeyringError`], too, if its answer was
    /// lost and it could not be opened to be compared.
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
                write_id: new_write_id()?,
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
        entries.settle(encrypted, |made| Made { revision: Some(made.revision), lineage: made.lineage }).await
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
        entries.settle(found, |shown| Made { revision: Some(shown.revision), lineage: shown.lineage }).await
    }

    async fn known(&self, id: &CredentialRef) -> Result<Credential, VaultError> {
        match self.credentials.get(id).await?.as_ref().and_then(living) {
            Some((row, _)) => shown(row),
            None => Err(self.missing(&id.customer).await),
        }
    }

    /// At most `limit` credentials that the filter wants and the caller may see, after `after`.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn list(
        &self,
        permit: &Permit<ListCredentials>,
        filter: &ListFilter,
        after: Option<CredentialRef>,
        limit: usize,
        may_see: impl Fn(&CredentialRef) -> bool,
    ) -> Result<Page<Credential, CredentialRef>, VaultError> {
        let ListCredentials(customer) = permit.asked();
        let listed = self.listed(customer.as_ref(), filter, after, limit, may_see).await;
        let subject = customer.as_ref().map(Subject::customer).unwrap_or_default();
        let entries = Changing::new(&self.audit, Origin::of(permit.caller()), Event::ListCredentials, subject);
        entries.settle(listed, |_| Made::default()).await
    }

    /// What seals and opens the page tokens of a list, for a caller.
    pub fn page_tokens<'a>(&'a self, list: &'static str, caller: &'a Caller) -> PageTokens<'a> {
        self.keyring.page_tokens(list, caller)
    }

    async fn listed(
        &self,
        customer: Option<&CustomerId>,
        filter: &ListFilter,
        after: Option<CredentialRef>,
        limit: usize,
        may_see: impl Fn(&CredentialRef) -> bool,
    ) -> Result<Page<Credential, CredentialRef>, VaultError> {
        let query = |after: Option<CredentialRef>, limit| async move {
            self.credentials.query(customer, after.as_ref(), limit).await
        };
        let keep = |row: CredentialRow| {
            let (row, living) = living(&row)?;
            if filter.wants(living) && may_see(&row.id) { shown(row).ok() } else { None }
        };
        let page = filtered(limit, after, |row: &CredentialRow| row.id.clone(), query, keep).await?;
        if let Some(customer) = customer.filter(|_| page.rows.is_empty() && page.next.is_none()) {
            match self.keyring.check_active(customer).await {
                // A customer without credentials, whatever its state.
                Ok(())
                | Err(
                    KeyringError::CustomerDisabled
                    | KeyringError::CustomerPendingDestruction
                    | KeyringError::CustomerDestroyed,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(page)
    }

    /// Erases a secret. A tombstone stays, so that nothing of this life can match a later one.
    ///
    /// # Errors
    /// A [`VaultError`]. After [`StoreError::Away`] the change may have happened.
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
            match decide_delete(present, caller, &key, revision, now)? {
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
        getrandom::fill(&mut salt).map_err(|_| VaultError::Internal(NO_RANDOMNESS))?;
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

const NO_RANDOMNESS: &str = "the system's generator of random numbers does not answer";

fn key_or_random(key: Option<IdempotencyKey>) -> Result<IdempotencyKey, VaultError> {
    key.map_or_else(IdempotencyKey::random, Ok).map_err(|_| VaultError::Internal(NO_RANDOMNESS))
}

fn new_write_id() -> Result<WriteId, VaultError> {
    WriteId::random().map_err(|_| VaultError::Internal(NO_RANDOMNESS))
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

impl ListFilter {
    fn wants(&self, living: &Living) -> bool {
        let reauth = matches!(living.state, State::NeedsReauth { .. });
        self.kind.is_none_or(|kind| living.kind == kind)
            && self.needs_reauth.is_none_or(|wanted| reauth == wanted)
            && self.refreshed_before.is_none_or(|before| living.refresh_time.is_some_and(|time| time < before))
    }
}

#[derive(Debug)]
enum Encrypt {
    /// This call has made its change before.
    Repeated(Change),
    /// Seal at this revision.
    Seal { revision: Revision, create_time: Timestamp },
}

fn decide_encrypt(
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
enum Delete {
    /// This call has made its change before.
    Done,
    /// Nothing lives there.
    Missing,
    /// Put this tombstone in the row's place.
    Bury(Box<CredentialRow>),
}

fn decide_delete(
    present: Option<CredentialRow>,
    caller: &Caller,
    key: &IdempotencyKey,
    condition: Option<Revision>,
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
    Ok(Delete::Bury(Box::new(CredentialRow {
        write_id: new_write_id()?,
        changes,
        life: Life::Deleted { time: now },
        ..row
    })))
}

/// What is to be opened for a reading. `None`: nothing lives there.
fn readable(
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

fn check_revision(row: &CredentialRow, wanted: Option<Revision>) -> Result<(), VaultError> {
    match wanted {
        Some(revision) if revision != row.revision => Err(VaultError::RevisionMismatch { current: row.revision }),
        Some(_) | None => Ok(()),
    }
}

fn living(row: &CredentialRow) -> Option<(&CredentialRow, &Living)> {
    match &row.life {
        Life::Living(living) => Some((row, living)),
        Life::Deleted { .. } => None,
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
