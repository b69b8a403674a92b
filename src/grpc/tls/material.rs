//! What the service shows to its callers and what it asks of them, made of the files' contents and of nothing else. An edit that
//! would leave the service without callers is refused here, while the last good set serves on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use tracing::{error, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use zeroize::Zeroizing;

use super::pem::{self, FileError};
use super::revocation::InForce;
use crate::telemetry::metrics;

/// Why files are refused. Each names the file and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or is not PEM.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate is none, counted from 1.
    #[error("{0}: certificate {1} can't be read")]
    Unreadable(PathBuf, usize),
    /// The server's certificate is not good now.
    #[error("{path}: the certificate is good from {from} until {until}, and not now ({now})")]
    NotNow {
        /// Of the certificate.
        path: PathBuf,
        /// Its first second.
        from: Timestamp,
        /// Its last second.
        until: Timestamp,
        /// The system's time.
        now: Timestamp,
    },
    /// The server's certificate is for something else.
    #[error("{0}: the certificate is not for servers: it has an extended key usage without serverAuth")]
    NotForServers(PathBuf),
    /// Certificate and key are two pairs' halves.
    #[error("{key} is not the key of the certificate in {certificate}")]
    AnotherKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No TLS 1.3 signature can be made with the key.
    #[error(
        "{0}: the key is damaged, or of a kind that is not known here: use ECDSA P-256, Ed25519 or RSA of 2048 bits"
    )]
    Key(PathBuf),
    /// A bundle holds a certificate that may not sign others.
    #[error("{0}: certificate {1} is no CA's, and whatever its key signed would be trusted")]
    NotAnAuthority(PathBuf, usize),
    /// A revocation list is none, counted from 1.
    #[error("{0}: revocation list {1} can't be read")]
    ListUnreadable(PathBuf, usize),
    /// Two lists of one issuer: only the first would be looked at.
    #[error("{0}: revocation lists {1} and {2} are of the same issuer: keep the newer one")]
    ListTwice(PathBuf, usize, usize),
    /// A CA has no list, so that none of its certificates would be known to be good.
    #[error(
        "{lists} has no revocation list signed by certificate {authority} of {authorities}: each CA needs one, even if it is empty"
    )]
    ListMissing {
        /// The revocation lists' file.
        lists: PathBuf,
        /// Which CA, counted from 1.
        authority: usize,
        /// The CAs' file.
        authorities: PathBuf,
    },
    /// A list is older than the one in force: what was revoked since would be taken back.
    #[error("{0}: revocation list {1} is older than the one in force: put the newest one there")]
    ListOlder(PathBuf, usize),
    /// rustls refuses what passed all of the above.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The same, of what clients are checked by.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A file's path and content.
pub(super) struct Content {
    pub(super) path: PathBuf,
    pub(super) octets: Zeroizing<Vec<u8>>,
}

/// The server's chain and its key, in their files.
pub(super) struct PairFiles {
    pub(super) certificate: Content,
    pub(super) key: Content,
}

/// What client certificates are checked by, in its files. Lists are looked at also if the CAs can't be read.
pub(super) struct ClientFiles {
    pub(super) authorities: Result<Content, FileError>,
    pub(super) lists: Option<Content>,
}

/// What client certificates are checked by.
pub(super) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    bundle: Vec<CertificateDer<'static>>,
    lists: Option<Vec<CertificateRevocationListDer<'static>>>,
}

/// The server's certificate chain with its key: good now, for servers, and a pair.
pub(super) fn server_pair(
    PairFiles { certificate, key }: &PairFiles,
    provider: &CryptoProvider,
    now: Timestamp,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = pem::parse_certificates(&certificate.path, &certificate.octets)?;
    let parsed = chain.iter().enumerate().map(|(position, der)| parse(&certificate.path, position, der));
    let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
    let leaf = parsed.first().ok_or_else(|| TlsError::Unreadable(certificate.path.clone(), 1))?;
    check_server(&certificate.path, leaf, now)?;
    let expires = leaf.validity().not_after.timestamp();
    let private = pem::parse_private_key(&key.path, &key.octets)?;
    match CertifiedKey::from_der(chain, private, provider) {
        Ok(pair) => {
            metrics::tls_expiry("certificate", expires);
            Ok(Arc::new(pair))
        }
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::AnotherKey { certificate: certificate.path.clone(), key: key.path.clone() })
        }
        Err(_) => Err(TlsError::Key(key.path.clone())),
    }
}

