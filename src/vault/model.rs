//! Every interleaving of the changes of a row, with lost and late answers, time-outs and retries, against a simple reference
//! model. Clients, network and store are simulated by one seeded scheduler, so a seed is a history; a seed that fails prints it.
//! `Vault`, `CustomerDirectory`, `Keyring` and `store::change` are the real ones.

mod mirror;
mod reference;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{Either, select};
use zeroize::Zeroizing;

use super::*;
use crate::crypto::{CustomerKey, Environment, Version};
use crate::customers::{CustomerDirectory, CustomerError, InUse};
use crate::factors::document::{KeyDocument, KeyEntry, KeyState};
use crate::factors::{EnvironmentSource, FactorError, KeySet, KeyWrapper, WrapContext, WrappedKey};
use crate::ids::CredentialId;
use crate::keyring::{CacheLimits, EnvironmentTiming, FirstReading, KeyringError, Sources};
use crate::refresh::{Acquire, LeaseToken};
use crate::secret::{SalesforceOAuth, SecretString};
use crate::store::{AbandonCause, Customers, StoreError};
use mirror::Mirror;
use reference::{Call, Mark, Op, OpId, Outcome, Require};
use world::{Fate, Fault, Near, Remote, RemoteCustomers, Shared, World};

/// How much time passes for all, each time a client waits for something else than the store: its pauses end, and what the keyring looks
/// up in the background is there. A change that spans some twenty of these is given up.
const STEP: Duration = Duration::from_millis(200);
/// Histories of one run. They are the same each time, unless `TRISEAL_TEST_SEED` names the first of others.
const SEEDS: u64 = 3_000;
/// Of them, so many beside a real store.
const MIRRORED_SEEDS: u64 = 60;
/// More steps than any history has.
const MAX_STEPS: usize = 20_000;
const CALLERS: [&str; 2] = ["realtask", "realsync"];
/// The first credential's customer is there from the start; the second's is created on the way.
const CREDENTIALS: [(&str, &str); 2] = [("acme", "main"), ("late", "main")];
/// When every history begins, and the first customer's key is made.
const BEGIN: i64 = 1_764_000_000_000_000;
const HALF_A_DAY: i64 = 13 * 3_600_000_000;

thread_local! {
    /// The clock of every replica, in microseconds.
    static NOW: Cell<i64> = const { Cell::new(0) };
}

fn now() -> Timestamp {
    Timestamp::from_microsecond(NOW.get()).unwrap()
}

