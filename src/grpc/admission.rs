//! Which calls are admitted, and which connections make any. Above a limit a call is refused at once, before its message is read; those that
//! were admitted are served. It knows no call but for how many places it takes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::{IDLE_LOOKS, WAITING_FOR_EACH_PLACE};
use crate::ids::Caller;
use crate::telemetry::metrics;

/// Why a call is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shed {
    /// As many calls as may be are under way.
    Overloaded,
    /// The caller has its share under way, and is not alone.
    RateLimited,
}

/// What is under way, for whoever gives way to it.
#[derive(Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

impl Load {
    /// How many places are taken: a call takes one, and a batch 8. `server.max_concurrent_requests` is how many there are.
    pub fn places(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts the calls under way, of all and of each caller.
///
/// A caller alone may have all of them. As soon as another one is connected, each may have at most half: nobody, by mistake or not, can
/// keep all others out. Who only waits leaves its place to others.
pub(super) struct Admission {
    limit: usize,
    under_way: Load,
    /// Calls that have left their places.
    waiting: AtomicUsize,
    callers: Mutex<HashMap<Option<Caller>, Arc<AtomicUsize>>>,
    /// How many callers are connected, to be read without the lock.
    connected: AtomicUsize,
    metrics: Arc<metrics::Server>,
}

impl Admission {
    pub(super) fn new(limit: usize, under_way: Load, metrics: Arc<metrics::Server>) -> Arc<Self> {
        let callers = Mutex::default();
        let (waiting, connected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, under_way, waiting, callers, connected, metrics })
    }

    /// The share of a caller that connects, which all of its connections have together.
    pub(super) fn share(self: &Arc<Self>, caller: Option<Caller>) -> Arc<Share> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = Arc::clone(callers.entry(caller.clone()).or_default());
        self.connected.store(known(&callers), Ordering::Relaxed);
        Arc::new(Share { admission: Arc::clone(self), caller, under_way })
    }

    fn share_limit(&self) -> usize {
        if self.connected.load(Ordering::Relaxed) > 1 { self.limit.div_ceil(2) } else { self.limit }
    }
}

/// Callers that are connected. Those whom nobody knows are served no call, and so take no share from others.
fn known(callers: &HashMap<Option<Caller>, Arc<AtomicUsize>>) -> usize {
    callers.keys().flatten().count()
}

/// A caller's share, held by one connection of it.
pub(super) struct Share {
    admission: Arc<Admission>,
    caller: Option<Caller>,
    /// Of all connections of this caller.
    under_way: Arc<AtomicUsize>,
}

impl Share {
    /// How many connections the caller has.
    pub(super) fn connections(&self) -> usize {
        // Each holds the counter, and so does the table.
        Arc::strong_count(&self.under_way).saturating_sub(1)
    }

    /// Lets a call in that counts as so many, unless too many are under way.
    pub(super) fn admit(self: &Arc<Self>, places: usize) -> Result<Admitted, Shed> {
        let admission = &self.admission;
        let share_limit = admission.share_limit();
        // However low the limit is set, each call can be made.
        let places = places.min(share_limit);
        if !count_up_to(&self.under_way, places, share_limit) {
            // Who has all of them, alone, is not limited but met with overload.
            let alone = admission.connected.load(Ordering::Relaxed) <= 1;
            return Err(if alone { self.overloaded() } else { self.rate_limited() });
        }
        if !count_up_to(&admission.under_way.0, places, admission.limit) {
            self.under_way.fetch_sub(places, Ordering::Relaxed);
            return Err(self.overloaded());
        }
        admission.metrics.in_flight.increment(1);
        Ok(Admitted { share: Arc::clone(self), places, waits: AtomicBool::new(false) })
    }

    fn give_back(&self, places: usize) {
        self.under_way.fetch_sub(places, Ordering::Relaxed);
        self.admission.under_way.0.fetch_sub(places, Ordering::Relaxed);
    }

    fn overloaded(&self) -> Shed {
        self.admission.metrics.overloaded.increment(1);
        Shed::Overloaded
    }

    fn rate_limited(&self) -> Shed {
        self.admission.metrics.rate_limited.increment(1);
        Shed::RateLimited
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut callers = self.admission.callers.lock().unwrap_or_else(PoisonError::into_inner);
        // This one's and the table's: it was the caller's last connection. None can be made meanwhile, under the lock.
        if Arc::strong_count(&self.under_way) == 2 {
            callers.remove(&self.caller);
            self.admission.connected.store(known(&callers), Ordering::Relaxed);
        }
    }
}

/// A call that was let in, until it is dropped.
pub(super) struct Admitted {
    share: Arc<Share>,
    places: usize,
    /// Whether it has left them.
    waits: AtomicBool,
}

