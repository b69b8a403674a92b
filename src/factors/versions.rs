//! The versions of one factor as a state machine, in pure code: which one seals, which open, and what a new state of affairs
//! may not take back.

use std::collections::BTreeMap;

use super::document::{KeyDocument, KeyState};
use crate::crypto::{Fingerprint, Key, Version, fingerprint};

/// Versions without a key that [`KeySet::gaps`] names, at most: a document has room for fewer versions than this.
const MAX_GAPS: usize = 1_000;

/// All versions of one factor. Exactly one is the primary, and it is enabled.
pub struct KeySet<F> {
    primary: Version,
    keys: BTreeMap<Version, (KeyState, Key<F>)>,
}

/// What a version is good for.
pub enum Lookup<'a, F> {
    /// It opens.
    Enabled(&'a Key<F>),
    /// It is refused.
    Retired,
    /// It is not here.
    Unknown,
}

/// Why a set does not follow another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Regression {
    /// A version that was there is gone.
    #[error("version {0} is gone")]
    Lost(Version),
    /// A version has another key.
    #[error("version {0} has another key than before")]
    Changed(Version),
    /// The primary went back.
    #[error("the primary went back from version {from} to {to}")]
    PrimaryLowered {
        /// It was this.
        from: Version,
        /// It would be this.
        to: Version,
    },
}

impl<F> KeySet<F> {
    /// The versions of a document, which has been checked. `None` only for a document with a version 0 or a primary that is not
    /// there, which [`KeyDocument::parse`] refuses.
    pub fn from_document(document: KeyDocument) -> Option<Self> {
        let primary = Version::new(document.primary)?;
        let mut keys = BTreeMap::new();
        for entry in document.keys {
            keys.insert(Version::new(entry.version)?, (entry.state, Key::new(entry.key)));
        }
        Self { primary, keys }.with_primary(primary)
    }

    /// The same versions with another primary. `None` unless that one is enabled.
    pub fn with_primary(self, primary: Version) -> Option<Self> {
        matches!(self.get(primary), Lookup::Enabled(_)).then_some(Self { primary, ..self })
    }

    /// The version that seals.
    pub fn primary(&self) -> Version {
        self.primary
    }

    /// What a version is good for.
    pub fn get(&self, version: Version) -> Lookup<'_, F> {
        match self.keys.get(&version) {
            Some((KeyState::Enabled, key)) => Lookup::Enabled(key),
            Some((KeyState::Retired, _)) => Lookup::Retired,
            None => Lookup::Unknown,
        }
    }

    /// Every version, retired ones too, with its fingerprint.
    pub fn fingerprints(&self) -> impl Iterator<Item = (Version, Fingerprint)> {
        self.keys.iter().map(|(version, (_, key))| (*version, fingerprint(key)))
    }

    /// The versions below the last that are not here. Versions count from 1, so they were never made, or were lost.
    pub fn gaps(&self) -> impl Iterator<Item = Version> {
        let last = self.keys.keys().next_back().map_or(0, |version| version.get());
        let versions = (1..last).filter_map(Version::new);
        versions.filter(|version| !self.keys.contains_key(version)).take(MAX_GAPS)
    }

    /// The one after the last.
    pub fn next_version(&self) -> Option<Version> {
        self.keys.keys().next_back().and_then(|version| Version::new(version.get().checked_add(1)?))
    }

    /// Whether this set may take the place of `before`: nothing is lost, changed or taken back.
    ///
    /// # Errors
    /// The first [`Regression`].
    pub fn follows(&self, before: &Self) -> Result<(), Regression> {
        for (version, (_, key)) in &before.keys {
            match self.keys.get(version) {
                None => return Err(Regression::Lost(*version)),
                Some((_, now)) if !now.is_same(key) => return Err(Regression::Changed(*version)),
                Some(_) => {}
            }
        }
        if self.primary < before.primary {
            return Err(Regression::PrimaryLowered { from: before.primary, to: self.primary });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::document::KeyEntry;
    use super::*;
    use crate::crypto::Environment;

    fn set(primary: u32, keys: &[(u32, u8, KeyState)]) -> Option<KeySet<Environment>> {
        let entry = |&(version, octet, state): &(u32, u8, KeyState)| KeyEntry {
            version,
            key: Zeroizing::new([octet; 32]),
            state,
            created_at: None,
            primary_until: None,
        };
        KeySet::from_document(KeyDocument { primary, keys: keys.iter().map(entry).collect() })
    }

    const E: KeyState = KeyState::Enabled;
    const R: KeyState = KeyState::Retired;

    #[test]
    fn the_primary_is_an_enabled_version() {
        assert!(set(2, &[(1, 1, E)]).is_none());
        assert!(set(1, &[(1, 1, R), (2, 2, E)]).is_none());
        let set = set(1, &[(1, 1, E), (2, 2, E), (3, 3, R)]).unwrap();
        let version = |number| Version::new(number).unwrap();
        assert!(matches!(set.get(version(3)), Lookup::Retired));
        assert!(matches!(set.get(version(4)), Lookup::Unknown));
        let promoted = set.with_primary(version(2)).unwrap();
        assert_eq!(promoted.primary().get(), 2);
        assert!(promoted.with_primary(version(3)).is_none());
    }

    #[test]
    fn gaps_are_the_versions_that_were_skipped() {
        let gaps =
            |keys: &[(u32, u8, KeyState)]| set(keys[0].0, keys).unwrap().gaps().map(Version::get).collect::<Vec<_>>();
        assert!(gaps(&[(1, 1, E), (2, 2, R)]).is_empty());
        assert_eq!(gaps(&[(3, 3, E), (5, 5, R)]), [1, 2, 4]);
        assert_eq!(gaps(&[(u32::MAX, 1, E)]).len(), MAX_GAPS, "bounded");
        let next = |keys: &[(u32, u8, KeyState)]| set(keys[0].0, keys).unwrap().next_version().map(Version::get);
        assert_eq!(next(&[(3, 3, E), (5, 5, R)]), Some(6));
        assert_eq!(next(&[(u32::MAX, 1, E)]), None);
    }

    #[test]
    fn a_set_that_takes_something_back_does_not_follow() {
        let before = set(2, &[(1, 1, E), (2, 2, E)]).unwrap();
        let follows = |primary, keys: &[_]| set(primary, keys).unwrap().follows(&before);
        let version = |number| Version::new(number).unwrap();

        assert_eq!(follows(2, &[(1, 1, R), (2, 2, E)]), Ok(()));
        assert_eq!(follows(3, &[(1, 1, E), (2, 2, E), (3, 3, E)]), Ok(()));
        assert_eq!(follows(2, &[(2, 2, E)]), Err(Regression::Lost(version(1))));
        assert_eq!(follows(2, &[(1, 9, E), (2, 2, E)]), Err(Regression::Changed(version(1))));
        assert_eq!(
            follows(1, &[(1, 1, E), (2, 2, E)]),
            Err(Regression::PrimaryLowered { from: version(2), to: version(1) })
        );
    }
}
