//! From octets to calls. An octet names the method by its place in [`METHODS`], and how its message is written: below 128 as a length
//! (u16) and so many octets, as they are, or by the length 65,535 as the method's own sample; from 128 on as choices of what stands in
//! each field ([`structure`]).
//!
//! [`structure`]: super::structure

use prost::Message;

use super::needles::SENT_SECRET;
use super::service::{JOB, LEASE};
use super::structure;
use crate::grpc::wire::v1;

/// In one input: enough to make, change, read and end something.
const MAX_CALLS: usize = 8;
/// The length of a message that is the method's own sample.
const SAMPLE: u16 = u16::MAX;
/// Added to a method's number where its message is made of choices.
pub(super) const OF_CHOICES: u8 = 128;

/// A method of the protocol.
pub(super) struct Method {
    /// `/triseal.v1.SERVICE/METHOD`
    pub(super) path: &'static str,
    /// Whether it is there to show secrets.
    pub(super) shows_secrets: bool,
    /// A request that a new service answers with `answer`. `service` says what it has.
    pub(super) sample: fn() -> Vec<u8>,
    /// The reason; none for OK.
    pub(super) answer: &'static str,
}

/// Shows no secret.
const fn method(path: &'static str, sample: fn() -> Vec<u8>) -> Method {
    Method { path, shows_secrets: false, sample, answer: "" }
}

const fn showing_method(path: &'static str, sample: fn() -> Vec<u8>) -> Method {
    Method { path, shows_secrets: true, sample, answer: "" }
}

/// Ends a lease, of which a new service has none.
const fn ending_method(path: &'static str, sample: fn() -> Vec<u8>) -> Method {
    Method { path, shows_secrets: false, sample, answer: "LEASE_LOST" }
}

/// All methods of the protocol. The corpora have their numbers: a new one goes to the end, and none is taken away.
#[rustfmt::skip]
pub(super) const METHODS: &[Method] = &[
    method("/triseal.v1.CredentialService/EncryptCredential", || octets(&v1::EncryptCredentialRequest {
        customer_id: acme(), credential_id: "new".into(), secret: Some(secret()), if_revision: Some(0), idempotency_key: "k".into(),
    })),
    showing_method("/triseal.v1.CredentialService/DecryptCredential", || octets(&decrypt("crm"))),
    showing_method("/triseal.v1.CredentialService/BatchDecryptCredentials", || octets(&v1::BatchDecryptCredentialsRequest {
        requests: ["crm", "mail", "nothing"].map(decrypt).into(),
    })),
    method("/triseal.v1.CredentialService/GetCredential", || octets(&v1::GetCredentialRequest { customer_id: acme(), credential_id: crm() })),
    method("/triseal.v1.CredentialService/ListCredentials", || octets(&v1::ListCredentialsRequest { page_size: 1, ..Default::default() })),
    method("/triseal.v1.CredentialService/DeleteCredential", || octets(&v1::DeleteCredentialRequest {
        customer_id: acme(), credential_id: crm(), if_revision: Some(1),
    })),
    method("/triseal.v1.CustomerService/CreateCustomer", || octets(&v1::CreateCustomerRequest { customer_id: "new".into() })),
    method("/triseal.v1.CustomerService/GetCustomer", || octets(&v1::GetCustomerRequest { customer_id: acme() })),
    method("/triseal.v1.CustomerService/ListCustomers", || octets(&v1::ListCustomersRequest { page_size: 1, ..Default::default() })),
    method("/triseal.v1.CustomerService/DisableCustomer", || octets(&v1::DisableCustomerRequest { customer_id: acme() })),
    method("/triseal.v1.CustomerService/EnableCustomer", || octets(&v1::EnableCustomerRequest { customer_id: "globex".into() })),
    method("/triseal.v1.CustomerService/DestroyCustomer", || octets(&v1::DestroyCustomerRequest { customer_id: "globex".into(), days: 7 })),
    method("/triseal.v1.CustomerService/RestoreCustomer", || octets(&v1::RestoreCustomerRequest { customer_id: "initech".into() })),
    showing_method("/triseal.v1.CredentialService/AcquireRefresh", || octets(&v1::AcquireRefreshRequest {
        customer_id: acme(), credential_id: crm(), rejected_revision: Some(1), ..Default::default()
    })),
    ending_method("/triseal.v1.CredentialService/CompleteRefresh", || octets(&v1::CompleteRefreshRequest {
        customer_id: acme(), credential_id: crm(), lease_token: LEASE.into(), salesforce_oauth: Some(oauth()),
    })),
    ending_method("/triseal.v1.CredentialService/AbandonRefresh", || octets(&v1::AbandonRefreshRequest {
        customer_id: acme(), credential_id: crm(), lease_token: LEASE.into(), cause: v1::AbandonCause::InvalidGrant.into(), detail: "x".into(),
    })),
    method("/triseal.v1.CredentialService/MarkNeedsReauth", || octets(&v1::MarkNeedsReauthRequest {
        customer_id: acme(), credential_id: crm(), reason: "x".into(), if_revision: Some(1),
    })),
    method("/triseal.v1.KeyService/RotateCustomerKey", || octets(&v1::RotateCustomerKeyRequest { customer_id: acme() })),
    method("/triseal.v1.KeyService/RetireCustomerKeyVersion", || octets(&v1::RetireCustomerKeyVersionRequest {
        customer_id: "globex".into(), version: 1,
    })),
    method("/triseal.v1.KeyService/StartCustomerKeyRotation", || octets(&v1::StartCustomerKeyRotationRequest { rate: 1, ..Default::default() })),
    method("/triseal.v1.KeyService/StartRewrap", || octets(&v1::StartRewrapRequest { dry_run: true, ..Default::default() })),
    method("/triseal.v1.KeyService/StartReencryption", || octets(&v1::StartReencryptionRequest { customer_id: acme(), ..Default::default() })),
    method("/triseal.v1.KeyService/GetJob", || octets(&v1::GetJobRequest { job_id: JOB.into() })),
    method("/triseal.v1.KeyService/ListJobs", || octets(&v1::ListJobsRequest { page_size: 1, ..Default::default() })),
    method("/triseal.v1.KeyService/CancelJob", || octets(&v1::CancelJobRequest { job_id: JOB.into() })),
    method("/triseal.v1.KeyService/ListReplicas", || octets(&v1::ListReplicasRequest {})),
];

