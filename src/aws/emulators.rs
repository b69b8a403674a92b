//! What `tests/aws/up` started: where it answers, and names that no other test has. Tests that use it are ignored by plain `cargo test`.
//!
//! The integration tests include this file, too: it uses nothing of the crate.

use std::collections::HashMap;
use std::path::Path;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::Credentials;

/// LocalStack: KMS and Secrets Manager.
pub(crate) async fn localstack() -> SdkConfig {
    config("AWS_ENDPOINT_URL").await
}

/// DynamoDB Local.
pub(crate) async fn dynamodb() -> SdkConfig {
    config("AWS_ENDPOINT_URL_DYNAMODB").await
}

/// The SDK's settings, as `tests/aws/up` wrote them.
pub(crate) fn variables() -> HashMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/aws/env");
    let text = std::fs::read_to_string(path).expect("tests/aws/up has run");
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

async fn config(endpoint: &str) -> SdkConfig {
    let variables = variables();
    let value = |name: &str| variables.get(name).unwrap_or_else(|| panic!("{name} stands in .tools/aws/env")).clone();
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
