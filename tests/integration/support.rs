//! What the tests share: the real programs, each with files of its own, clients, and seeded random numbers. It knows no test.

pub(crate) mod certificates;
pub(crate) mod http2;
pub(crate) mod key_documents;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod salesforce;
pub(crate) mod site;
pub(crate) mod terminal;
pub(crate) mod tls;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;
use triseal::grpc::v1::{self, secret};
use triseal::grpc::{DOMAIN, REASON_TRAILER};

/// A service that does not say within this time that it serves, or goes on for so long after SIGTERM, hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A `triseald`, which is killed when this is dropped.
pub(crate) struct Service {
    child: Child,
    stderr: Arc<Mutex<String>>,
    /// Both of its addresses. `None` until it serves; closed when it has ended.
    listen: watch::Receiver<Option<(SocketAddr, SocketAddr)>>,
}

impl Service {
    /// Starts a service, and waits for nothing.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::null());
        Self::spawn_with_its_own_output(command)
    }

    fn spawn_with_its_own_output(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("triseald starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (found, listen) = watch::channel(None);
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let log = Arc::clone(&stderr);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(addresses) = serving(&line) {
                    found.send_replace(Some(addresses));
                }
                *log.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, stderr, listen }
    }

    /// Starts a service, and waits until it serves.
    pub(crate) async fn start(mut command: Command) -> Self {
        command.stdout(Stdio::null());
        Self::start_with_its_own_output(command).await
    }

    /// The same, where the command says what its standard output is.
    pub(crate) async fn start_with_its_own_output(command: Command) -> Self {
        let mut service = Self::spawn_with_its_own_output(command);
        assert!(service.ready().await, "it ended before it served:\n{}", service.stderr());
        service
    }

    /// `triseald --dev` on a directory and a port that nobody has.
    pub(crate) async fn dev(data: &Path) -> Self {
        Self::start(dev(data)).await
    }

    /// Waits until it serves, or ends: then false.
    pub(crate) async fn ready(&mut self) -> bool {
        let waited = tokio::time::timeout(PATIENCE, self.listen.wait_for(Option::is_some)).await;
        let served = waited.map(|served| served.is_ok());
        served.unwrap_or_else(|_| panic!("it hangs:\n{}", self.stderr()))
    }

    /// Its URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen.borrow().expect("it serves").0
    }

    /// Status and body of the answer of its ops listener.
    pub(crate) async fn ops(&self, path: &str) -> (u16, String) {
        let address = self.listen.borrow().expect("it serves").1;
        let mut stream = TcpStream::connect(address).await.expect("the ops listener accepts");
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: ops\r\n\r\n").as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers in UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP/1");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    /// What its metrics say of one series, such as `triseal_connections`; 0 if it is not there.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.ops("/metrics").await;
        let mut found = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.next().map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    /// The id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What it has said on standard error.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// A connection of its own.
    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(self.endpoint()).expect("a URL").connect_lazy()
    }

    /// A client for credentials, on a connection of its own.
    pub(crate) fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel())
    }

    /// A client for customers, on a connection of its own.
    pub(crate) fn customers(&self) -> CustomerServiceClient<Channel> {
        CustomerServiceClient::new(self.channel())
    }

    /// A client for keys, on a connection of its own.
    pub(crate) fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel())
    }

    /// SIGKILL. When this returns it is gone.
    pub(crate) async fn kill9(mut self) {
        self.kill().await;
    }

    /// The same, of one that is started again in its place.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// SIGTERM, and how it ended.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal().await;
        self.ended().await
    }

    /// SIGTERM.
    pub(crate) async fn signal(&self) {
        terminate(self.process()).await;
    }

    /// How it ended, once it has.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it did not stop:\n{}", self.stderr())).expect("it can be waited for")
    }

    /// Waits until it ends by itself: how, and what it said on standard error.
    pub(crate) async fn ended_saying(mut self) -> (ExitStatus, String) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("it goes on:\n{}", self.stderr())).expect("it can be waited for");
        (ended, self.said_in_all().await)
    }

    /// What it has said on standard error until its end. What it said last is read when the pipe is closed.
    pub(crate) async fn said_in_all(&mut self) -> String {
        let closed = tokio::time::timeout(PATIENCE, async { while self.listen.changed().await.is_ok() {} }).await;
        assert!(closed.is_ok(), "its standard error stays open");
        self.stderr()
    }

    /// `triseal` against this service, with `input` on its standard input.
    pub(crate) async fn triseal(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = triseal(arguments);
        command.env("TRISEAL_ENDPOINT", self.endpoint());
        run_with_input(command, input).await
    }
}

