//! `triseald` is killed at any moment, again and again. Every write that it acknowledged is there afterwards, none is half
//! there, revisions never go back, and the store always opens.
//!
//! Each task is the only writer of its credentials, so it knows what must be there: what was answered last, and at most one
//! change whose answer never came.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;
use tonic::transport::Channel;
use tonic::{Code, Status};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use crate::support::{Random, Service, dev, opaque, opaque_data, reason, was_cut_off};

const CUSTOMER: &str = "acme";
/// Kills under load.
const KILLS: usize = 50;
/// Further kills while the service opens a store that was killed before.
const KILLS_AT_START: usize = 20;
/// Kills of a very first start, each on a directory of its own.
const KILLS_AT_FIRST_START: usize = 40;
const TASKS: usize = 6;
const CREDENTIALS_EACH: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kills_under_load() {
    let mut random = Random::printed();
    let directory = tempfile::tempdir().unwrap();
    let mut writers: Vec<_> = (0..TASKS).map(|task| Writer::new(task, Random::new(random.next()))).collect();
    let (mut changes, mut in_doubt, mut at_start) = (0, 0, 0);
    for kill in 0..KILLS {
        // A start that is killed takes nothing away either.
        while at_start * KILLS < KILLS_AT_START * kill {
            at_start += 1;
            killed_within(directory.path(), 120, &mut random).await;
        }
        let service = Service::dev(directory.path()).await;
        create_customer(&service).await;
        let working: Vec<_> = writers
            .into_iter()
            .map(|mut writer| {
                let mut client = service.credentials();
                tokio::spawn(async move {
                    if writer.verify(&mut client).await {
                        writer.change_until_killed(&mut client).await;
                    }
                    writer
                })
            })
            .collect();
        sleep(Duration::from_millis(50 + random.below(500) as u64)).await;
        service.kill9().await;
        writers = Vec::new();
        for working in working {
            writers.push(working.await.expect("a writer found something wrong"));
        }
        in_doubt += writers.iter().map(Writer::in_doubt).sum::<usize>();
    }
    let service = Service::dev(directory.path()).await;
    for writer in &mut writers {
        assert!(writer.verify(&mut service.credentials()).await);
        changes += writer.acknowledged;
    }
    assert_listed(&service, &writers).await;
    assert!(service.terminate().await.success());
    println!("{KILLS} kills under load, {at_start} at a start: {changes} acknowledged changes, {in_doubt} in doubt");
    assert!(changes > KILLS && in_doubt > 0, "there was no load");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_is_killed_leaves_nothing_that_does_not_open() {
    let mut random = Random::printed();
    let began = std::time::Instant::now();
    let directory = tempfile::tempdir().unwrap();
    drop(Service::dev(directory.path()).await);
    let milliseconds = 1 + began.elapsed().as_millis() as usize;
    for _ in 0..KILLS_AT_FIRST_START {
        let directory = tempfile::tempdir().unwrap();
        for _ in 0..=random.below(3) {
            killed_within(directory.path(), milliseconds, &mut random).await;
        }
        let service = Service::dev(directory.path()).await;
        create_customer(&service).await;
        let mut writer = Writer::new(0, Random::new(random.next()));
        writer.change(0, &mut service.credentials()).await;
        service.kill9().await;
        let service = Service::dev(directory.path()).await;
        assert!(writer.verify(&mut service.credentials()).await);
    }
}

/// Starts the service and kills it at a random moment within that time, whether or not it serves by then.
async fn killed_within(data: &Path, milliseconds: usize, random: &mut Random) {
    let mut service = Service::spawn(dev(data));
    sleep(Duration::from_micros(random.below(milliseconds * 1000) as u64)).await;
    assert!(service.is_running(), "it ended by itself:\n{}", service.stderr());
    service.kill9().await;
}

async fn create_customer(service: &Service) {
    let request = v1::CreateCustomerRequest { customer_id: CUSTOMER.to_owned() };
    service.customers().create_customer(request).await.unwrap();
}

/// What a credential is, as far as its writer knows.
#[derive(Clone, PartialEq, Eq)]
struct Known {
    /// 0: there was never one.
    revision: u64,
    /// `None`: deleted, or never there.
    data: Option<Vec<u8>>,
}

/// A change that was asked for.
#[derive(Clone)]
struct Asked {
    /// What the credential is afterwards.
    after: Known,
    /// `None`: a deletion.
    key: Option<String>,
    if_revision: Option<u64>,
}

struct Credential {
    id: String,
    known: Known,
    /// Its answer did not come: the credential is as before or as after.
    in_doubt: Option<Asked>,
}

/// The only writer of some credentials.
struct Writer {
    credentials: Vec<Credential>,
    random: Random,
    acknowledged: usize,
}

impl Writer {
    fn new(task: usize, random: Random) -> Self {
        let credential = |number| Credential {
            id: format!("{task}.{number}"),
            known: Known { revision: 0, data: None },
            in_doubt: None,
        };
        Self { credentials: (0..CREDENTIALS_EACH).map(credential).collect(), random, acknowledged: 0 }
    }

    fn in_doubt(&self) -> usize {
        self.credentials.iter().filter(|credential| credential.in_doubt.is_some()).count()
    }

    /// Changes and reads without a pause until the service does not answer.
    async fn change_until_killed(&mut self, client: &mut CredentialServiceClient<Channel>) {
        loop {
            let credential = self.random.below(CREDENTIALS_EACH);
            let answered = match self.random.below(4) {
                0 => self.read(credential, client).await,
                _ => self.change(credential, client).await,
            };
            if !answered {
                return;
            }
        }
    }

    /// Makes a random change, and tells whether it was answered.
    async fn change(&mut self, credential: usize, client: &mut CredentialServiceClient<Channel>) -> bool {
        let random = &mut self.random;
        let Credential { id, known, in_doubt } = &mut self.credentials[credential];
        let asked = if known.data.is_some() && random.one_in(4) {
            let after = Known { revision: known.revision, data: None };
            Asked { after, key: None, if_revision: random.one_in(2).then_some(known.revision) }
        } else {
            let present = if known.data.is_some() { known.revision } else { 0 };
            Asked {
                after: Known { revision: known.revision + 1, data: Some(data(random)) },
                key: Some(format!("{:x}", random.next())),
                if_revision: random.one_in(2).then_some(present),
            }
        };
        let answered = ask(id, &asked, client).await;
        if answered {
            *known = asked.after;
            self.acknowledged += 1;
        } else {
            *in_doubt = Some(asked);
        }
        answered
    }

    /// Reads a credential that is not in doubt, and tells whether it was answered.
    async fn read(&self, credential: usize, client: &mut CredentialServiceClient<Channel>) -> bool {
        let Credential { id, known, .. } = &self.credentials[credential];
        let found = read(id, client).await;
        assert!(found.as_ref().is_none_or(|found| found.is_as(known)), "{id} is not as it was acknowledged");
        found.is_some()
    }

    /// After a start: every credential is as its writer knows it. A change that was in doubt has happened or not, and a retry
    /// makes it happen once. Tells whether everything was answered; if not, the service was killed again.
    async fn verify(&mut self, client: &mut CredentialServiceClient<Channel>) -> bool {
        for Credential { id, known, in_doubt } in &mut self.credentials {
            let Some(mut found) = read(id, client).await else { return false };
            let Some(asked) = in_doubt else {
                assert!(found.is_as(known), "{id} was lost: {} is there, not {}", found.told(), known.told());
                continue;
            };
            assert!(
                found.is_as(known) || found.is_as(&asked.after),
                "{id} is neither as before nor as after: {} is there, not {} or {}",
                found.told(),
                known.told(),
                asked.after.told()
            );
            if asked.key.is_some() && self.random.one_in(2) {
                if !ask(id, asked, client).await {
                    return false;
                }
                let Some(again) = read(id, client).await else { return false };
                found = again;
                assert!(found.is_as(&asked.after), "{id}: a retry made {}, not {}", found.told(), asked.after.told());
            }
            // What has been seen does not vanish either.
            if found.is_as(&asked.after) {
                *known = asked.after.clone();
            }
            *in_doubt = None;
        }
        true
    }
}

/// What was read. A tombstone's revision is not shown.
struct Found(Option<(u64, Vec<u8>)>);

impl Found {
    fn is_as(&self, known: &Known) -> bool {
        match (&self.0, &known.data) {
            (None, None) => true,
            (Some((revision, data)), Some(known_data)) => *revision == known.revision && data == known_data,
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn told(&self) -> String {
        match &self.0 {
            Some((revision, data)) => Known { revision: *revision, data: Some(data.clone()) }.told(),
            None => "nothing".to_owned(),
        }
    }
}

impl Known {
    fn told(&self) -> String {
        match &self.data {
            Some(data) => {
                let start = String::from_utf8_lossy(&data[..data.len().min(16)]).into_owned();
                format!("revision {} with {} octets {start}…", self.revision, data.len())
            }
            None => format!("nothing after revision {}", self.revision),
        }
    }
}

/// Unlike any other, and of any length: some fill many pages.
fn data(random: &mut Random) -> Vec<u8> {
    let length = if random.one_in(8) { random.below(32_768) } else { random.below(600) };
    let start = format!("{:016x}", random.next());
    start.bytes().cycle().take(length.max(16)).collect()
}

/// Asks for a change, and tells whether it was answered. Refusals are failures: nobody else changes the credential.
async fn ask(id: &str, asked: &Asked, client: &mut CredentialServiceClient<Channel>) -> bool {
    let (customer_id, credential_id) = (CUSTOMER.to_owned(), id.to_owned());
    let if_revision = asked.if_revision;
    let answer = match (&asked.key, &asked.after.data) {
        (Some(key), Some(data)) => {
            let secret = Some(opaque(data.clone()));
            let idempotency_key = key.clone();
            let request =
                v1::EncryptCredentialRequest { customer_id, credential_id, secret, if_revision, idempotency_key };
            client.encrypt_credential(request).await.map(|answer| {
                let made = answer.into_inner().credential.unwrap().revision;
                assert_eq!(made, asked.after.revision, "{id}: another revision was made");
            })
        }
        (_, _) => {
            let request = v1::DeleteCredentialRequest { customer_id, credential_id, if_revision };
            client.delete_credential(request).await.map(|_| ())
        }
    };
    match answer {
        Ok(()) => true,
        Err(status) if is_cut_off(&status) => false,
        Err(status) => panic!("{id}: {} was refused: {status}", asked.after.told()),
    }
}

/// Whether the kill took the answer, or a machine that is too busy. Any other answer of a service that was alive is wrong.
fn is_cut_off(status: &Status) -> bool {
    was_cut_off(status) || status.code() == Code::DeadlineExceeded
}

/// `None` if nobody answered.
async fn read(id: &str, client: &mut CredentialServiceClient<Channel>) -> Option<Found> {
    let request = v1::DecryptCredentialRequest {
        customer_id: CUSTOMER.to_owned(),
        credential_id: id.to_owned(),
        view: v1::View::Full.into(),
        if_revision: None,
    };
    match client.decrypt_credential(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            Some(Found(Some((answer.credential.unwrap().revision, opaque_data(answer.secret)))))
        }
        Err(status) if is_cut_off(&status) => None,
        Err(status) if status.code() == Code::NotFound => {
            assert_eq!(reason(&status), "CREDENTIAL_NOT_FOUND");
            Some(Found(None))
        }
        Err(status) => panic!("{id} does not open: {status}"),
    }
}

/// The list shows the living credentials and no others.
async fn assert_listed(service: &Service, writers: &[Writer]) {
    let request = v1::ListCredentialsRequest { customer_id: CUSTOMER.to_owned(), ..Default::default() };
    let listed = service.credentials().list_credentials(request).await.unwrap().into_inner().credentials;
    let mut listed: Vec<_> = listed.into_iter().map(|shown| (shown.credential_id, shown.revision)).collect();
    let all = writers.iter().flat_map(|writer| &writer.credentials);
    let living = all.filter(|credential| credential.known.data.is_some());
    let mut living: Vec<_> = living.map(|credential| (credential.id.clone(), credential.known.revision)).collect();
    listed.sort();
    living.sort();
    assert_eq!(listed, living);
}
