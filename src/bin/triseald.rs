//! The service: the composition root, a straight line. Settings, keys, store, keyring, port, self-check, serve, drain.

#[path = "triseald/check.rs"]
mod check;
#[path = "triseald/development.rs"]
mod development;
#[path = "triseald/parts.rs"]
mod parts;

use std::alloc::System;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};
use triseal::access::Access;
use triseal::audit::heads::CheckpointMac;
use triseal::audit::{self, AuditLog, Timing};
use triseal::config::{self, Settings};
use triseal::crypto::{Codebase, Context, CustomerKey, Plaintext, Salt, Version, open, seal};
use triseal::customers::{CustomerDirectory, destruction};
use triseal::factors::KeySet;
use triseal::factors::document::{Form, KeyDocument};
use triseal::grpc::gate::Gate;
use triseal::grpc::identity::Naming;
use triseal::grpc::server;
use triseal::grpc::tls::{Files, Tls};
use triseal::jobs::{self, Jobs, ReplicaId, Reporter};
use triseal::keyring::{CacheLimits, Keyring, Sources};
use triseal::ops::{self, Phase, Readiness};
use triseal::store::Operations;
use triseal::telemetry::dependency::{Dependency, Name};
use triseal::telemetry::{self, metrics};
use triseal::vault::Vault;
use zeroize::Zeroizing;
use zeroizing_alloc::ZeroAlloc;

use parts::Aws;

/// Wipes what is freed: the buffers of the RPC stack hold secrets, and know nothing of that.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// The first factor. build.rs checked it. It stands in this binary and in no library, so that `triseal` does not contain it.
static CODEBASE_KEYS: &str = include_str!(concat!(env!("OUT_DIR"), "/codebase-keys.json"));
/// Whether it is the well-known one.
const DEVELOPMENT_CODEBASE_KEY: bool = cfg!(triseal_development_codebase_key);

/// Jobs give way while one in so many of the calls that may be under way are.
const BUSY: usize = 8;
/// After the drain, what jobs hold is given up in this time.
const RELEASE: Duration = Duration::from_secs(2);

/// Seals credentials under three keys that live in three places.
#[derive(Parser)]
#[command(
    name = "triseald",
    version,
    group = ArgGroup::new("settings").args(["dev", "config"]).required(true),
    after_help = "Settings: docs/SETTINGS.md. Each can be set by the environment, too: TRISEAL__STORE__BACKEND=embedded",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    /// Run on embedded defaults, for development: a store and local keys below --data, no TLS, the well-known codebase key
    #[arg(long)]
    dev: bool,
    /// Listen here instead
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve /livez, /readyz and /metrics here instead
    #[arg(long, value_name = "ADDR")]
    ops_listen: Option<SocketAddr>,
    /// Where --dev keeps its store and keys
    #[arg(long, value_name = "DIR", default_value = ".triseal", requires = "dev", conflicts_with = "config")]
    data: PathBuf,
    /// Run with these settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Try everything that these settings need, tell what is missing, and serve nothing
    Check {
        /// The settings
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// What is said to whoever started the service: what is wrong, and what to do.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = harden(&arguments)
        .and_then(|()| tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::from))
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("triseald: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// No core dumps, and no tracing by others than root. A debugger that is attached already is refused, but with --dev.
fn harden(arguments: &Arguments) -> Result<(), Failure> {
    secmem_proc::Config::new_with_anti_tracing(!arguments.dev).harden_process().map_err(|_| {
        "this process can't be kept from being traced or dumped, or a debugger is attached to it: start it without one"
            .into()
    })
}

/// Serves until it is told to stop. A start that is told so before it has an audit log to end is given up where it is, as if the process
/// had been killed there, which leaves nothing half made.
async fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Some(Command::Check { config }) = &arguments.command {
        return check(config).await;
    }
    let signalled = signalled()?.shared();
    let (under_way, is_under_way) = watch::channel(false);
    let given_up = async {
        signalled.clone().await;
        if *is_under_way.borrow() {
            std::future::pending().await
        }
    };
    tokio::select! {
        ended = serve(arguments, signalled.clone(), under_way) => ended,
        () = given_up => {
            info!("stopped before it served");
            Ok(())
        }
    }
}

