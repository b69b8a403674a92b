//! A service over a store in memory and local factors, as each input finds it:
//!
//! | customer | state | credentials |
//! |---|---|---|
//! | `acme` | active | `crm` (a Salesforce token), `mail` (a password), `blob` (opaque), `gone` (deleted) |
//! | `globex` | disabled; version 1 of its key is retired | |
//! | `initech` | pending destruction | |
//!
//! and the job [`JOB`], which counts records and is never worked on.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::Service as _;
use jiff::Timestamp;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use tonic::service::Routes;
use zeroize::Zeroizing;

use super::needles::{CODEBASE, ENVIRONMENT, KEPT_SECRET, Needles, WRAPPING};
use crate::access::Access;
use crate::audit::{AuditLog, Recording};
use crate::crypto::{Environment, LocalWrappingKey};
use crate::factors::document::{KeyDocument, KeyEntry, KeyState};
use crate::factors::local::LocalWrapper;
use crate::factors::{EnvironmentSource, FactorError, KeySet};
use crate::grpc::call::{ConnectionService, Phase};
use crate::grpc::gate::Gate;
use crate::grpc::server::{Load, Services};
use crate::grpc::status::REASON_TRAILER;
use crate::grpc::wire::v1;
use crate::ids::{Caller, CustomerId, Deployment};
use crate::jobs::{JobId, ReplicaId};
use crate::keyring::{CacheLimits, EnvironmentTiming, FirstReading, Keyring, Sources};
use crate::service;
use crate::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use crate::store::{CustomerRow, CustomerWrite, KeyVersionState, Rows, WriteId};

/// In a message, stands for the token of the last lease that was given. It has the form of one.
pub(super) const LEASE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const ACQUIRE: &str = "/triseal.v1.CredentialService/AcquireRefresh";
/// Longer than any input takes.
const FOR_EVER: Duration = Duration::from_hours(1);

/// The job that there is.
pub(super) const JOB: &str = "8235999999999-00000001";

/// One for all inputs: making one takes longer than all else.
static ACCESS: LazyLock<Option<Arc<Access>>> = LazyLock::new(|| Access::development().ok());

/// Runs one input.
pub(super) fn block_on(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    #[expect(clippy::expect_used, reason = "a fuzz target fails by a panic")]
    runtime.expect("a runtime").block_on(run);
}

fn clock() -> Timestamp {
    Timestamp::constant(1_764_000_000, 0)
}

/// One connection to a service of its own.
pub(super) struct Service {
    connection: ConnectionService,
    customers: Arc<EmbeddedCustomers>,
    audit: Recording,
    lease: Mutex<Option<String>>,
    _phase: watch::Sender<Phase>,
}

impl Service {
    pub(super) async fn start() -> Self {
        #[expect(clippy::expect_used, reason = "a fuzz target fails by a panic")]
        let service = Self::build().await.expect("a service in memory");
        service.fill().await;
        service
    }

