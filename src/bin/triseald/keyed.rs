//! The keys and the store, tried: the keys are read before a store is made, so that a start that is refused for them leaves none behind,
//! and what is sealed under them opens before anybody relies on it.

use std::sync::Arc;

use futures_util::FutureExt;
use triseal::config::Settings;
use triseal::crypto::{Codebase, Context, CustomerKey, Plaintext, Salt, open, seal};
use triseal::factors::{KeySet, KeyWrapper};
use triseal::keyring::{CacheLimits, FirstReading, Keyring, Sources};
use triseal::ops::{self, Phase, Readiness};
use zeroize::Zeroizing;

use super::Failure;
use super::ground::Ground;
use super::parts::{self, Store};

/// Keys and store.
pub(super) struct Keyed {
    pub(super) wrapper: Arc<dyn KeyWrapper>,
    pub(super) store: Store,
    pub(super) keyring: Keyring,
}

impl Keyed {
    /// Reads the keys, opens the store, and tries them.
    pub(super) async fn open(
        settings: &Settings,
        codebase: KeySet<Codebase>,
        ground: &Ground,
    ) -> Result<Self, Failure> {
        let (aws, dependencies) = (&ground.aws, &ground.dependencies);
        let wrapper = parts::wrapper(settings, aws, &dependencies.wrapper)?;
        let (environment, timing) = parts::environment(settings, aws, &dependencies.environment)?;
        let environment = FirstReading::of(environment).await;
        let environment = environment.map_err(|error| parts::no_environment_keys(settings, &error))?;

        let store = Store::new(settings, aws, &dependencies.store)?;
        if let Some(clock) = &store.clock {
            ground.readiness.require_clock(Arc::clone(clock));
        }
        tokio::spawn(ops::probe(Arc::clone(&store.operations)));
        let sources = Sources {
            deployment: settings.deployment.clone(),
            codebase,
            environment,
            wrapper: Arc::clone(&wrapper),
            customers: Arc::clone(&store.customers),
            operations: Arc::clone(&store.operations),
        };
        let keyring = Keyring::start(sources, timing, CacheLimits::from(&settings.cache)).await;
        let keyring = keyring.map_err(|error| parts::not_compared(&error))?;
        self_check(&keyring).await?;
        Ok(Self { wrapper, store, keyring })
    }

    /// Ready at once, if the fingerprints are compared: while the store is away, that comes later.
    pub(super) fn tell_if_proven(&self, readiness: &Readiness) {
        if let Some(Ok(())) = self.keyring.proven().now_or_never() {
            readiness.enter(Phase::Serving);
        }
    }

    /// At the end: why it could not have gone on, if nobody told it to stop.
    pub(super) fn failure(&self, settings: &Settings) -> Option<Failure> {
        if let Some(file) = self.store.file.as_ref().filter(|file| file.has_failed()) {
            let cause = file.failure().map_or_else(|| "its writer has stopped".to_owned(), |error| error.to_string());
            let path = settings.store.embedded.path.display();
            let advice = "mend that and start again; nothing that was acknowledged is lost";
            return Some(format!("{path} can't be written any more: {cause}: {advice}").into());
        }
        // Settled only while the store answers.
        match self.keyring.proven().now_or_never() {
            Some(Err(error)) => Some(parts::not_compared(&error)),
            Some(Ok(())) | None => None,
        }
    }
}

/// Seals and opens under this process's primaries before anybody relies on them.
async fn self_check(keyring: &Keyring) -> Result<(), Failure> {
    let (mut key, mut salt) = (Zeroizing::new([0; 32]), [0; 32]);
    getrandom::fill(key.as_mut())?;
    getrandom::fill(&mut salt)?;
    let (lineage, root) = keyring.rehearsal(CustomerKey::new(key)).await?;
    let context = Context::new("self-check", "self-check", "self-check", "opaque", 1)?;
    let plaintext = Plaintext::new(Zeroizing::new(b"self-check".to_vec()))?;
    let envelope = seal(&root, lineage, &context, Salt::new(salt), &plaintext)?;
    if open(&root, &context, &envelope)?.is_same(&plaintext) {
        Ok(())
    } else {
        Err("self-check: what was sealed did not open as it was; this machine or this build is not to be trusted"
            .into())
    }
}