async fn serve(
    arguments: Arguments,
    signalled: impl Future<Output = ()>,
    under_way: watch::Sender<bool>,
) -> Result<(), Failure> {
    let settings = settings(&arguments)?;
    let codebase = codebase_keys(&settings, arguments.dev)?;
    settings.check()?;
    telemetry::start(&settings.telemetry.log)?;
    // Before all that counts.
    let numbers = metrics::start()?;

    // Before anything is made: a missing region, wrong certificates and a port in use change nothing.
    let aws = Aws::load(&settings).await?;
    let tls = settings.tls.as_ref().map(start_tls).transpose()?;
    let named_by = |names: &'static str| {
        move |error| format!("{error}: stop what listens there, or name another address by {names}")
    };
    let listener = server::bind(settings.server.listen).await.map_err(named_by("--listen or server.listen"))?;
    let ops_listener =
        server::bind(settings.server.ops_listen).await.map_err(named_by("--ops-listen or server.ops_listen"))?;
    let (listen, ops_listen) = (listener.local_addr()?, ops_listener.local_addr()?);
    let access = match settings.policy_directory() {
        Some(directory) => Access::start(directory).await.map_err(|error| format!("policy: {error}"))?,
        None => Access::development()?,
    };
    let [store_state, environment_state, wrapper_state, audit_state] =
        [Name::Store, Name::EnvironmentKeys, Name::CustomerKeys, Name::AuditLog]
            .map(|name| Arc::new(Dependency::new(name)));
    let dependencies = [&store_state, &environment_state, &wrapper_state, &audit_state].map(Arc::clone);
    let readiness = Arc::new(Readiness::new(dependencies.to_vec()));
    // From the first moment: a start that takes long is alive, and not ready.
    tokio::spawn(ops::serve(ops_listener, Arc::clone(&readiness), numbers));
    if arguments.dev {
        development::prepare(&settings, &arguments.data)?;
    }

    // The keys are read before a store is made: a start that is refused for them leaves none behind.
    let wrapper = parts::wrapper(&settings, &aws, &wrapper_state)?;
    let (environment, timing) = parts::environment(&settings, &aws, &environment_state)?;
    environment.fetch().await.map_err(|error| parts::no_environment_keys(&settings, &error))?;

    let deployment = settings.deployment.clone();
    let store = parts::Store::new(&settings, &aws, &store_state)?;
    if let Some(clock) = &store.clock {
        readiness.require_clock(Arc::clone(clock));
    }
    tokio::spawn(ops::probe(Arc::clone(&store.operations)));
    let customers = store.customers;
    let sources = Sources {
        deployment: deployment.clone(),
        codebase,
        environment,
        wrapper: Arc::clone(&wrapper),
        customers: Arc::clone(&customers),
        operations: Arc::clone(&store.operations),
    };
    let keyring = Keyring::start(sources, timing, CacheLimits::from(&settings.cache)).await;
    let keyring = keyring.map_err(|error| parts::no_keyring(&settings, &error))?;
    self_check(&keyring).await?;

    // From here on it ends by its drain.
    under_way.send_replace(true);
    let audit =
        start_audit(&settings.audit, Arc::clone(&store.operations), parts::checkpoint_mac(&settings, &aws)?).await?;
    ops::follow(audit.clone(), audit_state);
    let credentials = store.credentials;
    let vault =
        Vault::new(deployment.clone(), Arc::clone(&credentials), keyring.clone(), audit.clone(), Timestamp::now);
    let vault = Arc::new(vault);
    let wraps_with = wrapper.wraps_with().to_owned();
    let directory = CustomerDirectory::new(
        deployment,
        Arc::clone(&customers),
        Arc::clone(&credentials),
        wrapper,
        keyring.clone(),
        audit.clone(),
        Timestamp::now,
    );
    let directory = Arc::new(directory.with_store_clock(store.clock));
    let replica = ReplicaId::random()?;
    let operations = store.operations;
    let reporter = Reporter::new(replica, keyring.clone(), wraps_with, Arc::clone(&operations), Timestamp::now);
    let reporter = Arc::new(reporter);
    let load = server::Load::default();
    let (under_way, busy) = (load.clone(), settings.server.max_concurrent_requests.div_ceil(BUSY));
    let jobs = Arc::new(Jobs::new(jobs::Parts {
        vault: Arc::clone(&vault),
        directory: Arc::clone(&directory),
        credentials,
        customers,
        operations,
        keyring: keyring.clone(),
        reporter: Arc::clone(&reporter),
        audit: audit.clone(),
        restored: settings.store.restored,
        is_busy: Box::new(move || under_way.places() >= busy),
        clock: Timestamp::now,
    }));
    if settings.store.restored {
        warn!("store.restored is set: this replica destroys no customer whose day has come, and works on no job");
    } else {
        tokio::spawn(destruction::sweep_for_ever(Arc::downgrade(&directory), settings.store.backup_retention));
    }
    if arguments.dev {
        development::provision_demo(&directory).await?;
    }

    // Before it serves: none seals that the jobs of others don't know of.
    reporter.report().await;
    let reporting = tokio::spawn(Arc::clone(&reporter).report_for_ever());
    let (stop_work, working) = watch::channel(false);
    let work = tokio::spawn(jobs::work_until(Arc::clone(&jobs), working));

    // Not ready before the fingerprints are compared: the store may be away.
    let ready_later = async {
        if keyring.proven().await.is_ok() {
            readiness.enter(Phase::Serving);
        }
        std::future::pending::<()>().await;
    };
    let stop = async {
        tokio::select! {
            () = signalled => info!("stopping: answering what is under way"),
            () = parts::Store::failed(store.file.as_deref()) => {
                error!("the store can't be written any more: stopping");
            }
            Err(error) = keyring.proven() => error!(%error, "stopping"),
            () = ready_later => {}
        }
        readiness.enter(Phase::Draining);
        // What is under way of a job is left to other replicas.
        stop_work.send_replace(true);
    };
    let limits = server::Limits::from(&settings.server);
    if let Some(Ok(())) = keyring.proven().now_or_never() {
        readiness.enter(Phase::Serving);
    }
    info!(%listen, %ops_listen, version = env!("CARGO_PKG_VERSION"), dev = arguments.dev, "serving");
    let gate = Gate::new(access, audit.clone());
    let services = server::Services { gate, vault, directory, jobs, load };
    match tls {
        Some(tls) => server::serve(listener, tls, services, limits, stop).await?,
        None => server::serve(listener, server::Plaintext, services, limits, stop).await?,
    }
    if timeout(RELEASE, work).await.is_err() {
        warn!("what this replica did of a job is not released: others take it when its lease has lapsed");
    }
    reporting.abort();
    reporter.leave().await;
    audit.close().await;
    if let Some(file) = store.file.filter(|file| file.has_failed()) {
        let cause = file.failure().map_or_else(|| "its writer has stopped".to_owned(), |error| error.to_string());
        return Err(format!(
            "{} can't be written any more: {cause}: mend that and start again; nothing that was acknowledged is lost",
            settings.store.embedded.path.display()
        )
        .into());
    }
    // Settled only while the store answers.
    if let Some(Err(error)) = keyring.proven().now_or_never() {
        return Err(parts::not_compared(&error));
    }
    info!("stopped");
    Ok(())
}

