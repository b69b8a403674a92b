//! Certificates, keys and revocation lists as they stand in files: bounded, whole, and in PEM. What they are good for is not
//! looked at here.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Of certificates and of a private key: many times what is usual.
const MAX_OCTETS: u64 = 1 << 20;
/// Of revocation lists: about 200,000 entries.
const MAX_LIST_OCTETS: u64 = 8 << 20;

/// Why a file was not read, or is not what it should be. No text has anything from inside the file.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("{0} is not there")]
    Absent(PathBuf),
    /// The system does not permit it.
    #[error("{0} can't be read: {1}")]
    Io(PathBuf, io::ErrorKind),
    /// Others may read or change the private key.
    #[error("{0} is open to others (mode {1:04o}): type `chmod 600 {0}`, or 640 for a group that may read it")]
    OpenToOthers(PathBuf, u32),
    /// It is a directory, or too long, or not PEM.
    #[error("{0}: {1}")]
    Unusable(PathBuf, &'static str),
}

/// The content of a file of certificates, or of revocation lists. It is wiped when dropped, as a private key's is.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_at_most(MAX_OCTETS, path, open(path)?)
}

/// The content of a file of revocation lists.
pub(super) fn read_lists(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_at_most(MAX_LIST_OCTETS, path, open(path)?)
}

/// The content of a private key's file. Its owner may be root and its group the service's, so the group may read it; nobody else
/// may, and only the owner may write.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|error| FileError::Io(path.to_owned(), error.kind()))?.mode();
    if mode & 0o037 != 0 {
        return Err(FileError::OpenToOthers(path.to_owned(), mode & 0o7777));
    }
    read_at_most(MAX_OCTETS, path, file)
}

/// A chain, or a bundle of CAs.
///
/// # Errors
/// A [`FileError`] that names the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    parse_certificates(path, &read(path)?)
}

/// The one private key of a file that others can't read.
///
/// # Errors
/// A [`FileError`] that names the file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    parse_private_key(path, &read_private(path)?)
}

pub(super) fn parse_certificates(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let unusable = |problem| FileError::Unusable(path.to_owned(), problem);
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(content) {
        match section.map_err(|error| unusable(not_pem(&error)))? {
            (SectionKind::Certificate, der) => found.push(CertificateDer::from(der)),
            (SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, der) => {
                drop(Zeroizing::new(der));
                return Err(unusable("holds a private key where only certificates belong"));
            }
            (_, _) => return Err(unusable("holds something else than certificates")),
        }
    }
    if found.is_empty() { Err(unusable("holds no certificate in PEM")) } else { Ok(found) }
}

pub(super) fn parse_private_key(path: &Path, content: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    let unusable = |problem| FileError::Unusable(path.to_owned(), problem);
    let mut keys = PrivateKeyDer::pem_slice_iter(content);
    let key = match keys.next() {
        None => return Err(unusable("holds no private key in PEM, unencrypted")),
        Some(key) => key.map_err(|error| unusable(not_pem(&error)))?,
    };
    if keys.next().is_some() { Err(unusable("holds more than one private key")) } else { Ok(key) }
}

pub(super) fn parse_lists(
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    let lists = CertificateRevocationListDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>();
    match lists {
        Ok(lists) if lists.is_empty() => Err(FileError::Unusable(
            path.to_owned(),
            "holds no revocation list in PEM (from DER: openssl crl -inform DER -in FILE)",
        )),
        Ok(lists) => Ok(lists),
        Err(error) => Err(FileError::Unusable(path.to_owned(), not_pem(&error))),
    }
}

/// The library's own text could repeat a line of the file.
fn not_pem(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "ends within a PEM section",
        _ => "is damaged PEM",
    }
}

fn open(path: &Path) -> Result<File, FileError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Absent(path.to_owned()),
        kind => FileError::Io(path.to_owned(), kind),
    };
    // Before it is opened: a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(FileError::Unusable(path.to_owned(), "is no regular file"));
    }
    File::open(path).map_err(io)
}

fn read_at_most(limit: u64, path: &Path, file: File) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let io = |error: io::Error| FileError::Io(path.to_owned(), error.kind());
    // Of its final size from the start, so that it does not grow and leave a copy of a key behind.
    let length = file.metadata().map_err(io)?.len().min(limit) as usize;
    let mut content = Zeroizing::new(Vec::with_capacity(length + 2));
    file.take(limit + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > limit { Err(FileError::Unusable(path.to_owned(), "is too long")) } else { Ok(content) }
}
