//! The service as its users meet it, and the rules that the tree keeps. One binary: each further one would link everything
//! again.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod architecture;
mod bad_input;
mod batch;
mod codebase_keys;
mod command_line;
mod crash;
mod encodings;
mod import;
mod limits;
mod logs;
mod memory;
mod ops;
mod service;
mod support;
