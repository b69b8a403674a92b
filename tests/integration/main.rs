//! The service as its users meet it, and the rules that the tree keeps. One binary: each further one would link everything
//! again.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod architecture;
mod audit;
mod audit_away;
mod aws;
mod bad_input;
mod batch;
mod certificates;
mod codebase_keys;
mod command_line;
mod crash;
mod customer_states;
mod encodings;
mod factor_rotation;
mod full_disk;
mod hostile;
mod import;
mod jobs;
mod limits;
mod linearizability;
mod logs;
mod memory;
mod ops;
mod policy;
mod refresh;
mod restored;
mod retiring;
mod rotation;
mod runbooks;
mod scenario;
mod secret_types;
mod service;
mod support;
mod threat_model;
mod tls;