fn check_server(path: &Path, certificate: &X509Certificate<'_>, now: Timestamp) -> Result<(), TlsError> {
    let unreadable = || TlsError::Unreadable(path.to_owned(), 1);
    let instant =
        |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|_| unreadable());
    let validity = certificate.validity();
    let (from, until) = (instant(validity.not_before)?, instant(validity.not_after)?);
    if now < from || now.as_second() > until.as_second() {
        return Err(TlsError::NotNow { path: path.to_owned(), from, until, now });
    }
    let purposes = certificate.extended_key_usage().map_err(|_| unreadable())?;
    if purposes.is_some_and(|purposes| !purposes.value.server_auth) {
        return Err(TlsError::NotForServers(path.to_owned()));
    }
    Ok(())
}

/// What client certificates are checked by: the CAs, and their revocation lists if there are any, none of which may be older than the
/// one that is in force.
///
/// With lists, each certificate of a chain has to be known to be good: one whose issuer has no list, or one that has passed its
/// next update, is refused.
pub(super) fn client_verifier(
    ClientFiles { authorities, lists }: &ClientFiles,
    in_force: Option<&Clients>,
    provider: &Arc<CryptoProvider>,
    now: Timestamp,
) -> Result<Clients, TlsError> {
    let authorities = authorities.as_ref().map_err(Clone::clone)?;
    let bundle = pem::parse_certificates(&authorities.path, &authorities.octets)?;
    let mut expired = Vec::new();
    for (position, der) in bundle.iter().enumerate() {
        let certificate = parse(&authorities.path, position, der)?;
        let may_sign = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
        if !certificate.is_ca() || !may_sign {
            return Err(TlsError::NotAnAuthority(authorities.path.clone(), position + 1));
        }
        if now.as_second() > certificate.validity().not_after.timestamp() {
            expired.push((&authorities.path, position + 1, AUTHORITY_EXPIRED));
        }
    }
    let mut first_end = None;
    let mut checked = None;
    if let Some(lists) = lists {
        let ders = pem::parse_lists(&lists.path, &lists.octets)?;
        let ends = check_lists(authorities, &bundle, lists, &ders, provider)?;
        let by = |list: &CertificateRevocationList<'_>, ca: &X509Certificate<'_>| is_signed_by(list, ca, provider);
        if let Some(older) = in_force.and_then(|clients| clients.in_force().older_one(&ders, by)) {
            return Err(TlsError::ListOlder(lists.path.clone(), older + 1));
        }
        let gone = ends.iter().enumerate().filter(|(_, end)| now.as_second() > **end);
        expired.extend(gone.map(|(position, _)| (&lists.path, position + 1, LIST_EXPIRED)));
        first_end = ends.into_iter().min();
        checked = Some(ders);
    }
    let clients = Clients::new(bundle, checked, provider)?;
    if let Some(end) = first_end {
        metrics::tls_expiry("revocation_list", end);
    }
    for (path, number, what) in expired {
        warn!(path = %path.display(), number, what);
    }
    Ok(clients)
}

impl Clients {
    fn new(
        bundle: Vec<CertificateDer<'static>>,
        lists: Option<Vec<CertificateRevocationListDer<'static>>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for der in &bundle {
            roots.add(der.clone())?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let Some(lists) = &lists {
            builder = builder.with_crls(lists.iter().cloned()).enforce_revocation_expiration();
        }
        Ok(Self { verifier: builder.build()?, bundle, lists })
    }

