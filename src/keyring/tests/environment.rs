//! The keys of codebase and environment: the start, the poll, and versions that are not known here.

use super::*;
use crate::factors::Regression;

const ONE: &[(u32, u8, KeyState)] = &[(1, 101, Enabled)];
const TWO: &[(u32, u8, KeyState)] = &[(1, 101, Enabled), (2, 102, Enabled)];

#[tokio::test(start_paused = true)]
async fn it_does_not_start_without_the_environment_keys() {
    for error in factor_errors() {
        let fakes = Fakes::new();
        fakes.environment.calls.fail(error.clone());
        assert_eq!(fakes.start(timing(), limits()).await.err(), Some(EnvironmentError::Source(error)));
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_not_start_on_a_store_that_refuses_the_fingerprints() {
    for error in store_errors().into_iter().filter(|error| !passes(error)) {
        let fakes = Fakes::new();
        fakes.operations.calls.fail(error.clone());
        let started = fakes.start(timing(), limits()).await.err();
        assert_eq!(started, Some(EnvironmentError::Fingerprint(FingerprintError::Store(error.into()))));
    }
}

fn passes(error: &StoreError) -> bool {
    matches!(error, StoreError::Away(_) | StoreError::Throttled)
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_it_starts_and_gives_no_root_until_the_fingerprints_are_compared() {
    for error in store_errors().into_iter().filter(passes) {
        let fakes = Fakes::new();
        fakes.operations.calls.fail(error);
        let keyring = fakes.keyring().await;
        for _ in 0..3 {
            // Nor where the customer could be read.
            assert!(matches!(keyring.seals().await, Err(KeyringError::Store(StoreError::Away(_)))));
            assert!(matches!(keyring.opens(lineage(1, 1, 1)).await, Err(KeyringError::Store(StoreError::Away(_)))));
            sleep(20 * MINUTE).await;
        }
        assert!(timeout(SECOND, keyring.proven()).await.is_err(), "it is not known yet");
        fakes.operations.calls.fail(None);
        assert_eq!(keyring.proven().await, Ok(()));
        assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 1)));
        assert_eq!(fakes.operations.len(), 2, "the fingerprints are kept now");
    }
}

#[tokio::test(start_paused = true)]
async fn another_key_that_is_found_out_late_gives_no_root_either() {
    let fakes = Fakes::new();
    fakes.keyring().await;
    fakes.operations.calls.fail(StoreError::Away("planted".to_owned()));
    fakes.environment.holds(1, &[(1, 9, Enabled)]);
    let keyring = fakes.keyring().await;
    fakes.operations.calls.fail(None);
    let mismatch = FingerprintError::Mismatch { factor: "environment", version: version(1) };
    assert_eq!(keyring.proven().await, Err(mismatch));
    assert_eq!(keyring.seals().await, Err(KeyringError::KeysStale));
    assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Err(KeyringError::KeysStale));
}

#[tokio::test(start_paused = true)]
async fn another_key_under_a_known_version_stops_the_start() {
    let mut fakes = Fakes::new();
    fakes.codebase = (1, vec![(1, 201, Enabled), (2, 202, Retired)]);
    fakes.environment.holds(1, TWO);
    fakes.keyring().await;
    assert_eq!(fakes.operations.len(), 4);
    fakes.keyring().await;
    assert_eq!(fakes.operations.len(), 4, "they are inserted once");

    let mismatch = |factor, number| {
        Some(EnvironmentError::Fingerprint(FingerprintError::Mismatch { factor, version: version(number) }))
    };
    fakes.environment.holds(1, &[(1, 101, Enabled), (2, 9, Enabled)]);
    assert_eq!(fakes.start(timing(), limits()).await.err(), mismatch("environment", 2));
    fakes.environment.holds(1, TWO);
    // A retired version counts, too.
    fakes.codebase = (1, vec![(1, 201, Enabled), (2, 9, Retired)]);
    assert_eq!(fakes.start(timing(), limits()).await.err(), mismatch("codebase", 2));
    // One key in both factors under one version is no mismatch: each has its own fingerprints.
    fakes.codebase = (1, vec![(1, 201, Enabled), (2, 202, Retired), (3, 101, Enabled)]);
    assert!(fakes.start(timing(), limits()).await.is_ok());
}

