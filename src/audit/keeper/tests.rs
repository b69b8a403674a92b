use std::fs::OpenOptions;

use tokio::time::advance;

use super::super::entry::Chain;
use super::super::fakes::{FakeMac, FakeOperations, FakeSink, Made, at};
use super::super::sink::Sink;
use super::*;
use crate::store::{Rows, StoreError};

const SECOND: Duration = Duration::from_secs(1);

fn clock() -> Timestamp {
    at(0)
}

/// A keeper of a stream whose writer is this test.
struct World {
    operations: Arc<FakeOperations>,
    mac: Arc<FakeMac>,
    queue: Arc<Queue>,
    keeper: Keeper,
}

impl World {
    async fn start(sink: FakeSink, with_mac: bool) -> Self {
        let (operations, mac) = (Arc::new(FakeOperations::default()), Arc::new(FakeMac::with_key(1)));
        Self::start_with(sink, operations, mac, with_mac).await
    }

    async fn start_with(sink: FakeSink, operations: Arc<FakeOperations>, mac: Arc<FakeMac>, with_mac: bool) -> Self {
        let stream = Made::new('a').id;
        let held: Box<dyn Sink> = sink.boxed();
        let queue = Arc::new(Queue::new(&Chain::new(stream), held.as_ref()));
        let used: Option<Arc<dyn CheckpointMac>> = if with_mac { Some(mac.clone()) } else { None };
        let heads = Heads { stream, operations: operations.clone(), mac: used, clock };
        let keeper = Keeper::start(heads, Arc::clone(&queue), SECOND).await;
        Self { operations, mac, queue, keeper }
    }

    /// The writer has written so many entries in all.
    fn written(&self, seq: u64) {
        self.queue.written_for_test(seq, Hash([seq as u8; 32]));
    }

    fn head(&self) -> Option<u64> {
        self.operations.heads().first().map(|head| head.seq)
    }

