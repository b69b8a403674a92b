//! Everything at once: writers change credentials, readers read them, customers' keys and the environment's are rotated, records are
//! re-encrypted, and the service is killed every few seconds. Afterwards every credential has the value that was acknowledged last, all
//! stand under the primaries, and the old versions are retired.
//!
//! Each writer is the only one of its credentials, and repeats a change whose answer did not come under the same idempotency key until it
//! is answered: so it always knows what is there.

use std::collections::BTreeMap;
use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;

use crate::support::site::{Site, environment};
use crate::support::{PATIENCE, Random, Service, decrypt, encrypt, is_ambiguous, opaque, opaque_data, reason};

/// The last of them is disabled throughout.
const CUSTOMERS: usize = 10;
const WRITERS: usize = 4;
const READERS: usize = 2;

/// How much, and for how long; for a long run set `TRISEAL_TEST_CREDENTIALS` and `TRISEAL_TEST_SECONDS` when this is compiled.
fn size() -> (usize, Duration) {
    let credentials = option_env!("TRISEAL_TEST_CREDENTIALS").map_or(200, |number| number.parse().expect("a number"));
    let seconds = option_env!("TRISEAL_TEST_SECONDS").map_or(30, |number| number.parse().expect("a number"));
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

/// What all tasks share.
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
    set_environment(site, 1, 1).await;
    let mut fleet = Vec::new();
    for _ in 0..replicas {
        fleet.push(start(site).await);
    }
    let (places, senders): (Vec<_>, Vec<_>) = fleet
        .iter()
        .map(|service| {
            let (sender, place) = watch::channel(service.channel());
            (place, sender)
        })
        .unzip();
    create_customers(&places[0]).await;

    let run = Arc::new(Run {
        stop: AtomicBool::new(false),
        written: AtomicU64::new(0),
        read: AtomicU64::new(0),
        unavailable: AtomicU64::new(0),
        rotated: AtomicU64::new(0),
        jobs: AtomicU64::new(0),
    });
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let ids = (0..credentials).filter(|number| number % WRITERS == writer).map(id).collect();
        let mut writer = Writer { known: BTreeMap::new(), ids, random: Random::new(random.next()) };
        // Everything is there before anything is killed.
        writer.write_all(&places[0]).await;
        writers.push(writer);
    }
    disable_last(&places[0]).await;

    let began = Instant::now();
    let place = |random: &mut Random| places[random.below(replicas)].clone();
    let writing: Vec<_> = writers
        .into_iter()
        .map(|mut writer| {
            let (run, place) = (run.clone(), place(&mut random));
            tokio::spawn(async move {
                while run.goes_on() {
                    writer.write_one(&place).await;
                    run.written.fetch_add(1, Ordering::Relaxed);
                }
                writer
            })
        })
        .collect();
    let reading: Vec<_> = (0..READERS)
        .map(|_| {
            let (run, place) = (run.clone(), place(&mut random));
            tokio::spawn(read_on(run, place, credentials, Random::new(random.next())))
        })
        .collect();
    let rotating = tokio::spawn(rotate_for(lasting / 4, run.clone(), place(&mut random), Random::new(random.next())));
    let job_starting = tokio::spawn(start_jobs(run.clone(), place(&mut random)));

    let mut kills = 0;
    let mut environment_steps = [(lasting / 6, 2, 1), (lasting / 3, 2, 2)].into_iter().peekable();
    while began.elapsed() < lasting {
        sleep(Duration::from_millis(1_500 + random.below(2_500) as u64)).await;
        if let Some((_, versions, primary)) = environment_steps.next_if(|(at, ..)| *at <= began.elapsed()) {
            set_environment(site, versions, primary).await;
        }
        let victim = random.below(replicas);
        fleet.remove(victim).kill9().await;
        kills += 1;
        let service = start(site).await;
        senders[victim].send_replace(service.channel());
        fleet.insert(victim, service);
    }
    run.stop.store(true, Ordering::Relaxed);
    let mut known = BTreeMap::new();
    for writer in writing {
        known.extend(writer.await.expect("a writer found something wrong").known);
    }
    for task in reading.into_iter().chain([rotating, job_starting]) {
        task.await.expect("a task found something wrong");
    }
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "{kills} kills, {} writes, {} reads, {} times unavailable, {} rotations, {} jobs in {:?}",
        load(&run.written),
        load(&run.read),
        load(&run.unavailable),
        load(&run.rotated),
        load(&run.jobs),
        began.elapsed()
    );
    assert!(kills > 3 && load(&run.written) > 100 && load(&run.read) > 100 && load(&run.rotated) > 3);

    assert!(environment_steps.peek().is_none());
    let place = &places[0];
    re_encrypt(place).await;
    all_stand_under_the_primaries(place, &known).await;
    all_have_their_last_value(place, &known).await;
    retire_all(place).await;
    println!("all is re-encrypted and retired after {:?}", began.elapsed());
    for service in fleet {
        assert!(service.terminate().await.success());
    }
}

