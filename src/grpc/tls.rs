//! TLS 1.3 with client certificates: the handshake, and the end of a connection whose certificate is not good any more.
//!
//! It tells the listener who is at the other end, and knows neither requests nor what a caller may do. There is no resumption and no
//! early data: a resumed session would skip the certificate, and with it a revocation. Connections live for minutes, so a full
//! handshake for each is cheap.

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod material;
pub mod pem;
mod refusal;
mod reload;
mod revocation;
mod source;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConnection;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, info};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

pub use self::material::TlsError;
use self::refusal::Refusal;
pub use self::source::Files;
use self::source::{Source, Terms};
use super::connection::{Handshake, Peer};
use super::identity::Naming;
use crate::telemetry::metrics;

/// Between two readings of the files. A change is taken when it was read twice.
const POLL: Duration = Duration::from_secs(2);
/// Between two verifications of a living connection's certificate, for what changes by time alone: an intermediate certificate or a
/// revocation list expires.
const VERIFY_AGAIN: Duration = Duration::from_secs(60);
/// Whoever is refused is given so long to take the alert that says why, and so much is read of what it had sent meanwhile: a socket
/// that is closed with unread data resets the connection, and the alert is lost.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_OCTETS: u64 = 1 << 16;

/// TLS under the last good files.
pub struct Tls {
    naming: Naming,
    terms: watch::Sender<Arc<Terms>>,
}

impl Tls {
    /// Reads the files, and goes on reading them for as long as the result lives. Must be called within the runtime.
    ///
    /// # Errors
    /// A [`TlsError`] that names the file which is missing, open to others, or not good for its purpose.
    pub fn start(files: Files, naming: Naming) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let source = Source::new(provider, files.read(), Timestamp::now())?;
        let (terms, _) = watch::channel(source.terms()?);
        let tls = Arc::new(Self { naming, terms });
        tokio::spawn(follow(Arc::downgrade(&tls), files, source));
        Ok(tls)
    }

    async fn accept(&self, socket: TcpStream, from: SocketAddr) -> Result<(TlsStream<TcpStream>, Peer), Refusal> {
        let mut terms = self.terms.subscribe();
        let config = Arc::clone(&terms.borrow_and_update().config);
        match TlsAcceptor::from(config).accept(socket).into_fallible().await {
            Ok(stream) => {
                let peer = self.identify(stream.get_ref().1, terms, from)?;
                Ok((stream, peer))
            }
            Err((error, socket)) => {
                linger(socket).await;
                Err(Refusal::of_handshake(&error))
            }
        }
    }

    fn identify(
        &self,
        session: &ServerConnection,
        terms: watch::Receiver<Arc<Terms>>,
        from: SocketAddr,
    ) -> Result<Peer, Refusal> {
        // A client that offers other protocols was refused already; one that offers none speaks perhaps HTTP/1.1.
        if session.alpn_protocol() != Some(b"h2") {
            return Err(Refusal::NoH2);
        }
        let chain = session.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
        let expires = expiry(leaf).ok_or(Refusal::BadCertificate)?;
        let named = self.naming.caller(leaf);
        if let Err(nobody) = &named {
            info!(%from, %nobody, "a client certificate names no caller");
        }
        let validity = Validity { terms, chain, expires };
        let until = async move {
            let reason = validity.ended().await.as_str();
            info!(%from, reason, "the certificate of a connection is no longer good");
        };
        Ok(Peer { caller: named.ok(), until: Box::pin(until) })
    }
}

impl Handshake for Arc<Tls> {
    type Io = TlsStream<TcpStream>;

    async fn shake(&self, socket: TcpStream) -> io::Result<(Self::Io, Peer)> {
        let from = socket.peer_addr()?;
        self.accept(socket, from).await.map_err(|refusal| {
            let reason = refusal.as_str();
            metrics::handshake_refused(reason);
            if refusal.is_of_a_certificate() {
                info!(%from, reason, "a client certificate is refused");
            } else {
                debug!(%from, reason, "a TLS handshake failed");
            }
            io::Error::from(io::ErrorKind::PermissionDenied)
        })
    }
}

/// How long the certificate of a living connection is good.
struct Validity {
    terms: watch::Receiver<Arc<Terms>>,
    chain: Vec<CertificateDer<'static>>,
    /// The last second of the leaf's, since 1970.
    expires: i64,
}

impl Validity {
    /// Waits until it is not any more: expired, revoked, or its CA is gone. Tells which.
    async fn ended(mut self) -> Refusal {
        loop {
            let left = Duration::from_secs(self.seconds_left().saturating_add(1));
            if let Ok(Err(_)) = timeout(left.min(VERIFY_AGAIN), self.terms.changed()).await {
                // Nobody reads the files any more: the service stops, and only time can end this.
                sleep(left.min(VERIFY_AGAIN)).await;
            }
            let terms = Arc::clone(&self.terms.borrow_and_update());
            let Some((leaf, intermediates)) = self.chain.split_first() else { return Refusal::NoCertificate };
            if let Err(error) = terms.clients.verify_client_cert(leaf, intermediates, UnixTime::now()) {
                return Refusal::of(&error);
            }
        }
    }

    /// Of the leaf's time.
    fn seconds_left(&self) -> u64 {
        u64::try_from(self.expires.saturating_sub(Timestamp::now().as_second())).unwrap_or(0)
    }
}

/// Reads the files again and again, for as long as somebody else holds what they are for.
async fn follow(tls: Weak<Tls>, files: Files, mut source: Source) {
    loop {
        sleep(POLL).await;
        let Some(tls) = tls.upgrade() else { return };
        let reader = files.clone();
        let Ok(readings) = tokio::task::spawn_blocking(move || reader.read()).await else { continue };
        if source.follow(readings, Timestamp::now()) {
            match source.terms() {
                Ok(terms) => drop(tls.terms.send_replace(terms)),
                Err(error) => error!(%error, "TLS files are good by themselves and not together; the last ones stay"),
            }
        }
    }
}

/// The last second of a certificate's time, since 1970.
fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

async fn linger(mut socket: TcpStream) {
    let rest = async {
        // Whoever has gone needs no answer.
        let _ = socket.shutdown().await;
        let _ = tokio::io::copy(&mut (&mut socket).take(LINGER_OCTETS), &mut tokio::io::sink()).await;
    };
    let _ = timeout(LINGER, rest).await;
}

#[cfg(test)]
#[path = "../../tests/integration/support/certificates.rs"]
mod certificates;
#[cfg(test)]
mod tests;
