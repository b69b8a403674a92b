//! The parts that the settings choose: sources of keys and a store, each by itself, as the ports that the rest of the service knows.

use std::sync::Arc;

use aws_config::SdkConfig;
use triseal::audit::heads::CheckpointMac;
use triseal::config::{Backend, CustomerFrom, EnvironmentFile, EnvironmentFrom, SecretsManager, Settings};
use triseal::factors::kms::{KmsMac, KmsWrapper};
use triseal::factors::local::{self, KeyFileError, LocalWrapper};
use triseal::factors::{EnvironmentSource, FactorError, KeyWrapper, secrets_manager};
use triseal::keyring::{EnvironmentTiming, FingerprintError};
use triseal::observed::Observed;
use triseal::store::dynamodb::{DynamoCredentials, DynamoCustomers, DynamoOperations, DynamoStore};
use triseal::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use triseal::store::{ChangeError, Credentials, Customers, Operations, StoreClock, StoreError};
use triseal::telemetry::dependency::Dependency;

use super::Failure;

/// What the SDK needs, if any part is AWS's.
pub(super) struct Aws(Option<SdkConfig>);

impl Aws {
    pub(super) async fn load(settings: &Settings) -> Result<Self, Failure> {
        if !settings.uses_aws() {
            return Ok(Self(None));
        }
        let config = triseal::aws::load().await;
        if config.region().is_none_or(|region| region.as_ref().is_empty()) {
            return Err("no AWS region is set: set AWS_REGION, or AWS_PROFILE to a profile that has one".into());
        }
        Ok(Self(Some(config)))
    }

    fn config(&self) -> Result<&SdkConfig, Failure> {
        self.0.as_ref().ok_or_else(|| "the settings use no AWS".into())
    }
}

/// What signs the heads of audit streams, if the settings name a key for it.
pub(super) fn checkpoint_mac(settings: &Settings, aws: &Aws) -> Result<Option<Arc<dyn CheckpointMac>>, Failure> {
    let Some(key) = &settings.audit.kms_mac_key else { return Ok(None) };
    Ok(Some(Arc::new(KmsMac::new(aws.config()?, key.clone()))))
}

/// Who wraps customer keys. A key in a file is read; nothing is asked of AWS yet. What is asked later is told to this dependency.
pub(super) fn wrapper(settings: &Settings, aws: &Aws, state: &Arc<Dependency>) -> Result<Arc<dyn KeyWrapper>, Failure> {
    let factors = &settings.factors;
    Ok(match factors.customer {
        CustomerFrom::Kms => {
            let (wrap_with, unwrap_with) = (factors.kms.wrap_with.clone(), factors.kms.unwrap_with.clone());
            Arc::new(Observed::new(KmsWrapper::new(aws.config()?, wrap_with, unwrap_with), state))
        }
        CustomerFrom::Local => {
            let wrapper = LocalWrapper::open(&factors.local.master_key).map_err(no_wrapping_key)?;
            Arc::new(Observed::new(wrapper, state))
        }
    })
}

/// Where the environment keys stand, and how often they are read. Nothing is read yet. What is read later is told to this dependency.
pub(super) fn environment(
    settings: &Settings,
    aws: &Aws,
    state: &Arc<Dependency>,
) -> Result<(Arc<dyn EnvironmentSource>, EnvironmentTiming), Failure> {
    let factors = &settings.factors;
    Ok(match factors.environment {
        EnvironmentFrom::SecretsManager => {
            let SecretsManager { secret_id, poll, max_age } = &factors.secrets_manager;
            let source = secrets_manager::SecretsManager::new(aws.config()?, secret_id.clone());
            (Arc::new(Observed::new(source, state)), EnvironmentTiming { poll: *poll, max_age: *max_age })
        }
        EnvironmentFrom::File => {
            let EnvironmentFile { path, poll, max_age } = &factors.file;
            let source = local::EnvironmentFile::new(path.clone());
            (Arc::new(Observed::new(source, state)), EnvironmentTiming { poll: *poll, max_age: *max_age })
        }
    })
}

/// What to do about the file of the wrapping key.
fn no_wrapping_key(error: KeyFileError) -> Failure {
    let advice = match &error {
        KeyFileError::Absent(_) => {
            "put the file back, or for a new store make one of mode 0600 (openssl rand -base64 32), \
             and name it in factors.local.master_key"
        }
        KeyFileError::Io(..)
        | KeyFileError::OpenToOthers(..)
        | KeyFileError::NotAKeyFile(..)
        | KeyFileError::Document(..) => "mend it, or name the right file in factors.local.master_key",
    };
    format!("{error}: {advice}").into()
}

