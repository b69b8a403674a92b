//! What is served, and from when to when: the services with health and reflection, and the drain at the end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::service::Routes;
use tracing::warn;

pub use super::admission::Load;
use super::call::Endpoint;
use super::connection::{ConnectionLimits, Connections};
pub use super::connection::{Handshake, Peer, Plaintext};
use super::credential::Credentials;
use super::customer::Customers;
use super::gate::Gate;
use super::key::Keys;
use super::limits;
use super::wire::v1;
use super::wire::v1::credential_service_server::CredentialServiceServer;
use super::wire::v1::customer_service_server::CustomerServiceServer;
use super::wire::v1::key_service_server::KeyServiceServer;
use crate::config;
use crate::customers::CustomerDirectory;
use crate::jobs::Jobs;
use crate::telemetry::metrics::Rpc;
use crate::vault::Vault;

/// The protocol's package.
const PACKAGE: &str = "triseal.v1";

/// Why the service stopped serving, or never started to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("{0} can't be listened on: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// The descriptors that are compiled in can't be read: a bug.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The same.
    #[error("the protocol: {0}")]
    Descriptors(#[from] prost::DecodeError),
}

/// What is served.
pub struct Services {
    /// What every call passes first.
    pub gate: Gate,
    /// Credentials.
    pub vault: Arc<Vault>,
    /// Customers.
    pub directory: Arc<CustomerDirectory>,
    /// Long work.
    pub jobs: Arc<Jobs>,
    /// Where calls under way are counted.
    pub load: Load,
}

impl Services {
    /// The protocol's services beside others; at most `limit` of its calls at a time.
    pub(super) fn endpoint(self, others: Routes, limit: usize) -> Result<Endpoint, ServeError> {
        let Self { gate, vault, directory, jobs, load } = self;
        let routes = others
            .add_service(ByLength(
                CredentialServiceServer::new(Credentials::new(gate.clone(), vault))
                    .max_encoding_message_size(limits::MAX_REPLY_OCTETS),
            ))
            .add_service(
                CustomerServiceServer::new(Customers::new(gate.clone(), Arc::clone(&directory)))
                    .max_decoding_message_size(limits::MAX_SHORT_REQUEST_OCTETS)
                    .max_encoding_message_size(limits::MAX_REPLY_OCTETS),
            )
            .add_service(
                KeyServiceServer::new(Keys::new(gate, directory, jobs))
                    .max_decoding_message_size(limits::MAX_SHORT_REQUEST_OCTETS)
                    .max_encoding_message_size(limits::MAX_REPLY_OCTETS),
            );
        Ok(Endpoint::new(routes.prepare(), rpcs(v1::DESCRIPTORS)?, limit, load))
    }
}

/// CredentialService, each of whose methods takes messages of its own length: tonic knows one for them all.
#[derive(Clone)]
struct ByLength(CredentialServiceServer<Credentials>);

impl NamedService for ByLength {
    const NAME: &'static str = CredentialServiceServer::<Credentials>::NAME;
}

impl Service<http::Request<Body>> for ByLength {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let longest = limits::request_octets(request.uri().path());
        self.0.clone().max_decoding_message_size(longest).call(request)
    }
}

/// What is set, of all that limits the service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls under way, at most.
    pub concurrent_requests: usize,
    /// A connection is asked to end after this time.
    pub connection_age: Duration,
    /// Calls under way at the end have so long.
    pub drain: Duration,
}

impl From<&config::Server> for Limits {
    fn from(settings: &config::Server) -> Self {
        Self {
            concurrent_requests: settings.max_concurrent_requests,
            connection_age: settings.max_connection_age,
            drain: settings.drain,
        }
    }
}

/// Takes the port.
///
/// # Errors
/// [`ServeError::Bind`], if another process has it.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Bind(address, error))
}

/// Serves until `stop`, then answers what is under way, for at most [`Limits::drain`].
///
/// # Errors
/// A [`ServeError`].
pub async fn serve(
    listener: TcpListener,
    handshake: impl Handshake,
    services: Services,
    limits: Limits,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let waiting = Arc::clone(&services.vault);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<CredentialServiceServer<Credentials>>().await;
    health.set_serving::<CustomerServiceServer<Customers>>().await;
    health.set_serving::<KeyServiceServer<Keys>>().await;
    let routes = Routes::new(health_service.max_decoding_message_size(limits::MAX_NAME_OCTETS))
        .add_service(reflection().build_v1()?.max_decoding_message_size(limits::MAX_NAME_OCTETS))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(limits::MAX_NAME_OCTETS));
    let endpoint = services.endpoint(routes, limits.concurrent_requests)?;

    let stop = async move {
        stop.await;
        // Who watches looks elsewhere before the port closes.
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        health.set_not_serving::<CredentialServiceServer<Credentials>>().await;
        health.set_not_serving::<CustomerServiceServer<Customers>>().await;
        health.set_not_serving::<KeyServiceServer<Keys>>().await;
        waiting.stop_waiting();
    };
    let connection_limits = ConnectionLimits { number: limits::MAX_CONNECTIONS, age: limits.connection_age };
    let mut connections = Connections::accept(listener, handshake, endpoint, connection_limits, stop).await;
    if timeout(limits.drain, connections.drain()).await.is_err() {
        warn!(seconds = limits.drain.as_secs(), "calls were still under way after the drain");
    }
    Ok(())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The methods of the protocol by their paths, to be counted by their names.
pub(super) fn rpcs(descriptors: &[u8]) -> Result<HashMap<String, Arc<Rpc>>, prost::DecodeError> {
    let mut rpcs = HashMap::new();
    let files = FileDescriptorSet::decode(descriptors)?.file;
    for service in files.iter().filter(|file| file.package() == PACKAGE).flat_map(|file| &file.service) {
        for method in &service.method {
            let path = format!("/{PACKAGE}.{}/{}", service.name(), method.name());
            rpcs.insert(path, Arc::new(Rpc::new(method.name().to_owned())));
        }
    }
    Ok(rpcs)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_method_is_counted_under_a_name_of_its_own() {
        let rpcs = rpcs(v1::DESCRIPTORS).unwrap();
        assert!(rpcs.contains_key("/triseal.v1.CredentialService/DecryptCredential"));
        assert!(rpcs.contains_key("/triseal.v1.CustomerService/CreateCustomer"));
        let names: BTreeSet<_> = rpcs.keys().map(|path| path.rsplit('/').next().unwrap()).collect();
        assert_eq!(names.len(), rpcs.len());
        assert!(!rpcs.keys().any(|path| path.starts_with("/grpc.")), "health is no load");
    }
}
