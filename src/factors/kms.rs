//! Customer keys wrapped by AWS KMS, and MACs made by it. Every call for a customer key carries the encryption context and names the
//! KMS key, and the key that answers is compared. What stands beside a wrapped key only chooses among the configured KMS keys.
//!
//! What the SDK leaves of a key in its buffers is wiped by the allocator of the program, not here.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::Builder;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::verify_mac::VerifyMacError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::MacAlgorithmSpec;
use zeroize::Zeroizing;

use super::{FactorError, KeyWrapper, WrapContext, WrappedKey};
use crate::aws::{Failure, Patience};
use crate::crypto::CustomerKey;

/// An unwrap takes some 10 ms. All attempts end before a call without a deadline of its own (5 s) does, so that its caller is told the
/// reason.
const PATIENCE: Patience =
    Patience { attempt: Duration::from_millis(1_500), operation: Duration::from_millis(4_500), attempts: 3 };
/// Of a customer key.
const KEY_OCTETS: usize = 32;

/// Customer keys under KMS keys that the settings name.
pub struct KmsWrapper {
    client: Client,
    wrap_with: String,
    unwrap_with: Vec<String>,
}

impl KmsWrapper {
    /// Wraps with one KMS key and unwraps with that one and others. All are named by their ARN.
    pub fn new(config: &SdkConfig, wrap_with: String, unwrap_with: Vec<String>) -> Self {
        Self { client: client(config), wrap_with, unwrap_with }
    }

    /// The configured KMS key that a wrapped key names.
    fn configured<'a>(&'a self, wrapped: &WrappedKey) -> Result<&'a str, FactorError> {
        std::iter::once(&self.wrap_with)
            .chain(&self.unwrap_with)
            .find(|arn| **arn == wrapped.kms_key_arn)
            .map(String::as_str)
            .ok_or_else(|| FactorError::Refused("the key is wrapped under a KMS key that no setting names".to_owned()))
    }
}

#[async_trait]
impl KeyWrapper for KmsWrapper {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        let answer = self
            .client
            .generate_data_key_without_plaintext()
            .key_id(&self.wrap_with)
            .number_of_bytes(KEY_OCTETS as i32)
            .set_encryption_context(Some(entries(context)))
            .send()
            .await
            .map_err(|error| factor_error(&error))?;
        answered_by(&self.wrap_with, answer.key_id())?;
        wrapped_key(answer.ciphertext_blob, &self.wrap_with)
    }

    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        let arn = self.configured(wrapped)?;
        let mut answer = self
            .client
            .decrypt()
            .key_id(arn)
            .ciphertext_blob(Blob::new(wrapped.octets.as_slice()))
            .set_encryption_context(Some(entries(context)))
            .send()
            .await
            .map_err(|error| factor_error(&error))?;
        let plaintext = Zeroizing::new(answer.plaintext.take().map(Blob::into_inner).unwrap_or_default());
        answered_by(arn, answer.key_id())?;
        let mut octets = Zeroizing::new([0; KEY_OCTETS]);
        if plaintext.len() != KEY_OCTETS {
            return Err(FactorError::Corrupt("what was unwrapped is no customer key".to_owned()));
        }
        octets.copy_from_slice(&plaintext);
        Ok(CustomerKey::new(octets))
    }

    async fn rewrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<WrappedKey, FactorError> {
        let source = self.configured(wrapped)?;
        let answer = self
            .client
            .re_encrypt()
            .source_key_id(source)
            .destination_key_id(&self.wrap_with)
            .ciphertext_blob(Blob::new(wrapped.octets.as_slice()))
            .set_source_encryption_context(Some(entries(context)))
            .set_destination_encryption_context(Some(entries(context)))
            .send()
            .await
            .map_err(|error| factor_error(&error))?;
        answered_by(source, answer.source_key_id())?;
        answered_by(&self.wrap_with, answer.key_id())?;
        wrapped_key(answer.ciphertext_blob, &self.wrap_with)
    }

    fn wraps_with(&self) -> &str {
        &self.wrap_with
    }
}