/// What to do about the environment keys.
pub(super) fn no_environment_keys(settings: &Settings, error: &FactorError) -> Failure {
    let advice = match (settings.factors.environment, error) {
        (EnvironmentFrom::File, FactorError::Absent(_)) => {
            "put the file back, or for a new deployment make one by `triseal keygen environment FILE`, \
             and name it in factors.file.path"
        }
        (EnvironmentFrom::File, _) => "mend it, or name the right file in factors.file.path",
        (EnvironmentFrom::SecretsManager, FactorError::Absent(_)) => {
            "name the right secret in factors.secrets_manager.secret_id, or for a new deployment put a document into it \
             that `triseal keygen environment FILE` made (deploy/README.md, step 3)"
        }
        (EnvironmentFrom::SecretsManager, FactorError::Refused(_)) => {
            "the service's role needs secretsmanager:GetSecretValue on it, and kms:Decrypt on the key of the secret"
        }
        (EnvironmentFrom::SecretsManager, FactorError::Corrupt(_)) => {
            "move AWSCURRENT back to the former version (aws secretsmanager update-secret-version-stage), \
             under the security team's role"
        }
        (EnvironmentFrom::SecretsManager, FactorError::Throttled | FactorError::Away(_)) => {
            "start again when Secrets Manager answers; `triseald check` tells whether it does"
        }
    };
    match settings.factors.environment {
        EnvironmentFrom::File => format!("{error}: {advice}").into(),
        EnvironmentFrom::SecretsManager => format!("the environment keys can't be read: {error}: {advice}").into(),
    }
}

/// What to do about fingerprints that are not the store's, or a store that does not tell them.
pub(super) fn not_compared(error: &FingerprintError) -> Failure {
    let advice = match error {
        FingerprintError::Store(ChangeError::Store(StoreError::Absent(_))) => {
            "make it by deploy/cloudformation/tables.yaml (for development, by `triseal tables create`), \
             or name the right one in store.dynamodb"
        }
        FingerprintError::Store(ChangeError::Store(StoreError::Refused(_))) => {
            "`triseald check` tells which permission is missing"
        }
        FingerprintError::Store(
            ChangeError::Concurrent
            | ChangeError::Store(
                StoreError::Away(_) | StoreError::Throttled | StoreError::Newer | StoreError::Corrupt(_),
            ),
        )
        | FingerprintError::Mismatch { .. }
        | FingerprintError::Lost { .. }
        | FingerprintError::NoRandomness(_) => return error.to_string().into(),
    };
    format!("{error}: {advice}").into()
}

/// Where everything is kept.
pub(super) struct Store {
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) customers: Arc<dyn Customers>,
    pub(super) operations: Arc<dyn Operations>,
    /// The file, if it is one: it may fail for good.
    pub(super) file: Option<Arc<EmbeddedStore>>,
    /// What it says of the time, if it says anything.
    pub(super) clock: Option<Arc<StoreClock>>,
}

impl Store {
    /// Opens the file, or names the tables; nothing is asked of AWS yet. What is asked later is told to this dependency.
    pub(super) fn new(settings: &Settings, aws: &Aws, state: &Arc<Dependency>) -> Result<Self, Failure> {
        Ok(match settings.store.backend {
            Backend::Dynamodb => {
                let store = Arc::new(tables(settings, aws)?);
                Self {
                    clock: Some(store.clock()),
                    credentials: Arc::new(Observed::new(DynamoCredentials(Arc::clone(&store)), state)),
                    customers: Arc::new(Observed::new(DynamoCustomers(Arc::clone(&store)), state)),
                    operations: Arc::new(Observed::new(DynamoOperations(store), state)),
                    file: None,
                }
            }
            Backend::Embedded => {
                let store = Arc::new(EmbeddedStore::open(&settings.store.embedded.path, &settings.deployment)?);
                Self {
                    credentials: Arc::new(Observed::new(EmbeddedCredentials(Arc::clone(&store)), state)),
                    customers: Arc::new(Observed::new(EmbeddedCustomers(Arc::clone(&store)), state)),
                    operations: Arc::new(Observed::new(EmbeddedOperations(Arc::clone(&store)), state)),
                    file: Some(store),
                    clock: None,
                }
            }
        })
    }

    /// Ends when the file can't be written any more.
    pub(super) async fn failed(file: Option<&EmbeddedStore>) {
        match file {
            Some(file) => file.failed().await,
            None => std::future::pending().await,
        }
    }
}

/// The three tables.
pub(super) fn tables(settings: &Settings, aws: &Aws) -> Result<DynamoStore, Failure> {
    Ok(DynamoStore::new(aws.config()?, (&settings.store.dynamodb).into()))
}
