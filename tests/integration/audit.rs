//! The audit log as its users meet it: written by a process that is killed, verified and reported by `triseal`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use triseal::audit::entry::Subject;
use triseal::audit::finding::End;
use triseal::audit::heads::{self, Head};
use triseal::audit::verify::Verifier;
use triseal::audit::{AuditLog, Disclosure, Event, Origin, Reason, Timing, sink};
use triseal::config::{Audit, AuditSink};
use triseal::crypto::{Lineage, Version};
use triseal::grpc::v1;
use triseal::ids::{Caller, CredentialId, CredentialRef, CustomerId, Deployment, RequestId};
use triseal::secret::View;
use triseal::store::embedded::{EmbeddedOperations, EmbeddedStore};
use triseal::store::{Operations, Revision};

use crate::support::{Random, Service, data, encrypt, opaque, program, run, run_with_input, triseal};

const CALLER: &str = "spiffe://example.com/realtask";

/// A log in a directory, with its heads in a store beside it.
struct Written {
    log: AuditLog,
    store: Arc<EmbeddedStore>,
}

impl Written {
    async fn start(directory: &Path) -> Self {
        let settings = Audit { sink: AuditSink::File, file: directory.join("audit.jsonl"), ..Audit::default() };
        let deployment = Deployment::parse("test").unwrap();
        let store = Arc::new(EmbeddedStore::open(&directory.join("store.redb"), &deployment).unwrap());
        let operations = Arc::new(EmbeddedOperations(Arc::clone(&store)));
        let timing = Timing { fsync_interval: Duration::from_millis(20), timeout: Duration::from_secs(30) };
        let sink = sink::open(&settings).unwrap();
        let log = AuditLog::start(sink, timing, operations, None, Timestamp::now).await.unwrap();
        Self { log, store }
    }

    async fn read(&self, customer: &str, credential: &str, revision: u64) {
        let disclosure = Disclosure {
            event: Event::DecryptCredential,
            credential: &named(customer, credential),
            view: View::Access,
            revision: Revision::new(revision).unwrap(),
            lineage: Lineage { codebase: Version::FIRST, environment: Version::FIRST, customer: Version::FIRST },
        };
        let _ = self.log.read(&origin(), disclosure).await.unwrap();
    }

    async fn close(self) {
        self.log.close().await;
        drop(self.log);
        // The tasks that kept the head have ended, and nobody else has the store.
        drop(Arc::into_inner(self.store).expect("nobody else has the store"));
    }
}

fn named(customer: &str, credential: &str) -> CredentialRef {
    let (customer, credential) = (CustomerId::parse(customer).unwrap(), CredentialId::parse(credential).unwrap());
    CredentialRef { customer, credential }
}

fn origin() -> Origin {
    Origin { caller: Some(Caller::new(CALLER)), request: Some(RequestId::parse("r-1").unwrap()), trace: None }
}

/// A closed log of two streams, eight entries each.
async fn two_streams() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let written = Written::start(folder.path()).await;
        for revision in 1..=6 {
            written.read("acme", "crm", revision).await;
        }
        written.close().await;
    }
    let (log, store) = (folder.path().join("audit.jsonl"), folder.path().join("store.redb"));
    (folder, log, store)
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let utf8 = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (output.status.code(), utf8(&output.stdout), utf8(&output.stderr))
}

async fn audit(arguments: &[&str], paths: &[&Path]) -> (Option<i32>, String, String) {
    let paths = paths.iter().map(|path| path.to_str().unwrap());
    text(&run(triseal(&["audit"].iter().chain(arguments).copied().chain(paths).collect::<Vec<_>>())).await)
}

#[tokio::test]
async fn a_log_verifies_with_the_heads_of_the_store_and_with_exported_ones() {
    let (folder, log, store) = two_streams().await;
    let (code, out, error) = audit(&["verify", "--checkpoints"], &[&store, &log]).await;
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.contains("16 entries of 2 streams in 1 file: nothing was found\n") && !out.contains("note:"), "{out}");
    assert_eq!(out.lines().filter(|line| line.contains("1-8") && line.contains("closed  8")).count(), 2, "{out}");

    let (code, exported, error) = audit(&["checkpoints"], &[&store]).await;
    assert_eq!((code, exported.lines().count()), (Some(0), 2), "{error}");
    let heads = folder.path().join("heads.jsonl");
    std::fs::write(&heads, &exported).unwrap();
    let (code, out, error) = audit(&["verify", "--output", "json", "--checkpoints"], &[&heads, &log]).await;
    assert_eq!(code, Some(0), "{out}{error}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&json["clean"], &json["entries"], &json["heads"]), (&true.into(), &16.into(), &2.into()));

    // A file that is named twice is read once; standard input is a file.
    let (code, out, _) = audit(&["verify"], &[&log, &log]).await;
    assert!(code == Some(0) && out.contains("note: without --checkpoints"), "{out}");
    let piped = run_with_input(triseal(&["audit", "verify", "-"]), &std::fs::read(&log).unwrap()).await;
    assert_eq!(piped.status.code(), Some(0));
}

