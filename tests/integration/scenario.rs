//! One scenario: every RPC, answered and refused, and every failure there is, at TRACE, with metrics and the audit log, over mTLS and
//! through the command line. Everything that came out is searched for each secret and each key that went in, in every encoding.
//!
//! Whoever adds an RPC or a reason adds it here: the end compares what was seen with what there is.

mod calls;
mod came_out;
mod command_line;
mod failures;
mod keys;
mod refreshing;
mod tampering;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use prost::Message;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tonic::Request;
use tonic::transport::Channel;
use triseal::grpc::REASONS;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;

use self::came_out::CameOut;
use crate::encodings::Searched;
use crate::support::Service;
use crate::support::certificates::Pair;
use crate::support::tls::{CALLER, Secured};

/// Reasons that only AWS leads to: `aws::away` shows them.
const ELSEWHERE: [&str; 2] = ["KMS_THROTTLED", "KMS_UNAVAILABLE"];

// What goes in. Each is found in no other.
const ACCESS: &str = "00D!planted-access-token";
const REFRESH: &str = "5Aep.planted-refresh-token";
const NEW: &str = "00D!planted-token-that-a-refresh-brought";
const PASSWORD: &str = "planted horse battery staple";
const SECURITY: &str = "planted-security-token";
const DATA: &[u8] = b"planted \x00\xff\xfe binary data";
const REFUSED: &str = "planted secret that was refused";
const UNREADABLE: &[u8] = b"planted \xff secret in a message that is none";
const TYPED: &str = "planted secret of the command line";
/// No secret: it comes out, and so shows that the search finds what is there.
const MARK: &str = "marked-request-of-the-scenario";

const OTHER: &str = "spiffe://datasert.com/security";
const TRACE: (&str, &str) = ("TRISEAL__TELEMETRY__LOG", "trace");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_comes_out_contains_a_secret_or_a_key() {
    let mut out = CameOut::default();
    let mut scenario = Scenario::start().await;
    scenario.ordinary_calls(&mut out).await;
    scenario.refreshing(&mut out).await;
    scenario.keys(&mut out).await;
    scenario.command_line(&mut out).await;

    scenario.restart(&[("TRISEAL__SERVER__MAX_CONCURRENT_REQUESTS", "8")], &mut out).await;
    scenario.too_many_calls(&mut out).await;

    scenario.stop(&mut out).await;
    tampering::tamper(&scenario.secured.path("data/store.redb")).await;
    scenario.begin(&[]).await;
    scenario.what_was_tampered_with(&mut out).await;
    scenario.a_retired_version(&mut out).await;

    scenario.without_an_audit_log(&mut out).await;
    scenario.without_room_in_the_store(&mut out).await;

    scenario.files(&mut out);
    everything_was_called(&out);
    nothing_is_found(&scenario, &out);
}

/// Each RPC was answered and was refused, and each reason was given.
fn everything_was_called(out: &CameOut) {
    let files = prost_types::FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap().file;
    let services = files.iter().filter(|file| file.package() == "triseal.v1").flat_map(|file| &file.service);
    let methods: BTreeSet<_> = services.flat_map(|service| &service.method).map(|method| method.name()).collect();
    let seen = |ok: bool| -> BTreeSet<_> {
        out.counted.iter().filter(|(_, code)| (code == "OK") == ok).map(|(rpc, _)| rpc.as_str()).collect()
    };
    assert_eq!(seen(true), methods, "each RPC is answered in this scenario");
    assert_eq!(seen(false), methods, "each RPC is refused in this scenario");

    let known: BTreeSet<_> = REASONS.iter().copied().collect();
    let elsewhere = BTreeSet::from(ELSEWHERE);
    let given: BTreeSet<_> = out.reasons.iter().map(String::as_str).filter(|reason| !reason.is_empty()).collect();
    let missing: Vec<_> = known.difference(&given).filter(|reason| !elsewhere.contains(*reason)).collect();
    assert!(missing.is_empty(), "nothing in this scenario is answered {missing:?}");
    let unknown: Vec<_> = given.difference(&known).collect();
    assert!(unknown.is_empty(), "src/grpc/status.rs does not list {unknown:?}");
    let here: Vec<_> = elsewhere.intersection(&given).collect();
    assert!(here.is_empty(), "{here:?} is given here: take it out of ELSEWHERE");
}

