//! The files that TLS needs, as they were last found good, and anew when they change.
//!
//! The server's pair and what clients are checked by are two sets, each taken by itself: a botched renewal of the one must not hold up a
//! revocation in the other. A set is taken as a whole, so the order in which its files are written does not matter.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;

use super::material::{ClientFiles, Clients, Content, PairFiles, TlsError, client_verifier, server_pair};
use super::pem::{self, FileError};
use super::reload::{Reading, Watched};

/// The files that TLS needs, each in PEM.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's chain, its own certificate first.
    pub certificate: PathBuf,
    /// Of the server's certificate.
    pub private_key: PathBuf,
    /// The CAs of client certificates.
    pub client_ca: PathBuf,
    /// Revocation lists: if there are any, of each of these CAs.
    pub client_crl: Option<PathBuf>,
}

/// What handshakes are made under, and living connections are held to.
pub(super) struct Terms {
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

/// What was found in the files.
pub(super) struct Readings {
    pair: Reading<PairFiles>,
    clients: Reading<ClientFiles>,
}

impl Files {
    /// Reads all of them. This blocks.
    pub(super) fn read(&self) -> Readings {
        Readings {
            pair: Reading::new(self.read_pair(), |files| vec![&files.certificate.octets, &files.key.octets]),
            clients: Reading::new(self.read_clients(), |files| {
                // None are as bad as those that can't be read.
                let authorities = files.authorities.as_ref().map_or(&[][..], |file| &file.octets);
                let lists = files.lists.as_ref().map(|lists| lists.octets.as_slice());
                std::iter::once(authorities).chain(lists).collect()
            }),
        }
    }

    fn read_pair(&self) -> Result<PairFiles, FileError> {
        let certificate = Content { path: self.certificate.clone(), octets: pem::read(&self.certificate)? };
        let key = Content { path: self.private_key.clone(), octets: pem::read_private(&self.private_key)? };
        Ok(PairFiles { certificate, key })
    }

    fn read_clients(&self) -> Result<ClientFiles, FileError> {
        let authorities = pem::read(&self.client_ca).map(|octets| Content { path: self.client_ca.clone(), octets });
        let lists = match &self.client_crl {
            Some(path) => Some(Content { path: path.clone(), octets: pem::read_lists(path)? }),
            None => None,
        };
        Ok(ClientFiles { authorities, lists })
    }
}

/// The last good sets.
pub(super) struct Source {
    provider: Arc<CryptoProvider>,
    pair: Arc<CertifiedKey>,
    clients: Clients,
    watched_pair: Watched,
    watched_clients: Watched,
}

impl Source {
    /// Takes the first readings, which have to be good.
    pub(super) fn new(provider: Arc<CryptoProvider>, readings: Readings, now: Timestamp) -> Result<Self, TlsError> {
        let watched_pair = Watched::new("certificate", &readings.pair);
        let watched_clients = Watched::new("clients", &readings.clients);
        let pair = server_pair(&readings.pair.found?, &provider, now)?;
        let clients = client_verifier(&readings.clients.found?, None, &provider, now)?;
        Ok(Self { provider, pair, clients, watched_pair, watched_clients })
    }

    /// Takes what has changed and is good, and tells whether there was any. Of a set of clients that is refused it takes the revocation
    /// lists that are newer than those in force.
    pub(super) fn follow(&mut self, readings: Readings, now: Timestamp) -> bool {
        let provider = &self.provider;
        let pair = self.watched_pair.change(readings.pair, |files| server_pair(files, provider, now));
        let (in_force, mut newer) = (&self.clients, None);
        let clients = self.watched_clients.change(readings.clients, |files| {
            client_verifier(files, Some(in_force), provider, now)
                .inspect_err(|_| newer = in_force.with_newer_lists(files, provider))
        });
        let clients = clients.or(newer);
        let changed = pair.is_some() || clients.is_some();
        if let Some(pair) = pair {
            self.pair = pair;
        }
        if let Some(clients) = clients {
            self.clients = clients;
        }
        changed
    }

    /// TLS 1.3 and HTTP/2 only, under these sets.
    pub(super) fn terms(&self) -> Result<Arc<Terms>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&self.clients.verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.pair))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        // No resumption: a resumed session skips the certificate, and so what has been revoked since. Without it, no early data.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(Terms { config: Arc::new(config), clients: Arc::clone(&self.clients.verifier) }))
    }
}
