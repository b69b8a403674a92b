use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use super::super::fakes::{FakeOperations, Made, origin, verify};
use super::super::{AuditError, AuditLog, Event, Timing};
use super::*;
use crate::audit::entry::Subject;

const SMALL: u64 = 2_000;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn append_line(sink: &mut LogFile, line: &str) {
    sink.between_lines().unwrap();
    assert_eq!(sink.write(line.as_bytes()).unwrap(), line.len());
}

fn contents(directory: &Path) -> Vec<String> {
    names(directory).iter().map(|name| std::fs::read_to_string(directory.join(name)).unwrap()).collect()
}

#[test]
fn a_new_file_is_its_owners_alone_and_an_old_one_is_appended_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    append_line(&mut LogFile::open(&path, SMALL).unwrap(), "one\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    append_line(&mut LogFile::open(&path, SMALL).unwrap(), "two\n");
    assert_eq!(names(directory.path()), ["audit.jsonl"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
}

#[test]
fn whether_a_file_can_be_written_is_tried_without_making_or_changing_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    try_file(&path).unwrap();
    assert!(names(directory.path()).is_empty());
    // Torn, and held by another process: neither is touched.
    let holder = LogFile::open(&path, SMALL).unwrap();
    std::fs::write(&path, "torn").unwrap();
    try_file(&path).unwrap();
    assert_eq!(
        (names(directory.path()), contents(directory.path())),
        (vec!["audit.jsonl".into()], vec!["torn".into()])
    );
    drop(holder);

    assert!(matches!(try_file(directory.path()), Err(SinkError::NotAFile(_))));
    let missing = try_file(&directory.path().join("missing/audit.jsonl")).unwrap_err();
    assert!(missing.to_string().contains("missing/audit.jsonl: No such file"), "{missing}");
}

#[test]
fn a_full_file_gets_another_name_and_nothing_is_lost_or_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let made = Made::closed('a', 50);
    let mut sink = LogFile::open(&path, SMALL).unwrap();
    for line in &made.lines {
        append_line(&mut sink, line);
    }
    let files = contents(directory.path());
    assert!(files.len() > 5, "{:?}", names(directory.path()));
    assert!(files.iter().all(|file| file.len() as u64 <= SMALL + made.lines[0].len() as u64 * 2));
    for name in names(directory.path()) {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let verdict = verify(Some(vec![made.head(true)]), &files);
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    assert_eq!(verdict.entries, 50);
}

#[test]
fn a_file_that_another_program_renamed_is_left_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let mut sink = LogFile::open(&path, SMALL).unwrap();
    append_line(&mut sink, "one\n");
    std::fs::rename(&path, directory.path().join("audit.1")).unwrap();
    append_line(&mut sink, "two\n");
    sink.looked -= LOOK_EVERY;
    append_line(&mut sink, "three\n");
    assert_eq!(names(directory.path()), ["audit.1", "audit.jsonl"]);
    assert_eq!(contents(directory.path()), ["one\ntwo\n", "three\n"]);
}

#[test]
fn without_a_new_file_the_old_one_is_written_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let mut sink = LogFile::open(&path, SMALL).unwrap();
    append_line(&mut sink, "one\n");
    // Nothing can be made under that name.
    std::fs::rename(&path, directory.path().join("audit.1")).unwrap();
    std::fs::create_dir(&path).unwrap();
    sink.looked -= LOOK_EVERY;
    append_line(&mut sink, "two\n");
    append_line(&mut sink, "three\n");
    assert_eq!(std::fs::read_to_string(directory.path().join("audit.1")).unwrap(), "one\ntwo\nthree\n");
    std::fs::remove_dir(&path).unwrap();
    sink.looked -= LOOK_EVERY;
    append_line(&mut sink, "four\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "four\n");
}

#[test]
fn after_a_torn_line_a_new_file_begins_and_the_torn_one_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let (before, after) = (Made::closed('a', 10), Made::closed('b', 3));
    let torn = before.lines[..5].concat() + &before.lines[5][..77];
    std::fs::write(&path, &torn).unwrap();
    let mut sink = LogFile::open(&path, SMALL).unwrap();
    after.lines.iter().for_each(|line| append_line(&mut sink, line));
    let files = contents(directory.path());
    assert_eq!(files, [after.log(), torn]);
    let verdict = verify(None, &[&files[0], &files[1]]);
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
}

#[test]
fn two_processes_do_not_write_one_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let first = LogFile::open(&path, SMALL).unwrap();
    let refused = LogFile::open(&path, SMALL).err().unwrap();
    assert!(matches!(refused, SinkError::InUse(_)) && refused.to_string().contains("audit.jsonl"));
    drop(first);
    LogFile::open(&path, SMALL).unwrap();
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| LogFile::open(path, SMALL).err().unwrap();
    assert!(matches!(open(directory.path()), SinkError::NotAFile(_)));
    assert!(matches!(open(Path::new("/dev/null")), SinkError::NotAFile(_)));
    let missing = open(&directory.path().join("missing/audit.jsonl"));
    assert!(matches!(missing, SinkError::Io(..)) && missing.to_string().contains("missing/audit.jsonl"));
}

#[test]
fn the_settings_choose_the_sink() {
    let directory = tempfile::tempdir().unwrap();
    let settings = config::Audit {
        sink: config::AuditSink::File,
        file: directory.path().join("audit.jsonl"),
        ..config::Audit::default()
    };
    assert!(open(&settings).unwrap().file().is_some());
    assert_eq!(names(directory.path()), ["audit.jsonl"]);
    assert!(open(&config::Audit::default()).unwrap().file().is_none(), "standard output is somebody else's to keep");
}

/// A pipe that is as full as it gets is what a container's standard output is when its collector hangs.
#[tokio::test]
async fn a_pipe_whose_reader_hangs_fails_calls_and_is_written_on_when_it_reads_again() {
    let (reader, writer) = io::pipe().unwrap();
    let sink = Box::new(StandardOutput(File::from(OwnedFd::from(writer))));
    // Long enough for a busy machine to take a line that it has room for.
    let timing = Timing { fsync_interval: Duration::from_secs(1), timeout: Duration::from_secs(1) };
    let operations = Arc::new(FakeOperations::default());
    let log = AuditLog::start(sink, timing, operations.clone(), None, Timestamp::now).await.unwrap();
    let shown = async || log.shown(&origin("realtask", "r"), Event::ListCustomers, Subject::default()).await;
    let mut answered = 0;
    let hangs = loop {
        match shown().await {
            Ok(_) => answered += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(hangs, AuditError::TimedOut);
    assert!(answered > 10, "a pipe holds more than {answered} lines");
    // The one before is within the pipe's write, and this one behind it.
    assert_eq!(shown().await.unwrap_err(), AuditError::TimedOut);
    assert!(!log.is_available());

    let all = std::thread::spawn(move || read_all(reader));
    while shown().await.is_err() {}
    answered += 1;
    // Whoever waited may hear of it before the writer has looked what comes next.
    while !log.is_available() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log.close().await;
    drop(log);
    let all = all.join().unwrap();
    let verdict = verify(Some(operations.heads()), &[&all]);
    assert!(verdict.is_clean(), "{:?}", verdict.findings);
    assert!(verdict.entries >= answered + 2, "all that was answered stands there");
}

fn read_all(mut reader: PipeReader) -> String {
    let mut all = String::new();
    reader.read_to_string(&mut all).unwrap();
    all
}
