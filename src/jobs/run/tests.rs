//! Jobs on the real vault, keyring and embedded store; two replicas are two of everything but the store.

use std::cell::Cell;
use std::sync::Mutex;

use async_trait::async_trait;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::super::plan::VersionCount;
use super::*;
use crate::crypto::{CustomerKey, Environment, Lineage, Version};
use crate::customers::CustomerDirectory;
use crate::factors::document::{KeyDocument, KeyEntry, KeyState};
use crate::factors::{EnvironmentSource, KeySet, KeyWrapper, WrapContext, WrappedKey};
use crate::ids::{Caller, CredentialId, Deployment};
use crate::keyring::{CacheLimits, EnvironmentTiming, Sources};
use crate::secret::{Opaque, Secret, SecretOctets, View};
use crate::store::Rows;
use crate::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use crate::vault::Condition;

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(1_764_000_000) };
}

/// Lets time pass, in seconds.
fn pass(seconds: i64) {
    NOW.set(NOW.get() + seconds);
}

fn clock() -> Timestamp {
    Timestamp::from_second(NOW.get()).unwrap()
}

fn key_set<F>(primary: u32, seed: u8) -> KeySet<F> {
    let entry = |version: u32| KeyEntry {
        version,
        key: Zeroizing::new([seed + u8::try_from(version).unwrap(); 32]),
        state: KeyState::Enabled,
        created_at: None,
        primary_until: None,
    };
    KeySet::from_document(KeyDocument { primary, keys: vec![entry(1), entry(2)] }).unwrap()
}

/// Versions 1 and 2 of the environment key, of which one is the primary.
struct Switched(Mutex<u32>);

#[async_trait]
impl EnvironmentSource for Switched {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        Ok(key_set(*self.0.lock().unwrap(), 100))
    }
}

/// Its wrapped keys are the octet that the key consists of.
struct Octets;

#[async_trait]
impl KeyWrapper for Octets {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        Ok(WrappedKey { octets: vec![u8::try_from(context.version.get()).unwrap()], kms_key_arn: "arn".to_owned() })
    }

    async fn unwrap(&self, _: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        Ok(CustomerKey::new(Zeroizing::new([wrapped.octets[0]; 32])))
    }
}

struct Replica {
    vault: Arc<Vault>,
    directory: CustomerDirectory,
    jobs: Jobs,
    keyring: Keyring,
    id: ReplicaId,
    since: Timestamp,
}

/// A store, and replicas on it.
struct Setup {
    store: Arc<EmbeddedStore>,
    environment: Arc<Switched>,
    _files: TempDir,
}

impl Setup {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let deployment = Deployment::parse("test").unwrap();
        let store = Arc::new(EmbeddedStore::open(&files.path().join("store.redb"), &deployment).unwrap());
        Self { store, environment: Arc::new(Switched(Mutex::new(1))), _files: files }
    }

    fn operations(&self) -> Arc<EmbeddedOperations> {
        Arc::new(EmbeddedOperations(Arc::clone(&self.store)))
    }

    /// A replica that seals under this version of the codebase key.
    async fn replica(&self, codebase: u32) -> Replica {
        let deployment = Deployment::parse("test").unwrap();
        let customers = Arc::new(EmbeddedCustomers(Arc::clone(&self.store)));
        let credentials = Arc::new(EmbeddedCredentials(Arc::clone(&self.store)));
        let sources = Sources {
            deployment: deployment.clone(),
            codebase: key_set(codebase, 10),
            environment: self.environment.clone(),
            wrapper: Arc::new(Octets),
            customers: customers.clone(),
            operations: self.operations(),
        };
        let hour = Duration::from_hours(1);
        let limits =
            CacheLimits { roots: 1_000, refresh_after: hour, max_age: hour, customer_staleness: Duration::ZERO };
        let keyring = Keyring::start(sources, EnvironmentTiming { poll: hour, max_age: hour }, limits).await.unwrap();
        let vault = Arc::new(Vault::new(deployment.clone(), credentials.clone(), keyring.clone(), clock));
        let id = ReplicaId::random().unwrap();
        let (jobs_vault, operations) = (vault.clone(), self.operations());
        let jobs = Jobs::new(jobs_vault, credentials.clone(), operations, keyring.clone(), id.clone(), clock, || false);
        let directory =
            CustomerDirectory::new(deployment, customers, credentials, Arc::new(Octets), keyring.clone(), clock);
        Replica { vault, directory, jobs, keyring, id, since: clock() }
    }

    async fn row(&self, id: &CredentialRef) -> CredentialRow {
        EmbeddedCredentials(Arc::clone(&self.store)).get(id).await.unwrap().unwrap()
    }
}

