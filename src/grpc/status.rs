//! Domain errors → gRPC statuses, exhaustively: every variant stands here with its code and reason. No text of a dependency goes
//! out; what someone must mend is logged here, once, with its whole chain.

#![warn(clippy::wildcard_enum_match_arm)]

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use prost::Message;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use tracing::{error, warn};

use crate::access::Denied;
use crate::audit::AuditError;
use crate::customers::{CustomerError, InUse};
use crate::factors::FactorError;
use crate::jobs::JobError;
use crate::keyring::{ASK_AGAIN, KeyringError, NoPageToken};
use crate::store::{Revision, StoreError};
use crate::vault::VaultError;

/// Of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "triseal";
/// The trailer that carries the reason, too.
pub const REASON_TRAILER: &str = "triseal-reason";
/// When to try a dependency again that was away.
const RETRY_AWAY: Duration = Duration::from_secs(1);
/// When to try KMS again that throttled.
const RETRY_THROTTLED: Duration = Duration::from_secs(2);
/// When to meet a replica that is not set to leave a restored store as it is.
const RETRY_RESTORED: Duration = Duration::from_secs(30);
/// When to meet a replica whose clock is right. One whose clock is wrong is taken off its load balancer meanwhile.
const RETRY_CLOCK: Duration = Duration::from_secs(10);
/// When to meet an upgraded replica.
const RETRY_ENCODING: Duration = Duration::from_secs(30);
/// When to try again where too much was asked for at once. Another replica may do it at once.
const RETRY_OVERLOADED: Duration = Duration::from_secs(1);
/// When to ask again for tokens that somebody else refreshes: whoever can wait does so within the call.
const RETRY_REFRESH: Duration = Duration::from_secs(1);

/// Every reason there is or will be, for counting. What is not here is counted as none, and fails the tests of this file.
pub const REASONS: &[&str] = &[
    "BAD_FIELD",
    "IDEMPOTENCY_KEY_REUSED",
    "NO_CLIENT_CERTIFICATE",
    "NOT_PERMITTED",
    "CREDENTIAL_NOT_FOUND",
    "CUSTOMER_NOT_FOUND",
    "JOB_NOT_FOUND",
    "CREDENTIAL_EXISTS",
    "JOB_RUNNING",
    "REVISION_MISMATCH",
    "LEASE_LOST",
    "CHANGED_CONCURRENTLY",
    "CUSTOMER_DISABLED",
    "CUSTOMER_PENDING_DESTRUCTION",
    "CUSTOMER_DESTROYED",
    "CUSTOMER_NOT_DISABLED",
    "NEEDS_REAUTH",
    "REFRESH_IN_PROGRESS",
    "NOT_REFRESHABLE",
    "NO_ACCESS_VIEW",
    "KEY_VERSION_RETIRED",
    "KEY_VERSION_UNKNOWN",
    "KEY_VERSION_IN_USE",
    "NOT_AUTHENTIC",
    "MALFORMED",
    "OVERLOADED",
    "RATE_LIMITED",
    "REPLY_FULL",
    "KMS_THROTTLED",
    "KMS_UNAVAILABLE",
    "SECRETS_UNAVAILABLE",
    "STORE_UNAVAILABLE",
    "KEYS_STALE",
    "ENCODING_UNKNOWN",
    "KMS_REFUSED",
    "AUDIT_UNAVAILABLE",
    "INTERNAL",
];

/// When to ask for what a full reply left out.
const RETRY_LEFT_OUT: Duration = Duration::ZERO;

/// What a client is told.
struct Told {
    code: Code,
    reason: &'static str,
    message: String,
    retry: Option<Duration>,
    current: Option<Revision>,
    available: Option<Timestamp>,
}

impl Told {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry: None, current: None, available: None }
    }

    fn retry_after(self, delay: Duration) -> Self {
        Self { retry: Some(delay), ..self }
    }

    fn at(self, current: Revision) -> Self {
        Self { current: Some(current), ..self }
    }

    fn available_from(self, time: Timestamp) -> Self {
        Self { available: Some(time), ..self }
    }

    fn into_status(self) -> Status {
        let current = self.current.map(|revision| ("current_revision".to_owned(), revision.get().to_string()));
        let available = self.available.map(|time| ("lease_available_time".to_owned(), time.to_string()));
        let metadata = current.into_iter().chain(available);
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, metadata.collect::<HashMap<_, _>>());
        if let Some(delay) = self.retry {
            details.set_retry_info(Some(delay));
        }
        with_trailer(self.code, self.reason, self.message, details)
    }
}

fn with_trailer(code: Code, reason: &'static str, message: String, details: ErrorDetails) -> Status {
    let mut trailer = HeaderMap::new();
    trailer.insert(REASON_TRAILER, http::HeaderValue::from_static(reason));
    Status::with_error_details_and_metadata(code, message, details, MetadataMap::from_headers(trailer))
}