/// Whichever factor is wrong, and whichever of its versions: the right keys start afterwards.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_refused_remembers_no_key() {
    let mut fakes = Fakes::new();
    fakes.keyring().await;
    let known = fakes.operations.len();
    for (codebase, environment) in [
        (&[(1, 9, Enabled), (2, 8, Enabled)][..], &[(1, 101, Enabled), (2, 8, Enabled)][..]),
        (&[(1, 201, Enabled), (2, 8, Enabled)], &[(1, 9, Enabled), (2, 8, Enabled)]),
    ] {
        fakes.codebase = (1, codebase.to_vec());
        fakes.environment.holds(1, environment);
        let refused = fakes.start(timing(), limits()).await.err();
        assert!(matches!(refused, Some(EnvironmentError::Fingerprint(FingerprintError::Mismatch { .. }))));
        assert_eq!(fakes.operations.len(), known);
    }
    fakes.codebase = (1, vec![(1, 201, Enabled), (2, 202, Enabled)]);
    fakes.environment.holds(1, TWO);
    fakes.keyring().await;
    assert_eq!(fakes.operations.len(), known + 2);
}

/// What the last value had, the store still knows; a newer build's codebase version is no loss.
#[tokio::test(start_paused = true)]
async fn a_start_with_a_version_lost_is_refused() {
    let mut fakes = Fakes::new();
    let both = [(1, 201, Enabled), (2, 202, Enabled)];
    fakes.codebase = (2, both.to_vec());
    fakes.environment.holds(3, &[(1, 101, Retired), (2, 102, Enabled), (3, 103, Enabled)]);
    fakes.keyring().await;
    let known = fakes.operations.len();
    let lost = |factor, number| {
        Some(EnvironmentError::Fingerprint(FingerprintError::Lost { factor, version: version(number) }))
    };
    for (environment, number) in [
        (&[(2, 102, Enabled), (3, 103, Enabled), (4, 104, Enabled)][..], 1),
        (&[(1, 101, Enabled), (3, 103, Enabled)], 2),
        (&[(1, 101, Enabled), (2, 102, Enabled)], 3),
        (&[(1, 101, Enabled)], 2),
    ] {
        fakes.environment.holds(environment.last().unwrap().0, environment);
        assert_eq!(fakes.start(timing(), limits()).await.err(), lost("environment", number));
    }
    fakes.environment.holds(3, &[(1, 101, Enabled), (2, 102, Enabled), (3, 103, Enabled)]);
    fakes.codebase = (2, both[1..].to_vec());
    assert_eq!(fakes.start(timing(), limits()).await.err(), lost("codebase", 1));
    assert_eq!(fakes.operations.len(), known);
    fakes.codebase = (1, both[..1].to_vec());
    fakes.keyring().await;
}

