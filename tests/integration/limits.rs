//! The limits of the service as those meet them who ask too much, too slowly or too cunningly; and its end, as those meet it who were being
//! served.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Response, Status};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;
use triseal::grpc::v1;

use crate::support::http2::{
    self, CANCEL, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, HEADERS,
    PING, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, frame, speak, stream,
};
use crate::support::{PATIENCE, Service, data, decrypt, dev, encrypt, fresh, opaque, reason, run, terminate, triseal};

async fn with(settings: &[(&str, &str)]) -> (Service, tempfile::TempDir) {
    let (folder, data) = data();
    let mut command = dev(&data);
    command.envs(settings.iter().map(|(key, value)| (format!("TRISEAL__{key}"), value)));
    (Service::start(command).await, folder)
}

/// A call that is under way for as long as its request is not at its end.
struct Held {
    rest: oneshot::Sender<()>,
    answer: JoinHandle<Result<Response<v1::EncryptCredentialResponse>, Status>>,
}

impl Held {
    /// Starts one, and waits until the service has it under way, as one of `number`.
    async fn start(service: &Service, credential: &str, number: usize) -> Self {
        let (rest, wait) = oneshot::channel();
        let mut client = tonic::client::Grpc::new(service.channel());
        let message = encrypt("demo", credential, opaque(*b"held data"));
        let answer = tokio::spawn(async move {
            client.ready().await.expect("it connects");
            let messages = futures_util::stream::once(async {
                wait.await.expect("it is ended");
                message
            });
            let mut request = tonic::Request::new(messages);
            request.set_timeout(Duration::from_secs(10));
            let path = "/triseal.v1.CredentialService/EncryptCredential".parse().expect("a path");
            client.client_streaming(request, path, tonic_prost::ProstCodec::default()).await
        });
        eventually(service, "triseal_requests_in_flight", number as f64).await;
        Self { rest, answer }
    }

    async fn end(self) -> Result<v1::EncryptCredentialResponse, Status> {
        // Refused calls have gone.
        let _ = self.rest.send(());
        Ok(self.answer.await.expect("no panic")?.into_inner())
    }
}

async fn eventually(service: &Service, series: &str, wanted: f64) {
    let reached = async {
        while service.metric(series).await != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{series} does not become {wanted}"));
}

async fn assert_serves(service: &Service) {
    let served = service.credentials().decrypt_credential(decrypt("demo", "missing", v1::View::Full)).await;
    assert_eq!(reason(&served.unwrap_err()), "CREDENTIAL_NOT_FOUND");
}

#[tokio::test]
async fn above_its_limit_the_service_refuses_at_once_and_serves_those_that_it_admitted() {
    let (service, _data) = with(&[("SERVER__MAX_CONCURRENT_REQUESTS", "3")]).await;
    let held = hold(&service, "first").await;
    let mut insistent = service.credentials();
    for _ in 0..5 {
        let refused = insistent.encrypt_credential(encrypt("demo", "refused", opaque(*b"refused data"))).await;
        let status = refused.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "OVERLOADED"));
        let retry = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
        assert!(retry >= Duration::from_millis(1) && retry <= Duration::from_secs(60));
    }
    assert_eq!(service.metric("triseal_requests_shed_total{reason=\"OVERLOADED\"}").await, 5.0);
    assert_served(&service, held).await;
    // However many are refused, and however long their messages are: their connection goes on.
    let held = hold(&service, "second").await;
    // Those of others have ended by now, some perhaps roughly.
    let broken = service.metric("triseal_connections_ended_total{cause=\"broken\"}").await;
    let refused = (0..100).map(|_| {
        let mut client = insistent.clone();
        async move { client.encrypt_credential(encrypt("demo", "refused", opaque(vec![7; 50_000]))).await.unwrap_err() }
    });
    for status in futures_util::future::join_all(refused).await {
        assert_eq!(reason(&status), "OVERLOADED", "{status}");
    }
    assert_eq!(service.metric("triseal_connections_ended_total{cause=\"broken\"}").await, broken);
    // Who only asks how it is learns that it is well.
    let health = HealthClient::new(service.channel()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    assert_eq!(service.ops("/readyz").await.0, 200);
    assert_served(&service, held).await;
    assert_serves(&service).await;
}

