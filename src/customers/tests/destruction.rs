//! The states of a customer, and its end.

use super::*;
use crate::crypto::Lineage;
use crate::customers::destruction::Swept;
use crate::keyring::KeyringError;
use crate::store::contract::living;
use crate::store::{ClockUnconfirmed, Credentials, Replaced};

const RETENTION: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Which transition.
#[derive(Clone, Copy, Debug)]
enum To {
    Disabled,
    Enabled,
    Destroyed,
    Restored,
}

async fn go(setup: &Setup, name: &str, to: To) -> Result<CustomerState, CustomerError> {
    let id = id(name);
    let changed = match to {
        To::Disabled => setup.directory.disable_unasked(&id).await,
        To::Enabled => setup.directory.enable_unasked(&id).await,
        To::Destroyed => setup.directory.destroy_unasked(&id, 7).await,
        To::Restored => setup.directory.restore_unasked(&id).await,
    };
    if let Ok(row) = &changed {
        assert_eq!(setup.directory.get_unasked(&id).await.as_ref(), Ok(row), "what is answered is what is stored");
    }
    changed.map(|row| row.state)
}

#[tokio::test]
async fn each_transition_in_each_state() {
    use CustomerError as E;
    use CustomerState::{Active, Destroyed, Disabled, PendingDestruction};
    let setup = setup().await;
    on_day(100);
    let before = PendingDestruction { destroy_time: Timestamp::from_second(103 * 86_400).unwrap() };
    let dated = PendingDestruction { destroy_time: Timestamp::from_second(107 * 86_400).unwrap() };
    let gone = Destroyed { destroy_time: Timestamp::UNIX_EPOCH, erasure: Erasure::default() };
    let table = [
        (Active, To::Disabled, Ok(Disabled)),
        (Active, To::Enabled, Ok(Active)),
        (Active, To::Destroyed, Err(E::NotDisabled)),
        (Active, To::Restored, Err(E::NotDisabled)),
        (Disabled, To::Disabled, Ok(Disabled)),
        (Disabled, To::Enabled, Ok(Active)),
        (Disabled, To::Destroyed, Ok(dated)),
        (Disabled, To::Restored, Ok(Disabled)),
        (before, To::Disabled, Err(E::PendingDestruction)),
        (before, To::Enabled, Err(E::PendingDestruction)),
        (before, To::Destroyed, Ok(before)),
        (before, To::Restored, Ok(Disabled)),
        (gone, To::Disabled, Err(E::Destroyed)),
        (gone, To::Enabled, Err(E::Destroyed)),
        (gone, To::Destroyed, Err(E::Destroyed)),
        (gone, To::Restored, Err(E::Destroyed)),
    ];
    for (number, (state, to, wanted)) in table.into_iter().enumerate() {
        let name = format!("c{number}");
        put(&setup, &name, state).await;
        assert_eq!(go(&setup, &name, to).await, wanted, "{state:?} {to:?}");
        // Asked again, it is as it was, and nothing is written.
        let row = setup.directory.get_unasked(&id(&name)).await.unwrap();
        if wanted.is_ok() {
            assert_eq!(go(&setup, &name, to).await, wanted, "{state:?} {to:?} again");
            assert_eq!(setup.directory.get_unasked(&id(&name)).await.unwrap().write_id, row.write_id);
        }
    }
    for to in [To::Disabled, To::Enabled, To::Destroyed, To::Restored] {
        assert_eq!(go(&setup, "nobody", to).await, Err(E::NotFound));
    }
}

#[tokio::test]
async fn a_disabled_customer_is_known_as_such_at_once() {
    let setup = setup().await;
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    let (lineage, _) = setup.keyring.primary(&id("acme")).await.unwrap();
    go(&setup, "acme", To::Disabled).await.unwrap();
    let sealing = setup.keyring.primary(&id("acme")).await.map(|_| ());
    let opening = setup.keyring.root(&id("acme"), lineage).await.map(|_| ());
    assert_eq!((sealing, opening), (Err(KeyringError::CustomerDisabled), Err(KeyringError::CustomerDisabled)));
    go(&setup, "acme", To::Enabled).await.unwrap();
    setup.keyring.root(&id("acme"), lineage).await.unwrap();
}

async fn holds(setup: &Setup, owner: &str, credentials: usize) {
    for number in 0..credentials {
        let row = living(owner, &format!("credential-{number}"));
        assert!(matches!(setup.credentials.replace(None, row).await.unwrap(), Replaced::Done));
    }
}

async fn left(setup: &Setup, owner: &str) -> usize {
    setup.credentials.query(Some(&id(owner)), None, 10_000).await.unwrap().rows.len()
}

