//! The settings of the three AWS parts: which secret, which KMS keys, which tables. Region, credentials and endpoints are the SDK's own
//! settings and not here.

use std::time::Duration;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::check::wrong;
use super::{SettingsError, duration};

/// `[factors.secrets_manager]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsManager {
    /// The ARN of the secret.
    pub secret_id: String,
    /// Between two readings.
    #[serde(deserialize_with = "duration")]
    pub poll: Duration,
    /// Nothing is sealed with keys that were read longer ago.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
}

impl Default for SecretsManager {
    fn default() -> Self {
        Self { secret_id: String::new(), poll: Duration::from_secs(30), max_age: Duration::from_mins(15) }
    }
}

/// `[factors.kms]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kms {
    /// The ARN of the KMS key that wraps new customer keys.
    pub wrap_with: String,
    /// ARNs of former ones, until the customer keys are wrapped anew.
    #[serde(deserialize_with = "texts")]
    pub unwrap_with: Vec<String>,
}

/// `[store.dynamodb]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dynamodb {
    /// Sealed credentials.
    pub credentials_table: String,
    /// Customers and their wrapped keys.
    pub customers_table: String,
    /// The service's own records.
    pub operations_table: String,
}

impl Default for Dynamodb {
    fn default() -> Self {
        Self {
            credentials_table: "triseal-credentials".to_owned(),
            customers_table: "triseal-customers".to_owned(),
            operations_table: "triseal-operations".to_owned(),
        }
    }
}

impl SecretsManager {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        if !is_arn(&self.secret_id, "secretsmanager", "secret:") {
            return wrong("factors.secrets_manager.secret_id", "must be the secret's ARN, arn:aws:secretsmanager:…");
        }
        if self.poll * 2 > self.max_age {
            return wrong("factors.secrets_manager.poll", "must be at most half of factors.secrets_manager.max_age");
        }
        Ok(())
    }
}

impl Kms {
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        check_key("factors.kms.wrap_with", &self.wrap_with)?;
        self.unwrap_with.iter().try_for_each(|arn| check_key("factors.kms.unwrap_with", arn))
    }
}

/// An alias could be moved to another key, under which nothing would unwrap and no MAC be right.
pub(super) fn check_key(setting: &'static str, arn: &str) -> Result<(), SettingsError> {
    if !is_arn(arn, "kms", "key/") {
        return wrong(setting, "must be the ARN of a KMS key, arn:aws:kms:…:key/…, and no alias");
    }
    Ok(())
}

impl Dynamodb {
    /// The rules for names of
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html>.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let names = [
            ("store.dynamodb.credentials_table", &self.credentials_table),
            ("store.dynamodb.customers_table", &self.customers_table),
            ("store.dynamodb.operations_table", &self.operations_table),
        ];
        for (index, (key, name)) in names.iter().enumerate() {
            let plain = name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_-.".contains(&octet));
            if !plain || !(3..=255).contains(&name.len()) {
                return wrong(key, "must be a table's name: 3 to 255 of A-Z a-z 0-9 _ - .");
            }
            if names[..index].iter().any(|(_, other)| other == name) {
                return wrong(key, "must be a table of its own");
            }
        }
        Ok(())
    }
}

/// `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`, all of it there.
fn is_arn(text: &str, service: &str, resource: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, of, region, account, rest] = parts[..] else { return false };
    let named = rest.strip_prefix(resource).is_some_and(|name| !name.is_empty());
    let visible = text.bytes().all(|octet| octet.is_ascii_graphic());
    let account = account.len() == 12 && account.bytes().all(|octet| octet.is_ascii_digit());
    arn == "arn" && partition.starts_with("aws") && of == service && !region.is_empty() && account && named && visible
}

/// A list of texts; in the environment, one text with commas.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;

    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(text.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Vec<String>, A::Error> {
            let mut list = Vec::new();
            while let Some(text) = texts.next_element()? {
                list.push(text);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(Texts)
}
