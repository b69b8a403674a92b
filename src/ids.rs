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
}
