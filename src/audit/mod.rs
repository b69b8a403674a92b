//! The audit log: who read and changed what, in a chain of entries from which nothing can be taken unseen.
//!
//! [`AuditLog`] is what the service writes with. It fails closed: each of its calls returns when the entry is written, or an
//! error after which nothing may be shown or changed. `entry` makes the octets, `writer` chains and writes them in a
//! thread of its own, `sink` is where they go, `keeper` syncs them and keeps the head of the stream in the store (`heads`).
//!
//! [`verify`] and [`report`] read logs. They know nothing of the service.
//!
//! docs/AUDIT.md says what stands in the log and what it can't show.

mod changing;
pub mod entry;
#[cfg(test)]
mod fakes;
pub mod finding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod heads;
mod keeper;
mod line;
mod log;
mod reader;
pub mod report;
pub mod sink;
pub mod verify;
mod words;
mod writer;

pub use changing::{Changing, Made};
pub use log::{AuditError, AuditLog, Audited, Disclosure, Intent, Origin, Recording, StartError, Timing};
pub use reader::first_time;
pub use words::{Event, Reason};
