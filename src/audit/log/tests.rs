use std::io::ErrorKind;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::yield_now;

use super::super::fakes::{Act, FakeMac, FakeOperations, FakeSink, at, credential, kinds, lineage, origin, verify};
use super::super::finding::End;
use super::super::report::{Filter, Report, UNKNOWN};
use super::*;

/// Of the tests that have to see something happen in another thread.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_millis(500);

fn clock() -> Timestamp {
    at(0)
}

struct World {
    sink: FakeSink,
    operations: Arc<FakeOperations>,
    log: AuditLog,
}

impl World {
    async fn start() -> Self {
        Self::start_on(FakeSink::default()).await
    }

    async fn start_on(sink: FakeSink) -> Self {
        Self::try_start_on(sink).await.unwrap()
    }

    async fn try_start_on(sink: FakeSink) -> Result<Self, StartError> {
        let operations = Arc::new(FakeOperations::default());
        // The heads are tested for themselves; here they come at the start and at the end.
        let timing = Timing { fsync_interval: Duration::from_secs(3_600), timeout: LIMIT };
        let log = AuditLog::start(sink.boxed(), timing, operations.clone(), None, clock).await?;
        Ok(Self { sink, operations, log })
    }

    async fn read(&self, number: u64) -> Result<Audited, AuditError> {
        let disclosure = Disclosure {
            event: Event::DecryptCredential,
            credential: &credential("acme", "crm"),
            view: View::Full,
            revision: Revision::new(number).unwrap(),
            lineage: lineage(),
        };
        self.log.read(&origin("realtask", "r"), disclosure).await
    }

    async fn intent(&self, request: &str) -> Result<Intent, AuditError> {
        let subject = Subject { revision: Revision::new(3), ..Subject::credential(&credential("acme", "crm")) };
        self.log.intent(&origin("realtask", request), Event::EncryptCredential, subject).await
    }

    fn queue(&self) -> &Queue {
        match &self.log.0.target {
            Target::Written { queue, .. } => queue,
            Target::Recorded(_) | Target::None => unreachable!("it is written"),
        }
    }

    /// In a sink that is blocked, with an entry that nobody waits for.
    fn make_the_writer_hang(&self) {
        drop(self.queue().put(stream_entry(Event::ListCustomers), false, clock).unwrap());
        self.sink.wait_for_blocked_writer();
    }

    /// What stands in the log is one whole stream, up to here.
    #[track_caller]
    fn verifies(&self) -> String {
        let text = self.sink.text();
        let verdict = verify(Some(self.operations.heads()), &[&text]);
        assert!(verdict.is_clean(), "{:?}\n{text}", verdict.findings);
        assert_eq!(verdict.torn_lines, 0);
        text
    }
}

/// The outcomes of an event, in the order in which they stand in the log.
fn outcomes(text: &str, event: &str) -> Vec<String> {
    let of = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["event"] == event).then(|| line["outcome"].as_str().unwrap().to_owned())
    };
    text.lines().filter_map(of).collect()
}

fn revisions(text: &str) -> Vec<u64> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["revision"].as_u64())
        .collect()
}

/// In paused time, whose timers have a grain of a millisecond.
#[track_caller]
fn assert_waited(start: tokio::time::Instant, wanted: Duration) {
    let waited = start.elapsed();
    assert!((wanted..wanted + Duration::from_millis(10)).contains(&waited), "{waited:?}");
}

