//! The service without an audit log, for what that costs: no setting turns it off, so its parts are put together here as `triseald`
//! does it for `--dev`. In a process of its own, which is the echo's program: what it frees is not wiped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use jiff::Timestamp;
use triseal::access::Access;
use triseal::audit::AuditLog;
use triseal::config::Settings;
use triseal::factors::KeySet;
use triseal::factors::document::{Form, KeyDocument};
use triseal::factors::local::{EnvironmentFile, LocalWrapper};
use triseal::grpc::gate::Gate;
use triseal::grpc::server;
use triseal::jobs::ReplicaId;
use triseal::keyring::{CacheLimits, EnvironmentTiming, FirstReading, Keyring, Sources};
use triseal::service::{Parts, Service};
use triseal::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedOperations, EmbeddedStore};

use crate::process::Process;

/// The argument that makes this program the service; after it stands the directory of its data.
pub const ARGUMENT: &str = "--unaudited";

/// The keys of the `triseald` that made the data.
static CODEBASE_KEYS: &str = include_str!(concat!(env!("OUT_DIR"), "/codebase-keys.json"));

/// Starts it on data that `triseald --dev` made.
pub fn start(data: &Path) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.arg(ARGUMENT).arg(data).stdin(Stdio::null()).stdout(Stdio::piped());
    Process::start(command, |child| child.stdout.take(), |line| line.strip_prefix("serving ")?.parse().ok())
}

/// The service itself.
pub async fn serve(data: &Path) {
    let settings = Settings::dev(data).expect("settings");
    let listener = server::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let codebase = KeyDocument::parse(Form::Codebase, CODEBASE_KEYS).expect("the keys");
    let wrapper = Arc::new(LocalWrapper::open(&settings.factors.local.master_key).expect("a key"));
    let store = Arc::new(EmbeddedStore::open(&settings.store.embedded.path, &settings.deployment).expect("a store"));
    let credentials = Arc::new(EmbeddedCredentials(Arc::clone(&store)));
    let customers = Arc::new(EmbeddedCustomers(Arc::clone(&store)));
    let operations = Arc::new(EmbeddedOperations(store));
    let environment = Arc::new(EnvironmentFile::new(settings.factors.file.path.clone()));
    let sources = Sources {
        deployment: settings.deployment.clone(),
        codebase: KeySet::from_document(codebase).expect("a primary"),
        environment: FirstReading::of(environment).await.expect("the keys"),
        wrapper: wrapper.clone(),
        customers: customers.clone(),
        operations: operations.clone(),
    };
    let timing = EnvironmentTiming { poll: settings.factors.file.poll, max_age: settings.factors.file.max_age };
    let keyring = Keyring::start(sources, timing, CacheLimits::from(&settings.cache)).await.expect("a keyring");
    let (audit, deployment) = (AuditLog::insecure_none(), settings.deployment);
    // Its jobs are there for the calls that ask for them: none is worked on.
    let Service { vault, directory, jobs, .. } = Service::new(Parts {
        replica: ReplicaId::random().expect("random numbers"),
        deployment,
        credentials,
        customers,
        operations,
        wrapper,
        keyring,
        audit: audit.clone(),
        restored: false,
        store_clock: None,
        is_busy: Box::new(|| false),
        clock: Timestamp::now,
    });
    println!("serving {}", listener.local_addr().expect("an address"));
    let gate = Gate::new(Access::development().expect("a policy"), audit);
    let services = server::Services { gate, vault, directory, jobs, load: server::Load::default() };
    let limits = server::Limits::from(&settings.server);
    server::serve(listener, server::Plaintext, services, limits, std::future::pending()).await.expect("it serves");
}
