//! Caller × action × customer → [`Permit`], which only this file can make. What may be done is a parameter of whatever does it, so
//! nothing can be done without having asked.
//!
//! Nothing is permitted that no policy permits. A set of policies is taken as a whole or not at all; a bad edit leaves the last good
//! set in place. It does not know what the things are that it permits, nor whether they exist: so a refusal can't tell.

mod asks;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod policies;
mod texts;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::sleep;
use tracing::{error, info, warn};

pub use asks::{
    AbandonRefresh, AcquireRefresh, Action, AllCustomers, Ask, CancelJob, CompleteRefresh, CreateCustomer,
    DecryptCredential, DeleteCredential, DestroyCustomer, DisableCustomer, EnableCustomer, EncryptCredential,
    GetCredential, GetCustomer, GetJob, ListCredentials, ListCustomers, ListJobs, ListReplicas, MarkNeedsReauth,
    NoQuestion, Question, RestoreCustomer, RetireCustomerKeyVersion, RotateCustomerKey, StartCustomerKeyRotation,
    StartReencryption, StartRewrap, Target,
};
pub use policies::{Contents, Policies, PolicyError, Problem, Reason, Why};

use crate::ids::Caller;
use crate::telemetry::metrics;
use texts::{ENTITIES, SCHEMA, Text, Texts};

/// Between two readings of the directory. A change is taken when two of them agree.
const POLL: Duration = Duration::from_secs(2);
/// Decisions that one set remembers, at most: a few MB with ids of usual length.
const MAX_DECISIONS: usize = 16_384;

/// Policy does not permit it. Whether the thing exists was not looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy does not permit this")]
pub struct Denied {
    /// What was asked.
    pub question: Question,
}

/// That policy permits a caller what it asked for.
#[derive(Debug)]
pub struct Permit<A> {
    caller: Caller,
    asked: A,
}

impl<A> Permit<A> {
    /// For tests of what is done with a permit. Nothing was asked.
    #[cfg(test)]
    pub(crate) fn unasked(caller: Caller, asked: A) -> Self {
        Self { caller, asked }
    }

    /// Who may.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Do what, and on what.
    pub fn asked(&self) -> &A {
        &self.asked
    }
}

/// The policy in force.
pub struct Access {
    current: RwLock<Arc<InForce>>,
}

/// A set with the decisions that it has made, which end with it: no decision can outlive its set.
struct InForce {
    policies: Policies,
    /// Counted from 1, for each process.
    generation: u64,
    decisions: Cache<(Caller, Question), bool>,
}

impl InForce {
    fn new(policies: Policies, generation: u64) -> Arc<Self> {
        Arc::new(Self { policies, generation, decisions: Cache::new(MAX_DECISIONS) })
    }
}

impl Access {
    /// The policy of a directory, read now and again whenever it changes, for as long as somebody holds it.
    ///
    /// # Errors
    /// [`PolicyError`], if there is no good set to begin with.
    pub async fn start(directory: &Path) -> Result<Arc<Self>, PolicyError> {
        let at = directory.to_owned();
        let texts = blocking(move || Texts::settled(&at)).await?;
        let access = Self::of(parse(texts.clone()).await?);
        access.announce();
        tokio::spawn(watch(Arc::downgrade(&access), directory.to_owned(), Ok(texts)));
        Ok(access)
    }

    /// The policy of a service on which nobody can tell who calls: the one caller that it knows may do everything.
    ///
    /// # Errors
    /// [`PolicyError`], if what is compiled in is no policy: a bug.
    pub fn development() -> Result<Arc<Self>, PolicyError> {
        Self::without_tls(include_str!("development.cedar"))
    }

    /// Policies that know the one caller that there is without TLS.
    pub(crate) fn without_tls(policies: &str) -> Result<Arc<Self>, PolicyError> {
        let text = |name: &str, content: &str| Text { name: name.to_owned(), content: content.to_owned() };
        let caller = Caller::insecure_plaintext();
        let entities =
            serde_json::json!([{"uid": {"type": "Caller", "id": caller.as_str()}, "attrs": {}, "parents": []}]);
        let texts = Texts {
            schema: text(SCHEMA, include_str!("../../deploy/policy/triseal.cedarschema")),
            entities: text(ENTITIES, &entities.to_string()),
            policies: vec![text("development.cedar", policies)],
        };
        Ok(Self::of(Policies::parse(&texts)?))
    }

