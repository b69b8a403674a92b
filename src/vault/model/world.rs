//! The store as a client meets it over a network: requests travel, may be lost or late, and so may their answers. Only the
//! scheduler moves them, one at a time, so that one seed makes one history.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use async_trait::async_trait;

use super::mirror::Mirror;
use super::reference::{Applied, Call, End, Facts, Made, Mark, OpId};
use crate::crypto::{Envelope, Version};
use crate::ids::{Caller, CredentialRef, CustomerId};
use crate::store::{
    AbandonCause, Changes, CredentialRow, Credentials, CustomerRow, CustomerState, CustomerWrite, Customers, Extent,
    KeyRow, KeyVersionState, LeaseEnd, Leases, Life, Met, OperationId, OperationRow, Operations, Page, Replaced, Rows,
    State, StoreError, Versioned, WriteId,
};

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// How a store is broken on purpose, to show that the check finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not.
    None,
    /// It writes whatever the condition says.
    IgnoresConditions,
    /// It reads a row as it was before its last change.
    ReadsStale,
    /// It answers that a write is done, and has lost it.
    LosesWrites,
    /// It forgets whom the row answered what.
    ForgetsChanges,
    /// It forgets whom the row gave leases.
    ForgetsLeases,
    /// It writes with less than it was given: the customer without its key.
    TearsTransactions,
    /// It walks past rows.
    WalksPast,
}

enum Request {
    GetCredential(CredentialRef),
    ReplaceCredential(Option<WriteId>, CredentialRow),
    GetCustomer(CustomerId),
    ReplaceCustomer(Option<WriteId>, CustomerWrite),
    ScanCredentials(CustomerId),
}

impl Request {
    fn is_write(&self) -> bool {
        matches!(self, Self::ReplaceCredential(..) | Self::ReplaceCustomer(..))
    }
}

enum Answer {
    Credential(Option<CredentialRow>),
    CredentialReplaced(Replaced<CredentialRow>),
    Customer(Option<CustomerRow>),
    CustomerReplaced(Replaced<CustomerRow>),
    CredentialsScanned(Vec<CredentialRow>),
}

/// A request that has not arrived.
struct Message {
    id: usize,
    op: OpId,
    request: Request,
    /// Its sender has been told that nobody answers, or has gone.
    is_abandoned: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Arrives,
    AnswerLost,
    Lost,
    /// Its sender gives it up, and it may arrive all the same.
    Late,
    Throttled,
}

/// Everything that a history is made of.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) fault: Fault,
    /// A real store that must answer as this one does.
    pub(super) mirror: Option<Mirror>,
    pub(super) calls: Vec<Call>,
    pub(super) history: Vec<String>,
    /// The writes in their order, each with its row as it was stored.
    pub(super) applied: Vec<(OpId, Written)>,
    /// The operation of the client that runs now.
    pub(super) running: Option<OpId>,
    /// After how many writes the first customer was disabled or enabled.
    pub(super) enabled: Vec<(usize, bool)>,
    /// One in so many readings of the keyring fails. 0: none.
    pub(super) keyring_fails: usize,
    messages: Vec<Message>,
    answers: BTreeMap<usize, Result<Answer, StoreError>>,
    sent: usize,
    credentials: BTreeMap<CredentialRef, CredentialRow>,
    stale: BTreeMap<CredentialRef, CredentialRow>,
    customers: BTreeMap<CustomerId, CustomerRow>,
    keys: BTreeMap<(CustomerId, Version), KeyRow>,
    operations: BTreeMap<(&'static str, String), OperationRow>,
}

pub(super) enum Written {
    Credential(Box<CredentialRow>),
    Customer(Box<CustomerRow>),
}

