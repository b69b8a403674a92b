//! What the service's errors mean for whoever typed the command: which exit code, and what to do next.

use std::error::Error;
use std::io;
use std::time::Duration;

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt};
use triseal::grpc::{DOMAIN, REASON_TRAILER};

use crate::failure::{Exit, Failure};
use crate::tls;

const IS_IT_THERE: &str = "is the service running, and is --endpoint right?";

/// What a command was about, to be named in hints. Empty where it was about none in particular.
#[derive(Clone, Copy, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) customer: &'a str,
    pub(crate) credential: &'a str,
    pub(crate) again: Again,
}

/// What running the command a second time does, where nobody knows whether the first time did it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Again {
    /// It only reads.
    #[default]
    Reads,
    /// The same as once.
    Safe,
    /// The same as once, under the idempotency key that was given.
    UnderTheKey,
    /// Another change: the credential tells whether it is needed.
    AfterTheCredential,
    /// Another change: the customer tells whether it is needed.
    AfterTheCustomer,
    /// Another job: the list tells whether it is needed.
    AfterTheJobs,
}

impl Subject<'_> {
    fn again(self) -> String {
        let Self { customer, credential, again } = self;
        match again {
            Again::Reads => "run the command again".to_owned(),
            Again::Safe => "it may have happened; running the command again is safe".to_owned(),
            Again::UnderTheKey => {
                "it may have happened; run the command again with the same --idempotency-key".to_owned()
            }
            Again::AfterTheCredential => format!(
                "it may have happened; look first: triseal credential get --customer {customer} --credential {credential}"
            ),
            Again::AfterTheCustomer => {
                format!("it may have happened; look first: triseal customer get {customer}")
            }
            Again::AfterTheJobs => "it may have happened; look first: triseal reencrypt list".to_owned(),
        }
    }
}

impl Failure {
    /// Tells a failed call.
    pub(crate) fn from_status(status: &Status, subject: Subject<'_>) -> Self {
        if let Some(failure) = before_any_answer(status, subject) {
            return failure;
        }
        let details = status.get_error_details();
        let reason = reason(status, &details);
        let (code, exit) = meaning(status.code());
        let message = match status.message() {
            "" => status.code().description().to_lowercase().trim_end_matches('.').to_owned(),
            message => message.to_owned(),
        };
        let hint = match &reason {
            Some(reason) => hint(reason, &details, subject),
            None => hint_without_reason(status.code(), subject),
        };
        let delay = details.retry_info().and_then(|info| info.retry_delay).map(try_again);
        let hint = match (hint, delay) {
            (Some(hint), Some(delay)) => Some(format!("{hint}; {delay}")),
            (hint, delay) => hint.or(delay),
        };
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let details = violations.iter().map(|bad| format!("{}: {}", bad.field, bad.description)).collect();
        Self { code, reason, message, details, hint, exit, nothing_listens: false }
    }
}

/// Whether nobody answered.
pub(crate) fn is_unreached(status: &Status) -> bool {
    before_any_answer(status, Subject::default()).is_some()
}

/// The service's own name for what is wrong.
pub(crate) fn reason_of(status: &Status) -> Option<String> {
    reason(status, &status.get_error_details())
}

/// What the transport on this side ran into.
fn before_any_answer(status: &Status, subject: Subject<'_>) -> Option<Failure> {
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(refused) = tls::refusal(error) {
            return Some(refused);
        }
        if error.is::<TimeoutExpired>() {
            return Some(unreachable("DEADLINE_EXCEEDED", "the service did not answer in time", &subject.again()));
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let message = match error.kind() {
                io::ErrorKind::ConnectionRefused => "nothing listens at the endpoint".to_owned(),
                io::ErrorKind::TimedOut => "the endpoint does not answer".to_owned(),
                kind => format!("cannot reach the service: {kind}"),
            };
            let nothing_listens = error.kind() == io::ErrorKind::ConnectionRefused;
            // A connection that broke may have carried the call.
            let hint =
                if nothing_listens { IS_IT_THERE.to_owned() } else { format!("{IS_IT_THERE} {}", subject.again()) };
            return Some(Failure { nothing_listens, ..unreachable("UNAVAILABLE", &message, &hint) });
        }
        source = error.source();
    }
    None
}

