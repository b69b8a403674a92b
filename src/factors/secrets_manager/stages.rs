//! How the secret is changed, by whoever rotates the environment key: under the operator's own identity, never the service's.
//!
//! A new value is put as AWSPENDING, read back by its VersionId and compared, and moved to AWSCURRENT on the condition that this is still the
//! version that was read; then AWSPENDING is taken off. So there is the old value or the new one, whenever this stops, and of two operators
//! one succeeds. A version that is both current and pending is a change that took effect and was not quite finished.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use subtle::ConstantTimeEq;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::{CURRENT, SecretsManager, document, factor_error, value_of};
use crate::factors::FactorError;
use crate::factors::document::Form;
use crate::factors::rotation::{DocumentSource, Fetched, Mark, ReplaceError, Successor};

const PENDING: &str = "AWSPENDING";
const PREVIOUS: &str = "AWSPREVIOUS";
/// Pauses before a version that was put a moment ago is read again: Secrets Manager has no consistent read.
const READ_AGAIN: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

#[async_trait]
impl DocumentSource for SecretsManager {
    async fn fetch(&self) -> Result<Fetched, FactorError> {
        let mut current = self.under(CURRENT).await?;
        let is_pending = current.version_stages().iter().any(|stage| stage == PENDING);
        let document = document(&mut current)?;
        let former_primary = if is_pending { self.former_primary().await? } else { None };
        Ok(Fetched { document, mark: Mark::new(Zeroizing::new(version_id(&current)?)), former_primary })
    }

    async fn replace(&self, fetched: &Mark, successor: &Successor) -> Result<Mark, ReplaceError> {
        let before = fetched.expose_secret();
        let text = successor.document().to_json(Form::Environment);
        let pending = self.put_pending(&text).await?;
        self.compare(&pending, &text).await?;
        let moved = self.move_stage(CURRENT, before, Some(&pending)).await;
        if let Err(failure) = moved {
            // It may have been moved, and only the answer was lost: also where the SDK has asked again, and was refused.
            let current = self.under(CURRENT).await.and_then(|current| version_id(&current))?;
            if current != pending {
                // Nobody needs it. If it stays, the next change takes its label.
                let _ = self.move_stage(PENDING, &pending, None).await;
                return Err(if current == before { failure.into() } else { ReplaceError::Changed });
            }
        }
        let mark = Mark::new(Zeroizing::new(pending));
        self.finish(&mark).await?;
        Ok(mark)
    }

    async fn finish(&self, fetched: &Mark) -> Result<(), FactorError> {
        match self.move_stage(PENDING, fetched.expose_secret(), None).await {
            // It is not there: another operator has put a value of their own since.
            Ok(()) | Err(FactorError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl SecretsManager {
    /// Of the value before the present one. `None`: there is none that can be read.
    async fn former_primary(&self) -> Result<Option<u32>, FactorError> {
        match self.under(PREVIOUS).await {
            Ok(mut previous) => Ok(document(&mut previous).ok().map(|document| document.primary)),
            Err(FactorError::Absent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Under a token that the SDK makes, so that its retries put one version.
    async fn put_pending(&self, text: &Zeroizing<String>) -> Result<String, FactorError> {
        let request = self.client.put_secret_value().secret_id(&self.secret_id);
        // The SDK's copy is wiped by the allocator of the program.
        let put = request.secret_string(text.as_str()).version_stages(PENDING).send().await;
        let put = put.map_err(|error| factor_error(&error))?;
        put.version_id.ok_or_else(|| FactorError::Corrupt("an answer without a VersionId".to_owned()))
    }

    /// Reads a version back, and compares it with what was put.
    async fn compare(&self, version: &str, text: &Zeroizing<String>) -> Result<(), FactorError> {
        let mut pauses = READ_AGAIN.iter();
        loop {
            let request = self.client.get_secret_value().secret_id(&self.secret_id).version_id(version);
            match request.send().await.map_err(|error| factor_error(&error)) {
                Ok(mut read) => {
                    let same = value_of(&mut read).is_some_and(|read| read.as_bytes().ct_eq(text.as_bytes()).into());
                    let differs = || FactorError::Corrupt("what was put is read back otherwise".to_owned());
                    return if same { Ok(()) } else { Err(differs()) };
                }
                Err(FactorError::Absent(detail)) => match pauses.next() {
                    Some(pause) => sleep(*pause).await,
                    None => return Err(FactorError::Away(detail)),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a label from one version, and gives it to another, or to none.
    async fn move_stage(&self, stage: &str, from: &str, to: Option<&str>) -> Result<(), FactorError> {
        let request = self.client.update_secret_version_stage().secret_id(&self.secret_id).version_stage(stage);
        let request = request.remove_from_version_id(from).set_move_to_version_id(to.map(str::to_owned));
        request.send().await.map(|_| ()).map_err(|error| factor_error(&error))
    }
}

fn version_id(read: &GetSecretValueOutput) -> Result<String, FactorError> {
    read.version_id.clone().ok_or_else(|| FactorError::Corrupt("an answer without a VersionId".to_owned()))
}

#[cfg(test)]
mod tests;
