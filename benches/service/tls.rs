//! TLS as the service and its callers have it, for the echo and for the load: version 1.3, both sides with certificates that
//! `triseal keygen certificates` made, hybrid key exchange.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_rustls::server::TlsStream as ServerStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::server::Connected;

/// Who the callers are.
pub const CALLER: &str = "realtask";

/// Where the certificates are. They are made anew by each run.
pub fn directory() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let directory = known_directory();
        let _ = std::fs::remove_dir_all(&directory);
        let mut keygen = Command::new(env!("CARGO_BIN_EXE_triseal"));
        keygen.args(["keygen", "certificates"]).arg(&directory).args(["--caller", CALLER]);
        assert!(keygen.output().expect("triseal runs").status.success(), "certificates are made");
        directory
    })
    .clone()
}

/// Where the process that started this one made them.
fn known_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-tls")
}

fn chain(name: &str) -> Vec<CertificateDer<'static>> {
    let read = CertificateDer::pem_file_iter(known_directory().join(name)).expect("a file");
    read.collect::<Result<_, _>>().expect("certificates")
}

fn key(name: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(known_directory().join(name)).expect("a key")
}

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    chain("ca.pem").into_iter().for_each(|ca| roots.add(ca).expect("a CA"));
    Arc::new(roots)
}

/// The echo's side.
pub fn acceptor() -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(), Arc::clone(&provider)).build();
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).expect("a version");
    let config = config.with_client_cert_verifier(verifier.expect("a verifier"));
    let mut config = config.with_single_cert(chain("server.pem"), key("server.key")).expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    // As the service's.
    config.send_tls13_tickets = 0;
    TlsAcceptor::from(Arc::new(config))
}

/// The callers' side.
#[derive(Clone)]
pub struct Connector {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub fn new(address: SocketAddr) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let config = config.expect("a version").with_root_certificates(roots());
        let (chain, key) = (chain(&format!("{CALLER}.pem")), key(&format!("{CALLER}.key")));
        let mut config = config.with_client_auth_cert(chain, key).expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { address, config: Arc::new(config) }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<ClientStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, config } = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            Ok(TokioIo::new(TlsConnector::from(config).connect(name, socket).await?))
        })
    }
}

/// A connection that tonic's server takes.
pub struct Accepted(pub ServerStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
