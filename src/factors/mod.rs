//! Where each factor comes from.
pub mod document;
