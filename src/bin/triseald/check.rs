//! `triseald check`: does once what the service will do with each of its parts, and says what is missing.

use std::io::{self, Write};
use std::sync::Arc;

use triseal::access::Access;
use triseal::audit::sink;
use triseal::config::{AuditSink, Backend, CustomerFrom, EnvironmentFrom, Settings};
use triseal::crypto::{Codebase, Environment, Version};
use triseal::factors::{FactorError, KeySet, WrapContext};
use triseal::ids::CustomerId;
use triseal::keyring;
use triseal::store::WriteId;
use triseal::store::dynamodb::{DynamoOperations, DynamoStore, Table};
use triseal::store::embedded::EmbeddedStore;
use triseal::telemetry::dependency::{Dependency, Name};

use super::Failure;
use super::ground::start_tls;
use super::parts::{self, Aws, tables};

/// The customer that the probe's key is wrapped for. It is never written to a table.
const PROBE: &str = "triseal-check";

/// What was tried, line by line.
struct Report {
    failed: usize,
}

impl Report {
    fn line<E: std::fmt::Display>(&mut self, what: &str, outcome: Result<(), E>) {
        match outcome {
            Ok(()) => line(&format!("ok       {what}")),
            Err(error) => {
                self.failed += 1;
                line(&format!("FAILED   {what}: {error}"));
            }
        }
    }

    /// What this program can't try by itself is no failure.
    fn untried(what: &str, why: &str) {
        line(&format!("untried  {what}: {why}"));
    }
}

/// If whoever reads has gone, the exit code has to do.
fn line(text: &str) {
    let _ = io::stdout().write_all(format!("{text}\n").as_bytes());
}

/// Tries everything. An error says that something failed; what, stands in the lines before.
pub(super) async fn check(settings: &Settings, codebase: &KeySet<Codebase>, aws: &Aws) -> Result<(), Failure> {
    let mut report = Report { failed: 0 };
    let environment = check_environment(&mut report, settings, aws).await;
    check_wrapper(&mut report, settings, aws).await?;
    match settings.store.backend {
        Backend::Dynamodb => {
            let store = Arc::new(tables(settings, aws)?);
            let readable = check_tables(&mut report, &store).await?;
            if let Some(environment) = environment.filter(|_| readable) {
                let compared = keyring::compare(&DynamoOperations(store), codebase, &environment).await;
                report.line("codebase and environment keys: those of the store's records", compared);
            }
        }
        Backend::Embedded => check_store_file(&mut report, settings),
    }
    check_edge(&mut report, settings).await;
    check_audit(&mut report, settings, aws).await?;
    match report.failed {
        0 => Ok(()),
        1 => Err("1 check failed, named above".into()),
        failed => Err(format!("{failed} checks failed, named above").into()),
    }
}

async fn check_environment(report: &mut Report, settings: &Settings, aws: &Aws) -> Option<KeySet<Environment>> {
    let name = match settings.factors.environment {
        EnvironmentFrom::SecretsManager => "environment keys: secretsmanager:GetSecretValue",
        EnvironmentFrom::File => "environment keys: the file",
    };
    let source = match parts::environment(settings, aws, &Arc::new(Dependency::new(Name::EnvironmentKeys))) {
        Ok((source, _)) => source,
        Err(error) => {
            report.line(name, Err(error));
            return None;
        }
    };
    let fetched = source.fetch().await;
    report.line(name, fetched.as_ref().map(|_| ()));
    fetched.ok()
}

/// A real key is wrapped and unwrapped. That another context is refused is tried, too: without that, wrapped keys could be
/// exchanged.
async fn check_wrapper(report: &mut Report, settings: &Settings, aws: &Aws) -> Result<(), Failure> {
    for arn in &settings.factors.kms.unwrap_with {
        Report::untried(
            &format!("customer keys: kms:Decrypt with {arn}"),
            "only a key that is wrapped under it would tell",
        );
    }
    let wrapper = match parts::wrapper(settings, aws, &Arc::new(Dependency::new(Name::CustomerKeys))) {
        Ok(wrapper) => wrapper,
        Err(error) => {
            report.line("customer keys: the local key", Err(error));
            return Ok(());
        }
    };
    let [wrap, unwrap, other] = match settings.factors.customer {
        CustomerFrom::Kms => [
            "customer keys: kms:GenerateDataKeyWithoutPlaintext",
            "customer keys: kms:Decrypt",
            "customer keys: another encryption context is refused",
        ],
        CustomerFrom::Local => [
            "customer keys: wrapping with the local key",
            "customer keys: unwrapping with the local key",
            "customer keys: another context is refused",
        ],
    };
    let customer = CustomerId::parse(PROBE)?;
    let context = |version| WrapContext { deployment: &settings.deployment, customer: &customer, version };
    let second = Version::new(2).ok_or("there is no second version")?;
    let wrapped = match wrapper.wrap_new(&context(Version::FIRST)).await {
        Ok(wrapped) => wrapped,
        Err(error) => {
            report.line(wrap, Err(error));
            Report::untried(unwrap, "there is no wrapped key to try it with");
            return Ok(());
        }
    };
    report.line::<FactorError>(wrap, Ok(()));
    let unwrapped = wrapper.unwrap(&context(Version::FIRST), &wrapped).await;
    let works = unwrapped.is_ok();
    report.line(unwrap, unwrapped.map(|_| ()));
    if works {
        report.line(
            other,
            match wrapper.unwrap(&context(second), &wrapped).await {
                Err(FactorError::Corrupt(_)) => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("it was accepted".to_owned()),
            },
        );
    }
    Ok(())
}

/// Whether all of them is permitted.
async fn check_tables(report: &mut Report, store: &DynamoStore) -> Result<bool, Failure> {
    let before = report.failed;
    for table in Table::ALL {
        for (action, outcome) in store.probe(table, WriteId::random()?).await {
            report.line(&format!("table {}: dynamodb:{action}", store.name(table)), outcome);
        }
    }
    Ok(report.failed == before)
}

/// A file that is not there is made at the start of the service, and not here.
fn check_store_file(report: &mut Report, settings: &Settings) {
    let path = &settings.store.embedded.path;
    let name = format!("store: {}", path.display());
    match path.try_exists() {
        Ok(false) => report.line::<String>(&format!("{name}, which will be made"), Ok(())),
        Ok(true) => report.line(&name, EmbeddedStore::open(path, &settings.deployment).map(|_| ())),
        Err(error) => report.line(&name, Err(error)),
    }
}

/// What stands in files before anybody is served: certificates and policy.
async fn check_edge(report: &mut Report, settings: &Settings) {
    if let Some(tls) = &settings.tls {
        report.line(&format!("tls: {}", tls.certificate.display()), start_tls(tls).map(|_| ()));
    }
    if let Some(directory) = settings.policy_directory() {
        report.line(&format!("policy: {}", directory.display()), Access::start(directory).await.map(|_| ()));
    }
}

/// Where the log goes, and what signs its heads. On standard output, which every process has, nothing can be tried.
async fn check_audit(report: &mut Report, settings: &Settings, aws: &Aws) -> Result<(), Failure> {
    let file = &settings.audit.file;
    match settings.audit.sink {
        AuditSink::File => report.line(&format!("audit: {}", file.display()), sink::try_file(file)),
        AuditSink::Stdout => {}
    }
    if let Some(mac) = parts::checkpoint_mac(settings, aws)? {
        report.line("audit: kms:GenerateMac", mac.make(b"triseal/v1 check").await.map(|_| ()));
    }
    Ok(())
}
