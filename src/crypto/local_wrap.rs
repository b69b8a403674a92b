//! The local stand-in for KMS, for development: wraps a customer key under a key from a file. It binds the same
//! encryption context as KMS does, so that a wrapped key put under another customer does not unwrap here either.
//!
//! `wrapped = 0x01 || salt (32 random octets) || AES-256-GCM(key, nonce, associated data = context, customer key)`

use zeroize::Zeroizing;

use super::aead::{self, TAG_OCTETS};
use super::envelope::NotAuthentic;
use super::kdf::local_wrap_keys;
use super::secret::{CustomerKey, LocalWrappingKey, Salt};

const FORMAT: u8 = 1;
/// Format, salt, the key's 32 octets, tag.
const WRAPPED_OCTETS: usize = 1 + 32 + 32 + TAG_OCTETS;

/// Wraps a customer key.
pub fn wrap_local(wrapping: &LocalWrappingKey, context: &[u8], salt: Salt, customer: &CustomerKey) -> Vec<u8> {
    let salt = salt.into_octets();
    let (key, nonce) = local_wrap_keys(wrapping, &salt);
    let mut buffer = Zeroizing::new(*customer.expose_secret());
    let mut wrapped = Vec::with_capacity(WRAPPED_OCTETS);
    wrapped.push(FORMAT);
    wrapped.extend_from_slice(&salt);
    let tag = aead::seal(key, nonce, context, buffer.as_mut());
    wrapped.extend_from_slice(buffer.as_ref());
    wrapped.extend_from_slice(&tag);
    wrapped
}

/// Unwraps a customer key.
///
/// # Errors
/// [`NotAuthentic`] if it was not wrapped under this key for this context.
pub fn unwrap_local(wrapping: &LocalWrappingKey, context: &[u8], wrapped: &[u8]) -> Result<CustomerKey, NotAuthentic> {
    let rest = wrapped.strip_prefix(&[FORMAT]).ok_or(NotAuthentic)?;
    let (salt, rest) = rest.split_first_chunk().ok_or(NotAuthentic)?;
    let (key_octets, tag) = rest.split_first_chunk::<32>().ok_or(NotAuthentic)?;
    let tag = tag.try_into().map_err(|_| NotAuthentic)?;
    let (key, nonce) = local_wrap_keys(wrapping, salt);
    let mut buffer = Zeroizing::new(*key_octets);
    aead::open(key, nonce, context, buffer.as_mut(), tag).map_err(|_| NotAuthentic)?;
    Ok(CustomerKey::new(buffer))
}
