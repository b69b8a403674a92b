//! The parts that the settings choose: sources of keys and a store, each by itself, as the ports that the rest of the service knows.

use std::sync::Arc;

use aws_config::SdkConfig;
use triseal::config::{Backend, CustomerFrom, EnvironmentFrom, Settings};
use triseal::factors::kms::KmsWrapper;
use triseal::factors::local::{EnvironmentFile, LocalWrapper};
use triseal::factors::secrets_manager::SecretsManager;
use triseal::factors::{EnvironmentSource, KeyWrapper};
use triseal::keyring::EnvironmentTiming;
use triseal::observed::Observed;
use triseal::store::dynamodb::{DynamoCredentials, DynamoCustomers, DynamoOperations, DynamoStore, TableNames};
use triseal::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};
use triseal::store::{Credentials, Customers, Operations};
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

/// Where environment and customer keys come from.
pub(super) struct Sources {
    pub(super) environment: Arc<dyn EnvironmentSource>,
    pub(super) timing: EnvironmentTiming,
    pub(super) wrapper: Arc<dyn KeyWrapper>,
}

impl Sources {
    /// Reads what stands in files. Nothing is asked of AWS yet. What is asked later is told to these dependencies.
    pub(super) fn new(
        settings: &Settings,
        aws: &Aws,
        environment_state: &Arc<Dependency>,
        wrapper_state: &Arc<Dependency>,
    ) -> Result<Self, Failure> {
        let factors = &settings.factors;
        let wrapper: Arc<dyn KeyWrapper> = match factors.customer {
            CustomerFrom::Kms => {
                let (wrap_with, unwrap_with) = (factors.kms.wrap_with.clone(), factors.kms.unwrap_with.clone());
                Arc::new(Observed::new(KmsWrapper::new(aws.config()?, wrap_with, unwrap_with), wrapper_state))
            }
            CustomerFrom::Local => {
                Arc::new(Observed::new(LocalWrapper::open(&factors.local.master_key)?, wrapper_state))
            }
        };
        let (environment, poll, max_age): (Arc<dyn EnvironmentSource>, _, _) = match factors.environment {
            EnvironmentFrom::SecretsManager => {
                let secret = &factors.secrets_manager;
                let source = SecretsManager::new(aws.config()?, secret.secret_id.clone());
                (Arc::new(Observed::new(source, environment_state)), secret.poll, secret.max_age)
            }
            EnvironmentFrom::File => {
                let file = &factors.file;
                let source = EnvironmentFile::new(file.path.clone());
                (Arc::new(Observed::new(source, environment_state)), file.poll, file.max_age)
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
    /// Opens the file, or names the tables; nothing is asked of AWS yet. What is asked later is told to this dependency.
    pub(super) fn new(settings: &Settings, aws: &Aws, state: &Arc<Dependency>) -> Result<Self, Failure> {
        Ok(match settings.store.backend {
            Backend::Dynamodb => {
                let store = Arc::new(tables(settings, aws)?);
                Self {
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
    let names = &settings.store.dynamodb;
    let names = TableNames {
        credentials: names.credentials_table.clone(),
        customers: names.customers_table.clone(),
        operations: names.operations_table.clone(),
    };
    Ok(DynamoStore::new(aws.config()?, names))
}
