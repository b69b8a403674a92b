//! What is known of credentials and customers, as it is shown: the protocol's field names, short names for its enums, RFC
//! 3339 for its times. Nothing here is a secret.

use serde::Serialize;
use triseal::grpc::v1;

use crate::output::Row;

/// A credential's metadata.
#[derive(Serialize)]
pub(crate) struct Credential {
    customer_id: String,
    credential_id: String,
    kind: String,
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    state_reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_time: Option<String>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    lineage: Option<Lineage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token_expire_time: Option<String>,
}

/// Versions of the three factors.
#[derive(Serialize)]
pub(crate) struct Lineage {
    codebase_version: u32,
    pub(crate) environment_version: u32,
    /// 0 where it is each customer's own.
    #[serde(skip_serializing_if = "is_zero")]
    customer_version: u32,
}

impl Lineage {
    pub(crate) fn codebase(&self) -> u32 {
        self.codebase_version
    }

    pub(crate) fn environment(&self) -> u32 {
        self.environment_version
    }
}

impl From<v1::Lineage> for Lineage {
    fn from(lineage: v1::Lineage) -> Self {
        Self {
            codebase_version: lineage.codebase_version,
            environment_version: lineage.environment_version,
            customer_version: lineage.customer_version,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl From<v1::Credential> for Credential {
    fn from(credential: v1::Credential) -> Self {
        Self {
            customer_id: credential.customer_id,
            credential_id: credential.credential_id,
            kind: short(
                v1::CredentialKind::try_from(credential.kind).map(|kind| kind.as_str_name()),
                "CREDENTIAL_KIND_",
            ),
            state: short(
                v1::CredentialState::try_from(credential.state).map(|state| state.as_str_name()),
                "CREDENTIAL_STATE_",
            ),
            state_reason: credential.state_reason,
            state_time: time(credential.state_time),
            revision: credential.revision,
            lineage: credential.lineage.map(Lineage::from),
            create_time: time(credential.create_time),
            update_time: time(credential.update_time),
            refresh_time: time(credential.refresh_time),
            access_token_expire_time: time(credential.access_token_expire_time),
        }
    }
}

impl Row<7> for Credential {
    const HEADING: [&'static str; 7] = ["CUSTOMER", "CREDENTIAL", "KIND", "STATE", "REVISION", "LINEAGE", "UPDATED"];

    fn row(&self) -> [String; 7] {
        let lineage = self.lineage.as_ref().map(|lineage| {
            format!("{}/{}/{}", lineage.codebase_version, lineage.environment_version, lineage.customer_version)
        });
        [
            self.customer_id.clone(),
            self.credential_id.clone(),
            self.kind.clone(),
            self.state.clone(),
            self.revision.to_string(),
            lineage.unwrap_or_default(),
            self.update_time.clone().unwrap_or_default(),
        ]
    }
}

impl Credential {
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let lineage = self.lineage.as_ref().map(|lineage| {
            format!(
                "codebase {}, environment {}, customer {}",
                lineage.codebase_version, lineage.environment_version, lineage.customer_version
            )
        });
        vec![
            ("customer_id", self.customer_id.clone()),
            ("credential_id", self.credential_id.clone()),
            ("kind", self.kind.clone()),
            ("state", self.state.clone()),
            ("state_reason", self.state_reason.clone()),
            ("state_time", self.state_time.clone().unwrap_or_default()),
            ("revision", self.revision.to_string()),
            ("lineage", lineage.unwrap_or_default()),
            ("create_time", self.create_time.clone().unwrap_or_default()),
            ("update_time", self.update_time.clone().unwrap_or_default()),
            ("refresh_time", self.refresh_time.clone().unwrap_or_default()),
            ("access_token_expire_time", self.access_token_expire_time.clone().unwrap_or_default()),
        ]
    }
}

/// A customer.
#[derive(Serialize)]
pub(crate) struct Customer {
    customer_id: String,
    state: String,
    primary_version: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    key_versions: Vec<KeyVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destroy_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
}

#[derive(Serialize)]
struct Receipt {
    key_versions: u32,
    credentials: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backups_end_time: Option<String>,
}

impl Receipt {
    /// A sentence for whoever asked for the destruction.
    fn sentence(&self) -> String {
        let Self { key_versions, credentials, end_time, backups_end_time } = self;
        match (end_time, backups_end_time) {
            (Some(end), Some(backups)) => format!(
                "{key_versions} key versions and {credentials} credentials erased by {end}; no backup of the service's tables \
                 holds them from {backups} on; other copies are their owner's"
            ),
            (_, _) => format!("{key_versions} key versions erased; credentials are being erased"),
        }
    }
}

#[derive(Serialize)]
struct KeyVersion {
    version: u32,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    kms_key_arn: String,
}

impl From<v1::Customer> for Customer {
    fn from(customer: v1::Customer) -> Self {
        let key_versions = customer.key_versions.into_iter().map(|key| KeyVersion {
            version: key.version,
            state: short(
                v1::CustomerKeyState::try_from(key.state).map(|state| state.as_str_name()),
                "CUSTOMER_KEY_STATE_",
            ),
            create_time: time(key.create_time),
            kms_key_arn: key.kms_key_arn,
        });
        Self {
            customer_id: customer.customer_id,
            state: short(
                v1::CustomerState::try_from(customer.state).map(|state| state.as_str_name()),
                "CUSTOMER_STATE_",
            ),
            primary_version: customer.primary_version,
            key_versions: key_versions.collect(),
            create_time: time(customer.create_time),
            destroy_time: time(customer.destroy_time),
            receipt: customer.receipt.map(|receipt| Receipt {
                key_versions: receipt.key_versions,
                credentials: receipt.credentials,
                end_time: time(receipt.end_time),
                backups_end_time: time(receipt.backups_end_time),
            }),
        }
    }
}

impl Row<4> for Customer {
    const HEADING: [&'static str; 4] = ["CUSTOMER", "STATE", "PRIMARY", "CREATED"];

    fn row(&self) -> [String; 4] {
        [
            self.customer_id.clone(),
            self.state.clone(),
            self.primary_version.to_string(),
            self.create_time.clone().unwrap_or_default(),
        ]
    }
}

impl Customer {
    pub(crate) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("customer_id", self.customer_id.clone()),
            ("state", self.state.clone()),
            ("primary_version", self.primary_version.to_string()),
            ("create_time", self.create_time.clone().unwrap_or_default()),
            ("destroy_time", self.destroy_time.clone().unwrap_or_default()),
        ];
        if let Some(receipt) = &self.receipt {
            fields.push(("receipt", receipt.sentence()));
        }
        for key in &self.key_versions {
            let made = key.create_time.as_ref().map(|time| format!(", made {time}")).unwrap_or_default();
            let wrapped = match key.kms_key_arn.as_str() {
                "" => String::new(),
                arn => format!(", wrapped by {arn}"),
            };
            fields.push(("key_version", format!("{} {}{made}{wrapped}", key.version, key.state)));
        }
        fields
    }
}

/// `CREDENTIAL_KIND_OPAQUE` → `opaque`. What a newer service may send has no name here.
pub(crate) fn short(name: Result<&'static str, prost::UnknownEnumValue>, prefix: &str) -> String {
    match name {
        Ok(name) => name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase(),
        Err(prost::UnknownEnumValue(number)) => format!("unknown_{number}"),
    }
}

/// A time as it is shown.
pub(crate) fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    let shown = jiff::Timestamp::new(time.seconds, time.nanos).map(|time| time.to_string());
    Some(shown.unwrap_or_else(|_| "not a time".to_owned()))
}

#[cfg(test)]
mod tests {
    use triseal::secret::stored::to_timestamp;

