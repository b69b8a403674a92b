//! Certificates of any octets; and calls of any octets, of every method of the protocol, through the service as it is: routes, decoder,
//! gate, handler and all below, over a store in memory and local factors. Only the connection is left out.

mod needles;
mod requests;
mod service;
mod structure;

use std::path::Path;

use jiff::Timestamp;
use tonic::Code;

use self::needles::{KEPT, SENT};
use self::requests::{Call, Method, calls};
use self::service::{Answer, Service};
use super::identity::Naming;
use super::status::is_reason;
use super::tls::TlsError;
use super::tls::fuzzing::client_files;
use crate::ids::TrustDomain;

/// Some calls, one after the other, on a service that has a few customers and credentials. `requests` says how octets become calls.
///
/// Whatever is asked, each answer is one that the protocol knows, no error tells what was sent or is kept, and what is kept is told by
/// the methods alone that are there for it.
pub fn rpc(octets: &[u8]) {
    service::block_on(async {
        let service = Service::start().await;
        for Call { method, message } in calls(octets) {
            let answer = service.call(method.path, message).await;
            check(method, &answer);
        }
        let lines = service.audit_lines();
        assert!(!KEPT.stand_in(lines.as_bytes()), "the audit log has a secret or a key that is kept");
        assert!(!SENT.stand_in(lines.as_bytes()), "the audit log has a secret that was sent");
    });
}

fn check(Method { path, shows_secrets, .. }: &Method, answer: &Answer) {
    let Answer { status, reason, .. } = answer;
    let code = status.code();
    // What is stored is good, and every path is served.
    let is_possible = !matches!(code, Code::Internal | Code::Unknown | Code::DataLoss | Code::Unimplemented);
    assert!(is_possible, "{path} answers {code:?}: {}", status.message());
    if code != Code::Ok {
        let text = status.message();
        assert!(
            is_reason(reason) || code == Code::DeadlineExceeded,
            "{path} answers {code:?} without a reason: {text}"
        );
        assert!(!answer.has(&SENT), "an error of {path} tells what was sent: {reason}");
    }
    let shows = *shows_secrets && code == Code::Ok;
    assert!(shows || !answer.has(&KEPT), "{path} tells a secret or a key that is kept: {code:?} {reason}");
}

/// A file in PEM (0), in each of the places where one is read; or a client's certificate in DER (all others). Why the files are refused.
pub(crate) fn certificate(octets: &[u8]) -> Vec<TlsError> {
    match octets.split_first() {
        Some((0, content)) => return client_files(Path::new("file.pem"), content, now()),
        Some((_, der)) => name_of(der),
        None => {}
    }
    Vec::new()
}

/// The corpus's certificates are good then, and for long.
fn now() -> Timestamp {
    Timestamp::constant(1_800_000_000, 0)
}

/// Whoever a certificate names has a name that can be written in one way alone.
fn name_of(der: &[u8]) {
    let Ok(trust_domain) = TrustDomain::parse("datasert.com") else { return };
    let naming = |allow_dns_names| Naming { trust_domain: trust_domain.clone(), allow_dns_names };
    let [strict, lax] = [false, true].map(|lax| naming(lax).caller(der));
    if let Ok(caller) = &strict {
        let path = caller.as_str().strip_prefix("spiffe://datasert.com/");
        let allowed = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_' | b'/');
        assert!(path.is_some_and(|path| path.bytes().all(allowed)), "a caller of another form");
        assert!(lax.as_ref() == Ok(caller), "a SPIFFE id depends on whether DNS names are allowed");
    }
    if let Ok(caller) = lax
        && strict.is_err()
    {
        let name = caller.as_str().strip_prefix("dns:");
        let allowed = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b".-_".contains(&octet);
        assert!(name.is_some_and(|name| !name.is_empty() && name.bytes().all(allowed)), "a caller of another form");
    }
}

#[cfg(test)]
mod tests;
