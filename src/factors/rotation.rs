//! What may become of a key document, in pure code: a version is added, made the primary, retired, or opened again. And the port of where a document
//! stands, for whoever changes it.
//!
//! Add, then promote: between the two everyone reads the document, so that nothing is ever sealed under a version that another replica
//! lacks. Each change is one conditional write, and no change removes a version. It knows no service: whether a record is still under
//! a version, somebody else has found out.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::FactorError;
use super::document::{Form, KeyDocument, KeyEntry, KeyState, MAX_DOCUMENT_OCTETS};

/// What a replica that sealed under a version may have under way, once it does not any more: no version of any factor is retired sooner. A
/// call has 10 s; the rest is a margin, since nothing that is sealed later would open.
pub const UNDER_WAY: Duration = Duration::from_secs(60);

/// What comes next for a document that is to be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A version is to be added.
    Add,
    /// This version was added, and is to be made the primary once everyone has read it.
    Promote(u32),
    /// Whoever promoted the primary did not come to the end: that is all that is left to do.
    Finish,
}

/// A document that may take the place of the one that it was made of. Nothing else is ever written.
pub struct Successor {
    document: KeyDocument,
    version: u32,
}

/// Why a document can't be changed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// There is none.
    #[error("there is no version {0}")]
    NoSuchVersion(u32),
    /// Nothing could be sealed any more.
    #[error("version {0} is the primary")]
    IsPrimary(u32),
    /// It is to become the primary.
    #[error("version {0} was added and has not been the primary yet")]
    NotYetPrimary(u32),
    /// It was done before.
    #[error("version {0} is retired already")]
    IsRetired(u32),
    /// It opens.
    #[error("version {0} is not retired")]
    IsNotRetired(u32),
    /// The document does not say it.
    #[error("nobody knows since when version {0} is no longer the primary")]
    SinceUnknown(u32),
    /// Somebody may still seal under it.
    #[error("a replica may still seal under version {version}")]
    TooEarly {
        /// Which.
        version: u32,
        /// From then on it may be retired.
        until: Timestamp,
    },
    /// There is no version that was added.
    #[error("no version was added that is not the primary yet")]
    NothingAdded,
    /// The document holds as many versions as it can.
    #[error("the document would be longer than {MAX_DOCUMENT_OCTETS} octets")]
    TooLong,
}

impl KeyDocument {
    /// What a rotation does next. `former`: [`Fetched::former_primary`].
    pub fn next(&self, former: Option<u32>) -> Next {
        match self.added() {
            Some(version) => Next::Promote(version),
            None if former.is_some_and(|former| former != self.primary) => Next::Finish,
            None => Next::Add,
        }
    }

    /// The version that was added and is not the primary yet. Of several, which nobody but a person has made, the last: they are all there
    /// to be read.
    pub fn added(&self) -> Option<u32> {
        let enabled = self.keys.iter().filter(|entry| entry.state == KeyState::Enabled);
        enabled.map(|entry| entry.version).max().filter(|version| *version > self.primary)
    }

    /// The former primary: the one before the present.
    pub fn former_primary(&self) -> Option<u32> {
        self.keys.iter().filter(|entry| entry.version < self.primary).map(|entry| entry.version).max()
    }

    /// With one more version, that opens. The primary stays. A number is never used twice.
    ///
    /// # Errors
    /// [`TransitionError::TooLong`].
    pub fn with_added(mut self, key: Zeroizing<[u8; 32]>, now: Timestamp) -> Result<Successor, TransitionError> {
        let last = self.keys.iter().map(|entry| entry.version).max().unwrap_or_default();
        let version = last.checked_add(1).ok_or(TransitionError::TooLong)?;
        let created_at = Some(whole_seconds(now));
        // Moved, not grown: what a vector leaves behind when it grows is not wiped.
        let mut keys = Vec::with_capacity(self.keys.len() + 1);
        keys.append(&mut self.keys);
        keys.push(KeyEntry { version, key, state: KeyState::Enabled, created_at, primary_until: None });
        Successor::of(Self { keys, ..self }, version)
    }

    /// With the added version as the primary. The former one still opens.
    ///
    /// # Errors
    /// [`TransitionError::NothingAdded`], [`TransitionError::TooLong`].
    pub fn with_promoted(mut self, now: Timestamp) -> Result<Successor, TransitionError> {
        let version = self.added().ok_or(TransitionError::NothingAdded)?;
        for former in self.keys.iter_mut().filter(|entry| entry.version == self.primary) {
            former.primary_until = Some(whole_seconds(now));
        }
        self.primary = version;
        Successor::of(self, version)
    }

    /// With a version that is refused from now on. It stays in the document, for whoever has to read a backup.
    ///
    /// # Errors
    /// As [`KeyDocument::may_retire`].
    pub fn with_retired(
        mut self,
        version: u32,
        still_seals: Duration,
        now: Timestamp,
    ) -> Result<Successor, TransitionError> {
        self.may_retire(version, still_seals, now)?;
        for entry in self.keys.iter_mut().filter(|entry| entry.version == version) {
            entry.state = KeyState::Retired;
        }
        Successor::of(self, version)
    }

