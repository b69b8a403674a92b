//! The settings: one TOML file, each key overridable by `TRISEAL__SECTION__KEY` in the environment. An unknown key is an error. The
//! only place that reads the environment.

mod aws;
mod check;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod reading;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, File, FileFormat};
use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, de};

pub use aws::{Dynamodb, Kms, SecretsManager};

use crate::ids::{Deployment, TrustDomain};
use reading::Overrides;

/// All settings, with their defaults. docs/SETTINGS.md describes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Bound into every envelope and every wrapped key.
    #[serde(deserialize_with = "deployment", default = "default_deployment")]
    pub deployment: Deployment,
    /// The two listeners.
    #[serde(default)]
    pub server: Server,
    /// Certificates: required, or else [`Insecure::plaintext`].
    pub tls: Option<Tls>,
    /// Who may do what.
    #[serde(default)]
    pub policy: Policy,
    /// The audit log.
    #[serde(default)]
    pub audit: Audit,
    /// Where the three factors come from.
    #[serde(default)]
    pub factors: Factors,
    /// How long what is known is believed.
    #[serde(default)]
    pub cache: Cache,
    /// Where the ciphertext stands.
    #[serde(default)]
    pub store: Store,
    /// Logs.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Protections that are lifted.
    #[serde(default)]
    pub insecure: Insecure,
}

/// `[server]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port.
    pub listen: SocketAddr,
    /// Address and port of `/livez`, `/readyz` and `/metrics`.
    pub ops_listen: SocketAddr,
    /// Calls under way, at most. Above it, they are refused at once.
    pub max_concurrent_requests: usize,
    /// A connection is asked to end after this time, so that load spreads.
    #[serde(deserialize_with = "duration")]
    pub max_connection_age: Duration,
    /// Calls under way at the end have so long.
    #[serde(deserialize_with = "duration")]
    pub drain: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
            ops_listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, OPS_PORT)),
            max_concurrent_requests: 512,
            max_connection_age: Duration::from_mins(10),
            drain: Duration::from_secs(20),
        }
    }
}

/// `[tls]`: the files are in PEM, and read again when they change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's chain, its own certificate first.
    pub certificate: PathBuf,
    /// Closed to others.
    pub private_key: PathBuf,
    /// The CAs of client certificates.
    pub client_ca: PathBuf,
    /// Their revocation lists.
    pub client_crl: Option<PathBuf>,
    /// Of the callers' SPIFFE ids.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: TrustDomain,
    /// A certificate without URI may name its caller by its one DNS name.
    #[serde(default)]
    pub allow_dns_names: bool,
}

/// `[policy]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// With `*.cedar`, `triseal.cedarschema` and `entities.json`. [`Settings::policy_directory`] knows the default.
    pub directory: Option<PathBuf>,
}

/// `[audit]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Where the entries go.
    pub sink: AuditSink,
    /// For `sink = "file"`: made if it is not there, of mode 0600.
    pub file: PathBuf,
    /// The file is synced so often.
    #[serde(deserialize_with = "duration")]
    pub fsync_interval: Duration,
    /// A call waits for its entry no longer.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// The ARN of the KMS key whose MACs the heads of streams carry.
    pub kms_mac_key: Option<String>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            sink: AuditSink::Stdout,
            file: PathBuf::from("/var/log/triseal/audit.jsonl"),
            fsync_interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            kms_mac_key: None,
        }
    }
}

/// `audit.sink`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AuditSink {
    /// Standard output, on which nothing else is written.
    Stdout,
    /// A file, rotated by size.
    File,
}

/// `[factors]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Factors {
    /// Seals under this version instead of the embedded file's primary.
    pub codebase_primary: Option<NonZeroU32>,
    /// Where the environment keys stand.
    pub environment: EnvironmentFrom,
    /// Who wraps customer keys.
    pub customer: CustomerFrom,
    /// For `environment = "secrets-manager"`.
    pub secrets_manager: SecretsManager,
    /// For `customer = "kms"`.
    pub kms: Kms,
    /// For `environment = "file"`.
    pub file: EnvironmentFile,
    /// For `customer = "local"`.
    pub local: LocalKms,
}

/// `factors.environment`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum EnvironmentFrom {
    /// A secret in AWS Secrets Manager.
    #[default]
    SecretsManager,
    /// A file in the form of the secret.
    File,
}

/// `factors.customer`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum CustomerFrom {
    /// AWS KMS.
    #[default]
    Kms,
    /// A wrapping key in a file: `insecure.local_kms`.
    Local,
}

