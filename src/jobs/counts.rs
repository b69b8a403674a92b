//! What the metrics tell of jobs, by their kind alone. It knows no job.

use super::plan::JobKind;
use crate::telemetry::metrics::JobsOfKind;

/// Of each kind: what is not a dry run, and what is.
pub(super) struct Counts {
    reencryption: [JobsOfKind; 2],
    customer_key_rotation: [JobsOfKind; 2],
    rewrap: [JobsOfKind; 2],
}

impl Counts {
    /// Registers all, so that each is shown from the start.
    pub(super) fn new() -> Self {
        let both = |name| [false, true].map(|dry_run| JobsOfKind::new(name, dry_run));
        Self {
            reencryption: both("reencryption"),
            customer_key_rotation: both("customer_key_rotation"),
            rewrap: both("rewrap"),
        }
    }

    pub(super) fn of(&self, kind: JobKind, dry_run: bool) -> &JobsOfKind {
        let [real, dry] = match kind {
            JobKind::Reencryption => &self.reencryption,
            JobKind::CustomerKeyRotation => &self.customer_key_rotation,
            JobKind::Rewrap => &self.rewrap,
        };
        if dry_run { dry } else { real }
    }
}
