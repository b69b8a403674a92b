//! Whether this machine's clock agrees with the store's. Leases and days are compared across replicas, each by its own clock; what the
//! store says of the time is the one thing that all replicas hear.
//!
//! What can't be taken back, and what ends because others have had their time, waits until the store was heard and agrees.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::{info, warn};

/// Clocks further apart than this are not to be worked with.
const TOLERANCE: Duration = Duration::from_secs(2);
/// A Date header has whole seconds (RFC 9110, section 5.6.7).
const RESOLUTION: Duration = Duration::from_secs(1);
/// What the store said is good for so long: it is asked every 5 s, and a clock may be set meanwhile.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// What is known of the difference. Nothing is, at first.
#[derive(Debug, Default)]
pub struct StoreClock {
    /// How far this clock is ahead, at least, in milliseconds; behind, where negative.
    ahead_ms: AtomicI64,
    /// When the store said so, by a clock that nobody sets.
    heard: Mutex<Option<Instant>>,
}

/// This machine's clock is no ground for what can't be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this replica's clock differs from the store's, or could not be compared with it of late: nothing that depends on the time is done here"
)]
pub struct ClockUnconfirmed;

impl StoreClock {
    /// An answer with this date came at `received`, to what was asked at `sent`. It was written between the two, however long either way
    /// took: only what that does not explain is a difference.
    pub(super) fn heard(&self, sent: SystemTime, date: SystemTime, received: SystemTime) {
        let ahead = sent.duration_since(date + RESOLUTION).unwrap_or_default();
        let behind = date.duration_since(received).unwrap_or_default();
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let agreed = self.agrees();
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.ahead_ms.store(if ahead.is_zero() { -ms(behind) } else { ms(ahead) }, Ordering::Relaxed);
        match (agreed, self.agrees()) {
            (true, false) => {
                let ahead_ms = self.ahead_ms();
                warn!(
                    ahead_ms,
                    "this machine's clock differs from the store's: until it is set right, this replica is not ready, gives \
                     no lease, destroys no customer, rotates and retires no key version, and works on no job"
                );
            }
            (false, true) => info!("this machine's clock agrees with the store's again"),
            (true, true) | (false, false) => {}
        }
    }

    /// How far this clock is ahead of the store's, at least, in milliseconds; behind, where negative.
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms.load(Ordering::Relaxed)
    }

    /// For tests of those who ask: as if the store had said so now.
    #[cfg(test)]
    pub(crate) fn set(&self, ahead_ms: i64) {
        *self.heard.lock().unwrap() = Some(Instant::now());
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }

    /// Whether the two agree, within two seconds.
    pub fn agrees(&self) -> bool {
        u128::from(self.ahead_ms().unsigned_abs()) <= TOLERANCE.as_millis()
    }

    /// Whether the store was heard of late, and the two agree: that nothing was heard is no agreement.
    ///
    /// # Errors
    /// [`ClockUnconfirmed`], if not.
    pub fn check(&self) -> Result<(), ClockUnconfirmed> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = heard.is_some_and(|at| at.elapsed() < GOOD_FOR) && self.agrees();
        is_good.then_some(()).ok_or(ClockUnconfirmed)
    }

    /// [`StoreClock::check`], of a store that tells its time. One that does not, of this machine alone, has nothing to say.
    ///
    /// # Errors
    /// [`ClockUnconfirmed`].
    pub fn check_of(clock: Option<&Self>) -> Result<(), ClockUnconfirmed> {
        clock.map_or(Ok(()), Self::check)
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

    #[tokio::test(start_paused = true)]
    async fn that_nothing_was_heard_or_not_of_late_is_no_agreement() {
        let clock = StoreClock::default();
        assert_eq!((clock.agrees(), clock.check()), (true, Err(ClockUnconfirmed)));
        for (date, checked) in [(0, Ok(())), (10_000, Err(ClockUnconfirmed)), (0, Ok(()))] {
            clock.heard(at(0), at(date), at(10));
            assert_eq!(clock.check(), checked);
        }
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!((clock.agrees(), clock.check()), (true, Err(ClockUnconfirmed)));
    }
}