/// `[factors.file]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnvironmentFile {
    /// Of mode 0600.
    pub path: PathBuf,
    /// Between two readings.
    #[serde(deserialize_with = "duration")]
    pub poll: Duration,
    /// Nothing is sealed with keys that were read longer ago.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
}

impl Default for EnvironmentFile {
    fn default() -> Self {
        Self {
            path: PathBuf::from(".triseal/environment.json"),
            poll: Duration::from_secs(30),
            max_age: Duration::from_mins(15),
        }
    }
}

/// `[factors.local]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalKms {
    /// Of mode 0600.
    pub master_key: PathBuf,
}

impl Default for LocalKms {
    fn default() -> Self {
        Self { master_key: PathBuf::from(".triseal/insecure-local-kms.key") }
    }
}

/// `[cache]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Roots that are kept, at most.
    pub roots: usize,
    /// A root that is used after this is refreshed in the background.
    #[serde(deserialize_with = "duration")]
    pub refresh_after: Duration,
    /// A root is used for no longer.
    #[serde(deserialize_with = "duration")]
    pub max_age: Duration,
    /// A customer's state is believed for so long.
    #[serde(deserialize_with = "duration")]
    pub customer_staleness: Duration,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            roots: 100_000,
            refresh_after: Duration::from_mins(15),
            max_age: Duration::from_mins(60),
            customer_staleness: Duration::from_secs(10),
        }
    }
}

/// `[store]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Which store.
    pub backend: Backend,
    /// For `backend = "dynamodb"`.
    pub dynamodb: Dynamodb,
    /// For `backend = "embedded"`.
    pub embedded: Embedded,
    /// How long backups of the tables are kept: receipts of destroyed customers say from when on none holds them.
    #[serde(deserialize_with = "long_duration")]
    pub backup_retention: SignedDuration,
    /// It was restored from a backup: nothing that is under way in it goes on by itself, neither destructions nor jobs.
    pub restored: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            dynamodb: Dynamodb::default(),
            embedded: Embedded::default(),
            // The longest that DynamoDB's point-in-time recovery goes back.
            backup_retention: SignedDuration::from_hours(24 * 35),
            restored: false,
        }
    }
}

/// `store.backend`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Backend {
    /// Three tables in AWS DynamoDB, for any number of processes.
    #[default]
    Dynamodb,
    /// One file, for one process.
    Embedded,
}

/// `[store.embedded]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Embedded {
    /// Made if it is not there.
    pub path: PathBuf,
}

impl Default for Embedded {
    fn default() -> Self {
        Self { path: PathBuf::from(".triseal/store.redb") }
    }
}

/// `[telemetry]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// What is logged, such as `info`, or `triseal=debug,warn`.
    pub log: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: "info".to_owned() }
    }
}

/// `[insecure]`: each lifts one protection.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Insecure {
    /// No TLS; on loopback only.
    pub plaintext: bool,
    /// Run with the well-known key.
    pub development_codebase_key: bool,
    /// Customer keys under a local file.
    pub local_kms: bool,
}

/// Says which words a setting takes: serde's own message would not.
macro_rules! one_of {
    ($name:ident: $($word:literal => $value:ident),+) => {
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(word: String) -> Result<Self, String> {
                match word.as_str() {
                    $($word => Ok(Self::$value),)+
                    _ => Err(format!("must be one of {:?}", [$($word),+])),
                }
            }
        }
    };
}

one_of!(AuditSink: "stdout" => Stdout, "file" => File);
one_of!(EnvironmentFrom: "secrets-manager" => SecretsManager, "file" => File);
one_of!(CustomerFrom: "kms" => Kms, "local" => Local);
one_of!(Backend: "dynamodb" => Dynamodb, "embedded" => Embedded);

/// The port of the gRPC listener.
pub const PORT: u16 = 7443;
/// The port of the ops listener.
pub const OPS_PORT: u16 = 7480;
/// Where policy stands, unless the settings say otherwise.
const POLICY_DIRECTORY: &str = "/etc/triseal/policy";