impl Admitted {
    /// The call has nothing to do but to wait, and leaves its places to others, unless as many wait as may. It doesn't come back to them:
    /// what is left to do after that is to open one row and to answer, and of those who wait for one lease a single one tries to get it.
    pub(super) fn only_waits(&self) {
        let Self { share, places, waits } = self;
        let most = share.admission.limit.saturating_mul(WAITING_FOR_EACH_PLACE);
        if !waits.load(Ordering::Relaxed) && count_up_to(&share.admission.waiting, 1, most) {
            waits.store(true, Ordering::Relaxed);
            share.give_back(*places);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Self { share, places, waits } = self;
        if *waits.get_mut() {
            share.admission.waiting.fetch_sub(1, Ordering::Relaxed);
        } else {
            share.give_back(*places);
        }
        share.admission.metrics.in_flight.decrement(1);
    }
}

fn count_up_to(counter: &AtomicUsize, more: usize, limit: usize) -> bool {
    let counted = |now: usize| Some(now + more).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_ok()
}

/// The calls of one connection, by when they began: before the last look, or since. So a look tells which calls are old without a list of
/// them.
#[derive(Default)]
pub(super) struct Calls {
    /// By the parity of the look that they began after.
    begun: [AtomicU32; 2],
    /// Answers without an end of their own, such as a watch of health, and those that may take longer than between two looks.
    streams: AtomicU32,
    looks: AtomicUsize,
    /// Looks in a row that saw no call.
    quiet: AtomicU32,
}

/// What a look at a connection saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Calls come and go.
    Busy,
    /// There has been none for long.
    Idle,
    /// A call has been under way for longer than any deadline: its caller does not take the answer.
    Stalled,
}

impl Calls {
    /// A call begins, and ends when the answer is dropped. A stream has no end of its own, or none that a look could wait for.
    pub(super) fn begin(self: &Arc<Self>, stream: bool) -> UnderWay {
        self.quiet.store(0, Ordering::Relaxed);
        let place = if stream { None } else { Some(self.looks.load(Ordering::Relaxed) % 2) };
        self.counter(place).fetch_add(1, Ordering::Relaxed);
        UnderWay { calls: Arc::clone(self), place }
    }

    /// How many streams there are.
    pub(super) fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    /// To be called every [`LOOK`](super::limits::LOOK).
    pub(super) fn look(&self) -> Look {
        let [even, odd] = [0, 1].map(|place| self.counter(Some(place)).load(Ordering::Relaxed));
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        // Those that began before the last look, which is longer ago than the longest deadline.
        let old = if looks.is_multiple_of(2) { odd } else { even };
        if old > 0 {
            return Look::Stalled;
        }
        if even + odd + self.streams.load(Ordering::Relaxed) > 0 {
            self.quiet.store(0, Ordering::Relaxed);
            return Look::Busy;
        }
        if self.quiet.fetch_add(1, Ordering::Relaxed) >= IDLE_LOOKS { Look::Idle } else { Look::Busy }
    }

    fn counter(&self, place: Option<usize>) -> &AtomicU32 {
        place.and_then(|place| self.begun.get(place)).unwrap_or(&self.streams)
    }
}

/// A call of a connection, until it is dropped.
pub(super) struct UnderWay {
    calls: Arc<Calls>,
    place: Option<usize>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.calls.counter(self.place).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::limits::{BATCH, BATCH_PLACES, WITH_SECRET, places};

    fn admission(limit: usize) -> Arc<Admission> {
        Admission::new(limit, Load::default(), Arc::default())
    }

    fn caller(name: &str) -> Option<Caller> {
        Some(Caller::new(name))
    }