/// A customer pending destruction on day 107, with so many key versions.
async fn pending(setup: &Setup, name: &str, versions: u32) {
    on_day(100);
    let mut row = setup.directory.create_unasked(&id(name)).await.unwrap();
    for number in 2..=versions {
        let version = Version::new(number).unwrap();
        let key = KeyRow { version, wrapped: vec![1], kms_key_arn: "arn".to_owned() };
        let mut after = CustomerRow { write_id: WriteId::random().unwrap(), ..row.clone() };
        after.versions.push(KeyVersion { version, ..row.versions[0].clone() });
        let write = CustomerWrite { key: Some(key), ..CustomerWrite::of(after.clone()) };
        setup.customers.replace(Some(row.write_id), write).await.unwrap();
        row = after;
    }
    go(setup, name, To::Disabled).await.unwrap();
    go(setup, name, To::Destroyed).await.unwrap();
}

#[tokio::test]
async fn on_its_day_keys_and_credentials_are_erased_and_a_receipt_stays() {
    let setup = setup().await;
    // More keys than one transaction erases, and more credentials than one page.
    pending(&setup, "acme", 200).await;
    holds(&setup, "acme", 1_001).await;
    setup.directory.create_unasked(&id("other")).await.unwrap();
    holds(&setup, "other", 3).await;

    on_day(106);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept::default()));
    assert_eq!(left(&setup, "acme").await, 1_001);

    on_day(107);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept { destroyed: 1, ..Swept::default() }));
    let row = setup.directory.get_unasked(&id("acme")).await.unwrap();
    let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
    let erasure = Erasure {
        key_versions: 200,
        credentials: Some(1_001),
        end_time: Some(day(107)),
        backups_end_time: Some(day(107 + 35)),
    };
    assert_eq!(row.state, CustomerState::Destroyed { destroy_time: day(107), erasure });
    assert!(row.versions.is_empty());
    assert_eq!(left(&setup, "acme").await, 0);
    for number in 1..=200 {
        assert_eq!(setup.customers.key(&id("acme"), Version::new(number).unwrap()).await, Ok(None));
    }
    assert_eq!(left(&setup, "other").await, 3);
    assert!(setup.customers.key(&id("other"), Version::FIRST).await.unwrap().is_some());

    // The next sweep finds nothing to do, and the id is never provisioned again.
    on_day(200);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept::default()));
    assert_eq!(setup.directory.get_unasked(&id("acme")).await, Ok(row));
    assert_eq!(setup.directory.create_unasked(&id("acme")).await, Err(CustomerError::Destroyed));
    let lineage = Lineage { codebase: Version::FIRST, environment: Version::FIRST, customer: Version::FIRST };
    assert_eq!(
        setup.keyring.root(&id("acme"), lineage).await.map(|_| ()).unwrap_err(),
        KeyringError::CustomerDestroyed
    );
}

#[tokio::test]
async fn a_destruction_that_was_interrupted_goes_on_and_can_not_be_taken_back() {
    let setup = setup().await;
    pending(&setup, "acme", 3).await;
    holds(&setup, "acme", 5).await;
    // As a process leaves it that dies after the first transaction.
    on_day(107);
    let row = setup.directory.get_unasked(&id("acme")).await.unwrap();
    let erasure = Erasure { key_versions: 1, ..Erasure::default() };
    let half = CustomerRow {
        state: CustomerState::Destroyed { destroy_time: clock(), erasure },
        versions: row.versions[1..].to_vec(),
        write_id: WriteId::random().unwrap(),
        ..row.clone()
    };
    let write = CustomerWrite { erased: vec![Version::FIRST], ..CustomerWrite::of(half) };
    setup.customers.replace(Some(row.write_id), write).await.unwrap();
    assert_eq!(go(&setup, "acme", To::Restored).await, Err(CustomerError::Destroyed));

    // However long that takes: there is nothing left to be rescued.
    on_day(150);
    let (one, other) = tokio::join!(setup.directory.sweep(RETENTION), setup.directory.sweep(RETENTION));
    assert!(one.unwrap().failed == 0 && other.unwrap().failed == 0, "two replicas at once do no harm");
    let CustomerState::Destroyed { erasure, .. } = setup.directory.get_unasked(&id("acme")).await.unwrap().state else {
        panic!("it is not destroyed");
    };
    assert_eq!((erasure.key_versions, erasure.credentials, erasure.end_time), (3, Some(5), Some(clock())));
    assert_eq!(left(&setup, "acme").await, 0);
}

#[tokio::test]
async fn a_customer_that_was_restored_in_time_is_not_destroyed() {
    let setup = setup().await;
    pending(&setup, "acme", 1).await;
    go(&setup, "acme", To::Restored).await.unwrap();
    on_day(1_000);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept::default()));
    assert_eq!(go(&setup, "acme", To::Enabled).await, Ok(CustomerState::Active));
    setup.keyring.primary(&id("acme")).await.unwrap();
}

