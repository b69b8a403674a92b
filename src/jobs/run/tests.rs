//! Jobs on the real vault, keyring and embedded store; two replicas are two of everything but the store.

mod refreshing;

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::stream;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::super::book::Parts;
use super::super::plan::VersionCount;
use super::super::record::{JOB, JobId};
use super::super::replicas::{self, KIND, Replica as Report, ReplicaId, Reporter, write as write_report};
use super::*;
use crate::access::{
    AllCustomers, CancelJob, GetJob, ListJobs, ListReplicas, Permit, StartCustomerKeyRotation, StartReencryption,
    StartRewrap,
};
use crate::audit::{AuditLog, Recording};
use crate::crypto::{CustomerKey, Envelope, Environment, Lineage, Version};
use crate::customers::CustomerDirectory;
use crate::factors::document::{KeyDocument, KeyEntry, KeyState};
use crate::factors::{EnvironmentSource, FactorError, KeySet, KeyWrapper, WrapContext, WrappedKey};
use crate::ids::{Caller, CredentialId, Deployment};
use crate::keyring::{CacheLimits, EnvironmentTiming, FirstReading, Keyring, Sources};
use crate::secret::{Opaque, Secret, SecretOctets, View};
use crate::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use crate::store::{
    ChangeError, ClockUnconfirmed, CredentialRow, Customers, Life, OperationId, Rows, StoreClock, WriteId,
};
use crate::vault::{Condition, Vault};

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(1_764_000_000) };
    /// Keys that are being unwrapped, now and at most until now.
    static UNWRAPPING: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
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

/// Versions 1 and 2 of the environment key, of which one is the primary. 0: it is away.
struct Switched(Mutex<u32>);

#[async_trait]
impl EnvironmentSource for Switched {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        match *self.0.lock().unwrap() {
            0 => Err(FactorError::Away("no answer".to_owned())),
            primary => Ok(key_set(primary, 100)),
        }
    }
}

/// Its wrapped keys are the octet that the key consists of.
struct Octets(&'static str);

#[async_trait]
impl KeyWrapper for Octets {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        Ok(WrappedKey {
            octets: vec![u8::try_from(context.version.get()).unwrap()],
            kms_key_arn: self.wraps_with().to_owned(),
        })
    }

    async fn unwrap(&self, _: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        let (now, most) = UNWRAPPING.get();
        UNWRAPPING.set((now + 1, most.max(now + 1)));
        // Long enough for all that may begin meanwhile to begin.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        UNWRAPPING.set((UNWRAPPING.get().0 - 1, UNWRAPPING.get().1));
        Ok(CustomerKey::new(Zeroizing::new([wrapped.octets[0]; 32])))
    }

    async fn rewrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<WrappedKey, FactorError> {
        if context.customer.as_str() == "refused" {
            return Err(FactorError::Refused("by a policy".to_owned()));
        }
        Ok(WrappedKey { kms_key_arn: self.wraps_with().to_owned(), ..wrapped.clone() })
    }

    fn wraps_with(&self) -> &str {
        self.0
    }
}

struct Replica {
    vault: Arc<Vault>,
    directory: Arc<CustomerDirectory>,
    jobs: Jobs,
    reporter: Arc<Reporter>,
    log: Recording,
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
        self.replica_that_wraps_with(codebase, "arn").await
    }

    async fn replica_that_wraps_with(&self, codebase: u32, name: &'static str) -> Replica {
        self.replica_of(codebase, name, false, None).await
    }

    async fn replica_of(
        &self,
        codebase: u32,
        name: &'static str,
        restored: bool,
        store_clock: Option<Arc<StoreClock>>,
    ) -> Replica {
        let deployment = Deployment::parse("test").unwrap();
        let customers = Arc::new(EmbeddedCustomers(Arc::clone(&self.store)));
        let credentials = Arc::new(EmbeddedCredentials(Arc::clone(&self.store)));
        let sources = Sources {
            deployment: deployment.clone(),
            codebase: key_set(codebase, 10),
            environment: FirstReading::of(self.environment.clone()).await.unwrap(),
            wrapper: Arc::new(Octets(name)),
            customers: customers.clone(),
            operations: self.operations(),
        };
        let hour = Duration::from_hours(1);
        let limits =
            CacheLimits { roots: 1_000, refresh_after: hour, max_age: hour, customer_staleness: Duration::ZERO };
        let keyring = Keyring::start(sources, EnvironmentTiming { poll: hour, max_age: hour }, limits).await.unwrap();
        let (audit, log) = AuditLog::recording(clock);
        let vault =
            Arc::new(Vault::new(deployment.clone(), credentials.clone(), keyring.clone(), audit.clone(), clock));
        let directory = CustomerDirectory::new(
            deployment,
            customers.clone(),
            credentials.clone(),
            Arc::new(Octets(name)),
            keyring.clone(),
            audit.clone(),
            clock,
        );
        let directory = Arc::new(directory.with_store_clock(store_clock));
        let id = ReplicaId::random().unwrap();
        let reporter = Arc::new(Reporter::new(id, keyring.clone(), name.to_owned(), self.operations(), clock));
        let jobs = Jobs::new(Parts {
            vault: vault.clone(),
            directory: directory.clone(),
            credentials,
            customers,
            operations: self.operations(),
            keyring,
            reporter: reporter.clone(),
            audit,
            restored,
            is_busy: Box::new(|| false),
            clock,
        });
        Replica { vault, directory, jobs, reporter, log }
    }

    async fn row(&self, id: &CredentialRef) -> CredentialRow {
        EmbeddedCredentials(Arc::clone(&self.store)).get(id).await.unwrap().unwrap()
    }
}

