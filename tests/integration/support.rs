//! Starts the real programs, each with a folder of its own, and talks to them.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::Channel;
use tonic::{Request, Status};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;

/// No test waits longer for a program.
const PATIENCE: Duration = Duration::from_secs(30);

/// `triseald`, for one test.
pub(crate) fn triseald(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_triseald"), arguments)
}

fn program(path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    command
}

/// Runs a program to its end.
pub(crate) async fn run(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("the program ends").expect("the program starts")
}

/// A running `triseald`. It is killed when dropped.
pub(crate) struct Service {
    child: Child,
    endpoint: String,
    logged: Arc<Mutex<String>>,
}

impl Service {
    /// `triseald --dev` on a free port, with its files in `data`.
    pub(crate) async fn dev(data: &Path) -> Self {
        Self::start(triseald(&["--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()])).await
    }

    /// Starts a service and waits until it serves.
    pub(crate) async fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let logged = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&logged);
        let (found, listens) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut found = Some(found);
            while let Ok(Some(line)) = lines.next_line().await {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "serving"
                    && let Some(found) = found.take()
                {
                    let _ = found.send(event["listen"].as_str().unwrap_or_default().to_owned());
                }
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let listens = tokio::time::timeout(PATIENCE, listens).await.expect("the service starts in time");
        let listens = listens.unwrap_or_else(|_| panic!("the service ended: {}", logged.lock().unwrap()));
        Self { child, endpoint: format!("http://{listens}"), logged }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        self.logged.lock().unwrap().clone()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.endpoint.clone()).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel().await)
    }

    pub(crate) async fn customers(&self) -> CustomerServiceClient<Channel> {
        CustomerServiceClient::new(self.channel().await)
    }

    /// kill -9.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// kill -TERM, and its exit status.
    pub(crate) async fn terminate(mut self) -> std::process::ExitStatus {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap()
    }

    /// `triseal` against this service, with `input` on its standard input.
    pub(crate) async fn triseal(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = triseal(arguments);
        command.env("TRISEAL_ENDPOINT", &self.endpoint);
        run_with_input(command, input).await
    }
}

/// The command line, for one test.
pub(crate) fn triseal(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_triseal"), arguments)
}

/// Runs a program to its end, with `input` on its standard input.
pub(crate) async fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    // A program that refuses its arguments may be gone before it reads.
    let _ = child.stdin.take().unwrap().write_all(input).await;
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap()
}

/// A folder that is removed at the end, and a path in it that does not exist yet.
pub(crate) fn data() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

/// A service on new data, whose folder lives as long as the tuple.
pub(crate) async fn fresh() -> (Service, TempDir) {
    let (folder, data) = data();
    (Service::dev(&data).await, folder)
}

pub(crate) fn oauth(access: &str, refresh: &str) -> v1::Secret {
    let oauth = v1::SalesforceOAuth {
        access_token: access.to_owned(),
        refresh_token: refresh.to_owned(),
        instance_url: "https://acme.my.salesforce.com".to_owned(),
        token_url: "https://login.salesforce.com/services/oauth2/token".to_owned(),
        identity_url: "https://login.salesforce.com/id/00D5g000004XyZAEA0/0055g00000ABCDE".to_owned(),
        scopes: vec!["api".to_owned(), "refresh_token".to_owned()],
        issue_time: Some(prost_types::Timestamp { seconds: 1_764_000_000, nanos: 123_000_000 }),
        access_token_expire_time: None,
    };
    v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(oauth)) }
}

pub(crate) fn opaque(data: &[u8]) -> v1::Secret {
    let opaque = v1::Opaque { data: data.to_vec(), content_type: "application/octet-stream".to_owned() };
    v1::Secret { value: Some(v1::secret::Value::Opaque(opaque)) }
}

pub(crate) fn password(password: &str) -> v1::Secret {
    let password = v1::Password {
        username: "integration@acme.example".to_owned(),
        password: password.to_owned(),
        security_token: "st0ken".to_owned(),
        login_url: "https://login.salesforce.com".to_owned(),
    };
    v1::Secret { value: Some(v1::secret::Value::Password(password)) }
}

pub(crate) fn encrypt(customer: &str, credential: &str, secret: v1::Secret) -> v1::EncryptCredentialRequest {
    v1::EncryptCredentialRequest {
        customer_id: customer.to_owned(),
        credential_id: credential.to_owned(),
        secret: Some(secret),
        if_revision: None,
        idempotency_key: String::new(),
    }
}

pub(crate) fn decrypt(customer: &str, credential: &str, view: v1::View) -> Request<v1::DecryptCredentialRequest> {
    Request::new(v1::DecryptCredentialRequest {
        customer_id: customer.to_owned(),
        credential_id: credential.to_owned(),
        view: view.into(),
        if_revision: None,
    })
}

/// The reason of an error, as the trailer and as the details have it; they agree, and the domain is ours.
pub(crate) fn reason(status: &Status) -> String {
    use tonic_types::StatusExt;
    let trailer = status.metadata().get("triseal-reason").expect("a reason in the trailer").to_str().unwrap();
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("triseal", trailer));
    trailer.to_owned()
}