#[test]
fn every_history_agrees_with_the_reference() {
    let first = first_seed();
    let mut answers = BTreeMap::new();
    for seed in first..first + SEEDS {
        let run = run(seed, Fault::None, None);
        if let Err(violation) = &run.verdict {
            panic!("TRISEAL_TEST_SEED={seed}: {violation}\n{}", run.history.join("\n"));
        }
        for outcome in run.outcomes {
            *answers.entry(outcome).or_insert(0) += 1;
        }
    }
    println!("{SEEDS} histories: {answers:?}");
    let usual = ["Sealed", "Opened", "Deleted", "Created", "NotFound", "CustomerNotFound", "Exists", "Mismatch"];
    let refreshing =
        ["Fresh", "Leased", "Shown", "Rewritten", "NeedsReauth", "InProgress", "LeaseLost", "CustomerDisabled"];
    let keys = ["Rotated", "Retired", "InUse", "InUseBySealing", "KeyVersionUnknown", "Skipped"];
    let unusual = ["KeyReused", "Away", "Cancelled", "Throttled", "Concurrent", "KeysAway"];
    for outcome in usual.iter().chain(&refreshing).chain(&keys).chain(&unusual) {
        assert!(answers.contains_key(*outcome), "nobody was ever answered {outcome}: the histories are too tame");
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..200 {
        let (one, other) = (run(seed, Fault::None, None).history, run(seed, Fault::None, None).history);
        let differs = one.iter().zip(&other).find(|(one, other)| one != other);
        assert_eq!((differs, one.len()), (None, other.len()), "seed {seed}");
    }
}

#[test]
fn a_broken_store_is_found_out() {
    let faults = [
        Fault::IgnoresConditions,
        Fault::ReadsStale,
        Fault::LosesWrites,
        Fault::ForgetsChanges,
        Fault::ForgetsLeases,
        Fault::TearsTransactions,
        Fault::WalksPast,
    ];
    for fault in faults {
        let found = (0..200).find(|seed| run(*seed, fault, None).verdict.is_err());
        println!("{fault:?}: found by seed {found:?}");
        assert!(found.is_some(), "nobody noticed a store that is broken: {fault:?}");
    }
}

#[test]
#[ignore = "needs tests/aws/up"]
fn in_every_history_dynamodb_answers_as_the_simulated_store() {
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let first = first_seed();
    for seed in first..first + MIRRORED_SEEDS {
        println!("TRISEAL_TEST_SEED={seed}");
        let run = run(seed, Fault::None, Some(Mirror::new(&runtime)));
        assert_eq!(run.verdict, Ok(()), "{}", run.history.join("\n"));
    }
}

fn first_seed() -> u64 {
    option_env!("TRISEAL_TEST_SEED").map_or(0, |seed| seed.parse().expect("TRISEAL_TEST_SEED is a number"))
}

struct Run {
    verdict: Result<(), String>,
    history: Vec<String>,
    /// The names of the answers.
    outcomes: Vec<String>,
}

fn run(seed: u64, fault: Fault, mirror: Option<Mirror>) -> Run {
    NOW.set(BEGIN);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, fault);
        world.mirror = mirror;
        let shared = Shared::new(world);
        let vault = Simulation::start(&shared).await;
        simulate(&vault, &shared).await;
        let (calls, written, history, enabled) = {
            let mut world = shared.lock();
            let enabled = std::mem::take(&mut world.enabled);
            (world.calls.clone(), std::mem::take(&mut world.applied), std::mem::take(&mut world.history), enabled)
        };
        let place = |id: &CredentialRef| (0..CREDENTIALS.len()).find(|place| credential_ref(*place) == *id).unwrap();
        let customer = |id: &CustomerId| (0..CREDENTIALS.len()).find(|at| credential_ref(*at).customer == *id).unwrap();
        let caller = |caller: &Caller| CALLERS.iter().position(|known| *known == caller.as_str()).unwrap();
        let applied = world::applied(written, place, customer, caller, async |row: &CredentialRow| {
            let Some((row, living)) = living(row) else { return Ok(None) };
            let plaintext = vault.vault.open(row, living).await.map_err(|error| error.to_string())?;
            Ok(Some(secret_id(&stored::decode(living.kind, &plaintext).unwrap())))
        });
        let verdict = applied
            .await
            .and_then(|applied| reference::check(&calls, &applied, BEGIN, |credential| credential == 0, &enabled));
        let name = |outcome: &Outcome| {
            let told = format!("{outcome:?}");
            told.split([' ', '(']).next().unwrap_or_default().to_owned()
        };
        let outcomes =
            calls.iter().filter_map(|call| call.answered.as_ref()).map(|(_, outcome)| name(outcome)).collect();
        Run { verdict, history, outcomes }
    })
}

/// The real parts, on a simulated store.
struct Simulation {
    vault: Vault,
    directory: CustomerDirectory,
    /// What acquisitions were answered: which, for which credential, to which caller, and the token.
    leases: RefCell<Vec<(OpId, usize, usize, LeaseToken)>>,
}

impl Simulation {
    async fn start(shared: &Shared) -> Self {
        let deployment = Deployment::parse("model").unwrap();
        let long = Duration::from_hours(100_000);
        let sources = Sources {
            deployment: deployment.clone(),
            codebase: key_set(1),
            environment: FirstReading::of(Arc::new(Factors)).await.unwrap(),
            wrapper: Arc::new(Factors),
            customers: Arc::new(Near(shared.clone())),
            operations: Arc::new(shared.clone()),
        };
        // States of customers are read at every use: how long a pause is, is not the seed's choice.
        let limits = CacheLimits { roots: 100, refresh_after: long, max_age: long, customer_staleness: Duration::ZERO };
        let keyring = Keyring::start(sources, EnvironmentTiming { poll: long, max_age: long }, limits).await.unwrap();
        let near: Arc<dyn Customers> = Arc::new(Near(shared.clone()));
        let credentials = Arc::new(Remote(shared.clone()));
        let directory = |deployment: &Deployment, customers, keyring: &Keyring| {
            let (credentials, wrapper) = (credentials.clone(), Arc::new(Factors));
            CustomerDirectory::new(
                deployment.clone(),
                customers,
                credentials,
                wrapper,
                keyring.clone(),
                AuditLog::insecure_none(),
                now,
            )
        };
        let before = directory(&deployment, near, &keyring);
        before.create_unasked(&credential_ref(0).customer).await.unwrap();
        let customers: Arc<dyn Customers> = Arc::new(RemoteCustomers(shared.clone()));
        Self {
            directory: directory(&deployment, customers, &keyring),
            vault: Vault::new(deployment, credentials.clone(), keyring, AuditLog::insecure_none(), now),
            leases: RefCell::default(),
        }
    }