#[tokio::test]
async fn tampering_ends_with_exit_code_3_and_names_the_place() {
    let (folder, log, store) = two_streams().await;
    let whole = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    let edits = [
        ("changed", whole.replacen("\"acme\"", "\"evil\"", 1), ":2: "),
        ("missing", [&lines[..3], &lines[4..]].concat().concat(), ":4: "),
        ("repeated", [&lines[..3], &lines[2..]].concat().concat(), ":4: "),
        ("reordered", [&lines[..3], &[lines[4], lines[3]], &lines[5..]].concat().concat(), ":4: "),
        ("cut_off", lines[..14].concat(), "entries 7 to 8"),
        ("stream_missing", lines[..8].concat(), "entries 1 to 8"),
        ("not_an_entry", whole.replacen("{\"stream\"", "{\"Stream\"", 1), ":1: "),
    ];
    let edited = folder.path().join("edited.jsonl");
    for (kind, content, place) in edits {
        assert_ne!(content, whole);
        std::fs::write(&edited, content).unwrap();
        let (code, out, error) = audit(&["verify", "--checkpoints"], &[&store, &edited]).await;
        assert_eq!(code, Some(3), "{kind}: {out}{error}");
        assert!(out.contains(place), "{kind}: {out}");
        assert!(error.contains("is not what the service wrote") && error.contains("hint: "), "{error}");
        let (code, out, _) = audit(&["verify", "--output", "json", "--checkpoints"], &[&store, &edited]).await;
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        let kinds: Vec<_> = json["findings"].as_array().unwrap().iter().map(|one| one["kind"].clone()).collect();
        assert!(code == Some(3) && kinds.contains(&kind.into()), "{kind}: {kinds:?}");
    }
}

#[tokio::test]
async fn what_can_not_be_read_ends_with_exit_code_1_and_says_what_to_do() {
    let (folder, log, store) = two_streams().await;
    let nowhere = folder.path().join("nowhere");
    let (code, _, error) = audit(&["verify"], &[&nowhere]).await;
    assert!(code == Some(1) && error.contains("nowhere can't be read"), "{error}");
    let (code, _, error) = audit(&["verify"], &[folder.path()]).await;
    assert!(code == Some(2) && error.contains("is a directory"), "{error}");
    let (code, _, error) = audit(&["verify", "--checkpoints"], &[&log, &log]).await;
    assert!(code == Some(1) && error.contains("audit.jsonl:1: it is no head") && error.contains("hint: "), "{error}");
    let (code, _, error) = audit(&["checkpoints"], &[&log]).await;
    assert!(code == Some(1) && error.contains("audit.jsonl is damaged or no store file"), "{error}");
    let (code, _, error) = audit(&["report"], &[&log]).await;
    assert!(code == Some(2) && error.contains("--caller"), "{error}");

    let written = Written::start(folder.path()).await;
    let (code, _, error) = audit(&["verify", "--checkpoints"], &[&store, &log]).await;
    assert!(code == Some(1) && error.contains("store.redb is in use"), "{error}");
    written.close().await;
    assert_eq!(audit(&["verify", "--checkpoints"], &[&store, &log]).await.0, Some(0));
}

#[tokio::test]
async fn a_report_tells_what_was_seen_and_whether_it_is_still_stored() {
    let (folder, data) = data();
    let service = Service::dev(&data).await;
    let mut credentials = service.credentials();
    for name in ["main", "main", "other", "gone"] {
        credentials.encrypt_credential(encrypt("demo", name, opaque(b"x"))).await.unwrap();
    }
    let (customer_id, credential_id) = ("demo".to_owned(), "gone".to_owned());
    let delete = v1::DeleteCredentialRequest { customer_id, credential_id, if_revision: None };
    credentials.delete_credential(delete).await.unwrap();

    let written = Written::start(folder.path()).await;
    for (name, revision) in [("main", 1), ("main", 2), ("main", 2), ("gone", 1)] {
        written.read("demo", name, revision).await;
    }
    let other = Subject { revision: Revision::new(1), ..Subject::credential(&named("demo", "other")) };
    let intent = written.log.intent(&origin(), Event::DeleteCredential, other.clone()).await.unwrap();
    drop(intent);
    let _ = written.log.refusal(&origin(), Event::DecryptCredential, other, Reason::NotPermitted).await.unwrap();
    written.close().await;

    let log = folder.path().join("audit.jsonl");
    let log = log.to_str().unwrap();
    let report = ["audit", "report", "--caller", CALLER];
    let json = service.triseal(&[&report[..], &["--living", "--output", "json", log]].concat(), b"").await;
    let (code, out, error) = text(&json);
    assert_eq!(code, Some(0), "{error}");
    let rows: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let field = |row: &serde_json::Value, name: &str| match &row[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            ["credential_id", "event", "revision", "outcome", "seen", "living", "count"].map(|name| field(row, name))
        })
        .map(|fields| fields.join(" "))
        .collect();
    assert_eq!(
        shown,
        [
            "gone decrypt_credential 1 ok yes gone 1",
            "main decrypt_credential 1 ok yes replaced 1",
            "main decrypt_credential 2 ok yes living 2",
            "other decrypt_credential 1 NOT_PERMITTED no  1",
            "other delete_credential 1 unknown no  1",
        ]
    );

    // Without the service nobody knows; as a table and for spreadsheets it is the same.
    let (code, out, _) = text(&run(triseal(&[&report[..], &[log]].concat())).await);
    assert_eq!((code, out.matches("unknown").count()), (Some(0), 4), "{out}");
    assert!(out.starts_with("CALLER") && out.lines().count() == 6, "{out}");
    let (code, out, _) = text(&run(triseal(&[&report[..], &["--csv", log]].concat())).await);
    assert_eq!((code, out.split_terminator("\r\n").count()), (Some(0), 6), "{out}");
    let (_, out, _) = text(&run(triseal(&[&report[..], &["--until", "2000-01-01T00:00:00Z", log]].concat())).await);
    assert_eq!(out.lines().count(), 1, "the heading alone: {out}");

    // A service that does not answer leaves it open, and that is no success.
    let nowhere = [&report[..], &["--living", "--endpoint", "http://127.0.0.1:1", log]].concat();
    let (code, out, error) = text(&run(triseal(&nowhere)).await);
    assert_eq!((code, out.matches("unknown").count()), (Some(3), 4), "{out}");
    assert!(error.contains("2 credentials could not be asked for: nothing listens at the endpoint"), "{error}");

    // A report from a log that was tampered with says so.
    let forged = std::fs::read_to_string(log).unwrap().replacen("\"main\"", "\"other\"", 1);
    std::fs::write(folder.path().join("forged.jsonl"), forged).unwrap();
    let path = folder.path().join("forged.jsonl");
    let (code, _, error) = text(&run(triseal(&[&report[..], &[path.to_str().unwrap()]].concat())).await);
    assert!(code == Some(3) && error.contains("1 finding"), "{error}");
}