    #[test]
    fn as_many_calls_as_may_be_are_admitted_and_one_that_ends_makes_room() {
        let admission = admission(3);
        let share = admission.share(caller("realtask"));
        let mut admitted: Vec<_> = (0..3).map(|_| share.admit(1).unwrap()).collect();
        for _ in 0..2 {
            assert_eq!(share.admit(1).err(), Some(Shed::Overloaded));
        }
        admitted.pop();
        admitted.push(share.admit(1).unwrap());
        assert_eq!(share.admit(1).err(), Some(Shed::Overloaded));
        drop(admitted);
        assert_eq!(admission.under_way.places(), 0);
        assert_eq!(share.under_way.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_caller_has_all_of_it_alone_and_half_of_it_in_company() {
        let admission = admission(4);
        // Two connections of one caller have one share.
        let greedy = [admission.share(caller("greedy")), admission.share(caller("greedy"))];
        let mut alone: Vec<_> = (0..4).map(|call| greedy[call % 2].admit(1).unwrap()).collect();
        assert_eq!(greedy[0].admit(1).err(), Some(Shed::Overloaded));

        let modest = admission.share(caller("modest"));
        assert_eq!(modest.admit(1).err(), Some(Shed::Overloaded), "what is under way is not taken back");
        alone.truncate(2);
        assert_eq!(greedy[1].admit(1).err(), Some(Shed::RateLimited));
        let both = [modest.admit(1).unwrap(), modest.admit(1).unwrap()];
        assert_eq!(modest.admit(1).err(), Some(Shed::RateLimited));

        drop((both, modest));
        alone.extend([greedy[0].admit(1).unwrap(), greedy[1].admit(1).unwrap()]);
        assert_eq!(greedy[0].admit(1).err(), Some(Shed::Overloaded), "alone again");
        let unknown = [admission.share(None), admission.share(None)];
        assert_eq!(admission.connected.load(Ordering::Relaxed), 1, "those whom nobody knows take no share");
        drop((alone, greedy, unknown));
        assert_eq!(admission.connected.load(Ordering::Relaxed), 0);
        assert!(admission.callers.lock().unwrap().is_empty());
    }

    #[test]
    fn a_batch_counts_as_several_calls_and_is_served_under_any_limit() {
        assert_eq!([places(BATCH), places("/triseal.v1.CredentialService/DecryptCredential")], [BATCH_PLACES, 1]);
        let methods = crate::grpc::server::rpcs(crate::grpc::v1::DESCRIPTORS).unwrap();
        assert!(methods.contains_key(BATCH), "it has another name by now");
        assert!(WITH_SECRET.iter().all(|path| methods.contains_key(*path)), "they have other names by now");
        let admission = admission(2 * BATCH_PLACES);
        let share = admission.share(caller("realtask"));
        let batches = [share.admit(BATCH_PLACES).unwrap(), share.admit(BATCH_PLACES).unwrap()];
        assert_eq!(share.admit(1).err(), Some(Shed::Overloaded));
        drop(batches);
        let _calls: Vec<_> = (0..=BATCH_PLACES).map(|_| share.admit(1).unwrap()).collect();
        assert_eq!(share.admit(BATCH_PLACES).err(), Some(Shed::Overloaded));

        let low = self::admission(3);
        let share = low.share(caller("realtask"));
        let batch = share.admit(BATCH_PLACES).unwrap();
        assert_eq!(share.admit(1).err(), Some(Shed::Overloaded));
        drop(batch);
        assert_eq!((low.under_way.places(), share.under_way.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn the_connections_of_a_caller_are_counted() {
        let admission = admission(1);
        let mut shares: Vec<_> = (0..3).map(|_| admission.share(caller("one"))).collect();
        let other = admission.share(caller("other"));
        assert_eq!([shares[0].connections(), other.connections()], [3, 1]);
        shares.pop();
        assert_eq!(shares[0].connections(), 2);
    }

    #[test]
    fn a_call_that_only_waits_leaves_its_place_to_others_unless_as_many_wait_as_may() {
        let admission = admission(2);
        let share = admission.share(caller("realtask"));
        let mut waiting: Vec<_> =
            (0..2 * WAITING_FOR_EACH_PLACE).map(|_| share.admit(1).unwrap()).inspect(Admitted::only_waits).collect();
        assert_eq!((admission.under_way.places(), share.under_way.load(Ordering::Relaxed)), (0, 0));

        let full = [share.admit(1).unwrap(), share.admit(1).unwrap()];
        full.iter().for_each(Admitted::only_waits);
        assert_eq!(admission.under_way.places(), 2, "they wait in their places");
        assert_eq!(share.admit(1).err(), Some(Shed::Overloaded));

        waiting.pop();
        full[0].only_waits();
        full[0].only_waits();
        let room = share.admit(1).unwrap();
        assert_eq!(share.admit(1).err(), Some(Shed::Overloaded));
        drop((waiting, full, room));
        let counters = [&admission.waiting, &admission.under_way.0, &share.under_way];
        assert_eq!(counters.map(|counter| counter.load(Ordering::Relaxed)), [0; 3]);
    }

    #[test]
    fn a_limit_of_one_serves_one_call_of_either_caller() {
        let admission = admission(1);
        let (one, other) = (admission.share(caller("one")), admission.share(caller("other")));
        let admitted = one.admit(1).unwrap();
        assert_eq!(other.admit(1).err(), Some(Shed::Overloaded));
        drop(admitted);
        other.admit(1).unwrap();
    }

    #[test]
    fn a_connection_is_idle_after_looks_without_a_call_and_stalled_by_a_call_that_outlasts_two() {
        let calls = Arc::new(Calls::default());
        for _ in 0..3 {
            for _ in 0..IDLE_LOOKS {
                assert_eq!(calls.look(), Look::Busy);
            }
            drop(calls.begin(false));
        }
        for _ in 0..IDLE_LOOKS {
            assert_eq!(calls.look(), Look::Busy);
        }
        assert_eq!(calls.look(), Look::Idle);

        for _ in 0..2 {
            let call = calls.begin(false);
            assert_eq!(calls.look(), Look::Busy);
            let younger = calls.begin(false);
            assert_eq!(calls.look(), Look::Stalled);
            drop(call);
            assert_eq!(calls.look(), Look::Stalled);
            drop(younger);
            assert_eq!(calls.look(), Look::Busy);
        }
        let stream = calls.begin(true);
        for _ in 0..3 * IDLE_LOOKS {
            assert_eq!(calls.look(), Look::Busy);
        }
        drop(stream);
        for _ in 0..IDLE_LOOKS {
            assert_eq!(calls.look(), Look::Busy);
        }
        assert_eq!(calls.look(), Look::Idle);
    }
}
