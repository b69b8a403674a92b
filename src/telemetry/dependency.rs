//! What the service depends on, and whether it answers. The state is what real operations met: whoever asks a dependency for something
//! does so through [`Dependency::watch`].

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::metrics::{self, Gauge, Histogram};

/// A dependency that has not answered in this time is away. As long as the longest deadline of a call, so that nothing goes on for much
/// longer than its caller.
const ANSWER: Duration = Duration::from_secs(10);
/// Whoever gives up after this without an answer has met a dependency that is away; before, it may have had reasons of its own.
const GIVEN_UP: Duration = Duration::from_secs(2);

/// A dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Where the ciphertext stands.
    Store,
    /// The source of the environment keys.
    EnvironmentKeys,
    /// What wraps customer keys.
    CustomerKeys,
    /// Where each reading and each change has its entry.
    AuditLog,
}

impl Name {
    /// As metrics and `/readyz` name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::EnvironmentKeys => "environment_keys",
            Self::CustomerKeys => "customer_keys",
            Self::AuditLog => "audit_log",
        }
    }

    /// Whether nothing works without it. Where much goes on without it for some time, it is better to go on.
    pub fn is_required(self) -> bool {
        match self {
            Self::Store | Self::AuditLog => true,
            Self::EnvironmentKeys | Self::CustomerKeys => false,
        }
    }
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident: $($(#[$variant_doc:meta])* $variant:ident = $label:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            const COUNT: usize = [$($label),+].len();

            /// As metrics and `/readyz` name it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }
        }
    };
}

labels! {
    /// What a dependency is asked to do.
    Operation:
    /// One credential.
    CredentialsGet = "credentials_get",
    /// Many credentials at once.
    CredentialsGetMany = "credentials_get_many",
    /// A conditional write of one.
    CredentialsReplace = "credentials_replace",
    /// A page of them.
    CredentialsQuery = "credentials_query",
    /// A page of them for a walk that must miss nothing.
    CredentialsScan = "credentials_scan",
    /// One, gone with its customer.
    CredentialsErase = "credentials_erase",
    /// One customer.
    CustomersGet = "customers_get",
    /// A conditional write of one.
    CustomersReplace = "customers_replace",
    /// One wrapped key.
    CustomersKey = "customers_key",
    /// A page of customers.
    CustomersQuery = "customers_query",
    /// A page of them for a walk that must miss none.
    CustomersScan = "customers_scan",
    /// One of the service's own records.
    OperationsGet = "operations_get",
    /// A conditional write of one.
    OperationsReplace = "operations_replace",
    /// A page of them.
    OperationsQuery = "operations_query",
    /// One that is not needed any more.
    OperationsRemove = "operations_remove",
    /// All environment keys.
    Fetch = "fetch",
    /// A new customer key, wrapped.
    Wrap = "wrap",
    /// A customer key, unwrapped.
    Unwrap = "unwrap",
    /// A customer key, wrapped anew.
    Rewrap = "rewrap",
}

labels! {
    /// How an operation ended, and so the state of the dependency.
    Outcome:
    /// It did what it was asked to.
    Ok = "ok",
    /// It answered, and what it holds is damaged: a matter of that thing alone.
    Corrupt = "corrupt",
    /// It says that there is no such table or secret.
    Absent = "absent",
    /// It does not permit this.
    Refused = "refused",
    /// It asks for fewer requests.
    Throttled = "throttled",
    /// It did not answer.
    Away = "away",
}

/// An error of a dependency.
pub trait Failure: Sized {
    /// What it says about the dependency.
    fn outcome(&self) -> Outcome;
    /// There was no answer in time.
    fn late() -> Self;
}

/// What a dependency was when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `None`: it was not asked yet.
    pub outcome: Option<Outcome>,
    /// Since when.
    pub since: Timestamp,
}

impl Standing {
    /// Whether it answers, also with the news that something is damaged, or that there are too many requests.
    pub fn is_up(self) -> bool {
        matches!(self.outcome, Some(Outcome::Ok | Outcome::Corrupt | Outcome::Throttled))
    }
}

/// A dependency, watched.
pub struct Dependency {
    name: Name,
    standing: Mutex<Standing>,
    /// The discriminant of the last outcome, so that one more of the same takes no lock.
    last: AtomicU8,
    up: Gauge,
    /// Registered when they first occur: most pairs never do.
    seconds: [[OnceLock<Histogram>; Outcome::COUNT]; Operation::COUNT],
}

