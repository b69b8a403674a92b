//! What the audit log costs: writing 1,000,000 entries through it, verifying them, and a report from them, beside a bare pass
//! that only reads and hashes the same octets. `cargo bench --bench audit`.
//!
//! The log is the real one: a rotated file that is synced, heads in an embedded store. Nothing is asserted on the times.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use triseal::audit::heads::{self, Head};
use triseal::audit::report::{Filter, Report};
use triseal::audit::verify::Verifier;
use triseal::audit::{AuditLog, Disclosure, Event, Origin, Timing, sink};
use triseal::config::{Audit, AuditSink};
use triseal::crypto::{Lineage, Version};
use triseal::ids::{Caller, CredentialId, CredentialRef, CustomerId, Deployment, RequestId, TraceId};
use triseal::secret::View;
use triseal::store::Revision;
use triseal::store::embedded::{EmbeddedOperations, EmbeddedStore, operations_in_file};

const ENTRIES: u64 = 1_000_000;
/// Calls in flight: with one, each entry is written and waited for alone.
const IN_FLIGHT: [u64; 3] = [1, 16, 256];
const GOAL: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
const BUFFER_OCTETS: usize = 1 << 20;

fn main() {
    let directory = tempfile::tempdir().unwrap();
    println!("{}, {} processors", cpu(), std::thread::available_parallelism().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut log = PathBuf::new();
    for in_flight in IN_FLIGHT {
        log = directory.path().join(format!("{in_flight}"));
        std::fs::create_dir(&log).unwrap();
        // The last is the one that is read below.
        let entries = if in_flight == IN_FLIGHT[2] { ENTRIES } else { ENTRIES / 10 };
        let (began, cpu_before) = (Instant::now(), cpu_time());
        runtime.block_on(write(&log, entries, in_flight));
        let (wall, cpu) = (began.elapsed(), cpu_time() - cpu_before);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / entries as f64;
        println!(
            "  write {entries:>9}, {in_flight:>3} in flight {:>8.2} s {:>8.2} µs each, {:.2} µs of processor time",
            wall.as_secs_f64(),
            each(wall),
            each(cpu)
        );
    }
    drop(runtime);

    let files = files(&log);
    let heads: Vec<_> = operations_in_file(&log.join("store.redb"), heads::KIND).unwrap();
    let heads: Vec<_> = heads.iter().map(|row| Head::from_record(row).unwrap()).collect();
    let octets: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    println!("  {} files of {} MB, {} octets an entry", files.len(), octets / 1_000_000, octets / ENTRIES);
    line("read and SHA-256 all", median(|| hash_all(&files)), None);
    line("read and SHA-256 each line", median(|| hash_lines(&files)), None);
    line("verify, with heads", median(|| verify(&files, &heads)), Some(GOAL));
    line("report of one caller of 10", median(|| report(&files, &heads, "spiffe://example.com/caller-3")), Some(GOAL));
}

fn line(name: &str, time: Duration, goal: Option<Duration>) {
    let verdict = match goal {
        Some(goal) if time <= goal => format!("   within the goal of {} s", goal.as_secs()),
        Some(goal) => format!("   ABOVE the goal of {} s", goal.as_secs()),
        None => String::new(),
    };
    println!("  {name:<32} {:>8.2} s{verdict}", time.as_secs_f64());
}

/// Writes so many entries of ten callers, so many calls at a time.
async fn write(directory: &Path, entries: u64, in_flight: u64) {
    let settings = Audit { sink: AuditSink::File, file: directory.join("audit.jsonl"), ..Audit::default() };
    let deployment = Deployment::parse("bench").unwrap();
    let store = Arc::new(EmbeddedStore::open(&directory.join("store.redb"), &deployment).unwrap());
    let operations = Arc::new(EmbeddedOperations(Arc::clone(&store)));
    let timing = Timing { fsync_interval: settings.fsync_interval, timeout: Duration::from_secs(30) };
    let log = AuditLog::start(sink::open(&settings).unwrap(), timing, operations, None, Timestamp::now).await.unwrap();
    let writers: Vec<_> = (0..in_flight)
        .map(|writer| {
            let log = log.clone();
            tokio::spawn(async move {
                let caller = Caller::new(&format!("spiffe://example.com/caller-{}", writer % 10));
                let lineage =
                    Lineage { codebase: Version::FIRST, environment: Version::FIRST, customer: Version::FIRST };
                for number in (writer..entries).step_by(in_flight as usize) {
                    let credential = CredentialRef {
                        customer: CustomerId::parse(&format!("customer-{}", number % 1_000)).unwrap(),
                        credential: CredentialId::parse("realsync.main").unwrap(),
                    };
                    let origin = Origin {
                        caller: Some(caller.clone()),
                        request: Some(RequestId::parse(&format!("{number:032x}")).unwrap()),
                        trace: Some(TraceId([7; 16])),
                    };
                    let disclosure = Disclosure {
                        event: Event::DecryptCredential,
                        credential: &credential,
                        view: View::Access,
                        revision: Revision::FIRST,
                        lineage,
                    };
                    let _ = log.read(&origin, disclosure).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    log.close().await;
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let paths = directory.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter(|path| path.to_string_lossy().contains("audit.jsonl")).collect();
    // The one without a time in its name is the last.
    files.sort_by_key(|path| (path.extension().is_some_and(|extension| extension == "jsonl"), path.clone()));
    files
}

fn hash_all(files: &[PathBuf]) {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER_OCTETS]);
    for file in files {
        let mut file = File::open(file).unwrap();
        loop {
            let read = file.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
    }
    std::hint::black_box(hash.finalize());
}

fn hash_lines(files: &[PathBuf]) {
    let mut line = Vec::new();
    for file in files {
        let mut file = BufReader::with_capacity(BUFFER_OCTETS, File::open(file).unwrap());
        loop {
            line.clear();
            if file.read_until(b'\n', &mut line).unwrap() == 0 {
                break;
            }
            std::hint::black_box(Sha256::digest(&line));
        }
    }
}

fn verify(files: &[PathBuf], heads: &[Head]) {
    let mut verifier = Verifier::new(Some(heads.to_vec()), false);
    for file in files {
        verifier.read(&file.to_string_lossy(), File::open(file).unwrap()).unwrap();
    }
    let verdict = verifier.finish();
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    // The stream's first and last entry are its own.
    assert_eq!(verdict.entries, ENTRIES + 2);
}

fn report(files: &[PathBuf], heads: &[Head], caller: &str) {
    let filter = Filter { caller: Some(caller.to_owned()), ..Filter::default() };
    let mut report = Report::new(filter, Some(heads.to_vec()), false);
    for file in files {
        report.read(&file.to_string_lossy(), File::open(file).unwrap()).unwrap();
    }
    let answer = report.finish();
    assert!(answer.verdict.is_clean() && !answer.rows.is_empty());
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            run();
            began.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

/// Of this process, in user and kernel mode, to a hundredth of a second.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold spaces: utime and stime are the fields 14 and 15.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned())
}
