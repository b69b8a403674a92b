//! `triseal rotate environment` and `codebase`, and `key retire` of both: the real programs on a real secret and on real files, killed between
//! any two steps, run by two operators at once, and under a service that goes on sealing and opening.

mod stopped;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use tokio::time::{Instant, sleep};
use triseal::factors::document::{Form, KeyDocument, KeyState};
use triseal::grpc::v1;

use crate::support::key_documents::{EnvironmentKeys, backdate, parse, text, write_key_file};
use crate::support::site::{Site, on_both_sites};
use crate::support::terminal::on_terminal;
use crate::support::{Service, decrypt, encrypt, opaque, opaque_data, run, triseal};

/// Waiting for reports of replicas and for jobs takes a minute or two.
const PATIENCE: Duration = Duration::from_secs(300);
const QUICK: [(&str, &str); 3] = [
    ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s"),
    ("TRISEAL__FACTORS__FILE__POLL", "200ms"),
    ("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "200ms"),
];

/// Seals and opens all the time, and counts.
struct Traffic {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Traffic {
    fn on(services: &[Service]) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = services.iter().map(Service::credentials).collect();
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&calls));
        let task = tokio::spawn(async move {
            for number in 0_usize.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let id = format!("traffic-{}", number % 7);
                let secret = format!("secret {number}");
                // What one seals, the next one opens.
                let (mut seals, mut opens) =
                    (clients[number % clients.len()].clone(), clients[(number + 1) % clients.len()].clone());
                seals.encrypt_credential(encrypt("demo", &id, opaque(secret.as_bytes()))).await.expect("it seals");
                let opened = opens.decrypt_credential(decrypt("demo", &id, v1::View::Full)).await.expect("it opens");
                assert_eq!(opaque_data(opened.into_inner().secret), secret.as_bytes());
                counted.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, calls, task }
    }

    /// Ends it, when some calls have been made at least.
    async fn ends_well(self) {
        let began = Instant::now();
        while self.calls.load(Ordering::Relaxed) < 20 && !self.task.is_finished() {
            assert!(began.elapsed() < PATIENCE, "it hangs");
            sleep(Duration::from_millis(100)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no call failed");
    }
}

async fn fill(service: &Service, records: usize) {
    let mut client = service.credentials();
    for number in 0..records {
        let request = encrypt("demo", &format!("c{number}"), opaque(b"secret".as_slice()));
        client.encrypt_credential(request).await.unwrap();
    }
}

/// The environment versions of all records.
async fn versions(service: &Service) -> Vec<u32> {
    let request = v1::ListCredentialsRequest { page_size: 1_000, ..v1::ListCredentialsRequest::default() };
    let page = service.credentials().list_credentials(request).await.unwrap().into_inner();
    page.credentials.into_iter().map(|credential| credential.lineage.unwrap().environment_version).collect()
}

async fn start(site: &Site) -> Vec<Service> {
    let mut services = vec![site.start_with(&QUICK).await];
    if let Site::Aws(_) = site {
        services.push(site.start_with(&QUICK).await);
    }
    services
}

on_both_sites!(
    a_rotation_is_completed_while_calls_go_on,
    a_version_is_retired_when_nobody_needs_it,
    of_two_operators_one_is_refused
);

async fn a_rotation_is_completed_while_calls_go_on(site: &Site) {
    let (services, keys) = (start(site).await, EnvironmentKeys::of(site));
    fill(&services[0], 20).await;
    let traffic = Traffic::on(&services);

    // Without a terminal it is not done unasked.
    let (code, _, told) = keys.triseal(&["rotate", "environment"], &services[0]).await;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("add --yes") && keys.document().await.keys.len() == 1, "{told}");

    let arguments = ["rotate", "environment", "--complete", "--settle", "1s", "--yes"];
    let (code, out, told) = keys.triseal(&arguments, &services[0]).await;
    assert_eq!(code, Some(0), "{out}{told}");
    assert!(told.contains("this adds a version, waits 1s, and makes it the primary"), "{told}");
    for said in ["added version 2", "version 2 is the primary", "if this is stopped"] {
        assert!(told.contains(said), "{told}");
    }
    assert!(out.contains("former_primary: 1") && out.contains("state:"), "{out}");
    assert!(out.contains(&format!("triseal key retire environment 1 {}", keys.option.join(" "))), "{out}");
    traffic.ends_well().await;

    let versions = versions(&services[0]).await;
    assert!(versions.len() >= 20 && versions.iter().all(|version| *version == 2), "{versions:?}");
    let document = keys.document().await;
    assert_eq!((document.primary, document.keys.len()), (2, 2));
    // No key was shown, in any form.
    let stored = keys.text().await;
    for key in stored.split("\"key\": \"").skip(1).map(|rest| &rest[..44]) {
        let octets = Base64::decode_vec(key).unwrap();
        for form in [key.to_owned(), hex::encode(octets)] {
            assert!(!out.contains(&form) && !told.contains(&form));
        }
    }
    for service in services {
        assert!(!service.stderr().contains("the last good ones stay"));
        assert!(service.terminate().await.success());
    }
}

/// Typed again after its promotion, the command completes what was begun. Another version would leave the one that has to go in use.
#[tokio::test]
async fn a_rotation_that_was_stopped_after_its_promotion_is_completed_and_not_repeated() {
    let site = Site::embedded();
    let (services, keys) = (start(&site).await, EnvironmentKeys::of(&site));
    fill(&services[0], 5).await;
    let (code, _, told) = keys.triseal(&["rotate", "environment", "--settle", "1s", "--yes"], &services[0]).await;
    assert_eq!(code, Some(0), "{told}");
    let arguments = ["rotate", "environment", "--complete", "--settle", "1s", "--yes"];
    // Stopped while it re-encrypts: the job goes on without it.
    let mut command = keys.command(&arguments);
    command.env("TRISEAL_ENDPOINT", services[0].endpoint()).kill_on_drop(true);
    let mut stopped = command.spawn().unwrap();
    let running = async || {
        let jobs = services[0].keys().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        jobs.iter().any(|job| !job.dry_run)
    };
    let began = Instant::now();
    while !running().await {
        assert!(began.elapsed() < PATIENCE, "it starts no job");
        sleep(Duration::from_millis(100)).await;
    }
    stopped.kill().await.unwrap();

    let (code, out, told) = keys.triseal(&arguments, &services[0]).await;
    assert_eq!(code, Some(0), "{out}{told}");
    assert!(told.contains("completes the rotation that was made before"), "{told}");
    assert!(out.contains("triseal key retire environment 1 "), "{out}");
    assert_eq!((keys.document().await.primary, keys.document().await.keys.len()), (2, 2));
    assert!(versions(&services[0]).await.iter().all(|version| *version == 2));
    // With nothing left over it is another rotation.
    let (code, _, told) = keys.triseal(&arguments, &services[0]).await;
    assert_eq!(code, Some(0), "{told}");
    assert_eq!((keys.document().await.primary, keys.document().await.keys.len()), (3, 3));
}

async fn a_version_is_retired_when_nobody_needs_it(site: &Site) {
    let (services, keys) = (start(site).await, EnvironmentKeys::of(site));
    fill(&services[0], 20).await;
    let retire =
        async |version: &str| keys.triseal(&["key", "retire", "environment", version, "--yes"], &services[0]).await;
    let refused = async |version: &str, wanted: &str| {
        let (code, out, told) = retire(version).await;
        assert_eq!(code, Some(4), "{out}{told}");
        assert!(told.contains(wanted), "{wanted:?} is not in {told}");
        assert!(keys.document().await.keys.iter().all(|entry| entry.state == KeyState::Enabled));
    };
    refused("1", "version 1 is the primary").await;
    refused("7", "there is no version 7").await;
    let (code, _, told) = keys.triseal(&["rotate", "environment", "--settle", "1s", "--yes"], &services[0]).await;
    assert_eq!(code, Some(0), "{told}");
    refused("1", "a replica may still seal under version 1").await;
    keys.backdate().await;
    // Whatever the document says: the replicas have had it only for a moment.
    refused("1", "replica ").await;
    let began = Instant::now();
    loop {
        let (code, out, told) = retire("1").await;
        assert_eq!(code, Some(4), "{out}{told}");
        if told.contains("20 records are sealed under environment version 1") {
            break;
        }
        assert!(told.contains("replica ") && began.elapsed() < PATIENCE, "{told}");
        sleep(Duration::from_secs(3)).await;
    }
    let (code, _, told) = text_of(&services[0], &["reencrypt", "start"]).await;
    assert_eq!(code, Some(0), "{told}");
    let (code, _, told) = text_of(&services[0], &["reencrypt", "watch"]).await;
    assert_eq!(code, Some(0), "{told}");
    let (code, _, told) = keys.triseal(&["key", "retire", "environment", "1"], &services[0]).await;
    assert!(code == Some(2) && told.contains("add --yes"), "{told}");
    let mut command = keys.command(&["key", "retire", "environment", "1"]);
    command.env("TRISEAL_ENDPOINT", services[0].endpoint());
    let typed = async |version| on_terminal(&command, version).await;
    let (code, shown) = typed("2").await;
    assert!(code == Some(1) && shown.contains("type 1 to go on") && shown.contains("nothing was done"), "{shown}");
    assert!(keys.document().await.keys.iter().all(|entry| entry.state == KeyState::Enabled));
    let (code, shown) = typed("1").await;
    assert_eq!(code, Some(0), "{shown}");
    let document = keys.document().await;
    assert_eq!((document.primary, document.keys[0].state, document.keys.len()), (2, KeyState::Retired, 2));
    let (code, out, _) = retire("1").await;
    let words: Vec<_> = out.split_whitespace().collect();
    assert!(code == Some(0) && words.join(" ").contains("change: retired version: 1"), "done once, it is done: {out}");

    // The service takes it, and goes on.
    sleep(Duration::from_secs(1)).await;
    Traffic::on(&services).ends_well().await;

    // For tables from before, it opens again: asked for as retiring is, done once, and no other version's.
    let unretire = ["key", "unretire", "environment", "1"];
    let (code, _, told) = keys.triseal(&unretire, &services[0]).await;
    assert!(code == Some(2) && told.contains("add --yes"), "{told}");
    let (code, shown) = on_terminal(&keys.command(&unretire), "2").await;
    assert!(code == Some(1) && shown.contains("type 1 to go on"), "{shown}");
    let (code, _, told) = keys.triseal(&["key", "unretire", "environment", "7", "--yes"], &services[0]).await;
    assert!(code == Some(4) && told.contains("there is no version 7"), "{told}");
    assert_eq!(keys.document().await.keys[0].state, KeyState::Retired);
    let (code, shown) = on_terminal(&keys.command(&unretire), "1").await;
    assert_eq!(code, Some(0), "{shown}");
    let before = keys.text().await;
    let (code, out, told) = keys.triseal(&unretire, &services[0]).await;
    assert!(code == Some(0) && told.contains("it is not retired") && out.contains("unretired"), "{out}{told}");
    let document = keys.document().await;
    assert_eq!((document.primary, document.keys[0].state, document.keys.len()), (2, KeyState::Enabled, 2));
    assert_eq!(keys.text().await, before);
    sleep(Duration::from_secs(1)).await;
    Traffic::on(&services).ends_well().await;
    assert!(!services[0].stderr().contains("the last good ones stay"));
}

async fn text_of(service: &Service, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = triseal(arguments);
    command.env("TRISEAL_ENDPOINT", service.endpoint());
    text(&tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts"))
}

async fn of_two_operators_one_is_refused(site: &Site) {
    let (services, keys) = (start(site).await, EnvironmentKeys::of(site));
    let rotate = async |pause| {
        sleep(pause).await;
        keys.triseal(&["rotate", "environment", "--settle", "2s", "--yes"], &services[0]).await
    };
    let (one, other) = tokio::join!(rotate(Duration::ZERO), rotate(Duration::from_millis(700)));
    let mut codes = [one.0, other.0];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(4)], "{one:?} {other:?}");
    let told = if one.0 == Some(4) { one.2 } else { other.2 };
    assert!(told.contains("somebody else has changed the keys") && told.contains("version "), "{told}");
    let document = keys.document().await;
    assert_eq!((document.primary, document.keys.len()), (2, 2), "one version was added, and promoted");
}

