//! The generated messages, clients and servers of `proto/triseal/v1/`.
//!
//! Those that hold a secret are wiped when dropped (build.rs) and print as their type's name. prost derives Clone and
//! PartialEq for them, which nothing here uses; the application never sees them.

use crate::secret::prints_as_its_name;

/// Package `triseal.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("triseal.v1");

    /// For server reflection: the files of `proto/triseal/v1/` and what they import.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

prints_as_its_name!(v1::SalesforceOAuth, v1::Password, v1::Opaque);
