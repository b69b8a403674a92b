//! What must hold for every envelope, beyond the vectors in `tests/vectors/`: nothing changed opens, nothing panics,
//! nothing secret is printed, and nothing is allocated that need not be.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

mod wycheproof;

use proptest::collection::vec;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::envelope::unpadded_length;
use super::*;

/// Header, commitment and tag: what an envelope has besides its padded plaintext.
const FIXED_OCTETS: usize = 48 + 32 + 16;

/// A context's fields, which a test may change one by one.
#[derive(Clone, Debug, PartialEq)]
struct Fields {
    texts: [String; 4],
    revision: u64,
}

impl Fields {
    fn context(&self) -> Context<'_> {
        let [deployment, customer, credential, kind] = &self.texts;
        Context::new(deployment, customer, credential, kind, self.revision).unwrap()
    }

    fn sample() -> Self {
        Self { texts: ["production", "acme", "crm", "password"].map(String::from), revision: 3 }
    }
}

fn key<F>(octets: [u8; 32]) -> Key<F> {
    Key::new(Zeroizing::new(octets))
}

fn root([codebase, environment, customer]: [[u8; 32]; 3]) -> Root {
    combine(&key(codebase), &key(environment), key(customer))
}

fn sample_root() -> Root {
    root([[1; 32], [2; 32], [3; 32]])
}

fn lineage([codebase, environment, customer]: [u32; 3]) -> Lineage {
    let version = |number| Version::new(number).unwrap();
    Lineage { codebase: version(codebase), environment: version(environment), customer: version(customer) }
}

fn plaintext(octets: &[u8]) -> Plaintext {
    Plaintext::new(Zeroizing::new(octets.to_vec())).unwrap()
}

/// An envelope under [`sample_root`] and [`Fields::sample`].
fn sample(octets: &[u8]) -> Envelope {
    seal(&sample_root(), lineage([1, 2, 3]), &Fields::sample().context(), Salt::new([9; 32]), &plaintext(octets))
        .unwrap()
}

/// Whether octets are refused, as malformed or as not authentic, under [`sample_root`] and [`Fields::sample`].
fn refused(octets: &[u8]) -> bool {
    let Ok(envelope) = Envelope::parse(octets.to_vec()) else { return true };
    open(&sample_root(), &Fields::sample().context(), &envelope).is_err()
}

fn flipped(octets: &[u8], bit: usize) -> Vec<u8> {
    let mut changed = octets.to_vec();
    changed[bit / 8] ^= 1 << (bit % 8);
    changed
}

fn some_fields() -> impl Strategy<Value = Fields> {
    let id = || "[A-Za-z0-9][A-Za-z0-9._-]{0,40}";
    let kind = prop_oneof!["salesforce_oauth", "password", "opaque"];
    (id(), id(), id(), kind, 1_u64..).prop_map(|(deployment, customer, credential, kind, revision)| Fields {
        texts: [deployment, customer, credential, kind],
        revision,
    })
}

fn some_keys() -> impl Strategy<Value = [[u8; 32]; 3]> {
    any::<[[u8; 32]; 3]>()
}

fn some_versions() -> impl Strategy<Value = [u32; 3]> {
    [1_u32.., 1_u32.., 1_u32..]
}

