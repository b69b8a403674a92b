//! What octets from outside may do to the service: for each place that reads them, a function that takes any octets and panics where a
//! promise is broken. `fuzz/` gives them to a fuzzer, and a test replays through them what was found (`fuzz/README.md`).
//!
//! A function stands beside what it looks into, in a `fuzzing.rs` of that module, as tests do; those that need nothing private stand
//! here. None knows where its octets come from.

use zeroize::Zeroizing;

pub use crate::access::fuzzing::policy;
pub use crate::audit::fuzzing::audit;
use crate::config;
use crate::crypto::{
    CodebaseKey, Context, CustomerKey, Envelope, Environment, EnvironmentKey, Lineage, MAX_PLAINTEXT_OCTETS, Plaintext,
    Root, Salt, Version, combine, open, seal,
};
use crate::factors::KeySet;
use crate::factors::document::{Form, KeyDocument};
use crate::grpc;
pub use crate::grpc::fuzzing::rpc;
use crate::secret::{Kind, stored};
pub use crate::store::fuzzing::row;

/// A place that reads octets.
pub struct Target {
    /// Of its file in `fuzz/fuzz_targets/` and its folder in `fuzz/corpus/`.
    pub name: &'static str,
    /// Panics where a promise is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "audit", run: audit },
    Target { name: "certificate", run: certificate },
    Target { name: "envelope", run: envelope },
    Target { name: "key_document", run: key_document },
    Target { name: "policy", run: policy },
    Target { name: "row", run: row },
    Target { name: "rpc", run: rpc },
    Target { name: "settings", run: settings },
    Target { name: "stored_secret", run: stored_secret },
];

/// Stands in the corpora and the dictionary where a secret might have been put by mistake: as a text and as a key in base64, of 32
/// octets. No error may repeat it.
pub(crate) const MISPLACED: &str = "TUlTUExBQ0VEIHNlY3JldCBvZiB0aGUgZnV6emVycyE=";

/// An error's text, which must not repeat what it refuses.
#[track_caller]
fn tells_nothing(error: impl std::fmt::Display + std::fmt::Debug) {
    let (shown, formatted) = (error.to_string(), format!("{error:?}"));
    assert!(!shown.contains(MISPLACED) && !formatted.contains(MISPLACED), "an error repeats what it refuses");
}

/// An envelope, read and opened under a known root. The first octet tells what the others are: an envelope (0), changes of a good one
/// (1), or a plaintext to seal (all others).
pub fn envelope(octets: &[u8]) {
    let Some((mode, rest)) = octets.split_first() else { return };
    let (root, good) =
        (root(), sealed(b"a plaintext that is sealed to be changed, and longer than a block of 64 octets"));
    match mode {
        0 => drop(open_canonical(&root, rest)),
        1 => {
            let changed = changed(good.as_octets(), rest);
            let opened = open_canonical(&root, &changed).is_some();
            assert_eq!(opened, changed == good.as_octets(), "a changed envelope opens, or the good one does not");
        }
        _ => {
            let plaintext = rest.get(..MAX_PLAINTEXT_OCTETS).unwrap_or(rest);
            let opened = open_canonical(&root, sealed(plaintext).as_octets());
            let is_same = opened.is_some_and(|opened| opened.expose_secret() == plaintext);
            assert!(is_same, "what was sealed does not open as it was");
        }
    }
}

/// What opens is what sealing would have made, octet for octet: there is one envelope for a plaintext, a salt and a lineage.
fn open_canonical(root: &Root, octets: &[u8]) -> Option<Plaintext> {
    let envelope = Envelope::parse(octets.to_vec()).ok()?;
    assert_eq!(envelope.as_octets(), octets, "an envelope is not kept as it was read");
    assert!(Envelope::lineage_of(octets) == Ok(envelope.lineage()), "a header is read in two ways");
    let plaintext = open(root, &context(), &envelope).ok()?;
    let salt = octets.get(16..48).and_then(|salt| salt.try_into().ok()).map(Salt::new);
    let again = salt.and_then(|salt| seal(root, envelope.lineage(), &context(), salt, &plaintext).ok());
    assert!(
        again.is_some_and(|again| again.as_octets() == octets),
        "an envelope opens that sealing would not have made"
    );
    Some(plaintext)
}

/// Three octets a change: where (u16), and which bits. What is left over is appended; one octet alone cuts off so many.
fn changed(good: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut octets = good.to_vec();
    let (changes, rest) = changes.as_chunks::<3>();
    for [high, low, bits] in changes {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % octets.len();
        if let Some(octet) = octets.get_mut(at) {
            *octet ^= bits;
        }
    }
    match rest {
        [cut] => octets.truncate(octets.len().saturating_sub(usize::from(*cut))),
        more => octets.extend_from_slice(more),
    }
    octets
}

fn sealed(plaintext: &[u8]) -> Envelope {
    let lineage = Lineage { codebase: Version::FIRST, environment: Version::FIRST, customer: Version::FIRST };
    let plaintext = Plaintext::new(Zeroizing::new(plaintext.to_vec())).ok();
    let sealed =
        plaintext.and_then(|plaintext| seal(&root(), lineage, &context(), Salt::new([4; 32]), &plaintext).ok());
    #[expect(clippy::expect_used, reason = "a fuzz target fails by a panic")]
    sealed.expect("a plaintext that is not too long, at revision 1")
}

fn context() -> Context<'static> {
    #[expect(clippy::expect_used, reason = "a fuzz target fails by a panic")]
    Context::new("fuzzing", "acme", "crm", "opaque", 1).expect("short names")
}

fn root() -> Root {
    let key = |octet| Zeroizing::new([octet; 32]);
    combine(&CodebaseKey::new(key(1)), &EnvironmentKey::new(key(2)), CustomerKey::new(key(3)))
}

/// A settings file, and what the environment sets: `config::fuzzing`.
pub fn settings(octets: &[u8]) {
    if let Err(error) = config::fuzzing::settings(octets) {
        tells_nothing(error);
    }
}

/// The files of TLS, and clients' certificates: `grpc::fuzzing`.
pub fn certificate(octets: &[u8]) {
    grpc::fuzzing::certificate(octets).into_iter().for_each(tells_nothing);
}

/// A key document, of either form. What is read is written in one form, which reads as the same.
pub fn key_document(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    for form in [Form::Codebase, Form::Environment] {
        match KeyDocument::parse(form, text) {
            Err(error) => tells_nothing(error),
            Ok(document) => {
                let written = document.to_json(form);
                let again = KeyDocument::parse(form, &written).map(|again| again.to_json(form));
                assert!(again.is_ok_and(|again| *again == *written), "a key document is not written as it was read");
                assert!(!format!("{document:?}").contains(MISPLACED), "a key document shows a key");
                assert!(KeySet::<Environment>::from_document(document).is_some(), "a key document without its primary");
            }
        }
    }
}

/// The plaintext of an envelope, as whichever kind its context may have proved. What is read is written so that it reads as the same.
pub fn stored_secret(octets: &[u8]) {
    for kind in Kind::ALL {
        let Ok(plaintext) = Plaintext::new(Zeroizing::new(octets.to_vec())) else { return };
        let Ok(secret) = stored::decode(kind, &plaintext) else { continue };
        assert!(secret.kind() == kind, "a stored secret is of another kind than its context");
        // A message that another program wrote may be shorter than ours: no record has one.
        let Ok(written) = stored::encode(secret) else { continue };
        let again = stored::decode(kind, &written).map(stored::encode);
        assert!(
            again.is_ok_and(|again| again.is_ok_and(|again| again.is_same(&written))),
            "a stored secret is not written as it was read"
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;
