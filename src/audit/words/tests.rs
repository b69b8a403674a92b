use std::collections::HashSet;

use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Status;

use super::*;
use crate::grpc::{REASON_TRAILER, v1};
use crate::vault::VaultError;

#[test]
fn words_are_different_and_have_nothing_to_escape() {
    let events: HashSet<_> = Event::ALL.iter().map(|event| event.as_str()).collect();
    let reasons: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!((events.len(), reasons.len()), (Event::ALL.len(), Reason::ALL.len()));
    assert!(events.iter().all(|word| word.bytes().all(|octet| octet.is_ascii_lowercase() || octet == b'_')));
    assert!(reasons.iter().all(|word| word.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'_')));
}

#[test]
fn every_rpc_has_its_event() {
    let descriptors = FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap();
    let services = descriptors.file.iter().flat_map(|file| &file.service);
    let rpcs: Vec<_> = services.flat_map(|service| &service.method).map(|method| snake_case(method.name())).collect();
    assert!(rpcs.len() >= 8 && rpcs.contains(&"decrypt_credential".to_owned()));
    for rpc in rpcs {
        assert!(Event::ALL.iter().any(|event| event.as_str() == rpc), "{rpc} has no event");
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[test]
fn reasons_are_those_that_callers_are_told() {
    use FactorError as F;
    use KeyringError as K;
    use StoreError as S;
    let text = || "x".to_owned();
    let stores =
        || [S::Away(text()), S::Throttled, S::Refused(text()), S::Absent(text()), S::Newer, S::Corrupt(text())];
    let factors = [F::Absent(text()), F::Refused(text()), F::Throttled, F::Away(text()), F::Corrupt(text())];
    let mut keyring = vec![
        K::CustomerNotFound,
        K::CustomerDisabled,
        K::CustomerPendingDestruction,
        K::CustomerDestroyed,
        K::KeyVersionRetired,
        K::KeyVersionUnknown,
        K::KeysStale,
        K::SecretsUnavailable,
        K::Interrupted,
    ];
    keyring.extend(factors.into_iter().map(K::Wrapper));
    keyring.extend(stores().into_iter().map(K::Store));
    for error in keyring {
        assert_eq!(Reason::from(&error).as_str(), told(error.clone().into()), "{error:?}");
    }
    for error in stores() {
        assert_eq!(Reason::from(&error).as_str(), told(error.clone().into()), "{error:?}");
    }
    let concurrent = ChangeError::Concurrent;
    assert_eq!(Reason::from(&concurrent).as_str(), told(concurrent.into()));
}

fn told(error: VaultError) -> String {
    let status = Status::from(error);
    status.metadata().get(REASON_TRAILER).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_store_that_is_away_leaves_a_change_in_doubt_and_a_refusal_does_not() {
    for reason in Reason::ALL {
        let in_doubt = matches!(
            reason,
            Reason::StoreUnavailable
                | Reason::AuditUnavailable
                | Reason::Internal
                | Reason::DeadlineExceeded
                | Reason::Cancelled
        );
        assert_eq!(Reason::is_in_doubt(reason.as_str()), in_doubt, "{reason:?}");
    }
    assert!(!Reason::is_in_doubt("ok") && !Reason::is_in_doubt("A_REASON_OF_LATER"));
}
