//! `triseal credential import` against a running service: what is stored, what is told, and that it may be stopped anywhere and
//! repeated.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::time::sleep;
use triseal::grpc::v1;

use crate::support::site::{Site, on_both_sites};
use crate::support::{
    Random, Service, data, decrypt, encrypt, fresh, oauth, opaque, password, run, run_with_input, triseal, triseald,
};

on_both_sites! {
    every_kind_goes_in_as_credential_encrypt_takes_it,
    another_secret_that_is_there_stays,
    of_lines_with_the_same_ids_the_first_is_stored,
    customers_are_created_if_that_is_asked_for,
    a_dry_run_writes_nothing_and_tells_what_would_happen,
    an_import_that_is_killed_goes_on_when_it_is_repeated,
}

/// Lines of a large import here; 100,000 were imported by hand (docs/IMPORT.md).
const MANY: usize = 2_000;

async fn import(service: &Service, arguments: &[&str], lines: &str) -> (Option<i32>, Value, String) {
    let all = [&["credential", "import", "-", "--output", "json"], arguments].concat();
    told(&service.triseal(&all, lines.as_bytes()).await)
}

/// The exit code, the report, and what was said on standard error.
fn told(output: &Output) -> (Option<i32>, Value, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {said}"));
    (output.status.code(), report, said)
}

/// Done, already there, differing, failed.
fn counts(report: &Value) -> [u64; 4] {
    ["done", "already_there", "differing", "failed"].map(|name| report[name].as_u64().unwrap())
}

async fn opened(service: &Service, customer: &str, credential: &str) -> (v1::Secret, u64) {
    let request = decrypt(customer, credential, v1::View::Full);
    let answer = service.credentials().decrypt_credential(request).await.unwrap().into_inner();
    (answer.secret.unwrap(), answer.credential.unwrap().revision)
}

async fn stored(service: &Service) -> u64 {
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let request = v1::ListCredentialsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = service.credentials().list_credentials(request).await.unwrap().into_inner();
        count += page.credentials.len() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return count;
        }
    }
}

async fn every_kind_goes_in_as_credential_encrypt_takes_it(site: &Site) {
    let service = site.start().await;
    let lines = r#"
{"customer": "demo", "credential": "answer", "from_salesforce": {"access_token": "a!", "refresh_token": "r", "scope": "api id", "instance_url": "https://acme.my.salesforce.com", "id": "https://test.salesforce.com/id/1/2", "issued_at": "1764000000123", "signature": "x"}}
{"customer": "demo", "credential": "oauth", "salesforce_oauth": {"access_token": "access", "refresh_token": "refresh", "instance_url": "https://acme.my.salesforce.com", "token_url": "https://login.salesforce.com/services/oauth2/token", "identity_url": "https://login.salesforce.com/id/00D5g000004XyZAEA0/0055g00000ABCDE", "scopes": ["api", "refresh_token"], "issue_time": "2025-11-24T16:00:00.123Z"}}

{"customer": "demo", "credential": "password", "password": {"username": "integration@acme.example", "password": "p\u00e4ss", "security_token": "st0ken", "login_url": "https://login.salesforce.com"}, "opaque": null}
{"customer": "demo", "credential": "data", "opaque": {"data": "AP8KDQ==", "content_type": "text/plain"}}
{"customer": "demo", "credential": "text", "opaque": {"text": "sk_live", "content_type": "text/plain"}}"#;
    let (code, report, said) = import(&service, &[], lines).await;
    assert_eq!((code, counts(&report)), (Some(0), [5, 0, 0, 0]), "{report} {said}");
    assert_eq!((&report["lines"], &report["complete"]), (&5.into(), &true.into()));
    for (id, secret) in [
        ("oauth", oauth("access", "refresh")),
        ("password", password("pä\u{73}s")),
        ("data", opaque([0, 255, 10, 13])),
        ("text", opaque(*b"sk_live")),
    ] {
        assert!(opened(&service, "demo", id).await == (secret, 1), "{id} differs");
    }
    let (answer, _) = opened(&service, "demo", "answer").await;
    let Some(v1::secret::Value::SalesforceOauth(answer)) = &answer.value else { panic!("another kind") };
    assert_eq!(answer.token_url, "https://test.salesforce.com/services/oauth2/token");
    assert_eq!(answer.scopes, ["api", "id"]);

    // Again, from a file, as text.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.jsonl");
    std::fs::write(&file, lines).unwrap();
    let output = service.triseal(&["credential", "import", file.to_str().unwrap()], b"").await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "5 lines: 0 done, 5 already there, 0 differing, 0 failed\n");
    assert_eq!(output.status.code(), Some(0));
}

