mod damage;
mod power;

use std::sync::mpsc;
use std::thread;

use futures_util::future::join_all;
use redb::ReadableDatabase;
use tokio::sync::{oneshot, watch};

use super::super::contract::{self, Backend, credential_ref, customer, customer_id, living, operation, version};
use super::file::{ABOUT, FORMAT, definition};
use super::writer::{Refusal, Write, write_groups};
use super::*;
use crate::telemetry::metrics::Histogram;

fn deployment(name: &str) -> Deployment {
    Deployment::parse(name).unwrap()
}

fn open(path: &Path) -> Result<Arc<EmbeddedStore>, OpenError> {
    EmbeddedStore::open(path, &deployment("test")).map(Arc::new)
}

impl EmbeddedCredentials {
    /// Puts these octets in the place of a row.
    pub(crate) fn damage(&self, id: &CredentialRef, octets: &[u8]) {
        let txn = self.0.view.db.begin_write().unwrap();
        let key = credential_key(id);
        txn.open_table(definition(Table::Credentials)).unwrap().insert(key.as_slice(), octets).unwrap();
        txn.commit().unwrap();
        self.0.view.renew().unwrap();
    }
}

fn refused(path: &Path) -> OpenError {
    open(path).err().unwrap_or_else(|| panic!("{} was opened", path.display()))
}

/// The names of what stands in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb")).unwrap();
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    let customers = EmbeddedCustomers(Arc::clone(&store));
    let operations = EmbeddedOperations(store);
    contract::check_all(&Backend { credentials: &credentials, customers: &customers, operations: &operations }).await;
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let (row, owner, record) = (living("acme", "crm"), customer("acme"), operation("codebase#1"));
    let key = KeyRow { version: version(1), wrapped: vec![9; 97], kms_key_arn: "arn".to_owned() };
    {
        let store = open(&path).unwrap();
        EmbeddedCredentials(Arc::clone(&store)).replace(None, row.clone()).await.unwrap();
        let write = CustomerWrite { key: Some(key.clone()), ..CustomerWrite::of(owner.clone()) };
        EmbeddedCustomers(Arc::clone(&store)).replace(None, write).await.unwrap();
        EmbeddedOperations(store).replace(None, record.clone()).await.unwrap();
    }
    assert_eq!(names(directory.path()), ["store.redb"], "nothing is left of the making");
    for _ in 0..2 {
        let store = open(&path).unwrap();
        assert_eq!(EmbeddedCredentials(Arc::clone(&store)).get(&row.id).await.unwrap().as_ref(), Some(&row));
        assert_eq!(EmbeddedCustomers(Arc::clone(&store)).get(&owner.id).await.unwrap().as_ref(), Some(&owner));
        let keys = EmbeddedCustomers(Arc::clone(&store));
        assert_eq!(keys.key(&owner.id, version(1)).await.unwrap().as_ref(), Some(&key));
        assert_eq!(EmbeddedOperations(store).get(&record.id).await.unwrap().as_ref(), Some(&record));
    }
}

#[test]
fn a_file_is_opened_by_one_and_for_its_deployment_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path).unwrap();
    assert!(matches!(refused(&path), OpenError::Locked(at) if at == path));
    drop(store);

    let before = std::fs::read(&path).unwrap();
    match EmbeddedStore::open(&path, &deployment("production")) {
        Err(OpenError::OtherDeployment(at, owner)) => assert_eq!((at, owner.as_str()), (path.clone(), "test")),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened for another deployment"),
    }
    // redb counts its openings in the file; the records are as they were.
    assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
    assert!(open(&path).is_ok());
}

#[test]
fn what_is_no_store_is_refused_by_name_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (name, content) in [
        ("empty", Vec::new()),
        ("short", b"redb".to_vec()),
        ("text", b"not a store\n".repeat(2_000)),
        ("zeros", vec![0; 100_000]),
    ] {
        std::fs::write(path(name), &content).unwrap();
        let refusal = refused(&path(name));
        assert!(matches!(&refusal, OpenError::Damaged(at, _) if *at == path(name)), "{refusal}");
        assert!(std::fs::read(path(name)).unwrap() == content, "{name} was changed");
    }

    std::fs::create_dir(path("directory")).unwrap();
    assert!(matches!(refused(&path("directory")), OpenError::Io(..)));
    assert!(matches!(refused(&path("missing/store.redb")), OpenError::Io(..)));
    assert!(matches!(refused(&path("text/store.redb")), OpenError::Io(..)));
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    assert!(matches!(refused(&path("dangling")), OpenError::Io(..)));
    assert_eq!(names(directory.path()), ["dangling", "directory", "empty", "short", "text", "zeros"]);
}

/// Whatever else writes redb files: its file is not made ours.
#[test]
fn another_programs_file_is_not_adopted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.redb");
    let other = Database::create(&path).unwrap();
    let txn = other.begin_write().unwrap();
    txn.open_table(definition(Table::Credentials)).unwrap().insert(b"key".as_slice(), b"value".as_slice()).unwrap();
    txn.commit().unwrap();
    drop(other);
    assert!(matches!(refused(&path), OpenError::Damaged(..)));
    let other = Database::open(&path).unwrap();
    assert!(other.begin_read().unwrap().open_table(ABOUT).is_err());
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(open(&path).unwrap());
    let db = Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(ABOUT).unwrap().insert(FORMAT, b"triseal store 2".as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);
    assert!(matches!(refused(&path), OpenError::UnknownFormat(at) if at == path));
}

