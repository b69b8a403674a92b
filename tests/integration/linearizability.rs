//! Clients on connections of their own change and read one credential at the same time. Each round is short and has a credential of
//! its own; some order of its operations must explain every answer (`history`). In some rounds clients give up, and in some the
//! service is killed and started again. On DynamoDB two services share the tables.

mod history;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use crate::support::site::Aws;
use crate::support::{Random, Service, is_ambiguous, opaque, opaque_data, reason};
use history::{Answer, Event, Moment, Op, Require, explain};

const CUSTOMER: &str = "acme";
const CALM_ROUNDS: usize = 80;
const ROUNDS_WITH_GIVING_UP: usize = 80;
/// Of either kind, with DynamoDB Local, where a call takes some ten times as long.
const ROUNDS_ON_AWS: usize = 16;
const ROUNDS_WITH_KILLS: usize = 20;
const KILLS_IN_A_ROUND: usize = 2;
const CLIENTS: usize = 5;
const OPS_EACH: usize = 10;
/// How often one client gives up in a round, however slow the machine is: each such call doubles what may have happened.
const GIVING_UP_EACH: usize = 2;
/// A service that is not there again within this time hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_round_has_an_order() {
    let directory = tempfile::tempdir().unwrap();
    play([serve(directory.path()).await], CALM_ROUNDS, ROUNDS_WITH_GIVING_UP).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs tests/aws/up"]
async fn every_round_on_two_services_has_an_order() {
    let site = Aws::new().await;
    let services = [Service::start(site.command()).await, Service::start(site.command()).await];
    create(&services[0]).await;
    play(services, ROUNDS_ON_AWS, ROUNDS_ON_AWS).await;
}