/// Waits for another thread.
async fn until(what: impl Fn() -> bool) {
    let waited = std::time::Instant::now();
    while !what() {
        assert!(waited.elapsed() < PATIENCE, "it never happened");
        std::thread::sleep(Duration::from_millis(1));
        yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_is_opened_written_and_closed() {
    let world = World::start().await;
    let [opened] = world.operations.heads().try_into().unwrap();
    assert_eq!((opened.seq, opened.closed), (0, false), "the head is there before the first entry");
    let _ = world.read(7).await.unwrap();
    let intent = world.intent("change").await.unwrap();
    let _ = intent.done(Revision::new(4), Some(lineage().into())).await.unwrap();
    let subject = Subject::customer(&credential("acme", "crm").customer);
    let who = origin("realtask", "x");
    let _ = world.log.refusal(&who, Event::CreateCustomer, subject.clone(), Reason::NotPermitted).await.unwrap();
    let _ = world.log.shown(&who, Event::GetCustomer, subject).await.unwrap();
    world.log.close().await;

    let text = world.verifies();
    assert_eq!(outcomes(&text, "stream_opened"), ["ok"]);
    assert_eq!(outcomes(&text, "decrypt_credential"), ["ok"]);
    assert_eq!(outcomes(&text, "encrypt_credential"), ["intent", "ok"]);
    assert_eq!(outcomes(&text, "create_customer"), ["NOT_PERMITTED"]);
    assert_eq!(outcomes(&text, "get_customer"), ["ok"]);
    assert_eq!(outcomes(&text, "stream_closed"), ["ok"]);
    assert_eq!(revisions(&text), [7, 3, 4], "the intent has the revision that it expects, the outcome the one it made");
    let [closed] = world.operations.heads().try_into().unwrap();
    assert_eq!((closed.seq, closed.closed), (7, true));
    assert_eq!(verify(None, &[&text]).streams[0].end, End::Closed);
}

#[tokio::test]
async fn an_entry_is_written_before_its_call_returns() {
    let world = World::start().await;
    for number in 1..100 {
        let _ = world.read(number).await.unwrap();
        assert_eq!(revisions(&world.sink.text()).last(), Some(&number));
    }
}

#[tokio::test]
async fn a_sink_that_hangs_fails_each_call_within_the_limit_and_the_service_goes_on_when_it_is_back() {
    let world = World::start().await;
    let _ = world.read(1).await.unwrap();
    world.sink.block();
    world.make_the_writer_hang();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    for (number, waited) in [(2, LIMIT), (3, 2 * LIMIT)] {
        assert_eq!(world.read(number).await.unwrap_err(), AuditError::TimedOut);
        assert_waited(start, waited);
    }
    assert_eq!(world.intent("x").await.err(), Some(AuditError::TimedOut), "no intent, no change");
    assert_waited(start, 3 * LIMIT);
    tokio::time::resume();

    world.sink.unblock();
    let _ = world.read(4).await.unwrap();
    // Nobody was shown what was read, and nothing was changed: the log does not say so either.
    let text = world.verifies();
    assert_eq!(revisions(&text), [1, 4]);
    assert_eq!(outcomes(&text, "encrypt_credential"), [""; 0]);
}

#[tokio::test]
async fn an_outcome_is_written_even_if_nobody_waits_for_it_any_longer() {
    let world = World::start().await;
    let (first, second) = (world.intent("one").await.unwrap(), world.intent("two").await.unwrap());
    world.sink.block();
    world.make_the_writer_hang();
    tokio::time::pause();
    assert_eq!(first.done(Revision::new(4), None).await.unwrap_err(), AuditError::TimedOut);
    assert_eq!(second.failed(Reason::StoreUnavailable).await.unwrap_err(), AuditError::TimedOut);
    tokio::time::resume();
    world.sink.unblock();
    let _ = world.read(9).await.unwrap();
    let text = world.verifies();
    assert_eq!(outcomes(&text, "encrypt_credential"), ["intent", "intent", "ok", "STORE_UNAVAILABLE"]);
}

#[tokio::test]
async fn a_sink_that_fails_is_tried_again_octet_for_octet() {
    let world = World::start().await;
    // Half a line, then a full disk, then one octet, then the rest.
    world.sink.script([
        Act::Take(100),
        Act::Fail(ErrorKind::StorageFull),
        Act::Fail(ErrorKind::StorageFull),
        Act::Take(1),
        Act::Fail(ErrorKind::Interrupted),
        Act::Fail(ErrorKind::WouldBlock),
        Act::Take(0),
        Act::Take(3),
    ]);
    let _ = world.read(1).await.unwrap();
    assert!(world.log.is_available());
    assert_eq!(revisions(&world.verifies()), [1]);
}

#[tokio::test]
async fn while_the_sink_fails_calls_fail_at_once_and_afterwards_the_stream_has_no_gap() {
    let world = World::start().await;
    world.sink.script([Act::Take(123)]);
    world.sink.fail(Some(ErrorKind::StorageFull));
    tokio::time::pause();
    let subject = Subject { revision: Revision::new(1), ..Subject::default() };
    let who = origin("realtask", "x");
    let refused = world.log.ended(&who, Event::ReencryptionRecord, subject, Some(Reason::NotAuthentic)).await;
    assert_eq!(refused.unwrap_err(), AuditError::TimedOut, "this one was under way");
    until(|| !world.log.is_available()).await;
    let start = tokio::time::Instant::now();
    assert_eq!(world.read(2).await.unwrap_err(), AuditError::Failing);
    assert_eq!(world.intent("x").await.err(), Some(AuditError::Failing));
    assert_eq!(start.elapsed(), Duration::ZERO, "nobody waits for what is known to fail");
    tokio::time::resume();

    world.sink.fail(None);
    until(|| world.log.is_available()).await;
    let _ = world.read(3).await.unwrap();
    assert_eq!(revisions(&world.verifies()), [1, 3], "the one whose caller gave up stands there whole");
}

#[tokio::test]
async fn an_entry_that_waits_too_long_tells_that_nothing_is_written_wherever_it_waits() {
    let world = World::start().await;
    until(|| world.queue().goes_on(at(1))).await;
    world.sink.block();
    world.make_the_writer_hang();
    assert!(world.queue().goes_on(at(0)), "it has not waited for long");
    assert!(!world.queue().goes_on(at(1)), "the writer has it, and the sink does not take it");
    world.sink.unblock();
    until(|| world.queue().goes_on(at(1))).await;
    world.log.close().await;
    assert!(world.log.is_available(), "an end is no failure");
}

#[tokio::test]
async fn what_waits_is_bounded_and_there_is_room_for_what_has_happened() {
    let world = World::start().await;
    let intent = world.intent("x").await.unwrap();
    world.sink.block();
    world.make_the_writer_hang();
    tokio::time::pause();
    let answers = join_all((0..5_000).map(|number| world.read(number + 1))).await;
    let of = |error| answers.iter().filter(|answer| answer.as_ref().err() == Some(&error)).count();
    assert_eq!((of(AuditError::TimedOut), of(AuditError::Full)), (4_096, 5_000 - 4_096));
    let who = origin("realtask", "x");
    let refusal = world.log.refusal(&who, Event::ListCustomers, Subject::default(), Reason::NotPermitted);
    assert_eq!(refusal.await.unwrap_err(), AuditError::Full, "a refusal takes no room of an outcome");
    assert_eq!(intent.done(None, None).await.unwrap_err(), AuditError::TimedOut, "and not Full");
    tokio::time::resume();
    world.sink.unblock();
    until(|| world.queue().waiting() == 0).await;
    let _ = world.read(9_999).await.unwrap();
    let text = world.verifies();
    assert_eq!(outcomes(&text, "encrypt_credential"), ["intent", "ok"]);
    assert_eq!(revisions(&text).last(), Some(&9_999));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_entries_are_written_together() {
    let world = Arc::new(World::start().await);
    world.sink.block();
    world.make_the_writer_hang();
    let reads: Vec<_> = (1..=1_000)
        .map(|number| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.read(number).await })
        })
        .collect();
    until(|| world.queue().waiting() == 1_000).await;
    let before = world.sink.writes();
    world.sink.unblock();
    for read in join_all(reads).await {
        let _ = read.unwrap().unwrap();
    }
    let text = world.verifies();
    let writes = world.sink.writes() - before;
    assert!(writes <= 2 + text.len() / (64 << 10), "{writes} writes for {} octets", text.len());
    let mut numbers = revisions(&text);
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_intent_that_is_dropped_is_reported_as_unknown() {
    let world = World::start().await;
    drop(world.intent("dropped").await.unwrap());
    let kept = world.intent("kept").await.unwrap();
    let _ = kept.failed(Reason::RevisionMismatch).await.unwrap();
    let filter = Filter { caller: Some("realtask".to_owned()), ..Filter::default() };
    let mut report = Report::new(filter, None, false);
    report.read("log", world.sink.text().as_bytes()).unwrap();
    let outcomes: Vec<_> = report.finish().rows.into_iter().map(|(row, _)| row.outcome).collect();
    assert_eq!(outcomes, ["REVISION_MISMATCH", UNKNOWN]);
}

#[tokio::test]
async fn a_closed_log_takes_nothing() {
    let world = World::start().await;
    let intent = world.intent("x").await.unwrap();
    world.log.close().await;
    assert_eq!(world.read(1).await.unwrap_err(), AuditError::Closed);
    assert_eq!(intent.done(None, None).await.unwrap_err(), AuditError::Closed);
    world.log.close().await;
    until(|| world.sink.is_gone()).await;
    let text = world.verifies();
    assert_eq!(verify(Some(world.operations.heads()), &[&text]).streams[0].end, End::Closed);
}

#[tokio::test]
async fn what_is_under_way_at_the_end_is_written_before_it() {
    let world = Arc::new(World::start().await);
    world.sink.block();
    world.make_the_writer_hang();
    let reader = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.read(1).await })
    };
    until(|| world.queue().waiting() == 1).await;
    let closer = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.log.close().await })
    };
    until(|| world.queue().waiting() == 2).await;
    world.sink.unblock();
    let _ = reader.await.unwrap().unwrap();
    closer.await.unwrap();
    let text = world.verifies();
    assert!(text.lines().last().unwrap().contains("stream_closed"));
}