fn line(customer: &str, credential: &str, text: &str) -> String {
    json!({"customer": customer, "credential": credential, "opaque": {"text": text}}).to_string() + "\n"
}

async fn another_secret_that_is_there_stays(site: &Site) {
    let service = site.start().await;
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(b"former"))).await.unwrap();
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(b"present"))).await.unwrap();
    let lines = line("demo", "new", "MARKED new") + &line("demo", "main", "MARKED imported");
    let (code, report, said) = import(&service, &[], &lines).await;
    assert_eq!((code, counts(&report)), (Some(3), [1, 0, 1, 0]));
    let problem = json!({
        "line": 2, "customer_id": "demo", "credential_id": "main", "outcome": "differing", "revision": 2
    });
    assert_eq!(report["problems"], json!([problem]));
    let error: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(error["error"]["code"], "INCOMPLETE");
    assert!(!format!("{report}{said}").contains("MARKED"));
    assert!(opened(&service, "demo", "main").await == (opaque(b"present"), 2));

    // A credential that was deleted is not there.
    let gone =
        v1::DeleteCredentialRequest { customer_id: "demo".into(), credential_id: "main".into(), ..Default::default() };
    service.credentials().delete_credential(gone).await.unwrap();
    let (code, report, _) = import(&service, &[], &lines).await;
    assert_eq!((code, counts(&report)), (Some(0), [1, 1, 0, 0]));
}

async fn of_lines_with_the_same_ids_the_first_is_stored(site: &Site) {
    let service = site.start().await;
    // Side by side, so that all of them would be under way together.
    let lines: String = (0..100)
        .map(|number| {
            let id = format!("c{number}");
            ["first", "second", "first"].map(|text| line("demo", &id, text)).concat()
        })
        .collect();
    let (code, report, _) = import(&service, &["--concurrency", "256"], &lines).await;
    assert_eq!((code, counts(&report)), (Some(3), [100, 100, 100, 0]));
    for number in 0..100 {
        let (secret, revision) = opened(&service, "demo", &format!("c{number}")).await;
        let Some(v1::secret::Value::Opaque(secret)) = &secret.value else { panic!("another kind") };
        assert_eq!((secret.data.as_slice(), revision), (&b"first"[..], 1));
    }
}

#[tokio::test]
async fn a_bad_line_is_told_and_stops_nothing() {
    let (service, folder) = fresh().await;
    let bad = [
        "MARKED\n".to_owned(),
        r#"{"customer": "demo", "credential": "x", "opaque": {"text": "MARKED"}, "MARKED": 1}"#.to_owned() + "\n",
        line("demo/", "x", "MARKED"),
        line("nobody", "x", "MARKED"),
        r#"{"customer": "demo", "credential": "x", "password": {"password": "", "login_url": "ftp://MARKED"}}"#
            .to_owned()
            + "\n",
        line("demo", "x", &"MARKED".repeat(200_000)),
        line("demo", "x", &"MARKED".repeat(6_000)),
    ];
    let lines: String =
        bad.iter().enumerate().map(|(number, bad)| line("demo", &format!("good{number}"), "x") + bad).collect();
    let file = folder.path().join("problems.jsonl");
    let report = ["--report", file.to_str().unwrap()];
    let (code, report, said) = import(&service, &report, &lines).await;
    assert_eq!((code, counts(&report)), (Some(3), [7, 0, 0, 7]), "{report}");
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(!format!("{report}{said}{written}{}", service.stderr()).contains("MARKED"));

    let mut problems: BTreeMap<u64, Value> = BTreeMap::new();
    for text in written.lines() {
        let problem: Value = serde_json::from_str(text).unwrap();
        problems.insert(problem["line"].as_u64().unwrap(), problem);
    }
    assert_eq!(problems.keys().copied().collect::<Vec<_>>(), [2, 4, 6, 8, 10, 12, 14]);
    let of = |number: u64, field: &str| problems[&number][field].as_str().unwrap_or_default().to_owned();
    for (number, message) in [
        (2, "the input is not a JSON object"),
        (4, "the input has a field that is unknown or missing"),
        (6, "customer: must have 1 to 128"),
        (8, "the customer does not exist"),
        (10, "2 fields are wrong"),
        (12, "the line is longer than 1048576 octets"),
        (14, "secret.opaque.data: must have at most 32768 octets"),
    ] {
        assert!(of(number, "message").starts_with(message), "{number}: {}", of(number, "message"));
        assert_eq!(of(number, "outcome"), "failed");
    }
    assert_eq!((of(8, "reason"), of(8, "customer_id")), ("CUSTOMER_NOT_FOUND".to_owned(), "nobody".to_owned()));
    assert!(of(8, "hint").contains("--create-customers"));
    assert_eq!(problems[&10]["details"].as_array().unwrap().len(), 2);
    assert_eq!(stored(&service).await, 7);
}

