use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::time::{Instant, advance, timeout};

use super::*;
use crate::ids::CustomerId;
use crate::store::contract::{credential_ref, living};
use crate::store::{Extent, Met, Page, Replaced, Rows, WriteId};

/// One row, and how often it was read.
#[derive(Default)]
struct Counting {
    row: Mutex<Option<CredentialRow>>,
    away: Mutex<bool>,
    reads: AtomicUsize,
}

#[async_trait]
impl Rows for Counting {
    type Id = CredentialRef;
    type Row = CredentialRow;
    type Write = CredentialRow;

    async fn get(&self, _: &CredentialRef) -> Result<Option<CredentialRow>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if *self.away.lock().unwrap() { Err(StoreError::Throttled) } else { Ok(self.row.lock().unwrap().clone()) }
    }

    async fn replace(&self, _: Option<WriteId>, _: CredentialRow) -> Result<Replaced<CredentialRow>, StoreError> {
        unreachable!("who waits writes nothing")
    }
}

#[async_trait]
impl Credentials for Counting {
    async fn query(
        &self,
        _: Option<&CustomerId>,
        _: Option<&CredentialRef>,
        _: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        unreachable!("who waits lists nothing")
    }

    async fn erase(&self, _: &CredentialRef) -> Result<(), StoreError> {
        unreachable!("who waits removes nothing")
    }

    async fn scan(
        &self,
        _: &Extent,
        _: Option<&CredentialRef>,
        _: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError> {
        unreachable!("nobody walks")
    }
}

fn waiting() -> (Arc<Counting>, Waiting, CredentialRef) {
    let store = Arc::new(Counting::default());
    (Arc::clone(&store), Waiting::new(store), credential_ref("acme", "crm"))
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_wait_are_one_reader_of_at_most_five_readings_a_second() {
    let (store, waiting, id) = waiting();
    let mut waiters: Vec<_> = (0..1_000).map(|_| waiting.join(&id)).collect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        for waiter in &mut waiters {
            assert!(waiter.next().await.unwrap().is_none());
        }
    }
    let reads = store.reads.load(Ordering::Relaxed);
    assert!((33..=51).contains(&reads), "{reads} readings in 10 s");

    // When nobody waits any more, nobody reads.
    drop(waiters);
    advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    let before = store.reads.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(store.reads.load(Ordering::Relaxed), before);
    assert!(waiting.watched.lock().unwrap().is_empty(), "the list keeps nothing");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_this_replica_is_seen_at_once_and_by_all() {
    let (store, waiting, id) = waiting();
    let mut waiters: Vec<_> = (0..100).map(|_| waiting.join(&id)).collect();
    tokio::task::yield_now().await;
    let row = living("acme", "crm");
    *store.row.lock().unwrap() = Some(row.clone());
    let changed = Instant::now();
    waiting.changed(&id);
    waiting.changed(&credential_ref("acme", "other"));
    for waiter in &mut waiters {
        assert_eq!(waiter.next().await.unwrap().as_deref(), Some(&row));
    }
    assert_eq!((changed.elapsed(), store.reads.load(Ordering::Relaxed)), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_read_for_those_who_wait_is_known_for_a_moment() {
    let (store, waiting, id) = waiting();
    let row = living("acme", "crm");
    *store.row.lock().unwrap() = Some(row.clone());
    assert_eq!(waiting.lately(&id), None, "nobody waits");
    let mut waiter = waiting.join(&id);
    assert_eq!(waiting.lately(&id), None, "nothing was read yet");
    waiter.next().await.unwrap();
    assert_eq!(waiting.lately(&id).as_deref(), Some(&row));
    assert_eq!(waiting.lately(&credential_ref("acme", "other")), None);
    *store.away.lock().unwrap() = true;
    assert!(waiter.next().await.is_err());
    assert_eq!(waiting.lately(&id), None, "the store is away");
    *store.away.lock().unwrap() = false;
    waiter.next().await.unwrap();
    drop(waiter);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(waiting.lately(&id), None, "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_read_again() {
    let (store, waiting, id) = waiting();
    *store.away.lock().unwrap() = true;
    let mut waiter = waiting.join(&id);
    assert_eq!(waiter.next().await, Err(StoreError::Throttled));
    *store.away.lock().unwrap() = false;
    assert_eq!(waiter.next().await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn each_credential_has_its_reader_and_one_who_comes_back_is_served() {
    let (store, waiting, id) = waiting();
    let other = credential_ref("acme", "other");
    for _ in 0..3 {
        let (mut one, mut another) = (waiting.join(&id), waiting.join(&other));
        assert!(one.next().await.is_ok() && another.next().await.is_ok());
        // At once, or after the reader has ended.
        drop((one, another));
        let mut again = waiting.join(&id);
        assert!(again.next().await.is_ok());
        drop(again);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(store.reads.load(Ordering::Relaxed), 9);
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_has_the_turn() {
    let (_store, waiting, id) = waiting();
    let (one, other) = (waiting.join(&id), waiting.join(&id));
    let turn = one.turn();
    assert!(turn.is_some() && other.turn().is_none() && one.turn().is_none());
    drop(turn);
    assert!(other.turn().is_some());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_end_is_told_of_it_then_and_afterwards() {
    let (_store, waiting, _) = waiting();
    assert!(timeout(Duration::from_secs(60), waiting.closed()).await.is_err());
    waiting.close();
    waiting.closed().await;
    waiting.closed().await;
}
