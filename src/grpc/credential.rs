//! CredentialService: who calls → convert → may they → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::identity;
use super::wire::v1;
use super::wire::v1::credential_service_server::CredentialService;
use crate::access::{Access, DeleteCredential, EncryptCredential, GetCredential, ListCredentials};
use crate::vault::{Reading, Vault};

/// CredentialService over a vault.
pub struct Credentials {
    access: Arc<Access>,
    vault: Arc<Vault>,
}

impl Credentials {
    /// Serves this vault to whom access is given.
    pub fn new(access: Arc<Access>, vault: Arc<Vault>) -> Self {
        Self { access, vault }
    }
}

#[tonic::async_trait]
impl CredentialService for Credentials {
    async fn encrypt_credential(
        &self,
        request: Request<v1::EncryptCredentialRequest>,
    ) -> Result<Response<v1::EncryptCredentialResponse>, Status> {
        let caller = identity::caller(&request)?;
        let request = convert::encrypt_request(request.into_inner())?;
        let asked = EncryptCredential { id: request.id, kind: request.secret.kind() };
        let permit = self.access.permit(&caller, asked)?;
        let credential = self.vault.encrypt(&permit, request.secret, request.condition, request.key).await?;
        let credential = Some(convert::credential_message(&credential));
        Ok(Response::new(v1::EncryptCredentialResponse { credential }))
    }

    async fn decrypt_credential(
        &self,
        request: Request<v1::DecryptCredentialRequest>,
    ) -> Result<Response<v1::DecryptCredentialResponse>, Status> {
        let caller = identity::caller(&request)?;
        let (asked, revision) = convert::decrypt_request(request.get_ref())?;
        let permit = self.access.permit(&caller, asked)?;
        Ok(Response::new(convert::decrypted(self.vault.decrypt(&permit, revision).await?)))
    }

    async fn batch_decrypt_credentials(
        &self,
        request: Request<v1::BatchDecryptCredentialsRequest>,
    ) -> Result<Response<v1::BatchDecryptCredentialsResponse>, Status> {
        let caller = identity::caller(&request)?;
        let permitted = |request: Result<_, Status>| {
            let (asked, revision) = request?;
            Ok(Reading { permit: self.access.permit(&caller, asked)?, revision })
        };
        let readings: Vec<_> = convert::batch_request(request.get_ref())?.into_iter().map(permitted).collect();
        let right: Vec<_> = readings.iter().flatten().collect();
        let opened = self.vault.decrypt_many(&right, convert::room_for_secrets(readings.len())).await;
        Ok(Response::new(convert::batch_response(readings, opened)))
    }

    async fn get_credential(
        &self,
        request: Request<v1::GetCredentialRequest>,
    ) -> Result<Response<v1::GetCredentialResponse>, Status> {
        let caller = identity::caller(&request)?;
        let request = request.into_inner();
        let id = convert::credential_ref(&request.customer_id, &request.credential_id)?;
        let permit = self.access.permit(&caller, GetCredential(id))?;
        let credential = Some(convert::credential_message(&self.vault.get(&permit).await?));
        Ok(Response::new(v1::GetCredentialResponse { credential }))
    }

    async fn list_credentials(
        &self,
        request: Request<v1::ListCredentialsRequest>,
    ) -> Result<Response<v1::ListCredentialsResponse>, Status> {
        let caller = identity::caller(&request)?;
        let (customer, filter, after, limit) = convert::list_request(request.get_ref())?;
        let permit = self.access.permit(&caller, ListCredentials(customer))?;
        let page = self.vault.list(&self.access, &permit, &filter, after, limit).await?;
        Ok(Response::new(convert::list_response(&page)))
    }

    async fn delete_credential(
        &self,
        request: Request<v1::DeleteCredentialRequest>,
    ) -> Result<Response<v1::DeleteCredentialResponse>, Status> {
        let caller = identity::caller(&request)?;
        let (id, revision) = convert::delete_request(request.get_ref())?;
        let permit = self.access.permit(&caller, DeleteCredential(id))?;
        self.vault.delete(&permit, revision).await?;
        Ok(Response::new(v1::DeleteCredentialResponse {}))
    }
}