fn permit<A>(asked: A) -> Permit<A> {
    Permit::unasked(Caller::new("security"), asked)
}

impl Replica {
    async fn encrypt(&self, id: &CredentialRef, text: &str) {
        let data = SecretOctets::new(text.as_bytes().to_vec());
        let secret = Secret::Opaque(Opaque { data, content_type: String::new() });
        self.vault.encrypt_unasked(&Caller::new("test"), id, secret, Condition::None, None).await.unwrap();
    }

    async fn decrypt(&self, id: &CredentialRef) -> String {
        match self.vault.decrypt_unasked(id, View::Full, None).await.unwrap().0 {
            Secret::Opaque(opaque) => String::from_utf8(opaque.data.into_exposed()).unwrap(),
            _ => panic!("it is opaque"),
        }
    }

    async fn start(&self, kind: JobKind, owner: Option<&str>, rate: u32, dry_run: bool) -> Result<Job, JobError> {
        let (owner, rate) = (owner.map(customer), NonZeroU32::new(rate));
        match kind {
            JobKind::Reencryption => {
                self.jobs.start_reencryption(&permit(StartReencryption(owner)), dry_run, rate).await
            }
            JobKind::CustomerKeyRotation => {
                self.jobs.start_customer_key_rotation(&permit(StartCustomerKeyRotation(owner)), dry_run, rate).await
            }
            JobKind::Rewrap => self.jobs.start_rewrap(&permit(StartRewrap(owner)), dry_run, rate).await,
        }
    }

    /// Re-encrypts one customer's records, or all.
    async fn reencrypts(&self, owner: Option<&str>) -> Job {
        self.start(JobKind::Reencryption, owner, 0, false).await.unwrap()
    }

    async fn job(&self, id: &JobId) -> Result<(Job, Progress), JobError> {
        self.jobs.get(&permit(GetJob(AllCustomers)), id).await
    }

    async fn cancel(&self, id: &JobId) -> Result<Job, JobError> {
        self.jobs.cancel(&permit(CancelJob(AllCustomers)), id).await
    }

    /// Takes one part of one job as far as it goes.
    async fn works_once(&self) -> bool {
        let (_sender, mut stop) = watch::channel(false);
        for kind in JobKind::ALL {
            for dry_run in [false, true] {
                if self.jobs.work(kind, dry_run, &mut stop).await.unwrap() {
                    return true;
                }
            }
        }
        false
    }

    /// Works until nothing is left to do now.
    async fn works(&self) {
        while self.works_once().await {}
    }

    /// Works while time passes, until the job has ended.
    async fn ends(&self, id: &JobId) -> (Job, Progress) {
        for _ in 0..10 {
            self.works().await;
            let (job, progress) = self.job(id).await.unwrap();
            if job.state != JobState::Running {
                return (job, progress);
            }
            pass(20);
            self.reporter.report().await;
        }
        panic!("it does not end");
    }

    /// Of two calls that cancel a job: the first is announced and done, the second finds it ended, and neither has the other's name.
    fn cancels_are_told_apart(&self, job: &JobId) {
        let lines = self.log.lines();
        let calls = lines.lines().filter(|line| line.contains("\"event\":\"cancel_job\""));
        let of_job = format!("\"request_id\":\"{job}~");
        let names: Vec<_> = calls
            .map(|line| line.split_once(&of_job).expect("it names the job").1.split('"').next().unwrap())
            .collect();
        let [intent, outcome, second] = names[..] else { panic!("{lines}") };
        assert!(intent == outcome && intent != second, "{lines}");
    }

