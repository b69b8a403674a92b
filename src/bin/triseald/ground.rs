//! What a start stands on before it reads a key: AWS's settings, certificates, both ports, policy, and the answers to who asks whether
//! this process is ready. Nothing is made here: a missing region, wrong certificates and a port in use change nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use triseal::access::Access;
use triseal::config::{self, Settings};
use triseal::grpc::identity::Naming;
use triseal::grpc::server;
use triseal::grpc::tls::{Files, Tls};
use triseal::ops::{self, Readiness};
use triseal::telemetry::dependency::{Dependency, Name};
use triseal::telemetry::metrics::Exposition;

use super::Failure;
use super::parts::Aws;

/// All that is there before a key is.
pub(super) struct Ground {
    pub(super) aws: Aws,
    /// `None`: plaintext, on loopback.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) listener: TcpListener,
    pub(super) listen: SocketAddr,
    pub(super) ops_listen: SocketAddr,
    pub(super) access: Arc<Access>,
    pub(super) dependencies: Dependencies,
    pub(super) readiness: Arc<Readiness>,
}

/// What readiness depends on.
pub(super) struct Dependencies {
    pub(super) store: Arc<Dependency>,
    pub(super) environment: Arc<Dependency>,
    pub(super) wrapper: Arc<Dependency>,
    pub(super) audit: Arc<Dependency>,
}

impl Ground {
    /// Loads and binds it all. From then on the ops listener answers: a start that takes long is alive, and not ready.
    pub(super) async fn prepare(settings: &Settings, numbers: Exposition) -> Result<Self, Failure> {
        let aws = Aws::load(settings).await?;
        let tls = settings.tls.as_ref().map(start_tls).transpose()?;
        let named_by = |names: &'static str| {
            move |error| format!("{error}: stop what listens there, or name another address by {names}")
        };
        let listener = server::bind(settings.server.listen).await.map_err(named_by("--listen or server.listen"))?;
        let ops_listener =
            server::bind(settings.server.ops_listen).await.map_err(named_by("--ops-listen or server.ops_listen"))?;
        let (listen, ops_listen) = (listener.local_addr()?, ops_listener.local_addr()?);
        let access = start_access(settings.policy_directory()).await?;
        let dependencies = Dependencies::new();
        let readiness = Arc::new(Readiness::new(dependencies.all()));
        tokio::spawn(ops::serve(ops_listener, Arc::clone(&readiness), numbers));
        Ok(Self { aws, tls, listener, listen, ops_listen, access, dependencies, readiness })
    }
}

impl Dependencies {
    fn new() -> Self {
        let named = |name| Arc::new(Dependency::new(name));
        Self {
            store: named(Name::Store),
            environment: named(Name::EnvironmentKeys),
            wrapper: named(Name::CustomerKeys),
            audit: named(Name::AuditLog),
        }
    }

    fn all(&self) -> Vec<Arc<Dependency>> {
        let Self { store, environment, wrapper, audit } = self;
        [store, environment, wrapper, audit].map(Arc::clone).to_vec()
    }
}

pub(super) fn start_tls(settings: &config::Tls) -> Result<Arc<Tls>, Failure> {
    let files = Files {
        certificate: settings.certificate.clone(),
        private_key: settings.private_key.clone(),
        client_ca: settings.client_ca.clone(),
        client_crl: settings.client_crl.clone(),
    };
    let naming = Naming { trust_domain: settings.trust_domain.clone(), allow_dns_names: settings.allow_dns_names };
    Ok(Tls::start(files, naming)?)
}

async fn start_access(directory: Option<&Path>) -> Result<Arc<Access>, Failure> {
    Ok(match directory {
        Some(directory) => Access::start(directory).await.map_err(|error| format!("policy: {error}"))?,
        None => Access::development()?,
    })
}
