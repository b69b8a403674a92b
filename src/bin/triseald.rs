//! The service: the composition root, a straight line. Settings; what it stands on, which makes nothing; keys and store; the service over
//! them; serve, drain, end. Each step is a file below `triseald/`.

// They panic when their reader has gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[path = "triseald/check.rs"]
mod check;
#[path = "triseald/development.rs"]
mod development;
#[path = "triseald/ground.rs"]
mod ground;
#[path = "triseald/keyed.rs"]
mod keyed;
#[path = "triseald/parts.rs"]
mod parts;
#[path = "triseald/running.rs"]
mod running;

use std::alloc::System;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgGroup, Parser, Subcommand};
use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::yield_now;
use tracing::info;
use triseal::config::Settings;
use triseal::crypto::{Codebase, Version};
use triseal::factors::KeySet;
use triseal::factors::document::{Form, KeyDocument};
use triseal::telemetry::{self, metrics};
use zeroizing_alloc::ZeroAlloc;

use ground::Ground;
use keyed::Keyed;
use parts::Aws;
use running::{Running, Work};

/// Wipes what is freed: the buffers of the RPC stack hold secrets, and know nothing of that.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// The first factor. build.rs checked it. It stands in this binary and in no library, so that `triseal` does not contain it.
static CODEBASE_KEYS: &str = include_str!(concat!(env!("OUT_DIR"), "/codebase-keys.json"));
/// Whether it is the well-known one.
const DEVELOPMENT_CODEBASE_KEY: bool = cfg!(triseal_development_codebase_key);

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
            let _ = writeln!(std::io::stderr(), "triseald: {failure}");
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
    let (drains, ends_by_drain) = watch::channel(false);
    let given_up = async {
        signalled.clone().await;
        if *ends_by_drain.borrow() {
            std::future::pending().await
        }
    };
    tokio::select! {
        biased;
        () = given_up => {
            info!("stopped before it served");
            Ok(())
        }
        ended = serve(arguments, signalled.clone(), drains) => ended,
    }
}

async fn serve(
    arguments: Arguments,
    signalled: impl Future<Output = ()>,
    drains: watch::Sender<bool>,
) -> Result<(), Failure> {
    let settings = settings(&arguments)?;
    let codebase = codebase_keys(&settings, arguments.dev)?;
    settings.check()?;
    telemetry::start(&settings.telemetry.log)?;
    // Before all that counts.
    let numbers = metrics::start()?;

    let ground = Ground::prepare(&settings, numbers).await?;
    if arguments.dev {
        development::prepare(&settings, &arguments.data)?;
    }
    let keyed = Keyed::open(&settings, codebase, &ground).await?;

    // Told to stop meanwhile, it is given up here. From here on it ends by its drain.
    yield_now().await;
    drains.send_replace(true);
    let running = Running::assemble(&settings, &ground, &keyed).await?;
    if arguments.dev {
        development::provision_demo(&running.service.directory).await?;
    }
    let work = Work::begin(&running.service).await;
    keyed.tell_if_proven(&ground.readiness);
    let (listen, ops_listen) = (ground.listen, ground.ops_listen);
    info!(%listen, %ops_listen, version = env!("CARGO_PKG_VERSION"), dev = arguments.dev, "serving");
    running.serve(&settings, ground, &keyed, work, signalled).await?;

    match keyed.failure(&settings) {
        Some(failure) => Err(failure),
        None => {
            info!("stopped");
            Ok(())
        }
    }
}

async fn check(config: &Path) -> Result<(), Failure> {
    let settings = Settings::from_file(config)?;
    let codebase = codebase_keys(&settings, false)?;
    settings.check()?;
    check::check(&settings, &codebase, &Aws::load(&settings).await?).await
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
