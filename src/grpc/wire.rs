//! The generated messages, clients and servers of `proto/triseal/v1/`.
//!
//! Those that hold a secret are wiped when dropped (build.rs) and print as their type's name. prost derives Clone and
//! PartialEq for them, which nothing here uses; the application never sees them.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::ProstCodec;

use crate::secret::prints_as_its_name;

/// Package `triseal.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("triseal.v1");

    /// For server reflection: the files of `proto/triseal/v1/` and what they import.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// What a buffer for a message starts with, in octets: most have some hundred. tonic's own start with 8 KiB, and two for each call are
/// allocated, and wiped when freed.
const BUFFER_OCTETS: usize = 1024;
/// Octets of encoded messages that a stream collects before it sends them, as tonic has it.
const YIELD_OCTETS: usize = 32 * 1024;

/// prost's codec, with smaller buffers. The generated clients and servers use it (build.rs).
pub(super) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as codec::Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as codec::Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_OCTETS, YIELD_OCTETS))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_OCTETS, YIELD_OCTETS))
    }
}

prints_as_its_name!(v1::SalesforceOAuth, v1::Password, v1::Opaque);
prints_as_its_name!(v1::RefreshLease, v1::CompleteRefreshRequest, v1::AbandonRefreshRequest);