/// Whether the same call may be answered otherwise when it is made again, and after how long at the least. Where the service names a
/// reason and no time, someone has to act first.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    if let Some(failure) = before_any_answer(status, Subject::default()) {
        return (failure.exit == Exit::Failed).then_some(Duration::ZERO);
    }
    let details = status.get_error_details();
    let named = details.retry_info().and_then(|info| info.retry_delay);
    let reason = reason(status, &details);
    let again = match (status.code(), reason.as_deref()) {
        (Code::DeadlineExceeded | Code::ResourceExhausted, _) => true,
        (Code::Aborted, reason) => matches!(reason, None | Some("CHANGED_CONCURRENTLY")),
        (Code::Unavailable, Some(reason)) => named.is_some() || reason == "AUDIT_UNAVAILABLE",
        // What a broken connection looks like from here.
        (Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, None) => true,
        (_, _) => false,
    };
    again.then(|| named.unwrap_or_default())
}

fn unreachable(code: &'static str, message: &str, hint: &str) -> Failure {
    Failure { code, ..Failure::failed(message.to_owned()) }.with_hint(hint)
}

fn reason(status: &Status, details: &ErrorDetails) -> Option<String> {
    let reason = match details.error_info() {
        Some(info) if info.domain == DOMAIN => info.reason.as_str(),
        Some(_) | None => status.metadata().get(REASON_TRAILER)?.to_str().ok()?,
    };
    let is_name = reason.len() <= 64 && reason.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'_');
    (is_name && !reason.is_empty()).then(|| reason.to_owned())
}

/// The code's name and what it means for scripts.
fn meaning(code: Code) -> (&'static str, Exit) {
    match code {
        // A failed call is never OK; if it were, it would still not have done what was asked.
        Code::Ok => ("OK", Exit::Failed),
        Code::Cancelled => ("CANCELLED", Exit::Failed),
        Code::Unknown => ("UNKNOWN", Exit::Failed),
        Code::InvalidArgument => ("INVALID_ARGUMENT", Exit::Usage),
        Code::DeadlineExceeded => ("DEADLINE_EXCEEDED", Exit::Failed),
        Code::NotFound => ("NOT_FOUND", Exit::Failed),
        Code::AlreadyExists => ("ALREADY_EXISTS", Exit::Refused),
        Code::PermissionDenied => ("PERMISSION_DENIED", Exit::Refused),
        Code::ResourceExhausted => ("RESOURCE_EXHAUSTED", Exit::Failed),
        Code::FailedPrecondition => ("FAILED_PRECONDITION", Exit::Refused),
        Code::Aborted => ("ABORTED", Exit::Refused),
        Code::OutOfRange => ("OUT_OF_RANGE", Exit::Failed),
        Code::Unimplemented => ("UNIMPLEMENTED", Exit::Failed),
        Code::Internal => ("INTERNAL", Exit::Failed),
        Code::Unavailable => ("UNAVAILABLE", Exit::Failed),
        Code::DataLoss => ("DATA_LOSS", Exit::Failed),
        Code::Unauthenticated => ("UNAUTHENTICATED", Exit::Refused),
    }
}

