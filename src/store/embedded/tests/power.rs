//! Disks that fail, and disks that lose what was not synced when the power goes: nothing is acknowledged before it is on disk, and a
//! commit that fails fails every write in it. Killing the process shows neither, since the system keeps what it has written.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard};

use redb::StorageBackend;

use super::super::file::{builder, mark, marks};
use super::super::writer::commit;
use super::*;
use crate::store::{Life, Living, Revision};

/// What a disk writes whole, in octets.
const SECTOR: usize = 512;
const ROWS: usize = 12;

/// The newest write of each row that was answered as done.
type Acknowledged = BTreeMap<CredentialRef, CredentialRow>;

/// A disk with a cache, as redb sees it.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<Parts>>);

#[derive(Debug)]
struct Parts {
    /// What is read: everything that was written.
    cached: Vec<u8>,
    /// What is left for certain when the power goes.
    synced: Vec<u8>,
    /// Writes since the last sync. Each sector of each is on disk already, or is not.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// It answers that it has synced, and has not.
    lies: bool,
    /// Calls that change or sync, after which it fails for good.
    fails_after: usize,
    calls: usize,
    random: u64,
    acknowledged: Acknowledged,
    /// What had been acknowledged at some moment, and what would have been left then.
    cuts: Vec<(Acknowledged, Vec<u8>)>,
}

impl Disk {
    fn new(content: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Parts {
            cached: content.clone(),
            synced: content,
            unsynced: Vec::new(),
            lies: false,
            fails_after: usize::MAX,
            calls: 0,
            random: 7,
            acknowledged: Acknowledged::new(),
            cuts: Vec::new(),
        })))
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap()
    }

    /// The power goes at any call, also at this one.
    fn call(&self) -> io::Result<MutexGuard<'_, Parts>> {
        let mut parts = self.parts();
        if parts.random_below(8) == 0 {
            let cut = (parts.acknowledged.clone(), parts.left_without_power());
            parts.cuts.push(cut);
        }
        parts.calls += 1;
        if parts.calls > parts.fails_after { Err(io::Error::other("planted")) } else { Ok(parts) }
    }
}