    /// Event and outcome of the audit log's entries of a job.
    fn entries(&self, job: &JobId) -> Vec<(String, String)> {
        let of_job = |line: &str| line.contains(&format!("\"request_id\":\"{job}\""));
        let field = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("\"{name}\":\"")).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        let lines = self.log.lines();
        lines.lines().filter(|line| of_job(line)).map(|line| (field(line, "event"), field(line, "outcome"))).collect()
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

/// More than two pages together, of two customers; the second is disabled.
async fn filled(replica: &Replica) -> Vec<CredentialRef> {
    let mut ids = Vec::new();
    for owner in ["acme", "other"] {
        replica.directory.create_unasked(&customer(owner)).await.unwrap();
        for number in 0..300 {
            let id = credential(owner, &format!("c{number}"));
            replica.encrypt(&id, &format!("{owner} {number}")).await;
            ids.push(id);
        }
    }
    replica.directory.disable_unasked(&customer("other")).await.unwrap();
    replica.reporter.report().await;
    ids
}

/// More of one customer than a stretch.
async fn filled_for_long(replica: &Replica) -> Vec<CredentialRef> {
    replica.directory.create_unasked(&customer("acme")).await.unwrap();
    let ids: Vec<_> = (0..STRETCH + 100).map(|number| credential("acme", &format!("c{number}"))).collect();
    stream::iter(&ids).for_each_concurrent(PAGE, |id| replica.encrypt(id, "x")).await;
    replica.reporter.report().await;
    ids
}

async fn rotate(replica: &Replica, owner: &str) {
    replica.directory.rotate_unasked(&customer(owner)).await.unwrap();
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
    rotate(&replica, "acme").await;
    rotate(&replica, "other").await;
    replica.reporter.report().await;
    let job = replica.reencrypts(None).await;
    let second = replica.start(JobKind::Reencryption, Some("acme"), 0, false).await;
    assert_eq!(second, Err(JobError::Running(job.id.clone())), "one at a time");
    replica.works().await;
    let (waiting, progress) = replica.job(&job.id).await.unwrap();
    assert_eq!((waiting.state, waiting.pass, waiting.pass_time), (JobState::Running, 2, None));
    assert_eq!((waiting.changed, waiting.total), (600, 600));
    assert_eq!(progress, Progress::default(), "the next pass waits until nobody can seal under the old versions");

    let (done, progress) = replica.ends(&job.id).await;
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
    replica.directory.enable_unasked(&customer("other")).await.unwrap();
    assert_eq!(replica.decrypt(&ids[307]).await, "other 7");
    // A further job finds nothing to change.
    let again = replica.reencrypts(None).await;
    assert!(again.id < job.id, "the last job is listed first");
    let listed = replica.jobs.list(&permit(ListJobs(AllCustomers)), None, 10).await.unwrap();
    assert_eq!(listed.rows.iter().map(|job| &job.id).collect::<Vec<_>>(), [&again.id, &job.id]);
    assert_eq!(replica.ends(&again.id).await.0.changed, 0);
}

#[tokio::test]
async fn records_that_do_not_open_or_can_not_be_read_are_named_and_left_as_they_are() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let ids = filled(&replica).await;
    let damaged = setup.row(&ids[3]).await;
    let Life::Living(mut living) = damaged.life.clone() else { panic!("it lives") };
    *living.envelope.last_mut().unwrap() ^= 1;
    let edited = CredentialRow { write_id: WriteId::random().unwrap(), life: Life::Living(living), ..damaged.clone() };
    let rows = EmbeddedCredentials(Arc::clone(&setup.store));
    rows.replace(Some(damaged.write_id), edited.clone()).await.unwrap();
    let shortened = setup.row(&ids[5]).await;
    let Life::Living(mut living) = shortened.life.clone() else { panic!("it lives") };
    living.envelope.truncate(20);
    let cut = CredentialRow { write_id: WriteId::random().unwrap(), life: Life::Living(living), ..shortened.clone() };
    rows.replace(Some(shortened.write_id), cut.clone()).await.unwrap();
    rotate(&replica, "acme").await;
    let job = replica.reencrypts(Some("acme")).await;
    let (done, progress) = replica.ends(&job.id).await;
    assert_eq!((done.state, done.changed, progress.done), (JobState::DoneWithFailures, 298, 300), "{progress:?}");
    let mut failures: Vec<_> =
        progress.failures.iter().map(|failure| (credential_of(&failure.id), failure.reason.as_str())).collect();
    failures.sort_by_key(|(id, _)| id.credential.clone());
    assert_eq!(failures, [(ids[3].clone(), "NOT_AUTHENTIC"), (ids[5].clone(), "MALFORMED")]);
    assert_eq!((setup.row(&ids[3]).await, setup.row(&ids[5]).await), (edited, cut));
    assert_eq!(lineage(&setup.row(&ids[300]).await), versions(1, 1, 1), "the other customer's are not the job's");

