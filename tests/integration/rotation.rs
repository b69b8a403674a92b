//! Everything at once: writers change credentials, readers read them, the keys of customers, of the environment and of the codebase are
//! rotated, customers' keys are wrapped under another KMS key, records are re-encrypted, and the service is killed every few seconds.
//! Afterwards every credential has the value that was acknowledged last, all stand under the primaries, and the old versions are retired.
//!
//! Each writer is the only one of its credentials, and repeats a change whose answer did not come under the same idempotency key until it
//! is answered: so it always knows what is there.

mod aftermath;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Status};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;

use crate::support::key_documents::{EnvironmentKeys, text};
use crate::support::site::Site;
use crate::support::{self, PATIENCE, Random, Service, decrypt, encrypt, is_ambiguous, opaque, opaque_data, reason};

/// The last of them is disabled throughout.
const CUSTOMERS: usize = 20;
const WRITERS: usize = 4;
const READERS: usize = 2;

/// How much, and for how long; for a long run set `TRISEAL_TEST_CREDENTIALS` and `TRISEAL_TEST_SECONDS` when this is compiled.
fn size() -> (usize, Duration) {
    let credentials = option_env!("TRISEAL_TEST_CREDENTIALS").map_or(500, |number| number.parse().expect("a number"));
    let seconds = option_env!("TRISEAL_TEST_SECONDS").map_or(60, |number| number.parse().expect("a number"));
    (credentials, Duration::from_secs(seconds))
}

/// Where the service is now.
type Place = watch::Receiver<Channel>;

/// Calls a method of a client that is made anew each time: the service may be elsewhere.
macro_rules! call {
    ($client:expr, $method:ident, $request:expr) => {
        answered(|| {
            let (mut client, request) = ($client, $request);
            async move { client.$method(request).await }
        })
    };
}
use call;

