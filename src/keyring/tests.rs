//! Time is paused: it runs on when everything waits.

mod customers;
mod environment;
mod fakes;
mod roots;

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::*;
use crate::factors::document::KeyState;
use crate::factors::document::KeyState::{Enabled, Retired};
use crate::store::contract::{customer_id, version};
use fakes::Fakes;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
/// Longer than any test, so that nothing is polled.
const NEVER: Duration = Duration::from_hours(10_000);

fn timing() -> EnvironmentTiming {
    EnvironmentTiming { poll: Duration::from_secs(30), max_age: Duration::from_mins(15) }
}

fn limits() -> CacheLimits {
    CacheLimits {
        roots: 1_000,
        refresh_after: Duration::from_mins(15),
        max_age: Duration::from_mins(60),
        customer_staleness: Duration::from_secs(10),
    }
}

fn lineage(codebase: u32, environment: u32, customer: u32) -> Lineage {
    Lineage { codebase: version(codebase), environment: version(environment), customer: version(customer) }
}

fn away() -> FactorError {
    FactorError::Away("timed out".to_owned())
}

/// The five ways in which a factor's source fails.
fn factor_errors() -> [FactorError; 5] {
    let text = || "planted".to_owned();
    [
        FactorError::Absent(text()),
        FactorError::Refused(text()),
        FactorError::Throttled,
        FactorError::Away(text()),
        FactorError::Corrupt(text()),
    ]
}

/// The five ways in which a store fails.
fn store_errors() -> [StoreError; 5] {
    let text = || "planted".to_owned();
    [
        StoreError::Absent(text()),
        StoreError::Refused(text()),
        StoreError::Throttled,
        StoreError::Away(text()),
        StoreError::Corrupt(text()),
    ]
}

impl Keyring {
    /// Whether it seals for acme, under which lineage.
    async fn seals(&self) -> Result<Lineage, KeyringError> {
        self.primary(&customer_id("acme")).await.map(|(lineage, _)| lineage)
    }

    /// Whether acme's records of a lineage open.
    async fn opens(&self, lineage: Lineage) -> Result<(), KeyringError> {
        self.root(&customer_id("acme"), lineage).await.map(|_| ())
    }
}