    let entries = replica.entries(&job.id);
    let entry = |event: &str, outcome: &str| (event.to_owned(), outcome.to_owned());
    assert_eq!(
        entries.iter().take(3).cloned().collect::<Vec<_>>(),
        [entry("start_reencryption", "intent"), entry("reencryption_job", "intent"), entry("start_reencryption", "ok")]
    );
    for reason in ["NOT_AUTHENTIC", "MALFORMED"] {
        let noted = entries.iter().filter(|found| **found == entry("reencryption_record", reason)).count();
        assert_eq!(noted, usize::try_from(done.pass).unwrap(), "in each pass");
    }
    assert!(entries.contains(&entry("reencryption_job", "DONE_WITH_FAILURES")));
}

fn credential_of(id: &ItemId) -> CredentialRef {
    super::credential(id).unwrap()
}

/// Secrets Manager is away for a quarter of an hour, in the middle of a part.
#[tokio::test]
async fn what_a_replica_without_fresh_keys_comes_to_is_no_failure_of_the_record() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    replica.directory.create_unasked(&customer("acme")).await.unwrap();
    let id = credential("acme", "crm");
    replica.encrypt(&id, "one").await;
    replica.reporter.report().await;
    rotate(&replica, "acme").await;
    let job = replica.reencrypts(None).await;
    let item = || async { Item::Record(Met { id: id.clone(), row: Ok(setup.row(&id).await) }) };
    *setup.environment.0.lock().unwrap() = 0;
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(2)).await;
    let came_to = replica.jobs.work_on_item(&job, &item().await).await.map(|_| ());
    assert_eq!(came_to, Err(JobError::Keyring(crate::keyring::KeyringError::KeysStale)), "the part is left to others");
    assert!(!replica.entries(&job.id).contains(&("reencryption_record".to_owned(), "KEYS_STALE".to_owned())));
    // With fresh keys, what still can't be opened is a version that this build does not know: that is the record's.
    *setup.environment.0.lock().unwrap() = 1;
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    assert_eq!(replica.ends(&job.id).await.0.state, JobState::Done);
}

#[tokio::test]
async fn a_job_goes_on_where_a_killed_replica_left_it() {
    let setup = Setup::new();
    let (one, other) = (setup.replica(1).await, setup.replica(1).await);
    let ids = filled_for_long(&one).await;
    rotate(&one, "acme").await;
    let job = one.reencrypts(Some("acme")).await;
    drop_after_a_stretch(&one, &job.id).await;
    let (_, progress) = other.job(&job.id).await.unwrap();
    assert_eq!((progress.done, progress.changed), (STRETCH as u64, STRETCH as u64));
    // All that the checkpoint tells of is written.
    let after = other.jobs.part(&job, 0).await.unwrap().0.after.unwrap().credential.unwrap();
    let told: Vec<_> = ids.iter().filter(|id| id.credential.as_str() <= after.as_str()).collect();
    assert_eq!(told.len(), STRETCH);
    for id in told {
        assert_eq!(lineage(&setup.row(id).await), versions(1, 1, 2));
    }
    assert!(!other.works_once().await, "its lease is good for a while");
    pass(31);
    let (done, progress) = other.ends(&job.id).await;
    let all = ids.len() as u64;
    assert_eq!((done.state, done.changed, progress.done), (JobState::Done, all, all));
    for id in &ids {
        assert_eq!(lineage(&setup.row(id).await), versions(1, 1, 2));
    }
}

/// Works until one stretch is written, and is dropped at the next wait.
async fn drop_after_a_stretch(replica: &Replica, id: &JobId) {
    let mut work = Box::pin(replica.works_once());
    loop {
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "it was done before it could be dropped");
        tokio::task::yield_now().await;
        if replica.jobs.look(id).await.unwrap().1.done > 0 {
            return;
        }
    }
}

