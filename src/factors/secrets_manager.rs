//! The environment keys in one secret of AWS Secrets Manager: its value under AWSCURRENT. When it is read, and what a new value
//! may not take back, is the keyring's to know.

mod stages;

use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use zeroize::Zeroizing;

use super::document::{Form, KeyDocument};
use super::{EnvironmentSource, FactorError, KeySet};
use crate::aws::{Failure, Patience};
use crate::crypto::Environment;

/// It is read in the background, mostly, and with more patience; all attempts end before the keyring gives up (10 s).
const PATIENCE: Patience =
    Patience { attempt: Duration::from_millis(2_500), operation: Duration::from_millis(9_000), attempts: 3 };
/// It has no consistent read. That all its readers see a new value within seconds is what is known of it; this is generous.
const LAG: Duration = Duration::from_secs(60);
/// The label of the value that counts.
const CURRENT: &str = "AWSCURRENT";

/// One secret.
pub struct SecretsManager {
    client: Client,
    secret_id: String,
}

impl SecretsManager {
    /// Names the secret by its ARN. It is read when it is asked for.
    pub fn new(config: &SdkConfig, secret_id: String) -> Self {
        let config = Builder::from(config).timeout_config(PATIENCE.timeouts()).retry_config(PATIENCE.retries());
        Self { client: Client::from_conf(config.build()), secret_id }
    }
}

#[async_trait]
impl EnvironmentSource for SecretsManager {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        let document = document(&mut self.under(CURRENT).await?)?;
        KeySet::from_document(document)
            .ok_or_else(|| FactorError::Corrupt("the secret's value has no primary".to_owned()))
    }

    fn lag(&self) -> Duration {
        LAG
    }
}

impl SecretsManager {
    async fn under(&self, stage: &str) -> Result<GetSecretValueOutput, FactorError> {
        let request = self.client.get_secret_value().secret_id(&self.secret_id).version_stage(stage);
        request.send().await.map_err(|error| factor_error(&error))
    }
}

/// The value of an answer, which is left without it. Nobody shows it: it is wiped when it is dropped.
fn value_of(answer: &mut GetSecretValueOutput) -> Option<Zeroizing<String>> {
    drop(answer.secret_binary.take().map(|blob| Zeroizing::new(blob.into_inner())));
    answer.secret_string.take().map(Zeroizing::new)
}

fn document(answer: &mut GetSecretValueOutput) -> Result<KeyDocument, FactorError> {
    let value = value_of(answer).ok_or_else(|| FactorError::Corrupt("the secret's value is no text".to_owned()))?;
    KeyDocument::parse(Form::Environment, &value)
        .map_err(|error| FactorError::Corrupt(format!("the secret's value: {error}")))
}

/// Every failure of Secrets Manager, told apart. What is not known is refused.
fn factor_error<E: ProvideErrorMetadata>(error: &SdkError<E>) -> FactorError {
    match Failure::of(error) {
        Failure::Away(detail) => FactorError::Away(detail),
        Failure::Throttled => FactorError::Throttled,
        Failure::Answered { code, detail } => match code.as_str() {
            // No such secret, or no value under the label.
            "ResourceNotFoundException" => FactorError::Absent(detail),
            "InternalServiceError" => FactorError::Away(detail),
            // AccessDeniedException, DecryptionFailure, InvalidRequestException (the secret is deleted) and their like.
            _ => FactorError::Refused(detail),
        },
    }
}

#[cfg(test)]
mod tests;