/// Each client calls one of the services, the next client the next one.
async fn play<const N: usize>(services: [Service; N], calm: usize, giving_up: usize) {
    let mut random = Random::printed();
    let (mut stale_reads, mut tally) = (0, Tally::default());
    for number in 0..calm {
        let round = Round::new(format!("calm-{number}"), &services, Trouble::None);
        let history = round.play(&mut random).await;
        assert!(history.iter().all(|event| event.answer.is_some()), "a call that nobody disturbed was not answered");
        explain(&history).unwrap_or_else(|told| panic!("{told}"));
        tally.add(&history);
        // The same history with an answer that comes too late to be true.
        if let Some(stale) = with_a_stale_read(&history) {
            assert!(explain(&stale).is_err(), "a stale read went unnoticed");
            stale_reads += 1;
        }
    }
    for number in 0..giving_up {
        let round = Round::new(format!("given-up-{number}"), &services, Trouble::GivingUp);
        let history = round.play(&mut random).await;
        explain(&history).unwrap_or_else(|told| panic!("{told}"));
        tally.add(&history);
    }
    for service in services {
        assert!(service.terminate().await.success());
    }
    println!("{tally:?}; {stale_reads} stale reads were noticed");
    assert!(stale_reads > calm / 10, "hardly any round had a read to make stale");
    assert!(tally.is_lively(), "the rounds are too tame");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_round_with_kills_has_an_order() {
    let mut random = Random::printed();
    let directory = tempfile::tempdir().unwrap();
    let mut service = serve(directory.path()).await;
    let mut tally = Tally::default();
    for number in 0..ROUNDS_WITH_KILLS {
        let round = Round::new(format!("killed-{number}"), std::slice::from_ref(&service), Trouble::Kills);
        let clients = round.start(&mut random);
        let mut kills = Vec::new();
        for _ in 0..KILLS_IN_A_ROUND {
            sleep(Duration::from_micros(random.below(30_000) as u64)).await;
            service.kill9().await;
            kills.push(round.clock.tick());
            service = serve(directory.path()).await;
            round.endpoints[0].send_replace(service.endpoint());
        }
        let mut history = clients.finish().await;
        // What was under way when the service was killed does not happen afterwards.
        for event in history.iter_mut().filter(|event| event.answer.is_none()) {
            event.ended = kills.iter().copied().find(|kill| *kill > event.called).unwrap_or(Moment::MAX);
        }
        explain(&history).unwrap_or_else(|told| panic!("killed at {kills:?}: {told}"));
        tally.add(&history);
    }
    println!("{tally:?}");
    assert!(tally.is_lively() && tally.unanswered > ROUNDS_WITH_KILLS, "the rounds are too tame");
}

async fn serve(data: &Path) -> Service {
    let service = Service::dev(data).await;
    create(&service).await;
    service
}

async fn create(service: &Service) {
    let request = v1::CreateCustomerRequest { customer_id: CUSTOMER.to_owned() };
    service.customers().create_customer(request).await.unwrap();
}

/// How often clients were answered what.
#[derive(Debug, Default)]
struct Tally {
    changes: usize,
    reads: usize,
    refusals: usize,
    unanswered: usize,
}

impl Tally {
    fn add(&mut self, history: &[Event]) {
        for event in history {
            *match event.answer {
                Some(Answer::Sealed(_) | Answer::Deleted) => &mut self.changes,
                Some(Answer::Opened { .. } | Answer::Shown(_)) => &mut self.reads,
                Some(Answer::NotFound | Answer::Exists(_) | Answer::Mismatch(_) | Answer::KeyReused) => {
                    &mut self.refusals
                }
                None => &mut self.unanswered,
            } += 1;
        }
    }

    fn is_lively(&self) -> bool {
        let all = self.changes + self.reads + self.refusals + self.unanswered;
        [self.changes, self.reads, self.refusals, self.unanswered].into_iter().all(|some| some * 50 > all)
    }
}

/// Gives a read that was called after revision n was sealed the secret of revision n - 1.
fn with_a_stale_read(history: &[Event]) -> Option<Vec<Event>> {
    let sealed = |event: &Event| match (event.op, event.answer) {
        (Op::Encrypt { secret, .. }, Some(Answer::Sealed(revision))) => Some((revision, secret)),
        (_, _) => None,
    };
    for (index, read) in history.iter().enumerate() {
        let Some(Answer::Opened { .. }) = read.answer else { continue };
        let before = history.iter().filter(|event| event.ended < read.called).filter_map(sealed);
        let Some((newest, _)) = before.max() else { continue };
        let Some(stale) = history.iter().filter_map(sealed).find(|(revision, _)| revision + 1 == newest) else {
            continue;
        };
        let mut changed = history.to_vec();
        changed[index].answer = Some(Answer::Opened { revision: stale.0, secret: stale.1 });
        return Some(changed);
    }
    None
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Clients go before they are answered, or name deadlines that are too short.
    GivingUp,
    /// Whoever the service does not answer waits for the next one.
    Kills,
}

/// Counts the moments of a round, for all its clients.
#[derive(Clone, Default)]
struct Clock(Arc<AtomicU64>);

impl Clock {
    fn tick(&self) -> Moment {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

struct Round {
    credential: String,
    trouble: Trouble,
    clock: Clock,
    endpoints: Vec<watch::Sender<String>>,
}

struct Clients(Vec<tokio::task::JoinHandle<Vec<Event>>>);

impl Round {
    fn new(credential: String, services: &[Service], trouble: Trouble) -> Self {
        let endpoints = services.iter().map(|service| watch::Sender::new(service.endpoint())).collect();
        Self { credential, trouble, clock: Clock::default(), endpoints }
    }

    fn start(&self, random: &mut Random) -> Clients {
        let start = |number: usize| {
            let mut endpoint = self.endpoints[number % self.endpoints.len()].subscribe();
            let grpc = connect(&mut endpoint);
            let client = Client {
                number,
                credential: self.credential.clone(),
                trouble: self.trouble,
                clock: self.clock.clone(),
                random: Random::new(random.next()),
                endpoint,
                grpc,
                seen: 0,
                given_up: 0,
                events: Vec::new(),
            };
            tokio::spawn(client.work())
        };
        Clients((0..CLIENTS).map(start).collect())
    }

    async fn play(&self, random: &mut Random) -> Vec<Event> {
        self.start(random).finish().await
    }
}

impl Clients {
    async fn finish(self) -> Vec<Event> {
        let mut history = Vec::new();
        for client in self.0 {
            history.extend(client.await.expect("a client was answered something that it can't be"));
        }
        history
    }
}

fn connect(endpoint: &mut watch::Receiver<String>) -> CredentialServiceClient<Channel> {
    let url = endpoint.borrow_and_update().clone();
    CredentialServiceClient::new(Endpoint::from_shared(url).unwrap().connect_lazy())
}

/// What came of a call.
enum Outcome {
    Answered(Answer),
    /// It may have happened.
    Unanswered,
    /// It has not happened.
    GivenUp,
}

struct Client {
    number: usize,
    credential: String,
    trouble: Trouble,
    clock: Clock,
    random: Random,
    endpoint: watch::Receiver<String>,
    grpc: CredentialServiceClient<Channel>,
    /// The revision that it was told last.
    seen: u64,
    given_up: usize,
    events: Vec<Event>,
}

impl Client {
    async fn work(mut self) -> Vec<Event> {
        let mut retried = None;
        for number in 0..OPS_EACH {
            let secret = (self.number * OPS_EACH + number) as u32;
            let op = retried.take().unwrap_or_else(|| self.random_op(secret));
            let called = self.clock.tick();
            let outcome = self.ask(op).await;
            let (client, ended) = (self.number, self.clock.tick());
            match outcome {
                Outcome::Answered(answer) => {
                    self.learn(answer);
                    self.events.push(Event { client, op, called, answer: Some(answer), ended });
                }
                Outcome::Unanswered => {
                    self.events.push(Event { client, op, called, answer: None, ended: Moment::MAX });
                    retried = Some(op).filter(|_| !self.random.one_in(4));
                }
                Outcome::GivenUp => {}
            }
        }
        self.events
    }

    fn learn(&mut self, answer: Answer) {
        match answer {
            Answer::Sealed(revision)
            | Answer::Opened { revision, .. }
            | Answer::Shown(revision)
            | Answer::Exists(revision)
            | Answer::Mismatch(revision) => self.seen = revision,
            Answer::Deleted | Answer::NotFound | Answer::KeyReused => {}
        }
    }

    fn random_op(&mut self, secret: u32) -> Op {
        let random = &mut self.random;
        // Mostly what was seen last.
        let guess = if random.one_in(4) { self.seen + 1 } else { self.seen }.max(1);
        let revision = random.one_in(2).then_some(guess);
        match random.below(12) {
            0..=2 => Op::Decrypt { revision },
            3 => Op::Get,
            4..=5 => Op::Delete { revision },
            _ => {
                let require = match random.below(4) {
                    0 => Require::Absent,
                    1 => Require::At(guess),
                    _ => Require::Nothing,
                };
                let key = match random.below(8) {
                    0..=1 => None,
                    // Taken by other clients, too, with other secrets.
                    2 => Some(random.below(2) as u32),
                    _ => Some(1_000 + secret),
                };
                Op::Encrypt { secret, require, key }
            }
        }
    }

    async fn ask(&mut self, op: Op) -> Outcome {
        let (mut patience, mut deadline) = (None, None);
        if self.trouble == Trouble::GivingUp && self.given_up < GIVING_UP_EACH && self.random.one_in(3) {
            self.given_up += 1;
            // About as long as a call takes.
            let wait = Some(Duration::from_micros(self.random.below(4_000) as u64));
            *if self.random.one_in(2) { &mut patience } else { &mut deadline } = wait;
        }
        let call = call(&mut self.grpc, &self.credential, op, deadline);
        let answered = match patience {
            None => call.await,
            Some(patience) => match timeout(patience, call).await {
                Ok(answered) => answered,
                Err(_) => return Outcome::Unanswered,
            },
        };
        match answered {
            Ok(answer) => Outcome::Answered(answer),
            Err(status) if reason(&status) == "CHANGED_CONCURRENTLY" => Outcome::GivenUp,
            Err(status) if is_ambiguous(&status) => {
                if self.trouble == Trouble::Kills {
                    let next = timeout(PATIENCE, self.endpoint.changed()).await.expect("the service came again");
                    next.expect("the round goes on");
                    self.grpc = connect(&mut self.endpoint);
                }
                assert!(self.trouble != Trouble::None, "nobody disturbed it: {status}");
                Outcome::Unanswered
            }
            Err(status) => refusal(&status).map_or_else(|| panic!("{op:?}: {status}"), Outcome::Answered),
        }
    }
}

async fn call(
    client: &mut CredentialServiceClient<Channel>,
    credential: &str,
    op: Op,
    deadline: Option<Duration>,
) -> Result<Answer, Status> {
    let (customer_id, credential_id) = (CUSTOMER.to_owned(), credential.to_owned());
    match op {
        Op::Encrypt { secret, require, key } => {
            let message = v1::EncryptCredentialRequest {
                customer_id,
                credential_id,
                secret: Some(opaque(secret.to_be_bytes())),
                if_revision: match require {
                    Require::Nothing => None,
                    Require::Absent => Some(0),
                    Require::At(revision) => Some(revision),
                },
                idempotency_key: key.map(|key| key.to_string()).unwrap_or_default(),
            };
            let answer = client.encrypt_credential(within(deadline, message)).await?.into_inner();
            Ok(Answer::Sealed(answer.credential.unwrap().revision))
        }
        Op::Decrypt { revision: if_revision } => {
            let view = v1::View::Full.into();
            let message = v1::DecryptCredentialRequest { customer_id, credential_id, view, if_revision };
            let answer = client.decrypt_credential(within(deadline, message)).await?.into_inner();
            let secret = u32::from_be_bytes(opaque_data(answer.secret).try_into().unwrap());
            Ok(Answer::Opened { revision: answer.credential.unwrap().revision, secret })
        }
        Op::Get => {
            let message = v1::GetCredentialRequest { customer_id, credential_id };
            let answer = client.get_credential(within(deadline, message)).await?.into_inner();
            Ok(Answer::Shown(answer.credential.unwrap().revision))
        }
        Op::Delete { revision: if_revision } => {
            let message = v1::DeleteCredentialRequest { customer_id, credential_id, if_revision };
            client.delete_credential(within(deadline, message)).await?;
            Ok(Answer::Deleted)
        }
    }
}

fn within<T>(deadline: Option<Duration>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

/// A refusal that tells something about the credential.
fn refusal(status: &Status) -> Option<Answer> {
    let details = status.get_details_error_info();
    let current = details.and_then(|details| details.metadata.get("current_revision")?.parse().ok());
    match reason(status) {
        "CREDENTIAL_NOT_FOUND" => Some(Answer::NotFound),
        "CREDENTIAL_EXISTS" => Some(Answer::Exists(current?)),
        "REVISION_MISMATCH" => Some(Answer::Mismatch(current?)),
        "IDEMPOTENCY_KEY_REUSED" => Some(Answer::KeyReused),
        _ => None,
    }
}
