//! Every derivation, in one place. HKDF is RFC 5869 with SHA-256, as `HKDF-Extract(salt, IKM)` and
//! `HKDF-Expand(PRK, info, L)`. Outputs are born as their own types.

use hkdf::{Hkdf, HkdfExtract};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::aead::{Nonce, SealingKey};
use super::context::Context;
use super::envelope::{HEADER_OCTETS, Lineage, encode_header};
use super::secret::{CodebaseKey, CustomerKey, EnvironmentKey, Fingerprint, Key, LocalWrappingKey, Root};

/// What a derivation is for. No two share a label, and none is the beginning of another.
#[derive(Clone, Copy)]
enum Label {
    Combine,
    Bind,
    Record,
    Fingerprint,
    PageTokens,
    LocalWrap,
}

impl Label {
    const fn octets(self) -> &'static [u8] {
        match self {
            Self::Combine => b"triseal/v1 combine",
            Self::Bind => b"triseal/v1 bind",
            Self::Record => b"triseal/v1 record",
            Self::Fingerprint => b"triseal/v1 fingerprint",
            Self::PageTokens => b"triseal/v1 page tokens",
            Self::LocalWrap => b"triseal/v1 local wrap",
        }
    }
}

/// The root of three factors. It takes the customer key, which is wiped as soon as the root exists.
///
/// `root = HKDF-Extract(salt = "triseal/v1 combine", IKM = codebase || environment || customer)`: the combination of
/// keys by extraction of NIST SP 800-133r2, section 6.3. Three fixed lengths make the concatenation unambiguous.
#[expect(clippy::needless_pass_by_value, reason = "taken, so that nobody keeps it")]
pub fn combine(codebase: &CodebaseKey, environment: &EnvironmentKey, customer: CustomerKey) -> Root {
    let mut extract = HkdfExtract::<Sha256>::new(Some(Label::Combine.octets()));
    extract.input_ikm(codebase.expose_secret());
    extract.input_ikm(environment.expose_secret());
    extract.input_ikm(customer.expose_secret());
    let (mut prk, _) = extract.finalize();
    let root = Root::new(Zeroizing::new(prk.into()));
    prk.as_mut_slice().zeroize();
    root
}

/// What one envelope shows to prove that it was sealed under this root for this context.
pub(super) type Commitment = [u8; 32];

/// Everything that one sealing or opening needs; `key` is consumed by its one use.
pub(super) struct RecordKeys {
    pub(super) binding: [u8; 32],
    pub(super) commitment: Commitment,
    pub(super) key: SealingKey,
    pub(super) nonce: Nonce,
}

/// ```text
/// binding = SHA-256("triseal/v1 bind" || header || context)
/// okm     = HKDF-Expand(root, "triseal/v1 record" || binding, 76)
/// commitment = okm[0..32]     key = okm[32..64]     nonce = okm[64..76]
/// ```
pub(super) fn record_keys(root: &Root, header: &[u8; HEADER_OCTETS], context: &Context<'_>) -> RecordKeys {
    let mut hash = Sha256::new_with_prefix(Label::Bind.octets());
    hash.update(header);
    context.encode(|octets| hash.update(octets));
    let binding: [u8; 32] = hash.finalize().into();

    let okm = expand::<76>(root.expose_secret(), &[Label::Record.octets(), &binding]);
    let key = SealingKey::new(take(&okm, 32));
    RecordKeys { binding, commitment: take(&okm, 0), key, nonce: Nonce::new(take(&okm, 64)) }
}

/// `HKDF-Expand(key, "triseal/v1 fingerprint", 16)`: stored, so that two keys under one version number are noticed.
pub fn fingerprint<F>(key: &Key<F>) -> Fingerprint {
    Fingerprint(*expand(key.expose_secret(), &[Label::Fingerprint.octets()]))
}

/// What page tokens are sealed under, without a key that only one environment or one customer has:
/// `root = HKDF-Expand(codebase key, "triseal/v1 page tokens", 32)`. No combination of three factors gives it.
pub fn page_root(codebase: &CodebaseKey) -> Root {
    Root::new(expand(codebase.expose_secret(), &[Label::PageTokens.octets()]))
}

/// The key and nonce of the local stand-in for KMS, for one wrapping:
/// `HKDF-Expand(wrapping key, "triseal/v1 local wrap" || salt, 44)`.
pub(super) fn local_wrap_keys(key: &LocalWrappingKey, salt: &[u8; 32]) -> (SealingKey, Nonce) {
    let okm = expand::<44>(key.expose_secret(), &[Label::LocalWrap.octets(), salt]);
    (SealingKey::new(take(&okm, 0)), Nonce::new(take(&okm, 32)))
}

/// `HKDF-Expand(prk, info, L)`. The crate keeps the blocks of its output on the stack and does not wipe them there; of
/// a sealing that is the key of one record, while the root, which gives them all, stays in memory anyway.
pub(super) fn expand<const L: usize>(prk: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; L]> {
    const { assert!(L <= 255 * 32, "more than HKDF-SHA-256 can give") };
    let mut okm = Zeroizing::new([0; L]);
    #[expect(clippy::expect_used, reason = "a PRK of 32 octets is long enough")]
    let hkdf = Hkdf::<Sha256>::from_prk(prk).expect("32 octets");
    #[expect(clippy::expect_used, reason = "the length is checked above, when this is compiled")]
    hkdf.expand_multi_info(info, okm.as_mut()).expect("a length that HKDF can give");
    okm
}

/// `N` octets of `okm` from `at` on.
#[expect(clippy::indexing_slicing, reason = "called with constants that lie within the array")]
fn take<const N: usize, const L: usize>(okm: &[u8; L], at: usize) -> [u8; N] {
    std::array::from_fn(|index| okm[at + index])
}

/// What the test vectors name, for comparing step by step. Keys stand in it: it is wiped when dropped.
#[doc(hidden)]
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Derived {
    pub root: [u8; 32],
    pub binding: [u8; 32],
    pub commitment: [u8; 32],
    pub key: [u8; 32],
    pub nonce: [u8; 12],
}

/// Shows every intermediate value of one sealing, keys among them: for the test vectors alone. It is not behind a feature, which plain
/// `cargo test` would leave out, and with it the vectors; no program calls it, so none contains it.
#[doc(hidden)]
pub fn insecure_derived(root: &Root, lineage: Lineage, salt: &[u8; 32], context: &Context<'_>) -> Derived {
    let keys = record_keys(root, &encode_header(lineage, salt), context);
    Derived {
        root: *root.expose_secret(),
        binding: keys.binding,
        commitment: keys.commitment,
        key: *keys.key.expose_secret(),
        nonce: keys.nonce.into_octets(),
    }
}
