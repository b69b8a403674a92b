use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn key(octet: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([octet; 32])
}

fn first() -> KeyDocument {
    KeyDocument::first(key(1), at(0))
}

/// The successor's document, by way of its stored form: nothing is kept that is not written.
fn stored(successor: &Successor) -> KeyDocument {
    KeyDocument::parse(Form::Environment, &successor.document().to_json(Form::Environment)).unwrap()
}

fn copy(document: &KeyDocument) -> KeyDocument {
    KeyDocument::parse(Form::Environment, &document.to_json(Form::Environment)).unwrap()
}

const STALE: Duration = Duration::from_mins(15);

#[test]
fn a_version_is_added_promoted_and_retired_in_this_order_only() {
    let document = first();
    assert_eq!((document.next(None), document.added()), (Next::Add, None));
    assert_eq!(copy(&document).with_promoted(at(5)).err(), Some(TransitionError::NothingAdded));
    assert_eq!(document.may_retire(1, STALE, at(9_999)), Err(TransitionError::IsPrimary(1)));

    let added = document.with_added(key(2), at(10)).unwrap();
    assert_eq!(added.version(), 2);
    let added = stored(&added);
    assert_eq!((added.primary, added.next(None)), (1, Next::Promote(2)));
    assert_eq!(added.keys[1].created_at, Some(at(10)));
    assert_eq!(added.may_retire(2, STALE, at(9_999)), Err(TransitionError::NotYetPrimary(2)));
    assert_eq!(added.may_retire(3, STALE, at(9_999)), Err(TransitionError::NoSuchVersion(3)));

    let promoted = stored(&added.with_promoted(at(130)).unwrap());
    assert_eq!((promoted.primary, promoted.next(None), promoted.former_primary()), (2, Next::Add, Some(1)));
    assert_eq!(promoted.keys[0].primary_until, Some(at(130)));
    // What was interrupted after it had been promoted is not begun again.
    assert_eq!((promoted.next(Some(1)), promoted.next(Some(2))), (Next::Finish, Next::Add));

    let until = at(130 + 15 * 60 + 60);
    let too_early = Err(TransitionError::TooEarly { version: 1, until });
    assert_eq!(
        promoted.may_retire(1, STALE, until.checked_sub(jiff::SignedDuration::from_millis(1)).unwrap()),
        too_early
    );
    let retired = stored(&promoted.with_retired(1, STALE, until).unwrap());
    assert_eq!((retired.keys.len(), retired.keys[0].state), (2, KeyState::Retired));
    assert_eq!(retired.may_retire(1, STALE, until), Err(TransitionError::IsRetired(1)));
    // The number of a retired version is not used again.
    assert_eq!(copy(&retired).with_added(key(3), until).unwrap().version(), 3);

    // For tables from before, it opens again, as it was; and may be retired as soon as they need it no more.
    assert_eq!(retired.may_unretire(2), Err(TransitionError::IsNotRetired(2)));
    assert_eq!(retired.may_unretire(3), Err(TransitionError::NoSuchVersion(3)));
    let unretired = stored(&retired.with_unretired(1).unwrap());
    assert_eq!((unretired.primary, unretired.keys[0].state, unretired.added()), (2, KeyState::Enabled, None));
    assert_eq!((unretired.keys[0].primary_until, unretired.next(None)), (Some(at(130)), Next::Add));
    assert_eq!(unretired.may_unretire(1), Err(TransitionError::IsNotRetired(1)));
    assert_eq!(unretired.may_retire(1, STALE, until), Ok(()));
}