    async fn build() -> Option<Self> {
        let deployment = Deployment::parse("fuzzing").ok()?;
        let store = Arc::new(EmbeddedStore::in_memory(&deployment).ok()?);
        let credentials = Arc::new(EmbeddedCredentials(Arc::clone(&store)));
        let customers = Arc::new(EmbeddedCustomers(Arc::clone(&store)));
        let operations = Arc::new(EmbeddedOperations(store));
        let wrapper = Arc::new(LocalWrapper::of(LocalWrappingKey::new(Zeroizing::new(WRAPPING))));
        let sources = Sources {
            deployment: deployment.clone(),
            codebase: key_set(CODEBASE)?,
            environment: FirstReading::of(Arc::new(FixedEnvironment)).await.ok()?,
            wrapper: wrapper.clone(),
            customers: customers.clone(),
            operations: operations.clone(),
        };
        let timing = EnvironmentTiming { poll: FOR_EVER, max_age: FOR_EVER };
        let limits =
            CacheLimits { roots: 100, refresh_after: FOR_EVER, max_age: FOR_EVER, customer_staleness: FOR_EVER };
        let keyring = Keyring::start(sources, timing, limits).await.ok()?;
        let (log, audit) = AuditLog::recording(clock);
        let parts = service::Parts {
            replica: ReplicaId::random().ok()?,
            deployment,
            credentials,
            customers: customers.clone(),
            operations,
            wrapper,
            keyring,
            audit: log.clone(),
            store_clock: None,
            restored: false,
            is_busy: Box::new(|| false),
            clock,
        };
        let service::Service { vault, directory, reporter, jobs } = service::Service::new(parts);
        reporter.report().await;
        jobs.start_count_as(&Caller::insecure_plaintext(), JobId::parse(JOB)?).await.ok()?;
        let gate = Gate::new(Arc::clone(ACCESS.as_ref()?), log);
        let services = Services { gate, vault, directory, jobs, load: Load::default() };
        let endpoint = Arc::new(services.endpoint(Routes::default(), 100).ok()?);
        let (phase, watched) = watch::channel(Phase::Open);
        let caller = Some(Caller::insecure_plaintext());
        Some(Self {
            connection: ConnectionService::new(endpoint, caller, Arc::default(), watched),
            customers,
            audit,
            lease: Mutex::default(),
            _phase: phase,
        })
    }

    /// Makes what the table above says.
    async fn fill(&self) {
        for (path, message) in fixture() {
            let answer = self.call(path, message).await;
            assert!(answer.status.code() == tonic::Code::Ok, "{path}: {:?}", answer.status);
        }
        #[expect(clippy::expect_used, reason = "a fuzz target fails by a panic")]
        self.retire_first("globex").await.expect("a customer in memory");
    }

    /// No minute passes here after which that would be permitted.
    async fn retire_first(&self, customer: &str) -> Option<()> {
        let mut row = self.customers.get(&CustomerId::parse(customer).ok()?).await.ok()??;
        let before = row.write_id;
        row.versions.first_mut()?.state = KeyVersionState::Retired;
        let row = CustomerRow { write_id: WriteId::random().ok()?, ..row };
        self.customers.replace(Some(before), CustomerWrite::of(row)).await.ok().map(|_| ())
    }

    /// Sends a message, and takes the whole answer.
    pub(super) async fn call(&self, path: &str, mut message: Vec<u8>) -> Answer {
        self.name_lease(&mut message);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        let framed = [&[0][..], &length, &message].concat();
        let request = http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        #[expect(clippy::expect_used, reason = "a fuzz target fails by a panic")]
        let request = request.body(Full::new(Bytes::from(framed))).expect("a path of the protocol");
        let answer = match self.connection.call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let (mut head, body) = answer.into_parts();
        match body.collect().await {
            Ok(body) => {
                head.headers.extend(body.trailers().cloned().unwrap_or_default());
                let octets = body.to_bytes();
                self.keep_lease(path, &octets);
                Answer::new(&head.headers, octets.to_vec())
            }
            Err(status) => Answer { status, reason: String::new(), octets: Vec::new() },
        }
    }

    /// Puts the last lease's token in the place of [`LEASE`].
    fn name_lease(&self, message: &mut [u8]) {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let at = message.windows(LEASE.len()).position(|octets| octets == LEASE.as_bytes());
        if let (Some(lease), Some(at)) = (lease.as_deref(), at)
            && let Some(place) = message.get_mut(at..at + lease.len())
        {
            place.copy_from_slice(lease.as_bytes());
        }
    }

    fn keep_lease(&self, path: &str, body: &[u8]) {
        let message = body.get(5..).filter(|_| path == ACQUIRE);
        let answer = message.and_then(|message| v1::AcquireRefreshResponse::decode(message).ok());
        if let Some(v1::acquire_refresh_response::Outcome::Lease(lease)) = answer.and_then(|answer| answer.outcome) {
            *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.lease_token);
        }
    }

    pub(super) fn audit_lines(&self) -> String {
        self.audit.lines()
    }
}

/// The answer to a call.
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) reason: String,
    /// All there is: headers, trailers, what the status says when it is decoded, and the message.
    octets: Vec<u8>,
}