type Answer = oneshot::Receiver<Result<Refusal, StoreError>>;

/// As many writes as wait for the writer, and where their answers come.
fn queue(writes: usize) -> (mpsc::Receiver<Write>, Vec<Answer>) {
    let (sender, waiting) = mpsc::sync_channel(writes);
    let answers = (0..writes).map(|_| {
        let row = living("acme", "crm");
        let octets = encoding::encode_credential(&row);
        let replacement = Replacement::of(Table::Credentials, credential_key(&row.id), Some(octets), None);
        let (answer, answered) = oneshot::channel();
        sender.send(Write { replacement, answer }).unwrap();
        answered
    });
    let answers = answers.collect();
    (waiting, answers)
}

#[test]
fn writes_that_wait_share_a_commit() {
    let (waiting, answers) = queue(600);
    let mut groups = Vec::new();
    write_groups(&waiting, &Histogram::noop(), |group| {
        groups.push(group.len());
        Ok(group.iter().map(|_| Ok(None)).collect())
    });
    assert_eq!(groups, [256, 256, 88]);
    assert!(answers.into_iter().all(|answer| answer.blocking_recv().unwrap() == Ok(None)));
}

#[test]
fn a_commit_that_fails_fails_every_write_in_it_and_is_the_last() {
    let (waiting, answers) = queue(300);
    let mut commits = 0;
    write_groups(&waiting, &Histogram::noop(), |group| {
        commits += 1;
        if commits == 1 { Err(StoreError::Away("full".to_owned())) } else { Ok(vec![Ok(None); group.len()]) }
    });
    drop(waiting);
    let outcomes: Vec<_> = answers.into_iter().map(oneshot::Receiver::blocking_recv).collect();
    assert!(outcomes[..256].iter().all(|outcome| *outcome == Ok(Err(StoreError::Away("full".to_owned())))));
    assert!(outcomes[256..].iter().all(Result::is_err), "never written, and never answered as if");
    assert_eq!(commits, 1);
}

#[tokio::test]
async fn a_writer_that_dies_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb")).unwrap();
    let row = living("acme", "crm");
    EmbeddedCredentials(Arc::clone(&store)).replace(None, row.clone()).await.unwrap();

    let (writes, waiting) = mpsc::sync_channel(10);
    let (ended, writing) = watch::channel(None);
    let dies = thread::spawn(move || {
        let _ended = ended;
        write_groups(&waiting, &Histogram::noop(), |_| panic!("planted"));
    });
    let writer = Writer { writes: Some(writes), thread: Some(dies), ended: writing };
    let store = Arc::new(EmbeddedStore { writer, view: Arc::clone(&store.view) });
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    assert!(!store.has_failed());
    let writes = (0..5).map(|_| credentials.replace(None, living("acme", "crm")));
    for outcome in join_all(writes).await {
        assert!(matches!(outcome, Err(StoreError::Away(_))));
    }
    assert!(matches!(credentials.replace(None, living("acme", "crm")).await, Err(StoreError::Away(_))));
    assert_eq!(credentials.get(&row.id).await.unwrap(), Some(row), "what was written is still read");
    store.failed().await;
    assert!(store.has_failed());
}

/// Whoever comes after a commit that failed is told why it did.
#[tokio::test]
async fn a_writer_that_failed_goes_on_saying_why() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb")).unwrap();
    let full = StoreError::Away("the file system answered: No space left on device".to_owned());
    let (writes, _) = mpsc::sync_channel(10);
    let (failing, writing) = watch::channel(None);
    failing.send_replace(Some(full.clone()));
    drop(failing);
    let writer = Writer { writes: Some(writes), thread: None, ended: writing };
    let failed = EmbeddedStore { writer, view: Arc::clone(&store.view) };
    assert!(failed.has_failed() && failed.failure() == Some(full.clone()));
    let credentials = EmbeddedCredentials(Arc::new(failed));
    assert_eq!(credentials.replace(None, living("acme", "crm")).await.err(), Some(full));
}