async fn customers_are_created_if_that_is_asked_for(site: &Site) {
    let service = site.start().await;
    let lines: String = (0..60).map(|number| line(&format!("new{}", number % 3), &format!("c{number}"), "x")).collect();
    let (code, report, _) = import(&service, &[], &lines).await;
    assert_eq!((code, counts(&report)), (Some(3), [0, 0, 0, 60]));
    assert_eq!((report["problems"].as_array().unwrap().len(), &report["problems_left_out"]), (20, &40.into()));
    let (code, report, _) = import(&service, &["--create-customers"], &lines).await;
    assert_eq!((code, counts(&report)), (Some(0), [60, 0, 0, 0]));
}

async fn a_dry_run_writes_nothing_and_tells_what_would_happen(site: &Site) {
    let service = site.start().await;
    let folder = tempfile::tempdir().unwrap();
    service.credentials().encrypt_credential(encrypt("demo", "there", opaque(b"same"))).await.unwrap();
    let there =
        json!({"customer": "demo", "credential": "there", "opaque": {"text": "same", "content_type": "text/plain"}});
    let lines = [
        there.to_string() + "\n",
        line("demo", "there", "other"),
        line("demo", "new", "x"),
        line("nobody", "new", "x"),
        json!({"customer": "demo", "credential": "bad", "password": {"password": "x", "login_url": "x"}}).to_string(),
    ]
    .concat();
    let dry = |report: &Value| {
        ["to_store", "already_there", "differing", "failed"].map(|name| report[name].as_u64().unwrap())
    };
    let (code, report, _) = import(&service, &["--dry-run"], &lines).await;
    assert_eq!((code, dry(&report)), (Some(3), [1, 1, 1, 2]), "{report}");
    assert!(report["done"].is_null() && report["service_asked"] == true);
    let (_, report, _) = import(&service, &["--dry-run", "--create-customers"], &lines).await;
    assert_eq!(dry(&report), [2, 1, 1, 1]);
    assert!(report["problems"][1]["message"].as_str().unwrap().contains("login_url"), "{report}");
    assert_eq!(stored(&service).await, 1);
    let customer = v1::GetCustomerRequest { customer_id: "nobody".to_owned() };
    assert!(service.customers().get_customer(customer).await.is_err());

    // Without a service the lines are checked all the same.
    let file = folder.path().join("tokens.jsonl");
    std::fs::write(&file, &lines).unwrap();
    let mut alone = triseal(&["credential", "import", "--dry-run", "--output", "json", file.to_str().unwrap()]);
    alone.env("TRISEAL_ENDPOINT", "http://127.0.0.1:1");
    let (code, report, _) = told(&run(alone).await);
    assert_eq!((code, dry(&report)), (Some(3), [4, 0, 0, 1]));
    assert_eq!(report["service_asked"], false);
}

