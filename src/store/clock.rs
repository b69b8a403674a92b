//! Whether this machine's clock agrees with the store's. Leases and days are compared across replicas, each by its own clock; what the
//! store says of the time is the one thing that all replicas hear.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

/// Clocks further apart than this are not to be worked with.
const TOLERANCE: Duration = Duration::from_secs(2);
/// A Date header has whole seconds (RFC 9110, section 5.6.7).
const RESOLUTION: Duration = Duration::from_secs(1);

/// What is known of the difference. Nothing is, at first.
#[derive(Debug, Default)]
pub struct StoreClock {
    /// How far this clock is ahead, at least, in milliseconds; behind, where negative.
    ahead_ms: AtomicI64,
}

impl StoreClock {
    /// An answer with this date came at `received`, to what was asked at `sent`. It was written between the two, however long either way
    /// took: only what that does not explain is a difference.
    pub(super) fn heard(&self, sent: SystemTime, date: SystemTime, received: SystemTime) {
        let ahead = sent.duration_since(date + RESOLUTION).unwrap_or_default();
        let behind = date.duration_since(received).unwrap_or_default();
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let agreed = self.agrees();
        self.ahead_ms.store(if ahead.is_zero() { -ms(behind) } else { ms(ahead) }, Ordering::Relaxed);
        match (agreed, self.agrees()) {
            (true, false) => {
                let ahead_ms = self.ahead_ms();
                warn!(ahead_ms, "this machine's clock differs from the store's: not ready until it is set right");
            }
            (false, true) => info!("this machine's clock agrees with the store's again"),
            (true, true) | (false, false) => {}
        }
    }

    /// How far this clock is ahead of the store's, at least, in milliseconds; behind, where negative.
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    /// For tests of those who ask.
    #[cfg(test)]
    pub(crate) fn set(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    /// Whether the two agree, within two seconds.
    pub fn agrees(&self) -> bool {
        u128::from(self.ahead_ms().unsigned_abs()) <= TOLERANCE.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + ms)
    }

    #[test]
    fn only_what_the_way_and_whole_seconds_do_not_explain_is_a_difference() {
        let clock = StoreClock::default();
        assert!(clock.agrees(), "nothing is known yet");
        for (sent, date, received, ahead, agrees) in [
            (0, 0, 10, 0, true),
            (999, 0, 1_010, 0, true),
            // On its way for long.
            (0, 5_000, 6_000, 0, true),
            (3_000, 0, 3_010, 2_000, true),
            (3_001, 0, 3_010, 2_001, false),
            (0, 2_010, 10, -2_000, true),
            (0, 3_000, 10, -2_990, false),
            (100_000, 100_000, 100_010, 0, true),
        ] {
            clock.heard(at(sent), at(date), at(received));
            assert_eq!((clock.ahead_ms(), clock.agrees()), (ahead, agrees), "{sent} {date} {received}");
        }
    }
}