/// As many calls as are admitted.
async fn hold(service: &Service, credential: &str) -> Vec<Held> {
    let mut held = Vec::new();
    for number in 1..=3 {
        held.push(Held::start(service, &format!("{credential}{number}"), number).await);
    }
    held
}

async fn assert_served(service: &Service, held: Vec<Held>) {
    for held in held {
        assert_eq!(held.end().await.unwrap().credential.unwrap().revision, 1);
    }
    eventually(service, "triseal_requests_in_flight", 0.0).await;
}

#[tokio::test]
async fn sigterm_lets_calls_under_way_finish_and_no_new_one_begin() {
    let (mut service, _data) = with(&[("SERVER__DRAIN", "60s")]).await;
    let mut health = HealthClient::new(service.channel());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let held = Held::start(&service, "held", 1).await;
    service.signal().await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing, "told before the end");
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable, "a watch holds nothing up");
    let (status, report) = service.ops("/readyz").await;
    assert!(status == 503 && report.contains("\"draining\"") && report.contains("\"ready\":false"), "{report}");
    assert_eq!(service.ops("/livez").await.0, 200);
    let refused = async { while TcpStream::connect(service.address()).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("the port closes");
    assert!(service.is_running());
    assert_eq!(held.end().await.unwrap().credential.unwrap().revision, 1);
    assert_eq!(service.ended().await.code(), Some(0));
    assert!(!service.stderr().contains("WARN"), "{}", service.stderr());
}

/// What it asks for its environment keys never answers: long before it serves.
#[tokio::test]
async fn sigterm_at_the_start_ends_it_cleanly_and_leaves_nothing_half_made() {
    let (_folder, data) = data();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = dev(&data);
    command.envs([("TRISEAL__FACTORS__ENVIRONMENT", "secrets-manager"), ("AWS_REGION", "eu-central-1")]);
    let secret = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:triseal-AbCdEf";
    command.env("TRISEAL__FACTORS__SECRETS_MANAGER__SECRET_ID", secret);
    command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
    command.env("AWS_ENDPOINT_URL", format!("http://{}", silent.local_addr().unwrap()));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let _asked = timeout(PATIENCE, silent.accept()).await.expect("it asks").unwrap();
    terminate(child.id().expect("it runs")).await;
    let ended = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("\"stopped before it served\""), "{said}");
    assert!(!data.join("store.redb").exists(), "it came further");

    let service = Service::dev(&data).await;
    assert_serves(&service).await;
    assert!(service.terminate().await.success());
    let [store, log] = ["store.redb", "audit.jsonl"].map(|name| data.join(name).to_str().unwrap().to_owned());
    let verified = run(triseal(&["audit", "verify", "--checkpoints", &store, &log])).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let (service, _data) = with(&[("SERVER__DRAIN", "100ms")]).await;
    let held = Held::start(&service, "held", 1).await;
    let mut service = service;
    service.signal().await;
    assert_eq!(service.ended().await.code(), Some(0));
    assert!(service.stderr().contains("still under way after the drain"), "{}", service.stderr());
    assert!(held.end().await.is_err());
}

#[tokio::test]
async fn connections_end_at_their_age_and_no_call_fails() {
    let (service, _data) = with(&[("SERVER__MAX_CONNECTION_AGE", "500ms")]).await;
    let aged = "triseal_connections_ended_total{cause=\"age\"}";
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(*b"kept data"))).await.unwrap();
    let ended = AtomicBool::new(false);
    let calling = (0..4).map(|_| async {
        let (mut client, mut calls) = (service.credentials(), 0);
        // Each is served, however long that takes.
        while calls == 0 || !ended.load(Ordering::Relaxed) {
            let mut request = decrypt("demo", "main", v1::View::Full);
            request.set_timeout(Duration::from_secs(10));
            match client.decrypt_credential(request).await {
                Ok(_) => calls += 1,
                Err(status) => assert!(was_never_sent(&status), "{status:?}"),
            }
        }
    });
    let watching = async {
        while service.metric(aged).await < 12.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ended.store(true, Ordering::Relaxed);
    };
    let both = futures_util::future::join(futures_util::future::join_all(calling), watching);
    timeout(2 * PATIENCE, both).await.expect("connections end, and others are served");
    let cancelled = "triseal_requests_total{rpc=\"DecryptCredential\",code=\"CANCELLED\",reason=\"\"}";
    assert_eq!(service.metric(cancelled).await, 0.0, "none was begun and lost");
}