fn nothing_is_found(scenario: &Scenario, out: &CameOut) {
    // The search finds what was put in on purpose, in each thing that is searched.
    let found: BTreeSet<_> = out.find(&Searched::new(MARK.as_bytes())).into_iter().map(|(part, _)| part).collect();
    for part in ["standard error", "standard output", "the audit log", "a status's trailers", "an answer's headers"] {
        assert!(found.contains(part), "the mark is not in {part}, but in {found:?}");
    }
    let mut planted = CameOut::default();
    for (part, secret) in scenario.went_in() {
        planted
            .add_text("metrics", &format!("{{\"message\":{:?}}}", format!("{:?}", secret.escape_ascii().to_string())));
        assert!(!planted.find(&Searched::new(&secret)).is_empty(), "{part} would not be found");
    }
    for part in ["metrics", "readiness", "the command line", "the store"] {
        assert!(out.octets(part) > 100, "{part} is empty");
    }
    let said = out.octets("standard error");
    assert!(said > 1 << 20, "it was not at TRACE: {said} octets");

    for (name, secret) in scenario.went_in() {
        let found = out.find(&Searched::new(&secret));
        assert!(found.is_empty(), "{name} is in {found:?}");
    }
    println!("{} reasons, {} RPCs with their codes, {said} octets of logs", out.reasons.len(), out.counted.len());
}

/// A service with mTLS that is started again and again on the same data.
struct Scenario {
    secured: Secured,
    pair: Pair,
    lease_tokens: Mutex<Vec<String>>,
}

impl Scenario {
    async fn start() -> Self {
        let secured = Secured::with(&[TRACE]).await;
        let pair = secured.authority.client(CALLER);
        Self { secured, pair, lease_tokens: Mutex::default() }
    }

    fn credentials(&self) -> CredentialServiceClient<Channel> {
        self.secured.credentials(self.secured.client(&self.pair))
    }

    fn customers(&self) -> CustomerServiceClient<Channel> {
        self.secured.customers(self.secured.client(&self.pair))
    }

    /// Ends the service, and keeps what it has said.
    async fn stop(&mut self, out: &mut CameOut) {
        out.numbers(&self.secured.service).await;
        self.secured.service.signal().await;
        self.secured.service.ended().await;
        out.add_text("standard error", &self.secured.service.said_in_all().await);
    }

    async fn begin(&mut self, settings: &[(&str, &str)]) {
        let command = self.secured.command(&[settings, &[TRACE]].concat());
        self.secured.now_served_by(Service::start(command).await);
    }

    async fn restart(&mut self, settings: &[(&str, &str)], out: &mut CameOut) {
        self.stop(out).await;
        self.begin(settings).await;
    }

    /// Every secret and every key.
    fn went_in(&self) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<(String, Vec<u8>)> = [
            ("an access token", ACCESS.as_bytes()),
            ("a refresh token", REFRESH.as_bytes()),
            ("a new access token", NEW.as_bytes()),
            ("a password", PASSWORD.as_bytes()),
            ("a security token", SECURITY.as_bytes()),
            ("octets", DATA),
            ("a refused secret", REFUSED.as_bytes()),
            ("an unreadable secret", UNREADABLE),
            ("what the command line was given", TYPED.as_bytes()),
        ]
        .map(|(name, secret)| (name.to_owned(), secret.to_vec()))
        .into();
        for token in self.lease_tokens.lock().unwrap().iter() {
            // As it is sent, and as the octets that it stands for.
            all.push(("a lease token".to_owned(), token.as_bytes().to_vec()));
            all.push(("a lease token's octets".to_owned(), Base64UrlUnpadded::decode_vec(token).unwrap()));
        }
        let environment = fs::read_to_string(self.secured.path("data/environment.json")).unwrap();
        let codebase = include_str!("../../src/factors/codebase_development.json");
        for (name, document) in [("an environment key", environment.as_str()), ("a codebase key", codebase)] {
            let document: serde_json::Value = serde_json::from_str(document).unwrap();
            for key in document["keys"].as_array().unwrap() {
                all.push((name.to_owned(), Base64::decode_vec(key["key"].as_str().unwrap()).unwrap()));
            }
        }
        let local = fs::read_to_string(self.secured.path("data/insecure-local-kms.key")).unwrap();
        all.push(("the local wrapping key".to_owned(), Base64::decode_vec(local.trim()).unwrap()));
        let server = fs::read_to_string(self.secured.path("server.key")).unwrap();
        for (name, key) in [("the service's TLS key", &server), ("a caller's TLS key", &self.pair.key)] {
            // Of PKCS #8 the private part, which is in no certificate.
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            all.push((name.to_owned(), key.secret_der()[36..68].to_vec()));
        }
        all
    }

    /// What is on disk at the end.
    fn files(&self, out: &mut CameOut) {
        out.add("the store", fs::read(self.secured.path("data/store.redb")).unwrap());
        for entry in self.secured.path("data").read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            if entry.to_string_lossy().contains("audit.jsonl") {
                out.add("the audit log", fs::read(entry).unwrap());
            }
        }
    }
}

/// With the mark as its id.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-request-id", MARK.parse().unwrap());
    request
}
