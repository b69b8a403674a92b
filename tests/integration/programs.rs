//! What the tests share: a running `triseald` of their own, clients to it, and seeded random numbers. It knows no test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use triseal::grpc::REASON_TRAILER;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::{self, secret};

/// A service that does not say within this time that it serves, or goes on for so long after SIGTERM, hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `triseald`, which is killed when this is dropped.
pub(crate) struct Service {
    child: Child,
    stderr: Arc<Mutex<String>>,
    /// `None` until it serves; closed when it has ended.
    listen: watch::Receiver<Option<SocketAddr>>,
}

impl Service {
    /// Starts `triseald` with these arguments, and waits for nothing.
    pub(crate) fn spawn(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_triseald"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("triseald starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (found, listen) = watch::channel(None);
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let log = Arc::clone(&stderr);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(address) = serving(&line) {
                    found.send_replace(Some(address));
                }
                *log.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self { child, stderr, listen }
    }

    /// Starts `triseald --dev` on a directory and a port that nobody has, and waits until it serves.
    pub(crate) async fn start(data: &Path) -> Self {
        let mut service = Self::spawn_dev(data);
        assert!(service.ready().await, "it ended before it served:\n{}", service.stderr());
        service
    }

    /// As [`Service::start`], without waiting.
    pub(crate) fn spawn_dev(data: &Path) -> Self {
        Self::spawn(&["--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().expect("a path in UTF-8")])
    }

    /// Waits until it serves, or ends: then false.
    pub(crate) async fn ready(&mut self) -> bool {
        let waited = tokio::time::timeout(PATIENCE, self.listen.wait_for(Option::is_some)).await;
        let served = waited.map(|served| served.is_ok());
        served.unwrap_or_else(|_| panic!("it hangs:\n{}", self.stderr()))
    }

    /// Its URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.listen.borrow().expect("it serves"))
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
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

    /// SIGKILL. When this returns it is gone.
    pub(crate) async fn kill9(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// SIGTERM, and how it ended.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        let process = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &process]).status().await.expect("kill runs");
        assert!(sent.success(), "SIGTERM was not sent");
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it did not stop:\n{}", self.stderr())).expect("it can be waited for")
    }
}

/// The address in the log line that says that the service serves.
fn serving(line: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line.get("message")? == "serving").then(|| line.get("listen")?.as_str()?.parse().ok())?
}

/// The reason that a status names.
pub(crate) fn reason(status: &Status) -> &str {
    status.metadata().get(REASON_TRAILER).and_then(|reason| reason.to_str().ok()).unwrap_or_default()
}

/// Whether the call may have happened although it failed: its connection broke, or nobody answered in time.
pub(crate) fn is_ambiguous(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
        || (status.code() == Code::Internal && reason(status).is_empty())
}

/// An opaque secret.
pub(crate) fn opaque(data: impl Into<Vec<u8>>) -> v1::Secret {
    let opaque = v1::Opaque { data: data.into(), content_type: "text/plain".to_owned() };
    v1::Secret { value: Some(secret::Value::Opaque(opaque)) }
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
