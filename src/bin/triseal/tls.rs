//! TLS to the service: the three files that it takes, the connection, and what it means when either side refuses the other.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;
use triseal::grpc::tls::pem;

use crate::failure::Failure;

/// The files that a connection takes.
pub(crate) struct Files<'a> {
    pub(crate) ca: &'a Path,
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
}

/// Makes TLS 1.3 connections to one service, under one client certificate.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

impl Connector {
    /// `host` is a name, or an address without brackets.
    pub(crate) fn new(files: &Files<'_>, host: &str, port: u16) -> Result<Self, Failure> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::usage("the endpoint's host is neither a name nor an address".to_owned()))?;
        let tls = TlsConnector::from(Arc::new(config(files)?));
        Ok(Self { tls, host: host.to_owned(), port, name })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { tls, host, port, name } = self.clone();
        Box::pin(async move {
            let socket = TcpStream::connect((host, port)).await?;
            socket.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(name, socket).await?))
        })
    }
}

fn config(files: &Files<'_>) -> Result<ClientConfig, Failure> {
    let unusable = |what: &str, error: &dyn Error| Failure::usage(format!("{what}: {error}"));
    let authorities = pem::certificates(files.ca).map_err(|error| unusable("--ca", &error))?;
    let chain = pem::certificates(files.certificate).map_err(|error| unusable("--cert", &error))?;
    let key = pem::private_key(files.key).map_err(|error| unusable("--key", &error))?;
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| unusable("--ca", &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .and_then(|config| config.with_root_certificates(roots).with_client_auth_cert(chain, key))
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Failure::usage("--key is not the key of the first certificate in --cert".to_owned())
            }
            error => unusable("--cert and --key", &error),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What it means that TLS ended the connection, if it did.
pub(crate) fn refusal(error: &(dyn Error + 'static)) -> Option<Failure> {
    let tls = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::AlertReceived(alert)) => Some(refused_by_service(*alert)),
        Some(error) => Some(refused_here(error)),
        // HTTP/2 keeps of an error its text alone. The service judges our certificate when we have begun to speak.
        None => {
            let text = error.to_string();
            let told = |alert: &AlertDescription| text.contains(&rustls::Error::AlertReceived(*alert).to_string());
            ALERTS.iter().find(|alert| told(alert)).map(|alert| refused_by_service(*alert))
        }
    }
}

/// Those that a service answers a certificate with.
const ALERTS: [AlertDescription; 9] = [
    AlertDescription::BadCertificate,
    AlertDescription::UnsupportedCertificate,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
    AlertDescription::UnknownCA,
    AlertDescription::AccessDenied,
    AlertDescription::DecryptError,
    AlertDescription::CertificateRequired,
];

fn refused_by_service(alert: AlertDescription) -> Failure {
    use AlertDescription as A;
    let why = match alert {
        A::CertificateRevoked => "it has been revoked",
        A::CertificateExpired => "it has expired, or is not valid yet",
        A::UnknownCA => "its CA is not one of the service's, or the CA's revocation list is missing or has expired",
        A::UnsupportedCertificate => "it is not for clients",
        A::BadCertificate | A::CertificateUnknown | A::AccessDenied | A::DecryptError | A::CertificateRequired => {
            "it is no good"
        }
        A::ProtocolVersion => return no_tls("the endpoint does not speak TLS 1.3"),
        A::NoApplicationProtocol => return no_tls("the endpoint does not speak gRPC"),
        other => return no_tls(&format!("the endpoint ended the TLS handshake ({other:?})")),
    };
    Failure {
        code: "UNAUTHENTICATED",
        ..Failure::refused(format!("the service refuses the certificate in --cert: {why}"))
    }
    .with_hint("ask whoever issues the service's client certificates for a new one")
}

fn refused_here(error: &rustls::Error) -> Failure {
    use CertificateError as C;
    let why = match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => "it is not from the CA in --ca",
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "it is not for the host in --endpoint"
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => "it has expired",
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => "it is not valid yet",
        rustls::Error::InvalidCertificate(_) => "it is no good",
        rustls::Error::InvalidMessage(_) => return no_tls("the endpoint does not speak TLS"),
        rustls::Error::PeerIncompatible(_) => return no_tls("the endpoint does not speak TLS 1.3"),
        other => return no_tls(&format!("TLS failed: {other}")),
    };
    Failure { code: "UNAVAILABLE", ..Failure::failed(format!("the service's certificate is refused: {why}")) }
        .with_hint("nothing was sent; is this the service that you mean, and --ca its CA?")
}

fn no_tls(message: &str) -> Failure {
    Failure { code: "UNAVAILABLE", ..Failure::failed(message.to_owned()) }
        .with_hint("is there a triseal service at --endpoint? one without TLS is http://, on its own machine")
}