#[tokio::test]
async fn a_credential_that_can_not_be_read_is_erased_and_counted_like_any_other() {
    let setup = setup().await;
    pending(&setup, "acme", 1).await;
    holds(&setup, "acme", 3).await;
    let damaged = living("acme", "credential-1").id;
    setup.credentials.damage(&damaged, b"no row");
    assert!(setup.credentials.get(&damaged).await.is_err());
    on_day(107);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept { destroyed: 1, ..Swept::default() }));
    assert_eq!((left(&setup, "acme").await, setup.credentials.get(&damaged).await), (0, Ok(None)));
    let CustomerState::Destroyed { erasure, .. } = setup.directory.get_unasked(&id("acme")).await.unwrap().state else {
        panic!("it is not destroyed");
    };
    assert_eq!(erasure.credentials, Some(3));
}

/// A writer that keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// As on tables that were restored from before the rescue of `acme`.
#[test]
fn a_destruction_that_is_long_overdue_is_not_begun_unasked_and_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let setup = runtime.block_on(async {
        let setup = setup().await;
        pending(&setup, "acme", 2).await;
        pending(&setup, "other", 1).await;
        holds(&setup, "acme", 3).await;
        setup
    });
    let (kept, before) = (Kept::default(), runtime.block_on(setup.directory.get_unasked(&id("acme"))).unwrap());
    let writer = kept.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    on_day(107);
    pass(3 * 3_600 + 1);
    let numbers = crate::telemetry::metrics::counted(|| {
        tracing::subscriber::with_default(log, || {
            for _ in 0..2 {
                let swept = runtime.block_on(setup.directory.sweep(RETENTION));
                assert_eq!(swept, Ok(Swept { overdue: 2, ..Swept::default() }));
            }
        });
    });
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let named = |name: &str| {
        let of = |line: &&str| line.contains("ERROR") && line.contains(&format!("customer=\"{name}\""));
        text.lines().filter(of).filter(|line| line.contains("triseal customer restore")).count()
    };
    assert_eq!((named("acme"), named("other")), (2, 2), "in each sweep: {text}");
    assert!(numbers.lines().any(|line| line == "triseal_destructions_overdue 2"), "{numbers}");
    runtime.block_on(async {
        assert_eq!(setup.directory.get_unasked(&id("acme")).await, Ok(before));
        assert_eq!(left(&setup, "acme").await, 3);
        assert!(setup.customers.key(&id("acme"), Version::FIRST).await.unwrap().is_some());
        // One is taken back, and the other gets a new day.
        for name in ["acme", "other"] {
            go(&setup, name, To::Restored).await.unwrap();
        }
        go(&setup, "acme", To::Enabled).await.unwrap();
        go(&setup, "other", To::Destroyed).await.unwrap();
        on_day(114);
        pass(4 * 3_600);
        assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept { destroyed: 1, ..Swept::default() }));
        setup.keyring.primary(&id("acme")).await.unwrap();
    });
}

#[tokio::test]
async fn a_destruction_is_begun_within_three_hours_of_its_day() {
    let setup = setup().await;
    pending(&setup, "acme", 1).await;
    on_day(107);
    pass(3_600);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept { destroyed: 1, ..Swept::default() }));
    pending(&setup, "other", 1).await;
    on_day(107);
    pass(3 * 3_600);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept { destroyed: 1, ..Swept::default() }));
}

/// A clock that is ahead destroys too early, and one that is behind sets a day that is past: neither can be taken back.
#[tokio::test]
async fn a_clock_that_the_store_does_not_confirm_destroys_nobody_and_sets_no_day() {
    let (setup, heard) = (setup().await, Arc::new(StoreClock::default()));
    pending(&setup, "acme", 1).await;
    setup.directory.create_unasked(&id("other")).await.unwrap();
    go(&setup, "other", To::Disabled).await.unwrap();
    let directory = setup.directory.with_store_clock(Some(Arc::clone(&heard)));
    let setup = Setup { directory, ..setup };
    on_day(107);
    let refused = || Err(CustomerError::Clock(ClockUnconfirmed));
    for ahead_ms in [None, Some(7 * 86_400_000), Some(-2_001)] {
        if let Some(ahead_ms) = ahead_ms {
            heard.set(ahead_ms);
        }
        assert_eq!(setup.directory.sweep(RETENTION).await, Err(CustomerError::Clock(ClockUnconfirmed)));
        assert_eq!(go(&setup, "other", To::Destroyed).await, refused());
        // What is no matter of time goes on.
        go(&setup, "other", To::Enabled).await.unwrap();
        go(&setup, "other", To::Disabled).await.unwrap();
    }
    let row = setup.directory.get_unasked(&id("acme")).await.unwrap();
    assert!(matches!(row.state, CustomerState::PendingDestruction { .. }) && row.versions.len() == 1, "{row:?}");
    heard.set(2_000);
    assert_eq!(setup.directory.sweep(RETENTION).await, Ok(Swept { destroyed: 1, ..Swept::default() }));
    go(&setup, "other", To::Destroyed).await.unwrap();
}