/// What to do about the service's own reasons. A service newer than this command line may have others.
fn hint(reason: &str, details: &ErrorDetails, subject: Subject<'_>) -> Option<String> {
    let Subject { customer, credential, .. } = subject;
    let hint = match reason {
        "CUSTOMER_NOT_FOUND" => return Some(format!("create it: triseal customer create {customer}")),
        "CREDENTIAL_NOT_FOUND" => {
            return Some(format!("see which there are: triseal credential list --customer {customer}"));
        }
        "REVISION_MISMATCH" => return Some(revision_hint(details, subject)),
        "CREDENTIAL_EXISTS" => {
            return Some(format!("{credential} is there already; to write over it, leave out --if-revision 0"));
        }
        "NO_ACCESS_VIEW" => "only salesforce_oauth can be shown in part; add --view full",
        "NEEDS_REAUTH" => "have the customer consent again and encrypt the new tokens; --view full opens the old ones",
        "NOT_REFRESHABLE" => "only salesforce_oauth with a refresh token can be refreshed",
        "REFRESH_IN_PROGRESS" => "another caller is refreshing it; its tokens come soon, or the lease lapses",
        "LEASE_LOST" => "another caller has refreshed it since; read the tokens again",
        "IDEMPOTENCY_KEY_REUSED" => "the key named another change before; use a new key for each change",
        "CHANGED_CONCURRENTLY" => "somebody else changed it at the same time; look at it, and try again",
        "NO_CLIENT_CERTIFICATE" => {
            "the certificate in --cert needs exactly one SPIFFE id of the service's trust domain, and to be for clients"
        }
        "NOT_PERMITTED" => "ask whoever keeps the service's policy",
        "CUSTOMER_DISABLED" => return Some(format!("open it again: triseal customer enable {customer}")),
        "CUSTOMER_PENDING_DESTRUCTION" => {
            return Some(format!("take the destruction back first: triseal customer restore {customer}"));
        }
        "CUSTOMER_NOT_DISABLED" => {
            return Some(format!("disable it first, if that is what you want: triseal customer disable {customer}"));
        }
        "CUSTOMER_DESTROYED" => "its id is never provisioned again; use another",
        // What comes with a delay needs only that.
        "KEY_VERSION_IN_USE" if details.retry_info().is_some() => return None,
        "KEY_VERSION_IN_USE" => {
            return Some(format!("see the records: triseal key usage --customer {customer}"));
        }
        "JOB_RUNNING" => "see the jobs: triseal reencrypt list; end one: triseal reencrypt cancel JOB",
        "JOB_NOT_FOUND" => "see which there are: triseal reencrypt list",
        "KEY_VERSION_UNKNOWN" if credential.is_empty() => {
            return Some(format!("see which there are: triseal customer get {customer}"));
        }
        "KEY_VERSION_RETIRED" | "KEY_VERSION_UNKNOWN" => {
            "the service lacks a key version that this record needs; tell its operators"
        }
        "NOT_AUTHENTIC" | "MALFORMED" => {
            "the stored record was damaged, moved, or sealed by another deployment; nothing was opened; tell the operators"
        }
        "ENCODING_UNKNOWN" => "a newer release of the service wrote it; it opens once every replica is upgraded",
        "KMS_REFUSED" => {
            "the service may not use the key that this customer's key is wrapped under; tell its operators, whose log has more"
        }
        "KMS_UNAVAILABLE" => "the service can't reach what unwraps customer keys; if it lasts, tell its operators",
        "SECRETS_UNAVAILABLE" => "the service can't read its environment keys; if it lasts, tell its operators",
        "KEYS_STALE" => {
            "the service has not read its keys for too long, or another replica has newer ones; if it lasts, tell its operators"
        }
        "STORE_UNAVAILABLE" | "AUDIT_UNAVAILABLE" => {
            return Some(format!("{}; if it lasts, tell the service's operators", subject.again()));
        }
        "INTERNAL" => "this is a bug; the service's log has more under the reference above",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn revision_hint(details: &ErrorDetails, subject: Subject<'_>) -> String {
    let Subject { customer, credential, .. } = subject;
    let look = format!("look at it: triseal credential get --customer {customer} --credential {credential}");
    match details.error_info().and_then(|info| info.metadata.get("current_revision")) {
        Some(revision) => format!("it is at revision {revision}; {look}"),
        None => look,
    }
}

fn hint_without_reason(code: Code, subject: Subject<'_>) -> Option<String> {
    let hint = match code {
        Code::DeadlineExceeded => return Some(subject.again()),
        Code::Unimplemented => "is there a triseal service of this version at --endpoint?",
        Code::Unavailable => return Some(format!("{IS_IT_THERE} {}", subject.again())),
        Code::Unknown | Code::Internal => "is there a triseal service at --endpoint? one with TLS is https://",
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::DataLoss
        | Code::Unauthenticated => return None,
    };
    Some(hint.to_owned())
}

fn try_again(delay: Duration) -> String {
    // Rounded up: to come too early is to be refused again.
    format!("try again in {} s", delay.as_millis().div_ceil(1_000).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic::metadata::MetadataMap;

    const SUBJECT: Subject<'_> = Subject { customer: "acme", credential: "crm", again: Again::Safe };

    fn failure(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Failure {
        let metadata: HashMap<_, _> =
            metadata.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Failure::from_status(&Status::with_error_details(code, "it is so", details), SUBJECT)
    }

    #[test]
    fn refusals_and_wrong_arguments_have_exit_codes_of_their_own() {
        use Exit::{Failed, Refused, Usage};
        for (code, exit) in [
            (Code::PermissionDenied, Refused),
            (Code::Unauthenticated, Refused),
            (Code::FailedPrecondition, Refused),
            (Code::Aborted, Refused),
            (Code::AlreadyExists, Refused),
            (Code::InvalidArgument, Usage),
            (Code::NotFound, Failed),
            (Code::Unavailable, Failed),
            (Code::DataLoss, Failed),
            (Code::Internal, Failed),
            (Code::ResourceExhausted, Failed),
            (Code::DeadlineExceeded, Failed),
        ] {
            assert_eq!(Failure::from_status(&Status::new(code, ""), SUBJECT).exit, exit, "{code:?}");
        }
        assert_eq!([Failed as u8, Usage as u8, Exit::DoneInPart as u8, Refused as u8], [1, 2, 3, 4]);
    }

    #[test]
    fn hints_name_what_to_type() {
        let missing = failure(Code::NotFound, "CUSTOMER_NOT_FOUND", &[]);
        assert_eq!(missing.reason.as_deref(), Some("CUSTOMER_NOT_FOUND"));
        assert_eq!(missing.hint.as_deref(), Some("create it: triseal customer create acme"));
        let mismatch = failure(Code::Aborted, "REVISION_MISMATCH", &[("current_revision", "7")]);
        assert!(mismatch.hint.is_some_and(|hint| hint.starts_with("it is at revision 7;")));
        let view = failure(Code::FailedPrecondition, "NO_ACCESS_VIEW", &[]);
        assert!(view.hint.is_some_and(|hint| hint.contains("--view full")));
    }

    /// Every reason that the service has so far. (BAD_FIELD tells each violation, and what comes with a delay that.)
    #[test]
    fn every_reason_has_a_hint() {
        for (code, reason) in [
            (Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED"),
            (Code::NotFound, "CREDENTIAL_NOT_FOUND"),
            (Code::NotFound, "CUSTOMER_NOT_FOUND"),
            (Code::AlreadyExists, "CREDENTIAL_EXISTS"),
            (Code::Aborted, "REVISION_MISMATCH"),
            (Code::Aborted, "CHANGED_CONCURRENTLY"),
            (Code::FailedPrecondition, "CUSTOMER_DISABLED"),
            (Code::FailedPrecondition, "CUSTOMER_PENDING_DESTRUCTION"),
            (Code::FailedPrecondition, "CUSTOMER_DESTROYED"),
            (Code::FailedPrecondition, "NEEDS_REAUTH"),
            (Code::FailedPrecondition, "NO_ACCESS_VIEW"),
            (Code::FailedPrecondition, "KEY_VERSION_IN_USE"),
            (Code::NotFound, "JOB_NOT_FOUND"),
            (Code::AlreadyExists, "JOB_RUNNING"),
            (Code::FailedPrecondition, "NOT_REFRESHABLE"),
            (Code::FailedPrecondition, "REFRESH_IN_PROGRESS"),
            (Code::Aborted, "LEASE_LOST"),
            (Code::FailedPrecondition, "KEY_VERSION_RETIRED"),
            (Code::FailedPrecondition, "KEY_VERSION_UNKNOWN"),
            (Code::DataLoss, "NOT_AUTHENTIC"),
            (Code::DataLoss, "MALFORMED"),
            (Code::Unavailable, "KMS_UNAVAILABLE"),
            (Code::Unavailable, "SECRETS_UNAVAILABLE"),
            (Code::Unavailable, "STORE_UNAVAILABLE"),
            (Code::Unavailable, "KEYS_STALE"),
            (Code::Unavailable, "ENCODING_UNKNOWN"),
            (Code::Unavailable, "KMS_REFUSED"),
            (Code::Internal, "INTERNAL"),
        ] {
            let hint = failure(code, reason, &[]).hint;
            assert!(hint.is_some_and(|hint| hint.len() > 20), "{reason}");
        }
        assert_eq!(failure(Code::Unavailable, "UNHEARD_OF", &[]).hint, None);
    }

    /// `rotate customer` that is repeated blindly rotates twice.
    #[test]
    fn what_may_have_happened_is_repeated_as_the_command_allows() {
        let hint = |code, reason: &str, again| {
            let status =
                Status::with_error_details(code, "", ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()));
            let status = if reason.is_empty() { Status::new(code, "") } else { status };
            Failure::from_status(&status, Subject { again, ..SUBJECT }).hint.unwrap()
        };
        for (code, reason) in [
            (Code::Unavailable, "STORE_UNAVAILABLE"),
            (Code::Unavailable, "AUDIT_UNAVAILABLE"),
            (Code::Unavailable, ""),
            (Code::DeadlineExceeded, ""),
        ] {
            for (again, told) in [
                (Again::Reads, "run the command again"),
                (Again::Safe, "it may have happened; running the command again is safe"),
                (Again::UnderTheKey, "again with the same --idempotency-key"),
                (Again::AfterTheCredential, "look first: triseal credential get --customer acme --credential crm"),
                (Again::AfterTheCustomer, "look first: triseal customer get acme"),
                (Again::AfterTheJobs, "look first: triseal reencrypt list"),
            ] {
                let hint = hint(code, reason, again);
                assert!(hint.contains(told), "{code:?} {reason} {again:?}: {hint}");
                assert_eq!(hint.contains("may have happened"), again != Again::Reads, "{hint}");
                assert_eq!(hint.contains("--idempotency-key"), again == Again::UnderTheKey, "{hint}");
            }
        }
    }

    #[test]
    fn a_connection_that_broke_may_have_carried_the_call_and_one_that_was_refused_has_not() {
        let hint = |kind: io::ErrorKind| {
            let status = Status::from_error(Box::new(io::Error::from(kind)));
            Failure::from_status(&status, Subject { again: Again::AfterTheCustomer, ..SUBJECT }).hint.unwrap()
        };
        assert!(hint(io::ErrorKind::ConnectionReset).contains("look first: triseal customer get acme"));
        assert!(!hint(io::ErrorKind::ConnectionRefused).contains("may have happened"));
    }

    #[test]
    fn the_trailer_tells_the_reason_where_details_are_missing() {
        let with_trailer = |value: &'static str| {
            let mut trailers = MetadataMap::new();
            trailers.insert(REASON_TRAILER, value.parse().unwrap());
            Failure::from_status(&Status::with_metadata(Code::NotFound, "no", trailers), SUBJECT)
        };
        assert_eq!(with_trailer("CUSTOMER_NOT_FOUND").reason.as_deref(), Some("CUSTOMER_NOT_FOUND"));
        assert_eq!(with_trailer("<script>").reason, None);
    }

    #[test]
    fn every_violation_is_told() {
        let mut details = ErrorDetails::with_error_info("BAD_FIELD", DOMAIN, HashMap::new());
        details.add_bad_request_violation("secret.password.login_url", "must be https");
        details.add_bad_request_violation("idempotency_key", "is too long");
        let status = Status::with_error_details(Code::InvalidArgument, "two fields are wrong", details);
        let failure = Failure::from_status(&status, SUBJECT);
        assert_eq!(failure.details, ["secret.password.login_url: must be https", "idempotency_key: is too long"]);
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn the_time_to_wait_is_told_and_rounded_up() {
        let mut details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1_200)));
        details.set_error_info("KMS_THROTTLED", DOMAIN, HashMap::new());
        let status = Status::with_error_details(Code::ResourceExhausted, "too much", details);
        assert_eq!(Failure::from_status(&status, SUBJECT).hint.as_deref(), Some("try again in 2 s"));
    }

    #[test]
    fn a_certificate_that_the_service_refuses_is_not_tried_again() {
        use rustls::{AlertDescription, Error};
        let broken = |error: Error| Status::from_error(Box::new(io::Error::other(error)));
        let revoked = broken(Error::AlertReceived(AlertDescription::CertificateRevoked));
        let failure = Failure::from_status(&revoked, SUBJECT);
        assert_eq!((failure.code, failure.exit), ("UNAUTHENTICATED", Exit::Refused));
        assert!(failure.message.contains("revoked"));
        assert_eq!(retry_after(&revoked), None);
        // Of another service's answer nobody knows.
        let unknown = broken(Error::DecryptError);
        assert_eq!(Failure::from_status(&unknown, SUBJECT).exit, Exit::Failed);
        assert_eq!(retry_after(&unknown), Some(Duration::ZERO));
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_someone_must_mend_is_not() {
        let status = |code, reason: &str, delay: Option<u64>| {
            let mut details = ErrorDetails::new();
            if !reason.is_empty() {
                details.set_error_info(reason, DOMAIN, HashMap::new());
            }
            if let Some(seconds) = delay {
                details.set_retry_info(Some(Duration::from_secs(seconds)));
            }
            retry_after(&Status::with_error_details(code, "", details)).map(|delay| delay.as_secs())
        };
        for (code, reason, delay) in
            [(Code::Unavailable, "STORE_UNAVAILABLE", Some(1)), (Code::ResourceExhausted, "OVERLOADED", Some(2))]
        {
            assert_eq!(status(code, reason, delay), delay, "{reason}");
        }
        for (code, reason) in [
            (Code::Aborted, "CHANGED_CONCURRENTLY"),
            (Code::Unavailable, "AUDIT_UNAVAILABLE"),
            (Code::ResourceExhausted, "RATE_LIMITED"),
            (Code::DeadlineExceeded, ""),
            (Code::Unavailable, ""),
            (Code::Unknown, ""),
            (Code::Cancelled, ""),
            (Code::Internal, ""),
        ] {
            assert_eq!(status(code, reason, None), Some(0), "{code:?} {reason}");
        }
        for (code, reason) in [
            (Code::Unavailable, "KMS_REFUSED"),
            (Code::Aborted, "REVISION_MISMATCH"),
            (Code::Internal, "INTERNAL"),
            (Code::InvalidArgument, "BAD_FIELD"),
            (Code::NotFound, "CUSTOMER_NOT_FOUND"),
            (Code::AlreadyExists, "CREDENTIAL_EXISTS"),
            (Code::PermissionDenied, "NOT_PERMITTED"),
            (Code::FailedPrecondition, "CUSTOMER_DISABLED"),
            (Code::DataLoss, "NOT_AUTHENTIC"),
            (Code::Unimplemented, ""),
        ] {
            assert_eq!(status(code, reason, None), None, "{code:?} {reason}");
        }
    }
}
