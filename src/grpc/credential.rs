//! CredentialService: who calls → convert → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::identity;
use super::wire::v1;
use super::wire::v1::credential_service_server::CredentialService;
use crate::vault::{Reading, Vault};

/// CredentialService over a vault.
pub struct Credentials {
    vault: Arc<Vault>,
}

impl Credentials {
    /// Serves this vault.
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault }
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
        let credential =
            self.vault.encrypt(&caller, &request.id, request.secret, request.condition, request.key).await?;
        let credential = Some(convert::credential_message(&credential));
        Ok(Response::new(v1::EncryptCredentialResponse { credential }))
    }

    async fn decrypt_credential(
        &self,
        request: Request<v1::DecryptCredentialRequest>,
    ) -> Result<Response<v1::DecryptCredentialResponse>, Status> {
        let Reading { id, view, revision } = convert::decrypt_request(request.get_ref())?;
        Ok(Response::new(convert::decrypted(self.vault.decrypt(&id, view, revision).await?)))
    }

    async fn batch_decrypt_credentials(
        &self,
        request: Request<v1::BatchDecryptCredentialsRequest>,
    ) -> Result<Response<v1::BatchDecryptCredentialsResponse>, Status> {
        let requests = convert::batch_request(request.get_ref())?;
        let right: Vec<_> = requests.iter().flatten().collect();
        let opened = self.vault.decrypt_many(&right, convert::room_for_secrets(requests.len())).await;
        Ok(Response::new(convert::batch_response(requests, opened)))
    }

    async fn get_credential(
        &self,
        request: Request<v1::GetCredentialRequest>,
    ) -> Result<Response<v1::GetCredentialResponse>, Status> {
        let request = request.into_inner();
        let id = convert::credential_ref(&request.customer_id, &request.credential_id)?;
        let credential = Some(convert::credential_message(&self.vault.get(&id).await?));
        Ok(Response::new(v1::GetCredentialResponse { credential }))
    }

    async fn list_credentials(
        &self,
        request: Request<v1::ListCredentialsRequest>,
    ) -> Result<Response<v1::ListCredentialsResponse>, Status> {
        let (filter, after, limit) = convert::list_request(request.get_ref())?;
        let page = self.vault.list(&filter, after, limit).await?;
        Ok(Response::new(convert::list_response(&page)))
    }

    async fn delete_credential(
        &self,
        request: Request<v1::DeleteCredentialRequest>,
    ) -> Result<Response<v1::DeleteCredentialResponse>, Status> {
        let caller = identity::caller(&request)?;
        let (id, revision) = convert::delete_request(request.get_ref())?;
        self.vault.delete(&caller, &id, revision).await?;
        Ok(Response::new(v1::DeleteCredentialResponse {}))
    }
}
