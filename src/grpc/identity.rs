//! Who calls: the name in a client certificate, as a [`Caller`].
//!
//! Whether the certificate is good (its chain, its time, whether it was revoked) is `tls.rs`'s to say, and has been said
//! before anything here is asked. What a caller may do is decided elsewhere.

use tonic::{Request, Status};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_BASIC_CONSTRAINTS;
use x509_parser::prelude::FromDer;

use super::status;
use crate::ids::{Caller, TrustDomain};

/// SPIFFE-ID, 2.3.
const MAX_SPIFFE_ID_OCTETS: usize = 2048;

/// The caller of a request.
///
/// # Errors
/// UNAUTHENTICATED, NO_CLIENT_CERTIFICATE, if nobody can be held responsible for it.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(status::no_client_certificate)
}

/// Which names are callers.
#[derive(Clone, Debug)]
pub struct Naming {
    /// Of the SPIFFE ids.
    pub trust_domain: TrustDomain,
    /// Whether a certificate without any URI may name a caller by its one DNS name.
    pub allow_dns_names: bool,
}

/// Why a certificate names nobody. No variant repeats what the certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Nobody {
    #[error("the certificate can't be read")]
    Unreadable,
    #[error("it is a CA's certificate")]
    Authority,
    #[error("its key usage does not permit digital signatures, or permits to sign certificates or revocation lists")]
    KeyUsage,
    #[error("it lacks the extended key usage clientAuth")]
    NotForClients,
    #[error("it has no URI name")]
    NoUri,
    #[error("it has several URI names")]
    SeveralUris,
    #[error("its URI name is no SPIFFE id with a path")]
    NoSpiffeId,
    #[error("its SPIFFE id is of another trust domain")]
    OtherTrustDomain,
    #[error("it has not exactly one DNS name, in lower case and without a wildcard")]
    NoDnsName,
}

impl Naming {
    /// The one caller that a certificate names: the SPIFFE id that is its only URI, of the configured trust domain, and of a leaf
    /// for clients (X509-SVID, 5.2); or `dns:NAME`, if that is allowed and there is no URI.
    pub(super) fn caller(&self, certificate: &[u8]) -> Result<Caller, Nobody> {
        let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| Nobody::Unreadable)?;
        if !rest.is_empty() {
            return Err(Nobody::Unreadable);
        }
        require_client_leaf(&certificate)?;

        let names = certificate.subject_alternative_name().map_err(|_| Nobody::Unreadable)?;
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(name) => dns_names.push(*name),
                GeneralName::Invalid(..) => return Err(Nobody::Unreadable),
                GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
        match (uris.as_slice(), dns_names.as_slice()) {
            ([id], _) => self.spiffe_caller(id),
            ([], [name]) if self.allow_dns_names => dns_caller(name),
            ([], _) if self.allow_dns_names => Err(Nobody::NoDnsName),
            ([], _) => Err(Nobody::NoUri),
            ([_, _, ..], _) => Err(Nobody::SeveralUris),
        }
    }

    /// `spiffe://TRUST-DOMAIN/SEGMENT[/SEGMENT…]` (SPIFFE-ID, 2): there is one way to write an id, so none is normalized.
    fn spiffe_caller(&self, id: &str) -> Result<Caller, Nobody> {
        let (authority, path) =
            id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or(Nobody::NoSpiffeId)?;
        let trust_domain = TrustDomain::parse(authority).map_err(|_| Nobody::NoSpiffeId)?;
        if id.len() > MAX_SPIFFE_ID_OCTETS || !path.split('/').all(is_segment) {
            return Err(Nobody::NoSpiffeId);
        }
        if trust_domain == self.trust_domain { Ok(Caller::new(id)) } else { Err(Nobody::OtherTrustDomain) }
    }
}

fn is_segment(segment: &str) -> bool {
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_');
    !segment.is_empty() && segment.bytes().all(allowed) && !matches!(segment, "." | "..")
}

/// DNS names are compared without regard to case, callers are not: one spelling is taken, and no wildcard.
fn dns_caller(name: &str) -> Result<Caller, Nobody> {
    let canonical = !name.ends_with('.') && !name.bytes().any(|octet| octet.is_ascii_uppercase());
    let is_name = rustls::pki_types::DnsName::try_from(name).is_ok();
    if canonical && is_name { Ok(Caller::new(&format!("dns:{name}"))) } else { Err(Nobody::NoDnsName) }
}

/// A leaf that may sign (RFC 8446, 4.4.2.2, of a key usage that is there; X509-SVID, 4.3) and is meant for clients.
fn require_client_leaf(certificate: &X509Certificate<'_>) -> Result<(), Nobody> {
    let constraints =
        certificate.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS).map_err(|_| Nobody::Unreadable)?;
    match constraints.map(|extension| extension.parsed_extension()) {
        None => {}
        Some(ParsedExtension::BasicConstraints(constraints)) if !constraints.ca => {}
        Some(ParsedExtension::BasicConstraints(_)) => return Err(Nobody::Authority),
        Some(_) => return Err(Nobody::Unreadable),
    }
    let usage = certificate.key_usage().map_err(|_| Nobody::Unreadable)?;
    if usage
        .is_some_and(|usage| !usage.value.digital_signature() || usage.value.key_cert_sign() || usage.value.crl_sign())
    {
        return Err(Nobody::KeyUsage);
    }
    let purposes = certificate.extended_key_usage().map_err(|_| Nobody::Unreadable)?;
    if purposes.is_some_and(|purposes| purposes.value.client_auth) { Ok(()) } else { Err(Nobody::NotForClients) }
}

#[cfg(test)]
mod tests;
