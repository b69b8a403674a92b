//! One look-up at a time for each key, shared by all who ask meanwhile. It runs in a task of its own, so that it goes on for the
//! others when the one who asked first gives up.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, Shared};

/// The look-up's task was ended, by a panic or because the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a look-up was interrupted")]
pub(super) struct Interrupted;

type Flight<V> = Shared<BoxFuture<'static, Result<V, Interrupted>>>;

pub(super) struct SingleFlight<K, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
}

/// Takes the flight off the list when its task ends, however it ends.
struct Landing<K: Eq + Hash, V> {
    flights: Arc<Mutex<HashMap<K, Flight<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { flights: Arc::default() }
    }

    /// Joins the look-up that is under way for `key`, or starts `work`. Who looks into a cache first must do so in `work` again: a
    /// look-up may have ended in between.
    pub(super) fn start<W>(&self, key: &K, work: impl FnOnce() -> W) -> Flight<V>
    where
        W: Future<Output = V> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key) {
            return flight.clone();
        }
        let (shared, landing_key, work) = (Arc::clone(&self.flights), key.clone(), work());
        let task = tokio::spawn(async move {
            // Made in the task, and not before: a runtime that is shutting down drops the task here, under the lock.
            let _landing = Landing { flights: shared, key: landing_key };
            work.await
        });
        let flight = task.map(|ended| ended.map_err(|_| Interrupted)).boxed().shared();
        flights.insert(key.clone(), flight.clone());
        flight
    }

    /// Joins the look-up that is under way for `key`, if there is one.
    pub(super) fn join(&self, key: &K) -> Option<Flight<V>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_meanwhile_share_one_look_up_even_if_the_first_gives_up() {
        let flights = SingleFlight::<&str, u32>::new();
        let runs = Arc::new(AtomicU32::new(0));
        let work = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                runs.fetch_add(1, Ordering::SeqCst) + 1
            }
        };
        let leader = flights.start(&"a", work);
        let followers: Vec<_> = (0..99).map(|_| flights.start(&"a", work)).collect();
        drop(leader);
        for follower in followers {
            assert_eq!(follower.await, Ok(1));
        }
        assert_eq!(flights.start(&"a", work).await, Ok(2), "a landed flight is not joined");
    }

    #[test]
    fn a_runtime_that_is_gone_hangs_nobody() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        drop(runtime);
        let _entered = handle.enter();
        let flight = SingleFlight::<&str, u32>::new().start(&"a", || async { 7 });
        assert_eq!(futures_util::FutureExt::now_or_never(flight), Some(Err(Interrupted)));
    }

    #[tokio::test]
    async fn a_panic_fails_its_followers_and_nobody_after() {
        let flights = SingleFlight::<&str, u32>::new();
        assert_eq!(flights.start(&"a", || async { panic!("planted") }).await, Err(Interrupted));
        assert_eq!(flights.start(&"a", || async { 7 }).await, Ok(7));
    }
}
