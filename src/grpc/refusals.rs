//! How often policy's refusals of one caller are written down. Each costs its caller a few octets and the log 500, so whoever is permitted
//! nothing could fill the disk, and push out what others did. It knows no policy, and no log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::Caller;

/// Of one caller at once, and one more in each [`AGAIN`]: far more than anybody needs to find out that they may not. In a day they come to
/// 2 GB of the log.
const AT_ONCE: u32 = 1_000;
const AGAIN: Duration = Duration::from_millis(20);
/// Callers that were refused in the last [`AT_ONCE`] times [`AGAIN`], at most: as many as policy may know.
const MAX_CALLERS: usize = 10_000;

/// The refusals of all callers: for each the time at which none counts any more.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<Caller, Instant>>);

impl Refusals {
    /// Counts one more, unless the caller has had as many as it may.
    pub(super) fn count(&self, caller: &Caller) -> bool {
        let now = Instant::now();
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !callers.contains_key(caller) {
            if callers.len() >= MAX_CALLERS {
                callers.retain(|_, none| *none > now);
            }
            if callers.len() >= MAX_CALLERS {
                return false;
            }
            callers.insert(caller.clone(), now);
        }
        let Some(none) = callers.get_mut(caller) else { return false };
        let counted = (*none).max(now) + AGAIN;
        let fits = counted.duration_since(now) <= AGAIN * AT_ONCE;
        if fits {
            *none = counted;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_so_many_refusals_and_more_with_time_and_others_have_theirs() {
        let refusals = Refusals::default();
        let (one, other) = (Caller::new("one"), Caller::new("other"));
        assert!((0..AT_ONCE).all(|_| refusals.count(&one)));
        assert!(!refusals.count(&one) && !refusals.count(&one));
        assert!(refusals.count(&other));
        tokio::time::advance(3 * AGAIN).await;
        assert_eq!((0..5).map(|_| refusals.count(&one)).collect::<Vec<_>>(), [true, true, true, false, false]);
        tokio::time::advance(2 * AT_ONCE * AGAIN).await;
        assert_eq!((0..2 * AT_ONCE).filter(|_| refusals.count(&one)).count() as u32, AT_ONCE, "none is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_are_bounded_and_those_whose_refusals_are_over_make_room() {
        let refusals = Refusals::default();
        assert!((0..MAX_CALLERS).all(|number| refusals.count(&Caller::new(&number.to_string()))));
        assert!(!refusals.count(&Caller::new("one more")));
        tokio::time::advance(AGAIN).await;
        assert!(refusals.count(&Caller::new("one more")));
        assert_eq!(refusals.0.lock().unwrap().len(), 1);
    }
}