// --- the codebase's key file -------------------------------------------------

fn key_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("codebase-keys.json");
    (folder, path)
}

fn codebase(path: &Path) -> KeyDocument {
    parse(Form::Codebase, &fs::read_to_string(path).unwrap())
}

#[tokio::test]
async fn the_codebase_gets_a_version_and_then_another_primary() {
    let (folder, path) = key_file();
    let file = path.to_str().unwrap();
    let rotate =
        async |more: &[&str]| text(&run(triseal(&[&["rotate", "codebase", "--file", file], more].concat())).await);
    let (code, _, told) = rotate(&[]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("is not there") && !path.exists(), "{told}");
    assert!(run(triseal(&["keygen", "codebase", file])).await.status.success());
    let (code, _, told) = rotate(&["--promote"]).await;
    assert_eq!(code, Some(4), "{told}");

    let (code, out, told) = rotate(&[]).await;
    assert_eq!(code, Some(0), "{told}");
    for step in ["cargo build", "factors.codebase_primary = 2", "triseal replicas", "--promote"] {
        assert!(out.contains(step), "{step} is not in {out}");
    }
    let document = codebase(&path);
    assert_eq!((document.primary, document.added()), (1, Some(2)));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Twice by mistake: some builds would know neither.
    let (code, _, told) = rotate(&[]).await;
    assert!(code == Some(4) && told.contains("version 2 is added and not promoted"), "{told}");

    let (code, out, told) = rotate(&["--promote", "--output", "json"]).await;
    assert_eq!(code, Some(0), "{told}");
    let told: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((told["primary"].as_u64(), told["fingerprint"].as_str().map(str::len)), (Some(2), Some(32)));
    assert_eq!(
        (&told["document"], &told["change"], told["version"].as_u64()),
        (&file.into(), &"promoted".into(), Some(2))
    );
    assert_eq!((codebase(&path).primary, codebase(&path).keys.len()), (2, 2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");

    // Not for others to read, and nothing else than this form.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, told) = rotate(&[]).await;
    assert!(code == Some(4) && told.contains("chmod 600"), "{told}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("codebase-keys", "environment-keys")).unwrap();
    let (code, _, told) = rotate(&[]).await;
    assert!(code == Some(1) && told.contains("format: must be"), "{told}");
}

/// With `--dev` the binary holds the well-known development keys, two versions of them: so both can be the primary.
#[tokio::test]
async fn a_codebase_version_is_retired_when_no_replica_and_no_record_needs_it() {
    let (_folder, path) = key_file();
    let site = Site::embedded();
    let document = parse(Form::Codebase, include_str!("../../src/factors/codebase_development.json"));
    assert_eq!(document.keys.len(), 2);
    write_key_file(&path, &document, Form::Codebase);
    let file = path.to_str().unwrap();
    let retire = ["key", "retire", "codebase", "1", "--file", file, "--yes"];

    let service = site.start_with(&QUICK).await;
    fill(&service, 5).await;
    let (code, _, told) = text_of(&service, &retire).await;
    assert!(code == Some(4) && told.contains("version 1 is the primary"), "{told}");
    // The file's primary is one thing, and what the replicas seal under is another.
    let promoted = run(triseal(&["rotate", "codebase", "--file", file, "--promote"])).await;
    assert!(promoted.status.success());
    let mut document = codebase(&path);
    backdate(&mut document);
    write_key_file(&path, &document, Form::Codebase);
    let (code, _, told) = text_of(&service, &retire).await;
    assert!(code == Some(4) && told.contains("seals under codebase version 1"), "{told}");
    assert!(service.terminate().await.success());

    let service = site.start_with(&[&QUICK[..], &[("TRISEAL__FACTORS__CODEBASE_PRIMARY", "2")]].concat()).await;
    let began = Instant::now();
    loop {
        let (code, out, told) = text_of(&service, &retire).await;
        assert_eq!(code, Some(4), "{out}{told}");
        if told.contains("5 records are sealed under codebase version 1") {
            break;
        }
        assert!(told.contains("replica ") && began.elapsed() < PATIENCE, "{told}");
        sleep(Duration::from_secs(3)).await;
    }
    for arguments in [&["reencrypt", "start"][..], &["reencrypt", "watch"]] {
        let (code, _, told) = text_of(&service, arguments).await;
        assert_eq!(code, Some(0), "{told}");
    }
    let [asks @ .., _yes] = &retire;
    let (code, _, told) = text_of(&service, asks).await;
    assert!(code == Some(2) && told.contains("no terminal to confirm it at"), "{told}");
    let mut command = triseal(asks);
    command.env("TRISEAL_ENDPOINT", service.endpoint());
    let (code, shown) = on_terminal(&command, "yes").await;
    assert!(code == Some(1) && shown.contains("type 1 to go on") && shown.contains("nothing was done"), "{shown}");
    assert_eq!(codebase(&path).keys[0].state, KeyState::Enabled);
    let (code, shown) = on_terminal(&command, "1").await;
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(codebase(&path).keys[0].state, KeyState::Retired);
}