impl World {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        Self {
            random: Random(seed),
            fault,
            mirror: None,
            calls: Vec::new(),
            history: Vec::new(),
            applied: Vec::new(),
            running: None,
            enabled: Vec::new(),
            keyring_fails: 0,
            messages: Vec::new(),
            answers: BTreeMap::new(),
            sent: 0,
            credentials: BTreeMap::new(),
            stale: BTreeMap::new(),
            customers: BTreeMap::new(),
            keys: BTreeMap::new(),
            operations: BTreeMap::new(),
        }
    }

    pub(super) fn tell(&mut self, line: String) {
        self.history.push(line);
    }

    /// The messages under way: number, operation, and whether their senders still wait.
    pub(super) fn messages(&self) -> Vec<(usize, OpId, bool)> {
        self.messages.iter().map(|message| (message.id, message.op, !message.is_abandoned)).collect()
    }

    /// Whether an operation waits for an answer that is not there.
    pub(super) fn is_waiting(&self, op: OpId) -> bool {
        self.messages.iter().any(|message| message.op == op && !message.is_abandoned)
    }

    /// The sender of what is under way for this operation has gone.
    pub(super) fn abandon(&mut self, op: OpId) {
        self.messages.retain(|message| message.op != op || message.request.is_write());
        for message in self.messages.iter_mut().filter(|message| message.op == op) {
            message.is_abandoned = true;
        }
    }

    /// All that is under way is lost with those who sent it.
    pub(super) fn crash(&mut self) {
        self.messages.clear();
        self.tell("everybody who calls is killed".to_owned());
    }

    /// Takes back that versions of a customer's key were retired.
    pub(super) fn enable_versions(&mut self, id: &CustomerId) {
        for key in self.customers.get_mut(id).into_iter().flat_map(|row| &mut row.versions) {
            key.state = KeyVersionState::Enabled;
        }
    }

    /// The primary version of a customer's key.
    pub(super) fn primary(&self, id: &CustomerId) -> u32 {
        self.customers.get(id).map_or(1, |row| row.primary.get())
    }

    /// Writes of others to the same row after this operation's own.
    pub(super) fn writes_since_own(&self, op: OpId) -> usize {
        let own = self.applied.iter().position(|(by, _)| *by == op);
        own.map_or(0, |own| self.applied.len() - own - 1)
    }

    /// Disables a customer, or enables it again.
    pub(super) fn toggle(&mut self, id: &CustomerId) {
        let writes = self.applied.len();
        let Some(row) = self.customers.get_mut(id) else { return };
        let is_active = row.state != CustomerState::Active;
        row.state = if is_active { CustomerState::Active } else { CustomerState::Disabled };
        self.enabled.push((writes, is_active));
        self.tell(format!("the customer is {}", if is_active { "enabled" } else { "disabled" }));
    }

    pub(super) fn customer_key(&self, customer: &CustomerId, version: Version) -> Option<KeyRow> {
        self.keys.get(&(customer.clone(), version)).cloned()
    }

    /// Lets a message meet its fate.
    pub(super) fn meet(&mut self, id: usize, fate: Fate) {
        let Some(index) = self.messages.iter().position(|message| message.id == id) else { return };
        let away = || Err(StoreError::Away("simulated".to_owned()));
        let op = self.messages[index].op;
        if let Fate::Late = fate {
            self.tell(format!("op {op}: message {id} is given up"));
            self.answers.insert(id, away());
            if self.messages[index].request.is_write() {
                self.messages[index].is_abandoned = true;
            } else {
                self.messages.remove(index);
            }
            return;
        }
        let Message { request, is_abandoned, .. } = self.messages.remove(index);
        let answer = match fate {
            Fate::Arrives => self.serve(op, id, request),
            Fate::AnswerLost => {
                // Served, and not told.
                let _ = self.serve(op, id, request);
                self.tell(format!("op {op}: the answer to message {id} is lost"));
                away()
            }
            Fate::Lost | Fate::Late => {
                self.tell(format!("op {op}: message {id} is lost"));
                away()
            }
            Fate::Throttled => {
                self.tell(format!("op {op}: message {id} is throttled"));
                Err(StoreError::Throttled)
            }
        };
        if !is_abandoned {
            self.answers.insert(id, answer);
        }
    }

    fn serve(&mut self, op: OpId, id: usize, request: Request) -> Result<Answer, StoreError> {
        match request {
            Request::GetCredential(credential) => {
                let stale = self.fault == Fault::ReadsStale && self.random.one_in(4);
                let rows = if stale { &self.stale } else { &self.credentials };
                let row = rows.get(&credential).cloned();
                if let Some(mirror) = &self.mirror {
                    mirror.get_credential(&credential, row.as_ref());
                }
                self.tell(format!("op {op}: message {id} reads {}", told(row.as_ref())));
                Ok(Answer::Credential(row))
            }
            Request::ReplaceCredential(expected, mut row) => {
                let present = self.credentials.get(&row.id).cloned();
                let holds = present.as_ref().map(Versioned::write_id) == expected;
                if let Some(mirror) = &self.mirror {
                    mirror.replace_credential(expected, &row, if holds { Ok(()) } else { Err(present.as_ref()) });
                }
                if !holds && self.fault != Fault::IgnoresConditions {
                    self.tell(format!("op {op}: message {id} is refused: {}", told(present.as_ref())));
                    return Ok(Answer::CredentialReplaced(Replaced::Refused(present)));
                }
                if self.fault == Fault::ForgetsChanges {
                    row.changes = Changes::default();
                }
                if self.fault == Fault::ForgetsLeases {
                    row.leases = Leases::default();
                }
                self.tell(format!("op {op}: message {id} writes {}", told(Some(&row))));
                if self.fault == Fault::LosesWrites && self.random.one_in(16) {
                    return Ok(Answer::CredentialReplaced(Replaced::Done));
                }
                self.applied.push((op, Written::Credential(Box::new(row.clone()))));
                if let Some(former) = self.credentials.insert(row.id.clone(), row) {
                    self.stale.insert(former.id.clone(), former);
                }
                Ok(Answer::CredentialReplaced(Replaced::Done))
            }
            Request::ScanCredentials(customer) => {
                let is_met = |row: &&CredentialRow| row.id.customer == customer && self.fault != Fault::WalksPast;
                let rows = self.credentials.values().filter(is_met).cloned().collect();
                self.tell(format!("op {op}: message {id} scans"));
                Ok(Answer::CredentialsScanned(rows))
            }
            Request::GetCustomer(customer) => {
                let row = self.customers.get(&customer).cloned();
                if let Some(mirror) = &self.mirror {
                    mirror.get_customer(&customer, row.as_ref());
                }
                self.tell(format!("op {op}: message {id} reads a customer: {}", row.is_some()));
                Ok(Answer::Customer(row))
            }
            Request::ReplaceCustomer(expected, write) => {
                let present = self.customers.get(&write.customer.id).cloned();
                let holds = present.as_ref().map(Versioned::write_id) == expected;
                if let Some(mirror) = &self.mirror {
                    mirror.replace_customer(expected, &write, if holds { Ok(()) } else { Err(present.as_ref()) });
                }
                let CustomerWrite { customer, key, rewrapped: _, erased: _ } = write;
                if !holds && self.fault != Fault::IgnoresConditions {
                    self.tell(format!("op {op}: message {id} is refused: the customer is there"));
                    return Ok(Answer::CustomerReplaced(Replaced::Refused(present)));
                }
                self.tell(format!("op {op}: message {id} writes a customer"));
                self.applied.push((op, Written::Customer(Box::new(customer.clone()))));
                if let Some(key) = key.filter(|_| self.fault != Fault::TearsTransactions) {
                    self.keys.insert((customer.id.clone(), key.version), key);
                }
                self.customers.insert(customer.id.clone(), customer);
                Ok(Answer::CustomerReplaced(Replaced::Done))
            }
        }
    }
}