/// Whether the call's connection ended before it was sent. Other clients then send it on the next one by themselves.
fn was_never_sent(status: &Status) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(status);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn those_who_say_nothing_keep_nobody_from_being_served() {
    let (service, _data) = fresh().await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(service.address()).await.unwrap());
    }
    eventually(&service, "triseal_connections", 100.0).await;
    assert_serves(&service).await;
    drop(silent);
    eventually(&service, "triseal_connections_ended_total{cause=\"peer\"}", 101.0).await;
}

#[tokio::test]
async fn without_open_files_to_spare_it_waits_and_goes_on() {
    let (_folder, data) = data();
    let mut command = Command::new("sh");
    let program = dev(&data);
    command.args(["-c", "ulimit -n 40; exec \"$0\" \"$@\""]).arg(program.as_std().get_program());
    command.args(program.as_std().get_args()).env("TRISEAL__SERVER__OPS_LISTEN", "127.0.0.1:0");
    let service = Service::start(command).await;
    let before = processor_time(&service);
    let mut many = Vec::new();
    for _ in 0..100 {
        // The kernel takes them in; the service can't.
        many.push(TcpStream::connect(service.address()).await.unwrap());
    }
    let said = async {
        while !service.stderr().contains("no connection can be accepted") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, said).await.expect("it says so");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let spent = processor_time(&service) - before;
    assert_eq!(service.stderr().matches("no connection can be accepted").count(), 1, "{}", service.stderr());
    drop(many);
    assert_serves(&service).await;
    // Of the 50 ticks of half a second.
    assert!(spent < 25, "{spent} ticks of processor time while nothing could be accepted");
    assert!(service.terminate().await.success());
}

/// User and system time so far, in ticks.
fn processor_time(service: &Service) -> u64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(service.process().to_string()).join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn headers_have_a_limit_and_the_connection_goes_on() {
    let (service, _data) = fresh().await;
    let mut credentials = service.credentials();
    let call = async |credentials: &mut v1::credential_service_client::CredentialServiceClient<_>, octets: usize| {
        let mut request = decrypt("demo", "missing", v1::View::Full);
        request.metadata_mut().insert("x-large", "x".repeat(octets).parse().unwrap());
        credentials.decrypt_credential(request).await.unwrap_err()
    };
    assert_eq!(reason(&call(&mut credentials, 12 << 10).await), "CREDENTIAL_NOT_FOUND");
    assert_eq!(reason(&call(&mut credentials, 20 << 10).await), "");
    assert_eq!(reason(&call(&mut credentials, 12 << 10).await), "CREDENTIAL_NOT_FOUND");
    assert_eq!(service.metric("triseal_connections_ended_total{cause=\"broken\"}").await, 0.0);
}

// --- those who know the protocol, and break it -----------------------------

/// Speaks until the service hangs up: the code of its GOAWAY, if it said why.
async fn attack(address: SocketAddr, octets: impl IntoIterator<Item = Vec<u8>>) -> Option<u32> {
    speak(TcpStream::connect(address).await.unwrap(), octets).hung_up().await
}

/// The headers of a call that may take as long as any.
fn headers() -> Vec<u8> {
    let path = "/triseal.v1.CredentialService/DecryptCredential";
    [http2::headers(path), http2::header("grpc-timeout", "10S")].concat()
}

