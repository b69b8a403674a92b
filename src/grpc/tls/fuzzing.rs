//! Files in PEM of any octets, as each of the files that TLS needs.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::material::{ClientFiles, Content, PairFiles, TlsError, client_verifier, server_pair};

/// Certificates, and after a NUL their revocation lists or their private key. Tells why they were refused.
pub(in crate::grpc) fn client_files(path: &Path, content: &[u8], now: Timestamp) -> Vec<TlsError> {
    let at = content.iter().position(|octet| *octet == 0).unwrap_or(content.len());
    let (certificates, rest) = content.split_at(at);
    let file = |octets: &[u8]| Content { path: path.to_owned(), octets: Zeroizing::new(octets.to_vec()) };
    let beside = rest.get(1..).unwrap_or_default();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients = |lists| {
        let files = ClientFiles { authorities: Ok(file(certificates)), lists };
        client_verifier(&files, None, &provider, now).err()
    };
    let pair = PairFiles { certificate: file(certificates), key: file(beside) };
    let refused = [clients(None), clients(Some(file(beside))), server_pair(&pair, &provider, now).err()];
    refused.into_iter().flatten().collect()
}