    async fn perform(&self, id: OpId, op: &Op) -> Outcome {
        match op {
            Op::Acquire { .. } | Op::Complete { .. } | Op::Abandon { .. } | Op::Mark { .. } | Op::Rewrite { .. } => {
                self.refresh(id, op).await.unwrap_or_else(refused)
            }
            Op::Encrypt { credential, secret, condition, key, caller } => {
                let condition = match condition {
                    Require::Nothing => Condition::None,
                    Require::Absent => Condition::Absent,
                    Require::At(revision) => Condition::At(Revision::new(*revision).unwrap()),
                };
                let key = key.map(|key| IdempotencyKey::given(&key.to_string()));
                let caller = Caller::new(CALLERS[*caller]);
                let secret = Secret::SalesforceOAuth(tokens(*secret));
                let sealed =
                    self.vault.encrypt_unasked(&caller, &credential_ref(*credential), secret, condition, key).await;
                sealed.map_or_else(refused, |credential| Outcome::Sealed {
                    revision: credential.revision.get(),
                    time: credential.update_time.as_microsecond(),
                })
            }
            Op::Decrypt { credential, revision } => {
                let revision = revision.and_then(Revision::new);
                let opened = self.vault.decrypt_unasked(&credential_ref(*credential), View::Full, revision).await;
                opened.map_or_else(refused, |(secret, credential)| Outcome::Opened {
                    revision: credential.revision.get(),
                    secret: secret_id(&secret),
                })
            }
            Op::Delete { credential, revision, caller } => {
                let (caller, revision) = (Caller::new(CALLERS[*caller]), revision.and_then(Revision::new));
                let deleted = self.vault.delete_unasked(&caller, &credential_ref(*credential), revision).await;
                deleted.map_or_else(refused, |()| Outcome::Deleted)
            }
            Op::CreateCustomer => {
                let created = self.directory.create_unasked(&credential_ref(1).customer).await;
                created.map_or_else(not_kept, |row| Outcome::Created { row: Mark(row.write_id) })
            }
            Op::Rotate => {
                let rotated = self.directory.rotate_unasked(&credential_ref(0).customer).await;
                rotated.map_or_else(not_kept, |row| Outcome::Rotated { primary: row.primary.get() })
            }
            Op::Retire { version } => {
                let version = Version::new(*version).unwrap();
                let retired = self.directory.retire_unasked(&credential_ref(0).customer, version).await;
                retired.map_or_else(not_kept, |_| Outcome::Retired)
            }
        }
    }
}

