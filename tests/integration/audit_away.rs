//! A service whose audit log can't be written: it opens and changes nothing, says that it is not ready, and goes on by itself when the log
//! is back. It does not start without one.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;
use tonic::Status;
use triseal::grpc::v1;

use crate::support::{Service, data, decrypt, dev, encrypt, limited, opaque, program, reason, run, triseal, until};

/// No file of the service may be larger, in octets. Its store stays far below.
const LARGEST: u64 = 64 << 20;
/// The audit log has so much to grow: some entries.
const ROOM: u64 = 4 << 10;
/// More calls than either test's log has room for: an entry has about 500 octets, and a pipe 64 KiB.
const MANY: usize = 1_000;

async fn store(service: &Service, credential: &str) -> Result<(), Status> {
    service.credentials().encrypt_credential(encrypt("demo", credential, opaque(*b"kept data"))).await.map(drop)
}

/// Stores secrets until one is refused for want of a log: its number.
async fn store_until_refused(service: &Service) -> usize {
    for number in 0..MANY {
        if let Err(status) = store(service, &format!("c{number}")).await {
            assert_eq!(reason(&status), "AUDIT_UNAVAILABLE", "{status}");
            return number;
        }
    }
    panic!("there was room for everything");
}

/// Status and state of the log, as a probe sees them.
async fn readiness(service: &Service) -> (u16, String) {
    let (status, report) = service.ops("/readyz").await;
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!((report["ready"].as_bool(), &report["phase"]), (Some(status == 200), &"serving".into()));
    let log = &report["dependencies"]["audit_log"];
    assert_eq!(log["required"], true);
    (status, log["state"].as_str().expect("a state").to_owned())
}

/// Away: nothing is shown or changed, whatever it is. Alive all the same.
async fn assert_away(service: &Service, refused: usize) {
    until("unready", async || readiness(service).await == (503, "away".to_owned())).await;
    assert_eq!(service.metric("triseal_dependency_up{dependency=\"audit_log\"}").await, 0.0);
    assert_eq!(service.ops("/livez").await.0, 200);
    let opened = service.credentials().decrypt_credential(decrypt("demo", "c0", v1::View::Full)).await;
    assert_eq!(reason(&opened.expect_err("it has no entry")), "AUDIT_UNAVAILABLE");
    let changed = store(service, &format!("c{}", refused + 1)).await;
    assert_eq!(reason(&changed.expect_err("it has no entry")), "AUDIT_UNAVAILABLE");
}

/// Back, without a restart and without a call that dares to come: and nothing of what was refused was done.
async fn assert_back(service: &Service, refused: usize) {
    until("ready", async || readiness(service).await == (200, "up".to_owned())).await;
    for number in [refused, refused + 1] {
        let asked = decrypt("demo", &format!("c{number}"), v1::View::Full);
        let found = service.credentials().decrypt_credential(asked).await;
        assert_eq!(reason(&found.expect_err("it was refused")), "CREDENTIAL_NOT_FOUND");
    }
    store(service, &format!("c{refused}")).await.expect("it is taken again");
    service.credentials().decrypt_credential(decrypt("demo", "c0", v1::View::Full)).await.expect("it opens again");
}

async fn assert_verifies(log: &Path, store: &Path) {
    let paths = [store, log].map(|path| path.to_str().expect("UTF-8"));
    let output = run(triseal(&["audit", "verify", "--checkpoints", paths[0], paths[1]])).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("nothing was found"), "{said}");
}