    /// With a retired version that opens again, for tables from before it was retired. Nothing is sealed under it.
    ///
    /// # Errors
    /// As [`KeyDocument::may_unretire`].
    pub fn with_unretired(mut self, version: u32) -> Result<Successor, TransitionError> {
        self.may_unretire(version)?;
        for entry in self.keys.iter_mut().filter(|entry| entry.version == version) {
            entry.state = KeyState::Enabled;
        }
        Successor::of(self, version)
    }

    /// Whether a version may open again. One that was never the primary may not: the next rotation would promote it.
    ///
    /// # Errors
    /// A [`TransitionError`].
    pub fn may_unretire(&self, version: u32) -> Result<(), TransitionError> {
        let entry = self.keys.iter().find(|entry| entry.version == version);
        match entry.ok_or(TransitionError::NoSuchVersion(version))?.state {
            KeyState::Enabled => Err(TransitionError::IsNotRetired(version)),
            KeyState::Retired if version > self.primary => Err(TransitionError::NotYetPrimary(version)),
            KeyState::Retired => Ok(()),
        }
    }

    /// Whether a version may be retired, as far as the document tells. `still_seals`: for how long a replica may seal under a primary that
    /// is none any more.
    ///
    /// # Errors
    /// A [`TransitionError`].
    pub fn may_retire(&self, version: u32, still_seals: Duration, now: Timestamp) -> Result<(), TransitionError> {
        let entry = self.keys.iter().find(|entry| entry.version == version);
        let entry = entry.ok_or(TransitionError::NoSuchVersion(version))?;
        if version == self.primary {
            return Err(TransitionError::IsPrimary(version));
        }
        if entry.state == KeyState::Retired {
            return Err(TransitionError::IsRetired(version));
        }
        if version > self.primary {
            return Err(TransitionError::NotYetPrimary(version));
        }
        let since = entry.primary_until.ok_or(TransitionError::SinceUnknown(version))?;
        let until = since.saturating_add(still_seals + UNDER_WAY).unwrap_or(Timestamp::MAX);
        if now < until { Err(TransitionError::TooEarly { version, until }) } else { Ok(()) }
    }
}

impl Successor {
    fn of(document: KeyDocument, version: u32) -> Result<Self, TransitionError> {
        // Both forms' names have nearly the same length; the longer one decides.
        match document.to_json(Form::Environment).len() <= MAX_DOCUMENT_OCTETS {
            true => Ok(Self { document, version }),
            false => Err(TransitionError::TooLong),
        }
    }

    /// As it is to stand there.
    pub fn document(&self) -> &KeyDocument {
        &self.document
    }

    /// As it stands there, once it has been put there.
    pub fn into_document(self) -> KeyDocument {
        self.document
    }

    /// The version that was added, promoted, retired or opened again.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// The next whole second: enough to tell versions apart, and never before it was so.
fn whole_seconds(time: Timestamp) -> Timestamp {
    let up = i64::from(time.subsec_nanosecond() > 0);
    Timestamp::from_second(time.as_second() + up).unwrap_or(time)
}

/// Where a key document stands, for whoever changes it.
#[async_trait]
pub trait DocumentSource: Send + Sync {
    /// The document as it is there now.
    async fn fetch(&self) -> Result<Fetched, FactorError>;

    /// Puts a document in the place of the one that was fetched, whole or not at all, and only if that one is still there.
    async fn replace(&self, fetched: &Mark, successor: &Successor) -> Result<Mark, ReplaceError>;

    /// Ends what an earlier replacement has left to do, if it was interrupted after it had taken effect.
    async fn finish(&self, fetched: &Mark) -> Result<(), FactorError>;
}

/// A document, and by what it is known.
pub struct Fetched {
    /// The document.
    pub document: KeyDocument,
    /// By what it is told from any other one that stood there.
    pub mark: Mark,
    /// The primary before the last change, where whoever made that was interrupted before it was quite finished.
    pub former_primary: Option<u32>,
}

/// Tells one state of a document from another. It may be a secret.
pub struct Mark(Zeroizing<String>);

impl Mark {
    /// Only its source knows what it means.
    pub fn new(mark: Zeroizing<String>) -> Self {
        Self(mark)
    }

    /// Whether they tell the same state, in constant time for a given length.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }

    /// For its source.
    pub(crate) fn expose_secret(&self) -> &str {
        &self.0
    }
}

/// Why a document was not replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// Another one stands there now, or somebody else is about to put one there. Nothing was changed.
    #[error("somebody else has changed the keys, or is about to")]
    Changed,
    /// The source's. After [`FactorError::Away`] the change may have been made.
    #[error(transparent)]
    Source(#[from] FactorError),
}

#[cfg(test)]
mod tests;