#[tokio::test]
async fn a_replica_that_is_stopped_leaves_its_part_to_others_at_once() {
    let setup = Setup::new();
    let (one, other) = (setup.replica(1).await, setup.replica(1).await);
    let all = filled_for_long(&one).await.len() as u64;
    rotate(&one, "acme").await;
    let job = one.reencrypts(Some("acme")).await;
    let (sender, mut stop) = watch::channel(false);
    let mut work = Box::pin(one.jobs.work(JobKind::Reencryption, false, &mut stop));
    loop {
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "it was done before it could be stopped");
        tokio::task::yield_now().await;
        if one.jobs.look(&job.id).await.unwrap().1.done > 0 {
            break;
        }
    }
    assert!(!other.works_once().await, "somebody works on it");
    sender.send_replace(true);
    work.await.unwrap();
    assert_eq!(other.jobs.look(&job.id).await.unwrap().1.done, STRETCH as u64);
    assert!(other.works_once().await);
    assert_eq!(other.ends(&job.id).await.0.changed, all);
}

#[tokio::test]
async fn a_job_leaves_callers_their_share_of_kms() {
    let setup = Setup::new();
    let (one, other) = (setup.replica(1).await, setup.replica(1).await);
    let owners: Vec<_> = (0..100).map(|number| format!("customer-{number}")).collect();
    for owner in &owners {
        one.directory.create_unasked(&customer(owner)).await.unwrap();
        one.encrypt(&credential(owner, "c"), "x").await;
        rotate(&one, owner).await;
    }
    one.reporter.report().await;
    let job = one.reencrypts(None).await;
    UNWRAPPING.set((0, 0));
    assert_eq!(other.ends(&job.id).await.0.changed, 100);
    // 100 records were under way at once.
    assert_eq!(UNWRAPPING.get(), (0, 32));
}

#[tokio::test]
async fn writers_win_over_a_job_and_lose_nothing() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let ids = filled(&replica).await;
    rotate(&replica, "acme").await;
    replica.reencrypts(Some("acme")).await;
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
    new.reporter.report().await;
    let job = new.reencrypts(None).await;
    assert!(!old.works_once().await, "it takes no part in what it would undo");
    for _ in 0..5 {
        new.works().await;
        pass(30);
        old.reporter.report().await;
        new.reporter.report().await;
    }
    // It may seal a record under the old version at any time, and does.
    old.encrypt(&ids[5], "late").await;
    let (waiting, _) = new.job(&job.id).await.unwrap();
    assert_eq!((waiting.state, waiting.pass, waiting.pass_time), (JobState::Running, 2, None), "it walks no more");
    // It is gone: and what it left behind is found.
    old.reporter.leave().await;
    let (done, _) = new.ends(&job.id).await;
    assert_eq!((done.state, done.changed, done.pass), (JobState::Done, 601, 3));
    assert_eq!(lineage(&setup.row(&ids[5]).await), versions(2, 1, 1));
    assert_eq!(new.decrypt(&ids[5]).await, "late");
}

#[tokio::test]
async fn a_count_tells_the_versions_and_writes_no_record() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let ids = filled(&replica).await;
    rotate(&replica, "acme").await;
    replica.encrypt(&ids[0], "new").await;
    replica.vault.delete_unasked(&Caller::new("test"), &ids[1], None).await.unwrap();
    let before = setup.row(&ids[2]).await;
    // A re-encryption is under way, and no hindrance.
    replica.start(JobKind::Reencryption, Some("other"), 1, false).await.unwrap();
    let job = replica.start(JobKind::Reencryption, None, 0, true).await.unwrap();
    let (_sender, mut stop) = watch::channel(false);
    while replica.jobs.work(JobKind::Reencryption, true, &mut stop).await.unwrap() {}
    let (done, progress) = replica.job(&job.id).await.unwrap();
    assert_eq!((done.state, progress.done, progress.skipped, progress.changed), (JobState::Done, 600, 1, 0));
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
    let job = replica.reencrypts(None).await;
    let cancelled = replica.cancel(&job.id).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(replica.cancel(&job.id).await, Ok(cancelled));
    replica.cancels_are_told_apart(&job.id);
    let ends = replica.entries(&job.id).into_iter().filter(|entry| entry.0 == "reencryption_job").collect::<Vec<_>>();
    assert_eq!(ends.iter().map(|entry| entry.1.as_str()).collect::<Vec<_>>(), ["intent", "CANCELLED"], "once");
    assert!(!replica.works_once().await);
    replica.reencrypts(None).await;
    let unknown = JobId::parse("0000000000000-00000000").unwrap();
    assert_eq!(replica.job(&unknown).await.map(|_| ()), Err(JobError::NotFound));
    assert_eq!(replica.cancel(&unknown).await, Err(JobError::NotFound));
}