impl Replica {
    /// What `report_for_ever` does once.
    async fn report(&self, setup: &Setup) {
        let report = report_for(self).await;
        super::super::replicas::write(setup.operations().as_ref(), &report).await.unwrap();
    }

    async fn encrypt(&self, id: &CredentialRef, text: &str) {
        let data = SecretOctets::new(text.as_bytes().to_vec());
        let secret = Secret::Opaque(Opaque { data, content_type: String::new() });
        self.vault.encrypt(&Caller::new("test"), id, secret, Condition::None, None).await.unwrap();
    }

    async fn decrypt(&self, id: &CredentialRef) -> String {
        match self.vault.decrypt(id, View::Full, None).await.unwrap().0 {
            Secret::Opaque(opaque) => String::from_utf8(opaque.data.into_exposed()).unwrap(),
            _ => panic!("it is opaque"),
        }
    }

    /// Works until nothing is left to do now.
    async fn works(&self) {
        while self.jobs.work().await.unwrap() {}
    }
}

async fn report_for(replica: &Replica) -> super::super::Replica {
    super::super::Replica {
        id: replica.id.as_str().to_owned(),
        release: "test".to_owned(),
        primaries: replica.keyring.primaries().await.ok(),
        primaries_since: replica.since,
        report_time: clock(),
    }
}

fn customer(name: &str) -> CustomerId {
    CustomerId::parse(name).unwrap()
}

fn credential(owner: &str, name: &str) -> CredentialRef {
    CredentialRef { customer: customer(owner), credential: CredentialId::parse(name).unwrap() }
}

fn lineage(row: &CredentialRow) -> Lineage {
    match &row.life {
        Life::Living(living) => Envelope::lineage_of(&living.envelope).unwrap(),
        Life::Deleted { .. } => panic!("it is deleted"),
    }
}

fn versions(codebase: u32, environment: u32, customer: u32) -> Lineage {
    let version = |number| Version::new(number).unwrap();
    Lineage { codebase: version(codebase), environment: version(environment), customer: version(customer) }
}

/// More than two pages, of two customers; the second is disabled.
async fn filled(replica: &Replica) -> Vec<CredentialRef> {
    let mut ids = Vec::new();
    for owner in ["acme", "other"] {
        replica.directory.create(&customer(owner)).await.unwrap();
        for number in 0..300 {
            let id = credential(owner, &format!("c{number}"));
            replica.encrypt(&id, &format!("{owner} {number}")).await;
            ids.push(id);
        }
    }
    replica.directory.disable(&customer("other")).await.unwrap();
    ids
}

#[tokio::test]
async fn every_record_is_brought_to_the_primaries_and_nothing_else_changes() {
    let setup = Setup::new();
    let old = setup.replica(1).await;
    let ids = filled(&old).await;
    let mut before = Vec::new();
    for id in &ids {
        before.push(setup.row(id).await);
    }
    pass(100);
    // All three factors have moved on.
    *setup.environment.0.lock().unwrap() = 2;
    let replica = setup.replica(2).await;
    for owner in ["acme", "other"] {
        replica.directory.rotate(&customer(owner)).await.unwrap();
    }
    replica.report(&setup).await;
    let job = replica.jobs.start(JobKind::Reencryption, None, None).await.unwrap();
    assert_eq!(
        replica.jobs.start(JobKind::Reencryption, None, None).await,
        Err(JobError::Running(job.id.clone())),
        "one at a time"
    );
    replica.works().await;
    let (second, progress) = replica.jobs.get(&job.id).await.unwrap();
    assert_eq!((second.state, second.pass, second.changed, second.total), (JobState::Running, 2, 600, 600));
    assert_eq!(progress, Progress::default(), "the next pass waits until nobody can seal under the old versions");

    pass(30);
    replica.works().await;
    let (done, progress) = replica.jobs.get(&job.id).await.unwrap();
    assert_eq!((done.state, done.changed, progress.skipped, progress.done), (JobState::Done, 600, 600, 600));
    for (id, before) in ids.iter().zip(before) {
        let after = setup.row(id).await;
        assert_eq!((lineage(&before), lineage(&after)), (versions(1, 1, 1), versions(2, 2, 2)));
        assert_ne!(before.write_id, after.write_id);
        let Life::Living(living) = &after.life else { panic!("it lives") };
        let Life::Living(former) = &before.life else { panic!("it lived") };
        let unsealed = Life::Living(crate::store::Living { envelope: former.envelope.clone(), ..living.clone() });
        assert_eq!(CredentialRow { write_id: before.write_id, life: unsealed, ..after }, before);
    }
    assert_eq!(replica.decrypt(&ids[7]).await, "acme 7");
    replica.directory.enable(&customer("other")).await.unwrap();
    assert_eq!(replica.decrypt(&ids[307]).await, "other 7");
    // A further job finds nothing to change.
    let again = replica.jobs.start(JobKind::Reencryption, None, None).await.unwrap();
    assert!(again.id < job.id, "the last job is listed first");
    let listed = replica.jobs.list(None, 10).await.unwrap();
    assert_eq!(listed.rows.iter().map(|job| &job.id).collect::<Vec<_>>(), [&again.id, &job.id]);
}