/// A request with fields that are wrong: each with what it must be, and never with what it was.
pub(super) fn bad_fields(violations: Vec<FieldViolation>) -> Status {
    let message = match violations.as_slice() {
        [one] => format!("{}: {}", one.field, one.description),
        _ => format!("{} fields are wrong", violations.len()),
    };
    let mut details = ErrorDetails::new();
    details.set_error_info("BAD_FIELD", DOMAIN, HashMap::new());
    details.set_bad_request(violations);
    with_trailer(Code::InvalidArgument, "BAD_FIELD", message, details)
}

/// tonic answers a request that it can't decode, or that is too large, by itself: as INTERNAL or OUT_OF_RANGE, with the decoder's text
/// and without a reason. The fault is the caller's, and is told as such.
pub(super) fn with_reason(answer: http::Response<Body>) -> http::Response<Body> {
    let code = answer.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<i32>().ok());
    let unreadable = [Code::Internal, Code::OutOfRange].map(i32::from).into_iter().any(|mute| code == Some(mute));
    if !unreadable || answer.headers().contains_key(REASON_TRAILER) {
        return answer;
    }
    let description = "must be a message of the method's type, no longer than its fields may be together (in no case than 1,048,576 octets), with texts in UTF-8";
    bad_fields(vec![FieldViolation::new("request", description)]).into_http()
}

/// As many calls as may be are under way.
pub(super) fn overloaded() -> Status {
    let told = Told::new(Code::ResourceExhausted, "OVERLOADED", "this replica has as many calls under way as it may");
    told.retry_after(RETRY_OVERLOADED).into_status()
}

/// The caller has its share under way.
pub(super) fn rate_limited() -> Status {
    let told = Told::new(Code::ResourceExhausted, "RATE_LIMITED", "this caller has its share of the calls under way");
    told.retry_after(RETRY_OVERLOADED).into_status()
}

/// Policy has refused the caller so often of late that its refusals are not written down any more.
pub(super) fn refused_too_often() -> Status {
    let message = "policy has refused this caller too often of late: ask for what it may have";
    Told::new(Code::ResourceExhausted, "RATE_LIMITED", message).retry_after(RETRY_OVERLOADED).into_status()
}

/// The connection has as many health checks, watches and the like as it may.
pub(super) fn too_many_others() -> Status {
    let message = "this connection has as many health checks and watches as it may: use fewer, or end some";
    Told::new(Code::ResourceExhausted, "RATE_LIMITED", message).retry_after(RETRY_OVERLOADED).into_status()
}

/// Nobody knows who calls.
pub(super) fn no_client_certificate() -> Status {
    let message = "the connection has no client certificate that is good and names a caller of this service";
    Told::new(Code::Unauthenticated, "NO_CLIENT_CERTIFICATE", message).into_status()
}

/// There is no entry, so there is no answer. After a change it may have happened.
pub(super) fn audit_unavailable(error: AuditError) -> Status {
    warn!(%error, "audit entry not written");
    let message =
        "the audit log can't be written; a change may have happened, so retry it with the same idempotency key";
    Told::new(Code::Unavailable, "AUDIT_UNAVAILABLE", message).into_status()
}

impl From<NoPageToken> for Status {
    fn from(_: NoPageToken) -> Self {
        internal("a page token can't be sealed").into_status()
    }
}

/// A handler panicked.
pub(super) fn panicked() -> Status {
    internal("a handler panicked").into_status()
}

/// The trailers of a stream whose connection is about to end.
pub(super) fn stream_ends() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Cannot fail: neither message nor metadata has anything to encode.
    let _ = Status::unavailable("the connection ends: connect anew").add_header(&mut trailers);
    trailers
}

/// Code and reason of an answer, by its headers or trailers. `None`: they follow later.
pub(super) fn outcome(headers: &HeaderMap) -> Option<(&'static str, &'static str)> {
    let code = code_name(Code::from_bytes(headers.get("grpc-status")?.as_bytes()));
    let reason = headers.get(REASON_TRAILER).and_then(|reason| reason.to_str().ok());
    let known = reason.and_then(|reason| REASONS.iter().find(|known| **known == reason));
    Some((code, known.copied().unwrap_or_default()))
}

/// Whether a reason is one of the protocol's.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn is_reason(reason: &str) -> bool {
    REASONS.contains(&reason)
}

/// As the protocol writes it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The error of one item of a batch: what the status says as the answer of a call, as a message within one. The reason stands in
/// the details alone, since an item has no trailer.
pub(super) fn item_error(status: &Status) -> tonic_types::Status {
    // Without details, or with some that are no message, the code and the text are what is left.
    let mut error = tonic_types::Status::decode(status.details()).unwrap_or_default();
    error.code = status.code().into();
    status.message().clone_into(&mut error.message);
    error
}