#[tokio::test]
async fn on_a_restored_store_no_job_goes_on_or_is_started_and_those_of_then_can_be_cancelled() {
    let setup = Setup::new();
    let before = setup.replica(1).await;
    filled(&before).await;
    rotate(&before, "acme").await;
    let job = before.reencrypts(None).await;
    before.reporter.leave().await;
    let restored = setup.replica_of(1, "arn", true, None).await;
    restored.reporter.report().await;
    assert!(!restored.works_once().await);
    assert_eq!(restored.job(&job.id).await.unwrap(), (job.clone(), Progress::default()), "it is as it was");
    for kind in JobKind::ALL {
        for dry_run in [false, true] {
            assert_eq!(restored.start(kind, None, 0, dry_run).await, Err(JobError::Restored));
        }
    }
    assert_eq!(restored.cancel(&job.id).await.unwrap().state, JobState::Cancelled);
    // Without the setting, there is room for a new one.
    let after = setup.replica(1).await;
    after.reporter.report().await;
    restored.reporter.leave().await;
    let job = after.reencrypts(None).await;
    assert_eq!(after.ends(&job.id).await.0.state, JobState::Done);
}

#[tokio::test]
async fn a_replica_whose_clock_the_store_does_not_confirm_starts_no_job_and_works_on_none() {
    let (setup, heard) = (Setup::new(), Arc::new(StoreClock::default()));
    let (right, other) = (setup.replica(1).await, setup.replica_of(1, "arn", false, Some(Arc::clone(&heard))).await);
    filled(&right).await;
    rotate(&right, "acme").await;
    let refused = || Err(JobError::Clock(ClockUnconfirmed));
    assert_eq!(other.start(JobKind::Reencryption, None, 0, false).await, refused(), "nothing was heard");
    let job = right.reencrypts(Some("acme")).await;
    heard.set(60_000);
    assert_eq!(other.start(JobKind::Rewrap, None, 0, true).await, refused());
    assert!(!other.works_once().await);
    assert_eq!(other.job(&job.id).await.unwrap().1.done, 0);
    // Set wrong in the middle of a part: it is left to others at once.
    heard.set(0);
    let mut work = Box::pin(other.works_once());
    loop {
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(work.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "it was done before its clock was wrong");
        tokio::task::yield_now().await;
        if right.jobs.look(&job.id).await.unwrap().1.done > 0 {
            break;
        }
        heard.set(if right.jobs.part(&job, 0).await.unwrap().1.is_some() { 60_000 } else { 0 });
    }
    assert!(!work.await);
    assert_eq!(right.job(&job.id).await.unwrap().1.done, PAGE as u64);
    assert!(right.works_once().await, "nobody holds it");
    assert_eq!(right.ends(&job.id).await.0.changed, 300);
}

#[tokio::test]
async fn every_customer_is_rotated_once_and_those_that_leave_are_left() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    filled(&replica).await;
    replica.directory.create_unasked(&customer("leaving")).await.unwrap();
    replica.directory.disable_unasked(&customer("leaving")).await.unwrap();
    replica.directory.destroy_unasked(&customer("leaving"), 7).await.unwrap();
    pass(100);
    let dry = replica.start(JobKind::CustomerKeyRotation, None, 0, true).await.unwrap();
    let (_, told) = replica.ends(&dry.id).await;
    assert_eq!((told.done, told.skipped, told.changed, told.failed), (3, 1, 0, 0), "two would be rotated");
    let job = replica.start(JobKind::CustomerKeyRotation, None, 0, false).await.unwrap();
    let (done, progress) = replica.ends(&job.id).await;
    assert_eq!((done.state, done.changed, done.pass), (JobState::Done, 2, 1));
    assert_eq!((progress.done, progress.skipped), (3, 1));
    let rows = EmbeddedCustomers(Arc::clone(&setup.store));
    let mut primaries = Vec::new();
    for name in ["acme", "leaving", "other"] {
        primaries.push(rows.get(&customer(name)).await.unwrap().unwrap().primary.get());
    }
    assert_eq!(primaries, [2, 1, 2]);
    let refused = replica.start(JobKind::CustomerKeyRotation, Some("leaving"), 0, false).await;
    assert_eq!(refused, Err(JobError::Customer(crate::customers::CustomerError::PendingDestruction)));
}

