use std::future::pending;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::telemetry::dependency::{Failure, Name, Operation};

struct Failed(Outcome);

impl Failure for Failed {
    fn outcome(&self) -> Outcome {
        self.0
    }

    fn late() -> Self {
        Self(Outcome::Away)
    }
}

async fn meet(dependency: &Dependency, outcome: Result<(), Failed>) {
    let _ = dependency.watch(Operation::CredentialsGet, async { outcome }).await;
}

fn readiness() -> (Arc<Readiness>, [Arc<Dependency>; 3]) {
    let dependencies =
        [Name::Store, Name::EnvironmentKeys, Name::CustomerKeys].map(|name| Arc::new(Dependency::new(name)));
    (Arc::new(Readiness::new(dependencies.to_vec())), dependencies)
}

#[tokio::test]
async fn ready_is_who_serves_with_all_that_is_required() {
    let (readiness, [store, environment, customer]) = readiness();
    assert!(!readiness.is_ready());
    readiness.enter(Phase::Serving);
    assert!(!readiness.is_ready(), "nobody has heard of the store");
    meet(&store, Ok(())).await;
    assert!(readiness.is_ready());

    for optional in [&environment, &customer] {
        meet(optional, Err(Failed(Outcome::Away))).await;
        assert!(readiness.is_ready(), "much goes on without it");
        let report = readiness.report();
        assert_eq!(report["dependencies"][optional.name().as_str()]["state"], "away");
    }
    for bad in [Outcome::Away, Outcome::Refused, Outcome::Absent] {
        meet(&store, Err(Failed(bad))).await;
        meet(&store, Err(Failed(bad))).await;
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report()["dependencies"]["store"]["state"], bad.as_str());
        for answer in [Outcome::Corrupt, Outcome::Throttled] {
            meet(&store, Err(Failed(answer))).await;
            assert!(readiness.is_ready(), "a damaged row or a busy partition is no matter of readiness");
            assert_eq!(readiness.report()["dependencies"]["store"]["state"], "up");
        }
    }
    meet(&store, Err(Failed(Outcome::Refused))).await;
    assert!(readiness.is_ready(), "nor is one row that is refused");
    readiness.enter(Phase::Draining);
    assert!(!readiness.is_ready());
}

#[tokio::test]
async fn a_clock_that_must_agree_and_does_not_is_not_ready() {
    let (readiness, [store, ..]) = readiness();
    meet(&store, Ok(())).await;
    readiness.enter(Phase::Serving);
    assert!(readiness.is_ready() && readiness.report()["clock"].is_null());
    let clock = Arc::new(StoreClock::default());
    readiness.require_clock(Arc::clone(&clock));
    assert!(readiness.is_ready() && readiness.report()["clock"]["agrees"] == true);
    clock.set(-2_001);
    assert!(!readiness.is_ready());
    assert_eq!(readiness.report()["clock"], json!({ "agrees": false, "ahead_ms": -2_001 }));
}

#[tokio::test]
async fn the_report_names_each_dependency_with_its_state_and_since_when() {
    let (readiness, [store, ..]) = readiness();
    meet(&store, Ok(())).await;
    readiness.enter(Phase::Serving);
    let report = readiness.report();
    assert_eq!((&report["ready"], &report["phase"]), (&json!(true), &json!("serving")));
    for (name, state, required) in
        [("store", "up", true), ("environment_keys", "unknown", false), ("customer_keys", "unknown", false)]
    {
        let dependency = &report["dependencies"][name];
        assert_eq!((&dependency["state"], &dependency["required"]), (&json!(state), &json!(required)), "{name}");
        let since: Timestamp = dependency["since"].as_str().unwrap().parse().unwrap();
        assert!(since <= Timestamp::now());
    }
    assert_eq!(report["dependencies"]["store"]["since"], json!(store.standing().since.to_string()));
}

/// A listener, and what it is asked.
async fn served() -> (std::net::SocketAddr, Arc<Readiness>, Arc<Dependency>) {
    let (readiness, [store, ..]) = readiness();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::clone(&readiness), Exposition::empty()));
    (address, readiness, store)
}

/// The answer to what is sent.
async fn ask(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A refusal may reset what was not read.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn three_paths_are_served_to_get_and_head_and_nothing_else_is() {
    let (address, readiness, store) = served().await;
    let status = async |request: &str| {
        let answer = ask(address, &format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(status("GET /livez").await, "200");
    assert_eq!(status("GET /readyz").await, "503");
    meet(&store, Ok(())).await;
    readiness.enter(Phase::Serving);
    for (request, wanted) in [
        ("GET /readyz", "200"),
        ("HEAD /readyz", "200"),
        ("GET /metrics?name=x", "200"),
        ("POST /readyz", "405"),
        ("DELETE /metrics", "405"),
        ("GET /", "404"),
        ("GET /livez/", "404"),
        ("GET /readyz/../metrics", "404"),
        ("POST /", "404"),
    ] {
        assert_eq!(status(request).await, wanted, "{request}");
    }
    let head = ask(address, "HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head.contains("content-length: 3") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_too_many_connections_are_closed() {
    let (address, ..) = served().await;
    let large = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(MAX_REQUEST_OCTETS));
    assert!(!ask(address, &large).await.contains(" 200 "));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(MAX_HEADERS + 1));
    assert!(!ask(address, &many).await.contains(" 200 "));

    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(ask(address, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await, "");
    drop(silent);
    while !ask(address, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.contains(" 200 ") {}
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_the_probe_is_found_away_and_back() {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use crate::observed::Observed;
    use crate::store::{OperationRow, Replaced, Rows, StoreError, WriteId};

    struct Silent(Arc<AtomicBool>);

    #[async_trait]
    impl Rows for Silent {
        type Id = OperationId;
        type Row = OperationRow;
        type Write = OperationRow;

        async fn get(&self, _: &OperationId) -> Result<Option<OperationRow>, StoreError> {
            if self.0.load(Ordering::Relaxed) { pending().await } else { Ok(None) }
        }

        async fn replace(&self, _: Option<WriteId>, _: OperationRow) -> Result<Replaced<OperationRow>, StoreError> {
            Err(StoreError::Refused("nobody writes here".to_owned()))
        }
    }

    #[async_trait]
    impl Operations for Silent {
        async fn query(
            &self,
            _: &'static str,
            _: Option<&str>,
            _: usize,
        ) -> Result<crate::store::Page<OperationRow, String>, StoreError> {
            Err(StoreError::Refused("nobody lists here".to_owned()))
        }

        async fn remove(&self, _: &OperationId, _: WriteId) -> Result<Replaced<OperationRow>, StoreError> {
            unreachable!("nothing is removed")
        }
    }

    let (readiness, [store, ..]) = readiness();
    readiness.enter(Phase::Serving);
    let silent = Arc::new(AtomicBool::new(false));
    let operations: Arc<dyn Operations> = Arc::new(Observed::new(Silent(Arc::clone(&silent)), &store));
    tokio::spawn(probe(operations));
    for away in [false, true, false] {
        silent.store(away, Ordering::Relaxed);
        sleep(2 * PROBE).await;
        assert_eq!(readiness.is_ready(), !away);
    }
}
