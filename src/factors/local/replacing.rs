//! A key document in a file, for whoever changes it: another one takes its place whole or not at all.
//!
//! The new one is written beside it, synced and renamed over it, with its mode and its owner. Whoever changes one holds a lock on the
//! folder meanwhile: one on the file would be one on what was renamed away. The system releases it when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{factor_error, read_key_file};
use crate::factors::FactorError;
use crate::factors::document::{Form, KeyDocument};
use crate::factors::rotation::{DocumentSource, Fetched, Mark, ReplaceError, Successor};

/// A key document in a file.
pub struct DocumentFile {
    form: Form,
    path: PathBuf,
}

impl DocumentFile {
    /// Names the file, or a link to it.
    pub fn new(form: Form, path: PathBuf) -> Self {
        Self { form, path }
    }

    fn read(&self) -> Result<Fetched, FactorError> {
        let text = read_key_file(&self.path).map_err(|error| factor_error(&error))?;
        let document = KeyDocument::parse(self.form, &text)
            .map_err(|error| FactorError::Corrupt(format!("{}: {error}", self.path.display())))?;
        Ok(Fetched { document, mark: Mark::new(text), former_primary: None })
    }

    fn write(&self, fetched: &Mark, text: &str) -> Result<(), ReplaceError> {
        // Of a link, what it leads to: the link itself stays.
        let path = self.path.canonicalize().map_err(|error| self.failed(&error))?;
        let folder = path.parent().ok_or_else(|| self.failed(&io::ErrorKind::InvalidInput.into()))?;
        let lock = File::open(folder).map_err(|error| self.failed(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ReplaceError::Changed),
            Err(TryLockError::Error(error)) => return Err(self.failed(&error).into()),
        }
        if !self.read()?.mark.is_same(fetched) {
            return Err(ReplaceError::Changed);
        }
        write_over(&path, folder, text.as_bytes()).map_err(|error| self.failed(&error).into())
    }

    fn failed(&self, error: &io::Error) -> FactorError {
        let text = format!("{} can't be replaced: {error}", self.path.display());
        if error.kind() == io::ErrorKind::PermissionDenied {
            FactorError::Refused(text)
        } else {
            FactorError::Away(text)
        }
    }
}

/// Under the lock: what is called as the new file will be is left of somebody who died.
fn write_over(path: &Path, folder: &Path, octets: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = folder.join(name);
    match std::fs::remove_file(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let written = write_new(path, &new, octets)
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        // After the renaming there is none. Otherwise the next one removes it.
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, new: &Path, octets: &[u8]) -> io::Result<()> {
    let before = std::fs::metadata(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
    }
    file.set_permissions(before.permissions())?;
    file.write_all(octets)?;
    file.sync_all()
}

#[async_trait]
impl DocumentSource for DocumentFile {
    async fn fetch(&self) -> Result<Fetched, FactorError> {
        self.read()
    }

    async fn replace(&self, fetched: &Mark, successor: &Successor) -> Result<Mark, ReplaceError> {
        let text = successor.document().to_json(self.form);
        self.write(fetched, &text)?;
        Ok(Mark::new(text))
    }

    async fn finish(&self, _: &Mark) -> Result<(), FactorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