/// Stands for no outcome in [`Dependency::last`].
const NOT_ASKED: u8 = u8::MAX;

impl Dependency {
    /// One that was not asked yet.
    pub fn new(name: Name) -> Self {
        let standing = Mutex::new(Standing { outcome: None, since: Timestamp::now() });
        let up = metrics::dependency_up(name.as_str());
        up.set(0.0);
        let seconds = std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new()));
        Self { name, standing, last: AtomicU8::new(NOT_ASKED), up, seconds }
    }

    /// Which one.
    pub fn name(&self) -> Name {
        self.name
    }

    /// What it was when it was last asked.
    pub fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it do something, for at most 10 s, and remembers how that ended.
    ///
    /// # Errors
    /// The operation's own.
    pub async fn watch<T, E: Failure>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let outcome_of = |answer: &Result<T, E>| answer.as_ref().map_or_else(Failure::outcome, |_| Outcome::Ok);
        self.ask(operation, work, outcome_of).await.unwrap_or_else(|| Err(E::late()))
    }

    /// The same for `number` things at once. What fails for some is their own matter; what fails for all, the dependency's.
    pub async fn watch_many<T, E: Failure>(
        &self,
        operation: Operation,
        number: usize,
        work: impl Future<Output = Vec<Result<T, E>>>,
    ) -> Vec<Result<T, E>> {
        let outcome_of = |answers: &Vec<Result<T, E>>| match answers.first() {
            Some(Err(error)) if answers.iter().all(Result::is_err) => error.outcome(),
            Some(_) | None => Outcome::Ok,
        };
        let answers = self.ask(operation, work, outcome_of).await;
        answers.unwrap_or_else(|| (0..number).map(|_| Err(E::late())).collect())
    }

    /// Remembers what was found out without asking it for anything.
    pub fn found(&self, outcome: Outcome) {
        // A refusal counts by whether it is the second.
        if self.last.load(Ordering::Relaxed) != outcome as u8 || outcome == Outcome::Refused {
            self.becomes(outcome);
        }
    }

    /// `None`: no answer in time.
    async fn ask<A>(
        &self,
        operation: Operation,
        work: impl Future<Output = A>,
        outcome_of: impl FnOnce(&A) -> Outcome,
    ) -> Option<A> {
        let mut asked = Asked { dependency: self, operation, begun: Instant::now(), answered: false };
        let answer = timeout(ANSWER, work).await.ok();
        asked.answered = true;
        self.met(operation, answer.as_ref().map_or(Outcome::Away, outcome_of), asked.begun.elapsed());
        answer
    }

    fn met(&self, operation: Operation, outcome: Outcome, took: Duration) {
        if let Some(seconds) = self.seconds.get(operation as usize).and_then(|row| row.get(outcome as usize)) {
            let register = || metrics::dependency_seconds(self.name.as_str(), operation.as_str(), outcome.as_str());
            seconds.get_or_init(register).record(took);
        }
        self.found(outcome);
    }

    fn becomes(&self, outcome: Outcome) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the two agree whoever came first.
        let again = self.last.swap(outcome as u8, Ordering::Relaxed) == outcome as u8;
        let before = *standing;
        let now = Standing { outcome: Some(outcome), since: Timestamp::now() };
        // One refusal may be of one thing alone, such as a KMS key that is disabled; two without an answer between them are not.
        let one_alone = outcome == Outcome::Refused && before.is_up() && !again;
        if one_alone || before.outcome == now.outcome {
            return;
        }
        // Something damaged is no other state than an answer.
        *standing = if before.is_up() && now.is_up() { before } else { now };
        self.up.set(if now.is_up() { 1.0 } else { 0.0 });
        drop(standing);
        let (dependency, state) = (self.name.as_str(), outcome.as_str());
        match (before.is_up(), now.is_up()) {
            (_, false) => warn!(dependency, state, "dependency does not answer as it should"),
            (false, true) if before.outcome.is_some() => info!(dependency, "dependency answers again"),
            (_, true) => {}
        }
    }
}

