//! CredentialService: who calls → convert → may they → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::{Deadline, Places, Standing};
use super::convert;
use super::gate::Gate;
use super::wire::v1;
use super::wire::v1::credential_service_server::CredentialService;
use crate::access::{
    AbandonRefresh, AcquireRefresh, CompleteRefresh, DeleteCredential, EncryptCredential, GetCredential,
    ListCredentials, MarkNeedsReauth,
};
use crate::audit::Event;
use crate::vault::{Reading, Vault};

/// The list that page tokens are of.
const CREDENTIALS: &str = "credentials";

/// CredentialService over a vault.
pub struct Credentials {
    gate: Gate,
    vault: Arc<Vault>,
}

impl Credentials {
    /// Serves this vault behind this gate.
    pub fn new(gate: Gate, vault: Arc<Vault>) -> Self {
        Self { gate, vault }
    }
}

#[tonic::async_trait]
impl CredentialService for Credentials {
    async fn encrypt_credential(
        &self,
        request: Request<v1::EncryptCredentialRequest>,
    ) -> Result<Response<v1::EncryptCredentialResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let request = convert::encrypt_request(request.into_inner())?;
        let asked = EncryptCredential { id: request.id, kind: request.secret.kind() };
        let permit = self.gate.permit(&caller, Event::EncryptCredential, asked).await?;
        let credential = self.vault.encrypt(&permit, request.secret, request.condition, request.key).await?;
        let credential = Some(convert::credential_message(&credential));
        Ok(Response::new(v1::EncryptCredentialResponse { credential }))
    }

    async fn decrypt_credential(
        &self,
        request: Request<v1::DecryptCredentialRequest>,
    ) -> Result<Response<v1::DecryptCredentialResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (asked, revision) = convert::decrypt_request(request.get_ref())?;
        let permit = self.gate.permit(&caller, Event::DecryptCredential, asked).await?;
        Ok(Response::new(convert::decrypted(self.vault.decrypt(&permit, revision).await?)))
    }

    async fn batch_decrypt_credentials(
        &self,
        request: Request<v1::BatchDecryptCredentialsRequest>,
    ) -> Result<Response<v1::BatchDecryptCredentialsResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let mut requests = Vec::new();
        for item in convert::batch_request(request.get_ref())? {
            requests.push(match item {
                Ok((asked, revision)) => self
                    .gate
                    .permit(&caller, Event::BatchDecryptCredentials, asked)
                    .await
                    .map(|permit| Reading { permit, revision }),
                Err(wrong) => Err(wrong),
            });
        }
        let permitted: Vec<_> = requests.iter().flatten().collect();
        let opened = self.vault.decrypt_many(&permitted, convert::room_for_secrets(requests.len())).await;
        Ok(Response::new(convert::batch_response(requests, opened)))
    }

    async fn get_credential(
        &self,
        request: Request<v1::GetCredentialRequest>,
    ) -> Result<Response<v1::GetCredentialResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let request = request.into_inner();
        let id = convert::credential_ref(&request.customer_id, &request.credential_id)?;
        let permit = self.gate.permit(&caller, Event::GetCredential, GetCredential(id)).await?;
        let credential = Some(convert::credential_message(&self.vault.get(&permit).await?));
        Ok(Response::new(v1::GetCredentialResponse { credential }))
    }

    async fn list_credentials(
        &self,
        request: Request<v1::ListCredentialsRequest>,
    ) -> Result<Response<v1::ListCredentialsResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let tokens = self.vault.page_tokens(CREDENTIALS, &caller);
        let (customer, filter, after, limit) = convert::list_request(request.get_ref(), &tokens)?;
        let permit = self.gate.permit(&caller, Event::ListCredentials, ListCredentials(customer)).await?;
        let may_see = |id: &_| self.gate.shows(&permit, &GetCredential(Clone::clone(id)));
        let page = self.vault.list(&permit, &filter, after, limit, may_see).await?;
        Ok(Response::new(convert::list_response(&page, &tokens)?))
    }

    async fn delete_credential(
        &self,
        request: Request<v1::DeleteCredentialRequest>,
    ) -> Result<Response<v1::DeleteCredentialResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, revision) = convert::delete_request(request.get_ref())?;
        let permit = self.gate.permit(&caller, Event::DeleteCredential, DeleteCredential(id)).await?;
        self.vault.delete(&permit, revision).await?;
        Ok(Response::new(v1::DeleteCredentialResponse {}))
    }

    async fn acquire_refresh(
        &self,
        request: Request<v1::AcquireRefreshRequest>,
    ) -> Result<Response<v1::AcquireRefreshResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, asked) = convert::acquire_request(request.get_ref())?;
        let (until, gone) = (Deadline::wait_until(&request, asked.wait), Standing::lost_by(&request));
        let waits = Places::left_by(&request);
        let permit = self.gate.permit(&caller, Event::AcquireRefresh, AcquireRefresh(id)).await?;
        Ok(Response::new(convert::acquired(self.vault.acquire_refresh(&permit, &asked, until, gone, waits).await?)))
    }

    async fn complete_refresh(
        &self,
        request: Request<v1::CompleteRefreshRequest>,
    ) -> Result<Response<v1::CompleteRefreshResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, token, oauth) = convert::complete_request(request.into_inner())?;
        let permit = self.gate.permit(&caller, Event::CompleteRefresh, CompleteRefresh(id)).await?;
        let credential = self.vault.complete_refresh(&permit, &token, &oauth).await?;
        let credential = Some(convert::credential_message(&credential));
        Ok(Response::new(v1::CompleteRefreshResponse { credential }))
    }

    async fn abandon_refresh(
        &self,
        request: Request<v1::AbandonRefreshRequest>,
    ) -> Result<Response<v1::AbandonRefreshResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, token, cause, reason) = convert::abandon_request(request.get_ref())?;
        let permit = self.gate.permit(&caller, Event::AbandonRefresh, AbandonRefresh(id)).await?;
        let credential = self.vault.abandon_refresh(&permit, &token, cause, &reason).await?;
        let credential = Some(convert::credential_message(&credential));
        Ok(Response::new(v1::AbandonRefreshResponse { credential }))
    }

    async fn mark_needs_reauth(
        &self,
        request: Request<v1::MarkNeedsReauthRequest>,
    ) -> Result<Response<v1::MarkNeedsReauthResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, reason, revision) = convert::mark_request(request.get_ref())?;
        let permit = self.gate.permit(&caller, Event::MarkNeedsReauth, MarkNeedsReauth(id)).await?;
        let credential = self.vault.mark_needs_reauth(&permit, &reason, revision).await?;
        let credential = Some(convert::credential_message(&credential));
        Ok(Response::new(v1::MarkNeedsReauthResponse { credential }))
    }
}
