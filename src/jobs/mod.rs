//! Long work on every record or customer, carried out by the replicas: what a job is, and how it ends. Everything about a job stands in
//! the store, so it goes on wherever it stopped. It knows no protocol; what is done to a record, `vault` knows, and to a customer,
//! `customers`.
//!
//! A job walks all records in passes. A pass is cut into parts; a replica takes a part by a lease, works through it page by page, and
//! writes a checkpoint after each. Two replicas on one part do double work and no harm. A re-encryption ends with a pass that changed
//! nothing and that began when every replica had reported primaries at the target: after that, nobody seals below it.

mod book;
mod counts;
mod item;
mod plan;
mod record;
mod replicas;
mod run;

pub use book::{JobError, Jobs, Parts};
pub use plan::{Failure, ItemId, Job, JobKind, JobState, Progress, VersionCount};
pub use record::JobId;
pub use replicas::{AHEAD, GONE, Replica, ReplicaId, Reported, Reporter};
pub use run::work_until;
