//! The operating system's generator of random numbers, where it refuses: one error, which each layer makes its own. Nothing falls back
//! to numbers that are less random.

/// The generator did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Self::TEXT)]
pub struct NoRandomness;

impl NoRandomness {
    /// What is told of it.
    pub const TEXT: &'static str = "the system's generator of random numbers does not answer";
}

impl From<getrandom::Error> for NoRandomness {
    fn from(_: getrandom::Error) -> Self {
        Self
    }
}