#[test]
fn what_a_person_wrote_by_hand_is_not_guessed_at() {
    let mut document = first().with_added(key(2), at(0)).unwrap().into_document();
    document.primary = 2;
    assert_eq!(document.may_retire(1, STALE, at(1_000_000)), Err(TransitionError::SinceUnknown(1)));
    document.keys[0].primary_until = Some(at(2_000_000));
    assert!(matches!(document.may_retire(1, STALE, at(1_000_000)), Err(TransitionError::TooEarly { .. })));
    // Two were added at once: both are there to be read.
    let mut document =
        first().with_added(key(2), at(0)).unwrap().into_document().with_added(key(3), at(0)).unwrap().into_document();
    assert_eq!(document.next(None), Next::Promote(3));
    // One that was retired before it was ever used is never promoted.
    document.keys[2].state = KeyState::Retired;
    assert_eq!(document.next(None), Next::Promote(2));
    // Nor is it opened again, since it would be promoted then.
    assert_eq!(document.may_unretire(3), Err(TransitionError::NotYetPrimary(3)));
}

#[test]
fn times_are_whole_seconds_and_never_too_early() {
    let late = at(130).checked_add(jiff::SignedDuration::from_millis(1)).unwrap();
    let promoted = first().with_added(key(2), late).unwrap().into_document().with_promoted(late).unwrap();
    assert_eq!(promoted.document().keys[0].primary_until, Some(at(131)));
}

#[test]
fn a_document_never_grows_beyond_what_a_secret_holds() {
    let mut document = first();
    for _ in 0..1_000 {
        let mut octets = key(0);
        octets[..4].copy_from_slice(&(document.keys.len() as u32 + 1_000).to_be_bytes());
        let last = document.keys.len();
        match document.with_added(octets, at(0)) {
            Ok(successor) => document = successor.into_document(),
            Err(error) => {
                assert_eq!(error, TransitionError::TooLong);
                assert!((200..1_000).contains(&last), "{last}");
                return;
            }
        }
    }
    panic!("it never ends");
}

// --- rotations, replicas and records, in simulated time ---------------------

/// Seconds between two polls of a replica, at most.
const POLL: i64 = 30;
/// Between adding and promoting: two polls.
const SETTLE: i64 = 2 * POLL;
/// Nothing is sealed with keys that were read longer ago.
const MAX_AGE: i64 = 15 * 60;

/// What happens next, after so many seconds.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The command is run, and killed after so many of its writes; with 0 it is killed before the first.
    Rotate { writes: u8 },
    /// A version is retired, or refused to be.
    Retire(u8),
    /// A replica seals a record.
    Seal { replica: u8 },
    /// A replica loses its sources, for longer than MAX_AGE perhaps.
    CutOff { replica: u8 },
    /// And finds them again.
    Reconnect { replica: u8 },
    /// All records are sealed anew, by a replica that has the newest keys: as a job leaves them.
    Reencrypt,
    /// Nothing.
    Wait,
}

fn event() -> impl Strategy<Value = (i64, Event)> {
    let event = prop_oneof![
        4 => (0..3_u8).prop_map(|writes| Event::Rotate { writes }),
        3 => (1..6_u8).prop_map(Event::Retire),
        6 => (0..3_u8).prop_map(|replica| Event::Seal { replica }),
        1 => (0..3_u8).prop_map(|replica| Event::CutOff { replica }),
        1 => (0..3_u8).prop_map(|replica| Event::Reconnect { replica }),
        2 => Just(Event::Reencrypt),
        1 => Just(Event::Wait),
    ];
    (prop_oneof![0..5_i64, 0..100_i64, 0..2_000_i64], event)
}

/// What one replica has read.
struct Replica {
    keys: Rc<KeyDocument>,
    read_at: i64,
    next_poll: i64,
    connected: bool,
}

/// The world, in which nothing but documents, replicas and records is.
struct World {
    now: i64,
    document: Rc<KeyDocument>,
    replicas: Vec<Replica>,
    /// By record: the version that it is sealed under.
    records: BTreeMap<usize, u32>,
    retired: usize,
}

impl World {
    fn new() -> Self {
        let replicas = (0..3)
            .map(|number| Replica { keys: Rc::new(first()), read_at: 0, next_poll: 10 * number, connected: true })
            .collect();
        Self { now: 0, document: Rc::new(first()), replicas, records: BTreeMap::new(), retired: 0 }
    }