#[tokio::test]
async fn what_cant_be_read_or_reached_is_told_before_anything_is_done() {
    let (service, folder) = fresh().await;
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("tokens.jsonl"), line("demo", "x", "x")).unwrap();
    std::fs::write(path("empty.jsonl"), "\n \n").unwrap();
    for (arguments, message) in [
        (vec![path("missing.jsonl")], "cannot open the input file"),
        (vec![path("")], "cannot read the input"),
        (vec![path("empty.jsonl")], "no lines"),
        (vec![path("tokens.jsonl"), "--report".to_owned(), path("tokens.jsonl")], "there already"),
        (vec![path("tokens.jsonl"), "--concurrency".to_owned(), "0".to_owned()], "--concurrency"),
        (vec![], "<FILE>"),
    ] {
        let all: Vec<_> = ["credential", "import"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let output = service.triseal(&all, b"").await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(message) && output.stdout.is_empty(), "{said}");
    }
    assert_eq!(std::fs::read_to_string(path("tokens.jsonl")).unwrap(), line("demo", "x", "x"));

    let mut away = triseal(&["credential", "import", &path("tokens.jsonl"), "--report", &path("problems.jsonl")]);
    away.env("TRISEAL_ENDPOINT", "http://127.0.0.1:1");
    let output = run(away).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nothing listens"));
    assert!(!Path::new(&path("problems.jsonl")).exists(), "the next run may use that name");
}

/// An import whose lines come through a pipe, so that the test decides how far it gets.
struct Piped {
    child: Child,
    lines: Vec<String>,
}

impl Piped {
    fn start(service: &Service, arguments: &[&str], lines: Vec<String>) -> Self {
        let all = [&["credential", "import", "-", "--output", "json"], arguments].concat();
        let mut command = triseal(&all);
        command.env("TRISEAL_ENDPOINT", service.endpoint());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().expect("it starts"), lines }
    }

    /// Hands over the next lines.
    async fn feed(&mut self, count: usize) {
        let lines: String = self.lines.drain(..count).collect();
        self.child.stdin.as_mut().expect("it is piped").write_all(lines.as_bytes()).await.expect("it reads");
    }

    /// Hands over what is left, and waits for the end.
    async fn finish(mut self) -> (Option<i32>, Value, String) {
        self.feed(self.lines.len()).await;
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(120), self.child.wait_with_output()).await;
        told(&ended.expect("it ends").expect("it can be waited for"))
    }
}

fn many() -> Vec<String> {
    (0..MANY).map(|number| line(&format!("customer{}", number % 10), &format!("c{number}"), &text(number))).collect()
}

fn text(number: usize) -> String {
    format!("secret {number}")
}

