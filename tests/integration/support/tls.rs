//! A service with TLS whose files can be exchanged, and clients of every kind.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;

use super::certificates::{Authority, Pair};
use super::policy::everything_permitted;
use super::{PATIENCE, Service, dev, write};

pub(crate) const CALLER: &str = "spiffe://datasert.com/realtask";
pub(crate) const HOUR: i64 = 3600;

/// `triseald --dev` with TLS, its files in this folder.
fn command(folder: &Path, settings: &[(String, String)]) -> Command {
    let files = [
        ("TRISEAL__TLS__CERTIFICATE", "server.pem"),
        ("TRISEAL__TLS__PRIVATE_KEY", "server.key"),
        ("TRISEAL__TLS__CLIENT_CA", "clients.pem"),
        ("TRISEAL__TLS__CLIENT_CRL", "clients.crl"),
        ("TRISEAL__POLICY__DIRECTORY", "policy"),
    ];
    let mut command = dev(&folder.join("data"));
    command.envs(files.map(|(setting, file)| (setting, folder.join(file))));
    command.env("TRISEAL__TLS__TRUST_DOMAIN", "datasert.com").env("TRISEAL__INSECURE__PLAINTEXT", "false");
    command.envs(settings.iter().cloned());
    command
}

/// `triseald --dev` with TLS.
pub(crate) struct Secured {
    pub(crate) service: Service,
    /// Of the server and of its clients.
    pub(crate) authority: Authority,
    settings: Vec<(String, String)>,
    /// Where it listens now, for clients that dial again.
    address: Arc<Mutex<SocketAddr>>,
    folder: TempDir,
}

impl Secured {
    /// With an empty revocation list.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("a CA"));
        everything_permitted(folder.path());
        let pair = authority.server();
        for (name, content) in [
            ("server.pem", &pair.certificate),
            ("server.key", &pair.key),
            ("clients.pem", &authority.pem()),
            ("clients.crl", &authority.revocation_list(&[], HOUR)),
        ] {
            write(folder.path().join(name), content);
        }
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let service = Service::start(command(folder.path(), &settings)).await;
        let address = Arc::new(Mutex::new(service.address()));
        Self { service, authority, settings, address, folder }
    }

    /// SIGKILL, and the same again on another port.
    pub(crate) async fn kill9_and_restart(&mut self) {
        self.service.kill().await;
        let started = Service::start(command(self.folder.path(), &self.settings)).await;
        self.now_served_by(started);
    }

    /// Another process serves in the place of the one before. Clients that are there find it.
    pub(crate) fn now_served_by(&mut self, service: Service) {
        *self.address.lock().unwrap() = service.address();
        self.service = service;
    }

    /// To start it again, on the same files.
    pub(crate) fn command(&self, settings: &[(&str, &str)]) -> Command {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        command(self.folder.path(), &settings)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Exchanges a file as an operator's tool does it: a new one in place of the old.
    pub(crate) fn replace(&self, name: &str, content: &str) {
        let new = self.path("new");
        write(new.clone(), content);
        fs::rename(new, self.path(name)).unwrap();
    }

    /// A client as it should be.
    pub(crate) fn client(&self, pair: &Pair) -> ClientConfig {
        self.client_of(Some(pair), &[&TLS13])
    }

    /// A client that knows other algorithms.
    pub(crate) fn client_with_provider(&self, provider: CryptoProvider, pair: &Pair) -> ClientConfig {
        self.built(provider, Some(pair), &[&TLS13])
    }

    pub(crate) fn client_of(
        &self,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        self.built(rustls::crypto::aws_lc_rs::default_provider(), pair, versions)
    }

    fn built(
        &self,
        provider: CryptoProvider,
        pair: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(roots);
        let mut config = match pair {
            Some(pair) => config.with_client_auth_cert(chain(pair), private_key(pair)).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    pub(crate) async fn dial(&self, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.service.address()).await?;
        socket.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(server_name(), socket).await
    }

    /// The alert with which a client is refused. A client of TLS 1.3 learns of it when it first reads.
    pub(crate) async fn refusal(&self, config: ClientConfig) -> AlertDescription {
        let refused = async {
            let mut stream = self.dial(config).await?;
            let read = stream.read_u8().await?;
            panic!("not refused: {read}");
        };
        let refused: io::Result<()> = tokio::time::timeout(PATIENCE, refused).await.expect("it answers");
        let error = refused.unwrap_err();
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("no alert: {error}"),
        }
    }

    pub(crate) fn calls(&self, config: ClientConfig) -> Calls {
        let (channel, dialed) = self.channel(config);
        Calls { customers: CustomerServiceClient::new(channel), dialed }
    }

    /// A client for credentials, on a connection of its own.
    pub(crate) fn credentials(&self, config: ClientConfig) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel(config).0)
    }

    /// A client for customers, on a connection of its own.
    pub(crate) fn customers(&self, config: ClientConfig) -> CustomerServiceClient<Channel> {
        CustomerServiceClient::new(self.channel(config).0)
    }

    /// A connection of its own that is made anew when it breaks, to wherever the service is then; and how many were made so far.
    pub(crate) fn channel(&self, config: ClientConfig) -> (Channel, Arc<AtomicUsize>) {
        let dialed = Arc::new(AtomicUsize::new(0));
        let address = Arc::clone(&self.address);
        let dial = Dial { address, config: Arc::new(config), dialed: Arc::clone(&dialed) };
        (Endpoint::from_static("https://localhost").connect_with_connector_lazy(dial), dialed)
    }
}

/// A client that calls, on one connection at a time.
pub(crate) struct Calls {
    customers: CustomerServiceClient<Channel>,
    dialed: Arc<AtomicUsize>,
}

impl Calls {
    /// Any call.
    pub(crate) async fn call(&mut self) -> Result<(), Status> {
        let mut request = Request::new(v1::GetCustomerRequest { customer_id: "demo".into() });
        // The longest there is, for machines that are busy.
        request.set_timeout(Duration::from_secs(10));
        let answered = tokio::time::timeout(PATIENCE, self.customers.get_customer(request)).await;
        answered.expect("it answers").map(drop)
    }

    /// How many connections were made so far.
    pub(crate) fn dialed(&self) -> usize {
        self.dialed.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Dial {
    address: Arc<Mutex<SocketAddr>>,
    config: Arc<ClientConfig>,
    dialed: Arc<AtomicUsize>,
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, config, dialed } = self.clone();
        Box::pin(async move {
            dialed.fetch_add(1, Ordering::Relaxed);
            let address = *address.lock().unwrap();
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Ok(TokioIo::new(TlsConnector::from(config).connect(server_name(), socket).await?))
        })
    }
}

/// A connection as a caller for whom `triseal keygen certificates` has filled this directory.
pub(crate) fn channel_as(caller: &str, certificates: &Path, address: SocketAddr) -> Channel {
    let path = |name: String| certificates.join(name);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path("ca.pem".to_owned())).unwrap()).unwrap();
    let chain = CertificateDer::pem_file_iter(path(format!("{caller}.pem"))).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(path(format!("{caller}.key"))).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config = config.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (address, dialed) = (Arc::new(Mutex::new(address)), Arc::default());
    let dial = Dial { address, config: Arc::new(config), dialed };
    Endpoint::from_static("https://localhost").connect_with_connector_lazy(dial)
}

pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// The first flight of a client.
pub(crate) fn client_hello(config: ClientConfig) -> Vec<u8> {
    let mut client = ClientConnection::new(config.into(), server_name()).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

fn chain(pair: &Pair) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect()
}

fn private_key(pair: &Pair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()
}
