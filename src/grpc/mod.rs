//! The edge: all that knows tonic and the generated code. A handler asks who calls, converts, makes one call, and converts
//! back.

mod admission;
mod call;
mod connection;
mod convert;
pub mod credential;
pub mod customer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod gate;
pub mod identity;
pub mod key;
mod limits;
mod preface;
mod refusals;
pub mod server;
mod status;
pub mod tls;
mod wire;

pub use convert::check_encrypt_request;
pub use status::{DOMAIN, REASON_TRAILER, REASONS};
pub use wire::v1;
