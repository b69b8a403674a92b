//! What `tests/aws/up` started: where it answers, and names that no other test has. Tests that use it are ignored by plain `cargo test`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::Credentials;

use crate::store::dynamodb::{DynamoStore, Table, TableNames};

/// LocalStack: KMS and Secrets Manager.
pub(crate) async fn localstack() -> SdkConfig {
    config("AWS_ENDPOINT_URL").await
}

/// DynamoDB Local.
pub(crate) async fn dynamodb() -> SdkConfig {
    config("AWS_ENDPOINT_URL_DYNAMODB").await
}

async fn config(endpoint: &str) -> SdkConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/aws/env");
    let text = std::fs::read_to_string(path).expect("tests/aws/up has run");
    let values: HashMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |name: &str| values.get(name).unwrap_or_else(|| panic!("{name} stands in .tools/aws/env")).to_string();
    let credentials = Credentials::new(value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"), None, None, "tests");
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(value("AWS_REGION")))
        .endpoint_url(value(endpoint))
        .credentials_provider(credentials)
        .load()
        .await
}

/// A name that begins so and that nothing else has.
pub(crate) fn unique(beginning: &str) -> String {
    format!("{beginning}-{:016x}", getrandom::u64().expect("random numbers"))
}

/// Names of tables that are not there.
pub(crate) fn table_names() -> TableNames {
    let name = unique("test");
    TableNames {
        credentials: format!("{name}-credentials"),
        customers: format!("{name}-customers"),
        operations: format!("{name}-operations"),
    }
}

/// A store on new tables.
pub(crate) async fn tables() -> Arc<DynamoStore> {
    let store = DynamoStore::new(&dynamodb().await, table_names());
    for table in Table::ALL {
        store.create(table).await.expect("a new table");
    }
    Arc::new(store)
}
