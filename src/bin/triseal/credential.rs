//! `triseal credential`: the one call of each command, and how the answer is shown. The arguments are in `arguments`.

mod arguments;
mod import;
mod mark;

use serde::Serialize;
use triseal::grpc::v1;
use triseal::ids::CustomerId;
use triseal::secret::stored::to_timestamp;
use v1::secret::Value;

use arguments::{Decrypt, Delete, Encrypt, Kind, List, State, View, Which};

pub(crate) use arguments::Command;

use crate::client::{Connect, Service};
use crate::failure::Failure;
use crate::metadata::Credential;
use crate::opened;
use crate::output::{Format, Output};
use crate::status::{Again, Subject};
use crate::{input, salesforce};

pub(crate) async fn run(command: Command, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    match command {
        Command::Encrypt(arguments) => encrypt(arguments, &service, output).await,
        Command::Decrypt(arguments) => decrypt(&arguments, &service, output).await,
        Command::Get(which) => get(&which, &service, output).await,
        Command::List(arguments) => list(&arguments, &service, output).await,
        Command::Delete(arguments) => delete(&arguments, &service, output).await,
        Command::Import(arguments) => import::run(&arguments, &service, output).await,
        Command::MarkNeedsReauth(arguments) => mark::run(&arguments, &service, output).await,
    }
}

impl Which {
    fn subject(&self, again: Again) -> Subject<'_> {
        Subject { customer: self.customer.as_str(), credential: self.credential.as_str(), again }
    }
}

async fn encrypt(arguments: Encrypt, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let value = match arguments.kind {
        Some(Kind::SalesforceOauth | Kind::Password) if arguments.content_type.is_some() => {
            return Err(Failure::usage("--content-type is for --kind opaque alone".to_owned()));
        }
        Some(Kind::SalesforceOauth) => {
            Value::SalesforceOauth(input::salesforce_oauth(&input::read(arguments.file.as_deref())?)?)
        }
        Some(Kind::Password) => Value::Password(input::password(&input::read(arguments.file.as_deref())?)?),
        Some(Kind::Opaque) => Value::Opaque(v1::Opaque {
            data: std::mem::take(&mut *input::read(arguments.file.as_deref())?),
            content_type: arguments.content_type.unwrap_or_default(),
        }),
        None => {
            Value::SalesforceOauth(salesforce::read(&input::read(arguments.file.as_deref())?, arguments.token_url)?)
        }
    };
    let which = arguments.which;
    let again = match arguments.idempotency_key {
        Some(_) => Again::UnderTheKey,
        None => Again::AfterTheCredential,
    };
    let request = service.request(v1::EncryptCredentialRequest {
        customer_id: which.customer.to_string(),
        credential_id: which.credential.to_string(),
        secret: Some(v1::Secret { value: Some(value) }),
        if_revision: arguments.if_revision,
        idempotency_key: arguments.idempotency_key.unwrap_or_default(),
    });
    let answer = service.credentials().encrypt_credential(request).await;
    let answer = answer.map_err(|status| Failure::from_status(&status, which.subject(again)))?.into_inner();
    show(answer.credential, output)
}

async fn decrypt(arguments: &Decrypt, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let which = &arguments.which;
    let view = match arguments.view {
        View::Access => v1::View::Access,
        View::Full => v1::View::Full,
    };
    let request = service.request(v1::DecryptCredentialRequest {
        customer_id: which.customer.to_string(),
        credential_id: which.credential.to_string(),
        view: view.into(),
        if_revision: arguments.if_revision,
    });
    let answer = service.credentials().decrypt_credential(request).await;
    let answer = answer.map_err(|status| Failure::from_status(&status, which.subject(Again::Reads)))?.into_inner();
    let (Some(v1::Secret { value: Some(secret) }), Some(credential)) = (answer.secret, answer.credential) else {
        return Err(Failure::unknown_answer());
    };
    opened::show(&secret, credential.into(), output)
}

async fn get(which: &Which, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let request = service.request(v1::GetCredentialRequest {
        customer_id: which.customer.to_string(),
        credential_id: which.credential.to_string(),
    });
    let answer = service.credentials().get_credential(request).await;
    let answer = answer.map_err(|status| Failure::from_status(&status, which.subject(Again::Reads)))?.into_inner();
    show(answer.credential, output)
}

async fn list(arguments: &List, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let kind = match arguments.kind {
        None => v1::CredentialKind::Unspecified,
        Some(Kind::SalesforceOauth) => v1::CredentialKind::SalesforceOauth,
        Some(Kind::Password) => v1::CredentialKind::Password,
        Some(Kind::Opaque) => v1::CredentialKind::Opaque,
    };
    let state = match arguments.state {
        None => v1::CredentialState::Unspecified,
        Some(State::Active) => v1::CredentialState::Active,
        Some(State::NeedsReauth) => v1::CredentialState::NeedsReauth,
    };
    let customer = arguments.customer.as_ref().map(CustomerId::as_str).unwrap_or_default();
    let mut client = service.credentials();
    let fetch = async |page_token: String, wanted: u64| {
        let request = service.request(v1::ListCredentialsRequest {
            customer_id: customer.to_owned(),
            // Short pages: the first rows are there at once.
            page_size: wanted.min(100) as i32,
            page_token,
            kind: kind.into(),
            state: state.into(),
            refreshed_before: arguments.refreshed_before.map(to_timestamp),
        });
        let answer = client.list_credentials(request).await;
        let subject = Subject { customer, ..Subject::default() };
        let page = answer.map_err(|status| Failure::from_status(&status, subject))?.into_inner();
        Ok((page.credentials.into_iter().map(Credential::from).collect(), page.next_page_token))
    };
    output.list(arguments.limit, fetch).await
}

/// Has the credential's id typed back.
async fn delete(arguments: &Delete, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let which = &arguments.which;
    let (customer, credential) = (which.customer.as_str(), which.credential.as_str());
    arguments.confirm.ask(&format!("erases {credential} of {customer} for good"), credential, output.format())?;
    let request = service.request(v1::DeleteCredentialRequest {
        customer_id: which.customer.to_string(),
        credential_id: which.credential.to_string(),
        if_revision: arguments.if_revision,
    });
    let answer = service.credentials().delete_credential(request).await;
    answer.map_err(|status| Failure::from_status(&status, which.subject(Again::AfterTheCredential)))?;

    #[derive(Serialize)]
    struct Deleted<'a> {
        deleted: CredentialName<'a>,
    }
    #[derive(Serialize)]
    struct CredentialName<'a> {
        customer_id: &'a str,
        credential_id: &'a str,
    }
    let (customer_id, credential_id) = (which.customer.as_str(), which.credential.as_str());
    match output.format() {
        Format::Json => output.json(&Deleted { deleted: CredentialName { customer_id, credential_id } }),
        Format::Text => output.octets(format!("deleted {credential_id} of {customer_id}\n").as_bytes()),
    }
}

fn show(credential: Option<v1::Credential>, output: &mut Output) -> Result<(), Failure> {
    let credential: Credential = credential.ok_or_else(Failure::unknown_answer)?.into();
    match output.format() {
        Format::Json => output.json(&credential),
        Format::Text => output.fields(&credential.fields()),
    }
}
