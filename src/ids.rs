//! The names of things: parsed once, at the edge, and cheap to clone. An id is printable ASCII, so it may be logged.

use std::fmt;
use std::sync::Arc;

/// An id has at most so many characters.
const MAX_ID_OCTETS: usize = 128;

/// The text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_ID_OCTETS} of A-Z a-z 0-9 . _ - and start with a letter or a digit")]
pub struct BadId;

fn check(text: &str) -> Result<(), BadId> {
    let mut octets = text.bytes();
    let starts = octets.next().is_some_and(|octet| octet.is_ascii_alphanumeric());
    let goes_on = octets.all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'_' | b'-'));
    if starts && goes_on && text.len() <= MAX_ID_OCTETS { Ok(()) } else { Err(BadId) }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes 1 to 128 of `A-Z a-z 0-9 . _ -`, starting with a letter or a digit.
            ///
            /// # Errors
            /// [`BadId`] for any other text. Nothing is repaired.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                check(text).map(|()| Self(text.into()))
            }

            /// The id as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// The name of the environment, such as `production`. Every envelope is bound to it.
    Deployment
}
id! {
    /// A customer.
    CustomerId
}
id! {
    /// A credential, unique for its customer.
    CredentialId
}

/// A credential of a customer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialRef {
    /// Whose it is.
    pub customer: CustomerId,
    /// Which one.
    pub credential: CredentialId,
}

/// Who calls, as the edge identified it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// Takes the identity that the edge established.
    pub fn new(identity: &str) -> Self {
        Self(identity.into())
    }

    /// Everyone who reaches a service without TLS (`insecure.plaintext`).
    pub fn insecure_plaintext() -> Self {
        Self::new("insecure:plaintext")
    }

    /// The identity.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A trust domain's name has at most so many octets, as the host of a URI.
const MAX_TRUST_DOMAIN_OCTETS: usize = 255;

/// The text is no name of a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must have 1 to {MAX_TRUST_DOMAIN_OCTETS} of a-z 0-9 . - _, such as \"example.org\", without spiffe:// and path"
)]
pub struct BadTrustDomain;

/// The trust domain of SPIFFE ids: whose callers these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes 1 to 255 of `a-z 0-9 . - _` (SPIFFE-ID, 2.1).
    ///
    /// # Errors
    /// [`BadTrustDomain`] for any other text, upper case too. Nothing is repaired.
    pub fn parse(text: &str) -> Result<Self, BadTrustDomain> {
        let allowed = |octet: u8| matches!(octet, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        let good = (1..=MAX_TRUST_DOMAIN_OCTETS).contains(&text.len()) && text.bytes().all(allowed);
        if good { Ok(Self(text.into())) } else { Err(BadTrustDomain) }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request id has at most so many characters.
const MAX_REQUEST_ID_OCTETS: usize = 128;

/// The text is no request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_REQUEST_ID_OCTETS} visible ASCII characters")]
pub struct BadRequestId;

/// What names one call: in logs, in the audit log, and to its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes 1 to 128 visible ASCII characters, which may be logged and sent in a header.
    ///
    /// # Errors
    /// [`BadRequestId`] for any other text. Nothing is repaired.
    pub fn parse(text: &str) -> Result<Self, BadRequestId> {
        let visible = text.bytes().all(|octet| octet.is_ascii_graphic());
        if visible && (1..=MAX_REQUEST_ID_OCTETS).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(BadRequestId)
        }
    }

    /// The name of a call whose caller gave it this id: `given~` and 64 random bits, in hexadecimal. Two calls have two names, whatever
    /// their callers say, so that no entry of one in the audit log is taken for the other's.
    pub fn of_call(given: &Self) -> Self {
        let mut octets = [0; 8];
        // As in `random`.
        let _ = getrandom::fill(&mut octets);
        Self(format!("{}~{:016x}", given.as_str(), u64::from_be_bytes(octets)).into())
    }

    /// A new one: 128 random bits, in hexadecimal.
    pub fn random() -> Self {
        let mut octets = [0; 16];
        // Without a generator it is 0, which names no call alone; nothing is sealed then, either.
        let _ = getrandom::fill(&mut octets);
        Self(format!("{:032x}", u128::from_be_bytes(octets)).into())
    }

    /// The id as it was given or made.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The trace that a call belongs to (W3C Trace Context, 3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

impl TraceId {
    /// Takes a `traceparent`: `00-`, 32 lower-case hexadecimal digits that are not all zeros, `-` and more. `None` for anything else,
    /// and for a version that is not 00.
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let (digits, _) = text.strip_prefix("00-")?.split_once('-')?;
        let is_hex = digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(digits, 16).ok().filter(|number| is_hex && *number != 0)?;
        Some(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_visible_and_bounded() {
        let longest = "~".repeat(128);
        for good in ["a", "0190-3f", "Root=1-67891233-abcdef", "\"quoted\\\"", longest.as_str()] {
            assert_eq!(RequestId::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in ["", " ", "a b", "ä", "a\0", "a\r\nb", "\u{7f}", too_long.as_str()] {
            assert_eq!(RequestId::parse(bad), Err(BadRequestId), "{bad:?}");
        }
        let (one, other) = (RequestId::random(), RequestId::random());
        assert_ne!(one, other);
        assert_eq!(RequestId::parse(one.as_str()), Ok(one.clone()));
        assert!(one.as_str().len() == 32 && one.as_str().bytes().all(|octet| octet.is_ascii_hexdigit()));

        let (once, twice) = (RequestId::of_call(&one), RequestId::of_call(&one));
        assert_ne!(once, twice, "a caller can't give two calls one name");
        for call in [once, twice] {
            let (given, made) = call.as_str().rsplit_once('~').unwrap();
            assert_eq!(given, one.as_str());
            assert!(made.len() == 16 && made.bytes().all(|octet| octet.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn ids_keep_to_their_character_set_and_length() {
        let longest = "a".repeat(128);
        for good in ["a", "0", "acme", "00D5g000004XyZ.AbC_d-e", longest.as_str()] {
            assert_eq!(CustomerId::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in ["", ".a", "-a", "_a", "a b", "a/b", "ä", "a\0", "a\n", "a#1", too_long.as_str()] {
            assert_eq!(CustomerId::parse(bad), Err(BadId), "{bad:?}");
        }
    }
    #[test]
    fn trust_domains_keep_to_the_character_set_of_spiffe() {
        let longest = "a".repeat(255);
        for good in ["datasert.com", "a", "0", "10.0.0.1", "a_b-c.d", "-", longest.as_str()] {
            assert_eq!(TrustDomain::parse(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(256);
        for bad in
            ["", "Datasert.com", "a/b", "a:1", "u@a", "[::1]", "a%2e", "ä", "a b", "spiffe://a", too_long.as_str()]
        {
            assert_eq!(TrustDomain::parse(bad), Err(BadTrustDomain), "{bad:?}");
        }
    }

    #[test]
    fn a_trace_is_taken_from_a_traceparent_of_version_00() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceId::from_traceparent(good).unwrap().0[..2], [0x4b, 0xf9]);
        for bad in [
            "",
            "00-",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceId::from_traceparent(bad), None, "{bad}");
        }
    }
}
