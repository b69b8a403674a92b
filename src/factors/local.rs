//! Factors from files, for development: the environment keys in the form of the secret, and a stand-in for KMS.
//!
//! Both files are read only if nobody but their owner may. The service makes and writes neither; [`create`] makes new files,
//! and only where there is none, and [`DocumentFile`] changes key documents for whoever rotates.

mod replacing;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

pub use replacing::DocumentFile;

use super::document::{DocumentError, Form, KeyDocument, MAX_DOCUMENT_OCTETS};
use super::{EnvironmentSource, FactorError, KeySet, KeyWrapper, WrapContext, WrappedKey};
use crate::crypto::{CustomerKey, Environment, LocalWrappingKey, Salt, fingerprint, unwrap_local, wrap_local};
use crate::randomness::NoRandomness;

/// Why a key file was not read.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is not there.
    #[error("{0} is not there")]
    Absent(PathBuf),
    /// The system does not permit it.
    #[error("{0} can't be read: {1}")]
    Io(PathBuf, io::Error),
    /// Others than its owner may read or change it.
    #[error("{0} is open to others than its owner (mode {1:04o}): type `chmod 600 {0}`")]
    OpenToOthers(PathBuf, u32),
    /// It is a directory, or too long, or no text.
    #[error("{0} is no key file: {1}")]
    NotAKeyFile(PathBuf, &'static str),
    /// It is not of its form.
    #[error("{0}: {1}")]
    Document(PathBuf, DocumentError),
}

/// The environment keys in a file.
pub struct EnvironmentFile {
    path: PathBuf,
}

impl EnvironmentFile {
    /// Names the file. It is read when it is asked for.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl EnvironmentSource for EnvironmentFile {
    async fn fetch(&self) -> Result<KeySet<Environment>, FactorError> {
        let path = self.path.clone();
        let read = move || read_document(Form::Environment, &path);
        let document =
            tokio::task::spawn_blocking(read).await.map_err(|_| FactorError::Away("the reader stopped".into()))?;
        let document = document.map_err(|error| factor_error(&error))?;
        KeySet::from_document(document).ok_or_else(|| FactorError::Corrupt("the document has no primary".into()))
    }
}

fn factor_error(error: &KeyFileError) -> FactorError {
    match error {
        KeyFileError::Absent(_) => FactorError::Absent(error.to_string()),
        KeyFileError::Io(_, io) if io.kind() == io::ErrorKind::PermissionDenied => {
            FactorError::Refused(error.to_string())
        }
        KeyFileError::Io(..) => FactorError::Away(error.to_string()),
        KeyFileError::OpenToOthers(..) => FactorError::Refused(error.to_string()),
        KeyFileError::NotAKeyFile(..) | KeyFileError::Document(..) => FactorError::Corrupt(error.to_string()),
    }
}

/// The stand-in for KMS: one wrapping key from a file.
pub struct LocalWrapper {
    key: LocalWrappingKey,
    name: String,
}

impl LocalWrapper {
    /// Reads the wrapping key: the base64 of 32 octets.
    ///
    /// # Errors
    /// A [`KeyFileError`] that names the file, and never what stands in it.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let text = read_key_file(path)?;
        let bad = || KeyFileError::NotAKeyFile(path.to_owned(), "it must hold the base64 of 32 octets, with padding");
        let mut octets = Zeroizing::new([0; 32]);
        let decoded = Base64::decode(text.trim_end_matches('\n'), octets.as_mut()).map_err(|_| bad())?.len();
        if decoded != 32 || *octets == [0; 32] {
            return Err(bad());
        }
        Ok(Self::of(LocalWrappingKey::new(octets)))
    }

    pub(crate) fn of(key: LocalWrappingKey) -> Self {
        let name = format!("local:{:032x}", u128::from_be_bytes(fingerprint(&key).0));
        Self { key, name }
    }

    fn wrap(&self, context: &WrapContext<'_>, key: &CustomerKey) -> Result<WrappedKey, FactorError> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(NoRandomness::from)?;
        let octets = wrap_local(&self.key, &associated_data(context), Salt::new(salt), key);
        Ok(WrappedKey { octets, kms_key_arn: self.name.clone() })
    }
}