/// Another replica has read the new value, and this one is given the former for a while: Secrets Manager has no consistent read.
#[tokio::test(start_paused = true)]
async fn a_start_waits_for_a_version_that_may_be_on_its_way() {
    let fakes = Fakes::new();
    fakes.environment.holds(2, TWO);
    fakes.keyring().await;
    *fakes.environment.lag.lock().unwrap() = MINUTE;

    fakes.environment.holds(1, ONE);
    let late = async {
        sleep(20 * SECOND).await;
        fakes.environment.calls.fail(away());
        sleep(20 * SECOND).await;
        fakes.environment.calls.fail(None);
        fakes.environment.holds(2, TWO);
    };
    let (keyring, ()) = tokio::join!(fakes.keyring(), late);
    assert_eq!(keyring.seals().await, Ok(lineage(1, 2, 1)));
    assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Ok(()));

    // What stays away so long is lost, and nothing is taken from a value with another key.
    let lost = |number| FingerprintError::Lost { factor: "environment", version: version(number) };
    let known = fakes.operations.len();
    fakes.environment.holds(1, ONE);
    let begun = Instant::now();
    assert_eq!(fakes.start(timing(), limits()).await.err(), Some(lost(2).into()));
    assert!((MINUTE..MINUTE + 4 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(fakes.operations.len(), known);
    let begun = Instant::now();
    // A version before another was never a matter of time.
    fakes.environment.holds(2, &[(2, 102, Enabled)]);
    assert_eq!(fakes.start(timing(), limits()).await.err(), Some(lost(1).into()));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// The store was away when the start compared, and then knows a version that is on its way.
#[tokio::test(start_paused = true)]
async fn what_is_compared_late_waits_for_a_version_likewise() {
    let fakes = Fakes::new();
    fakes.environment.holds(2, TWO);
    fakes.keyring().await;
    *fakes.environment.lag.lock().unwrap() = MINUTE;
    fakes.environment.holds(1, ONE);
    fakes.operations.calls.fail(StoreError::Away("planted".to_owned()));
    let keyring = fakes.unpolled().await;
    fakes.operations.calls.fail(None);
    let late = async {
        sleep(20 * SECOND).await;
        fakes.environment.holds(2, TWO);
    };
    let (proven, ()) = tokio::join!(keyring.proven(), late);
    assert_eq!(proven, Ok(()));
    assert_eq!(keyring.seals().await, Ok(lineage(1, 2, 1)));
}

/// So, too, while it runs.
#[tokio::test(start_paused = true)]
async fn a_value_that_is_refused_remembers_no_key() {
    let fakes = Fakes::new();
    let keyring = fakes.unpolled().await;
    let other = Fakes { operations: fakes.operations.clone(), ..Fakes::new() };
    other.environment.holds(1, &[(1, 101, Enabled), (3, 103, Enabled)]);
    other.keyring().await;
    let known = fakes.operations.len();
    fakes.environment.holds(1, &[(1, 101, Enabled), (2, 8, Enabled), (3, 9, Enabled)]);
    let mismatch = FingerprintError::Mismatch { factor: "environment", version: version(3) };
    assert_eq!(keyring.0.environment.read().await, Err(EnvironmentError::Fingerprint(mismatch)));
    assert_eq!(fakes.operations.len(), known);
}

#[tokio::test(start_paused = true)]
async fn a_promoted_version_is_found_by_the_poll() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    fakes.environment.holds(1, TWO);
    sleep(34 * SECOND).await;
    assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 1)));
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Ok(()));
    fakes.environment.holds(2, TWO);
    sleep(34 * SECOND).await;
    assert_eq!(keyring.seals().await, Ok(lineage(1, 2, 1)));
    assert!((2..=3).contains(&(fakes.environment.calls.count() - 1)));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_takes_something_back_leaves_the_last_good_one() {
    let fakes = Fakes::new();
    fakes.environment.holds(2, TWO);
    let keyring = fakes.unpolled().await;
    let read = || keyring.0.environment.read();
    for (primary, versions, wanted) in [
        (2, &[(2, 102, Enabled)][..], Regression::Lost(version(1))),
        (2, &[(1, 9, Enabled), (2, 102, Enabled)], Regression::Changed(version(1))),
        (1, TWO, Regression::PrimaryLowered { from: version(2), to: version(1) }),
    ] {
        fakes.environment.holds(primary, versions);
        assert_eq!(read().await, Err(EnvironmentError::Regression(wanted)));
    }
    for error in factor_errors() {
        fakes.environment.calls.fail(error.clone());
        assert_eq!(read().await, Err(EnvironmentError::Source(error)));
    }
    fakes.environment.calls.fail(None);
    assert_eq!(keyring.seals().await, Ok(lineage(1, 2, 1)));
    assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Ok(()));

    // A new version whose key the store knows otherwise, from another replica.
    let other = Fakes { operations: fakes.operations.clone(), ..Fakes::new() };
    other.environment.holds(3, &[(1, 101, Enabled), (2, 102, Enabled), (3, 103, Enabled)]);
    other.keyring().await;
    fakes.environment.holds(3, &[(1, 101, Enabled), (2, 102, Enabled), (3, 9, Enabled)]);
    let mismatch = FingerprintError::Mismatch { factor: "environment", version: version(3) };
    assert_eq!(read().await, Err(EnvironmentError::Fingerprint(mismatch)));
    assert_eq!(keyring.seals().await, Ok(lineage(1, 2, 1)));
}