fn told(row: Option<&CredentialRow>) -> String {
    row.map_or("no row".to_owned(), |row| match row.life {
        crate::store::Life::Living(_) => {
            let (leases, under) = (row.leases.iter().count(), customer_version(row).unwrap_or_default());
            format!("revision {} under version {under} with {leases} leases", row.revision.get())
        }
        crate::store::Life::Deleted { .. } => format!("a tombstone of revision {}", row.revision.get()),
    })
}

/// The version of the customer's key that a row is sealed under, if it is living.
fn customer_version(row: &CredentialRow) -> Option<u32> {
    match &row.life {
        Life::Living(living) => Some(Envelope::lineage_of(&living.envelope).unwrap().customer.get()),
        Life::Deleted { .. } => None,
    }
}

/// What a row tells of its state and its leases.
fn facts(row: &CredentialRow, caller: impl Fn(&Caller) -> usize) -> (bool, Vec<Facts>) {
    let needs_reauth = match &row.life {
        Life::Living(living) => living.state != State::Active,
        Life::Deleted { .. } => false,
    };
    let leases = row.leases.iter().map(|lease| Facts {
        caller: caller(&lease.caller),
        revision: lease.revision.get(),
        expires: lease.expire_time.as_microsecond(),
        after_lapse: lease.after_lapse,
        end: lease.end.map(|end| match end {
            LeaseEnd::Completed { made, time } => End::Completed { made: made.get(), time: time.as_microsecond() },
            LeaseEnd::Abandoned(cause) => End::Abandoned { invalid_grant: cause == AbandonCause::InvalidGrant },
        }),
    });
    (needs_reauth, leases.collect())
}