impl Answer {
    fn new(headers: &http::HeaderMap, mut octets: Vec<u8>) -> Self {
        let status = Status::from_header_map(headers).unwrap_or_else(|| Status::unknown("an answer without a status"));
        let reason = headers.get(REASON_TRAILER).and_then(|reason| reason.to_str().ok()).unwrap_or_default().to_owned();
        for (name, value) in headers {
            octets.extend_from_slice(name.as_str().as_bytes());
            octets.extend_from_slice(value.as_bytes());
        }
        octets.extend_from_slice(status.message().as_bytes());
        octets.extend_from_slice(status.details());
        Self { status, reason, octets }
    }

    /// What a status would be sent as.
    #[cfg(test)]
    pub(super) fn of(status: &Status) -> Self {
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        Self::new(&headers, Vec::new())
    }

    pub(super) fn has(&self, needles: &Needles) -> bool {
        needles.stand_in(&self.octets)
    }
}

struct FixedEnvironment;

#[async_trait]
impl EnvironmentSource for FixedEnvironment {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        key_set(ENVIRONMENT).ok_or_else(|| FactorError::Away("there is none".to_owned()))
    }
}

fn key_set<F>(key: [u8; 32]) -> Option<KeySet<F>> {
    let (key, state) = (Zeroizing::new(key), KeyState::Enabled);
    let entry = KeyEntry { version: 1, key, state, created_at: None, primary_until: None };
    KeySet::from_document(KeyDocument { primary: 1, keys: vec![entry] })
}

/// The calls that make the table above.
fn fixture() -> Vec<(&'static str, Vec<u8>)> {
    let mut calls = Vec::new();
    for id in ["acme", "globex", "initech"] {
        let request = v1::CreateCustomerRequest { customer_id: id.to_owned() };
        calls.push(("/triseal.v1.CustomerService/CreateCustomer", request.encode_to_vec()));
    }
    for (credential, secret) in secrets() {
        let request = v1::EncryptCredentialRequest {
            customer_id: "acme".to_owned(),
            credential_id: credential.to_owned(),
            secret: Some(v1::Secret { value: Some(secret) }),
            ..Default::default()
        };
        calls.push(("/triseal.v1.CredentialService/EncryptCredential", request.encode_to_vec()));
    }
    let gone = v1::DeleteCredentialRequest {
        customer_id: "acme".to_owned(),
        credential_id: "gone".to_owned(),
        ..Default::default()
    };
    calls.push(("/triseal.v1.CredentialService/DeleteCredential", gone.encode_to_vec()));
    for id in ["globex", "initech"] {
        let request = v1::DisableCustomerRequest { customer_id: id.to_owned() };
        calls.push(("/triseal.v1.CustomerService/DisableCustomer", request.encode_to_vec()));
    }
    let rotated = v1::RotateCustomerKeyRequest { customer_id: "globex".to_owned() };
    calls.push(("/triseal.v1.KeyService/RotateCustomerKey", rotated.encode_to_vec()));
    let destroyed = v1::DestroyCustomerRequest { customer_id: "initech".to_owned(), days: 30 };
    calls.push(("/triseal.v1.CustomerService/DestroyCustomer", destroyed.encode_to_vec()));
    calls
}

fn secrets() -> [(&'static str, v1::secret::Value); 4] {
    let kept = || KEPT_SECRET.to_owned();
    let mut oauth = v1::SalesforceOAuth::default();
    (oauth.access_token, oauth.refresh_token) = (kept(), kept());
    let mut password = v1::Password::default();
    (password.username, password.password, password.security_token) = (kept(), kept(), kept());
    let opaque = || v1::Opaque { data: kept().into_bytes(), content_type: String::new() };
    [
        ("crm", v1::secret::Value::SalesforceOauth(oauth)),
        ("mail", v1::secret::Value::Password(password)),
        ("blob", v1::secret::Value::Opaque(opaque())),
        ("gone", v1::secret::Value::Opaque(opaque())),
    ]
}