impl From<NoRandomness> for FactorError {
    fn from(error: NoRandomness) -> Self {
        Self::Away(error.to_string())
    }
}

#[async_trait]
impl KeyWrapper for LocalWrapper {
    async fn wrap_new(&self, context: &WrapContext<'_>) -> Result<WrappedKey, FactorError> {
        let mut octets = Zeroizing::new([0; 32]);
        getrandom::fill(octets.as_mut()).map_err(NoRandomness::from)?;
        self.wrap(context, &CustomerKey::new(octets))
    }

    async fn unwrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<CustomerKey, FactorError> {
        if wrapped.kms_key_arn != self.name {
            return Err(FactorError::Refused(format!("the key is not wrapped under {}", self.name)));
        }
        unwrap_local(&self.key, &associated_data(context), &wrapped.octets)
            .map_err(|_| FactorError::Corrupt("the key was not wrapped for this context".into()))
    }

    async fn rewrap(&self, context: &WrapContext<'_>, wrapped: &WrappedKey) -> Result<WrappedKey, FactorError> {
        self.wrap(context, &self.unwrap(context, wrapped).await?)
    }

    fn wraps_with(&self) -> &str {
        &self.name
    }
}

/// The context's entries, each part preceded by its length in octets (u16).
fn associated_data(context: &WrapContext<'_>) -> Vec<u8> {
    let entries = context.entries();
    let parts = entries.iter().flat_map(|(name, value)| [*name, value.as_str()]);
    // Ids have at most 128 octets.
    parts.flat_map(|part| [&(part.len() as u16).to_be_bytes()[..], part.as_bytes()].concat()).collect()
}

/// Reads a key document from a file.
///
/// # Errors
/// A [`KeyFileError`] that names the file and the field, and never a value.
fn read_document(form: Form, path: &Path) -> Result<KeyDocument, KeyFileError> {
    let text = read_key_file(path)?;
    KeyDocument::parse(form, &text).map_err(|error| KeyFileError::Document(path.to_owned(), error))
}

fn read_key_file(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => KeyFileError::Absent(path.to_owned()),
        _ => KeyFileError::Io(path.to_owned(), error),
    };
    // Before it is opened: a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(KeyFileError::NotAKeyFile(path.to_owned(), "it is no regular file"));
    }
    let file = File::open(path).map_err(io)?;
    let about = file.metadata().map_err(io)?;
    if about.mode() & 0o077 != 0 {
        return Err(KeyFileError::OpenToOthers(path.to_owned(), about.mode() & 0o7777));
    }
    // Of its final size from the start, so that it does not grow and leave a copy behind.
    let limit = MAX_DOCUMENT_OCTETS + 1;
    let mut octets = Zeroizing::new(Vec::with_capacity(limit + 1));
    file.take(limit as u64).read_to_end(&mut octets).map_err(io)?;
    if octets.len() == limit {
        return Err(KeyFileError::NotAKeyFile(path.to_owned(), "it is too long"));
    }
    let text = String::from_utf8(std::mem::take(&mut *octets)).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        KeyFileError::NotAKeyFile(path.to_owned(), "it is not UTF-8")
    })?;
    Ok(Zeroizing::new(text))
}

/// Makes a new file of mode 0600, whole or not at all: it is written under another name, synced, and linked to its own, which
/// fails if something stands there.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if the file is there; it is not touched. Others are the system's.
pub fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{:016x}.new", getrandom::u64().map_err(io::Error::from)?));
    let temporary = directory.join(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let made = file
        .write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::hard_link(&temporary, path))
        .and_then(|()| File::open(directory)?.sync_all());
    std::fs::remove_file(&temporary)?;
    made
}

#[cfg(test)]
mod tests;
