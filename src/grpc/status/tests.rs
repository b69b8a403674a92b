use tonic_types::ErrorDetails;

use super::*;
use crate::access::{Ask, GetCredential};
use crate::ids::{BadId, CredentialId, CredentialRef, CustomerId};
use crate::jobs::JobId;
use crate::store::ClockUnconfirmed;

/// A text of a dependency, which goes to the log and never out.
const PLANTED: &str = "arn:aws:kms:eu-central-1:111122223333:key/planted";

fn planted() -> String {
    PLANTED.to_owned()
}

fn revision(number: u64) -> Revision {
    Revision::new(number).unwrap()
}

fn details(status: &Status) -> ErrorDetails {
    status.get_error_details()
}

/// What a client can tell: code, reason, the seconds of RetryInfo, and the current revision.
fn told(status: Status) -> (Code, String, Option<u64>, Option<String>) {
    let details = details(&status);
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, DOMAIN);
    let trailer = status.metadata().get(REASON_TRAILER).unwrap().to_str().unwrap();
    assert_eq!(trailer, info.reason, "the trailer repeats the reason");
    let counted = outcome(status.clone().into_http::<()>().headers());
    assert_eq!(counted, Some((code_name(status.code()), info.reason.as_str())), "it is counted as what it is");
    assert!(!format!("{status:?}{details:?}").contains("planted"), "{status:?}");
    assert!(!status.message().is_empty());
    let retry = details.retry_info().map(|retry| retry.retry_delay.unwrap().as_secs());
    (status.code(), info.reason.clone(), retry, info.metadata.get("current_revision").cloned())
}