/// An operation under way. Dropped without an answer, its caller gave up.
struct Asked<'a> {
    dependency: &'a Dependency,
    operation: Operation,
    begun: Instant,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let waited = self.begun.elapsed();
        if !self.answered && waited >= GIVEN_UP {
            self.dependency.met(self.operation, Outcome::Away, waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Failed(Outcome);

    impl Failure for Failed {
        fn outcome(&self) -> Outcome {
            self.0
        }

        fn late() -> Self {
            Self(Outcome::Away)
        }
    }

    async fn meet(dependency: &Dependency, outcome: Result<(), Failed>) {
        let _ = dependency.watch(Operation::CredentialsGet, async { outcome }).await;
    }

    fn state(dependency: &Dependency) -> Option<Outcome> {
        dependency.standing().outcome
    }

    #[tokio::test]
    async fn the_state_is_what_the_last_operation_met_and_since_when_it_has_been() {
        let store = Dependency::new(Name::Store);
        assert_eq!(state(&store), None);
        meet(&store, Ok(())).await;
        let up = store.standing();
        assert!(up.is_up());
        meet(&store, Err(Failed(Outcome::Corrupt))).await;
        meet(&store, Ok(())).await;
        assert_eq!(store.standing(), up, "a damaged row is no other state of the store");
        for answer in [Outcome::Throttled, Outcome::Corrupt] {
            meet(&store, Err(Failed(answer))).await;
            assert_eq!(store.standing(), up, "it answers");
        }
        for bad in [Outcome::Away, Outcome::Refused, Outcome::Absent] {
            meet(&store, Err(Failed(bad))).await;
            meet(&store, Err(Failed(bad))).await;
            let down = store.standing();
            assert_eq!((down.outcome, down.is_up()), (Some(bad), false));
            meet(&store, Err(Failed(bad))).await;
            assert_eq!(store.standing(), down, "one more of the same does not begin anew");
            meet(&store, Ok(())).await;
            assert!(store.standing().is_up());
        }
    }

    /// A customer under a KMS key that is disabled says nothing about the others.
    #[tokio::test]
    async fn one_refusal_among_answers_is_no_state_and_two_together_are() {
        let kms = Dependency::new(Name::CustomerKeys);
        meet(&kms, Ok(())).await;
        let up = kms.standing();
        for _ in 0..3 {
            meet(&kms, Err(Failed(Outcome::Refused))).await;
            assert_eq!(kms.standing(), up);
            meet(&kms, Ok(())).await;
            assert_eq!(kms.standing(), up);
        }
        meet(&kms, Err(Failed(Outcome::Refused))).await;
        meet(&kms, Err(Failed(Outcome::Refused))).await;
        assert_eq!((state(&kms), kms.standing().is_up()), (Some(Outcome::Refused), false));
        // Where no answer came before, one is enough.
        let never = Dependency::new(Name::CustomerKeys);
        meet(&never, Err(Failed(Outcome::Refused))).await;
        assert_eq!(state(&never), Some(Outcome::Refused));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_answers_one_that_is_good_tells_that_it_answers() {
        let store = Dependency::new(Name::Store);
        let away = || Err(Failed(Outcome::Away));
        for (answers, wanted) in [
            (vec![away(), away()], Outcome::Away),
            (vec![away(), Ok(())], Outcome::Ok),
            (vec![away()], Outcome::Away),
            (vec![], Outcome::Ok),
        ] {
            let number = answers.len();
            let answered = store.watch_many(Operation::CredentialsGetMany, number, async { answers }).await;
            assert_eq!((answered.len(), state(&store)), (number, Some(wanted)));
        }
        let late = store.watch_many(Operation::CredentialsGetMany, 2, pending::<Vec<Result<(), Failed>>>()).await;
        assert_eq!((late, state(&store)), (vec![away(), away()], Some(Outcome::Away)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_answer_is_away() {
        let store = Dependency::new(Name::Store);
        let silent = || store.watch(Operation::CredentialsGet, pending::<Result<(), Failed>>());
        let begun = Instant::now();
        assert_eq!(silent().await, Err(Failed(Outcome::Away)));
        assert_eq!((begun.elapsed(), state(&store)), (ANSWER, Some(Outcome::Away)));

        meet(&store, Ok(())).await;
        assert!(timeout(GIVEN_UP / 2, silent()).await.is_err());
        assert_eq!(state(&store), Some(Outcome::Ok), "a caller that gives up early says nothing");
        assert!(timeout(GIVEN_UP, silent()).await.is_err());
        assert_eq!(state(&store), Some(Outcome::Away), "one that waited in vain does");
    }
}
