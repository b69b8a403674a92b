//! The secrets: one type for each, wiped when dropped. None can be copied, compared with `==` or formatted; the octets
//! are read through `expose_secret` alone, so that every reading can be found by its name.

use std::fmt;
use std::marker::PhantomData;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A plaintext has at most so many octets.
pub const MAX_PLAINTEXT_OCTETS: usize = 65_536;

/// A factor: a uniformly random key of 32 octets. `F` tells which, so that no two can be confused.
pub struct Key<F>(Zeroizing<[u8; 32]>, PhantomData<F>);

/// Marks the key that is compiled into the binary.
pub enum Codebase {}
/// Marks the key of the deployment.
pub enum Environment {}
/// Marks the key of one customer.
pub enum Customer {}
/// Marks the local stand-in for a KMS key.
pub enum LocalWrapping {}

/// The factor that is compiled into the binary.
pub type CodebaseKey = Key<Codebase>;
/// The factor of the deployment.
pub type EnvironmentKey = Key<Environment>;
/// The factor of one customer.
pub type CustomerKey = Key<Customer>;
/// Wraps customer keys where there is no KMS; not a factor.
pub type LocalWrappingKey = Key<LocalWrapping>;

impl<F> Key<F> {
    /// Takes 32 uniformly random octets.
    pub fn new(octets: Zeroizing<[u8; 32]>) -> Self {
        Self(octets, PhantomData)
    }

    /// The key's octets.
    pub fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether two keys are the same, in constant time.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_ref()).into()
    }
}

impl<F> fmt::Debug for Key<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Such as `Key<Codebase>`.
        let factor = std::any::type_name::<F>();
        write!(f, "Key<{}>", factor.rsplit("::").next().unwrap_or(factor))
    }
}

/// The combination of three factors. A process keeps roots and never customer keys.
pub struct Root(Zeroizing<[u8; 32]>);

impl Root {
    pub(super) fn new(octets: Zeroizing<[u8; 32]>) -> Self {
        Self(octets)
    }

    pub(super) fn expose_secret(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root")
    }
}

/// What is sealed: an encoding octet and a stored secret.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// Takes the octets; they are wiped when this is dropped.
    ///
    /// # Errors
    /// [`PlaintextTooLong`] above [`MAX_PLAINTEXT_OCTETS`].
    pub fn new(octets: Zeroizing<Vec<u8>>) -> Result<Self, PlaintextTooLong> {
        if octets.len() > MAX_PLAINTEXT_OCTETS { Err(PlaintextTooLong) } else { Ok(Self(octets)) }
    }

    /// The octets.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }

    /// Whether two plaintexts are the same, in constant time for a given length.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext")
    }
}

/// A plaintext is longer than [`MAX_PLAINTEXT_OCTETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plaintext is longer than {MAX_PLAINTEXT_OCTETS} octets")]
pub struct PlaintextTooLong;

/// 32 octets that are new for every sealing. Sealing consumes it: with the same salt twice, two records of one
/// credential and revision would share a key and a nonce. It is no secret, since every envelope shows its own.
#[derive(Debug)]
pub struct Salt([u8; 32]);

impl Salt {
    /// Takes 32 octets, fresh from the operating system's generator and for this sealing alone.
    pub fn new(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    pub(super) fn into_octets(self) -> [u8; 32] {
        self.0
    }
}

/// Tells a factor version from another without revealing it: `HKDF-Expand(key, "triseal/v1 fingerprint", 16)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 16]);