fn octets(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn acme() -> String {
    "acme".to_owned()
}

fn crm() -> String {
    "crm".to_owned()
}

fn decrypt(credential: &str) -> v1::DecryptCredentialRequest {
    let view = v1::View::Full.into();
    v1::DecryptCredentialRequest { customer_id: acme(), credential_id: credential.to_owned(), view, if_revision: None }
}

fn secret() -> v1::Secret {
    v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(oauth())) }
}

fn oauth() -> v1::SalesforceOAuth {
    let mut oauth = v1::SalesforceOAuth::default();
    (oauth.access_token, oauth.refresh_token) = (SENT_SECRET.to_owned(), SENT_SECRET.to_owned());
    "https://acme.my.salesforce.com".clone_into(&mut oauth.instance_url);
    oauth.scopes = vec!["api".to_owned()];
    oauth.issue_time = Some(prost_types::Timestamp { seconds: 1_764_000_000, nanos: 1 });
    oauth
}

/// One call.
pub(super) struct Call {
    pub(super) method: &'static Method,
    /// Perhaps not of the method's type.
    pub(super) message: Vec<u8>,
}

/// The calls that octets say. Beyond the last whole one, nothing is asked.
pub(super) fn calls(octets: &[u8]) -> impl Iterator<Item = Call> {
    let mut input = Input(octets);
    let next = move || {
        let number = input.octet()?;
        let method = METHODS.get(usize::from(number % OF_CHOICES))?;
        let message = match number < OF_CHOICES {
            true => match input.length()? {
                SAMPLE => (method.sample)(),
                length => input.take(length.into()).to_vec(),
            },
            false => structure::message(&mut input, structure::request_of(method.path)?),
        };
        Some(Call { method, message })
    };
    std::iter::from_fn(next).take(MAX_CALLS)
}

/// What is left of the octets.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn octet(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// After its length (u8).
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.octet()?;
        Some(self.take(usize::from(length)))
    }

    fn length(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.octet()?, self.octet()?]))
    }

    /// So many octets, or all that there are.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(length).unwrap_or((self.0, &[]));
        self.0 = rest;
        taken
    }
}
