//! Who waits for somebody else's refresh: what that costs the store, and how soon all are answered once the new tokens are there. On one
//! replica with the embedded store, and on two that share DynamoDB Local, where the waiters are at the other one.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::Channel;
use triseal::grpc::v1;
use triseal::grpc::v1::acquire_refresh_response::Outcome;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use crate::process::Process;
use crate::service::{CONNECTIONS, Configuration, folder, salesforce};
use crate::table::{Goal, Quantity, Row};

type Client = CredentialServiceClient<Channel>;

const WAITERS: usize = 1_000;
const ROUNDS: usize = 9;
/// For how long the store's readings are counted in each round. A wait lasts 8 s at most.
const COUNTED: Duration = Duration::from_secs(2);
const CONFIGURATION: Configuration = Configuration::Mtls;
/// One that `--dev` makes.
const CUSTOMER: &str = "demo";
const CREDENTIAL: &str = "realtask.salesforce";
/// What a replica has to share with the others.
const KEYS: [&str; 2] = ["environment.json", "insecure-local-kms.key"];

/// One `triseald`, and where it tells its numbers.
struct Replica {
    process: Process,
    ops: SocketAddr,
}

impl Replica {
    fn start(command: Command) -> Self {
        let ops = OnceCell::new();
        let process = Process::start(
            command,
            |child| child.stderr.take(),
            |line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
                ops.set(address("ops_listen")?).ok()?;
                address("listen")
            },
        );
        Self { process, ops: ops.into_inner().expect("it says where") }
    }

    async fn connect(&self, connections: usize) -> Vec<Client> {
        let channels = CONFIGURATION.connect(self.process.address, connections).await;
        channels.into_iter().map(CredentialServiceClient::new).collect()
    }

    /// A series of `/metrics`.
    async fn metric(&self, series: &str) -> f64 {
        let mut connection = TcpStream::connect(self.ops).await.expect("the ops listener is there");
        connection.write_all(b"GET /metrics HTTP/1.0\r\nhost: bench\r\n\r\n").await.expect("it is asked");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("it answers");
        let value = answer.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    async fn readings(&self) -> f64 {
        let series = r#"triseal_dependency_seconds_count{dependency="store",operation="credentials_get",outcome="ok"}"#;
        self.metric(series).await
    }

    async fn await_waiters(&self, wanted: usize) {
        while self.metric("triseal_refresh_waiters").await < wanted as f64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What was seen in all rounds.
struct Seen {
    /// Of the store, by the waiters' replica, a second: the most of a round.
    readings: f64,
    /// From the answer to CompleteRefresh until a waiter was answered, in nanoseconds.
    answered: Histogram<u64>,
    /// Of the waiters' replica, for each answer, in seconds.
    cpu: f64,
}

pub async fn waiters() -> Vec<Row> {
    let data = folder();
    let replica = Replica::start(CONFIGURATION.command(&data.path().join("data")));
    let mut rows = rows("on the same replica", 0.1, &measure(&replica, &replica).await);
    drop(replica);
    match shared_store() {
        None => rows.push(Row {
            what: format!("{WAITERS} waiters on another replica"),
            measured: Quantity::LeftOut("tests/aws/up starts what it needs"),
            limit: None,
            ratio: None,
            goal: Goal::AtMost(Quantity::Seconds(0.5)),
        }),
        Some(settings) => {
            let data = ["first", "second"].map(|name| data.path().join(name));
            let start = |data: &Path| {
                let mut command = CONFIGURATION.command(data);
                command.envs(settings.iter().cloned());
                Replica::start(command)
            };
            let first = start(&data[0]);
            std::fs::create_dir(&data[1]).expect("a folder");
            for name in KEYS {
                std::fs::copy(data[0].join(name), data[1].join(name)).expect("a key");
            }
            let second = start(&data[1]);
            rows.extend(self::rows("on another replica, DynamoDB Local", 0.5, &measure(&first, &second).await));
        }
    }
    rows
}

fn rows(whose: &str, within: f64, seen: &Seen) -> Vec<Row> {
    let row = |what: &str, measured, goal| Row {
        what: format!("{WAITERS} waiters {whose}: {what}"),
        measured,
        limit: None,
        ratio: None,
        goal: Goal::AtMost(goal),
    };
    println!("{WAITERS} waiters {whose}: {} of CPU time an answer", Quantity::Seconds(seen.cpu));
    let within = Quantity::Seconds(within);
    let answered = |nanoseconds: u64| Quantity::Seconds(nanoseconds as f64 / 1e9);
    vec![
        row("readings of the store", Quantity::Rate(seen.readings), Quantity::Rate(10.0)),
        row("p50 after CompleteRefresh", answered(seen.answered.value_at_percentile(50.0)), within),
        row("p99 after CompleteRefresh", answered(seen.answered.value_at_percentile(99.0)), within),
        row("the last after CompleteRefresh", answered(seen.answered.max()), within),
    ]
}

/// A holder at one replica, and all who wait for it at the other.
async fn measure(holders: &Replica, waiters: &Replica) -> Seen {
    let mut holder = holders.connect(1).await.remove(0);
    let clients = waiters.connect(CONNECTIONS).await;
    let mut seen = Seen { readings: 0.0, answered: Histogram::new(3).expect("three digits"), cpu: 0.0 };
    let request = v1::EncryptCredentialRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CREDENTIAL.to_owned(),
        secret: Some(salesforce()),
        ..v1::EncryptCredentialRequest::default()
    };
    let stored = holder.encrypt_credential(request).await.expect("it is stored").into_inner();
    let mut revision = stored.credential.expect("metadata").revision;
    for _ in 0..ROUNDS {
        let lease = match acquire(&mut holder, revision, 0).await {
            Outcome::Lease(lease) => lease,
            Outcome::Fresh(_) => panic!("somebody has refreshed it"),
        };
        let mut waiting = JoinSet::new();
        for number in 0..WAITERS {
            let mut client = clients[number % CONNECTIONS].clone();
            waiting.spawn(async move {
                let outcome = acquire(&mut client, revision, 8).await;
                assert!(matches!(outcome, Outcome::Fresh(_)), "a second lease");
                Instant::now()
            });
            // As many as come within the same milliseconds are admitted; this is about those who wait.
            if number % 100 == 99 {
                waiters.await_waiters(number + 1).await;
            }
        }
        let (before, since) = (waiters.readings().await, Instant::now());
        tokio::time::sleep(COUNTED).await;
        let readings = waiters.readings().await - before;
        seen.readings = seen.readings.max(readings / since.elapsed().as_secs_f64());

        let spent = waiters.process.cpu();
        revision = complete(&mut holder, lease).await;
        let completed = Instant::now();
        while let Some(answered) = waiting.join_next().await {
            let after = answered.expect("no waiter panics").saturating_duration_since(completed);
            seen.answered += after.as_nanos() as u64;
        }
        seen.cpu += (waiters.process.cpu() - spent) / (ROUNDS * WAITERS) as f64;
    }
    seen
}

async fn acquire(client: &mut Client, rejected: u64, wait: i64) -> Outcome {
    let mut request = Request::new(v1::AcquireRefreshRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CREDENTIAL.to_owned(),
        rejected_revision: Some(rejected),
        wait: Some(prost_types::Duration { seconds: wait, nanos: 0 }),
        ..v1::AcquireRefreshRequest::default()
    });
    request.set_timeout(Duration::from_secs(10));
    client.acquire_refresh(request).await.expect("an answer").into_inner().outcome.expect("one is set")
}

