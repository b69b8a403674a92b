//! The service on AWS's parts, beyond what `service.rs` shows of it there: how often it calls them, what it does when one is away or says
//! no, and what `triseald check` says of it.

mod audit;
mod away;
mod calls;
mod check;
mod replicas;
mod rewrap;
mod stack;
mod unseen;
mod wrong;

use std::time::{Duration, Instant};

use tokio::process::Command;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use triseal::grpc::v1;

use crate::support::proxy::Proxy;
use crate::support::site::Aws;
use crate::support::{Service, decrypt, encrypt, opaque, opaque_data, reason};

/// What takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service with a proxy before each of its dependencies.
struct Replica {
    service: Service,
    kms: Proxy,
    secrets: Proxy,
    store: Proxy,
}

impl Replica {
    /// On a site, under some more variables; all proxies pass on.
    async fn start(site: &Aws, variables: &[(&str, &str)]) -> Self {
        let [kms, secrets, store] = proxies(site).await;
        let service = Service::start(command(site, variables, [&kms, &secrets, &store])).await;
        Self { service, kms, secrets, store }
    }

    async fn create(&self, customer: &str) {
        let request = v1::CreateCustomerRequest { customer_id: customer.into() };
        self.service.customers().create_customer(request).await.expect("a customer");
    }

    /// The revision that it made.
    async fn seal(&self, customer: &str, secret: &str) -> Result<u64, Told> {
        self.seal_under(customer, secret, "").await
    }

    async fn seal_under(&self, customer: &str, secret: &str, key: &str) -> Result<u64, Told> {
        let request = v1::EncryptCredentialRequest {
            idempotency_key: key.into(),
            ..encrypt(customer, "main", opaque(secret.as_bytes()))
        };
        let sealed = self.service.credentials().encrypt_credential(request).await.map_err(Told::from)?;
        Ok(sealed.into_inner().credential.expect("metadata").revision)
    }

    async fn open(&self, customer: &str) -> Result<String, Told> {
        let opened = self.service.credentials().decrypt_credential(decrypt(customer, "main", v1::View::Full)).await;
        let secret = opaque_data(opened.map_err(Told::from)?.into_inner().secret);
        Ok(String::from_utf8(secret).expect("UTF-8"))
    }
}

/// Before KMS, Secrets Manager and DynamoDB.
async fn proxies(site: &Aws) -> [Proxy; 3] {
    let [localstack, dynamodb] = site.endpoints();
    [Proxy::before(&localstack).await, Proxy::before(&localstack).await, Proxy::before(&dynamodb).await]
}

fn command(site: &Aws, variables: &[(&str, &str)], proxies: [&Proxy; 3]) -> Command {
    let mut command = site.command();
    through(&mut command, proxies).envs(variables.iter().copied());
    command
}

/// Has a program call AWS by way of these.
fn through<'a>(command: &'a mut Command, proxies: [&Proxy; 3]) -> &'a mut Command {
    let endpoints = ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL_DYNAMODB"];
    command.envs(endpoints.into_iter().zip(proxies.map(Proxy::url)))
}

/// What a caller was told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: Code,
    reason: String,
    may_retry: bool,
}

impl From<Status> for Told {
    fn from(status: Status) -> Self {
        for text in ["arn:", "Exception", "dynamodb", "by the proxy"] {
            assert!(!status.message().contains(text), "{}", status.message());
        }
        let may_retry = status.get_details_retry_info().is_some();
        Self { code: status.code(), reason: reason(&status).to_owned(), may_retry }
    }
}

fn told(code: Code, reason: &str, may_retry: bool) -> Told {
    Told { code, reason: reason.to_owned(), may_retry }
}

/// Asks again until the answer is this one.
async fn until<T: PartialEq + std::fmt::Debug>(wanted: &T, ask: impl AsyncFn() -> T) {
    let begun = Instant::now();
    loop {
        let answer = ask().await;
        if answer == *wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer:?} and never {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