fn retired(row: &CustomerRow) -> Vec<u32> {
    let retired = row.versions.iter().filter(|key| key.state == KeyVersionState::Retired);
    retired.map(|key| key.version.get()).collect()
}

/// What the reference compares: the opened secret of each row is found by `open`.
pub(super) async fn applied(
    written: Vec<(OpId, Written)>,
    credential: impl Fn(&CredentialRef) -> usize,
    customer: impl Fn(&CustomerId) -> usize,
    caller: impl Fn(&Caller) -> usize + Copy,
    open: impl AsyncFn(&CredentialRow) -> Result<Option<u32>, String>,
) -> Result<Vec<Applied>, String> {
    let mut applied = Vec::new();
    for (by, written) in written {
        let made = match written {
            Written::Customer(row) => Made::Customer {
                customer: customer(&row.id),
                row: Mark(row.write_id),
                versions: row.versions.iter().map(|key| key.create_time.as_microsecond()).collect(),
                primary: row.primary.get(),
                retired: retired(&row),
            },
            Written::Credential(row) => {
                let (needs_reauth, leases) = facts(&row, caller);
                Made::Credential {
                    credential: credential(&row.id),
                    revision: row.revision.get(),
                    secret: open(&row).await.map_err(|error| format!("a write of op {by} does not open: {error}"))?,
                    needs_reauth,
                    leases,
                    version: customer_version(&row),
                }
            }
        };
        applied.push(Applied { by, made });
    }
    Ok(applied)
}

/// The world, shared by the store's clients and the scheduler.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    async fn call(&self, request: Request) -> Result<Answer, StoreError> {
        let id = {
            let mut world = self.lock();
            let op = world.running.expect("an operation runs");
            world.sent += 1;
            let id = world.sent;
            world.messages.push(Message { id, op, request, is_abandoned: false });
            id
        };
        // The scheduler polls whom it wants to; nobody needs to be woken.
        poll_fn(|_| self.lock().answers.remove(&id).map_or(Poll::Pending, Poll::Ready)).await
    }
}

/// The store at the other end of the network.
pub(super) struct Remote(pub(super) Shared);

const WRONG: StoreError = StoreError::Throttled;

#[async_trait]
impl Rows for Remote {
    type Id = CredentialRef;
    type Row = CredentialRow;
    type Write = CredentialRow;

    async fn get(&self, id: &CredentialRef) -> Result<Option<CredentialRow>, StoreError> {
        match self.0.call(Request::GetCredential(id.clone())).await? {
            Answer::Credential(row) => Ok(row),
            _ => Err(WRONG),
        }
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: CredentialRow,
    ) -> Result<Replaced<CredentialRow>, StoreError> {
        match self.0.call(Request::ReplaceCredential(expected, row)).await? {
            Answer::CredentialReplaced(replaced) => Ok(replaced),
            _ => Err(WRONG),
        }
    }
}