/// What all tasks share.
#[derive(Default)]
struct Run {
    stop: AtomicBool,
    written: AtomicU64,
    read: AtomicU64,
    unavailable: AtomicU64,
    rotated: AtomicU64,
    jobs: AtomicU64,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn did_enough(&self) -> bool {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        load(&self.written) > 100 && load(&self.read) > 100 && load(&self.rotated) > 3 && load(&self.jobs) > 3
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (written, read, unavailable) = (load(&self.written), load(&self.read), load(&self.unavailable));
        write!(f, "{written} writes, {read} reads, {unavailable} times unavailable, ")?;
        write!(f, "{} rotations, {} jobs", load(&self.rotated), load(&self.jobs))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_everything_is_rotated_and_the_service_is_killed() {
    run(&Site::embedded(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tests/aws/up"]
async fn nothing_is_lost_on_two_replicas_that_are_killed() {
    run(&Site::aws().await, 2).await;
}

async fn run(site: &Site, replicas: usize) {
    let mut random = Random::printed();
    let (credentials, lasting) = size();
    let kms_keys = kms_keys(site).await;
    let mut fleet = Fleet::start(site, &kms_keys, replicas).await;
    create_customers(&fleet.places[0]).await;

    let run = Arc::new(Run::default());
    // Everything is there before anything is killed.
    let writers = join_all((0..WRITERS).map(|writer| {
        let ids = (0..credentials).filter(|number| number % WRITERS == writer).map(id).collect();
        let mut writer = Writer { known: BTreeMap::new(), ids, random: Random::new(random.next()) };
        let place = &fleet.places[0];
        async move {
            writer.write_all(place).await;
            writer
        }
    }))
    .await;
    disable_last(&fleet.places[0]).await;
    println!("{credentials} credentials are there");

    let began = Instant::now();
    let mut place = || fleet.places[random.below(replicas)].clone();
    let writing: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(writer.go_on(run.clone(), place()))).collect();
    let mut others = vec![
        tokio::spawn(start_jobs(run.clone(), place())),
        // Until three quarters, so that what is left suffices to retire; at most some hundred times, since each version is.
        tokio::spawn(rotate_for(lasting * 3 / 4, lasting / 200, run.clone(), place(), Random::new(random.next()))),
    ];
    for _ in 0..READERS {
        let place = fleet.places[random.below(replicas)].clone();
        others.push(tokio::spawn(read_on(run.clone(), place, credentials, Random::new(random.next()))));
    }
    let kills = tokio::join!(fleet.kill_for(lasting, &mut random), rotate_environment(site, lasting / 6)).0;
    run.stop.store(true, Ordering::Relaxed);
    let mut known = BTreeMap::new();
    for writing in writing {
        known.extend(writing.await.expect("a writer found something wrong").known);
    }
    for task in others {
        task.await.expect("a task found something wrong");
    }
    println!("{kills} kills, {run} in {:?}", began.elapsed());
    assert!(kills > 3 && run.did_enough());

    aftermath::all_is_well(&mut fleet, &known, lasting).await;
    println!("all is re-encrypted and retired after {:?}", began.elapsed());
    fleet.terminate().await;
}

/// The KMS keys of a site that has them: the one that wraps at first, and the one that does at the end.
async fn kms_keys(site: &Site) -> Option<[String; 2]> {
    let Site::Aws(aws) = site else { return None };
    let other = aws.kms.create_key().send().await.expect("a KMS key").key_metadata.expect("its metadata");
    Some([aws.key.clone(), other.arn.expect("its ARN")])
}

/// Replicas that are killed, and start again elsewhere.
struct Fleet<'a> {
    site: &'a Site,
    kms_keys: &'a Option<[String; 2]>,
    /// Whether what starts now has the next codebase version as its primary, and wraps with the other KMS key.
    is_next: bool,
    services: Vec<Service>,
    senders: Vec<watch::Sender<Channel>>,
    places: Vec<Place>,
}

impl<'a> Fleet<'a> {
    async fn start(site: &'a Site, kms_keys: &'a Option<[String; 2]>, replicas: usize) -> Self {
        let empty = || (Vec::new(), Vec::new(), Vec::new());
        let (services, senders, places) = empty();
        let mut fleet = Self { site, kms_keys, is_next: false, services, senders, places };
        for _ in 0..replicas {
            let service = fleet.another().await;
            let (sender, place) = watch::channel(service.channel());
            fleet.services.push(service);
            fleet.senders.push(sender);
            fleet.places.push(place);
        }
        fleet
    }

    async fn another(&self) -> Service {
        let mut variables = vec![
            ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s"),
            ("TRISEAL__FACTORS__FILE__POLL", "500ms"),
            ("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "500ms"),
            // With --dev and in these tests the binary holds the well-known development keys, two versions of them.
            ("TRISEAL__FACTORS__CODEBASE_PRIMARY", if self.is_next { "2" } else { "1" }),
        ];
        if let Some([first, other]) = self.kms_keys {
            let (wraps, unwraps) = if self.is_next { (other, first) } else { (first, other) };
            variables.push(("TRISEAL__FACTORS__KMS__WRAP_WITH", wraps));
            variables.push(("TRISEAL__FACTORS__KMS__UNWRAP_WITH", unwraps));
        }
        self.site.start_with(&variables).await
    }

    /// Kills one after the other every few seconds. From the middle on, what starts has the next settings.
    async fn kill_for(&mut self, lasting: Duration, random: &mut Random) -> usize {
        let (began, mut kills, mut of_next) = (Instant::now(), 0, 0);
        while began.elapsed() < lasting {
            sleep(Duration::from_millis(1_500 + random.below(2_500) as u64)).await;
            self.is_next = began.elapsed() >= lasting / 2;
            let victim = kills % self.services.len();
            self.services.remove(victim).kill9().await;
            kills += 1;
            let service = self.another().await;
            self.senders[victim].send_replace(service.channel());
            self.services.insert(victim, service);
            of_next += usize::from(self.is_next);
            if of_next == self.services.len() {
                // Those that were started before wait for replicas that wrap with the former KMS key.
                cancel_jobs(&self.places[0]).await;
            }
        }
        assert!(of_next >= self.services.len());
        kills
    }

    async fn restart(&mut self) {
        for number in 0..self.services.len() {
            assert!(self.services.remove(number).terminate().await.success());
            let service = self.another().await;
            self.senders[number].send_replace(service.channel());
            self.services.insert(number, service);
        }
    }

    async fn terminate(self) {
        for service in self.services {
            assert!(service.terminate().await.success());
        }
    }
}

/// Adds a version, waits, and makes it the primary.
async fn rotate_environment(site: &Site, after: Duration) {
    sleep(after).await;
    let command = EnvironmentKeys::of(site).command(&["rotate", "environment", "--settle", "3s", "--yes"]);
    let (code, out, told) = text(&support::run(command).await);
    assert_eq!(code, Some(0), "{out}{told}");
}

type Id = (String, String);

fn id(number: usize) -> Id {
    (format!("customer-{}", number % CUSTOMERS), format!("c{number}"))
}

fn is_disabled((customer, _): &Id) -> bool {
    *customer == format!("customer-{}", CUSTOMERS - 1)
}

fn credentials(place: &Place) -> CredentialServiceClient<Channel> {
    CredentialServiceClient::new(place.borrow().clone())
}

fn customers(place: &Place) -> CustomerServiceClient<Channel> {
    CustomerServiceClient::new(place.borrow().clone())
}

fn keys(place: &Place) -> KeyServiceClient<Channel> {
    KeyServiceClient::new(place.borrow().clone())
}

/// The answer that comes in the end: while the service is away, it is asked again.
async fn answered<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if is_passing(&status) && began.elapsed() < PATIENCE => sleep(Duration::from_millis(100)).await,
            Err(status) => return Err(status),
        }
    }
}

/// What a client repeats: nobody answered, or the service can't now.
fn is_passing(status: &Status) -> bool {
    is_ambiguous(status)
        || status.code() == Code::ResourceExhausted
        || (status.code() == Code::Aborted && reason(status) == "CHANGED_CONCURRENTLY")
}

async fn create_customers(place: &Place) {
    for number in 0..CUSTOMERS {
        let request = v1::CreateCustomerRequest { customer_id: id(number).0 };
        call!(customers(place), create_customer, request.clone()).await.unwrap();
    }
}

async fn disable_last(place: &Place) {
    let request = v1::DisableCustomerRequest { customer_id: id(CUSTOMERS - 1).0 };
    call!(customers(place), disable_customer, request.clone()).await.unwrap();
}

struct Writer {
    ids: Vec<Id>,
    /// The revision of each that was acknowledged last. Its value tells the revision.
    known: BTreeMap<Id, u64>,
    random: Random,
}

impl Writer {
    async fn write_all(&mut self, place: &Place) {
        for id in self.ids.clone() {
            self.write(place, &id).await;
        }
    }