#[tokio::test]
async fn a_connection_has_so_many_calls_at_a_time_and_one_more_is_refused_alone() {
    let (service, _data) = fresh().await;
    // None of them comes to its end.
    let calls = (0..=256).map(|call| frame(HEADERS, END_HEADERS, stream(call), &headers()));
    let mut spoken = speak(TcpStream::connect(service.address()).await.unwrap(), calls);
    let refused = loop {
        let received = spoken.receive().await.expect("it goes on");
        if received.kind == RST_STREAM {
            break received;
        }
    };
    assert_eq!((refused.stream, refused.payload), (513, REFUSED_STREAM.to_be_bytes().to_vec()));
    // The refusal comes from the connection; the calls before it may still be on their way to where they are counted.
    eventually(&service, "triseal_requests_in_flight", 256.0).await;
    assert_serves(&service).await;
    drop(spoken);
    eventually(&service, "triseal_requests_in_flight", 0.0).await;
}

#[tokio::test]
async fn who_breaks_the_protocol_loses_the_connection_and_no_one_else_does() {
    let (service, _data) = fresh().await;
    let (address, mut bystander) = (service.address(), service.credentials());
    bystander.encrypt_credential(encrypt("demo", "main", opaque(*b"kept data"))).await.unwrap();
    let resets = (0..2_000).flat_map(|call| {
        let stream = stream(call);
        [frame(HEADERS, END_HEADERS, stream, &headers()), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())]
    });
    let endless = (0..2_000).map(|part| match part {
        0 => frame(HEADERS, 0, 1, &headers()),
        _ => frame(CONTINUATION, 0, 1, &[&[0, 1, b'x', 0x7f, 0x80, 0x7e], &[b'x'; 16_255][..]].concat()),
    });
    let flooded = (0..2_000).map(|_| frame(DATA, 0, 1, &[0; 16_384]));
    let unopened = [frame(HEADERS, END_HEADERS, 1, &headers())].into_iter().chain(flooded);
    // Each with the code of RFC 9113, section 7.
    let attacks: [(&str, u32, Vec<Vec<u8>>); 5] = [
        ("calls that are begun and reset", ENHANCE_YOUR_CALM, resets.collect()),
        ("headers without an end", ENHANCE_YOUR_CALM, endless.collect()),
        ("more data than there is room for", FLOW_CONTROL_ERROR, unopened.collect()),
        ("a frame that is too large", FRAME_SIZE_ERROR, vec![frame(PING, 0, 0, &[0; 20_000])]),
        ("data of no call", PROTOCOL_ERROR, vec![frame(DATA, 0, 99, &[0; 100])]),
    ];
    for (name, code, octets) in attacks {
        // Octets that it did not read may take its last words back.
        let told = attack(address, octets).await;
        assert!(told.is_none_or(|told| told == code), "{name}: {told:?}");
        let opened = bystander.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await;
        opened.unwrap_or_else(|status| panic!("{name} hit a bystander: {status}"));
    }
    eventually(&service, "triseal_connections", 1.0).await;
    assert_eq!(service.metric("triseal_connections_ended_total{cause=\"broken\"}").await, 5.0);
}

#[tokio::test]
async fn a_message_that_claims_to_be_endless_is_refused_before_it_comes() {
    let (service, _data) = fresh().await;
    let stream = TcpStream::connect(service.address()).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut send, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for claimed in [u32::MAX, (1 << 20) + 1, (16 << 10) + 1] {
        let body = [&[0][..], &claimed.to_be_bytes(), b"some of it"].concat();
        let request = http::Request::post("http://triseal/triseal.v1.CredentialService/DecryptCredential")
            .header("content-type", "application/grpc")
            .body(http_body_util::Full::<hyper::body::Bytes>::from(body))
            .unwrap();
        let answer = timeout(PATIENCE, send.send_request(request)).await.unwrap().unwrap();
        assert_eq!(answer.headers()["grpc-status"], "3");
        assert_eq!(answer.headers()["triseal-reason"], "BAD_FIELD");
    }
}

#[tokio::test]
async fn http1_is_told_where_it_is() {
    let (service, _data) = fresh().await;
    let mut stream = TcpStream::connect(service.address()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("gRPC over HTTP/2"), "{answer}");
}