/// Lengths around the ends of blocks, and the largest, come up more often than by chance.
fn some_plaintext() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        8 => 0_usize..600,
        4 => (0_usize..8, 0_usize..3).prop_map(|(blocks, past)| (blocks * 64 + past).saturating_sub(1)),
        1 => MAX_PLAINTEXT_OCTETS - 65..=MAX_PLAINTEXT_OCTETS,
    ];
    length.prop_flat_map(|length| vec(any::<u8>(), length))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_sealed_opens_and_has_its_length(
        keys in some_keys(), versions in some_versions(), fields in some_fields(),
        salt: [u8; 32], octets in some_plaintext(),
    ) {
        let (root, lineage) = (root(keys), lineage(versions));
        let envelope = seal(&root, lineage, &fields.context(), Salt::new(salt), &plaintext(&octets)).unwrap();
        let stored = envelope.as_octets().to_vec();

        prop_assert_eq!(stored.len(), FIXED_OCTETS + (octets.len() / 64 + 1) * 64);
        prop_assert!((97..=160).contains(&(stored.len() - octets.len())));

        let parsed = Envelope::parse(stored).unwrap();
        prop_assert_eq!(parsed.lineage(), lineage);
        let opened = open(&root, &fields.context(), &parsed).unwrap();
        prop_assert_eq!(opened.expose_secret(), octets);
    }

    #[test]
    fn a_flipped_bit_is_refused(octets in some_plaintext(), at: proptest::sample::Index) {
        let stored = sample(&octets).as_octets().to_vec();
        prop_assert!(!refused(&stored));
        prop_assert!(refused(&flipped(&stored, at.index(stored.len() * 8))));
    }

    #[test]
    fn a_changed_context_is_refused(fields in some_fields(), other in some_fields(), which in 0_usize..5) {
        let mut changed = fields.clone();
        match which {
            4 => changed.revision = other.revision,
            text => changed.texts[text].clone_from(&other.texts[text]),
        }
        prop_assume!(changed != fields);
        let root = sample_root();
        let envelope = seal(&root, lineage([1; 3]), &fields.context(), Salt::new([9; 32]), &plaintext(b"x")).unwrap();
        prop_assert!(open(&root, &fields.context(), &envelope).is_ok());
        prop_assert_eq!(open(&root, &changed.context(), &envelope).unwrap_err(), NotAuthentic);
    }

    #[test]
    fn another_key_is_refused(keys in some_keys(), which in 0_usize..3, bit in 0_usize..256) {
        let (right, fields) = (root(keys), Fields::sample());
        let envelope = seal(&right, lineage([1; 3]), &fields.context(), Salt::new([9; 32]), &plaintext(b"x")).unwrap();
        prop_assert!(open(&right, &fields.context(), &envelope).is_ok());
        let mut others = keys;
        others[which][bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(open(&root(others), &fields.context(), &envelope).unwrap_err(), NotAuthentic);
    }

    #[test]
    fn arbitrary_octets_are_refused_without_a_panic(well_begun: bool, octets in vec(any::<u8>(), 0..400)) {
        let mut octets = octets;
        if well_begun {
            octets.splice(0..0, *b"TS\x01\x01");
            octets.truncate(octets.len().saturating_sub(FIXED_OCTETS) / 64 * 64 + FIXED_OCTETS);
        }
        prop_assert!(refused(&octets));
    }

    #[test]
    fn a_local_wrap_unwraps_for_its_context_alone(
        wrapping: [u8; 32], customer: [u8; 32], salt: [u8; 32],
        context in vec(any::<u8>(), 0..100), other in vec(any::<u8>(), 0..100),
    ) {
        let wrapped = wrap_local(&key(wrapping), &context, Salt::new(salt), &key(customer));
        prop_assert!(unwrap_local(&key(wrapping), &context, &wrapped).unwrap().is_same(&key(customer)));
        if other != context {
            prop_assert_eq!(unwrap_local(&key(wrapping), &other, &wrapped).unwrap_err(), NotAuthentic);
        }
    }
}

#[test]
fn every_flipped_bit_of_a_small_envelope_is_refused() {
    let stored = sample(b"secret").as_octets().to_vec();
    assert!(!refused(&stored));
    for bit in 0..stored.len() * 8 {
        assert!(refused(&flipped(&stored, bit)), "bit {bit}");
    }
}

#[test]
fn every_other_length_of_a_small_envelope_is_refused() {
    let stored = sample(&[7; 100]).as_octets().to_vec();
    for length in (0..stored.len() + 200).filter(|length| *length != stored.len()) {
        let mut changed = stored.clone();
        changed.resize(length, 0);
        assert!(refused(&changed), "{length} octets");
    }
}

#[test]
fn the_longest_plaintext_is_sealed_and_a_longer_one_is_none() {
    let longest = vec![0x80; MAX_PLAINTEXT_OCTETS];
    let envelope = Envelope::parse(sample(&longest).as_octets().to_vec()).unwrap();
    let opened = open(&sample_root(), &Fields::sample().context(), &envelope).unwrap();
    assert_eq!(opened.expose_secret(), longest);
    assert!(Plaintext::new(Zeroizing::new(vec![0; MAX_PLAINTEXT_OCTETS + 1])).is_err());
}

#[test]
fn nothing_is_sealed_at_revision_0() {
    let fields = Fields { revision: 0, ..Fields::sample() };
    let result = seal(&sample_root(), lineage([1; 3]), &fields.context(), Salt::new([9; 32]), &plaintext(b"x"));
    assert_eq!(result.unwrap_err(), SealError::RevisionZero);
}

#[test]
fn a_part_of_a_context_must_fit_its_length() {
    let (fits, too_long) = ("a".repeat(65_535), "a".repeat(65_536));
    assert!(Context::new(&fits, &fits, &fits, &fits, 1).is_ok());
    for part in 0..4 {
        let mut parts = [fits.as_str(); 4];
        parts[part] = &too_long;
        assert_eq!(Context::new(parts[0], parts[1], parts[2], parts[3], 1).unwrap_err(), ContextTooLong);
    }
}

#[test]
fn padding_starts_in_the_last_block_or_nowhere() {
    let marked = |length: usize, at: usize| {
        let mut padded = vec![0; length];
        padded[at] = 0x80;
        padded
    };
    assert_eq!(unpadded_length(&marked(64, 0)), Some(0));
    assert_eq!(unpadded_length(&marked(128, 64)), Some(64));
    assert_eq!(unpadded_length(&marked(128, 127)), Some(127));
    assert_eq!(unpadded_length(&marked(128, 63)), None, "one octet before the last block");
    assert_eq!(unpadded_length(&[0; 64]), None);
    assert_eq!(unpadded_length(&[0x81; 64]), None);
    assert_eq!(unpadded_length(&[]), None);
}