fn wrapper_errors() -> [(FactorError, Code, &'static str, Option<u64>); 5] {
    [
        (FactorError::Absent(planted()), Code::Unavailable, "KMS_REFUSED", None),
        (FactorError::Refused(planted()), Code::Unavailable, "KMS_REFUSED", None),
        (FactorError::Throttled, Code::ResourceExhausted, "KMS_THROTTLED", Some(2)),
        (FactorError::Away(planted()), Code::Unavailable, "KMS_UNAVAILABLE", Some(1)),
        (FactorError::Corrupt(planted()), Code::DataLoss, "NOT_AUTHENTIC", None),
    ]
}

fn store_errors() -> [(StoreError, Code, &'static str, Option<u64>); 6] {
    [
        (StoreError::Absent(planted()), Code::Unavailable, "STORE_UNAVAILABLE", Some(1)),
        (StoreError::Refused(planted()), Code::Unavailable, "STORE_UNAVAILABLE", Some(1)),
        (StoreError::Throttled, Code::ResourceExhausted, "OVERLOADED", Some(1)),
        (StoreError::Newer, Code::Unavailable, "ENCODING_UNKNOWN", Some(30)),
        (StoreError::Away(planted()), Code::Unavailable, "STORE_UNAVAILABLE", Some(1)),
        (StoreError::Corrupt(planted()), Code::DataLoss, "MALFORMED", None),
    ]
}

#[test]
fn a_refusal_is_the_same_whatever_was_asked() {
    let question = |customer, credential| {
        let id = CredentialRef { customer: CustomerId::parse(customer)?, credential: CredentialId::parse(credential)? };
        Ok::<_, BadId>(GetCredential(id).question())
    };
    let refused = |question| Status::from(Denied { question });
    let [one, other] = [refused(question("acme", "planted").unwrap()), refused(question("other", "x").unwrap())];
    assert_eq!(one.details(), other.details());
    assert_eq!(one.message(), other.message());
    assert_eq!(told(one), (Code::PermissionDenied, "NOT_PERMITTED".to_owned(), None, None));
}

#[test]
fn every_error_of_the_vault_has_its_code_and_reason() {
    use VaultError as E;
    for (error, code, reason, retry) in [
        (E::CredentialNotFound, Code::NotFound, "CREDENTIAL_NOT_FOUND", None),
        (E::IdempotencyKeyReused, Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED", None),
        (E::ChangedConcurrently, Code::Aborted, "CHANGED_CONCURRENTLY", None),
        (E::NoAccessView, Code::FailedPrecondition, "NO_ACCESS_VIEW", None),
        (E::NeedsReauth, Code::FailedPrecondition, "NEEDS_REAUTH", None),
        (E::NotRefreshable, Code::FailedPrecondition, "NOT_REFRESHABLE", None),
        (E::LeaseLost, Code::Aborted, "LEASE_LOST", None),
        (E::Malformed, Code::DataLoss, "MALFORMED", None),
        (E::NotAuthentic, Code::DataLoss, "NOT_AUTHENTIC", None),
        (E::EncodingUnknown, Code::Unavailable, "ENCODING_UNKNOWN", Some(30)),
        (E::SecretTooLong, Code::InvalidArgument, "BAD_FIELD", None),
        (E::NoRoom, Code::ResourceExhausted, "REPLY_FULL", Some(0)),
        (E::Internal("planted"), Code::Internal, "INTERNAL", None),
    ] {
        assert_eq!(told(error.into()), (code, reason.to_owned(), retry, None));
    }
    for (error, code, reason) in [
        (E::CredentialExists { current: revision(7) }, Code::AlreadyExists, "CREDENTIAL_EXISTS"),
        (E::RevisionMismatch { current: revision(7) }, Code::Aborted, "REVISION_MISMATCH"),
    ] {
        assert_eq!(told(error.into()), (code, reason.to_owned(), None, Some("7".to_owned())));
    }
    let available = jiff::Timestamp::from_second(1_764_000_000).unwrap();
    let status = Status::from(E::RefreshInProgress { available, current: revision(7) });
    let from = details(&status).error_info().unwrap().metadata.get("lease_available_time").cloned();
    assert_eq!(from.as_deref(), Some("2025-11-24T16:00:00Z"));
    let wanted = (Code::FailedPrecondition, "REFRESH_IN_PROGRESS".to_owned(), Some(1), Some("7".to_owned()));
    assert_eq!(told(status), wanted);
    for (error, code, reason, retry) in store_errors() {
        assert_eq!(told(E::Store(error).into()), (code, reason.to_owned(), retry, None));
    }
}

#[test]
fn every_error_of_the_keyring_has_its_code_and_reason() {
    use KeyringError as E;
    let vault = |error: KeyringError| told(VaultError::Keyring(error).into());
    for (error, code, reason, retry) in [
        (E::CustomerNotFound, Code::NotFound, "CUSTOMER_NOT_FOUND", None),
        (E::CustomerDisabled, Code::FailedPrecondition, "CUSTOMER_DISABLED", None),
        (E::CustomerPendingDestruction, Code::FailedPrecondition, "CUSTOMER_PENDING_DESTRUCTION", None),
        (E::CustomerDestroyed, Code::FailedPrecondition, "CUSTOMER_DESTROYED", None),
        (E::KeyVersionRetired, Code::FailedPrecondition, "KEY_VERSION_RETIRED", None),
        (E::KeyVersionUnknown, Code::FailedPrecondition, "KEY_VERSION_UNKNOWN", None),
        (E::KeysStale, Code::Unavailable, "KEYS_STALE", Some(5)),
        (E::SecretsUnavailable, Code::Unavailable, "SECRETS_UNAVAILABLE", Some(5)),
        (E::Interrupted, Code::Internal, "INTERNAL", None),
    ] {
        assert_eq!(vault(error), (code, reason.to_owned(), retry, None));
    }
    for (error, code, reason, retry) in wrapper_errors() {
        assert_eq!(vault(E::Wrapper(error)), (code, reason.to_owned(), retry, None));
    }
    for (error, code, reason, retry) in store_errors() {
        assert_eq!(vault(E::Store(error)), (code, reason.to_owned(), retry, None));
    }
}

#[test]
fn every_error_of_the_directory_has_its_code_and_reason() {
    use CustomerError as E;
    for (error, code, reason) in [
        (E::NotFound, Code::NotFound, "CUSTOMER_NOT_FOUND"),
        (E::Destroyed, Code::FailedPrecondition, "CUSTOMER_DESTROYED"),
        (E::PendingDestruction, Code::FailedPrecondition, "CUSTOMER_PENDING_DESTRUCTION"),
        (E::NotDisabled, Code::FailedPrecondition, "CUSTOMER_NOT_DISABLED"),
        (E::KeyVersionUnknown, Code::FailedPrecondition, "KEY_VERSION_UNKNOWN"),
        (E::KeyVersionInUse(InUse::Primary), Code::FailedPrecondition, "KEY_VERSION_IN_USE"),
        (E::KeyVersionInUse(InUse::Records { records: 3 }), Code::FailedPrecondition, "KEY_VERSION_IN_USE"),
        (E::KeyVersionInUse(InUse::Unreadable { records: 1 }), Code::FailedPrecondition, "KEY_VERSION_IN_USE"),
        (E::ChangedConcurrently, Code::Aborted, "CHANGED_CONCURRENTLY"),
        (E::Internal("planted"), Code::Internal, "INTERNAL"),
    ] {
        assert_eq!(told(error.into()), (code, reason.to_owned(), None, None));
    }
    let unconfirmed = told(E::Clock(ClockUnconfirmed).into());
    assert_eq!(unconfirmed, (Code::Unavailable, "STORE_UNAVAILABLE".to_owned(), Some(10), None));
    let wait = Duration::from_secs(70);
    let told_early = told(E::KeyVersionInUse(InUse::TooEarly { wait }).into());
    assert_eq!(told_early, (Code::FailedPrecondition, "KEY_VERSION_IN_USE".to_owned(), Some(70), None));
    for (error, code, reason, retry) in wrapper_errors() {
        assert_eq!(told(E::Wrapper(error).into()), (code, reason.to_owned(), retry, None));
    }
    for (error, code, reason, retry) in store_errors() {
        assert_eq!(told(E::Store(error).into()), (code, reason.to_owned(), retry, None));
    }
}

#[test]
fn every_error_of_a_job_has_its_code_and_reason() {
    use JobError as E;
    let running = JobId::parse("0000000000001-0000000a").unwrap();
    for (error, code, reason, retry) in [
        (E::NotFound, Code::NotFound, "JOB_NOT_FOUND", None),
        (E::Running(running), Code::AlreadyExists, "JOB_RUNNING", None),
        (E::ChangedConcurrently, Code::Aborted, "CHANGED_CONCURRENTLY", None),
        (E::Clock(ClockUnconfirmed), Code::Unavailable, "STORE_UNAVAILABLE", Some(10)),
        (E::Restored, Code::Unavailable, "STORE_UNAVAILABLE", Some(30)),
        (E::Customer(CustomerError::NotFound), Code::NotFound, "CUSTOMER_NOT_FOUND", None),
        (E::Audit(AuditError::TimedOut), Code::Unavailable, "AUDIT_UNAVAILABLE", None),
        (E::Keyring(KeyringError::KeysStale), Code::Unavailable, "KEYS_STALE", Some(5)),
        (E::Internal("planted"), Code::Internal, "INTERNAL", None),
    ] {
        assert_eq!(told(error.into()), (code, reason.to_owned(), retry, None));
    }
    for (error, code, reason, retry) in store_errors() {
        assert_eq!(told(E::Store(error).into()), (code, reason.to_owned(), retry, None));
    }
}

#[test]
fn not_authentic_is_one_text_and_an_internal_error_names_its_reference() {
    let internal = || Status::from(VaultError::Internal("planted"));
    let reference = internal().message().rsplit(' ').next().unwrap().to_owned();
    assert!(reference.len() == 16 && reference.bytes().all(|octet| octet.is_ascii_hexdigit()));
    assert_ne!(internal().message(), internal().message());
    let text = VaultError::from(crate::crypto::NotAuthentic);
    assert_eq!(Status::from(text).message(), "the stored envelope is not authentic");
}

#[test]
fn what_is_refused_at_once_says_when_to_try_again() {
    for (status, reason) in [(overloaded(), "OVERLOADED"), (rate_limited(), "RATE_LIMITED")] {
        assert_eq!(told(status), (Code::ResourceExhausted, reason.to_owned(), Some(1), None));
    }
    let nobody = told(no_client_certificate());
    assert_eq!(nobody, (Code::Unauthenticated, "NO_CLIENT_CERTIFICATE".to_owned(), None, None));
    assert_eq!(told(panicked()).1, "INTERNAL");
}

#[test]
fn an_outcome_is_read_from_headers_and_no_foreign_text_counts_as_a_reason() {
    assert_eq!(outcome(&HeaderMap::new()), None);
    let ends = outcome(&stream_ends());
    assert_eq!(ends, Some(("UNAVAILABLE", "")));
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", "5".parse().unwrap());
    headers.insert(REASON_TRAILER, "planted".parse().unwrap());
    assert_eq!(outcome(&headers), Some(("NOT_FOUND", "")));
}

#[test]
fn every_violation_is_told() {
    let violations = || vec![FieldViolation::new("a", "must be b"), FieldViolation::new("c", "must be d")];
    let status = bad_fields(violations());
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "2 fields are wrong"));
    let told_violations = details(&status).bad_request().unwrap().field_violations.clone();
    let pairs: Vec<_> = told_violations.iter().map(|one| (one.field.as_str(), one.description.as_str())).collect();
    assert_eq!(pairs, [("a", "must be b"), ("c", "must be d")]);
    assert_eq!(told(status).1, "BAD_FIELD");
    assert_eq!(bad_fields(violations()[..1].to_vec()).message(), "a: must be b");
    for status in [deadline_exceeded(), VaultError::TooSlow.into()] {
        assert_eq!((status.code(), status.metadata().len()), (Code::DeadlineExceeded, 0));
    }
}

#[test]
fn an_item_of_a_batch_has_the_error_of_the_call_alone() {
    use tonic_types::RpcStatusExt;
    let away = || VaultError::Store(StoreError::Away(planted()));
    let mismatch = || VaultError::RevisionMismatch { current: revision(7) };
    for status in [away().into(), mismatch().into(), bad_fields(vec![FieldViolation::new("view", "must be b")])] {
        let (item, details) = (item_error(&status), details(&status));
        assert_eq!((item.code, item.message.as_str()), (status.code() as i32, status.message()));
        assert!(!item.details.is_empty());
        assert_eq!(format!("{:?}", item.get_error_details()), format!("{details:?}"));
    }
    let bare = item_error(&deadline_exceeded());
    assert_eq!((bare.code, bare.details.len()), (Code::DeadlineExceeded as i32, 0));
    assert_eq!(bare.message, deadline_exceeded().message());
}