/// The limit on the size of a file is the system's, so the writes fail as on a full disk; the store has room.
#[tokio::test]
async fn a_log_without_room_makes_it_unready_and_room_makes_it_ready_without_a_restart() {
    let (folder, data) = data();
    fs::create_dir(&data).unwrap();
    let log = data.join("audit.jsonl");
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&log).unwrap();
    file.seek(SeekFrom::Start(LARGEST - ROOM)).unwrap();
    file.write_all(b"\n").unwrap();

    let service = Service::start(limited(&dev(&data), LARGEST)).await;
    assert_eq!(readiness(&service).await, (200, "up".to_owned()));
    let refused = store_until_refused(&service).await;
    assert!(refused > 0, "there was room for some");
    assert_away(&service, refused).await;
    assert!(service.stderr().contains("nothing is opened or sealed until it can"), "{}", service.stderr());

    let process = service.process().to_string();
    let unlimited = run(program("prlimit", &["--pid", &process, "--fsize=unlimited:"])).await;
    assert!(unlimited.status.success(), "{}", String::from_utf8_lossy(&unlimited.stderr));
    assert_back(&service, refused).await;
    assert!(service.terminate().await.success());

    // The stream goes on where it stopped, without a gap.
    let mut file = fs::File::open(&log).unwrap();
    file.seek(SeekFrom::Start(LARGEST - ROOM + 1)).unwrap();
    let mut stream = Vec::new();
    file.read_to_end(&mut stream).unwrap();
    let alone = folder.path().join("alone.jsonl");
    fs::write(&alone, stream).unwrap();
    assert_verifies(&alone, &data.join("store.redb")).await;
}

#[tokio::test]
async fn a_reader_that_stops_makes_it_unready_and_one_that_reads_on_makes_it_ready() {
    let (folder, data) = data();
    let pipe = folder.path().join("pipe");
    assert!(run(program("mkfifo", &[pipe.to_str().unwrap()])).await.status.success());
    // Both ways, so that it opens before there is a writer.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();

    let service = dev(&data);
    let mut command = program("sh", &["-c", "exec \"$@\" >\"$0\""]);
    command.arg(&pipe).arg(service.as_std().get_program()).args(service.as_std().get_args());
    command.env("TRISEAL__AUDIT__SINK", "stdout").env("TRISEAL__AUDIT__TIMEOUT", "200ms");
    let service = Service::start(command).await;
    let refused = store_until_refused(&service).await;
    assert!(refused > 10, "a pipe has room for {refused}");
    assert_away(&service, refused).await;

    let log = folder.path().join("log.jsonl");
    let mut kept = fs::File::create(&log).unwrap();
    let last = b"\"event\":\"stream_closed\"";
    let reading = std::thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        loop {
            let read = reader.read(&mut piece).unwrap();
            kept.write_all(&piece[..read]).unwrap();
            // The pipe has no end: this reader could write to it.
            if piece[..read].windows(last.len()).any(|window| window == last) && piece[read - 1] == b'\n' {
                return;
            }
        }
    });
    assert_back(&service, refused).await;
    assert!(service.terminate().await.success());
    reading.join().unwrap();
    assert_verifies(&log, &data.join("store.redb")).await;
}

#[tokio::test]
async fn without_a_log_it_does_not_start_and_says_what_to_do() {
    let (folder, data) = data();
    // A full disk from the start, and a directory that is not there.
    let nowhere = folder.path().join("nowhere/audit.jsonl");
    let mut full = dev(&data);
    full.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    full.env("TRISEAL__AUDIT__SINK", "stdout");
    let mut missing = dev(&data);
    missing.env("TRISEAL__AUDIT__FILE", &nowhere);
    for (command, wanted) in [(full, "mend what audit.sink names"), (missing, nowhere.to_str().unwrap())] {
        let (code, said) = ended(command).await;
        assert!(code == Some(1) && said.contains("audit log") && said.contains(wanted), "{said}");
    }
    assert!(Service::dev(&data).await.terminate().await.success());
}

/// How a program ended, and what it said. Its standard output is its own.
async fn ended(mut command: Command) -> (Option<i32>, String) {
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let ended = tokio::time::timeout(crate::support::PATIENCE, child.wait_with_output()).await;
    let ended = ended.expect("it ends").unwrap();
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}