/// The call took longer than its deadline.
pub(super) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded(
        "the call's deadline passed; a change may have happened, so retry it with the same idempotency key",
    )
}

impl From<Denied> for Status {
    /// The same for every refusal: whether the thing exists was not looked at, and is not told.
    fn from(denied: Denied) -> Self {
        Told::new(Code::PermissionDenied, "NOT_PERMITTED", denied.to_string()).into_status()
    }
}

impl From<VaultError> for Status {
    fn from(error: VaultError) -> Self {
        use VaultError as E;
        let text = error.to_string();
        let told = match error {
            E::CredentialNotFound => Told::new(Code::NotFound, "CREDENTIAL_NOT_FOUND", text),
            E::CredentialExists { current } => Told::new(Code::AlreadyExists, "CREDENTIAL_EXISTS", text).at(current),
            E::RevisionMismatch { current } => Told::new(Code::Aborted, "REVISION_MISMATCH", text).at(current),
            E::IdempotencyKeyReused => Told::new(Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED", text),
            E::ChangedConcurrently => Told::new(Code::Aborted, "CHANGED_CONCURRENTLY", text),
            E::NoAccessView => Told::new(Code::FailedPrecondition, "NO_ACCESS_VIEW", text),
            E::NeedsReauth => Told::new(Code::FailedPrecondition, "NEEDS_REAUTH", text),
            E::NotRefreshable => Told::new(Code::FailedPrecondition, "NOT_REFRESHABLE", text),
            E::RefreshInProgress { available, current } => {
                let told = Told::new(Code::FailedPrecondition, "REFRESH_IN_PROGRESS", text);
                told.at(current).available_from(available).retry_after(RETRY_REFRESH)
            }
            E::LeaseLost => Told::new(Code::Aborted, "LEASE_LOST", text),
            E::Malformed => corrupt("MALFORMED", text),
            E::NotAuthentic => corrupt("NOT_AUTHENTIC", text),
            E::EncodingUnknown => Told::new(Code::Unavailable, "ENCODING_UNKNOWN", text).retry_after(RETRY_ENCODING),
            E::NoRoom => Told::new(
                Code::ResourceExhausted,
                "REPLY_FULL",
                "the reply has no room for this credential: ask for those that it left out again, by themselves",
            )
            .retry_after(RETRY_LEFT_OUT),
            E::TooSlow => return Status::deadline_exceeded(format!("{text}; they are still looked up, so ask again")),
            E::Clock(_) => Told::new(Code::Unavailable, "STORE_UNAVAILABLE", text).retry_after(RETRY_CLOCK),
            E::SecretTooLong => return bad_fields(vec![FieldViolation::new("secret", text)]),
            E::Audit(error) => return audit_unavailable(error),
            E::Keyring(error) => from_keyring(error),
            E::Store(error) => from_store(error),
            E::Internal(what) => internal(what),
        };
        told.into_status()
    }
}

impl From<CustomerError> for Status {
    fn from(error: CustomerError) -> Self {
        use CustomerError as E;
        let text = error.to_string();
        let told = match error {
            E::NotFound => Told::new(Code::NotFound, "CUSTOMER_NOT_FOUND", text),
            E::Destroyed => Told::new(Code::FailedPrecondition, "CUSTOMER_DESTROYED", text),
            E::PendingDestruction => Told::new(Code::FailedPrecondition, "CUSTOMER_PENDING_DESTRUCTION", text),
            E::NotDisabled => Told::new(Code::FailedPrecondition, "CUSTOMER_NOT_DISABLED", text),
            E::KeyVersionUnknown => Told::new(Code::FailedPrecondition, "KEY_VERSION_UNKNOWN", text),
            E::KeyVersionInUse(InUse::Primary | InUse::Records { .. } | InUse::Unreadable { .. }) => {
                Told::new(Code::FailedPrecondition, "KEY_VERSION_IN_USE", text)
            }
            E::KeyVersionInUse(InUse::TooEarly { wait }) => {
                Told::new(Code::FailedPrecondition, "KEY_VERSION_IN_USE", text).retry_after(wait)
            }
            E::ChangedConcurrently => Told::new(Code::Aborted, "CHANGED_CONCURRENTLY", text),
            E::Clock(_) => Told::new(Code::Unavailable, "STORE_UNAVAILABLE", text).retry_after(RETRY_CLOCK),
            E::Audit(error) => return audit_unavailable(error),
            E::Wrapper(error) => from_wrapper(error),
            E::Store(error) => from_store(error),
            E::Internal(what) => internal(what),
        };
        told.into_status()
    }
}

impl From<JobError> for Status {
    fn from(error: JobError) -> Self {
        use JobError as E;
        let text = error.to_string();
        let told = match error {
            E::NotFound => Told::new(Code::NotFound, "JOB_NOT_FOUND", text),
            E::Running(_) => Told::new(Code::AlreadyExists, "JOB_RUNNING", text),
            E::Clock(_) => Told::new(Code::Unavailable, "STORE_UNAVAILABLE", text).retry_after(RETRY_CLOCK),
            E::Restored => Told::new(Code::Unavailable, "STORE_UNAVAILABLE", text).retry_after(RETRY_RESTORED),
            E::Customer(error) => return error.into(),
            E::Audit(error) => return audit_unavailable(error),
            E::ChangedConcurrently => Told::new(Code::Aborted, "CHANGED_CONCURRENTLY", text),
            E::Keyring(error) => from_keyring(error),
            E::Store(error) => from_store(error),
            E::Internal(what) => internal(what),
        };
        told.into_status()
    }
}

fn from_keyring(error: KeyringError) -> Told {
    use KeyringError as E;
    let text = error.to_string();
    let refused = |reason| Told::new(Code::FailedPrecondition, reason, text.clone());
    match error {
        E::CustomerNotFound => Told::new(Code::NotFound, "CUSTOMER_NOT_FOUND", text),
        E::CustomerDisabled => refused("CUSTOMER_DISABLED"),
        E::CustomerPendingDestruction => refused("CUSTOMER_PENDING_DESTRUCTION"),
        E::CustomerDestroyed => refused("CUSTOMER_DESTROYED"),
        E::KeyVersionRetired => refused("KEY_VERSION_RETIRED"),
        E::KeyVersionUnknown => refused("KEY_VERSION_UNKNOWN"),
        E::KeysStale => Told::new(Code::Unavailable, "KEYS_STALE", text).retry_after(ASK_AGAIN),
        E::SecretsUnavailable => Told::new(Code::Unavailable, "SECRETS_UNAVAILABLE", text).retry_after(ASK_AGAIN),
        E::Wrapper(error) => from_wrapper(error),
        E::Store(error) => from_store(error),
        E::Interrupted => internal("a look-up was interrupted"),
    }
}

fn from_wrapper(error: FactorError) -> Told {
    use FactorError as E;
    match error {
        E::Absent(detail) | E::Refused(detail) => {
            error!(detail, "customer key refused");
            Told::new(Code::Unavailable, "KMS_REFUSED", "the customer key is refused by what wraps it")
        }
        E::Throttled => Told::new(Code::ResourceExhausted, "KMS_THROTTLED", "KMS is throttling requests")
            .retry_after(RETRY_THROTTLED),
        E::Away(detail) => {
            warn!(detail, "customer keys can't be unwrapped");
            Told::new(Code::Unavailable, "KMS_UNAVAILABLE", "customer keys can't be unwrapped now")
                .retry_after(RETRY_AWAY)
        }
        E::Corrupt(detail) => {
            error!(detail, "customer key does not unwrap");
            Told::new(Code::DataLoss, "NOT_AUTHENTIC", "the customer key was not wrapped for this customer")
        }
    }
}

fn from_store(error: StoreError) -> Told {
    use StoreError as E;
    let unavailable = || Told::new(Code::Unavailable, "STORE_UNAVAILABLE", "the store does not answer");
    match error {
        E::Throttled => Told::new(Code::ResourceExhausted, "OVERLOADED", "the store asks for fewer requests")
            .retry_after(RETRY_AWAY),
        E::Newer => Told::new(Code::Unavailable, "ENCODING_UNKNOWN", error.to_string()).retry_after(RETRY_ENCODING),
        E::Away(_) => {
            warn!(%error, "store away");
            unavailable().retry_after(RETRY_AWAY)
        }
        E::Refused(_) | E::Absent(_) => {
            error!(%error, "store refuses");
            unavailable().retry_after(RETRY_AWAY)
        }
        E::Corrupt(_) => {
            error!(%error, "store corrupt");
            Told::new(Code::DataLoss, "MALFORMED", "what is stored is not of its form")
        }
    }
}

fn corrupt(reason: &'static str, text: String) -> Told {
    error!(reason, "stored record does not open");
    Told::new(Code::DataLoss, reason, text)
}

/// A bug. The message names a reference to the log.
fn internal(what: &'static str) -> Told {
    // Without a generator the reference is 0, and the log line stands alone anyway.
    let reference = format!("{:016x}", getrandom::u64().unwrap_or_default());
    error!(what, reference, "internal error");
    Told::new(Code::Internal, "INTERNAL", format!("internal error; the log has it under {reference}"))
}

#[cfg(test)]
mod tests;