#[async_trait]
impl Credentials for Remote {
    async fn query(
        &self,
        _: Option<&CustomerId>,
        _: Option<&CredentialRef>,
        _: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError> {
        unreachable!("nothing is listed")
    }

    async fn erase(&self, _: &CredentialRef) -> Result<(), StoreError> {
        unreachable!("a vault removes no row")
    }

    async fn scan(
        &self,
        extent: &Extent,
        _: Option<&CredentialRef>,
        _: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError> {
        let Extent::Customer(customer) = extent else { unreachable!("nothing else is walked") };
        match self.0.call(Request::ScanCredentials(customer.clone())).await? {
            Answer::CredentialsScanned(rows) => {
                let rows = rows.into_iter().map(|row| Met { id: row.id.clone(), row: Ok(row) }).collect();
                Ok(Page { rows, next: None })
            }
            _ => Err(WRONG),
        }
    }
}

pub(super) struct RemoteCustomers(pub(super) Shared);

#[async_trait]
impl Rows for RemoteCustomers {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        match self.0.call(Request::GetCustomer(id.clone())).await? {
            Answer::Customer(row) => Ok(row),
            _ => Err(WRONG),
        }
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        write: CustomerWrite,
    ) -> Result<Replaced<CustomerRow>, StoreError> {
        match self.0.call(Request::ReplaceCustomer(expected, write)).await? {
            Answer::CustomerReplaced(replaced) => Ok(replaced),
            _ => Err(WRONG),
        }
    }
}

#[async_trait]
impl Customers for RemoteCustomers {
    async fn key(&self, _: &CustomerId, _: Version) -> Result<Option<KeyRow>, StoreError> {
        unreachable!("the keyring has its own way to the store")
    }

    async fn query(&self, _: Option<&CustomerId>, _: usize) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        unreachable!("nothing is listed")
    }

    async fn scan(
        &self,
        _: Option<&CustomerId>,
        _: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        unreachable!("nothing is walked")
    }
}

/// The same customers as the keyring reads them: at once, or not.
pub(super) struct Near(pub(super) Shared);

#[async_trait]
impl Rows for Near {
    type Id = CustomerId;
    type Row = CustomerRow;
    type Write = CustomerWrite;

    async fn get(&self, id: &CustomerId) -> Result<Option<CustomerRow>, StoreError> {
        let mut world = self.0.lock();
        let often = world.keyring_fails;
        if often > 0 && world.random.one_in(often) {
            return Err(StoreError::Away("simulated".to_owned()));
        }
        Ok(world.customers.get(id).cloned())
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        write: CustomerWrite,
    ) -> Result<Replaced<CustomerRow>, StoreError> {
        // Only before the history begins.
        let mut world = self.0.lock();
        assert!(expected.is_none() && world.calls.is_empty(), "the keyring changes no customer");
        if let Some(mirror) = &world.mirror {
            mirror.replace_customer(expected, &write, Ok(()));
        }
        let CustomerWrite { customer, key, rewrapped: _, erased: _ } = write;
        if let Some(key) = key {
            world.keys.insert((customer.id.clone(), key.version), key);
        }
        world.customers.insert(customer.id.clone(), customer);
        Ok(Replaced::Done)
    }
}

#[async_trait]
impl Customers for Near {
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError> {
        Ok(self.0.lock().customer_key(customer, version))
    }

    async fn query(&self, _: Option<&CustomerId>, _: usize) -> Result<Page<CustomerRow, CustomerId>, StoreError> {
        unreachable!("nothing is listed")
    }

    async fn scan(
        &self,
        _: Option<&CustomerId>,
        _: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError> {
        unreachable!("nothing is walked")
    }
}

#[async_trait]
impl Rows for Shared {
    type Id = OperationId;
    type Row = OperationRow;
    type Write = OperationRow;

    async fn get(&self, id: &OperationId) -> Result<Option<OperationRow>, StoreError> {
        Ok(self.lock().operations.get(&(id.kind, id.id.clone())).cloned())
    }

    async fn replace(&self, _: Option<WriteId>, row: OperationRow) -> Result<Replaced<OperationRow>, StoreError> {
        self.lock().operations.insert((row.id.kind, row.id.id.clone()), row);
        Ok(Replaced::Done)
    }
}

#[async_trait]
impl Operations for Shared {
    async fn query(
        &self,
        _: &'static str,
        _: Option<&str>,
        _: usize,
    ) -> Result<Page<OperationRow, String>, StoreError> {
        unreachable!("nothing is listed")
    }

    async fn remove(&self, _: &OperationId, _: WriteId) -> Result<Replaced<OperationRow>, StoreError> {
        unreachable!("nothing is removed")
    }
}