#[tokio::test]
async fn a_record_that_does_not_open_is_named_and_left_as_it_is() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let ids = filled(&replica).await;
    let damaged = setup.row(&ids[3]).await;
    let Life::Living(mut living) = damaged.life.clone() else { panic!("it lives") };
    *living.envelope.last_mut().unwrap() ^= 1;
    let edited = CredentialRow { write_id: WriteId::random().unwrap(), life: Life::Living(living), ..damaged.clone() };
    let rows = EmbeddedCredentials(Arc::clone(&setup.store));
    rows.replace(Some(damaged.write_id), edited.clone()).await.unwrap();
    replica.directory.rotate(&customer("acme")).await.unwrap();
    replica.report(&setup).await;
    let job = replica.jobs.start(JobKind::Reencryption, Some(customer("acme")), None).await.unwrap();
    replica.works().await;
    pass(30);
    replica.report(&setup).await;
    replica.works().await;
    let (done, progress) = replica.jobs.get(&job.id).await.unwrap();
    assert_eq!((done.state, done.changed, progress.done), (JobState::DoneWithFailures, 299, 300), "{progress:?}");
    let failure = plan::Failure { id: ids[3].clone(), reason: "NOT_AUTHENTIC".to_owned() };
    assert_eq!((progress.failed, progress.failures), (1, vec![failure]));
    assert_eq!(setup.row(&ids[3]).await, edited);
    assert_eq!(lineage(&setup.row(&ids[300]).await), versions(1, 1, 1), "the other customer's are not the job's");
}

#[tokio::test]
async fn a_job_goes_on_where_a_killed_replica_left_it() {
    let setup = Setup::new();
    let (one, other) = (setup.replica(1).await, setup.replica(1).await);
    let ids = filled(&one).await;
    one.directory.rotate(&customer("acme")).await.unwrap();
    let job = one.jobs.start(JobKind::Reencryption, Some(customer("acme")), None).await.unwrap();
    // Dropped at its first wait after the first page was written.
    {
        let mut work = Box::pin(one.jobs.work());
        loop {
            let polled = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
            assert!(polled.is_pending(), "it was done before it could be killed");
            tokio::task::yield_now().await;
            if one.jobs.get(&job.id).await.unwrap().1.done > 0 {
                break;
            }
        }
    }
    let (_, progress) = other.jobs.get(&job.id).await.unwrap();
    assert_eq!((progress.done, progress.changed), (PAGE as u64, PAGE as u64));
    assert!(!other.jobs.work().await.unwrap(), "its lease is good for a while");
    pass(31);
    other.report(&setup).await;
    other.works().await;
    pass(30);
    other.report(&setup).await;
    other.works().await;
    let (done, progress) = other.jobs.get(&job.id).await.unwrap();
    assert_eq!((done.state, done.changed, progress.done), (JobState::Done, 300, 300));
    for id in &ids[..300] {
        assert_eq!(lineage(&setup.row(id).await), versions(1, 1, 2));
    }
}