    /// Lets time pass, second by second, so that every timer finds its turn.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            advance(SECOND).await;
            for _ in 0..20 {
                // Syncing runs in a thread, and the clock stands still meanwhile.
                tokio::task::spawn_blocking(|| {}).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_is_stored_at_the_start_after_ten_seconds_and_at_the_end() {
    let world = World::start(FakeSink::default(), false).await;
    assert_eq!(world.head(), Some(0));
    assert_eq!(world.operations.heads()[0].hash, Hash::first(&Made::new('a').id));
    world.written(5);
    world.pass(8).await;
    assert_eq!(world.head(), Some(0));
    world.pass(3).await;
    assert_eq!(world.head(), Some(5));
    world.written(7);
    world.keeper.end(true).await;
    let [head] = world.operations.heads().try_into().unwrap();
    assert_eq!((head.seq, head.hash, head.closed), (7, Hash([7; 32]), true));
    assert_eq!(world.operations.writes(), 3);
}

#[tokio::test(start_paused = true)]
async fn without_entries_no_head_is_stored() {
    let world = World::start(FakeSink::default(), false).await;
    world.pass(100).await;
    assert_eq!(world.operations.writes(), 1);
    world.written(1);
    world.pass(2).await;
    assert_eq!(world.head(), Some(1), "ten seconds have long passed");
    world.pass(100).await;
    assert_eq!(world.operations.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_thousand_entries_a_head_is_stored_at_once() {
    let world = World::start(FakeSink::default(), false).await;
    world.written(999);
    world.pass(2).await;
    assert_eq!(world.head(), Some(0));
    world.written(1_000);
    world.queue.many_written.notify_one();
    world.pass(1).await;
    assert_eq!(world.head(), Some(1_000));
    world.written(2_500);
    world.pass(1).await;
    assert_eq!(world.head(), Some(2_500));
}

#[tokio::test(start_paused = true)]
async fn heads_carry_a_mac_over_stream_number_and_hash() {
    let world = World::start(FakeSink::default(), true).await;
    world.written(258);
    world.keeper.end(true).await;
    let [head] = world.operations.heads().try_into().unwrap();
    let message = head.message();
    assert_eq!(message.len(), 21 + 32 + 8 + 32);
    assert!(message.starts_with(b"triseal/v1 checkpointaaaa"));
    assert_eq!(message[53..61], [0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(message[61..], [2; 32]);
    assert!(world.mac.verify(&message, head.mac.as_ref().unwrap()).await.unwrap());
    let other = Head { seq: 257, ..head.clone() };
    assert!(!world.mac.verify(&other.message(), head.mac.as_ref().unwrap()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_mac_key_or_a_store_that_is_away_postpones_a_head() {
    let world = World::start(FakeSink::default(), true).await;
    world.mac.fail(FactorError::Away("x".to_owned()));
    world.written(5);
    world.pass(60).await;
    assert_eq!(world.head(), Some(0), "a head without its MAC is none");
    world.mac.fail(None);
    world.pass(2).await;
    assert_eq!(world.head(), Some(5));

    world.operations.fail(StoreError::Away("x".to_owned()));
    world.written(6);
    world.pass(60).await;
    world.written(7);
    world.pass(2).await;
    assert_eq!(world.operations.heads()[0].seq, 5);
    world.operations.fail(None);
    world.pass(2).await;
    assert_eq!(world.head(), Some(7), "the newest is stored, not the one that failed");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_at_the_start_gets_the_head_later() {
    let operations = Arc::new(FakeOperations::default());
    operations.fail(StoreError::Away("x".to_owned()));
    let world = World::start_with(FakeSink::default(), operations, Arc::default(), false).await;
    world.pass(30).await;
    assert_eq!(world.head(), None);
    world.operations.fail(None);
    world.pass(3).await;
    assert_eq!(world.head(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_on_disk_has_no_head() {
    // Syncing a device is refused.
    let device = OpenOptions::new().write(true).open("/dev/null").unwrap();
    let world = World::start(FakeSink::on_file(device), false).await;
    assert_eq!((world.head(), world.queue.is_failing()), (Some(0), false));
    world.written(5);
    world.pass(30).await;
    assert_eq!((world.head(), world.queue.is_failing()), (Some(0), true), "and no call goes on");
    world.keeper.end(true).await;
    assert!(!world.operations.heads()[0].closed);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_synced_before_its_head_is_stored() {
    let file = tempfile::tempfile().unwrap();
    let world = World::start(FakeSink::on_file(file), false).await;
    world.written(5);
    world.pass(12).await;
    // The file is real, and so is the time that it takes.
    for _ in 0..1_000 {
        if world.head() == Some(5) {
            break;
        }
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(10))).await.unwrap();
    }
    assert_eq!((world.head(), world.queue.is_failing()), (Some(5), false));
}

#[tokio::test(start_paused = true)]
async fn a_later_head_of_the_same_stream_is_not_written_over() {
    let world = World::start(FakeSink::default(), false).await;
    let id = record_id(&Made::new('a').id);
    let present = world.operations.get(&id).await.unwrap().unwrap();
    let later = Head { seq: 9, ..Head::from_record(&present).unwrap() };
    world.operations.replace(Some(present.write_id), later.record(WriteId::random().unwrap())).await.unwrap();
    world.written(5);
    world.pass(30).await;
    assert_eq!(world.head(), Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_end_is_not_written_stays_open() {
    let world = World::start(FakeSink::default(), false).await;
    world.written(5);
    world.keeper.end(false).await;
    let [head] = world.operations.heads().try_into().unwrap();
    assert_eq!((head.seq, head.closed), (5, false));
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_nobody_for_long() {
    let world = World::start(FakeSink::default(), false).await;
    world.operations.fail(StoreError::Away("x".to_owned()));
    let start = Instant::now();
    world.keeper.end(true).await;
    assert!(start.elapsed() <= PATIENCE + SECOND);
    assert!(!world.operations.heads()[0].closed);
    world.keeper.end(true).await;
}
