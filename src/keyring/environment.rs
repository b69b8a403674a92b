//! The environment keys as this process knows them: read at the start, polled, and asked for at once when a header names a version
//! that is not here. A value that takes something back, or can't be read, leaves the last good one in place.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::fingerprints::{self, FingerprintError};
use super::single_flight::SingleFlight;
use super::{ASK_AGAIN, ASKED, JITTER, KeyringError, LOOK_UP};
use crate::crypto::{Environment, Version};
use crate::factors::{EnvironmentSource, FactorError, KeySet, Lookup, Regression};
use crate::jitter::jittered;
use crate::store::Operations;
use crate::telemetry::metrics::{EnvironmentRead, environment_read};

/// A version that the source has denied for so long does not exist: Secrets Manager has no consistent read.
const DENIED: Duration = Duration::from_secs(60);
/// Denied versions that are remembered, at most: headers are not authentic when they are looked up.
const MAX_DENIED: usize = 64;

/// Why the environment keys could not be read anew. What was read before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The source's.
    #[error("the environment keys can't be read: {0}")]
    Source(#[from] FactorError),
    /// The new value takes something back.
    #[error("the environment keys are refused: {0}")]
    Regression(#[from] Regression),
    /// The new value is not what the store has seen.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// The task that read them was ended.
    #[error("reading the environment keys was interrupted")]
    Interrupted,
}

/// How long the keys are good for.
#[derive(Clone, Copy, Debug)]
pub struct EnvironmentTiming {
    /// Between two readings.
    pub poll: Duration,
    /// Nothing is sealed with keys that were read longer ago than this.
    pub max_age: Duration,
}

/// The keys, and when they were read.
pub(super) struct Snapshot {
    pub(super) keys: KeySet<Environment>,
    read_at: Instant,
}

/// The keys as they are first read, before anything is made: a start that is refused for them leaves nothing behind. Nothing has compared
/// their fingerprints.
pub struct FirstReading {
    source: Arc<dyn EnvironmentSource>,
    snapshot: Snapshot,
}

impl FirstReading {
    /// Reads them.
    ///
    /// # Errors
    /// The source's.
    pub async fn of(source: Arc<dyn EnvironmentSource>) -> Result<Self, FactorError> {
        let read_at = Instant::now();
        let keys = source.fetch().await?;
        Ok(Self { source, snapshot: Snapshot { keys, read_at } })
    }
}

pub(super) struct EnvironmentKeys {
    source: Arc<dyn EnvironmentSource>,
    operations: Arc<dyn Operations>,
    timing: EnvironmentTiming,
    last_good: RwLock<Arc<Snapshot>>,
    reading: SingleFlight<(), Result<(), EnvironmentError>>,
    asked: Mutex<Asked>,
}

/// What was asked for on behalf of headers.
#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    /// Since when the source has denied a version.
    denied: Vec<(Version, Instant)>,
}

impl EnvironmentKeys {
    /// The keys as they were first read.
    pub(super) fn new(read: FirstReading, operations: Arc<dyn Operations>, timing: EnvironmentTiming) -> Arc<Self> {
        let FirstReading { source, snapshot } = read;
        let (last_good, reading) = (RwLock::new(Arc::new(snapshot)), SingleFlight::new());
        Arc::new(Self { source, operations, timing, last_good, reading, asked: Mutex::default() })
    }

    /// The keys as they were last read, however long ago.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.last_good.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys, for sealing under their primary.
    pub(super) async fn fresh(self: &Arc<Self>) -> Result<Arc<Snapshot>, KeyringError> {
        let snapshot = self.snapshot();
        if snapshot.read_at.elapsed() < self.timing.max_age {
            return Ok(snapshot);
        }
        // The poll has failed for long. One more try costs nothing but this call's time.
        self.ask().await;
        // Whoever read them, and however long that took, their age decides.
        let snapshot = self.snapshot();
        if snapshot.read_at.elapsed() < self.timing.max_age { Ok(snapshot) } else { Err(KeyringError::KeysStale) }
    }

    /// The keys, among them an enabled `version`.
    pub(super) async fn with(self: &Arc<Self>, version: Version) -> Result<Arc<Snapshot>, KeyringError> {
        if let Some(known) = known(self.snapshot(), version) {
            return known;
        }
        let asked = self.ask().await;
        if let Some(known) = known(self.snapshot(), version) {
            return known;
        }
        match asked {
            // Asked a moment ago, for this or another version.
            None => Err(self.denial(version, false)),
            Some(Ok(())) => Err(self.denial(version, true)),
            Some(Err(EnvironmentError::Source(_))) => Err(KeyringError::SecretsUnavailable),
            Some(Err(_)) => Err(KeyringError::KeysStale),
        }
    }

