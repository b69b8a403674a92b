//! For tests: the vault without anybody who asks policy first.

use tokio::time::Instant;

use super::*;
use crate::access::{AbandonRefresh, AcquireRefresh, CompleteRefresh, ListCredentials, MarkNeedsReauth};
use crate::refresh::{Acquire, LeaseToken};
use crate::secret::SalesforceOAuth;
use crate::store::{AbandonCause, Page};

impl Vault {
    pub(crate) async fn encrypt_unasked(
        &self,
        caller: &Caller,
        id: &CredentialRef,
        secret: Secret,
        condition: Condition,
        key: Option<IdempotencyKey>,
    ) -> Result<Credential, VaultError> {
        let permit = Permit::unasked(caller.clone(), EncryptCredential { id: id.clone(), kind: secret.kind() });
        self.encrypt(&permit, secret, condition, key).await
    }

    pub(crate) async fn decrypt_unasked(
        &self,
        id: &CredentialRef,
        view: View,
        revision: Option<Revision>,
    ) -> Result<(Secret, Credential), VaultError> {
        let permit = Permit::unasked(Caller::new("test"), DecryptCredential { id: id.clone(), view });
        self.decrypt(&permit, revision).await
    }

    pub(crate) async fn get_unasked(&self, id: &CredentialRef) -> Result<Credential, VaultError> {
        self.get(&Permit::unasked(Caller::new("test"), GetCredential(id.clone()))).await
    }

    pub(crate) async fn list_unasked(
        &self,
        customer: Option<&CustomerId>,
        filter: &ListFilter,
        after: Option<CredentialRef>,
        limit: usize,
    ) -> Result<Page<Credential, CredentialRef>, VaultError> {
        let permit = Permit::unasked(Caller::new("test"), ListCredentials(customer.cloned()));
        self.list(&permit, filter, after, limit, |_| true).await
    }

    pub(crate) async fn delete_unasked(
        &self,
        caller: &Caller,
        id: &CredentialRef,
        revision: Option<Revision>,
    ) -> Result<(), VaultError> {
        self.delete(&Permit::unasked(caller.clone(), DeleteCredential(id.clone())), revision).await
    }

    pub(crate) async fn acquire_unasked(
        &self,
        caller: &Caller,
        id: &CredentialRef,
        asked: &Acquire,
    ) -> Result<Refreshed, VaultError> {
        let until = Instant::now() + asked.wait;
        let permit = Permit::unasked(caller.clone(), AcquireRefresh(id.clone()));
        self.acquire_refresh(&permit, asked, until, std::future::pending(), || {}).await
    }

    pub(crate) async fn complete_unasked(
        &self,
        caller: &Caller,
        id: &CredentialRef,
        token: &LeaseToken,
        brought: &SalesforceOAuth,
    ) -> Result<Credential, VaultError> {
        self.complete_refresh(&Permit::unasked(caller.clone(), CompleteRefresh(id.clone())), token, brought).await
    }

    pub(crate) async fn abandon_unasked(
        &self,
        caller: &Caller,
        id: &CredentialRef,
        token: &LeaseToken,
        cause: AbandonCause,
    ) -> Result<Credential, VaultError> {
        let permit = Permit::unasked(caller.clone(), AbandonRefresh(id.clone()));
        self.abandon_refresh(&permit, token, cause, "INVALID_GRANT").await
    }

    pub(crate) async fn mark_unasked(
        &self,
        caller: &Caller,
        id: &CredentialRef,
        revision: Option<Revision>,
    ) -> Result<Credential, VaultError> {
        self.mark_needs_reauth(&Permit::unasked(caller.clone(), MarkNeedsReauth(id.clone())), "breach", revision).await
    }
}