/// SIGTERM to a process.
pub(crate) async fn terminate(process: u32) {
    // The shell's own: a program of that name need not be there.
    let kill = ["-c", "kill -TERM \"$0\"", &process.to_string()];
    let sent = Command::new("sh").args(kill).status().await.expect("sh runs");
    assert!(sent.success(), "SIGTERM was not sent");
}

/// The service.
pub(crate) fn triseald(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_triseald"), arguments)
}

/// `triseald --dev` on a directory and a port that nobody has.
pub(crate) fn dev(data: &Path) -> Command {
    triseald(&["--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().expect("a path in UTF-8")])
}

/// A service that can make no file larger than so many octets. A write beyond fails, as on a full disk; without the trap, it would kill.
pub(crate) fn limited(service: &Command, octets: u64) -> Command {
    let service = service.as_std();
    let mut command = program("sh", &["-c", "trap '' XFSZ; ulimit -S -f \"$0\"; exec \"$@\""]);
    // In units of 512 octets.
    command.arg((octets / 512).to_string()).arg(service.get_program()).args(service.get_args());
    command.envs(service.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// The command line.
pub(crate) fn triseal(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_triseal"), arguments)
}

/// Any program, without what is set for a service of whoever runs the tests.
pub(crate) fn program(path: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    #[expect(clippy::disallowed_methods, reason = "to take away from it, not to read a setting")]
    let variables = std::env::vars_os().map(|(name, _)| name);
    for ours in variables.filter(|name| name.to_string_lossy().starts_with("TRISEAL_")) {
        command.env_remove(ours);
    }
    command.args(arguments).kill_on_drop(true).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    // A port that nobody has: many services run at once.
    command.env("TRISEAL__SERVER__OPS_LISTEN", "127.0.0.1:0");
    command
}

/// Runs a program to its end.
pub(crate) async fn run(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts")
}

/// Runs a program to its end, with `input` on its standard input.
pub(crate) async fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("it starts");
    // A program that refuses its arguments may be gone before it reads.
    let _ = child.stdin.take().expect("it is piped").write_all(input).await;
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").expect("it can be waited for")
}

/// A folder that is removed at the end, and a path in it that does not exist yet.
pub(crate) fn data() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    (folder, data)
}

/// A service on new data, and the folder that it needs.
pub(crate) async fn fresh() -> (Service, TempDir) {
    let (folder, data) = data();
    (Service::dev(&data).await, folder)
}

/// The addresses in the log line that says that the service serves.
fn serving(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name| line.get(name)?.as_str()?.parse().ok();
    (line.get("message")? == "serving").then(|| address("listen").zip(address("ops_listen")))?
}

/// The reason of an error, as the trailer and as the details have it: they agree. Empty for an error that is not the service's own.
pub(crate) fn reason(status: &Status) -> &str {
    let trailer = status.metadata().get(REASON_TRAILER).and_then(|reason| reason.to_str().ok()).unwrap_or_default();
    let details = status.get_details_error_info().map(|info| (info.domain, info.reason)).unwrap_or_default();
    assert!(trailer.is_empty() || details == (DOMAIN.to_owned(), trailer.to_owned()), "{details:?}");
    trailer
}

/// Whether the call may have happened although it failed: its connection broke, or nobody answered in time.
pub(crate) fn is_ambiguous(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
        || (status.code() == Code::Internal && reason(status).is_empty())
}

/// Whether nobody answered: whatever the service itself says has an id.
pub(crate) fn was_cut_off(status: &Status) -> bool {
    status.metadata().get("x-request-id").is_none()
}

/// An opaque secret.
pub(crate) fn opaque(data: impl Into<Vec<u8>>) -> v1::Secret {
    let opaque = v1::Opaque { data: data.into(), content_type: "text/plain".to_owned() };
    v1::Secret { value: Some(secret::Value::Opaque(opaque)) }
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

/// The octets of an opaque secret.
pub(crate) fn opaque_data(secret: Option<v1::Secret>) -> Vec<u8> {
    match secret.and_then(|secret| secret.value) {
        Some(secret::Value::Opaque(mut opaque)) => std::mem::take(&mut opaque.data),
        _ => panic!("the secret is not opaque"),
    }
}

/// SplitMix64: the same seed, the same numbers.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in `TRISEAL_TEST_SEED` when this was compiled, or another one each time. It is printed.
    pub(crate) fn printed() -> Self {
        let given = option_env!("TRISEAL_TEST_SEED").map(|seed| seed.parse().expect("TRISEAL_TEST_SEED is a number"));
        let seed = given.unwrap_or_else(|| getrandom::u64().expect("random numbers"));
        println!("TRISEAL_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// For its owner alone.
pub(crate) fn write(path: PathBuf, content: &str) {
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("it was never {what}"));
}
