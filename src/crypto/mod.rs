//! How one credential is sealed and opened: docs/FORMAT.md, and nothing else.
//!
//! Everything here is pure. It knows no clock, no file, no network and no generator: randomness is a parameter. Read in
//! this order: `secret` (what is wiped), `kdf` (every derivation), `context` (what an envelope is bound to), `aead`
//! (the cipher), `envelope` (the bytes); `local_wrap` stands apart, a substitute for KMS.

#![warn(clippy::indexing_slicing)]

mod aead;
mod context;
mod envelope;
mod kdf;
mod local_wrap;
mod secret;

#[cfg(test)]
mod tests;

pub use context::{Context, ContextTooLong};
pub use envelope::{Envelope, Lineage, Malformed, NotAuthentic, SealError, Version, open, seal};
pub use kdf::{combine, fingerprint, page_root};
pub use local_wrap::{unwrap_local, wrap_local};
pub use secret::{
    Codebase, CodebaseKey, Customer, CustomerKey, Environment, EnvironmentKey, Fingerprint, Key, LocalWrapping,
    LocalWrappingKey, MAX_PLAINTEXT_OCTETS, Plaintext, PlaintextTooLong, Root, Salt,
};

/// What a sealing or a derivation makes, for the test vectors alone.
#[doc(hidden)]
pub mod vectors {
    pub use super::kdf::{Derived, insecure_derived};
}