/// Why there are no settings to run with. The text names the key and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file can't be read, is no TOML, or has a key that is unknown or of another type.
    #[error("settings: {0}")]
    Unreadable(String),
    /// A value does not go with another.
    #[error("settings: {key}: {problem}")]
    Wrong {
        /// Such as `server.listen`.
        key: &'static str,
        /// What to do about it.
        problem: String,
    },
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// A [`SettingsError`].
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            SettingsError::Unreadable(format!(
                "{} can't be read: {error}: name by --config a TOML file that the service's user may read",
                path.display()
            ))
        })?;
        Self::from_toml(&text, &environment()?).map_err(|error| match error {
            SettingsError::Unreadable(problem) => SettingsError::Unreadable(format!("{}: {problem}", path.display())),
            wrong @ SettingsError::Wrong { .. } => wrong,
        })
    }

    /// What `--dev` stands for: every `insecure.*` setting, the embedded store and local factors below `data`. Each can be taken
    /// back by the environment.
    ///
    /// # Errors
    /// A [`SettingsError`], if the environment overrides something wrongly.
    pub fn dev(data: &Path) -> Result<Self, SettingsError> {
        let below = |name: &str| {
            let path = data.join(name);
            // As a TOML basic string, whose escapes are those of JSON.
            serde_json::to_string(&path)
                .map_err(|_| SettingsError::Wrong { key: "--data", problem: "must be UTF-8".to_owned() })
        };
        let text = format!(
            "deployment = 'dev'\n\
             server.listen = '127.0.0.1:{PORT}'\n\
             server.ops_listen = '127.0.0.1:{OPS_PORT}'\n\
             server.drain = '2s'\n\
             audit = {{ sink = 'file', file = {} }}\n\
             factors = {{ environment = 'file', customer = 'local', file.path = {}, local.master_key = {} }}\n\
             store = {{ backend = 'embedded', embedded.path = {} }}\n\
             insecure = {{ plaintext = true, development_codebase_key = true, local_kms = true }}\n",
            below("audit.jsonl")?,
            below("environment.json")?,
            below("insecure-local-kms.key")?,
            below("store.redb")?,
        );
        Self::from_toml(&text, &environment()?)
    }

    fn from_toml(text: &str, environment: &Overrides) -> Result<Self, SettingsError> {
        check_toml(text)?;
        Config::builder()
            .add_source(File::from_str(text, FileFormat::Toml))
            .add_source(environment.source())
            .build()
            .and_then(Config::try_deserialize)
            .map_err(|error| environment.told(error))
    }

    /// Where policy stands. `None` without TLS, unless a directory is named: nobody can tell then who calls, and policy is the
    /// built-in one for development.
    pub fn policy_directory(&self) -> Option<&Path> {
        match &self.policy.directory {
            Some(directory) => Some(directory),
            None if self.insecure.plaintext => None,
            None => Some(Path::new(POLICY_DIRECTORY)),
        }
    }

    /// Whether any part of it is AWS's.
    pub fn uses_aws(&self) -> bool {
        self.factors.environment == EnvironmentFrom::SecretsManager
            || self.factors.customer == CustomerFrom::Kms
            || self.store.backend == Backend::Dynamodb
            || self.audit.kms_mac_key.is_some()
    }
}

/// `TRISEAL__SECTION__KEY`. Values are texts until their setting's type is known: a deployment `007` is no number.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
fn environment() -> Result<Overrides, SettingsError> {
    Overrides::of(std::env::vars_os())
}

/// Tells where a text stops being TOML, and not what stands there: a key file given by mistake is none.
fn check_toml(text: &str) -> Result<(), SettingsError> {
    let Err(error) = text.parse::<toml::Table>() else { return Ok(()) };
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    Err(SettingsError::Unreadable(format!("it is no TOML from line {line} on: docs/SETTINGS.md shows the form")))
}

fn default_deployment() -> Deployment {
    #[expect(clippy::expect_used, reason = "a constant")]
    Deployment::parse("production").expect("an id")
}

fn deployment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Deployment, D::Error> {
    let text = String::deserialize(deserializer)?;
    Deployment::parse(&text).map_err(de::Error::custom)
}

fn trust_domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    let text = String::deserialize(deserializer)?;
    TrustDomain::parse(&text).map_err(de::Error::custom)
}

/// Such as `500ms`, `20s` or `15m`; from 1 ms to 30 days.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .filter(|duration| (Duration::from_millis(1)..=Duration::from_hours(24 * 30)).contains(duration))
        .ok_or_else(|| de::Error::custom("must be a time from 1ms to 720h, such as \"500ms\", \"20s\" or \"15m\""))
}

/// Such as `840h`; up to ten years, and perhaps none.
fn long_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SignedDuration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = text.parse::<SignedDuration>().ok();
    parsed
        .filter(|duration| (SignedDuration::ZERO..=SignedDuration::from_hours(24 * 3_650)).contains(duration))
        .ok_or_else(|| de::Error::custom("must be a time from 0s to 87600h, such as \"840h\""))
}

#[cfg(test)]
mod tests;
