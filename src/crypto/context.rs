//! What an envelope is bound to. It is not stored: whoever opens says what it must be.

/// `lp(deployment) || lp(customer_id) || lp(credential_id) || lp(kind) || revision (u64)`, where `lp(x)` is the length of
/// x in octets (u16) and then x in UTF-8. Integers are big-endian.
#[derive(Debug)]
pub struct Context<'a> {
    parts: [(&'a str, u16); 4],
    revision: u64,
}

/// A part of a context is longer than 65,535 octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of the context is longer than 65,535 octets")]
pub struct ContextTooLong;

impl<'a> Context<'a> {
    /// Names what an envelope is bound to. The revision counts from 1; nothing is sealed at 0.
    ///
    /// # Errors
    /// [`ContextTooLong`] if a length doesn't fit its u16. Ids are far shorter.
    pub fn new(
        deployment: &'a str,
        customer: &'a str,
        credential: &'a str,
        kind: &'a str,
        revision: u64,
    ) -> Result<Self, ContextTooLong> {
        let part = |text: &'a str| match u16::try_from(text.len()) {
            Ok(length) => Ok((text, length)),
            Err(_) => Err(ContextTooLong),
        };
        Ok(Self { parts: [part(deployment)?, part(customer)?, part(credential)?, part(kind)?], revision })
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Hands over the encoding, piece by piece and without an allocation.
    pub(super) fn encode(&self, mut write: impl FnMut(&[u8])) {
        for (text, length) in &self.parts {
            write(&length.to_be_bytes());
            write(text.as_bytes());
        }
        write(&self.revision.to_be_bytes());
    }
}