/// MACs under one KMS key of HMAC_256, which never leaves KMS. Not a factor: the heads of audit streams carry them.
pub struct KmsMac {
    client: Client,
    key: String,
}

impl KmsMac {
    /// Names the key by its ARN.
    pub fn new(config: &SdkConfig, key: String) -> Self {
        Self { client: client(config), key }
    }

    /// The MAC of a message of at most 4,096 octets: HMAC-SHA-256.
    ///
    /// # Errors
    /// A [`FactorError`].
    pub async fn make(&self, message: &[u8]) -> Result<Vec<u8>, FactorError> {
        let request = self.client.generate_mac().key_id(&self.key).mac_algorithm(MacAlgorithmSpec::HmacSha256);
        let answer = request.message(Blob::new(message)).send().await.map_err(|error| factor_error(&error))?;
        answered_by(&self.key, answer.key_id())?;
        let mac = answer.mac.map(Blob::into_inner).filter(|mac| !mac.is_empty());
        mac.ok_or_else(|| FactorError::Away("KMS answered without a MAC".to_owned()))
    }

    /// Whether this is the MAC of the message.
    ///
    /// # Errors
    /// A [`FactorError`]; a wrong MAC is none.
    pub async fn verify(&self, message: &[u8], mac: &[u8]) -> Result<bool, FactorError> {
        let request = self.client.verify_mac().key_id(&self.key).mac_algorithm(MacAlgorithmSpec::HmacSha256);
        match request.message(Blob::new(message)).mac(Blob::new(mac)).send().await {
            Ok(answer) => answered_by(&self.key, answer.key_id()).map(|()| answer.mac_valid()),
            Err(error) => match error.as_service_error() {
                Some(VerifyMacError::KmsInvalidMacException(_)) => Ok(false),
                Some(_) | None => Err(factor_error(&error)),
            },
        }
    }
}

fn client(config: &SdkConfig) -> Client {
    let config = Builder::from(config).timeout_config(PATIENCE.timeouts()).retry_config(PATIENCE.retries());
    Client::from_conf(config.build())
}

fn entries(context: &WrapContext<'_>) -> HashMap<String, String> {
    context.entries().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn answered_by(asked: &str, answered: Option<&str>) -> Result<(), FactorError> {
    if answered == Some(asked) {
        Ok(())
    } else {
        Err(FactorError::Refused("another KMS key answered than the one that was asked".to_owned()))
    }
}

fn wrapped_key(blob: Option<Blob>, arn: &str) -> Result<WrappedKey, FactorError> {
    let octets = blob.map(Blob::into_inner).filter(|octets| !octets.is_empty());
    let octets = octets.ok_or_else(|| FactorError::Away("KMS answered without a wrapped key".to_owned()))?;
    Ok(WrappedKey { octets, kms_key_arn: arn.to_owned() })
}

/// Every failure of KMS, told apart. Codes are those of the API reference; what is not known is refused.
fn factor_error<E: ProvideErrorMetadata>(error: &SdkError<E>) -> FactorError {
    match Failure::of(error) {
        Failure::Away(detail) => FactorError::Away(detail),
        Failure::Throttled => FactorError::Throttled,
        Failure::Answered { code, detail } => match code.as_str() {
            "NotFoundException" => FactorError::Absent(detail),
            // Under another key, for another context, or changed.
            "InvalidCiphertextException" | "IncorrectKeyException" => FactorError::Corrupt(detail),
            "KMSInternalException" | "DependencyTimeoutException" | "KeyUnavailableException" => {
                FactorError::Away(detail)
            }
            // AccessDeniedException, DisabledException, KMSInvalidStateException (pending deletion) and their like.
            _ => FactorError::Refused(detail),
        },
    }
}

#[cfg(test)]
mod tests;