async fn start(site: &Site) -> Service {
    site.start_with(&[
        ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s"),
        ("TRISEAL__FACTORS__FILE__POLL", "500ms"),
        ("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "500ms"),
    ])
    .await
}

/// Puts another value in the place of the environment keys', at once.
async fn set_environment(site: &Site, versions: u8, primary: u8) {
    let value = environment(versions, primary);
    match site {
        Site::Embedded(folder) => write_file(&folder.path().join("data"), &value),
        Site::Aws(aws) => aws.put_secret(&value).await,
    }
}

fn write_file(data: &Path, value: &str) {
    std::fs::create_dir_all(data).unwrap();
    std::fs::set_permissions(data, Permissions::from_mode(0o700)).unwrap();
    let (new, place) = (data.join("environment.json.new"), data.join("environment.json"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new).unwrap();
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    file.write_all(value.as_bytes()).unwrap();
    file.sync_all().unwrap();
    std::fs::rename(new, place).unwrap();
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

async fn rotate_for(time: Duration, run: Arc<Run>, place: Place, mut random: Random) {
    let began = Instant::now();
    while run.goes_on() && began.elapsed() < time {
        let request = v1::RotateCustomerKeyRequest { customer_id: id(random.below(CUSTOMERS)).0 };
        match keys(&place).rotate_customer_key(request).await {
            Ok(_) => drop(run.rotated.fetch_add(1, Ordering::Relaxed)),
            Err(status) => assert!(is_passing(&status), "{status:?}"),
        }
        sleep(Duration::from_millis(300)).await;
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

/// Ends what runs, and re-encrypts all records in a job that ends by itself.
async fn re_encrypt(place: &Place) {
    let jobs = call!(keys(place), list_jobs, v1::ListJobsRequest::default()).await.unwrap().jobs;
    for job in jobs {
        let request = v1::CancelJobRequest { job_id: job.job_id };
        call!(keys(place), cancel_job, request.clone()).await.unwrap();
    }
    let request = v1::StartReencryptionRequest::default();
    let started = call!(keys(place), start_reencryption, request.clone()).await.unwrap().job.unwrap();
    let ended = async {
        loop {
            let request = v1::GetJobRequest { job_id: started.job_id.clone() };
            let job = call!(keys(place), get_job, request.clone()).await.unwrap().job.unwrap();
            if job.state() != v1::JobState::Running {
                return job;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    // Replicas that were killed are waited for a minute.
    let job = tokio::time::timeout(3 * PATIENCE, ended).await.expect("it ends");
    assert_eq!(job.state(), v1::JobState::Done, "{:?}", job.failures);
}

async fn customer(place: &Place, name: &str) -> v1::Customer {
    let request = v1::GetCustomerRequest { customer_id: name.to_owned() };
    call!(customers(place), get_customer, request.clone()).await.unwrap().customer.unwrap()
}

async fn all_stand_under_the_primaries(place: &Place, known: &BTreeMap<Id, u64>) {
    let mut primaries = BTreeMap::new();
    for number in 0..CUSTOMERS {
        let (name, _) = id(number);
        let primary = customer(place, &name).await.primary_version;
        primaries.insert(name, primary);
    }
    for (id, revision) in known {
        let request = v1::GetCredentialRequest { customer_id: id.0.clone(), credential_id: id.1.clone() };
        let found = call!(credentials(place), get_credential, request.clone()).await.unwrap();
        let found = found.credential.unwrap();
        let lineage = v1::Lineage { codebase_version: 1, environment_version: 2, customer_version: primaries[&id.0] };
        assert_eq!((found.lineage, found.revision), (Some(lineage), *revision), "{id:?}");
    }
}

async fn all_have_their_last_value(place: &Place, known: &BTreeMap<Id, u64>) {
    let request = v1::EnableCustomerRequest { customer_id: id(CUSTOMERS - 1).0 };
    call!(customers(place), enable_customer, request.clone()).await.unwrap();
    // Other replicas believe for a second that it is disabled.
    sleep(Duration::from_millis(1_100)).await;
    for (id, revision) in known {
        let read = call!(credentials(place), decrypt_credential, decrypt(&id.0, &id.1, v1::View::Full));
        let found = read.await.unwrap();
        assert_eq!(opaque_data(found.secret), value(id, *revision), "{id:?}");
    }
}

/// Retires every version but the primaries, as soon as that is permitted.
async fn retire_all(place: &Place) {
    for number in 0..CUSTOMERS {
        let (name, _) = id(number);
        let found = customer(place, &name).await;
        for version in found.key_versions.iter().map(|key| key.version).filter(|key| *key != found.primary_version) {
            let request = v1::RetireCustomerKeyVersionRequest { customer_id: name.clone(), version };
            loop {
                let retired = call!(keys(place), retire_customer_key_version, request.clone()).await;
                let Err(status) = retired else { break };
                let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
                let delay = delay.unwrap_or_else(|| panic!("version {version} of {name}: {status:?}"));
                assert_eq!(reason(&status), "KEY_VERSION_IN_USE");
                sleep(delay).await;
            }
        }
        let states: Vec<_> = customer(place, &name).await.key_versions.iter().map(|key| key.state()).collect();
        let retired = states.iter().filter(|state| **state == v1::CustomerKeyState::Retired).count();
        assert_eq!(retired, states.len() - 1, "{name}");
    }
}
