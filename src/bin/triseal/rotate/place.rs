//! Where a key document stands, as the arguments name it, and what is told of what goes wrong there.

use std::path::PathBuf;

use clap::Args;
use triseal::factors::FactorError;
use triseal::factors::document::Form;
use triseal::factors::local::DocumentFile;
use triseal::factors::rotation::{DocumentSource, Fetched, Mark, ReplaceError, Successor};
use triseal::factors::secrets_manager::SecretsManager;

use super::state_of;
use crate::failure::Failure;

/// Where the environment's keys are.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct EnvironmentKeys {
    /// The secret of AWS Secrets Manager, which is changed under your own AWS identity
    #[arg(long, value_name = "ARN")]
    secret: Option<String>,
    /// The file of a service with factors.environment = "file"
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// A key document that is to be changed.
pub(crate) struct Place {
    source: Box<dyn DocumentSource>,
    /// As the command was told of it.
    pub(crate) name: String,
    /// What is to be typed back.
    pub(crate) short_name: String,
    /// The option that names it again.
    pub(crate) option: String,
    at_aws: bool,
}

impl EnvironmentKeys {
    pub(crate) async fn open(self) -> Result<Place, Failure> {
        match (self.secret, self.file) {
            (Some(secret), None) => {
                // The name within an ARN: arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME-XXXXXX.
                let short_name = secret.rsplit(':').next().unwrap_or(&secret).to_owned();
                let source = SecretsManager::new(&triseal::aws::load().await, secret.clone());
                let option = format!("--secret {secret}");
                Ok(Place { source: Box::new(source), name: secret, short_name, option, at_aws: true })
            }
            (None, Some(file)) => Place::file(Form::Environment, file),
            (Some(_), Some(_)) | (None, None) => Err(Failure::usage("name --secret or --file".to_owned())),
        }
    }
}

impl Place {
    pub(crate) fn file(form: Form, path: PathBuf) -> Result<Self, Failure> {
        let short_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let short_name = short_name.ok_or_else(|| Failure::usage("that names no file".to_owned()))?;
        let name = path.to_string_lossy().into_owned();
        let option = format!("--file {name}");
        Ok(Self { source: Box::new(DocumentFile::new(form, path)), name, short_name, option, at_aws: false })
    }

    #[cfg(test)]
    pub(crate) fn of(source: impl DocumentSource + 'static) -> Self {
        let [name, short_name, option] = ["keys", "keys", "--file keys"].map(str::to_owned);
        Self { source: Box::new(source), name, short_name, option, at_aws: false }
    }

    pub(crate) async fn fetch(&self) -> Result<Fetched, Failure> {
        self.source.fetch().await.map_err(|error| self.failure(&error))
    }

    /// Puts a document in the place of the one that was fetched. Where somebody else was faster, it tells what is there now.
    pub(crate) async fn replace(&self, fetched: &Mark, successor: &Successor) -> Result<Mark, Failure> {
        match self.source.replace(fetched, successor).await {
            Ok(mark) => Ok(mark),
            Err(ReplaceError::Changed) => Err(self.changed().await),
            Err(ReplaceError::Source(error)) => Err(self.failure(&error)),
        }
    }

    pub(crate) async fn finish(&self, fetched: &Mark) -> Result<(), Failure> {
        self.source.finish(fetched).await.map_err(|error| self.failure(&error))
    }

    pub(crate) async fn changed(&self) -> Failure {
        let state = match self.source.fetch().await {
            Ok(fetched) => state_of(&fetched.document),
            Err(_) => "the current state can't be read".to_owned(),
        };
        Failure::refused(format!(
            "somebody else has changed the keys, or is about to, and nothing was changed here: {state}"
        ))
        .with_hint("find out who changed it, then run the command again; it resumes")
    }

    fn failure(&self, error: &FactorError) -> Failure {
        let again = "run the same command again: it goes on from what is there";
        // What goes wrong with a file names it.
        let message = if self.at_aws { format!("{}: {error}", self.name) } else { error.to_string() };
        match error {
            FactorError::Absent(_) if self.at_aws => {
                Failure::failed(message).with_hint("is this its name, and the region that of AWS_REGION?")
            }
            FactorError::Absent(_) => Failure::failed(message).with_hint("triseal keygen makes the first version"),
            FactorError::Refused(_) if self.at_aws => Failure::refused(message).with_hint(
                "the identity (AWS_PROFILE) needs secretsmanager:GetSecretValue, PutSecretValue and UpdateSecretVersionStage, and the \
                 use of the secret's KMS key",
            ),
            FactorError::Refused(_) => Failure::refused(message),
            FactorError::Throttled | FactorError::Away(_) => Failure::failed(message).with_hint(again),
            FactorError::Corrupt(_) => {
                Failure::failed(message).with_hint("nothing was changed; docs/FORMAT.md has the form of key documents")
            }
        }
    }
}
