//! AES-256-GCM (NIST SP 800-38D) under a key for one message. Sealing and opening take the key, so it has one use.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use zeroize::Zeroizing;

pub(super) const TAG_OCTETS: usize = 16;

pub(super) struct SealingKey(Zeroizing<[u8; 32]>);

pub(super) struct Nonce([u8; 12]);

/// The tag is wrong.
pub(super) struct Refused;

impl SealingKey {
    pub(super) fn new(octets: [u8; 32]) -> Self {
        Self(Zeroizing::new(octets))
    }

    pub(super) fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Nonce {
    pub(super) fn new(octets: [u8; 12]) -> Self {
        Self(octets)
    }

    pub(super) fn into_octets(self) -> [u8; 12] {
        self.0
    }
}

/// Encrypts in place and returns the tag.
#[expect(clippy::needless_pass_by_value, reason = "a key and a nonce have one use")]
pub(super) fn seal(key: SealingKey, nonce: Nonce, associated: &[u8], buffer: &mut [u8]) -> [u8; TAG_OCTETS] {
    let cipher = Aes256Gcm::new((&*key.0).into());
    #[expect(clippy::expect_used, reason = "its one error is a length near 64 GiB or more; a plaintext has 64 KiB")]
    let tag = cipher.encrypt_inout_detached(&nonce.0.into(), associated, buffer.into()).expect("a length of the mode");
    tag.into()
}

/// Checks the tag in constant time, then decrypts in place. On refusal the buffer still holds the ciphertext.
#[expect(clippy::needless_pass_by_value, reason = "a key and a nonce have one use")]
pub(super) fn open(
    key: SealingKey,
    nonce: Nonce,
    associated: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_OCTETS],
) -> Result<(), Refused> {
    let cipher = Aes256Gcm::new((&*key.0).into());
    cipher.decrypt_inout_detached(&nonce.0.into(), associated, buffer.into(), tag.into()).map_err(|_| Refused)
}