#[test]
fn secrets_print_their_type_and_nothing_else() {
    assert_eq!(format!("{:?}", key::<Codebase>([0xAB; 32])), "Key<Codebase>");
    assert_eq!(format!("{:?}", key::<LocalWrapping>([0xAB; 32])), "Key<LocalWrapping>");
    assert_eq!(format!("{:?}", sample_root()), "Root");
    assert_eq!(format!("{:?}", plaintext(b"secret")), "Plaintext");
    assert_eq!(format!("{:#?}", plaintext(b"secret")), "Plaintext");
    let printed = format!("{:?}", sample(b"secret"));
    assert!(printed.starts_with("Envelope { lineage: ") && printed.ends_with(", .. }"), "{printed}");
}

#[test]
fn keys_and_plaintexts_are_compared_by_their_octets() {
    assert!(key::<Customer>([1; 32]).is_same(&key([1; 32])));
    assert!(!key::<Customer>([1; 32]).is_same(&key([2; 32])));
    assert!(plaintext(b"x").is_same(&plaintext(b"x")));
    assert!(!plaintext(b"x").is_same(&plaintext(b"y")) && !plaintext(b"x").is_same(&plaintext(b"xx")));
}

#[test]
fn seal_and_open_allocate_once_each() {
    let (root, fields, text) = (sample_root(), Fields::sample(), plaintext(&[7; 400]));
    let (context, salt) = (fields.context(), Salt::new([9; 32]));
    let mut sealed = None;
    let sealing = allocation_counter::measure(|| sealed = seal(&root, lineage([1; 3]), &context, salt, &text).ok());
    let (sealed, mut opened) = (sealed.unwrap(), None);
    let opening = allocation_counter::measure(|| opened = open(&root, &context, &sealed).ok());
    assert!(opened.unwrap().is_same(&text));
    assert_eq!((sealing.count_total, sealing.bytes_total), (1, 544));
    assert_eq!((opening.count_total, opening.bytes_total), (1, 448));
}

/// Python, with `key = bytes(range(32))`:
/// `hmac.new(key, b"triseal/v1 fingerprint\x01", hashlib.sha256).hexdigest()[:32]`
#[test]
fn a_fingerprint_is_the_known_one() {
    let octets = std::array::from_fn(|index| u8::try_from(index).unwrap());
    assert_eq!(hex::encode(fingerprint(&key::<Codebase>(octets)).0), "ef9b6053ac04be5f828f98b260484913");
}

/// Python, with `key = bytes(range(32))`:
/// `hmac.new(key, b"triseal/v1 page tokens\x01", hashlib.sha256).hexdigest()`
#[test]
fn the_root_of_page_tokens_is_the_known_one() {
    let octets = std::array::from_fn(|index| u8::try_from(index).unwrap());
    let wanted = "4aeee571f160b3cfc8ace2c5c7332aaae62f01651a329ae831fadec4ed2ee671";
    assert_eq!(hex::encode(page_root(&key(octets)).expose_secret()), wanted);
}

/// Python, with `key = bytes(range(32))`, `salt = bytes(range(64, 96))` and the package `cryptography`:
///
/// ```text
/// info = b"triseal/v1 local wrap" + salt
/// t1 = hmac.new(key, info + b"\x01", hashlib.sha256).digest()
/// t2 = hmac.new(key, t1 + info + b"\x02", hashlib.sha256).digest()
/// (b"\x01" + salt + AESGCM(t1).encrypt(t2[:12], bytes(range(128, 160)), b"context")).hex()
/// ```
#[test]
fn a_local_wrap_is_the_known_one() {
    let from = |start: u8| std::array::from_fn::<u8, 32, _>(|index| start + u8::try_from(index).unwrap());
    let wrapped = wrap_local(&key(from(0)), b"context", Salt::new(from(64)), &key(from(128)));
    let expected = "01404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f4c36a01bdceb550c035f9da612080e64\
                    30b519abff6015dfdc2c8366953bdb479fd1151bd5428c4321aa4a9419eb761a";
    assert_eq!(hex::encode(wrapped), expected);
}

#[test]
fn a_changed_local_wrap_is_refused() {
    let unwrap = |wrapping, wrapped: &[u8]| unwrap_local(&key(wrapping), b"context", wrapped);
    let wrapped = wrap_local(&key([1; 32]), b"context", Salt::new([9; 32]), &key([3; 32]));
    assert!(unwrap([1; 32], &wrapped).is_ok());
    assert_eq!(unwrap([2; 32], &wrapped).unwrap_err(), NotAuthentic);
    for bit in 0..wrapped.len() * 8 {
        assert!(unwrap([1; 32], &flipped(&wrapped, bit)).is_err(), "bit {bit}");
    }
    for length in (0..wrapped.len() + 40).filter(|length| *length != wrapped.len()) {
        let mut changed = wrapped.clone();
        changed.resize(length, 0);
        assert!(unwrap([1; 32], &changed).is_err(), "{length} octets");
    }
}