impl Simulation {
    /// What is there for refreshing.
    async fn refresh(&self, id: OpId, op: &Op) -> Result<Outcome, VaultError> {
        let shown = |credential: Credential| Outcome::Shown {
            revision: credential.revision.get(),
            needs_reauth: credential.state != State::Active,
        };
        let token = |lease: OpId| {
            let leases = self.leases.borrow();
            let (.., token) = leases.iter().find(|(by, ..)| *by == lease).expect("it was answered");
            LeaseToken::parse(&token.expose_secret()).expect("it is one")
        };
        match *op {
            Op::Acquire { credential, rejected, key, ttl, caller } => {
                let asked = Acquire {
                    rejected: rejected.and_then(Revision::new),
                    min_validity: Duration::ZERO,
                    wait: Duration::ZERO,
                    ttl: Duration::from_secs(ttl.unsigned_abs()),
                    key: key.map(|key| IdempotencyKey::given(&key.to_string())),
                };
                let who = Caller::new(CALLERS[caller]);
                match self.vault.acquire_unasked(&who, &credential_ref(credential), &asked).await? {
                    Refreshed::Fresh(fresh) => {
                        Ok(Outcome::Fresh { revision: fresh.1.revision.get(), secret: secret_id(&fresh.0) })
                    }
                    Refreshed::Lease(lease) => {
                        let GivenLease { token, expire_time, after_lapse, secret, credential: given } = *lease;
                        self.leases.borrow_mut().push((id, credential, caller, token));
                        Ok(Outcome::Leased {
                            revision: given.revision.get(),
                            secret: secret_id(&secret),
                            expires: expire_time.as_microsecond(),
                            after_lapse,
                        })
                    }
                }
            }
            Op::Complete { credential, lease, secret, caller } => {
                let (who, id) = (Caller::new(CALLERS[caller]), credential_ref(credential));
                let made = self.vault.complete_unasked(&who, &id, &token(lease), &tokens(secret)).await?;
                Ok(Outcome::Sealed { revision: made.revision.get(), time: made.update_time.as_microsecond() })
            }
            Op::Abandon { credential, lease, invalid_grant, caller } => {
                let cause = if invalid_grant { AbandonCause::InvalidGrant } else { AbandonCause::Transient };
                let (who, id) = (Caller::new(CALLERS[caller]), credential_ref(credential));
                self.vault.abandon_unasked(&who, &id, &token(lease), cause).await.map(shown)
            }
            Op::Mark { credential, revision, caller } => {
                let (who, id) = (Caller::new(CALLERS[caller]), credential_ref(credential));
                self.vault.mark_unasked(&who, &id, revision.and_then(Revision::new)).await.map(shown)
            }
            Op::Rewrite { credential } => self.rewrite(&credential_ref(credential)).await,
            Op::Encrypt { .. }
            | Op::Decrypt { .. }
            | Op::Delete { .. }
            | Op::CreateCustomer
            | Op::Rotate
            | Op::Retire { .. } => unreachable!("it is performed elsewhere"),
        }
    }

    /// What a job does to one record that began now, whatever the customer's state.
    async fn rewrite(&self, id: &CredentialRef) -> Result<Outcome, VaultError> {
        let target = Target { codebase: Version::FIRST, environment: Version::FIRST, customers_by: now() };
        Ok(match self.vault.reseal(id, target).await? {
            Resealed::Changed => Outcome::Rewritten,
            Resealed::Skipped => Outcome::Skipped,
            Resealed::Ahead => Outcome::Other("ahead".to_owned()),
        })
    }
}

fn tokens(secret: u32) -> SalesforceOAuth {
    SalesforceOAuth {
        access_token: SecretString::new(secret.to_string()),
        refresh_token: SecretString::new("refresh".to_owned()),
        instance_url: String::new(),
        token_url: String::new(),
        identity_url: String::new(),
        scopes: Vec::new(),
        issue_time: None,
        access_token_expire_time: None,
    }
}

/// Only [`Outcome::Away`] and [`Outcome::KeysAway`] leave it open whether the change happened.
fn refused(error: VaultError) -> Outcome {
    match error {
        VaultError::CredentialNotFound => Outcome::NotFound,
        VaultError::CredentialExists { current } => Outcome::Exists(current.get()),
        VaultError::RevisionMismatch { current } => Outcome::Mismatch(current.get()),
        VaultError::IdempotencyKeyReused => Outcome::KeyReused,
        VaultError::ChangedConcurrently => Outcome::Concurrent,
        VaultError::NeedsReauth => Outcome::NeedsReauth,
        VaultError::RefreshInProgress { available, .. } => Outcome::InProgress(available.as_microsecond()),
        VaultError::LeaseLost => Outcome::LeaseLost,
        VaultError::Keyring(KeyringError::CustomerDisabled) => Outcome::CustomerDisabled,
        VaultError::Keyring(KeyringError::CustomerNotFound) => Outcome::CustomerNotFound,
        VaultError::Keyring(KeyringError::Store(StoreError::Away(_))) => Outcome::KeysAway,
        VaultError::Store(StoreError::Away(_)) => Outcome::Away,
        VaultError::Store(StoreError::Throttled) => Outcome::Throttled,
        error => Outcome::Other(error.to_string()),
    }
}

