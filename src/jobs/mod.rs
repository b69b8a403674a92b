//! Long work on every record, carried out by the replicas: what a job is, and how it ends. Everything about a job stands in the store,
//! so it goes on wherever it stopped. It knows no protocol, and what is done to a record only by `vault`.
//!
//! A job walks all records in passes. A pass is cut into parts; a replica takes a part by a lease, works through it page by page, and
//! writes a checkpoint after each. Two replicas on one part do double work and no harm. The job ends with a pass that changed nothing
//! and that began when every replica had reported primaries at the target: after that, nobody seals below it.

mod plan;
mod record;
mod replicas;
mod run;

pub use plan::{Failure, Job, JobKind, JobState, Progress, VersionCount};
pub use record::JobId;
pub use replicas::{Replica, ReplicaId, report_for_ever};
pub use run::{JobError, Jobs, work_for_ever};
