//! One line's way into the service: stored where nothing lives, opened again and compared; tried again for as long as that may help.
//! It knows no other line, except that it stops all of them when nothing succeeds any more.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};
use triseal::grpc::{check_encrypt_request, v1};
use triseal::jitter::jittered;

use super::entry::{EncodedSecret, Entry, Id};
use crate::client::Service;
use crate::duration;
use crate::failure::Failure;
use crate::status::{self, Again, Subject};

/// The longest pause before the second attempt. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// No pause is longer, unless the service asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is done with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is stored.
    Store,
    /// It is checked here, and compared with what is there.
    Look,
    /// It is checked here: no service answers.
    Check,
}

/// What became of a line.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Stored and compared; or, where nothing is written, to be stored.
    Done,
    /// The same secret was there.
    AlreadyThere,
    /// Another secret was there, and is left.
    Differing { revision: u64 },
    /// It is not stored, or not known to be.
    Failed(Failure),
    /// So it is, after the last of many attempts.
    GivenUp(Failure),
}

/// What lines have in common.
pub(super) struct Transfer<'a> {
    service: &'a Service,
    mode: Mode,
    create_customers: bool,
    retry_for: Duration,
    /// When the last line came to an end otherwise than by being given up.
    succeeded_at: Cell<Instant>,
    stopping: Cell<bool>,
    /// Why something is being tried again, for whoever watches.
    trouble: RefCell<Option<String>>,
}

/// A call that was not done.
struct Refusal {
    status: Status,
    given_up: bool,
}

/// What stands where a line is to be stored.
enum Found {
    Same,
    Other { revision: u64 },
}

impl<'a> Transfer<'a> {
    pub(super) fn new(service: &'a Service, mode: Mode, create_customers: bool, retry_for: Duration) -> Self {
        Self {
            service,
            mode,
            create_customers,
            retry_for,
            succeeded_at: Cell::new(Instant::now()),
            stopping: Cell::new(false),
            trouble: RefCell::new(None),
        }
    }

    /// Does with a line what is to be done.
    pub(super) async fn transfer(&self, entry: &Entry) -> Outcome {
        let outcome = match self.mode {
            Mode::Store => self.store(entry).await,
            Mode::Look => self.look(entry).await,
            Mode::Check => check(entry).map(|()| Outcome::Done),
        };
        let outcome = outcome.unwrap_or_else(|failed| failed);
        if !matches!(outcome, Outcome::GivenUp(_)) {
            self.succeeded_at.set(Instant::now());
        }
        outcome
    }

    /// Whether there is no point in going on: a line was given up, and none has come to an end for as long as one is tried.
    pub(super) fn reason_to_stop(&self, outcome: &Outcome) -> Option<Failure> {
        let Outcome::GivenUp(failure) = outcome else { return None };
        if self.stopping.get() || self.succeeded_at.get().elapsed() < self.retry_for {
            return None;
        }
        self.stopping.set(true);
        let stopped = Failure::failed(format!(
            "stopped, since nothing has succeeded for {}: {}",
            duration::told(self.retry_for),
            failure.message
        ));
        Some(stopped.with_hint("run the same command again when that is mended: what is stored already is recognised"))
    }