/// The same of customers.
fn not_kept(error: CustomerError) -> Outcome {
    match error {
        CustomerError::Store(StoreError::Away(_)) => Outcome::Away,
        CustomerError::Store(StoreError::Throttled) => Outcome::Throttled,
        CustomerError::ChangedConcurrently => Outcome::Concurrent,
        CustomerError::KeyVersionUnknown => Outcome::KeyVersionUnknown,
        CustomerError::KeyVersionInUse(InUse::Records { records }) => Outcome::InUse { records },
        CustomerError::KeyVersionInUse(InUse::Primary | InUse::TooEarly { .. }) => Outcome::InUseBySealing,
        error => Outcome::Other(error.to_string()),
    }
}

/// What one client is doing.
#[derive(Clone, Default)]
struct Client {
    op: Rc<Cell<Option<OpId>>>,
    is_cancelled: Rc<Cell<bool>>,
}

/// A client, and what it has left to do.
type Working<'a> = (Client, Option<Pin<Box<dyn Future<Output = ()> + 'a>>>);

/// How wild a history is.
struct Weather {
    /// Of 16 messages, so many do not simply arrive.
    trouble: usize,
    cancels: bool,
    credentials: usize,
    /// Whether the first customer is disabled now and then.
    disables: bool,
    /// Whether its key is rotated, and old versions are retired.
    rotates: bool,
}

async fn simulate(simulation: &Simulation, shared: &Shared) {
    let (weather, count, ops) = {
        let mut world = shared.lock();
        world.keyring_fails = [0, 0, 8][world.random.below(3)];
        let disables = world.random.one_in(4);
        let weather = Weather {
            trouble: [0, 2, 4, 12][world.random.below(4)],
            cancels: world.random.one_in(2),
            credentials: 1 + world.random.below(CREDENTIALS.len()),
            disables,
            // Disabling is no call here, and would be undone by one that writes the customer.
            rotates: !disables && world.random.one_in(2),
        };
        (weather, 2 + world.random.below(4), 3 + world.random.below(5))
    };
    let mut clients: Vec<Working<'_>> = Vec::new();
    for _ in 0..count {
        let client = Client::default();
        let work = work(simulation, shared, client.clone(), &weather, ops);
        clients.push((client, Some(Box::pin(work))));
    }
    let mut jumped_at = 0;
    for step in 0.. {
        assert!(step < MAX_STEPS, "the history does not end:\n{}", shared.lock().history.join("\n"));
        NOW.set(NOW.get() + 1_000);
        // Keys are remembered for a day. No call lasts for one.
        let begun_since = |client: &Client| client.op.get().is_none_or(|op| op >= jumped_at);
        if clients.iter().all(|(client, _)| begun_since(client)) && shared.lock().random.one_in(100) {
            NOW.set(NOW.get() + HALF_A_DAY);
            jumped_at = shared.lock().calls.len();
            shared.lock().tell("half a day passes".to_owned());
        }
        if shared.lock().random.one_in(30) {
            // Leases lapse, or not yet.
            let seconds = [10, 61, 130][shared.lock().random.below(3)];
            if weather.rotates {
                // No call lasts so long that a version could be retired under it.
                clients.iter().for_each(|(client, _)| client.is_cancelled.set(client.op.get().is_some()));
                shared.lock().crash();
            }
            NOW.set(NOW.get() + seconds * 1_000_000);
            shared.lock().tell(format!("{seconds} seconds pass"));
        }
        if weather.disables && shared.lock().random.one_in(25) {
            shared.lock().toggle(&credential_ref(0).customer);
        }
        match next(&clients, shared, &weather) {
            None => break,
            Some(Turn::Message(id, fate)) => shared.lock().meet(id, fate),
            Some(Turn::Client(index)) => run_client(&mut clients[index], shared, &weather).await,
        }
    }
    // What was written is opened next, what was written over, too.
    let mut world = shared.lock();
    world.enable_versions(&credential_ref(0).customer);
    world.keyring_fails = 0;
    if world.enabled.last().is_some_and(|(_, is_active)| !is_active) {
        world.toggle(&credential_ref(0).customer);
    }
}

enum Turn {
    Client(usize),
    Message(usize, Fate),
}