#[tokio::test]
async fn a_sink_that_fails_until_the_end_leaves_the_stream_open() {
    let world = World::start().await;
    let _ = world.read(1).await.unwrap();
    world.sink.fail(Some(ErrorKind::BrokenPipe));
    world.log.close().await;
    until(|| world.sink.is_gone()).await;
    let [head] = world.operations.heads().try_into().unwrap();
    assert_eq!((head.seq, head.closed), (2, false), "what was written before is vouched for");
    let verdict = verify(Some(vec![head]), &[&world.sink.text()]);
    assert_eq!((kinds(&verdict), verdict.streams[0].end), (vec![], End::Open));
}

#[tokio::test]
async fn a_log_that_is_dropped_lets_go_of_its_sink() {
    let World { sink, log, .. } = World::start().await;
    drop(log);
    until(|| sink.is_gone()).await;
}

#[tokio::test]
async fn without_a_sink_that_takes_the_first_entry_nothing_starts() {
    let sink = FakeSink::default();
    sink.fail(Some(ErrorKind::StorageFull));
    let told = World::try_start_on(sink.clone()).await.err().unwrap();
    assert!(matches!(told, StartError::NotWritten(AuditError::TimedOut)), "{told}");
    assert!(told.to_string().contains("audit.sink"));
    until(|| sink.is_gone()).await;
}