async fn check(config: &Path) -> Result<(), Failure> {
    let settings = Settings::from_file(config)?;
    let codebase = codebase_keys(&settings, false)?;
    settings.check()?;
    check::check(&settings, &codebase, &Aws::load(&settings).await?).await
}

async fn start_audit(
    settings: &config::Audit,
    heads: Arc<dyn Operations>,
    mac: Option<Arc<dyn CheckpointMac>>,
) -> Result<AuditLog, Failure> {
    let sink = audit::sink::open(settings)?;
    let timing = Timing { fsync_interval: settings.fsync_interval, timeout: settings.timeout };
    Ok(AuditLog::start(sink, timing, heads, mac, Timestamp::now).await?)
}

fn start_tls(settings: &config::Tls) -> Result<Arc<Tls>, Failure> {
    let files = Files {
        certificate: settings.certificate.clone(),
        private_key: settings.private_key.clone(),
        client_ca: settings.client_ca.clone(),
        client_crl: settings.client_crl.clone(),
    };
    let naming = Naming { trust_domain: settings.trust_domain.clone(), allow_dns_names: settings.allow_dns_names };
    Ok(Tls::start(files, naming)?)
}

/// The settings, with what the arguments name instead.
fn settings(arguments: &Arguments) -> Result<Settings, Failure> {
    let mut settings = match &arguments.config {
        Some(path) => Settings::from_file(path)?,
        None => Settings::dev(&arguments.data)?,
    };
    settings.server.listen = arguments.listen.unwrap_or(settings.server.listen);
    settings.server.ops_listen = arguments.ops_listen.unwrap_or(settings.server.ops_listen);
    Ok(settings)
}