/// Waits until the service has stored so many.
async fn reached(service: &Service, count: u64) {
    let waiting = async {
        while stored(service).await < count {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("it goes on");
}

/// Every line is there, as it was, once.
async fn assert_all_there(service: &Service) {
    assert_eq!(stored(service).await, MANY as u64);
    let mut credentials = service.credentials();
    for first in (0..MANY).step_by(100) {
        let requests = (first..first + 100).map(|number| {
            decrypt(&format!("customer{}", number % 10), &format!("c{number}"), v1::View::Full).into_inner()
        });
        let request = v1::BatchDecryptCredentialsRequest { requests: requests.collect() };
        let results = credentials.batch_decrypt_credentials(request).await.unwrap().into_inner().results;
        for (number, result) in (first..).zip(results) {
            let Some(v1::batch_decrypt_credentials_result::Result::Decrypted(opened)) = result.result else {
                panic!("{number} does not open")
            };
            assert_eq!(opened.credential.unwrap().revision, 1, "{number} was written over");
            let Some(v1::secret::Value::Opaque(secret)) = opened.secret.unwrap().value else { panic!("another kind") };
            assert_eq!(secret.data, text(number).into_bytes());
        }
    }
}

async fn an_import_that_is_killed_goes_on_when_it_is_repeated(site: &Site) {
    let service = site.start().await;
    let mut former = 0;
    for so_far in [MANY / 4, MANY / 2] {
        let mut piped = Piped::start(&service, &["--create-customers"], many());
        piped.feed(so_far).await;
        reached(&service, so_far as u64 - 100).await;
        piped.child.kill().await.unwrap();
        former = stored(&service).await;
        assert!((1..MANY as u64).contains(&former), "it was not in the middle: {former}");
    }
    let (code, report, said) = Piped::start(&service, &["--create-customers"], many()).finish().await;
    assert_eq!(code, Some(0), "{said}");
    let [done, already_there, ..] = counts(&report);
    // A call that was under way at the kill may have been done since.
    assert!(already_there >= former && done + already_there == MANY as u64, "{report}, and {former} before");
    assert_all_there(&service).await;
}

/// `triseald --dev` on an address that it has again after each start: below the ports that connections are given.
struct Address(String);

impl Address {
    fn free() -> Self {
        let mut random = Random::printed();
        loop {
            let address = format!("127.0.0.1:{}", 10_000 + random.below(20_000));
            if std::net::TcpListener::bind(&address).is_ok() {
                return Self(address);
            }
        }
    }

    async fn serve(&self, data: &Path) -> Service {
        Service::start(triseald(&["--dev", "--listen", &self.0, "--data", data.to_str().unwrap()])).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_killed_and_comes_back_costs_no_line() {
    let (_folder, data): (TempDir, _) = data();
    let address = Address::free();
    let mut service = address.serve(&data).await;
    let mut piped = Piped::start(&service, &["--create-customers", "--retry-for", "5m"], many());
    for round in 1..=3 {
        piped.feed(MANY / 4).await;
        reached(&service, (round * MANY / 4) as u64 - 200).await;
        service.kill9().await;
        service = address.serve(&data).await;
    }
    let (code, report, said) = piped.finish().await;
    assert_eq!((code, counts(&report)), (Some(0), [MANY as u64, 0, 0, 0]), "{report} {said}");
    assert_all_there(&service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stays_away_ends_the_import_and_a_repeat_finishes_it() {
    let (_folder, data) = data();
    let address = Address::free();
    let service = address.serve(&data).await;
    let mut piped = Piped::start(&service, &["--create-customers", "--retry-for", "5s"], many());
    piped.feed(MANY / 2).await;
    reached(&service, MANY as u64 / 4).await;
    service.kill9().await;
    let (code, report, said) = {
        // It may stop reading before it has been given all.
        let rest: String = piped.lines.drain(..).collect();
        let mut stdin = piped.child.stdin.take().unwrap();
        let feeding = tokio::spawn(async move { stdin.write_all(rest.as_bytes()).await });
        let told = piped.finish_without_input().await;
        drop(feeding.await);
        told
    };
    assert_eq!(code, Some(1), "{said}");
    let error: Value = serde_json::from_str(&said).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().starts_with("stopped, since nothing has succeeded for 5s"));
    assert_eq!(report["complete"], false);
    let [done, _, differing, failed] = counts(&report);
    assert!(done > 0 && differing == 0 && (1..200).contains(&failed), "few are given up: {report}");

    let service = address.serve(&data).await;
    let (code, report, said) = Piped::start(&service, &["--create-customers"], many()).finish().await;
    assert_eq!(code, Some(0), "{said}");
    let [again, already_there, ..] = counts(&report);
    assert!(already_there >= done && again + already_there == MANY as u64, "{report}");
    assert_all_there(&service).await;
}

impl Piped {
    async fn finish_without_input(self) -> (Option<i32>, Value, String) {
        let ended = tokio::time::timeout(Duration::from_secs(120), self.child.wait_with_output()).await;
        told(&ended.expect("it ends").expect("it can be waited for"))
    }
}

#[tokio::test]
async fn progress_is_told_in_lines_where_there_is_no_terminal() {
    let (service, _data) = fresh().await;
    let mut command = triseal(&["credential", "import", "-"]);
    command.env("TRISEAL_ENDPOINT", service.endpoint());
    let output = run_with_input(command, line("demo", "x", "x").as_bytes()).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "1 line: 1 done, 0 already there, 0 differing, 0 failed\n");
    assert!(output.stderr.is_empty(), "nothing is told of what ends at once");
}