/// How a child is told which directory is its own.
const CHILD: &str = "child-in:";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_leave_every_entry_that_was_acknowledged_and_a_log_that_verifies() {
    if let Some(directory) = std::env::args().find_map(|argument| argument.strip_prefix(CHILD).map(PathBuf::from)) {
        return write_until_killed(&directory).await;
    }
    const KILLS: usize = 10;
    let mut random = Random::printed();
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..KILLS {
        let milliseconds = 50 + random.below(400) as u64;
        acknowledged.push(killed_after(Duration::from_millis(milliseconds), folder.path()).await);
    }
    let total: u64 = acknowledged.iter().sum();
    assert!(total > 1_000, "nothing was written: {acknowledged:?}");

    let deployment = Deployment::parse("test").unwrap();
    let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb"), &deployment).unwrap());
    let records = EmbeddedOperations(store).query(heads::KIND, None, 1_000).await.unwrap();
    let heads: Vec<_> = records.rows.iter().map(|row| Head::from_record(row).unwrap()).collect();
    let mut verifier = Verifier::new(Some(heads), false);
    let mut files = 0;
    for entry in folder.path().read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("audit.jsonl") {
            files += 1;
            verifier.read(&path.to_string_lossy(), std::fs::File::open(path.clone()).unwrap()).unwrap();
        }
    }
    let verdict = verifier.finish();
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    assert_eq!(verdict.streams.len(), KILLS);
    // The first entry of a stream is its own.
    for (seen, acknowledged) in verdict.streams.iter().zip(&acknowledged) {
        assert!(seen.entries.1 > *acknowledged, "{acknowledged} were acknowledged, and {} stand there", seen.entries.1);
        assert_ne!(seen.end, End::Closed);
    }
    let torn = verdict.streams.iter().filter(|seen| seen.end == End::Torn).count() as u64 + verdict.torn_lines;
    println!("{KILLS} kills, {total} entries acknowledged, {torn} lines torn, {files} files");
}

/// Starts this test in a process of its own, kills it, and tells how many entries were acknowledged to it.
async fn killed_after(time: Duration, directory: &Path) -> u64 {
    let child = format!("{CHILD}{}", directory.display());
    let mut command = program(std::env::current_exe().unwrap(), &["--exact", KILLED_TEST, &child, "--nocapture"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = child.stderr.take().unwrap();
    // It says one octet for each entry that is acknowledged.
    let mut first = [0];
    said.read_exact(&mut first).await.unwrap();
    tokio::time::sleep(time).await;
    child.kill().await.unwrap();
    let mut rest = Vec::new();
    said.read_to_end(&mut rest).await.unwrap();
    assert!(rest.iter().chain(&first).all(|octet| *octet == b'.'), "{}", String::from_utf8_lossy(&rest));
    1 + rest.len() as u64
}

const KILLED_TEST: &str =
    "audit::processes_that_are_killed_leave_every_entry_that_was_acknowledged_and_a_log_that_verifies";

async fn write_until_killed(directory: &Path) {
    let written = Arc::new(Written::start(directory).await);
    let writers = (0..64).map(|_| {
        let written = Arc::clone(&written);
        tokio::spawn(async move {
            for revision in 1.. {
                written.read("acme", "crm", revision).await;
                eprint!(".");
            }
        })
    });
    futures_util::future::join_all(writers).await;
}
