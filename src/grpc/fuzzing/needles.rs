//! What must not be found where it does not belong: secrets and keys, in each form in which they could stand there.

use std::sync::LazyLock;

use base64ct::{Base64, Encoding};

/// The stored credentials have this in every secret field. It stands in no corpus, so no request can have it.
pub(super) const KEPT_SECRET: &str = "kept: 4d9a1c77 \u{2603}";
/// In the requests of the corpora, where a secret is or might have been put by mistake. It is no id, so it can't become one's.
pub(super) const SENT_SECRET: &str = "sent: 81f3b02e \u{2602}";

/// The factors and the wrapping key.
pub(super) const CODEBASE: [u8; 32] = *b"the codebase key of fuzzing, 1!\x80";
pub(super) const ENVIRONMENT: [u8; 32] = *b"the environment key of fuzzing!\x81";
pub(super) const WRAPPING: [u8; 32] = *b"the wrapping key of fuzzing, 3!\x82";

/// Secrets of the store, and all keys.
pub(super) static KEPT: LazyLock<Needles> =
    LazyLock::new(|| Needles::new(&[KEPT_SECRET.as_bytes(), &CODEBASE, &ENVIRONMENT, &WRAPPING]));
/// Secrets of requests.
pub(super) static SENT: LazyLock<Needles> = LazyLock::new(|| Needles::new(&[SENT_SECRET.as_bytes()]));

/// Octets to look for.
pub(super) struct Needles {
    needles: Vec<Vec<u8>>,
    /// For each pair of octets, whether a needle begins with it. A fuzzer looks at every comparison, and so most are not made.
    beginnings: Vec<bool>,
}

fn pair(octets: &[u8]) -> usize {
    octets.iter().take(2).fold(0, |pair, octet| pair << 8 | usize::from(*octet))
}

impl Needles {
    /// Each as it is, in base64 wherever it begins there, in hexadecimal digits, as a list of numbers and as Rust and JSON escape it.
    fn new(secrets: &[&[u8]]) -> Self {
        let forms = |secret: &&[u8]| {
            let hex: String = secret.iter().map(|octet| format!("{octet:02x}")).collect();
            let numbers: Vec<_> = secret.iter().map(u8::to_string).collect();
            // It may begin at any octet of a group of three. Of whole groups, what surrounds them changes nothing.
            let base64 = [0, 1, 2].map(|skipped| {
                let (groups, _) = secret.get(skipped..).unwrap_or_default().as_chunks::<3>();
                Base64::encode_string(groups.as_flattened())
            });
            let text = String::from_utf8_lossy(secret);
            let escaped = text.escape_default().to_string();
            let texts = [hex.to_uppercase(), hex, numbers.join(", "), numbers.join(","), escaped];
            let texts = texts.into_iter().chain(base64).map(String::into_bytes);
            texts.chain([secret.to_vec()]).collect::<Vec<_>>()
        };
        let needles: Vec<_> = secrets.iter().flat_map(forms).collect();
        let mut beginnings = vec![false; 1 << 16];
        for needle in &needles {
            if let Some(begins) = beginnings.get_mut(pair(needle)) {
                *begins = true;
            }
        }
        Self { needles, beginnings }
    }

    pub(super) fn stand_in(&self, haystack: &[u8]) -> bool {
        let begins = |at: &[u8]| self.beginnings.get(pair(at)) == Some(&true);
        let mut rest = haystack;
        while let [_, after @ ..] = rest {
            if begins(rest) && self.needles.iter().any(|needle| rest.starts_with(needle)) {
                return true;
            }
            rest = after;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_base64_wherever_it_begins() {
        let needles = Needles::new(&[KEPT_SECRET.as_bytes()]);
        for before in ["", "a", "ab", "abc"] {
            let text = Base64::encode_string(format!("{before}{KEPT_SECRET} and more").as_bytes());
            assert!(needles.stand_in(text.as_bytes()), "{before:?}");
            assert!(!needles.stand_in(Base64::encode_string(format!("{before}another").as_bytes()).as_bytes()));
        }
    }
}
