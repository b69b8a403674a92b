//! The service under test, as it is shipped but for its profile: its configurations, its data, and callers of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use prost::Message;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;

use crate::load::{self, Caller, Until};
use crate::process::Process;
use crate::{tls, unaudited};

/// Calls in flight under load, and the connections that they share.
pub const IN_FLIGHT: usize = 64;
pub const CONNECTIONS: usize = 8;
/// So many changes a row remembers: after them, a credential's row has the size that it keeps.
const REMEMBERED: usize = 8;
const CREDENTIAL: &str = "realtask.salesforce";

/// A way to run the service.
#[derive(Clone, Copy)]
pub enum Configuration {
    /// Neither identity nor an audit log; policy permits everything.
    Unaudited,
    /// As the README tries it: no identity, policy permits everything, an audit log.
    Dev,
    /// As in production: mTLS, the policies of `deploy/policy`, an audit log.
    Mtls,
}

/// How messages come and go.
#[derive(Clone, Copy)]
pub enum Wire {
    Plaintext,
    Mtls,
}

impl Configuration {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unaudited => "no audit log",
            Self::Dev => "--dev",
            Self::Mtls => "mTLS, policy, audit",
        }
    }

    pub fn wire(self) -> Wire {
        match self {
            Self::Unaudited | Self::Dev => Wire::Plaintext,
            Self::Mtls => Wire::Mtls,
        }
    }

    /// Starts the service on data that it may find or not, and waits until it serves.
    pub fn start(self, data: &Path) -> Process {
        if matches!(self, Self::Unaudited) {
            return unaudited::start(data);
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_triseald"));
        command.args(["--dev", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--data"]).arg(data);
        if matches!(self, Self::Mtls) {
            let certificates = tls::directory();
            let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/policy");
            command
                .env("TRISEAL__INSECURE__PLAINTEXT", "false")
                .env("TRISEAL__TLS__CERTIFICATE", certificates.join("server.pem"))
                .env("TRISEAL__TLS__PRIVATE_KEY", certificates.join("server.key"))
                .env("TRISEAL__TLS__CLIENT_CA", certificates.join("ca.pem"))
                .env("TRISEAL__TLS__TRUST_DOMAIN", "datasert.com")
                .env("TRISEAL__POLICY__DIRECTORY", policy);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Process::start(command, |child| child.stderr.take(), serving)
    }

    /// Connections of their own.
    pub async fn connect(self, address: SocketAddr, connections: usize) -> Vec<Channel> {
        self.wire().connect(address, connections).await
    }
}

impl Wire {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Mtls => "mtls",
        }
    }

    /// As the table names its limit.
    pub fn echo(self) -> &'static str {
        match self {
            Self::Plaintext => "bare echo",
            Self::Mtls => "bare echo over mTLS",
        }
    }

    pub fn named(name: &str) -> Self {
        if name == Self::Mtls.name() { Self::Mtls } else { Self::Plaintext }
    }

    pub async fn connect(self, address: SocketAddr, connections: usize) -> Vec<Channel> {
        let mut channels = Vec::new();
        for _ in 0..connections {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
            let connected = match self {
                Self::Plaintext => endpoint.connect().await,
                Self::Mtls => endpoint.connect_with_connector(tls::Connector::new(address)).await,
            };
            channels.push(connected.expect("the server is there"));
        }
        channels
    }
}

/// The address in the log line that says that the service serves.
fn serving(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line.get("message")? == "serving").then(|| line.get("listen")?.as_str()?.parse().ok())?
}

/// A folder beside what was built, so on a disk and not in memory.
pub fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Customers with one Salesforce credential each, of the size that its row keeps.
pub struct Data {
    folder: TempDir,
    pub customers: usize,
}

impl Data {
    /// Signs so many customers up. `changes`: how often each stores its credential.
    pub async fn prepare(customers: usize, changes: Changes) -> Self {
        let data = Self { folder: folder(), customers };
        let configuration = Configuration::Dev;
        let service = configuration.start(&data.path());
        let channels = configuration.connect(service.address, CONNECTIONS).await;
        let shares = data.shares(IN_FLIGHT);
        let signing_up = shares.iter().enumerate().map(|(number, share)| SignUp {
            client: CustomerServiceClient::new(channels[number % CONNECTIONS].clone()),
            share: share.clone(),
            next: 0,
        });
        load::run(signing_up.collect(), Until::Calls(customers.div_ceil(IN_FLIGHT))).await;
        let changes = match changes {
            Changes::One => 1,
            Changes::AsManyAsAreRemembered => REMEMBERED,
        };
        let encrypting = data.callers(&channels, IN_FLIGHT, EncryptCaller::new);
        load::run(encrypting, Until::Calls(changes * customers.div_ceil(IN_FLIGHT))).await;
        assert!(service.stop().success(), "the service stops");
        data
    }

    /// Where the service keeps it.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn store(&self) -> PathBuf {
        self.path().join("store.redb")
    }

    /// Callers on these connections; each has customers of its own, so that no two change a row at the same time.
    pub fn callers<C>(&self, channels: &[Channel], callers: usize, new: impl Fn(Channel, Vec<String>) -> C) -> Vec<C> {
        let shares = self.shares(callers).into_iter().enumerate();
        shares.map(|(number, share)| new(channels[number % channels.len()].clone(), share)).collect()
    }

    fn shares(&self, shares: usize) -> Vec<Vec<String>> {
        let share = |first: usize| (first..self.customers).step_by(shares).map(customer).collect();
        (0..shares).map(share).collect()
    }
}

