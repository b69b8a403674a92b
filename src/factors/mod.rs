//! The three factors: their versions, and where each comes from.
//!
//! The ports are filled by Secrets Manager ([`secrets_manager`]) and KMS ([`kms`]) in production and by files in development
//! ([`local`]). A source says what it knows and what went wrong; it never makes a key because a read failed.

pub mod document;
// Not beside the document, which the build script compiles, too.
#[cfg(test)]
mod document_tests;
pub mod kms;
pub mod local;
pub mod rotation;
pub mod secrets_manager;
mod versions;

use std::time::Duration;

use async_trait::async_trait;

pub use versions::{KeySet, Lookup, Regression};

use crate::crypto::{CustomerKey, Environment, Version};
use crate::ids::{CustomerId, Deployment};

/// Why a source did not answer with a key. The variants tell what a caller may do about it; each text stands for itself, and names no
/// key's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactorError {
    /// The source says that there is no such thing.
    #[error("{0}")]
    Absent(String),
    /// The source does not permit it, or the key is disabled.
    #[error("{0}")]
    Refused(String),
    /// The source asks for fewer requests.
    #[error("the source asks for fewer requests")]
    Throttled,
    /// The source did not answer.
    #[error("{0}")]
    Away(String),
    /// What the source holds is not of its form, or was not made for this.
    #[error("{0}")]
    Corrupt(String),
}

/// Where the environment keys stand.
#[async_trait]
pub trait EnvironmentSource: Send + Sync {
    /// All versions, as they are there now.
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError>;

    /// For so long it may go on answering with a former value here after a newer one was read elsewhere.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }
}

/// Who wraps customer keys.
#[async_trait]
pub trait KeyWrapper: Send + Sync {
    /// A new customer key, wrapped for a context and never shown.
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError>;

    /// The key that was wrapped for a context. Under any other context, [`FactorError::Corrupt`].
    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError>;

    /// The same key for the same context, wrapped as [`KeyWrapper::wrap_new`] would wrap a new one. Nobody has seen whether
    /// it unwraps: whoever puts it in the former one's place unwraps it first.
    async fn rewrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<WrappedKey, FactorError>;

    /// What [`KeyWrapper::wrap_new`] and [`KeyWrapper::rewrap`] wrap with, as [`WrappedKey::kms_key_arn`] names it.
    fn wraps_with(&self) -> &str;
}

/// A customer key, wrapped, and what it is wrapped under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// As the wrapper gave it.
    pub octets: Vec<u8>,
    /// The ARN of the KMS key, or the name of its stand-in.
    pub kms_key_arn: String,
}

/// What a wrapped key is bound to: KMS calls it the encryption context.
#[derive(Debug)]
pub struct WrapContext<'a> {
    /// Whose service.
    pub deployment: &'a Deployment,
    /// Whose key.
    pub customer: &'a CustomerId,
    /// Which version of it.
    pub version: Version,
}

impl WrapContext<'_> {
    /// The entries, every one required on unwrapping.
    pub fn entries(&self) -> [(&'static str, String); 3] {
        [
            ("triseal:deployment", self.deployment.to_string()),
            ("triseal:customer", self.customer.to_string()),
            ("triseal:version", self.version.to_string()),
        ]
    }
}
