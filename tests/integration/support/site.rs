//! Where a service keeps its things, so that one suite runs on each kind: below a directory (`--dev`), or on the three AWS parts that
//! `tests/aws/up` started. Each site has keys, a secret and tables that no other test has.

use std::collections::HashMap;
use std::path::PathBuf;

use base64ct::{Base64, Encoding};
use tempfile::TempDir;
use tokio::process::Command;
use triseal::grpc::v1;
use triseal::store::dynamodb::{DynamoStore, Table, TableNames};

use super::{Service, dev, program};

#[path = "../../../src/aws/emulators.rs"]
mod emulators;

/// Environment keys from version 1 to `versions`, always the same ones.
pub(crate) fn environment(versions: u8, primary: u8) -> String {
    environment_of((1..=versions).map(|version| (version, 100 + version)), primary)
}

/// Environment keys of these versions, each the repetition of an octet.
pub(crate) fn environment_of(keys: impl IntoIterator<Item = (u8, u8)>, primary: u8) -> String {
    let key =
        |(version, octet)| format!(r#"{{"version": {version}, "key": "{}"}}"#, Base64::encode_string(&[octet; 32]));
    let keys: Vec<_> = keys.into_iter().map(key).collect();
    format!(r#"{{"format": "triseal-environment-keys/v1", "primary": {primary}, "keys": [{}]}}"#, keys.join(", "))
}

/// Where a service keeps its things.
pub(crate) enum Site {
    /// Below a directory.
    Embedded(TempDir),
    /// At AWS.
    Aws(Box<Aws>),
}

impl Site {
    pub(crate) fn embedded() -> Self {
        Self::Embedded(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) async fn aws() -> Self {
        Self::Aws(Box::new(Aws::new().await))
    }

    /// Starts a service here, with the customer `demo`.
    pub(crate) async fn start(&self) -> Service {
        self.start_with(&[]).await
    }

    /// The service on this site.
    pub(crate) fn command(&self) -> Command {
        match self {
            Self::Embedded(folder) => dev(&folder.path().join("data")),
            Self::Aws(aws) => aws.command(),
        }
    }

    /// The same under some more variables.
    pub(crate) async fn start_with(&self, variables: &[(&str, &str)]) -> Service {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        let service = Service::start(command).await;
        if let Self::Aws(_) = self {
            // --dev makes it by itself.
            let demo = v1::CreateCustomerRequest { customer_id: "demo".into() };
            service.customers().create_customer(demo).await.expect("the customer demo");
        }
        service
    }
}

/// Declares each test for both sites.
macro_rules! on_both_sites {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::support::site::Site::embedded()).await;
            })+
        }

        mod aws {
            $(#[tokio::test]
            #[ignore = "needs tests/aws/up"]
            async fn $name() {
                super::$name(&crate::support::site::Site::aws().await).await;
            })+
        }
    };
}
pub(crate) use on_both_sites;

/// A KMS key, a secret and three tables, and the settings that name them.
pub(crate) struct Aws {
    folder: TempDir,
    /// The SDK's settings, as `tests/aws/up` wrote them.
    variables: HashMap<String, String>,
    pub(crate) kms: aws_sdk_kms::Client,
    pub(crate) secrets: aws_sdk_secretsmanager::Client,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) key: String,
    pub(crate) secret: String,
    pub(crate) tables: TableNames,
}

impl Aws {
    pub(crate) async fn new() -> Self {
        let site = Self::without_tables().await;
        let store = DynamoStore::new(&emulators::dynamodb().await, site.tables.clone());
        for table in Table::ALL {
            store.create(table).await.expect("a new table");
        }
        site
    }

    /// With names of tables that are not there.
    pub(crate) async fn without_tables() -> Self {
        let (localstack, dynamodb) = (emulators::localstack().await, emulators::dynamodb().await);
        let (kms, secrets) = (aws_sdk_kms::Client::new(&localstack), aws_sdk_secretsmanager::Client::new(&localstack));
        let name = emulators::unique("test");
        let key =
            kms.create_key().send().await.expect("a KMS key").key_metadata.expect("its metadata").arn.expect("its ARN");
        let secret =
            secrets.create_secret().name(&name).secret_string(environment(1, 1)).send().await.expect("a secret");
        let tables = TableNames {
            credentials: format!("{name}-credentials"),
            customers: format!("{name}-customers"),
            operations: format!("{name}-operations"),
        };
        let site = Self {
            folder: tempfile::tempdir().expect("a folder"),
            variables: emulators::variables(),
            kms,
            secrets,
            dynamodb: aws_sdk_dynamodb::Client::new(&dynamodb),
            key,
            secret: secret.arn.expect("its ARN"),
            tables,
        };
        std::fs::write(site.settings(), site.toml()).expect("settings");
        site
    }

    fn toml(&self) -> String {
        format!(
            "deployment = 'test'\n\
             server = {{ listen = '127.0.0.1:0', ops_listen = '127.0.0.1:0', drain = '2s' }}\n\
             factors.secrets_manager.secret_id = '{}'\n\
             factors.kms.wrap_with = '{}'\n\
             store.dynamodb = {{ credentials_table = '{}', customers_table = '{}', operations_table = '{}' }}\n\
             insecure = {{ plaintext = true, development_codebase_key = true }}\n",
            self.secret, self.key, self.tables.credentials, self.tables.customers, self.tables.operations
        )
    }

    /// The settings file.
    pub(crate) fn settings(&self) -> PathBuf {
        self.folder.path().join("triseald.toml")
    }

    /// The service on this site.
    pub(crate) fn command(&self) -> Command {
        self.triseald(&["--config", self.settings().to_str().expect("a path in UTF-8")])
    }

    /// Any call of `triseald` with this site's AWS.
    pub(crate) fn triseald(&self, arguments: &[&str]) -> Command {
        self.with_aws(program(env!("CARGO_BIN_EXE_triseald"), arguments))
    }

    /// Any call of `triseal` with this site's AWS.
    pub(crate) fn triseal(&self, arguments: &[&str]) -> Command {
        self.with_aws(program(env!("CARGO_BIN_EXE_triseal"), arguments))
    }

    /// Any program with this site's AWS.
    pub(crate) fn with_aws(&self, mut command: Command) -> Command {
        // No profile and no role of the machine's.
        command.envs(&self.variables).env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
        command
    }

    /// Host and port of LocalStack, and of DynamoDB Local.
    pub(crate) fn endpoints(&self) -> [String; 2] {
        ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB"]
            .map(|name| self.variables[name].trim_start_matches("http://").trim_end_matches('/').to_owned())
    }

    /// Puts another value into the secret.
    pub(crate) async fn put_secret(&self, value: &str) {
        self.secrets.put_secret_value().secret_id(&self.secret).secret_string(value).send().await.expect("a new value");
    }
}
