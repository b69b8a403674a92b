//! What the AWS adapters share: how the SDK is set up, how long it may try, and what is kept of its errors. It knows no service.
//!
//! Region, credentials, endpoints and roles are the SDK's own settings (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, …).

#[cfg(test)]
pub(crate) mod emulators;
#[cfg(test)]
pub(crate) mod stub;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
// The same types for every service.
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;

/// A connection that is not made in this time is not made. Within a region it takes a few milliseconds, TLS included.
const CONNECT: Duration = Duration::from_secs(1);
/// Of what a service says of an error, at most so many characters are kept.
const MAX_WORD: usize = 64;

/// Reads the SDK's settings from the environment and its files.
pub async fn load() -> SdkConfig {
    // Named, so that an upgrade of the SDK changes no behaviour by itself.
    aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await
}

/// How long one operation may take, and how often it is tried within that time.
pub(crate) struct Patience {
    /// One attempt.
    pub(crate) attempt: Duration,
    /// All of them, with the pauses between them.
    pub(crate) operation: Duration,
    /// 1: what fails is not tried again by the SDK.
    pub(crate) attempts: u32,
}

impl Patience {
    pub(crate) fn timeouts(&self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(self.attempt)
            .operation_timeout(self.operation)
            .build()
    }

    /// Exponential pauses with jitter, from 50 ms on: callers wait for seconds, not for minutes.
    pub(crate) fn retries(&self) -> RetryConfig {
        RetryConfig::standard()
            .with_max_attempts(self.attempts)
            .with_initial_backoff(Duration::from_millis(50))
            .with_max_backoff(Duration::from_millis(500))
    }
}

/// What is kept of an SDK's error. Never its text, which may repeat what was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing came back, or half of an answer, or the news that the service itself has failed: the request may have been
    /// carried out. Or credentials were not good, which says nothing about what was asked for.
    Away(String),
    /// It was not carried out, for there were too many.
    Throttled,
    /// It was not carried out.
    Answered {
        /// As the service names it, such as `AccessDeniedException`.
        code: String,
        /// The code, and the id under which AWS finds the request.
        detail: String,
    },
}

impl Failure {
    pub(crate) fn of<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Self {
        match error {
            // There is one before credentials were found, too: nothing can be told from it but that nothing was asked.
            SdkError::ConstructionFailure(_) => {
                Self::Away("the request could not be made; are there credentials?".to_owned())
            }
            SdkError::TimeoutError(_) => Self::Away("no answer in time".to_owned()),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                Self::Away("no connection in time".to_owned())
            }
            SdkError::DispatchFailure(failure) if failure.is_io() => {
                Self::Away("the connection failed or broke off".to_owned())
            }
            SdkError::DispatchFailure(_) => {
                Self::Away("the request could not be sent; are there credentials and a region?".to_owned())
            }
            SdkError::ResponseError(_) => Self::Away(format!("half an answer{}", request(error))),
            SdkError::ServiceError(answer) => {
                let status = answer.raw().status().as_u16();
                let code = word(answer.err().code().unwrap_or_default());
                let detail = format!("{code} ({status}){}", request(error));
                match code.as_str() {
                    _ if is_throttling(&code) || status == 429 => Self::Throttled,
                    _ if is_of_credentials(&code) => {
                        Self::Away(format!("AWS does not take this process's credentials: {detail}"))
                    }
                    _ if status >= 500 => Self::Away(detail),
                    _ => Self::Answered { code, detail },
                }
            }
            // The enum may grow.
            _ => Self::Away("an unknown failure".to_owned()),
        }
    }
}

/// The codes by which AWS services say that there were too many requests; the SDK's list, but for the one of a transaction that
/// is still under way.
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottledException"
            | "RequestThrottled"
            | "TooManyRequestsException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "LimitExceededException"
            | "SlowDown"
            | "PriorRequestNotComplete"
    )
}

/// The codes by which AWS says that it does not know who asks: credentials that ran out, are wrong or missing, or a clock that is. It has
/// decided nothing about what was asked for, so that is not refused; AWS is as good as away.
fn is_of_credentials(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "TokenRefreshRequired"
            | "RequestExpired"
            | "RequestTimeTooSkewed"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidAccessKeyId"
            | "AuthFailure"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
    )
}

/// The id under which AWS finds the request, to stand at the end of a text.
pub(crate) fn request<E>(error: &SdkError<E>) -> String {
    error.request_id().map(|id| format!(", request {}", word(id))).unwrap_or_default()
}

/// What is one word of letters, digits and a few signs, cut to its beginning. Anything else is not repeated.
pub(crate) fn word(text: &str) -> String {
    let plain = text.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'#'));
    if plain && !text.is_empty() { text.chars().take(MAX_WORD).collect() } else { "unnamed".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_service_says_only_a_word_is_kept() {
        assert_eq!(word("AccessDeniedException"), "AccessDeniedException");
        assert_eq!(word(&"x".repeat(100)), "x".repeat(64));
        for told in ["", "no key arn:aws:kms:eu-central-1:1:key/2", "a\nb", "ä"] {
            assert_eq!(word(told), "unnamed");
        }
    }
}
