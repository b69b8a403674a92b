//! Where a list goes on, for its caller to bring back. Sealed, since the row that it was left at may be one that the caller may not see,
//! and a token must not name that.
//!
//! Every replica of a build opens what another one sealed, without asking anybody: of the three factors only the codebase key is used
//! here. A token guards names and no secret, and nothing that is stored opens under its root. A build with another primary codebase key
//! refuses it, and the list begins anew.

use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use crate::crypto::{Codebase, Context, Envelope, Lineage, Plaintext, Root, Salt, Version, open, page_root, seal};
use crate::factors::{KeySet, Lookup};
use crate::ids::{Caller, Deployment};

/// Why there are no page tokens: a bug.
pub const NO_CODEBASE_KEY: &str = "the codebase keys have no primary";
/// In the place of a credential's kind.
const KIND: &str = "page token";
/// Longer ones are none: two ids, padded, in base64.
const MAX_TOKEN_OCTETS: usize = 1024;

/// Seals and opens page tokens.
pub struct PageTokens {
    root: Root,
    lineage: Lineage,
    deployment: Deployment,
}

impl PageTokens {
    /// `None`: the codebase keys have no primary, which [`KeySet`] rules out.
    pub(super) fn new(codebase: &KeySet<Codebase>, deployment: &Deployment) -> Option<Self> {
        let primary = codebase.primary();
        let lineage = Lineage { codebase: primary, environment: Version::FIRST, customer: Version::FIRST };
        let Lookup::Enabled(key) = codebase.get(primary) else { return None };
        Some(Self { root: page_root(key), lineage, deployment: deployment.clone() })
    }

    /// The token of a place in a list of this name, for this caller alone; that of no place, which is empty, is empty. `None`: the
    /// system has no random numbers, or the place is longer than two ids.
    pub fn seal(&self, list: &str, caller: &Caller, place: &str) -> Option<String> {
        if place.is_empty() {
            return Some(String::new());
        }
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).ok()?;
        let plaintext = Plaintext::new(Zeroizing::new(place.as_bytes().to_vec())).ok()?;
        let envelope =
            seal(&self.root, self.lineage, &self.context(list, caller)?, Salt::new(salt), &plaintext).ok()?;
        Some(Base64UrlUnpadded::encode_string(envelope.as_octets())).filter(|token| token.len() <= MAX_TOKEN_OCTETS)
    }

    /// The place that a token stands for. `None`: it is none of this list, this caller and this build.
    pub fn open(&self, list: &str, caller: &Caller, token: &str) -> Option<String> {
        if token.is_empty() {
            return Some(String::new());
        }
        if token.len() > MAX_TOKEN_OCTETS {
            return None;
        }
        let envelope = Envelope::parse(Base64UrlUnpadded::decode_vec(token).ok()?).ok()?;
        if envelope.lineage() != self.lineage {
            return None;
        }
        let place = open(&self.root, &self.context(list, caller)?, &envelope).ok()?;
        std::str::from_utf8(place.expose_secret()).ok().map(str::to_owned)
    }

    fn context<'a>(&'a self, list: &'a str, caller: &'a Caller) -> Option<Context<'a>> {
        Context::new(self.deployment.as_str(), caller.as_str(), list, KIND, 1).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::factors::document::{Form, KeyDocument};

    fn tokens(deployment: &str) -> PageTokens {
        let document = include_str!("../factors/codebase_development.json");
        let keys = KeySet::from_document(KeyDocument::parse(Form::Codebase, document).unwrap()).unwrap();
        PageTokens::new(&keys, &Deployment::parse(deployment).unwrap()).unwrap()
    }

    #[test]
    fn a_page_token_names_nothing_and_is_opened_by_every_replica_for_its_list_and_its_caller_alone() {
        let (here, other) = (tokens("dev"), tokens("dev"));
        let (caller, stranger) = (Caller::new("realtask"), Caller::new("realsync"));
        let token = here.seal("credentials", &caller, "hidden-customer/hidden-id").unwrap();
        assert_eq!(other.open("credentials", &caller, &token).as_deref(), Some("hidden-customer/hidden-id"));
        assert_ne!(token, here.seal("credentials", &caller, "hidden-customer/hidden-id").unwrap());
        let octets = Base64UrlUnpadded::decode_vec(&token).unwrap();
        assert!(!octets.windows(6).any(|window| window == b"hidden"), "{octets:?}");
        // Whether the place is far or near its length does not tell.
        assert_eq!(here.seal("credentials", &caller, "x").unwrap().len(), token.len());

        for refused in [
            here.open("customers", &caller, &token),
            here.open("credentials", &stranger, &token),
            tokens("production").open("credentials", &caller, &token),
            here.open("credentials", &caller, &token[1..]),
            here.open("credentials", &caller, "aGlkZGVuLWN1c3RvbWVyL2hpZGRlbi1pZA"),
            here.open("credentials", &caller, &"A".repeat(100_000)),
        ] {
            assert_eq!(refused, None);
        }
        for damaged in 0..octets.len() {
            let mut octets = octets.clone();
            octets[damaged] ^= 1;
            let token = Base64UrlUnpadded::encode_string(&octets);
            assert_eq!(here.open("credentials", &caller, &token), None, "octet {damaged}");
        }
        assert_eq!(here.seal("credentials", &caller, "").unwrap(), "");
        assert_eq!(here.open("credentials", &caller, "").as_deref(), Some(""));
    }
}
