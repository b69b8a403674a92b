//! How a secret may show where it must not: as it is, and in each encoding that logs, traces and dumps use. It knows no test.

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};

/// Looks for one secret in every encoding.
pub(crate) struct Searched {
    needles: Vec<(&'static str, Vec<u8>)>,
}

impl Searched {
    /// Looks for these octets, which must be long enough not to occur by chance.
    pub(crate) fn new(secret: &[u8]) -> Self {
        assert!(secret.len() >= 12, "so short a text occurs by chance");
        let mut needles = vec![
            ("text", secret.to_vec()),
            ("hex", hex::encode(secret).into_bytes()),
            ("hex in capitals", hex::encode_upper(secret).into_bytes()),
            ("UTF-16", secret.iter().flat_map(|octet| [*octet, 0]).collect()),
        ];
        // As Rust quotes them, and flat.
        let quoted = secret.escape_ascii().to_string();
        for quoted in [quoted.replace(r"\x00", r"\0"), quoted] {
            needles.push(("quoted octets", flat(&quoted).into_bytes()));
            needles.push(("quoted octets", quoted.into_bytes()));
        }
        for (name, separator) in [("a list", ", "), ("a compact list", ",")] {
            let decimals: Vec<_> = secret.iter().map(u8::to_string).collect();
            needles.push((name, decimals.join(separator).into_bytes()));
        }
        // What stands before the secret shifts its base64: the quanta that hold nothing but the secret are the same in each shift.
        for skipped in 0..3 {
            let whole = (secret.len() - skipped) / 3 * 3;
            let quanta = &secret[skipped..skipped + whole];
            needles.push(("base64", Base64Unpadded::encode_string(quanta).into_bytes()));
            needles.push(("base64url", Base64UrlUnpadded::encode_string(quanta).into_bytes()));
        }
        needles.dedup();
        Self { needles }
    }

    /// Where the secret stands in `haystack`, and in which encoding.
    pub(crate) fn found_in<'a>(&'a self, haystack: &'a [u8]) -> impl Iterator<Item = (&'static str, usize)> + 'a {
        self.needles.iter().flat_map(|(name, needle)| {
            memchr::memmem::find_iter(haystack, needle).map(|at| (*name, at)).collect::<Vec<_>>()
        })
    }
}

/// A text in which quoted text may have been quoted again, however often: with one backslash for any number of them.
pub(crate) fn flat(text: &str) -> String {
    let mut flat = text.to_owned();
    while flat.contains(r"\\") {
        flat = flat.replace(r"\\", r"\");
    }
    flat
}

#[test]
fn each_encoding_is_found() {
    let secret = b"5Aep861TSESvWeug_xvFH";
    let searched = Searched::new(secret);
    let found = |text: Vec<u8>| {
        let text = [b"before ".to_vec(), text, b" after".to_vec()].concat();
        searched.found_in(&text).next().is_some()
    };
    assert!(found(secret.to_vec()));
    assert!(found(hex::encode(secret).into_bytes()));
    assert!(found(hex::encode_upper(secret).into_bytes()));
    assert!(found(format!("{secret:?}").into_bytes()));
    let binary = Searched::new(b"5Aep\xff\x00We\\ug_xvFH");
    for quoted in [&br#"b"5Aep\xff\0We\\ug_xvFH""#[..], br#""5Aep\xff\x00We\\ug_xvFH""#, br#""5Aep\xff\0We\ug_xvFH""#] {
        assert!(binary.found_in(quoted).next().is_some());
    }
    assert!(found(serde_json::to_vec(&secret.to_vec()).unwrap()));
    for before in ["", "x", "xy", "xyz"] {
        let shifted = [before.as_bytes(), secret, b"tail"].concat();
        assert!(found(Base64Unpadded::encode_string(&shifted).into_bytes()), "after {before:?}");
        assert!(found(Base64UrlUnpadded::encode_string(&shifted).into_bytes()), "after {before:?}");
    }
    assert!(!found(b"5Aep861TSESvWeug_xvF".to_vec()));
}