#[tokio::test]
async fn a_store_or_a_mac_key_that_is_away_stops_no_call() {
    let (sink, operations, mac) =
        (FakeSink::default(), Arc::new(FakeOperations::default()), Arc::new(FakeMac::default()));
    operations.fail(crate::store::StoreError::Away("x".to_owned()));
    mac.fail(crate::factors::FactorError::Away("x".to_owned()));
    let timing = Timing { fsync_interval: Duration::from_secs(3_600), timeout: LIMIT };
    let log = AuditLog::start(sink.boxed(), timing, operations.clone(), Some(mac.clone()), clock).await.unwrap();
    let world = World { sink, operations, log };
    let _ = world.read(1).await.unwrap();
    assert_eq!(world.operations.heads(), []);
    world.operations.fail(None);
    mac.fail(None);
    world.log.close().await;
    let [head] = world.operations.heads().try_into().unwrap();
    assert!(head.closed && head.mac.is_some());
    world.verifies();
}

#[tokio::test]
async fn a_caller_that_no_line_has_room_for_is_refused() {
    let world = World::start().await;
    let who = Origin { caller: Some(Caller::new(&"x".repeat(5_000))), request: None, trace: None };
    let refused = world.log.shown(&who, Event::ListCustomers, Subject::default()).await;
    assert_eq!(refused.unwrap_err(), AuditError::TooLong);
    world.verifies();
}

#[tokio::test(start_paused = true)]
async fn a_recording_needs_neither_a_thread_nor_time() {
    let (log, recording) = AuditLog::recording(clock);
    let began = tokio::time::Instant::now();
    let subject = Subject::credential(&credential("acme", "crm"));
    let intent = log.intent(&origin("realtask", "r"), Event::DeleteCredential, subject).await.unwrap();
    let _ = intent.done(None, None).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(log.is_available());
    assert_eq!(outcomes(&recording.lines(), "delete_credential"), ["intent", "ok"]);
    assert!(verify(None, &[&recording.lines()]).is_clean());
    log.close().await;

    let none = AuditLog::insecure_none();
    let _ = none.shown(&origin("realtask", "r"), Event::ListCustomers, Subject::default()).await.unwrap();
}