#[tokio::test(start_paused = true)]
async fn without_fresh_keys_it_opens_and_does_not_seal() {
    for error in factor_errors() {
        let fakes = Fakes::new();
        let keyring = fakes.keyring().await;
        keyring.seals().await.unwrap();
        fakes.environment.calls.fail(error);
        sleep(14 * MINUTE).await;
        assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 1)));
        sleep(2 * MINUTE).await;
        assert_eq!(keyring.seals().await, Err(KeyringError::KeysStale));
        assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Ok(()));
        fakes.environment.calls.fail(None);
        sleep(6 * SECOND).await;
        assert_eq!(keyring.seals().await, Ok(lineage(1, 1, 1)), "one more try is made before a refusal");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_value_is_no_fresh_knowledge_either() {
    let fakes = Fakes::new();
    fakes.environment.holds(2, TWO);
    let keyring = fakes.keyring().await;
    fakes.environment.holds(1, ONE);
    sleep(16 * MINUTE).await;
    assert_eq!(keyring.seals().await, Err(KeyringError::KeysStale));
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn all_who_find_the_keys_stale_wait_for_one_reading() {
    let fakes = Fakes::new();
    let keyring = fakes.unpolled().await;
    sleep(16 * MINUTE).await;
    fakes.environment.calls.take(SECOND);
    let outcomes = join_all((0..100).map(|_| keyring.seals())).await;
    assert!(outcomes.into_iter().all(|outcome| outcome == Ok(lineage(1, 1, 1))));
    assert_eq!(fakes.environment.calls.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_is_asked_for_at_once_and_once_in_five_seconds() {
    let fakes = Fakes::new();
    let keyring = fakes.unpolled().await;
    let reads = || fakes.environment.calls.count();
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::KeysStale));
    assert_eq!(reads(), 2);
    fakes.environment.holds(1, TWO);
    sleep(4 * SECOND).await;
    for number in [2, 3] {
        assert_eq!(keyring.opens(lineage(1, number, 1)).await, Err(KeyringError::KeysStale));
    }
    assert_eq!(reads(), 2, "whichever version is named");
    sleep(2 * SECOND).await;
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Ok(()));
    assert_eq!(reads(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_requests_for_a_new_version_read_once_and_all_open() {
    let fakes = Fakes::new();
    let keyring = fakes.unpolled().await;
    fakes.environment.holds(1, TWO);
    fakes.environment.calls.take(SECOND);
    let outcomes = join_all((0..100).map(|_| keyring.opens(lineage(1, 2, 1)))).await;
    assert!(outcomes.into_iter().all(|outcome| outcome == Ok(())));
    assert_eq!(fakes.environment.calls.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_holds_no_call_up_for_long() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    fakes.environment.calls.take(MINUTE);
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::SecretsUnavailable));
        assert_eq!(begun.elapsed(), ASKED);
    }
    sleep(15 * MINUTE).await;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(keyring.seals().await, Err(KeyringError::KeysStale));
        assert!(begun.elapsed() <= ASKED, "{:?}", begun.elapsed());
        assert_eq!(keyring.opens(lineage(1, 1, 1)).await, Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_denied_for_a_minute_does_not_exist() {
    let fakes = Fakes::new();
    let keyring = fakes.unpolled().await;
    for _ in 0..10 {
        assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::KeysStale));
        sleep(6 * SECOND).await;
    }
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::KeyVersionUnknown));
    assert_eq!(keyring.opens(lineage(1, 3, 1)).await, Err(KeyringError::KeysStale), "another is another");
    // And if it comes all the same, it opens.
    fakes.environment.holds(1, TWO);
    sleep(6 * SECOND).await;
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_denies_nothing() {
    let fakes = Fakes::new();
    let keyring = fakes.keyring().await;
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::KeysStale));
    for error in factor_errors() {
        fakes.environment.calls.fail(error);
        sleep(61 * SECOND).await;
        assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::SecretsUnavailable));
        assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::KeysStale));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retired_version_is_refused_and_another_builds_may_come() {
    let mut fakes = Fakes::new();
    fakes.codebase = (2, vec![(1, 201, Retired), (2, 202, Enabled)]);
    fakes.environment.holds(2, &[(1, 101, Retired), (2, 102, Enabled)]);
    let keyring = fakes.unpolled().await;
    assert_eq!(keyring.opens(lineage(2, 2, 1)).await, Ok(()));
    assert_eq!(keyring.opens(lineage(1, 2, 1)).await, Err(KeyringError::KeyVersionRetired));
    assert_eq!(keyring.opens(lineage(2, 1, 1)).await, Err(KeyringError::KeyVersionRetired));
    assert_eq!(keyring.opens(lineage(3, 2, 1)).await, Err(KeyringError::KeysStale));
    assert_eq!(fakes.environment.calls.count(), 1, "none of them is asked for");
}

#[tokio::test(start_paused = true)]
async fn the_poll_ends_with_the_keyring() {
    let fakes = Fakes::new();
    drop(fakes.keyring().await);
    sleep(10 * MINUTE).await;
    assert_eq!(fakes.environment.calls.count(), 1);
    assert_eq!(Arc::strong_count(&fakes.environment), 1);
}