#[tokio::test]
async fn customer_keys_are_moved_by_replicas_that_wrap_with_the_new_key() {
    let setup = Setup::new();
    let old = setup.replica(1).await;
    filled(&old).await;
    old.directory.create_unasked(&customer("refused")).await.unwrap();
    let new = setup.replica_that_wraps_with(1, "new").await;
    new.reporter.report().await;
    let dry = new.start(JobKind::Rewrap, None, 0, true).await.unwrap();
    let told = new.ends(&dry.id).await.1;
    assert_eq!((told.done, told.skipped, told.changed), (3, 0, 0), "three would be moved");
    let job = new.start(JobKind::Rewrap, None, 0, false).await.unwrap();
    assert!(!old.works_once().await, "it would move them back");
    new.works().await;
    let (waiting, progress) = new.job(&job.id).await.unwrap();
    assert_eq!((waiting.pass_time, progress.done), (None, 0), "nothing is moved that the other may not open");
    // It makes a customer under the old key, as long as it is there.
    old.directory.create_unasked(&customer("late")).await.unwrap();
    old.reporter.leave().await;
    assert!(new.works_once().await, "at once");
    let (done, progress) = new.ends(&job.id).await;
    assert_eq!((done.state, done.changed), (JobState::DoneWithFailures, 3));
    let refused = plan::Failure {
        id: ItemId { customer: customer("refused"), credential: None },
        reason: "KMS_REFUSED".to_owned(),
    };
    assert_eq!(progress.failures, [refused]);
    let rows = EmbeddedCustomers(Arc::clone(&setup.store));
    for (name, arn) in [("acme", "new"), ("other", "new"), ("late", "new"), ("refused", "arn")] {
        let key = rows.key(&customer(name), Version::FIRST).await.unwrap().unwrap();
        assert_eq!(key.kms_key_arn, arn, "{name}");
    }
}

#[tokio::test]
async fn a_job_of_one_customer_needs_one_that_has_keys() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    for kind in JobKind::ALL {
        let refused = replica.start(kind, Some("nobody"), 0, false).await;
        assert_eq!(refused, Err(JobError::Customer(crate::customers::CustomerError::NotFound)));
    }
    // Nothing is left behind that would be in the way of another.
    replica.reencrypts(None).await;
}

#[tokio::test]
async fn replicas_are_listed_with_their_primaries_until_they_leave() {
    let setup = Setup::new();
    let (old, new) = (setup.replica(1).await, setup.replica(2).await);
    let listed = async || {
        let found = new.jobs.replicas(&permit(ListReplicas(AllCustomers))).await.unwrap().replicas;
        let mut found: Vec<_> = found
            .into_iter()
            .map(|replica| (replica.codebase.unwrap().get(), replica.is_alive(clock()), replica.since))
            .collect();
        found.sort_unstable();
        found
    };
    old.reporter.report().await;
    let began = clock();
    pass(50);
    new.reporter.report().await;
    assert_eq!(listed().await, [(1, true, began), (2, true, clock())]);
    pass(10);
    new.reporter.report().await;
    let (_, is_alive, _) = listed().await[0];
    assert!(!is_alive, "it has not reported for a minute");
    assert_eq!(listed().await[1].2, began + jiff::SignedDuration::from_secs(50), "since when, and not reported when");
    new.reporter.leave().await;
    assert_eq!(listed().await.len(), 1);
    pass(24 * 60 * 60);
    assert_eq!(listed().await, []);
}

/// Such as of a newer release. One row must not hide all others, nor be taken for a replica that seals nothing.
#[tokio::test]
async fn an_unreadable_report_hides_no_replica_and_is_waited_for_while_it_may_live() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    filled(&replica).await;
    let operations = setup.operations();
    let put = async |id: &str, body: Vec<u8>| {
        let id = OperationId { kind: KIND, id: id.to_owned() };
        let row = OperationRow { id: id.clone(), write_id: WriteId::random().unwrap(), body };
        let put = change(operations.as_ref(), &id, |_| std::future::ready(Ok(Decision::Replace(row.clone(), ()))));
        put.await.map_err(|error: ChangeError| error).unwrap();
    };
    // Of a form of its own in all but the time; and not even that.
    let report_time = clock().as_microsecond();
    put("newer", minicbor::to_vec((vec!["2.0"], 1, 1, 0, report_time)).unwrap()).await;
    pass(20);
    let job = replica.reencrypts(None).await;
    replica.reporter.report().await;
    replica.works().await;
    pass(30);
    replica.reporter.report().await;
    replica.works().await;
    assert_eq!(replica.job(&job.id).await.unwrap().0.state, JobState::Running, "it may seal under an old version");
    let listed = replica.jobs.replicas(&permit(ListReplicas(AllCustomers))).await.unwrap().replicas;
    assert_eq!(listed.len(), 1, "{listed:?}");
    // It has not reported for a minute.
    pass(20);
    assert_eq!(replica.ends(&job.id).await.0.state, JobState::Done);

    put("damaged", b"x".to_vec()).await;
    let second = replica.reencrypts(None).await;
    for _ in 0..5 {
        replica.works().await;
        pass(60);
        replica.reporter.report().await;
    }
    assert_eq!(replica.job(&second.id).await.unwrap().0.state, JobState::Running, "nobody knows whether it lives");
    let damaged = OperationId { kind: KIND, id: "damaged".to_owned() };
    replicas::remove(operations.as_ref(), &damaged).await.unwrap();
    assert_eq!(replica.ends(&second.id).await.0.state, JobState::Done);
}