/// A row that is not of our form is told, and not written over.
#[tokio::test]
async fn a_corrupt_row_is_an_error_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb")).unwrap();
    let row = living("acme", "crm");
    let good = encoding::encode_credential(&row);
    let newer = &[3; 100][..];
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    let beside = living("acme", "later");
    credentials.replace(None, beside.clone()).await.unwrap();
    for bad in [&b""[..], &[1], newer, &good[..17], &good[..good.len() - 1], &[good.as_slice(), &[0]].concat()] {
        credentials.damage(&row.id, bad);
        let told = |error: &StoreError| match error {
            StoreError::Newer => bad == newer,
            StoreError::Corrupt(_) => bad != newer,
            _ => false,
        };
        assert!(credentials.get(&row.id).await.is_err_and(|error| told(&error)));
        // It hides no other row: among many it fails alone, and a list goes on after it.
        let many = credentials.get_many(&[&beside.id, &row.id, &beside.id]).await;
        assert!(many[1].as_ref().is_err_and(told));
        assert!([&many[0], &many[2]].into_iter().all(|read| *read == Ok(Some(beside.clone()))));
        let page = credentials.query(None, None, 10).await.unwrap();
        assert_eq!(page.rows, std::slice::from_ref(&beside));
        let page = credentials.query(None, None, 1).await.unwrap();
        assert!(page.rows.is_empty() && page.next == Some(row.id.clone()));
        // Who must miss nothing meets it.
        let acme = Extent::Customer(row.id.customer.clone());
        for extent in [acme, Extent::Part { index: 0, of: 1 }] {
            let mut met = credentials.scan(&extent, None, 10).await.unwrap().rows;
            assert_eq!(met.pop(), Some(Met { id: beside.id.clone(), row: Ok(beside.clone()) }));
            let unreadable = met.pop().unwrap();
            assert!(unreadable.id == row.id && unreadable.row.is_err_and(|error| told(&error)) && met.is_empty());
        }
        for expected in [None, Some(WriteId::random().unwrap())] {
            let outcome = credentials.replace(expected, living("acme", "crm")).await;
            assert!(outcome.as_ref().is_err_and(told), "{outcome:?}");
        }
        let stored = store
            .view
            .tables()
            .get(Table::Credentials, &credential_key(&row.id), |octets| Ok(octets.to_vec()))
            .unwrap();
        assert_eq!(stored.unwrap(), bad);
        contract::an_unreadable_credential_is_erased(&credentials, &row.id).await;
    }
    assert_eq!(credentials.get(&credential_ref("acme", "other")).await.unwrap(), None);
    assert_eq!(EmbeddedCustomers(store).get(&customer_id("acme")).await.unwrap(), None);
}

#[tokio::test]
async fn records_of_a_kind_are_read_from_a_closed_file_and_nothing_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let of_kind = |kind, id: &str| OperationRow { id: OperationId { kind, id: id.to_owned() }, ..operation(id) };
    let rows = [of_kind("heads", "a"), of_kind("heads", "b"), of_kind("heads-", "c"), of_kind("head", "d")];
    let read = || operations_in_file(&path, "heads");
    {
        let store = open(&path).unwrap();
        let operations = EmbeddedOperations(Arc::clone(&store));
        for row in &rows {
            operations.replace(None, row.clone()).await.unwrap();
        }
        assert!(matches!(read(), Err(OpenError::Locked(_))));
        // As a process leaves it that is killed.
        std::fs::copy(&path, directory.path().join("killed.redb")).unwrap();
    }
    let before = std::fs::read(&path).unwrap();
    assert_eq!(read().unwrap(), rows[..2]);
    assert!(std::fs::read(&path).unwrap() == before);
    // Its deployment does not matter, and neither does who else reads it.
    let other = operations_in_file(&path, "nothing");
    assert_eq!(other.unwrap(), []);

    let killed = operations_in_file(&directory.path().join("killed.redb"), "heads").unwrap_err();
    assert!(matches!(killed, OpenError::NotClosed(_)) && killed.to_string().contains("killed.redb"), "{killed}");
    std::fs::write(directory.path().join("no.redb"), "no store").unwrap();
    let damaged = operations_in_file(&directory.path().join("no.redb"), "heads").unwrap_err();
    assert!(matches!(damaged, OpenError::Damaged(..)), "{damaged}");
    let absent = operations_in_file(&directory.path().join("absent.redb"), "heads").unwrap_err();
    assert!(matches!(absent, OpenError::Io(..)), "{absent}");
    assert!(!directory.path().join("absent.redb").exists());
}

/// Rows whose keys are none of ours, also more of them than a page has rows, end no list.
#[tokio::test]
async fn a_key_that_is_none_of_ours_ends_no_list() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store.redb")).unwrap();
    let (credentials, customers) = (EmbeddedCredentials(Arc::clone(&store)), EmbeddedCustomers(Arc::clone(&store)));
    let names = ["acme", "bravo"];
    for name in names {
        credentials.replace(None, living(name, "crm")).await.unwrap();
        customers.replace(None, CustomerWrite::of(customer(name))).await.unwrap();
    }
    let txn = store.view.db.begin_write().unwrap();
    for table in [Table::Credentials, Table::Customers] {
        let mut table = txn.open_table(definition(table)).unwrap();
        for bad in [b"".as_slice(), b"\0customer", b"a b\0customer", b"b", b"b/\0customer", b"\xff\0customer", b"z"] {
            table.insert(bad, b"octets".as_slice()).unwrap();
        }
    }
    txn.commit().unwrap();

    for limit in 1..4 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = credentials.query(None, after.as_ref(), limit).await.unwrap();
            listed.extend(page.rows.into_iter().map(|row| row.id.customer.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, names, "credentials, {limit} at a time");
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = customers.query(after.as_ref(), limit).await.unwrap();
            listed.extend(page.rows.into_iter().map(|row| row.id.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, names, "customers, {limit} at a time");
    }
}
