//! For tests: the vault without anybody who asks policy first.

use super::*;

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
}
