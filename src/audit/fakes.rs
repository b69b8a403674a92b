//! What the tests stand on, written by hand: a sink that hangs, fails and takes half a line, a store in memory, a MAC under a
//! key in memory, and logs that are made without a thread.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex};

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

use super::entry::{Chain, Entry, Outcome, StreamId, Subject};
use super::finding::Verdict;
use super::heads::{CheckpointMac, Head};
use super::log::Origin;
use super::sink::Sink;
use super::verify::Verifier;
use super::words::Event;
use crate::crypto::{Lineage, Version};
use crate::factors::FactorError;
use crate::ids::TraceId;
use crate::ids::{Caller, CredentialId, CredentialRef, CustomerId, RequestId};
use crate::secret::View;
use crate::store::{OperationId, OperationRow, Operations, Page, Replaced, Revision, Rows, StoreError, WriteId};

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + second).unwrap()
}

pub(super) fn credential(customer: &str, credential: &str) -> CredentialRef {
    let (customer, credential) = (CustomerId::parse(customer).unwrap(), CredentialId::parse(credential).unwrap());
    CredentialRef { customer, credential }
}

pub(super) fn lineage() -> Lineage {
    Lineage { codebase: Version::FIRST, environment: Version::FIRST, customer: Version::FIRST }
}

pub(super) fn origin(caller: &str, request: &str) -> Origin {
    Origin {
        caller: Some(Caller::new(caller)),
        request: Some(RequestId::parse(request).unwrap()),
        trace: Some(TraceId([7; 16])),
    }
}

/// A secret that was read.
pub(super) fn read(caller: &str, of: &CredentialRef, revision: u64) -> Entry {
    entry(caller, "r", Event::DecryptCredential, of, Some(View::Full), revision, Outcome::Ok)
}

pub(super) fn entry(
    caller: &str,
    request: &str,
    event: Event,
    of: &CredentialRef,
    view: Option<View>,
    revision: u64,
    outcome: Outcome,
) -> Entry {
    let Origin { caller, request, trace } = origin(caller, request);
    let subject = Subject {
        view,
        revision: Revision::new(revision),
        versions: Some(lineage().into()),
        ..Subject::credential(of)
    };
    Entry { event, caller, request, trace, subject, outcome }
}

/// An entry of the stream itself.
pub(super) fn of_stream(event: Event) -> Entry {
    Entry { event, caller: None, request: None, trace: None, subject: Subject::default(), outcome: Outcome::Ok }
}

/// A stream that is made here: its lines, and its head at any point.
pub(super) struct Made {
    pub(super) id: StreamId,
    chain: Chain,
    /// Each with its line break.
    pub(super) lines: Vec<String>,
}

impl Made {
    /// The digit, over and over, is the stream's name.
    pub(super) fn new(digit: char) -> Self {
        let id = StreamId::parse(&digit.to_string().repeat(32)).unwrap();
        Self { id, chain: Chain::new(id), lines: Vec::new() }
    }

    /// A stream with so many entries, the first and the last of which open and close it.
    pub(super) fn closed(digit: char, entries: u64) -> Self {
        let mut made = Self::new(digit);
        for number in 1..=entries {
            made.add(&match number {
                1 => of_stream(Event::StreamOpened),
                last if last == entries => of_stream(Event::StreamClosed),
                _ => read("realtask", &credential("acme", "crm"), number),
            });
        }
        made
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        let mut line = Vec::new();
        let time = at(self.lines.len() as i64);
        self.chain.append(time, entry, &mut line);
        self.lines.push(String::from_utf8(line).unwrap());
    }

    pub(super) fn log(&self) -> String {
        self.lines.concat()
    }

    /// The head as the service would have stored it now.
    pub(super) fn head(&self, closed: bool) -> Head {
        let (seq, hash) = self.chain.end();
        Head { stream: self.id, seq, hash, closed, time: at(1_000), mac: None }
    }
}

/// What a verification says of these files.
pub(super) fn verify(heads: Option<Vec<Head>>, files: &[&str]) -> Verdict {
    let mut verifier = Verifier::new(heads, false);
    for (index, file) in files.iter().enumerate() {
        verifier.read(&format!("file{index}"), file.as_bytes()).unwrap();
    }
    verifier.finish()
}

/// The names of what was found.
pub(super) fn kinds(verdict: &Verdict) -> Vec<&'static str> {
    verdict.findings.iter().map(|finding| finding.kind.as_str()).collect()
}

/// What a [`FakeSink`] does with the next octets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Take at most so many.
    Take(usize),
    Fail(ErrorKind),
}

#[derive(Default)]
struct SinkState {
    taken: Vec<u8>,
    writes: usize,
    script: VecDeque<Act>,
    blocked: bool,
    waiting: bool,
    failing: Option<ErrorKind>,
    gone: bool,
}

/// A sink in memory, and what holds its strings.
#[derive(Clone, Default)]
pub(super) struct FakeSink {
    state: Arc<(Mutex<SinkState>, Condvar)>,
    file: Option<Arc<File>>,
}