    fn in_force(&self) -> InForce<'_> {
        InForce { bundle: &self.bundle, lists: self.lists.as_deref().unwrap_or_default() }
    }

    /// These, with each list of the refused files that one of their CAs signed and that is newer than its last. `None`: there is none.
    pub(super) fn with_newer_lists(&self, refused: &ClientFiles, provider: &Arc<CryptoProvider>) -> Option<Self> {
        let by = |list: &CertificateRevocationList<'_>, ca: &X509Certificate<'_>| is_signed_by(list, ca, provider);
        let content = refused.lists.as_ref()?;
        let mut newer: Option<Self> = None;
        for der in CertificateRevocationListDer::pem_slice_iter(&content.octets).flatten() {
            let clients = newer.as_ref().unwrap_or(self);
            let lists = clients.in_force().with_newer(&der, by);
            // One that rustls does not take leaves the others in place.
            if let Some(taken) = lists.and_then(|lists| Self::new(self.bundle.clone(), Some(lists), provider).ok()) {
                newer = Some(taken);
            }
        }
        if let Some(end) = newer.as_ref().and_then(Self::first_end) {
            let path = content.path.display();
            error!(%path, "of TLS files that are refused, the newer revocation lists are taken all the same");
            metrics::tls_expiry("revocation_list", end);
        }
        newer
    }

    /// The last second of the list that expires first.
    fn first_end(&self) -> Option<i64> {
        let end = |der| Some(CertificateRevocationList::from_der(der).ok()?.1.next_update()?.timestamp());
        self.lists.iter().flatten().filter_map(|der| end(der)).min()
    }
}

/// The standard (RFC 5280, 6.1) does not look at a trust anchor's time, so neither does rustls.
const AUTHORITY_EXPIRED: &str = "a CA has expired and is trusted still: take it out of the bundle";
const LIST_EXPIRED: &str = "a revocation list has expired: all clients of its CA are refused";

/// Each CA has exactly one list that it signed. Lists of other issuers are those of intermediate CAs, whose certificates come with
/// the clients'; they are checked then. Tells the last second of each list.
fn check_lists(
    authorities: &Content,
    bundle: &[CertificateDer<'_>],
    lists: &Content,
    ders: &[CertificateRevocationListDer<'_>],
    provider: &CryptoProvider,
) -> Result<Vec<i64>, TlsError> {
    let mut parsed: Vec<CertificateRevocationList<'_>> = Vec::with_capacity(ders.len());
    for (position, der) in ders.iter().enumerate() {
        let list = match CertificateRevocationList::from_der(der) {
            Ok(([], list)) => list,
            Ok(_) | Err(_) => return Err(TlsError::ListUnreadable(lists.path.clone(), position + 1)),
        };
        if let Some(first) = parsed.iter().position(|other| other.issuer().as_raw() == list.issuer().as_raw()) {
            return Err(TlsError::ListTwice(lists.path.clone(), first + 1, position + 1));
        }
        parsed.push(list);
    }
    for (position, der) in bundle.iter().enumerate() {
        let certificate = parse(&authorities.path, position, der)?;
        let list = parsed.iter().find(|list| list.issuer().as_raw() == certificate.subject().as_raw());
        if !list.is_some_and(|list| is_signed_by(list, &certificate, provider)) {
            let (lists, authorities) = (lists.path.clone(), authorities.path.clone());
            return Err(TlsError::ListMissing { lists, authority: position + 1, authorities });
        }
    }
    // A list without an end is refused by rustls.
    Ok(parsed.iter().filter_map(|list| Some(list.next_update()?.timestamp())).collect())
}

/// Whether any of the algorithms by which chains are verified finds the signature good. At each handshake rustls verifies it again,
/// by the one that the list names.
fn is_signed_by(list: &CertificateRevocationList<'_>, issuer: &X509Certificate<'_>, provider: &CryptoProvider) -> bool {
    let (key, signature) = (&issuer.public_key().subject_public_key.data, &list.signature_value.data);
    let algorithms = provider.signature_verification_algorithms.all;
    algorithms.iter().any(|algorithm| algorithm.verify_signature(key, list.tbs_cert_list.as_ref(), signature).is_ok())
}

fn parse<'a>(path: &Path, position: usize, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, TlsError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(TlsError::Unreadable(path.to_owned(), position + 1)),
    }
}
