//! The envelope, version 1: its bytes, sealing and opening.
//!
//! ```text
//! header     "TS" || 0x01 (format) || 0x01 (suite) || three versions (u32) || salt (32)     48 octets
//! commitment                                                                               32
//! ciphertext                                                             a multiple of 64, at least 64
//! tag                                                                                      16
//! ```

use std::fmt;
use std::num::NonZeroU32;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::aead::{self, TAG_OCTETS};
use super::context::Context;
use super::kdf::record_keys;
use super::secret::{MAX_PLAINTEXT_OCTETS, Plaintext, Root, Salt};

pub(super) const HEADER_OCTETS: usize = 48;
const COMMITMENT_OCTETS: usize = 32;
/// Plaintexts are padded to a multiple of this, so that a stored length tells a password's only to within it.
const BLOCK_OCTETS: usize = 64;
const MAX_BODY_OCTETS: usize = MAX_PLAINTEXT_OCTETS + BLOCK_OCTETS;
/// Magic, format 1, suite 1 (HKDF-SHA-256 with AES-256-GCM).
const PREFIX: [u8; 4] = [b'T', b'S', 1, 1];

/// The version of a factor, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(NonZeroU32);

impl Version {
    /// The version that a factor starts with.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for 0, which is no version.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number, from 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The versions of the three factors that a record is sealed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lineage {
    /// Of the key in the binary.
    pub codebase: Version,
    /// Of the deployment's key.
    pub environment: Version,
    /// Of the customer's key.
    pub customer: Version,
}

/// A well-formed envelope. Nothing in it is authentic before it has been opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    octets: Vec<u8>,
    lineage: Lineage,
}

/// The octets are no envelope of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the envelope is malformed")]
pub struct Malformed;

/// The envelope was not sealed by these keys for this context. There is one such error, whatever the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the envelope is not authentic")]
pub struct NotAuthentic;

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Revisions count from 1.
    #[error("nothing is sealed at revision 0")]
    RevisionZero,
}

impl Envelope {
    /// Checks length, magic, format, suite and versions, before any key is fetched.
    ///
    /// # Errors
    /// [`Malformed`], whatever is wrong.
    pub fn parse(octets: Vec<u8>) -> Result<Self, Malformed> {
        let lineage = Self::lineage_of(&octets)?;
        Ok(Self { octets, lineage })
    }

    /// The versions that the header of an envelope names, without taking it.
    ///
    /// # Errors
    /// [`Malformed`], whatever is wrong.
    pub fn lineage_of(octets: &[u8]) -> Result<Lineage, Malformed> {
        let body = octets.len().checked_sub(HEADER_OCTETS + COMMITMENT_OCTETS + TAG_OCTETS).ok_or(Malformed)?;
        if body < BLOCK_OCTETS || !body.is_multiple_of(BLOCK_OCTETS) || body > MAX_BODY_OCTETS {
            return Err(Malformed);
        }
        let rest = octets.strip_prefix(&PREFIX).ok_or(Malformed)?;
        let (codebase, rest) = split_version(rest)?;
        let (environment, rest) = split_version(rest)?;
        let (customer, _) = split_version(rest)?;
        Ok(Lineage { codebase, environment, customer })
    }

    /// The versions that the header names.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// The octets as they are stored.
    pub fn as_octets(&self) -> &[u8] {
        &self.octets
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("lineage", &self.lineage).finish_non_exhaustive()
    }
}

/// Seals a plaintext under a root, for a context. The envelope is the only allocation.
///
/// # Errors
/// [`SealError::RevisionZero`] if the context has no revision.
pub fn seal(
    root: &Root,
    lineage: Lineage,
    context: &Context<'_>,
    salt: Salt,
    plaintext: &Plaintext,
) -> Result<Envelope, SealError> {
    if context.revision() == 0 {
        return Err(SealError::RevisionZero);
    }
    let header = encode_header(lineage, &salt.into_octets());
    let keys = record_keys(root, &header, context);

    let plaintext = plaintext.expose_secret();
    let padded = (plaintext.len() + 1).next_multiple_of(BLOCK_OCTETS);
    let body = HEADER_OCTETS + COMMITMENT_OCTETS;
    // Of the final size from the start: a vector that grows leaves a copy of the plaintext behind.
    let mut octets = Vec::with_capacity(body + padded + TAG_OCTETS);
    octets.extend_from_slice(&header);
    octets.extend_from_slice(&keys.commitment);
    octets.extend_from_slice(plaintext);
    octets.push(0x80);
    octets.resize(body + padded, 0);
    let (_, buffer) = octets.split_at_mut(body);
    let tag = aead::seal(keys.key, keys.nonce, &keys.binding, buffer);
    octets.extend_from_slice(&tag);
    Ok(Envelope { octets, lineage })
}

/// Opens an envelope under the root of its lineage, for the context that it must have. The plaintext is the only
/// allocation.
///
/// # Errors
/// [`NotAuthentic`], whatever is wrong.
pub fn open(root: &Root, context: &Context<'_>, envelope: &Envelope) -> Result<Plaintext, NotAuthentic> {
    // Parsing has checked the length, so that none of the three splits comes out short.
    let (header, rest) = envelope.octets.split_first_chunk::<HEADER_OCTETS>().ok_or(NotAuthentic)?;
    let (commitment, rest) = rest.split_first_chunk::<COMMITMENT_OCTETS>().ok_or(NotAuthentic)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_OCTETS>().ok_or(NotAuthentic)?;
    let keys = record_keys(root, header, context);
    if !bool::from(keys.commitment.ct_eq(commitment)) {
        return Err(NotAuthentic);
    }
    let mut buffer = Zeroizing::new(ciphertext.to_vec());
    aead::open(keys.key, keys.nonce, &keys.binding, &mut buffer, tag).map_err(|_| NotAuthentic)?;
    let length = unpadded_length(&buffer).ok_or(NotAuthentic)?;
    buffer.truncate(length);
    Plaintext::new(buffer).map_err(|_| NotAuthentic)
}

pub(super) fn encode_header(lineage: Lineage, salt: &[u8; 32]) -> [u8; HEADER_OCTETS] {
    let mut header = [0; HEADER_OCTETS];
    header[..4].copy_from_slice(&PREFIX);
    header[4..8].copy_from_slice(&lineage.codebase.get().to_be_bytes());
    header[8..12].copy_from_slice(&lineage.environment.get().to_be_bytes());
    header[12..16].copy_from_slice(&lineage.customer.get().to_be_bytes());
    header[16..].copy_from_slice(salt);
    header
}

fn split_version(octets: &[u8]) -> Result<(Version, &[u8]), Malformed> {
    let (number, rest) = octets.split_first_chunk().ok_or(Malformed)?;
    Ok((Version::new(u32::from_be_bytes(*number)).ok_or(Malformed)?, rest))
}

/// Where the padding starts: the last octet that is not zero is 0x80 and lies in the last block.
pub(super) fn unpadded_length(padded: &[u8]) -> Option<usize> {
    let at = padded.iter().rposition(|octet| *octet != 0)?;
    (padded.get(at) == Some(&0x80) && padded.len() - at <= BLOCK_OCTETS).then_some(at)
}