impl FakeSink {
    /// One whose octets are safe when this file is synced.
    pub(super) fn on_file(file: File) -> Self {
        Self { file: Some(Arc::new(file)), ..Self::default() }
    }

    pub(super) fn boxed(&self) -> Box<dyn Sink> {
        Box::new(Held(self.clone()))
    }

    fn with<T>(&self, change: impl FnOnce(&mut SinkState) -> T) -> T {
        let changed = change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
        changed
    }

    /// From now on it takes nothing and does not return, as a pipe whose reader does not read.
    pub(super) fn block(&self) {
        self.with(|state| state.blocked = true);
    }

    pub(super) fn unblock(&self) {
        self.with(|state| state.blocked = false);
    }

    /// Waits until the writer hangs in it.
    pub(super) fn wait_for_blocked_writer(&self) {
        let mut state = self.state.0.lock().unwrap();
        while !state.waiting {
            state = self.state.1.wait(state).unwrap();
        }
    }

    pub(super) fn fail(&self, failing: Option<ErrorKind>) {
        self.with(|state| state.failing = failing);
    }

    pub(super) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.with(|state| state.script.extend(acts));
    }

    pub(super) fn text(&self) -> String {
        self.with(|state| String::from_utf8(state.taken.clone()).unwrap())
    }

    pub(super) fn writes(&self) -> usize {
        self.with(|state| state.writes)
    }

    /// Whether the writer has let go of it.
    pub(super) fn is_gone(&self) -> bool {
        self.with(|state| state.gone)
    }

    fn take(&self, octets: &[u8]) -> io::Result<usize> {
        let (mutex, changed) = &*self.state;
        let mut state = mutex.lock().unwrap();
        while state.blocked {
            state.waiting = true;
            changed.notify_all();
            state = changed.wait(state).unwrap();
        }
        state.waiting = false;
        state.writes += 1;
        let taken = match (state.script.pop_front(), state.failing) {
            (Some(Act::Fail(kind)), _) | (None, Some(kind)) => return Err(kind.into()),
            (Some(Act::Take(most)), _) => octets.len().min(most),
            (None, None) => octets.len(),
        };
        state.taken.extend_from_slice(&octets[..taken]);
        Ok(taken)
    }
}

struct Held(FakeSink);

impl Sink for Held {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.take(octets)
    }

    fn file(&self) -> Option<Arc<File>> {
        self.0.file.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.with(|state| state.gone = true);
    }
}

/// The service's own records in memory, which counts its writes, and fails on demand.
#[derive(Default)]
pub(super) struct FakeOperations {
    rows: Mutex<BTreeMap<String, OperationRow>>,
    failure: Mutex<Option<StoreError>>,
    writes: Mutex<u64>,
}

impl FakeOperations {
    pub(super) fn fail(&self, failure: impl Into<Option<StoreError>>) {
        *self.failure.lock().unwrap() = failure.into();
    }

    pub(super) fn writes(&self) -> u64 {
        *self.writes.lock().unwrap()
    }

    /// All heads that are stored.
    pub(super) fn heads(&self) -> Vec<Head> {
        self.rows.lock().unwrap().values().map(|row| Head::from_record(row).unwrap()).collect()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Rows for FakeOperations {
    type Id = OperationId;
    type Row = OperationRow;
    type Write = OperationRow;

    async fn get(&self, id: &OperationId) -> Result<Option<OperationRow>, StoreError> {
        self.check()?;
        Ok(self.rows.lock().unwrap().get(&id.id).cloned())
    }

    async fn replace(
        &self,
        expected: Option<WriteId>,
        row: OperationRow,
    ) -> Result<Replaced<OperationRow>, StoreError> {
        self.check()?;
        let mut rows = self.rows.lock().unwrap();
        let present = rows.get(&row.id.id).cloned();
        if present.as_ref().map(|row| row.write_id) != expected {
            return Ok(Replaced::Refused(present));
        }
        rows.insert(row.id.id.clone(), row);
        *self.writes.lock().unwrap() += 1;
        Ok(Replaced::Done)
    }
}

#[async_trait]
impl Operations for FakeOperations {
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

/// HMAC-SHA-256 in the place of KMS.
#[derive(Default)]
pub(super) struct FakeMac {
    pub(super) key: u8,
    failure: Mutex<Option<FactorError>>,
}

impl FakeMac {
    pub(super) fn with_key(key: u8) -> Self {
        Self { key, failure: Mutex::default() }
    }

    pub(super) fn fail(&self, failure: impl Into<Option<FactorError>>) {
        *self.failure.lock().unwrap() = failure.into();
    }

    pub(super) fn of(&self, message: &[u8]) -> Hmac<Sha256> {
        Hmac::<Sha256>::new_from_slice(&[self.key; 32]).unwrap().chain_update(message)
    }
}

#[async_trait]
impl CheckpointMac for FakeMac {
    async fn make(&self, message: &[u8]) -> Result<Vec<u8>, FactorError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)?;
        Ok(self.of(message).finalize().into_bytes().to_vec())
    }

    async fn verify(&self, message: &[u8], mac: &[u8]) -> Result<bool, FactorError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)?;
        Ok(self.of(message).verify_slice(mac).is_ok())
    }
}
