//! Where a list goes on, for its caller to bring back. Sealed, since the row that it was left at may be one that the caller may not see,
//! and a token must not name that.
//!
//! Every replica opens what another one sealed, without asking anybody: of the three factors only the codebase key is used here. A token
//! opens under the version that it was sealed under, as long as that is enabled; so lists go on while a release replaces another one,
//! whose primary is another version. A token guards names and no secret, and nothing that is stored opens under its root.

use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use crate::crypto::{Codebase, Context, Envelope, Lineage, Plaintext, Root, Salt, Version, open, page_root, seal};
use crate::factors::{KeySet, Lookup};
use crate::ids::{Caller, Deployment};

/// In the place of a credential's kind.
const KIND: &str = "page token";
/// Longer ones are none: two ids, padded, in base64, are less than 600.
const MAX_TOKEN_OCTETS: usize = 1024;

/// There is no page token: the system has no random numbers, or the place is longer than two ids.
#[derive(Debug, thiserror::Error)]
#[error("a page token can't be sealed")]
pub struct NoPageToken;

/// Seals and opens the page tokens of one list, for one caller.
pub struct PageTokens<'a> {
    codebase: &'a KeySet<Codebase>,
    deployment: &'a Deployment,
    list: &'static str,
    caller: &'a Caller,
}

impl<'a> PageTokens<'a> {
    /// Of the list of this name.
    pub(super) fn new(
        codebase: &'a KeySet<Codebase>,
        deployment: &'a Deployment,
        list: &'static str,
        caller: &'a Caller,
    ) -> Self {
        Self { codebase, deployment, list, caller }
    }

    /// The token of a place; that of no place, which is empty, is empty.
    ///
    /// # Errors
    /// [`NoPageToken`].
    pub fn seal(&self, place: &str) -> Result<String, NoPageToken> {
        if place.is_empty() {
            return Ok(String::new());
        }
        self.sealed(place).ok_or(NoPageToken)
    }

    /// The place that a token stands for. `None`: it is none of this list, of this caller or of the keys of this build.
    pub fn open(&self, token: &str) -> Option<String> {
        if token.is_empty() {
            return Some(String::new());
        }
        if token.len() > MAX_TOKEN_OCTETS {
            return None;
        }
        let envelope = Envelope::parse(Base64UrlUnpadded::decode_vec(token).ok()?).ok()?;
        let root = self.root(envelope.lineage().codebase)?;
        let place = open(&root, &self.context()?, &envelope).ok()?;
        std::str::from_utf8(place.expose_secret()).ok().map(str::to_owned)
    }

    fn sealed(&self, place: &str) -> Option<String> {
        let codebase = self.codebase.primary();
        let lineage = Lineage { codebase, environment: Version::FIRST, customer: Version::FIRST };
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).ok()?;
        let plaintext = Plaintext::new(Zeroizing::new(place.as_bytes().to_vec())).ok()?;
        let envelope = seal(&self.root(codebase)?, lineage, &self.context()?, Salt::new(salt), &plaintext).ok()?;
        Some(Base64UrlUnpadded::encode_string(envelope.as_octets())).filter(|token| token.len() <= MAX_TOKEN_OCTETS)
    }

    fn root(&self, version: Version) -> Option<Root> {
        match self.codebase.get(version) {
            Lookup::Enabled(key) => Some(page_root(key)),
            Lookup::Retired | Lookup::Unknown => None,
        }
    }

    fn context(&self) -> Option<Context<'a>> {
        Context::new(self.deployment.as_str(), self.caller.as_str(), self.list, KIND, 1).ok()
    }
}

