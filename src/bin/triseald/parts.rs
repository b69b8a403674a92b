//! The parts that the settings choose: sources of keys and a store, each by itself, as the ports that the rest of the service knows.

use std::sync::Arc;

use aws_config::SdkConfig;
use triseal::config::{Backend, CustomerFrom, EnvironmentFrom, Settings};
use triseal::factors::kms::KmsWrapper;
use triseal::factors::local::{EnvironmentFile, LocalWrapper};
use triseal::factors::secrets_manager::SecretsManager;
use triseal::factors::{EnvironmentSource, KeyWrapper};
use triseal::keyring::EnvironmentTiming;
use triseal::store::dynamodb::{DynamoCredentials, DynamoCustomers, DynamoOperations, DynamoStore, TableNames};
use triseal::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use triseal::store::{Credentials, Customers, Operations};

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

/// Where environment and customer keys come from.
pub(super) struct Sources {
    pub(super) environment: Arc<dyn EnvironmentSource>,
    pub(super) timing: EnvironmentTiming,
    pub(super) wrapper: Arc<dyn KeyWrapper>,
}

impl Sources {
    /// Reads what stands in files. Nothing is asked of AWS yet.
    pub(super) fn new(settings: &Settings, aws: &Aws) -> Result<Self, Failure> {
        let factors = &settings.factors;
        let wrapper: Arc<dyn KeyWrapper> = match factors.customer {
            CustomerFrom::Kms => {
                let (wrap_with, unwrap_with) = (factors.kms.wrap_with.clone(), factors.kms.unwrap_with.clone());
                Arc::new(KmsWrapper::new(aws.config()?, wrap_with, unwrap_with))
            }
            CustomerFrom::Local => Arc::new(LocalWrapper::open(&factors.local.master_key)?),
        };
        let (environment, poll, max_age): (Arc<dyn EnvironmentSource>, _, _) = match factors.environment {
            EnvironmentFrom::SecretsManager => {
                let secret = &factors.secrets_manager;
                let source = SecretsManager::new(aws.config()?, secret.secret_id.clone());
                (Arc::new(source), secret.poll, secret.max_age)
            }
            EnvironmentFrom::File => {
                let file = &factors.file;
                (Arc::new(EnvironmentFile::new(file.path.clone())), file.poll, file.max_age)
            }
        };
        Ok(Self { environment, timing: EnvironmentTiming { poll, max_age }, wrapper })
    }
}

/// Where everything is kept.
pub(super) struct Store {
    pub(super) credentials: Arc<dyn Credentials>,
    pub(super) customers: Arc<dyn Customers>,
    pub(super) operations: Arc<dyn Operations>,
    /// The file, if it is one: it may fail for good.
    pub(super) file: Option<Arc<EmbeddedStore>>,
}

impl Store {
    /// Opens the file, or names the tables; nothing is asked of AWS yet.
    pub(super) fn new(settings: &Settings, aws: &Aws) -> Result<Self, Failure> {
        Ok(match settings.store.backend {
            Backend::Dynamodb => {
                let store = Arc::new(tables(settings, aws)?);
                Self {
                    credentials: Arc::new(DynamoCredentials(Arc::clone(&store))),
                    customers: Arc::new(DynamoCustomers(Arc::clone(&store))),
                    operations: Arc::new(DynamoOperations(store)),
                    file: None,
                }
            }
            Backend::Embedded => {
                let store = Arc::new(EmbeddedStore::open(&settings.store.embedded.path, &settings.deployment)?);
                Self {
                    credentials: Arc::new(EmbeddedCredentials(Arc::clone(&store))),
                    customers: Arc::new(EmbeddedCustomers(Arc::clone(&store))),
                    operations: Arc::new(EmbeddedOperations(Arc::clone(&store))),
                    file: Some(store),
                }
            }
        })
    }

    /// Ends when the file can't be written any more.
    pub(super) async fn failed(file: Option<Arc<EmbeddedStore>>) {
        match file {
            Some(file) => file.failed().await,
            None => std::future::pending().await,
        }
    }
}

/// The three tables.
pub(super) fn tables(settings: &Settings, aws: &Aws) -> Result<DynamoStore, Failure> {
    let names = &settings.store.dynamodb;
    let names = TableNames {
        credentials: names.credentials_table.clone(),
        customers: names.customers_table.clone(),
        operations: names.operations_table.clone(),
    };
    Ok(DynamoStore::new(aws.config()?, names))
}