/// Whose turn it is. `None`: nothing is left to do.
fn next(clients: &[Working<'_>], shared: &Shared, weather: &Weather) -> Option<Turn> {
    let mut world = shared.lock();
    let waits = |client: &Client, world: &World| client.op.get().is_some_and(|op| world.is_waiting(op));
    let mut turns: Vec<Turn> = Vec::new();
    // A row remembers eight changes: a client that is overtaken by more cannot know its own, and would make it again.
    let urgent = clients.iter().filter_map(|(client, _)| client.op.get()).find(|op| world.writes_since_own(*op) >= 5);
    for (index, (client, work)) in clients.iter().enumerate() {
        let is_wanted = urgent.is_none() || urgent == client.op.get();
        if work.is_some() && is_wanted && !waits(client, &world) {
            turns.push(Turn::Client(index));
        }
    }
    for (id, op, is_awaited) in world.messages() {
        if urgent.is_some_and(|urgent| urgent != op || !is_awaited) {
            continue;
        }
        let fate = match (is_awaited, world.random.below(16) < weather.trouble) {
            (true, false) => Fate::Arrives,
            (true, true) => {
                [Fate::AnswerLost, Fate::Lost, Fate::Late, Fate::Late, Fate::Throttled][world.random.below(5)]
            }
            (false, _) => [Fate::Arrives, Fate::Lost][world.random.below(2)],
        };
        turns.push(Turn::Message(id, fate));
    }
    if turns.is_empty() {
        return None;
    }
    let index = world.random.below(turns.len());
    Some(turns.swap_remove(index))
}

/// Lets a client go on until it waits for the store.
async fn run_client((client, work): &mut Working<'_>, shared: &Shared, weather: &Weather) {
    let cancel = weather.cancels && client.op.get().is_some() && shared.lock().random.one_in(40);
    client.is_cancelled.set(cancel || client.is_cancelled.get());
    let mut context = std::task::Context::from_waker(Waker::noop());
    while let Some(going_on) = work {
        shared.lock().running = client.op.get();
        if going_on.as_mut().poll(&mut context).is_ready() {
            *work = None;
        } else if client.op.get().is_some_and(|op| shared.lock().is_waiting(op)) {
            return;
        } else {
            tokio::time::advance(STEP).await;
        }
    }
}

/// One client's life: some random operations one after another, retried when they were not answered.
async fn work(simulation: &Simulation, shared: &Shared, client: Client, weather: &Weather, ops: usize) {
    let mut seen = 0;
    for _ in 0..ops {
        let op = random_op(&mut shared.lock(), weather, seen, &simulation.leases.borrow());
        for _ in 0..4 {
            let outcome = call(simulation, shared, &client, &op).await;
            if let Outcome::Sealed { revision, .. }
            | Outcome::Opened { revision, .. }
            | Outcome::Fresh { revision, .. }
            | Outcome::Leased { revision, .. }
            | Outcome::Shown { revision, .. }
            | Outcome::Mismatch(revision)
            | Outcome::Exists(revision) = outcome
            {
                seen = revision;
            }
            let unanswered = matches!(
                outcome,
                Outcome::Away | Outcome::Cancelled | Outcome::Throttled | Outcome::Concurrent | Outcome::KeysAway
            );
            // A retry after an answer, too, as a backend does that lost the answer itself.
            if !unanswered && !shared.lock().random.one_in(8) {
                break;
            }
        }
    }
}

async fn call(simulation: &Simulation, shared: &Shared, client: &Client, op: &Op) -> Outcome {
    let id = {
        let mut world = shared.lock();
        let (id, called) = (world.calls.len(), world.applied.len());
        world.calls.push(Call { op: op.clone(), called, now: NOW.get(), answered: None });
        world.tell(format!("op {id} begins after {called} writes: {op:?}"));
        world.running = Some(id);
        id
    };
    client.op.set(Some(id));
    let cancelled = poll_fn(|_| if client.is_cancelled.take() { Poll::Ready(()) } else { Poll::Pending });
    let outcome = match select(cancelled, pin!(simulation.perform(id, op))).await {
        Either::Left(_) => {
            shared.lock().abandon(id);
            Outcome::Cancelled
        }
        Either::Right((outcome, _)) => outcome,
    };
    client.op.set(None);
    let mut world = shared.lock();
    let answered = world.applied.len();
    world.tell(format!("op {id} is answered after {answered} writes: {outcome:?}"));
    world.calls[id].answered = Some((answered, outcome.clone()));
    outcome
}

fn random_op(world: &mut World, weather: &Weather, seen: u64, leases: &[(OpId, usize, usize, LeaseToken)]) -> Op {
    let (credentials, secret) = (weather.credentials, world.calls.len() as u32 + 1);
    if weather.rotates && world.random.one_in(3) {
        return random_upkeep(world, credentials);
    }
    let random = &mut world.random;
    let (credential, caller) = (random.below(credentials), random.below(CALLERS.len()));
    // Mostly what was seen last.
    let guess = match random.below(6) {
        0 => seen + 1,
        1 => seen.saturating_sub(1),
        _ => seen,
    }
    .max(1);
    // Mostly one of the last leases, by its holder.
    let lease = leases.len().checked_sub(1 + random.below(3)).and_then(|index| leases.get(index));
    if let Some((lease, credential, holder, _)) = lease
        && random.one_in(4)
    {
        let (credential, lease) = (*credential, *lease);
        let caller = if random.one_in(12) { caller } else { *holder };
        return match random.below(3) {
            0 => Op::Abandon { credential, lease, invalid_grant: random.one_in(3), caller },
            _ => Op::Complete { credential, lease, secret, caller },
        };
    }
    match random.below(20) {
        12..=16 => {
            let rejected = (!random.one_in(4)).then_some(guess);
            let key = (!random.one_in(4)).then(|| random.below(4) as u32);
            return Op::Acquire { credential, rejected, key, ttl: [15, 60][random.below(2)], caller };
        }
        17 => return Op::Mark { credential, revision: random.one_in(2).then_some(guess), caller },
        18..=19 => return Op::Rewrite { credential },
        _ => {}
    }
    match random.below(12) {
        0 if credentials > 1 => Op::CreateCustomer,
        0..=2 => Op::Decrypt { credential, revision: random.one_in(4).then_some(guess) },
        3..=4 => Op::Delete { credential, revision: random.one_in(2).then_some(guess), caller },
        _ => {
            let condition = match random.below(4) {
                0 => Require::Absent,
                1 => Require::At(guess),
                _ => Require::Nothing,
            };
            let key = match random.below(8) {
                0 => None,
                // Taken by other operations, too, with other secrets.
                1 => Some(random.below(3) as u32),
                _ => Some(1_000 + secret),
            };
            Op::Encrypt { credential, secret, condition, key, caller }
        }
    }
}

/// What security teams and jobs do.
fn random_upkeep(world: &mut World, credentials: usize) -> Op {
    let primary = world.primary(&credential_ref(0).customer);
    match world.random.below(6) {
        0..=1 => Op::Rotate,
        // Mostly the one before.
        2..=3 => Op::Retire { version: (primary + 1).saturating_sub([2, 2, 2, 1, 3, 0][world.random.below(6)]).max(1) },
        _ => Op::Rewrite { credential: world.random.below(credentials) },
    }
}

fn credential_ref(place: usize) -> CredentialRef {
    let (customer, credential) = CREDENTIALS[place];
    let (customer, credential) = (CustomerId::parse(customer).unwrap(), CredentialId::parse(credential).unwrap());
    CredentialRef { customer, credential }
}

fn secret_id(secret: &Secret) -> u32 {
    let Secret::SalesforceOAuth(oauth) = secret else { panic!("another kind") };
    oauth.access_token.expose_secret().parse().unwrap()
}

fn key_set<F>(octet: u8) -> KeySet<F> {
    let key = Zeroizing::new([octet; 32]);
    let entry = KeyEntry { version: 1, key, state: KeyState::Enabled, created_at: None, primary_until: None };
    KeySet::from_document(KeyDocument { primary: 1, keys: vec![entry] }).unwrap()
}

/// The factors' sources. A wrapped key is the key itself.
struct Factors;

#[async_trait]
impl EnvironmentSource for Factors {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        Ok(key_set(2))
    }
}

#[async_trait]
impl KeyWrapper for Factors {
    async fn wrap_new(&self, _: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        let mut octets = vec![0; 32];
        getrandom::fill(&mut octets).unwrap();
        Ok(WrappedKey { octets, kms_key_arn: "none".to_owned() })
    }

    async fn unwrap(&self, _: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        Ok(CustomerKey::new(Zeroizing::new(wrapped.octets.as_slice().try_into().unwrap())))
    }

    async fn rewrap(&self, _: &WrapContext<'_>, _: &WrappedKey) -> Result<WrappedKey, FactorError> {
        unreachable!("nothing here wraps a key anew")
    }

    fn wraps_with(&self) -> &str {
        "arn"
    }
}
