//! Looks for secrets in what came out of the service: as text, in hexadecimal, in base64 however it is aligned, and as a list of
//! numbers.

use base64ct::{Base64, Base64Url, Encoding};

/// Shorter ones would be found by chance.
const MIN_OCTETS: usize = 8;

/// Fails if one of the secrets stands in the text.
#[track_caller]
pub(crate) fn assert_none(text: &str, secrets: &[&[u8]]) {
    for secret in secrets {
        if let Some((line, form)) = find(text, secret) {
            panic!("{:?} stands in line {line} as {form}", String::from_utf8_lossy(secret));
        }
    }
}

/// In which line it stands first, and how.
fn find(text: &str, secret: &[u8]) -> Option<(usize, &'static str)> {
    assert!(secret.len() >= MIN_OCTETS, "{secret:?} is too short to be looked for");
    let text = flat(text);
    forms(secret).into_iter().find_map(|(form, written)| {
        let at = text.find(&flat(&written))?;
        Some((text[..at].matches('\n').count() + 1, form))
    })
}

/// However often something was quoted within something quoted, there is one backslash.
fn flat(text: &str) -> String {
    let mut flat = text.to_owned();
    while flat.contains(r"\\") {
        flat = flat.replace(r"\\", r"\");
    }
    flat
}

/// Every way in which octets may be written.
fn forms(octets: &[u8]) -> Vec<(&'static str, String)> {
    let list = |format: fn(&u8) -> String| octets.iter().map(format).collect::<Vec<_>>();
    let mut forms = vec![
        ("octets in quotes", octets.escape_ascii().to_string()),
        ("hexadecimal", hex::encode(octets)),
        ("hexadecimal", hex::encode_upper(octets)),
        ("a list", list(u8::to_string).join(", ")),
        ("a list", list(u8::to_string).join(",")),
        ("a list", list(|octet| format!("0x{octet:02x}")).join(", ")),
        ("a list", list(|octet| format!("{octet:02x}")).join(":")),
        ("a list", list(|octet| format!("{octet:02x}")).join(" ")),
    ];
    forms.extend(std::str::from_utf8(octets).ok().map(|text| ("text", text.to_owned())));
    // Octets before it shift it by up to two; the characters that they and those after it have a part in are left out.
    for (before, skipped) in [(0, 0), (1, 2), (2, 3)] {
        let shifted = [&vec![0; before][..], octets].concat();
        let whole = shifted.len() * 8 / 6;
        for encoded in [Base64::encode_string(&shifted), Base64Url::encode_string(&shifted)] {
            forms.push(("base64", encoded[skipped..whole].to_owned()));
        }
    }
    // And each of them as a text in JSON.
    let quoted: Vec<_> = forms.iter().map(|(form, written)| (*form, serde_json::to_string(written).unwrap())).collect();
    forms.extend(quoted.into_iter().map(|(form, quoted)| (form, quoted[1..quoted.len() - 1].to_owned())));
    forms
}

#[test]
fn a_secret_is_found_in_every_form() {
    let secret = b"00D!planted\xff\x00secret";
    for shown in [
        format!("{:?}", secret.as_slice()),
        format!("{:?}", secret.escape_ascii().to_string()),
        secret.escape_ascii().to_string(),
        format!("b\"{}\"", secret.escape_ascii()),
        hex::encode(secret),
        hex::encode_upper(secret),
        serde_json::to_string(secret.as_slice()).unwrap(),
        Base64::encode_string(secret),
        Base64::encode_string(&[b"x", secret.as_slice(), b"yz"].concat()),
        Base64Url::encode_string(&[b"xy", secret.as_slice(), b"z"].concat()),
        format!("{secret:02x?}").replace(", ", ":"),
    ] {
        for text in [format!("first line\nsecond {shown}\n"), serde_json::to_string(&shown).unwrap()] {
            assert!(find(&text, secret).is_some(), "it is not found in {text}");
        }
    }
    assert_eq!(find("one\ntwo planted texts", b"planted text"), Some((2, "octets in quotes")));
    assert_eq!(find("nothing of it is here", secret), None);
}