    async fn go_on(mut self, run: Arc<Run>, place: Place) -> Self {
        while run.goes_on() {
            self.write_one(&place).await;
            run.written.fetch_add(1, Ordering::Relaxed);
        }
        self
    }

    async fn write_one(&mut self, place: &Place) {
        let chosen = self.ids[self.random.below(self.ids.len())].clone();
        if !is_disabled(&chosen) {
            self.write(place, &chosen).await;
        }
        sleep(Duration::from_millis(self.random.below(40) as u64)).await;
    }

    async fn write(&mut self, place: &Place, id: &Id) {
        let before = self.known.get(id).copied().unwrap_or_default();
        let request = v1::EncryptCredentialRequest {
            if_revision: Some(before),
            idempotency_key: format!("{}-{}", id.1, before + 1),
            ..encrypt(&id.0, &id.1, opaque(value(id, before + 1)))
        };
        let written = call!(credentials(place), encrypt_credential, request.clone()).await;
        let revision = written.unwrap_or_else(|status| panic!("{id:?}: {status:?}")).credential.unwrap().revision;
        assert_eq!(revision, before + 1, "{id:?}");
        self.known.insert(id.clone(), revision);
    }
}

fn value(id: &Id, revision: u64) -> Vec<u8> {
    format!("{} {} {revision}", id.0, id.1).into_bytes()
}

/// Reads random credentials. Each has the value of its revision, and none goes back.
async fn read_on(run: Arc<Run>, place: Place, number: usize, mut random: Random) {
    let mut seen: BTreeMap<Id, u64> = BTreeMap::new();
    while run.goes_on() {
        let chosen = id(random.below(number));
        if is_disabled(&chosen) {
            continue;
        }
        match credentials(&place).decrypt_credential(decrypt(&chosen.0, &chosen.1, v1::View::Full)).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let revision = answer.credential.unwrap().revision;
                assert_eq!(opaque_data(answer.secret), value(&chosen, revision));
                let before = seen.insert(chosen, revision).unwrap_or_default();
                assert!(revision >= before, "{revision} after {before}");
                run.read.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                assert!(is_ambiguous(&status), "worse than unavailable: {status:?}");
                run.unavailable.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(50)).await;
            }
        }
        sleep(Duration::from_millis(random.below(20) as u64)).await;
    }
}

async fn rotate_for(time: Duration, pause: Duration, run: Arc<Run>, place: Place, mut random: Random) {
    let began = Instant::now();
    while run.goes_on() && began.elapsed() < time {
        let request = v1::RotateCustomerKeyRequest { customer_id: id(random.below(CUSTOMERS)).0 };
        match keys(&place).rotate_customer_key(request).await {
            Ok(_) => drop(run.rotated.fetch_add(1, Ordering::Relaxed)),
            Err(status) => assert!(is_passing(&status), "{status:?}"),
        }
        sleep(pause).await;
    }
}

/// Starts jobs of each kind whenever none of it runs.
async fn start_jobs(run: Arc<Run>, place: Place) {
    while run.goes_on() {
        let reencryption = v1::StartReencryptionRequest::default();
        let rewrap = v1::StartRewrapRequest::default();
        let started = [
            keys(&place).start_reencryption(reencryption).await.map(|_| ()),
            keys(&place).start_rewrap(rewrap).await.map(|_| ()),
        ];
        for started in started {
            match started {
                Ok(()) => drop(run.jobs.fetch_add(1, Ordering::Relaxed)),
                Err(status) => assert!(is_passing(&status) || reason(&status) == "JOB_RUNNING", "{status:?}"),
            }
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn cancel_jobs(place: &Place) {
    let jobs = call!(keys(place), list_jobs, v1::ListJobsRequest::default()).await.unwrap().jobs;
    for job in jobs {
        let request = v1::CancelJobRequest { job_id: job.job_id };
        call!(keys(place), cancel_job, request.clone()).await.unwrap();
    }
}