    /// Why something is being tried again.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    async fn store(&self, entry: &Entry) -> Result<Outcome, Outcome> {
        let Some(revision) = self.encrypt(entry).await? else {
            return match self.read(entry, None).await {
                Ok(found) => Ok(outcome_of(found)),
                Err(refusal) => Err(refusal.into_outcome(&entry.id, "there is one already, and then: ")),
            };
        };
        match self.read(entry, Some(revision)).await {
            Ok(Found::Same) => Ok(Outcome::Done),
            Ok(Found::Other { .. }) => {
                let failure = Failure::failed("what the service gives back is not what was stored".to_owned());
                Err(Outcome::Failed(failure))
            }
            Err(refusal) => Err(refusal.into_outcome(&entry.id, "stored, and not opened again: ")),
        }
    }

    async fn look(&self, entry: &Entry) -> Result<Outcome, Outcome> {
        check(entry)?;
        match self.read(entry, None).await {
            Ok(found) => Ok(outcome_of(found)),
            Err(refusal) => match refusal.reason().as_deref() {
                Some("CREDENTIAL_NOT_FOUND") => Ok(Outcome::Done),
                Some("CUSTOMER_NOT_FOUND") if self.create_customers => Ok(Outcome::Done),
                Some(_) | None => Err(refusal.into_outcome(&entry.id, "")),
            },
        }
    }

    /// Stores the secret where nothing lives: at which revision. `None`: something does.
    async fn encrypt(&self, entry: &Entry) -> Result<Option<u64>, Outcome> {
        // Random, and not made of the line: a key that a later run had again would say of a changed secret that the key was
        // used before, and not that the secret differs.
        let key = random_key().map_err(Outcome::Failed)?;
        let mut has_created = false;
        loop {
            let stored = self
                .call(async || {
                    let request = self.service.request(encrypt_request(entry, &key));
                    self.service.credentials().encrypt_credential(request).await
                })
                .await;
            match stored {
                Ok(answer) => {
                    let credential = answer.credential.ok_or_else(|| Outcome::Failed(Failure::unknown_answer()))?;
                    return Ok(Some(credential.revision));
                }
                Err(refusal) if refusal.status.code() == Code::AlreadyExists => return Ok(None),
                Err(refusal) => {
                    let is_missing = refusal.reason().as_deref() == Some("CUSTOMER_NOT_FOUND");
                    if !is_missing || !self.create_customers || has_created {
                        return Err(refusal.into_outcome(&entry.id, ""));
                    }
                    has_created = true;
                    self.create_customer(&entry.id).await?;
                }
            }
        }
    }

    async fn create_customer(&self, id: &Id) -> Result<(), Outcome> {
        let created = self
            .call(async || {
                let message = v1::CreateCustomerRequest { customer_id: id.customer.to_string() };
                self.service.customers().create_customer(self.service.request(message)).await
            })
            .await;
        created.map(drop).map_err(|refusal| refusal.into_outcome(id, "its customer was not created: "))
    }

    async fn read(&self, entry: &Entry, if_revision: Option<u64>) -> Result<Found, Refusal> {
        let answer = self
            .call(async || {
                let request = v1::DecryptCredentialRequest {
                    customer_id: entry.id.customer.to_string(),
                    credential_id: entry.id.credential.to_string(),
                    view: v1::View::Full.into(),
                    if_revision,
                };
                self.service.credentials().decrypt_credential(self.service.request(request)).await
            })
            .await?;
        let same = answer.secret.is_some_and(|secret| EncodedSecret::new(secret).is_same(&entry.secret));
        let revision = answer.credential.map(|credential| credential.revision).unwrap_or_default();
        Ok(if same { Found::Same } else { Found::Other { revision } })
    }

    /// Makes a call, again and again if it may help.
    async fn call<T>(&self, call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Refusal> {
        let began = Instant::now();
        let mut longest = FIRST_PAUSE;
        loop {
            let status = match call().await {
                Ok(answer) => {
                    self.trouble.replace(None);
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            let Some(asked) = status::retry_after(&status) else { return Err(Refusal { status, given_up: false }) };
            // A half to all of it, so that lines do not keep step.
            let pause = asked + jittered(longest.mul_f64(0.75), 1.0 / 3.0);
            longest = (longest * 2).min(LONGEST_PAUSE);
            self.trouble.replace(Some(Failure::from_status(&status, Subject::default()).message));
            if began.elapsed() + pause > self.retry_for || self.stopping.get() {
                return Err(Refusal { status, given_up: true });
            }
            sleep(pause).await;
        }
    }
}

impl Refusal {
    fn reason(&self) -> Option<String> {
        status::reason_of(&self.status)
    }

    fn into_outcome(self, id: &Id, before: &str) -> Outcome {
        let (customer, credential) = (id.customer.as_str(), id.credential.as_str());
        let subject = Subject { customer, credential, again: Again::Safe };
        let mut failure = Failure::from_status(&self.status, subject);
        failure.message = format!("{before}{}", failure.message);
        if self.reason().as_deref() == Some("CUSTOMER_NOT_FOUND") {
            failure.hint = Some("--create-customers creates it".to_owned());
        }
        if self.given_up { Outcome::GivenUp(failure) } else { Outcome::Failed(failure) }
    }
}

fn outcome_of(found: Found) -> Outcome {
    match found {
        Found::Same => Outcome::AlreadyThere,
        Found::Other { revision } => Outcome::Differing { revision },
    }
}

/// What the service would refuse a line for, as far as that can be told from here.
fn check(entry: &Entry) -> Result<(), Outcome> {
    let (customer, credential) = (entry.id.customer.as_str(), entry.id.credential.as_str());
    let subject = Subject { customer, credential, ..Subject::default() };
    let checked = check_encrypt_request(encrypt_request(entry, ""));
    checked.map_err(|status| Outcome::Failed(Failure::from_status(&status, subject)))
}

fn encrypt_request(entry: &Entry, key: &str) -> v1::EncryptCredentialRequest {
    v1::EncryptCredentialRequest {
        customer_id: entry.id.customer.to_string(),
        credential_id: entry.id.credential.to_string(),
        secret: entry.secret.message(),
        if_revision: Some(0),
        idempotency_key: key.to_owned(),
    }
}

fn random_key() -> Result<String, Failure> {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets)
        .map_err(|_| Failure::failed("the operating system gives no random numbers".to_owned()))?;
    Ok(format!("import-{:032x}", u128::from_be_bytes(octets)))
}