    /// Reads the keys now, at most once in [`ASK_AGAIN`], and waits for at most [`ASKED`]. `None`: not again so soon, and no answer
    /// is on its way.
    async fn ask(self: &Arc<Self>) -> Option<Result<(), EnvironmentError>> {
        let read = if self.may_ask() {
            timeout(ASKED, self.read()).await
        } else {
            let under_way = self.reading.join(&())?;
            timeout(ASKED, under_way).await.map(|read| read.unwrap_or(Err(EnvironmentError::Interrupted)))
        };
        Some(read.unwrap_or_else(|_| Err(FactorError::Away("no answer yet".to_owned()).into())))
    }

    fn may_ask(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = asked.at.is_none_or(|at| at.elapsed() >= ASK_AGAIN);
        if may {
            asked.at = Some(Instant::now());
        }
        may
    }

    /// What a version is that was not found: perhaps not yet here, or, if the source was `asked` and goes on denying it, not at all.
    fn denial(&self, version: Version, asked: bool) -> KeyringError {
        let read_at = self.snapshot().read_at;
        let mut known = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match known.denied.iter().find(|(denied, _)| *denied == version) {
            // Counted to the last answer: a source that is away denies nothing.
            Some((_, since)) if read_at.saturating_duration_since(*since) >= DENIED => {
                return KeyringError::KeyVersionUnknown;
            }
            Some(_) => {}
            None if asked => {
                if known.denied.len() == MAX_DENIED {
                    known.denied.remove(0);
                }
                known.denied.push((version, Instant::now()));
            }
            None => {}
        }
        KeyringError::KeysStale
    }

    /// Reads the keys now.
    pub(super) async fn read(self: &Arc<Self>) -> Result<(), EnvironmentError> {
        let this = Arc::clone(self);
        let read = move || async move {
            let read = this.read_once().await;
            environment_read(match &read {
                Ok(()) => EnvironmentRead::Accepted,
                Err(
                    EnvironmentError::Regression(_) | EnvironmentError::Fingerprint(FingerprintError::Mismatch { .. }),
                ) => EnvironmentRead::Refused,
                Err(EnvironmentError::Source(_) | EnvironmentError::Fingerprint(_) | EnvironmentError::Interrupted) => {
                    EnvironmentRead::Unavailable
                }
            });
            read
        };
        self.reading.start(&(), read).await.unwrap_or(Err(EnvironmentError::Interrupted))
    }

    async fn read_once(&self) -> Result<(), EnvironmentError> {
        let fetched = self.fetch().await?;
        fetched.keys.follows(&self.snapshot().keys)?;
        fingerprints::check(self.operations.as_ref(), fingerprints::claims("environment", &fetched.keys)).await?;
        self.accept(fetched)
    }

    /// Reads the keys again at the start, as they are first read: nothing has compared their fingerprints.
    pub(super) async fn start_again(&self) -> Result<(), EnvironmentError> {
        self.accept(self.fetch().await?)
    }

    /// See [`EnvironmentSource::lag`].
    pub(super) fn lag(&self) -> Duration {
        self.source.lag()
    }

    async fn fetch(&self) -> Result<Snapshot, EnvironmentError> {
        let read_at = Instant::now();
        let fetched = timeout(LOOK_UP, self.source.fetch()).await;
        let keys = fetched.unwrap_or_else(|_| Err(FactorError::Away("no answer in time".to_owned())))?;
        Ok(Snapshot { keys, read_at })
    }

    fn accept(&self, fetched: Snapshot) -> Result<(), EnvironmentError> {
        let mut last_good = self.last_good.write().unwrap_or_else(PoisonError::into_inner);
        fetched.keys.follows(&last_good.keys)?;
        if fetched.keys.primary() != last_good.keys.primary() {
            info!(version = fetched.keys.primary().get(), "environment key promoted");
        }
        *last_good = Arc::new(fetched);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.denied.retain(|(version, _)| matches!(last_good.keys.get(*version), Lookup::Unknown));
        Ok(())
    }
}

/// Reads the keys again and again, for as long as somebody else holds them.
pub(super) async fn poll(keys: Weak<EnvironmentKeys>, every: Duration) {
    loop {
        sleep(jittered(every, JITTER)).await;
        let Some(keys) = keys.upgrade() else { return };
        if let Err(error) = keys.read().await {
            warn!(%error, "environment keys not read; the last good ones stay");
        }
    }
}

fn known(snapshot: Arc<Snapshot>, version: Version) -> Option<Result<Arc<Snapshot>, KeyringError>> {
    match snapshot.keys.get(version) {
        Lookup::Enabled(_) => Some(Ok(snapshot)),
        Lookup::Retired => Some(Err(KeyringError::KeyVersionRetired)),
        Lookup::Unknown => None,
    }
}
