//! The service as its users meet it: programs, gRPC, and the rules that the tree keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may panic as tests do; clippy.toml permits it in #[test] functions alone"
)]

mod crash;
mod support;
