//! New versions of a customer's key, and when an old one may be retired.

use super::*;
use crate::crypto::{Context, Lineage, Plaintext, Salt, seal};
use crate::customers::rotation::Upkeep;
use crate::store::contract::living;
use crate::store::{Life, Living};

fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

/// A record of acme's that is sealed under its primary.
async fn seals(setup: &Setup, credential: &str) -> Lineage {
    let (lineage, root) = setup.keyring.primary(&id("acme")).await.unwrap();
    let context = Context::new("test", "acme", credential, "opaque", 1).unwrap();
    let plaintext = Plaintext::new(Zeroizing::new(vec![1, 2, 3])).unwrap();
    let envelope = seal(&root, lineage, &context, Salt::new([7; 32]), &plaintext).unwrap();
    let row = living("acme", credential);
    let Life::Living(hints) = row.life.clone() else { panic!("it lives") };
    let present = setup.credentials.get(&row.id).await.unwrap();
    let life = Life::Living(Living { envelope: envelope.as_octets().to_vec(), ..hints });
    let row = crate::store::CredentialRow { life, ..row };
    setup.credentials.replace(present.map(|row| row.write_id), row).await.unwrap();
    lineage
}

#[tokio::test]
async fn a_rotation_seals_under_the_new_version_and_opens_under_both() {
    let setup = setup().await;
    on_day(1);
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    let before = seals(&setup, "old").await;
    on_day(2);
    let row = setup.directory.rotate_unasked(&id("acme")).await.unwrap();
    assert_eq!(row.primary, version(2));
    let times: Vec<_> = row.versions.iter().map(|key| (key.version, key.create_time, key.primary_until)).collect();
    let day = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
    assert_eq!(times, [(version(1), day(1), Some(day(2))), (version(2), day(2), None)]);
    let after = seals(&setup, "new").await;
    assert_eq!((before.customer, after.customer), (version(1), version(2)));
    for lineage in [before, after] {
        setup.keyring.root(&id("acme"), lineage).await.unwrap();
    }
    for number in [1, 2] {
        assert!(setup.customers.key(&id("acme"), version(number)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn of_two_rotations_at_once_one_is_refused() {
    let setup = setup().await;
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    let acme = id("acme");
    let both = tokio::join!(setup.directory.rotate_unasked(&acme), setup.directory.rotate_unasked(&acme));
    let row = setup.directory.get_unasked(&acme).await.unwrap();
    let outcomes = [both.0.map(|row| row.primary), both.1.map(|row| row.primary)];
    assert!(outcomes.contains(&Ok(version(2))) && outcomes.contains(&Err(CustomerError::ChangedConcurrently)));
    assert_eq!((row.primary, row.versions.len()), (version(2), 2));
}

#[tokio::test]
async fn no_version_is_made_whose_key_was_not_proved() {
    let setup = setup().await;
    let made = setup.directory.create_unasked(&id("acme")).await.unwrap();
    for part in [&setup.wrapper.wrapping, &setup.wrapper.unwrapping] {
        *part.lock().unwrap() = Some(FactorError::Throttled);
        assert_eq!(
            setup.directory.rotate_unasked(&id("acme")).await,
            Err(CustomerError::Wrapper(FactorError::Throttled))
        );
        *part.lock().unwrap() = None;
        assert_eq!(setup.directory.get_unasked(&id("acme")).await.as_ref(), Ok(&made));
    }
    assert_eq!(setup.directory.rotate_unasked(&id("nobody")).await, Err(CustomerError::NotFound));
    let erasure = Erasure::default();
    for (name, state, refused) in [
        (
            "pending",
            CustomerState::PendingDestruction { destroy_time: Timestamp::UNIX_EPOCH },
            CustomerError::PendingDestruction,
        ),
        (
            "destroyed",
            CustomerState::Destroyed { destroy_time: Timestamp::UNIX_EPOCH, erasure },
            CustomerError::Destroyed,
        ),
    ] {
        put(&setup, name, state).await;
        assert_eq!(setup.directory.rotate_unasked(&id(name)).await, Err(refused.clone()));
        assert_eq!(setup.directory.retire_unasked(&id(name), Version::FIRST).await, Err(refused));
    }
    put(&setup, "disabled", CustomerState::Disabled).await;
    assert_eq!(setup.directory.rotate_unasked(&id("disabled")).await.unwrap().primary, version(2));
}

#[tokio::test]
async fn a_version_is_retired_when_nothing_seals_or_is_sealed_under_it() {
    let setup = setup().await;
    let acme = id("acme");
    on_day(1);
    setup.directory.create_unasked(&acme).await.unwrap();
    seals(&setup, "one").await;
    seals(&setup, "two").await;
    let retire = |number| setup.directory.retire_unasked(&acme, version(number));
    let in_use = |why: InUse| Err(CustomerError::KeyVersionInUse(why));
    assert_eq!(retire(1).await, in_use(InUse::Primary));
    assert_eq!(retire(2).await, Err(CustomerError::KeyVersionUnknown));

    on_day(2);
    setup.directory.rotate_unasked(&acme).await.unwrap();
    // A state is believed for an hour here; and then a call may be under way for a minute.
    let wait = Duration::from_secs(3_660);
    assert_eq!(retire(1).await, in_use(InUse::TooEarly { wait }));
    on_day(3);
    assert_eq!(retire(1).await, in_use(InUse::Records { records: 2 }));
    seals(&setup, "one").await;
    assert_eq!(retire(1).await, in_use(InUse::Records { records: 1 }));
    let lineage = seals(&setup, "two").await;
    let row = retire(1).await.unwrap();
    let states: Vec<_> = row.versions.iter().map(|key| key.state).collect();
    assert_eq!(states, [KeyVersionState::Retired, KeyVersionState::Enabled]);
    assert_eq!(retire(1).await, Ok(row), "asked again, nothing is written");

    setup.keyring.root(&acme, lineage).await.unwrap();
    let retired = setup.keyring.root(&acme, Lineage { customer: version(1), ..lineage }).await.map(|_| ());
    assert_eq!(retired, Err(crate::keyring::KeyringError::KeyVersionRetired));
    // Its key stays for whoever has to read a backup, and its number is never used again.
    assert!(setup.customers.key(&acme, version(1)).await.unwrap().is_some());
    assert_eq!(setup.directory.rotate_unasked(&acme).await.unwrap().primary, version(3));
}

#[tokio::test]
async fn nothing_is_rotated_or_retired_by_a_clock_that_the_store_does_not_confirm() {
    let (setup, heard) = (setup().await, Arc::new(StoreClock::default()));
    on_day(1);
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    setup.directory.rotate_unasked(&id("acme")).await.unwrap();
    let directory = setup.directory.with_store_clock(Some(Arc::clone(&heard)));
    on_day(2);
    let refused = || Err(CustomerError::Clock(crate::store::ClockUnconfirmed));
    assert_eq!(directory.retire_unasked(&id("acme"), version(1)).await, refused(), "nothing was heard");
    assert_eq!(directory.rotate_unasked(&id("acme")).await, refused());
    heard.set(60_000);
    assert_eq!(directory.retire_unasked(&id("acme"), version(1)).await, refused());
    heard.set(0);
    directory.retire_unasked(&id("acme"), version(1)).await.unwrap();
}

#[tokio::test]
async fn a_record_that_can_not_be_read_keeps_every_version() {
    let setup = setup().await;
    on_day(1);
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    // What the contract's rows hold is no envelope.
    setup.credentials.replace(None, living("acme", "damaged")).await.unwrap();
    on_day(2);
    setup.directory.rotate_unasked(&id("acme")).await.unwrap();
    on_day(3);
    let refused = setup.directory.retire_unasked(&id("acme"), version(1)).await;
    assert_eq!(refused, Err(CustomerError::KeyVersionInUse(InUse::Unreadable { records: 1 })));
}

#[tokio::test]
async fn a_job_rotates_each_customer_once_however_often_it_comes_to_it() {
    let setup = setup().await;
    on_day(1);
    for name in ["acme", "disabled"] {
        setup.directory.create_unasked(&id(name)).await.unwrap();
    }
    setup.directory.disable_unasked(&id("disabled")).await.unwrap();
    let pending = CustomerState::PendingDestruction { destroy_time: Timestamp::MAX };
    put(&setup, "pending", pending).await;
    on_day(2);
    let began = clock();
    setup.directory.create_unasked(&id("new")).await.unwrap();
    // This process's clock is behind that of the one which started the job.
    on_day(1);
    for (name, wanted) in [
        ("acme", Upkeep::Changed),
        ("disabled", Upkeep::Changed),
        ("acme", Upkeep::Skipped),
        ("disabled", Upkeep::Skipped),
        ("pending", Upkeep::Skipped),
        ("new", Upkeep::Skipped),
        ("nobody", Upkeep::Skipped),
    ] {
        assert_eq!(setup.directory.rotate_since(&id(name), began).await, Ok(wanted), "{name}");
    }
    let row = setup.directory.get_unasked(&id("acme")).await.unwrap();
    assert_eq!((row.primary, row.versions.len()), (version(2), 2));
    // A later job rotates again.
    on_day(3);
    assert_eq!(setup.directory.rotate_since(&id("acme"), clock()).await, Ok(Upkeep::Changed));
}

#[tokio::test]
async fn every_version_is_wrapped_anew_and_none_is_another_key() {
    let setup = setup().await;
    on_day(1);
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    seals(&setup, "one").await;
    on_day(2);
    setup.directory.rotate_unasked(&id("acme")).await.unwrap();
    seals(&setup, "one").await;
    on_day(4);
    setup.directory.retire_unasked(&id("acme"), version(1)).await.unwrap();
    setup.directory.disable_unasked(&id("acme")).await.unwrap();
    assert_eq!(setup.directory.rewrap(&id("acme")).await, Ok(Upkeep::Skipped), "they stand under it already");
    let before = setup.directory.get_unasked(&id("acme")).await.unwrap();

    *setup.wrapper.rewraps_as.lock().unwrap() = Some(9);
    let moving = setup.wrapping_with("another").await;
    let refused = moving.rewrap(&id("acme")).await;
    assert!(matches!(refused, Err(CustomerError::Wrapper(FactorError::Corrupt(_)))), "{refused:?}");
    assert_eq!(
        setup.directory.get_unasked(&id("acme")).await.as_ref(),
        Ok(&before),
        "another key takes no one's place"
    );
    *setup.wrapper.rewraps_as.lock().unwrap() = None;

    assert_eq!(moving.rewrap(&id("acme")).await, Ok(Upkeep::Changed));
    let row = setup.directory.get_unasked(&id("acme")).await.unwrap();
    assert!(row.versions.iter().all(|key| key.kms_key_arn == "another"));
    for number in [1, 2] {
        let key = setup.customers.key(&id("acme"), version(number)).await.unwrap().unwrap();
        assert_eq!(key.kms_key_arn, "another");
    }
    let named = |row: &CustomerRow| {
        let versions = row.versions.iter().map(|key| KeyVersion { kms_key_arn: String::new(), ..key.clone() });
        CustomerRow { write_id: before.write_id, versions: versions.collect(), ..row.clone() }
    };
    assert_eq!(named(&row), named(&before), "nothing else is changed");
    assert_eq!(moving.rewrap(&id("acme")).await, Ok(Upkeep::Skipped));
    assert_eq!(moving.rewrap(&id("nobody")).await, Ok(Upkeep::Skipped));
}

/// An old version that KMS refuses for good must not keep the primary under a KMS key that is about to be switched off.
#[tokio::test]
async fn one_bad_version_keeps_no_other_under_the_former_kms_key() {
    let setup = setup().await;
    on_day(1);
    setup.directory.create_unasked(&id("acme")).await.unwrap();
    for _ in 0..2 {
        setup.directory.rotate_unasked(&id("acme")).await.unwrap();
    }
    let wrapped_as = async |number: u32, octet: u8| {
        let before = setup.customers.get(&id("acme")).await.unwrap().unwrap();
        let row = CustomerRow { write_id: WriteId::random().unwrap(), ..before.clone() };
        let key = KeyRow { version: version(number), wrapped: vec![octet; 8], kms_key_arn: "fake".to_owned() };
        let write = CustomerWrite { rewrapped: Some(key), ..CustomerWrite::of(row) };
        setup.customers.replace(Some(before.write_id), write).await.unwrap();
    };
    let stands = async || {
        let mut arns = Vec::new();
        let row = setup.customers.get(&id("acme")).await.unwrap().unwrap();
        for key in row.versions {
            let wrapped = setup.customers.key(&id("acme"), key.version).await.unwrap().unwrap();
            assert_eq!(wrapped.kms_key_arn, key.kms_key_arn);
            arns.push(key.kms_key_arn);
        }
        arns
    };
    let moving = setup.wrapping_with("another").await;
    // What may be better in a moment ends it for now; by then the primary is moved.
    wrapped_as(2, AWAY).await;
    let away = moving.rewrap(&id("acme")).await;
    assert_eq!(away, Err(CustomerError::Wrapper(FactorError::Away("no answer".to_owned()))));
    assert_eq!(stands().await, ["fake", "fake", "another"]);
    wrapped_as(2, REFUSED).await;
    let refused = || Err(CustomerError::Wrapper(FactorError::Refused("by a policy".to_owned())));
    assert_eq!(moving.rewrap(&id("acme")).await, refused());
    assert_eq!(stands().await, ["another", "fake", "another"]);
    assert_eq!(moving.rewrap(&id("acme")).await, refused(), "as long as it is left");
    wrapped_as(2, 7).await;
    assert_eq!(moving.rewrap(&id("acme")).await, Ok(Upkeep::Changed));
    assert_eq!(stands().await, ["another", "another", "another"]);
}