#[tokio::test]
async fn an_unreadable_job_hides_no_other() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    let job = replica.reencrypts(None).await;
    let newer = JobId::new(clock(), 1);
    let id = OperationId { kind: JOB, id: newer.to_string() };
    let row = OperationRow { id: id.clone(), write_id: WriteId::random().unwrap(), body: b"x".to_vec() };
    let put =
        change(setup.operations().as_ref(), &id, |_| std::future::ready(Ok(Decision::Replace(row.clone(), ())))).await;
    put.map_err(|error: ChangeError| error).unwrap();
    let listed = replica.jobs.list(&permit(ListJobs(AllCustomers)), None, 10).await.unwrap();
    assert_eq!(listed.rows, [job]);
}

/// What a replica reports that has no fresh keys, and what an older release reports of one.
#[tokio::test]
async fn a_replica_that_does_not_seal_reports_the_codebase_version_of_its_build() {
    let setup = Setup::new();
    let (old, new) = (setup.replica(1).await, setup.replica(2).await);
    let present = old.reporter.present().await;
    assert_eq!((present.codebase, present.environment), (Version::new(1), Version::new(1)));
    let stale = Report { environment: None, ..present };
    write_report(setup.operations().as_ref(), &stale).await.unwrap();
    new.reporter.report().await;
    let listed = new.jobs.replicas(&permit(ListReplicas(AllCustomers))).await.unwrap().replicas;
    assert!(listed.contains(&stale), "{listed:?}");
    filled(&new).await;
    let job = new.reencrypts(None).await;
    new.works().await;
    pass(40);
    new.reporter.report().await;
    write_report(setup.operations().as_ref(), &Report { report_time: clock(), ..stale }).await.unwrap();
    new.works().await;
    let (waiting, _) = new.job(&job.id).await.unwrap();
    assert_eq!((waiting.state, waiting.pass_time), (JobState::Running, None), "it seals under 1 when it can again");
    old.reporter.leave().await;
    assert_eq!(new.ends(&job.id).await.0.state, JobState::Done);
}

/// A replica whose clock was an hour ahead when it died; and one whose clock was, and that lives.
#[tokio::test]
async fn a_report_from_the_future_holds_a_job_up_only_while_it_changes() {
    let setup = Setup::new();
    let (right, wrong) = (setup.replica(1).await, setup.replica(1).await);
    filled(&right).await;
    pass(3_600);
    wrong.reporter.report().await;
    pass(-3_600);
    right.reporter.report().await;
    let ours = right.reporter.by_our_time(right.jobs.reported().await.unwrap().replicas, clock());
    assert!(ours.iter().all(|replica| replica.report_time == clock() && replica.since <= clock()), "{ours:?}");
    // It goes on to report, each time an hour ahead.
    pass(59);
    pass(3_600);
    wrong.reporter.report().await;
    pass(-3_600);
    let alive = async || {
        let ours = right.reporter.by_our_time(right.jobs.reported().await.unwrap().replicas, clock());
        ours.iter().find(|replica| replica.id == wrong.reporter.id().as_str()).unwrap().is_alive(clock())
    };
    assert!(alive().await);
    pass(59);
    assert!(alive().await);
    pass(1);
    assert!(!alive().await, "it has not changed for a minute");
    right.reporter.report().await;
    let job = right.reencrypts(None).await;
    assert_eq!(right.ends(&job.id).await.0.state, JobState::Done);
}

/// In real time, for the store's writer is a thread that no paused clock waits for. A busy machine only takes longer.
#[tokio::test]
async fn a_rate_is_kept_to() {
    let setup = Setup::new();
    let replica = setup.replica(1).await;
    replica.directory.create_unasked(&customer("acme")).await.unwrap();
    for number in 0..50 {
        replica.encrypt(&credential("acme", &format!("c{number}")), "x").await;
    }
    replica.reporter.report().await;
    replica.start(JobKind::Reencryption, None, 100, false).await.unwrap();
    let began = Instant::now();
    assert!(replica.works_once().await);
    // Fifty records are 49 intervals of 10 ms.
    assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());
}
