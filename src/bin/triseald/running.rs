//! The service over its keys and its store: put together, at work, served until it is told to stop, and ended.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, info, warn};
use triseal::audit::heads::CheckpointMac;
use triseal::audit::{self, AuditLog, Timing};
use triseal::config::{self, Settings};
use triseal::customers::destruction;
use triseal::grpc::gate::Gate;
use triseal::grpc::server;
use triseal::jobs::{self, ReplicaId, Reporter};
use triseal::ops::{self, Phase, Readiness};
use triseal::service::{Parts, Service};
use triseal::store::Operations;

use super::Failure;
use super::ground::Ground;
use super::keyed::Keyed;
use super::parts::{self, Store};

/// Jobs give way while one in so many of the calls that may be under way are.
const BUSY: usize = 8;
/// After the drain, what jobs hold is given up in this time.
const RELEASE: Duration = Duration::from_secs(2);

/// What answers calls, and the log of what it does.
pub(super) struct Running {
    pub(super) service: Service,
    audit: AuditLog,
    load: server::Load,
}

/// What goes on beside the calls.
pub(super) struct Work {
    reporter: Arc<Reporter>,
    reporting: JoinHandle<()>,
    jobs: JoinHandle<()>,
    /// Told at the end: what is under way of a job is left to other replicas.
    stop: watch::Sender<bool>,
}

impl Running {
    /// Starts the audit log, and puts the service together.
    pub(super) async fn assemble(settings: &Settings, ground: &Ground, keyed: &Keyed) -> Result<Self, Failure> {
        let store = &keyed.store;
        let mac = parts::checkpoint_mac(settings, &ground.aws)?;
        let audit = start_audit(&settings.audit, Arc::clone(&store.operations), mac).await?;
        ops::follow(audit.clone(), Arc::clone(&ground.dependencies.audit));
        let load = server::Load::default();
        let (taken, busy) = (load.clone(), settings.server.max_concurrent_requests.div_ceil(BUSY));
        let service = Service::new(Parts {
            replica: ReplicaId::random()?,
            deployment: settings.deployment.clone(),
            credentials: Arc::clone(&store.credentials),
            customers: Arc::clone(&store.customers),
            operations: Arc::clone(&store.operations),
            wrapper: Arc::clone(&keyed.wrapper),
            keyring: keyed.keyring.clone(),
            audit: audit.clone(),
            store_clock: store.clock.clone(),
            restored: settings.store.restored,
            is_busy: Box::new(move || taken.places() >= busy),
            clock: Timestamp::now,
        });
        if settings.store.restored {
            warn!("store.restored is set: this replica destroys no customer whose day has come, and works on no job");
        } else {
            let retention = settings.store.backup_retention;
            tokio::spawn(destruction::sweep_for_ever(Arc::downgrade(&service.directory), retention));
        }
        Ok(Self { service, audit, load })
    }

    /// Serves until it is told to stop or can't go on, answers what is under way, and ends: jobs and reports, and the audit log last.
    pub(super) async fn serve(
        self,
        settings: &Settings,
        ground: Ground,
        keyed: &Keyed,
        work: Work,
        signalled: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let Self { service: Service { vault, directory, jobs, .. }, audit, load } = self;
        let Ground { tls, listener, access, readiness, .. } = ground;
        let stop = async {
            until_stopped(signalled, &readiness, keyed).await;
            readiness.enter(Phase::Draining);
            work.stop.send_replace(true);
        };
        let limits = server::Limits::from(&settings.server);
        let gate = Gate::new(access, audit.clone());
        let services = server::Services { gate, vault, directory, jobs, load };
        match tls {
            Some(tls) => server::serve(listener, tls, services, limits, stop).await?,
            None => server::serve(listener, server::Plaintext, services, limits, stop).await?,
        }
        work.end().await;
        audit.close().await;
        Ok(())
    }
}

impl Work {
    /// Reports and works. Reported before anything is served: none seals that the jobs of others don't know of.
    pub(super) async fn begin(service: &Service) -> Self {
        let reporter = Arc::clone(&service.reporter);
        reporter.report().await;
        let reporting = tokio::spawn(Arc::clone(&reporter).report_for_ever());
        let (stop, stopped) = watch::channel(false);
        let jobs = tokio::spawn(jobs::work_until(Arc::clone(&service.jobs), stopped));
        Self { reporter, reporting, jobs, stop }
    }

    /// Ends it, once it was told to stop.
    async fn end(self) {
        if timeout(RELEASE, self.jobs).await.is_err() {
            warn!("what this replica did of a job is not released: others take it when its lease has lapsed");
        }
        self.reporting.abort();
        self.reporter.leave().await;
    }
}

/// Waits until it is told to stop, or can't go on; and is ready as soon as the fingerprints are compared, which the store may have
/// been away for.
async fn until_stopped(signalled: impl Future<Output = ()>, readiness: &Readiness, keyed: &Keyed) {
    let ready_later = async {
        if keyed.keyring.proven().await.is_ok() {
            readiness.enter(Phase::Serving);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = signalled => info!("stopping: answering what is under way"),
        () = Store::failed(keyed.store.file.as_deref()) => {
            error!("the store can't be written any more: stopping");
        }
        Err(error) = keyed.keyring.proven() => error!(%error, "stopping"),
        () = ready_later => {}
    }
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