async fn complete(client: &mut Client, lease: v1::RefreshLease) -> u64 {
    let Some(v1::secret::Value::SalesforceOauth(brought)) = salesforce().value.take() else { panic!("another kind") };
    let request = v1::CompleteRefreshRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: CREDENTIAL.to_owned(),
        lease_token: lease.lease_token.clone(),
        salesforce_oauth: Some(brought),
    };
    let completed = client.complete_refresh(request).await.expect("it is stored").into_inner();
    completed.credential.expect("metadata").revision
}

/// New tables on the DynamoDB Local that `tests/aws/up` started, as the settings and the SDK call them. `None`: it has not.
fn shared_store() -> Option<Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let env = std::fs::read_to_string(root.join(".tools/aws/env")).ok()?;
    let mut settings: Vec<(String, String)> =
        env.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    settings.push(("TRISEAL__STORE__BACKEND".into(), "dynamodb".into()));
    let run = format!("bench-{:016x}", getrandom::u64().expect("random numbers"));
    let mut toml = "[store]\nbackend = 'dynamodb'\n[store.dynamodb]\n".to_owned();
    for table in ["credentials", "customers", "operations"] {
        toml += &format!("{table}_table = '{run}-{table}'\n");
        settings.push((format!("TRISEAL__STORE__DYNAMODB__{}_TABLE", table.to_uppercase()), format!("{run}-{table}")));
    }
    let folder = folder();
    let file: PathBuf = folder.path().join("tables.toml");
    std::fs::write(&file, toml).expect("settings");
    let mut create = Command::new(env!("CARGO_BIN_EXE_triseal"));
    create.args(["tables", "create", "--config"]).arg(&file).envs(settings.iter().cloned());
    let made = create.output().expect("triseal runs");
    assert!(made.status.success(), "no tables: {}", String::from_utf8_lossy(&made.stderr));
    Some(settings)
}