#[derive(Clone, Copy)]
pub enum Changes {
    One,
    AsManyAsAreRemembered,
}

/// An id as products have it.
fn customer(number: usize) -> String {
    format!("0f3b6c1e-5d2a-4c7b-9e41-{number:012x}")
}

/// Sizes of encoded messages: what the echo gets and gives.
pub struct Sizes {
    pub request: usize,
    pub reply: usize,
}

/// A caller's customers, one after another.
struct Turns {
    customers: Vec<String>,
    next: usize,
}

impl Turns {
    fn next(&mut self) -> String {
        self.next += 1;
        self.customers[self.next % self.customers.len()].clone()
    }
}

struct SignUp {
    client: CustomerServiceClient<Channel>,
    share: Vec<String>,
    next: usize,
}

impl Caller for SignUp {
    async fn call(&mut self) {
        // Shares differ by one.
        let customer_id = self.share[self.next % self.share.len()].clone();
        self.next += 1;
        self.client.create_customer(v1::CreateCustomerRequest { customer_id }).await.expect("a new customer");
    }
}

/// Opens its customers' credentials in the access view.
pub struct DecryptCaller {
    client: CredentialServiceClient<Channel>,
    turns: Turns,
}

impl DecryptCaller {
    pub fn new(channel: Channel, customers: Vec<String>) -> Self {
        Self { client: CredentialServiceClient::new(channel), turns: Turns { customers, next: 0 } }
    }

    fn request(&mut self) -> v1::DecryptCredentialRequest {
        v1::DecryptCredentialRequest {
            customer_id: self.turns.next(),
            credential_id: CREDENTIAL.to_owned(),
            view: v1::View::Access.into(),
            if_revision: None,
        }
    }

    /// What it asks and is answered.
    pub async fn sizes(&mut self) -> Sizes {
        let request = self.request();
        let sent = request.encoded_len();
        let reply = self.client.decrypt_credential(request).await.expect("it opens").into_inner();
        Sizes { request: sent, reply: reply.encoded_len() }
    }
}

impl Caller for DecryptCaller {
    async fn call(&mut self) {
        let request = self.request();
        let answer = self.client.decrypt_credential(request).await.expect("it opens").into_inner();
        assert!(answer.secret.is_some());
    }
}

/// Opens as many of its customers' credentials in one call.
pub struct BatchCaller {
    decrypt: DecryptCaller,
    items: usize,
}

impl BatchCaller {
    pub fn new(channel: Channel, customers: Vec<String>, items: usize) -> Self {
        Self { decrypt: DecryptCaller::new(channel, customers), items }
    }

    fn request(&mut self) -> v1::BatchDecryptCredentialsRequest {
        v1::BatchDecryptCredentialsRequest { requests: (0..self.items).map(|_| self.decrypt.request()).collect() }
    }

    async fn ask(&mut self, request: v1::BatchDecryptCredentialsRequest) -> v1::BatchDecryptCredentialsResponse {
        let reply = self.decrypt.client.batch_decrypt_credentials(request).await.expect("an answer").into_inner();
        let is_opened = |result: &v1::BatchDecryptCredentialsResult| {
            matches!(result.result, Some(v1::batch_decrypt_credentials_result::Result::Decrypted(_)))
        };
        assert!(reply.results.len() == self.items && reply.results.iter().all(is_opened), "an item was not opened");
        reply
    }

    /// What it asks and is answered.
    pub async fn sizes(&mut self) -> Sizes {
        let request = self.request();
        let sent = request.encoded_len();
        Sizes { request: sent, reply: self.ask(request).await.encoded_len() }
    }
}

impl Caller for BatchCaller {
    async fn call(&mut self) {
        let request = self.request();
        self.ask(request).await;
    }
}

/// Stores its customers' credentials anew.
pub struct EncryptCaller {
    client: CredentialServiceClient<Channel>,
    turns: Turns,
}

impl EncryptCaller {
    pub fn new(channel: Channel, customers: Vec<String>) -> Self {
        Self { client: CredentialServiceClient::new(channel), turns: Turns { customers, next: 0 } }
    }
}

impl Caller for EncryptCaller {
    async fn call(&mut self) {
        let request = v1::EncryptCredentialRequest {
            customer_id: self.turns.next(),
            credential_id: CREDENTIAL.to_owned(),
            secret: Some(salesforce()),
            if_revision: None,
            idempotency_key: String::new(),
        };
        self.client.encrypt_credential(request).await.expect("it is stored");
    }
}

/// As large as Salesforce's.
pub fn salesforce() -> v1::Secret {
    let oauth = v1::SalesforceOAuth {
        access_token: "00D5g000004XyZA!".to_owned() + &"AQoAQP0x".repeat(12),
        refresh_token: "5Aep861".to_owned() + &"Zk3v9QdT".repeat(10),
        instance_url: "https://acme.my.salesforce.com".to_owned(),
        token_url: "https://login.salesforce.com/services/oauth2/token".to_owned(),
        identity_url: "https://login.salesforce.com/id/00D5g000004XyZAEA0/0055g00000ABCDE".to_owned(),
        scopes: vec!["api".to_owned(), "refresh_token".to_owned()],
        issue_time: Some(prost_types::Timestamp { seconds: 1_764_000_000, nanos: 123_000_000 }),
        access_token_expire_time: None,
    };
    v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(oauth)) }
}