#[tokio::test]
async fn writers_win_over_a_job_and_lose_nothing() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let ids = filled(&replica).await;
    replica.directory.rotate(&customer("acme")).await.unwrap();
    replica.report(&setup).await;
    replica.jobs.start(JobKind::Reencryption, Some(customer("acme")), None).await.unwrap();
    let writes = async {
        for round in 0..3 {
            for id in &ids[..100] {
                replica.encrypt(id, &format!("round {round}")).await;
            }
        }
    };
    tokio::join!(replica.works(), writes);
    for id in &ids[..100] {
        assert_eq!(replica.decrypt(id).await, "round 2");
        assert_eq!(setup.row(id).await.revision.get(), 4);
    }
    assert_eq!(replica.decrypt(&ids[200]).await, "acme 200");
}

#[tokio::test]
async fn a_job_waits_for_a_replica_that_seals_below_its_target() {
    let setup = Setup::new();
    let (old, new) = (setup.replica(1).await, setup.replica(2).await);
    let ids = filled(&old).await;
    for replica in [&old, &new] {
        replica.report(&setup).await;
    }
    let job = new.jobs.start(JobKind::Reencryption, None, None).await.unwrap();
    assert!(!old.jobs.work().await.unwrap(), "it takes no part in what it would undo");
    for _ in 0..5 {
        new.works().await;
        pass(30);
        for replica in [&old, &new] {
            replica.report(&setup).await;
        }
    }
    // It may seal a record under the old version at any time, and does.
    old.encrypt(&ids[5], "late").await;
    assert_eq!(new.jobs.get(&job.id).await.unwrap().0.state, JobState::Running);
    // It is gone: and what it left behind is found.
    for _ in 0..5 {
        pass(30);
        new.report(&setup).await;
        new.works().await;
    }
    assert_eq!(new.jobs.get(&job.id).await.unwrap().0.state, JobState::Done);
    assert_eq!(lineage(&setup.row(&ids[5]).await), versions(2, 1, 1));
    assert_eq!(new.decrypt(&ids[5]).await, "late");
}

#[tokio::test]
async fn a_count_tells_the_versions_and_writes_no_record() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let ids = filled(&replica).await;
    replica.directory.rotate(&customer("acme")).await.unwrap();
    replica.encrypt(&ids[0], "new").await;
    replica.vault.delete(&Caller::new("test"), &ids[1], None).await.unwrap();
    let before = setup.row(&ids[2]).await;
    let job = replica.jobs.start(JobKind::Count, None, None).await.unwrap();
    replica.works().await;
    let (done, progress) = replica.jobs.get(&job.id).await.unwrap();
    assert_eq!((done.state, progress.done, progress.changed), (JobState::Done, 599, 0));
    let counts: Vec<_> = progress.counts.into_iter().collect();
    let wanted = [
        (VersionCount::Codebase(1), 599),
        (VersionCount::Environment(1), 599),
        (VersionCount::Customer(1), 598),
        (VersionCount::Customer(2), 1),
    ];
    assert_eq!(counts, wanted);
    assert_eq!(setup.row(&ids[2]).await, before);
}

#[tokio::test]
async fn a_cancelled_job_is_worked_on_no_more_and_makes_room_for_another() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    filled(&replica).await;
    let job = replica.jobs.start(JobKind::Reencryption, None, None).await.unwrap();
    let cancelled = replica.jobs.cancel(&job.id).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(replica.jobs.cancel(&job.id).await, Ok(cancelled));
    assert!(!replica.jobs.work().await.unwrap());
    replica.jobs.start(JobKind::Reencryption, None, None).await.unwrap();
    let unknown = JobId::parse("0000000000000-00000000").unwrap();
    assert_eq!(replica.jobs.get(&unknown).await.map(|_| ()), Err(JobError::NotFound));
    assert_eq!(replica.jobs.cancel(&unknown).await, Err(JobError::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_kept_to() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    replica.directory.create(&customer("acme")).await.unwrap();
    for number in 0..50 {
        replica.encrypt(&credential("acme", &format!("c{number}")), "x").await;
    }
    replica.report(&setup).await;
    replica.jobs.start(JobKind::Reencryption, None, Some(10)).await.unwrap();
    let began = Instant::now();
    assert!(replica.jobs.work().await.unwrap());
    // Fifty records are 49 intervals of 100 ms.
    assert!(began.elapsed() >= Duration::from_millis(4_900), "{:?}", began.elapsed());
}
