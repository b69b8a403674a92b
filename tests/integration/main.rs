//! The tests that need more than one module, in one binary: each further one would link everything again.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod architecture;