/// The embedded keys, under the primary that the settings ask for. The well-known key needs a setting; a real one refuses to be
/// used for development.
fn codebase_keys(settings: &Settings, dev: bool) -> Result<KeySet<Codebase>, Failure> {
    if DEVELOPMENT_CODEBASE_KEY && !settings.insecure.development_codebase_key {
        return Err(
            "this binary has the well-known codebase key: build one with TRISEAL_CODEBASE_KEYS=FILE (docs/KEYS.md), \
                    or set insecure.development_codebase_key = true for development"
                .into(),
        );
    }
    if dev && !DEVELOPMENT_CODEBASE_KEY {
        return Err("this binary has a real codebase key, which --dev would use without protection: \
                    build one without TRISEAL_CODEBASE_KEYS for development, or run this one with --config FILE"
            .into());
    }
    let keys = KeyDocument::parse(Form::Codebase, CODEBASE_KEYS)?;
    let keys = KeySet::from_document(keys).ok_or("the embedded codebase keys have no primary")?;
    match settings.factors.codebase_primary.map(|version| Version::new(version.get())) {
        None => Ok(keys),
        Some(primary) => primary.and_then(|primary| keys.with_primary(primary)).ok_or_else(|| {
            "settings: factors.codebase_primary: this binary has no enabled codebase key of that version: name another, or leave it out"
                .into()
        }),
    }
}

/// Seals and opens under this process's primaries before anybody relies on them.
async fn self_check(keyring: &Keyring) -> Result<(), Failure> {
    let (mut key, mut salt) = (Zeroizing::new([0; 32]), [0; 32]);
    getrandom::fill(key.as_mut())?;
    getrandom::fill(&mut salt)?;
    let (lineage, root) = keyring.rehearsal(CustomerKey::new(key)).await?;
    let context = Context::new("self-check", "self-check", "self-check", "opaque", 1)?;
    let plaintext = Plaintext::new(Zeroizing::new(b"self-check".to_vec()))?;
    let envelope = seal(&root, lineage, &context, Salt::new(salt), &plaintext)?;
    if open(&root, &context, &envelope)?.is_same(&plaintext) {
        Ok(())
    } else {
        Err("self-check: what was sealed did not open as it was; this machine or this build is not to be trusted"
            .into())
    }
}

/// Ends with SIGTERM or SIGINT.
fn signalled() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