impl Parts {
    fn random_below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn left_without_power(&mut self) -> Vec<u8> {
        let mut left = self.synced.clone();
        if self.random_below(2) == 0 {
            left.resize(self.cached.len(), 0);
        }
        // All, none or some of the sectors.
        let of_4 = self.random_below(5);
        for (offset, data) in std::mem::take(&mut self.unsynced) {
            for (index, sector) in data.chunks(SECTOR).enumerate() {
                if self.random_below(4) < of_4 {
                    put(&mut left, offset + index * SECTOR, sector);
                }
            }
            self.unsynced.push((offset, data));
        }
        left
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    content.resize(content.len().max(end), 0);
    content[offset..end].copy_from_slice(data);
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.parts().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let parts = self.parts();
        let end = offset as usize + out.len();
        out.copy_from_slice(parts.cached.get(offset as usize..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut parts = self.call()?;
        parts.cached.resize(len as usize, 0);
        parts.unsynced.retain(|(offset, data)| offset + data.len() <= len as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut parts = self.call()?;
        if !parts.lies {
            parts.unsynced.clear();
            parts.synced = parts.cached.clone();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut parts = self.call()?;
        put(&mut parts.cached, offset as usize, data);
        parts.unsynced.push((offset as usize, data.to_vec()));
        Ok(())
    }
}

/// A new store's file.
fn new_file() -> Vec<u8> {
    let disk = Disk::new(Vec::new());
    let db = builder().create_with_backend(disk.clone()).unwrap();
    mark(&db, &deployment("test")).unwrap();
    drop(db);
    disk.parts().cached.clone()
}

fn open_disk(disk: Disk) -> Arc<EmbeddedStore> {
    let db = builder().set_check_integrity_on_open(true).create_with_backend(disk).unwrap();
    marks(&db).unwrap();
    Arc::new(EmbeddedStore::over(Path::new("disk"), db).unwrap())
}

fn name(row: usize) -> String {
    format!("credential-{row}")
}

/// One writer of each row changes it again and again.
async fn work(disk: &Disk, changes: usize) {
    let store = open_disk(disk.clone());
    let writer = |number: usize| {
        let (disk, credentials) = (disk.clone(), EmbeddedCredentials(Arc::clone(&store)));
        async move {
            let mut expected = None;
            for revision in 1..=changes {
                let envelope = vec![revision as u8; 100 * number + 1];
                let row = living("acme", &name(number));
                let Life::Living(life) = row.life else { panic!("a tombstone") };
                let revision = Revision::new(revision as u64).unwrap();
                let row = CredentialRow { revision, life: Life::Living(Living { envelope, ..life }), ..row };
                assert!(matches!(credentials.replace(expected, row.clone()).await, Ok(Replaced::Done)));
                expected = Some(row.write_id);
                disk.parts().acknowledged.insert(row.id.clone(), row);
            }
        }
    };
    join_all((0..ROWS).map(writer)).await;
}

/// What is wrong with what was left at a power cut.
async fn lost(acknowledged: &Acknowledged, left: Vec<u8>) -> Option<String> {
    let opened = catch_unwind(|| open_disk(Disk::new(left)));
    let Ok(store) = opened else { return Some("it does not open".to_owned()) };
    let credentials = EmbeddedCredentials(store);
    for (id, row) in acknowledged {
        match credentials.get(id).await {
            Ok(Some(present)) if present == *row || present.revision > row.revision => {}
            Ok(Some(present)) => return Some(format!("{id:?} is at {:?}", present.revision)),
            other => return Some(format!("{id:?}: {other:?}")),
        }
    }
    None
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_power_cut() {
    let disk = Disk::new(new_file());
    work(&disk, 20).await;
    let cuts = std::mem::take(&mut disk.parts().cuts);
    let acknowledged: usize = cuts.iter().map(|(acknowledged, _)| acknowledged.len()).sum();
    assert!(cuts.len() > 20 && acknowledged > 100, "{} cuts, {acknowledged} rows", cuts.len());
    for (number, (acknowledged, left)) in cuts.into_iter().enumerate() {
        assert_eq!(lost(&acknowledged, left).await, None, "cut {number}");
    }
}

/// That the test would notice.
#[tokio::test]
async fn a_disk_that_does_not_sync_loses_what_was_acknowledged() {
    let disk = Disk::new(new_file());
    disk.parts().lies = true;
    work(&disk, 20).await;
    let cuts = std::mem::take(&mut disk.parts().cuts);
    let mut losses = 0;
    for (acknowledged, left) in cuts {
        losses += usize::from(lost(&acknowledged, left).await.is_some());
    }
    assert!(losses > 0);
}

/// Some writes of rows that are not there yet, in one group.
fn group() -> Vec<Replacement> {
    let replacement = |number| {
        let row = living("acme", &name(number));
        let octets = encoding::encode_credential(&row);
        Replacement::of(Table::Credentials, credential_key(&row.id), Some(octets), None)
    };
    (0..ROWS).map(replacement).collect()
}

/// A group is committed on a disk that fails at each of the calls that this takes, in turn.
#[tokio::test]
async fn a_group_whose_disk_fails_is_failed_whole_and_stands_whole_or_not_at_all() {
    let file = new_file();
    let (mut failed, mut standing) = (0, 0);
    for fails_after in 0.. {
        let disk = Disk::new(file.clone());
        let db = builder().create_with_backend(disk.clone()).unwrap();
        let (sender, waiting) = mpsc::sync_channel(ROWS);
        let answers: Vec<Answer> = group()
            .into_iter()
            .map(|replacement| {
                let (answer, answered) = oneshot::channel();
                sender.send(Write { replacement, answer }).unwrap();
                answered
            })
            .collect();
        drop(sender);
        {
            let mut parts = disk.parts();
            parts.fails_after = parts.calls + fails_after;
        }
        write_groups(&waiting, &Histogram::noop(), |group| commit(&db, group));
        let answers: Vec<_> = join_all(answers).await.into_iter().map(Result::unwrap).collect();
        let left = disk.parts().left_without_power();
        let store = open_disk(Disk::new(left));
        let credentials = EmbeddedCredentials(Arc::clone(&store));
        let present = credentials.query(None, None, 100).await.unwrap().rows.len();
        if answers.iter().all(|answer| *answer == Ok(None)) {
            assert_eq!(present, ROWS, "acknowledged, and not there");
            break;
        }
        assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Away(_)))), "{fails_after}: {answers:?}");
        assert!(present == 0 || present == ROWS, "{fails_after}: {present} rows of {ROWS}");
        failed += 1;
        standing += usize::from(present == ROWS);
    }
    println!("failed at each of {failed} calls; the group stood after {standing}");
    assert!(failed > 3, "a commit that hardly writes");
}

/// What came before a failed commit is there; nothing is written after it until the file is opened anew.
#[tokio::test]
async fn after_a_failed_commit_nothing_is_written() {
    let disk = Disk::new(new_file());
    let store = open_disk(disk.clone());
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    let row = living("acme", "before");
    assert!(matches!(credentials.replace(None, row.clone()).await, Ok(Replaced::Done)));
    {
        let mut parts = disk.parts();
        parts.fails_after = parts.calls;
    }
    let outcomes = join_all((0..ROWS).map(|number| credentials.replace(None, living("acme", &name(number))))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StoreError::Away(_)))), "{outcomes:?}");
    store.failed().await;
    // The disk is well again, and this store is not.
    disk.parts().fails_after = usize::MAX;
    assert!(matches!(credentials.replace(None, living("acme", "after")).await, Err(StoreError::Away(_))));
    assert_eq!(credentials.get(&row.id).await.unwrap().as_ref(), Some(&row));
    let left = disk.parts().left_without_power();
    let credentials = EmbeddedCredentials(open_disk(Disk::new(left)));
    assert_eq!(credentials.get(&row.id).await.unwrap(), Some(row));
    assert!(matches!(credentials.replace(None, living("acme", "after")).await, Ok(Replaced::Done)));
}

/// Those who write at the same time share syncs.
#[tokio::test]
async fn concurrent_writes_share_a_durable_commit() {
    let disk = Disk::new(new_file());
    let store = open_disk(disk.clone());
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    let calls = || disk.parts().calls;
    let before = calls();
    assert!(matches!(credentials.replace(None, living("acme", "alone")).await, Ok(Replaced::Done)));
    let alone = calls() - before;
    let before = calls();
    let writes = (0..400).map(|number| credentials.replace(None, living("acme", &name(number))));
    assert!(join_all(writes).await.iter().all(|outcome| matches!(outcome, Ok(Replaced::Done))));
    let shared = calls() - before;
    assert!(shared < 100 * alone, "400 writes took {shared} calls of the disk, and one alone takes {alone}");
}