    /// Asks for a permit.
    ///
    /// # Errors
    /// [`Denied`], if no policy permits it, one forbids it, or one fails.
    pub fn permit<A: Ask>(&self, caller: &Caller, asked: A) -> Result<Permit<A>, Denied> {
        let question = asked.question();
        if self.decide(caller, &question) {
            Ok(Permit { caller: caller.clone(), asked })
        } else {
            Err(Denied { question })
        }
    }

    /// Whether an item of a list may be shown to whoever may have the list.
    pub fn shows<L, A: Ask>(&self, list: &Permit<L>, item: &A) -> bool {
        self.decide(&list.caller, &item.question())
    }

    fn of(policies: Policies) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(InForce::new(policies, 1)) })
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn decide(&self, caller: &Caller, question: &Question) -> bool {
        let set = self.in_force();
        let asked = (caller.clone(), question.clone());
        if let Some(permitted) = set.decisions.get(&asked) {
            return permitted;
        }
        let permitted = set.policies.decide(caller, question).unwrap_or_else(|fault| {
            metrics::policy_failure();
            error!(fault, generation = set.generation, "policy failed while it was evaluated: refused");
            false
        });
        set.decisions.insert(asked, permitted);
        permitted
    }

    /// Puts another set in force.
    fn replace(&self, policies: Policies) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = InForce::new(policies, current.generation + 1);
    }

    fn announce(&self) {
        let set = self.in_force();
        let (policies, callers) = set.policies.counts();
        metrics::policy_generation(set.generation);
        info!(generation = set.generation, policies, callers, "policy in force");
        for note in set.policies.contents().notes {
            warn!(%note, "policy is good, and has something odd");
        }
    }
}

impl Policies {
    /// The policies of a directory, as the service would read them.
    ///
    /// # Errors
    /// [`PolicyError`] with everything that is wrong, as far as one fault does not hide another.
    pub fn read(directory: &Path) -> Result<Self, PolicyError> {
        Self::parse(&Texts::settled(directory)?)
    }
}

/// Reads the directory again and again, for as long as somebody else holds the policy. `known` is what it looked like last, good or
/// bad: each state of it is looked at once.
async fn watch(access: Weak<Access>, directory: PathBuf, mut known: Result<Texts, PolicyError>) {
    // What the last reading found, if that was new.
    let mut before = None;
    loop {
        sleep(POLL).await;
        let Some(access) = access.upgrade() else { return };
        let at = directory.clone();
        let found = blocking(move || Texts::read(&at)).await;
        if found == known {
            before = None;
        } else if before.as_ref() != Some(&found) {
            // Perhaps somebody is still writing.
            before = Some(found);
        } else {
            adopt(&access, found.clone()).await;
            (known, before) = (found, None);
        }
    }
}

/// Puts a set in force if it is good, and else leaves the last good one there.
async fn adopt(access: &Access, found: Result<Texts, PolicyError>) {
    let parsed = match found {
        Ok(texts) => parse(texts).await,
        Err(error) => Err(error),
    };
    match parsed {
        Ok(policies) => {
            access.replace(policies);
            metrics::policy_reload(true);
            access.announce();
        }
        Err(error) => {
            metrics::policy_reload(false);
            error!(%error, "policy refused; the last good set stays in force");
        }
    }
}

async fn parse(texts: Texts) -> Result<Policies, PolicyError> {
    blocking(move || Policies::parse(&texts)).await
}

/// Reading waits for a disk, and checking a set takes milliseconds: neither is for the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PolicyError> + Send + 'static,
) -> Result<T, PolicyError> {
    let interrupted = |_| Err(Problem::about("policy", None, "reading it was interrupted").into());
    tokio::task::spawn_blocking(work).await.unwrap_or_else(interrupted)
}

#[cfg(test)]
mod tests;