    fn pass(&mut self, seconds: i64) {
        let until = self.now + seconds;
        while let Some(replica) = self
            .replicas
            .iter_mut()
            .filter(|replica| replica.next_poll <= until)
            .min_by_key(|replica| replica.next_poll)
        {
            let time = replica.next_poll;
            replica.next_poll += POLL;
            if replica.connected {
                replica.keys = Rc::clone(&self.document);
                replica.read_at = time;
            }
        }
        self.now = until;
    }

    /// What `triseal rotate environment` does, from whatever is there.
    fn rotate(&mut self, mut writes: u8) {
        if self.document.next(None) == Next::Add {
            if writes == 0 {
                return;
            }
            writes -= 1;
            let octet = 1 + self.document.keys.len() as u8;
            self.document = Rc::new(stored(&copy(&self.document).with_added(key(octet), at(self.now)).unwrap()));
        }
        self.pass(SETTLE);
        if writes > 0 {
            self.document = Rc::new(stored(&copy(&self.document).with_promoted(at(self.now)).unwrap()));
        }
    }

    fn retire(&mut self, version: u32) {
        let still_seals = Duration::from_secs(MAX_AGE as u64);
        if self.document.may_retire(version, still_seals, at(self.now)).is_err()
            || self.records.values().any(|under| *under == version)
        {
            return;
        }
        self.document =
            Rc::new(stored(&copy(&self.document).with_retired(version, still_seals, at(self.now)).unwrap()));
        self.retired += 1;
    }

    fn seal(&mut self, replica: usize) {
        let replica = &self.replicas[replica];
        if self.now - replica.read_at < MAX_AGE {
            self.records.insert(self.records.len(), replica.keys.primary);
        }
    }

    fn check(&self) {
        for (record, version) in &self.records {
            let opens = |keys: &KeyDocument| {
                keys.keys.iter().any(|entry| entry.version == *version && entry.state == KeyState::Enabled)
            };
            assert!(opens(&self.document), "record {record} under version {version} is lost");
            for replica in
                self.replicas.iter().filter(|replica| replica.connected && self.now - replica.read_at <= POLL)
            {
                assert!(
                    opens(&replica.keys),
                    "record {record} under version {version} can't be opened by one that has polled"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is run, killed, retired or cut off: what a replica seals, every other one opens that has polled, and no record is left under
    /// a version that is retired.
    #[test]
    fn what_is_sealed_opens_wherever_the_keys_were_polled(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for (pause, event) in events {
            world.pass(pause);
            match event {
                Event::Rotate { writes } => world.rotate(writes),
                Event::Retire(version) => world.retire(u32::from(version)),
                Event::Seal { replica } => world.seal(usize::from(replica)),
                Event::CutOff { replica } => world.replicas[usize::from(replica)].connected = false,
                Event::Reconnect { replica } => world.replicas[usize::from(replica)].connected = true,
                Event::Reencrypt => {
                    let primary = world.document.primary;
                    world.records.values_mut().for_each(|under| *under = primary);
                }
                Event::Wait => {}
            }
            world.check();
        }
    }
}

/// That the simulation can find something: without the pause, a replica that has polled a moment before can't open what another one seals.
#[test]
#[should_panic(expected = "can't be opened by one that has polled")]
fn the_simulation_finds_a_promotion_without_a_pause() {
    let mut world = World::new();
    world.pass(5);
    world.document = Rc::new(stored(&copy(&world.document).with_added(key(2), at(5)).unwrap()));
    world.document = Rc::new(stored(&copy(&world.document).with_promoted(at(5)).unwrap()));
    // The second replica polls at 10, the first at 30.
    world.pass(6);
    world.seal(1);
    world.check();
}

/// And that it retires at all.
#[test]
fn the_simulation_retires_what_it_may() {
    let mut world = World::new();
    world.seal(0);
    world.rotate(2);
    world.pass(2_000);
    world.retire(1);
    assert_eq!(world.retired, 0, "a record is under it");
    world.records.clear();
    world.retire(1);
    assert_eq!(world.retired, 1);
}