#[cfg(test)]
impl PageTokens<'static> {
    /// Of the development keys, and of one caller.
    pub(crate) fn development(list: &'static str) -> Self {
        use crate::factors::document::{Form, KeyDocument};
        use std::sync::LazyLock;
        static FOR: LazyLock<(KeySet<Codebase>, Deployment, Caller)> = LazyLock::new(|| {
            let document = include_str!("../factors/codebase_development.json");
            let keys = KeySet::from_document(KeyDocument::parse(Form::Codebase, document).unwrap()).unwrap();
            (keys, Deployment::parse("dev").unwrap(), Caller::new("tests"))
        });
        Self::new(&FOR.0, &FOR.1, list, &FOR.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factors::document::{Form, KeyDocument, KeyEntry, KeyState};

    const PLACE: &str = "hidden-customer/hidden-id";

    /// A build's codebase keys: each one's version and state.
    fn keys(primary: u32, keys: &[(u32, KeyState)]) -> KeySet<Codebase> {
        let entry = |&(version, state): &(u32, KeyState)| KeyEntry {
            version,
            key: Zeroizing::new([u8::try_from(version).unwrap(); 32]),
            state,
            created_at: None,
            primary_until: None,
        };
        KeySet::from_document(KeyDocument { primary, keys: keys.iter().map(entry).collect() }).unwrap()
    }

    fn development_keys() -> KeySet<Codebase> {
        let document = include_str!("../factors/codebase_development.json");
        KeySet::from_document(KeyDocument::parse(Form::Codebase, document).unwrap()).unwrap()
    }

    fn deployment(name: &str) -> Deployment {
        Deployment::parse(name).unwrap()
    }

    #[test]
    fn a_page_token_names_nothing_and_is_opened_by_every_replica_for_its_list_and_its_caller_alone() {
        let (keys, replicas_keys) = (development_keys(), development_keys());
        let (dev, production) = (deployment("dev"), deployment("production"));
        let (caller, stranger) = (Caller::new("realtask"), Caller::new("realsync"));
        let here = PageTokens::new(&keys, &dev, "credentials", &caller);
        let token = here.seal(PLACE).unwrap();
        let replica = PageTokens::new(&replicas_keys, &dev, "credentials", &caller);
        assert_eq!(replica.open(&token).as_deref(), Some(PLACE));
        assert_ne!(token, here.seal(PLACE).unwrap());
        let octets = Base64UrlUnpadded::decode_vec(&token).unwrap();
        assert!(!octets.windows(6).any(|window| window == b"hidden"), "{octets:?}");
        // Whether the place is far or near its length does not tell.
        assert_eq!(here.seal("x").unwrap().len(), token.len());

        for refused in [
            PageTokens::new(&keys, &dev, "customers", &caller).open(&token),
            PageTokens::new(&keys, &dev, "credentials", &stranger).open(&token),
            PageTokens::new(&keys, &production, "credentials", &caller).open(&token),
            here.open(&token[1..]),
            here.open("aGlkZGVuLWN1c3RvbWVyL2hpZGRlbi1pZA"),
            here.open(&"A".repeat(100_000)),
        ] {
            assert_eq!(refused, None);
        }
        for damaged in 0..octets.len() {
            let mut octets = octets.clone();
            octets[damaged] ^= 1;
            assert_eq!(here.open(&Base64UrlUnpadded::encode_string(&octets)), None, "octet {damaged}");
        }
        assert_eq!(here.seal("").unwrap(), "");
        assert_eq!(here.open("").as_deref(), Some(""));
        let longest = format!("{0}/{0}", "a".repeat(128));
        assert_eq!(here.open(&here.seal(&longest).unwrap()), Some(longest));
        assert!(here.seal(&"a".repeat(1_000)).is_err());
    }

    #[test]
    fn lists_go_on_while_a_release_with_another_primary_replaces_the_one_before() {
        use KeyState::{Enabled, Retired};
        let (dev, caller) = (deployment("dev"), Caller::new("realtask"));
        let before = keys(1, &[(1, Enabled), (2, Enabled)]);
        let after = keys(2, &[(1, Enabled), (2, Enabled)]);
        let of = |keys| PageTokens::new(keys, &dev, "credentials", &caller);
        let (old, new) = (of(&before).seal(PLACE).unwrap(), of(&after).seal(PLACE).unwrap());
        for keys in [&before, &after] {
            for token in [&old, &new] {
                assert_eq!(of(keys).open(token).as_deref(), Some(PLACE));
            }
        }
        let (retired, unknown) = (keys(2, &[(1, Retired), (2, Enabled)]), keys(2, &[(2, Enabled)]));
        for keys in [&retired, &unknown] {
            assert_eq!(of(keys).open(&old), None);
            assert_eq!(of(keys).open(&new).as_deref(), Some(PLACE));
        }
    }
}
