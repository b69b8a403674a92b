//! Whether the settings go together: one function a section, in the order in which a person is told. Those of the AWS parts stand with
//! them, in `aws`. Nothing is looked at but the values: whether a file is there, whoever opens it tells.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::aws::check_key;
use super::{
    Audit, Backend, Cache, CustomerFrom, EnvironmentFile, EnvironmentFrom, Factors, Insecure, Server, Settings,
    SettingsError, Store, Telemetry,
};

/// What a call waits for its audit entry, at most.
const LONGEST_AUDIT_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be lost with the machine's power, at most.
const LONGEST_FSYNC_INTERVAL: Duration = Duration::from_mins(1);

impl Settings {
    /// Whether the values go together, and with what this release can do. Those of parts that are not chosen are not looked at.
    ///
    /// # Errors
    /// The first [`SettingsError::Wrong`].
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_paths()?;
        self.telemetry.check()?;
        self.check_tls()?;
        self.server.check()?;
        self.audit.check()?;
        self.factors.check(&self.insecure)?;
        self.store.check()?;
        self.cache.check()
    }

    fn check_paths(&self) -> Result<(), SettingsError> {
        let paths = [
            ("factors.file.path", &self.factors.file.path),
            ("factors.local.master_key", &self.factors.local.master_key),
            ("store.embedded.path", &self.store.embedded.path),
        ];
        let of_tls = self.tls.iter().map(|tls| ("tls.private_key", &tls.private_key));
        for (key, path) in paths.into_iter().chain(of_tls) {
            if looks_like_a_key(path) {
                return wrong(key, "must be a file's path, and looks like a key: put the key into a file of mode 0600");
            }
        }
        Ok(())
    }

    /// Certificates, or plaintext on loopback: one or the other.
    fn check_tls(&self) -> Result<(), SettingsError> {
        match (&self.tls, self.insecure.plaintext) {
            (Some(_), false) => Ok(()),
            (Some(_), true) => wrong("insecure.plaintext", "must be false, or [tls] not there: it is one or the other"),
            (None, false) => wrong("tls", TLS_MISSING),
            (None, true) if is_loopback(self.server.listen.ip()) => Ok(()),
            (None, true) => wrong("server.listen", "must be a loopback address, such as 127.0.0.1:7443, without TLS"),
        }
    }
}

const TLS_MISSING: &str = "is required, with certificate, private_key, client_ca and trust_domain (docs/TLS.md); \
                           or insecure.plaintext = true, for development on loopback";

impl Telemetry {
    fn check(&self) -> Result<(), SettingsError> {
        if !is_log_filter(&self.log) {
            return wrong(
                "telemetry.log",
                "must be one of error, warn, info, debug, trace, off, or name targets with one: triseal=debug,warn",
            );
        }
        Ok(())
    }
}

impl Server {
    fn check(&self) -> Result<(), SettingsError> {
        if !(1..=100_000).contains(&self.max_concurrent_requests) {
            return wrong("server.max_concurrent_requests", "must be 1 to 100,000");
        }
        Ok(())
    }
}

impl Audit {
    fn check(&self) -> Result<(), SettingsError> {
        if self.timeout > LONGEST_AUDIT_TIMEOUT {
            return wrong("audit.timeout", "must be at most 5s: a call has no more time without a deadline of its own");
        }
        if self.fsync_interval > LONGEST_FSYNC_INTERVAL {
            return wrong("audit.fsync_interval", "must be at most 1m");
        }
        self.kms_mac_key.iter().try_for_each(|key| check_key("audit.kms_mac_key", key))
    }
}

impl Factors {
    fn check(&self, insecure: &Insecure) -> Result<(), SettingsError> {
        match self.environment {
            EnvironmentFrom::SecretsManager => self.secrets_manager.check()?,
            EnvironmentFrom::File => self.file.check()?,
        }
        match self.customer {
            CustomerFrom::Kms => self.kms.check(),
            CustomerFrom::Local if !insecure.local_kms => {
                wrong("factors.customer", "\"local\" is for development: it needs insecure.local_kms = true")
            }
            CustomerFrom::Local => Ok(()),
        }
    }
}

impl EnvironmentFile {
    fn check(&self) -> Result<(), SettingsError> {
        if self.poll * 2 > self.max_age {
            return wrong("factors.file.poll", "must be at most half of factors.file.max_age");
        }
        Ok(())
    }
}

impl Store {
    fn check(&self) -> Result<(), SettingsError> {
        match self.backend {
            Backend::Dynamodb => self.dynamodb.check(),
            Backend::Embedded => Ok(()),
        }
    }
}

impl Cache {
    fn check(&self) -> Result<(), SettingsError> {
        if !(1..=10_000_000).contains(&self.roots) {
            return wrong("cache.roots", "must be 1 to 10,000,000");
        }
        if self.refresh_after > self.max_age {
            return wrong("cache.refresh_after", "must not be longer than cache.max_age");
        }
        Ok(())
    }
}

/// A value that does not go with another.
pub(super) fn wrong(key: &'static str, problem: &str) -> Result<(), SettingsError> {
    Err(SettingsError::Wrong { key, problem: problem.to_owned() })
}

/// Whether a path is rather a key, or a document of keys, that was given in its place: then it is not repeated in an error.
fn looks_like_a_key(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let text = text.trim();
    let is_hex = text.len() == 64 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    // Of 32 octets, in either alphabet. Without its padding it may be a path, which begins otherwise.
    let is_padded = text.len() == 44 && text.ends_with('=');
    let is_unpadded = text.len() == 43 && !text.starts_with(['/', '.']);
    let is_base64 = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/' | b'-' | b'_' | b'=');
    let is_document = text.starts_with('{') || text.contains("-----BEGIN");
    is_hex || is_document || ((is_padded || is_unpadded) && text.bytes().all(is_base64))
}

/// Whether each part of a filter ends in a level. tracing would take a misspelt level for a target, and then log nothing else.
fn is_log_filter(filter: &str) -> bool {
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let ends_in_level = |part: &str| is_level(part.rsplit_once('=').map_or(part, |(_, level)| level));
    filter.split(',').all(ends_in_level) && EnvFilter::builder().parse(filter).is_ok()
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip == Ipv6Addr::LOCALHOST,
    }
}