    use super::*;

    #[test]
    fn json_has_the_names_of_the_protocol() {
        let credential = Credential::from(v1::Credential {
            customer_id: "acme".to_owned(),
            credential_id: "crm".to_owned(),
            kind: v1::CredentialKind::SalesforceOauth.into(),
            state: v1::CredentialState::NeedsReauth.into(),
            revision: 3,
            lineage: Some(v1::Lineage { codebase_version: 1, environment_version: 2, customer_version: 3 }),
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 500_000_000 }),
            ..Default::default()
        });
        assert_eq!(
            serde_json::to_string(&credential).unwrap(),
            "{\"customer_id\":\"acme\",\"credential_id\":\"crm\",\"kind\":\"salesforce_oauth\",\"state\":\"needs_reauth\",\
             \"revision\":3,\"lineage\":{\"codebase_version\":1,\"environment_version\":2,\"customer_version\":3},\
             \"create_time\":\"1970-01-01T00:00:00.5Z\"}"
        );
    }

    #[test]
    fn what_a_newer_service_sends_is_shown_by_number() {
        let customer = Customer::from(v1::Customer { state: 77, ..Default::default() });
        assert_eq!(customer.state, "unknown_77");
        assert_eq!(time(Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 })).as_deref(), Some("not a time"));
    }

    #[test]
    fn times_survive_both_ways() {
        for text in ["1969-12-31T23:59:58.25Z", "2026-11-24T09:00:00Z"] {
            let sent = to_timestamp(text.parse().unwrap());
            assert!(sent.nanos >= 0);
            assert_eq!(time(Some(sent)).as_deref(), Some(text));
        }
    }
}
