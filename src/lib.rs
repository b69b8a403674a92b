//! triseal seals credentials under three keys that live in three places.
//!
//! # The life of one request
//!
//! An EncryptCredential enters in `grpc::credential`, whose handler is a dozen lines: who calls, what do they
//! ask for (`grpc::convert`, the only place where a request is checked), may they ([`access`]), one call, the answer
//! (`grpc::convert`) or the error (`grpc::status`).
//!
//! The one call is [`vault::Vault::encrypt`]: read the row, decide, have [`keyring`] combine the three factors to the root
//! of the customer's primary lineage, seal at the next revision ([`crypto`]), and replace the row on the condition that nobody
//! else has ([`store::change`], the one rule for writing).
//!
//! A DecryptCredential is its mirror: the row, the root of the lineage in the envelope's header, open, answer.
//!
//! Dependencies point down the list of modules below and never up; a test holds them to it.

/// What the fuzz targets run.
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub mod grpc;
pub mod ops;

pub mod observed;
pub mod service;

pub mod access;
pub mod audit;
pub mod customers;
pub mod jobs;
pub mod refresh;
pub mod vault;

pub mod keyring;

pub mod factors;

pub mod store;

pub mod secret;

pub mod crypto;

pub mod aws;
pub mod config;
pub mod ids;
pub mod jitter;
pub mod randomness;
pub mod telemetry;
