//! The edge: all that knows tonic and the generated code. A handler asks who calls, converts, makes one call, and converts
//! back.

mod wire;

pub use wire::v1;
