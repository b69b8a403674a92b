//! The end of a customer, on its day: first the wrapped keys, so that nothing opens any more whatever copies there are, then the
//! credentials. A tombstone with the receipt stays.
//!
//! Every step can be repeated: a process that dies leaves the rest to the next sweep, on any replica, and two replicas at once do no harm.
//!
//! What is begun goes on, whatever the day. But nothing is begun long after its day: a service on tables that were restored from a backup
//! finds the destruction there of a customer that was rescued since. Such a one is left to a person.

use std::sync::Weak;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{CustomerDirectory, CustomerError, WriteId};
use crate::audit::entry::Subject;
use crate::audit::{Changing, Event, Made, Origin};
use crate::ids::CustomerId;
use crate::store::{
    CustomerRow, CustomerState, CustomerWrite, Decision, Erasure, Extent, StoreError, change, row_time,
};
use crate::telemetry::metrics;

/// Rows read at once.
const PAGE: usize = 500;

/// Between two sweeps. A destruction has a day and not a minute, and a sweep reads every customer.
const SWEEP: Duration = Duration::from_hours(1);
/// A destruction that has not begun so long after its day is not begun unasked: three sweeps have missed it, so that either no service
/// ran, or these tables are a copy from before, and what was decided since is not in them.
const OVERDUE: SignedDuration = SignedDuration::from_hours(3);

/// After a sweep that the clock forbade.
const SWEEP_AGAIN: Duration = Duration::from_mins(1);

/// Sweeps now and every hour, for as long as the directory lives.
pub async fn sweep_for_ever(directory: Weak<CustomerDirectory>, backup_retention: SignedDuration) {
    while let Some(directory) = directory.upgrade() {
        let pause = match directory.sweep(backup_retention).await {
            Ok(_) => SWEEP,
            Err(CustomerError::Clock(error)) => {
                warn!(%error, "customers whose day has come are not looked for");
                SWEEP_AGAIN
            }
            Err(error) => {
                error!(%error, "customers whose day has come could not be looked for");
                SWEEP
            }
        };
        drop(directory);
        sleep(pause).await;
    }
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Customers whose destruction is complete now.
    pub destroyed: u64,
    /// Customers whose destruction was due and is not complete. The next sweep goes on.
    pub failed: u64,
    /// Customers whose day is long past, and whose destruction was not begun: a person decides.
    pub overdue: u64,
}

/// What a sweep does with a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    NotYet,
    Due,
    Overdue,
}

impl CustomerDirectory {
    /// Destroys every customer whose day has come, and names those whose day is long past. `backup_retention` is how long backups of the
    /// store are kept.
    ///
    /// # Errors
    /// The store's, if the customers can't be listed; [`CustomerError::Clock`], if nobody knows what day it is. What fails for one customer is
    /// logged and counted, and holds up no other.
    pub async fn sweep(&self, backup_retention: SignedDuration) -> Result<Swept, CustomerError> {
        let (mut swept, mut after) = (Swept::default(), None);
        loop {
            let page = self.customers.query(after.as_ref(), PAGE).await?;
            for row in page.rows {
                // Before each: a sweep takes a while, and a clock may be set meanwhile.
                self.check_clock()?;
                match turn(&row, (self.clock)()) {
                    Turn::NotYet => continue,
                    Turn::Due => {}
                    Turn::Overdue => {
                        swept.overdue += 1;
                        error!(customer = row.id.as_str(), OVERDUE_ADVICE);
                        continue;
                    }
                }
                match self.destroy_audited(&row.id, backup_retention).await {
                    Ok(erasure) => {
                        swept.destroyed += 1;
                        info!(customer = row.id.as_str(), key_versions = erasure.key_versions, "customer destroyed");
                    }
                    // Restored on its last day, and in time.
                    Err(CustomerError::NotDisabled) => {}
                    Err(error) => {
                        swept.failed += 1;
                        warn!(customer = row.id.as_str(), %error, "customer not destroyed yet");
                    }
                }
            }
            after = page.next;
            if after.is_none() {
                metrics::destructions_overdue(swept.overdue);
                return Ok(swept);
            }
        }
    }

    async fn destroy_audited(
        &self,
        id: &CustomerId,
        backup_retention: SignedDuration,
    ) -> Result<Erasure, CustomerError> {
        let origin = Origin::service(None);
        let entries = Changing::new(&self.audit, origin, Event::CustomerDestruction, Subject::customer(id));
        entries.announce(None).await?;
        let destroyed = self.destroy_now(id, backup_retention).await;
        entries.settle(destroyed, |_| Made::default()).await
    }

    async fn destroy_now(&self, id: &CustomerId, backup_retention: SignedDuration) -> Result<Erasure, CustomerError> {
        // One transaction erases so many keys; the first also closes the way back.
        while !self.update(id, |row| erase_keys(row, (self.clock)())).await?.versions.is_empty() {}
        self.keyring.forget(id);

        let credentials = self.walk(id, false).await?;
        self.update(id, |row| record(row, |erasure| erasure.credentials = erasure.credentials.or(Some(credentials))))
            .await?;
        self.walk(id, true).await?;

        let now = row_time((self.clock)());
        let backups_end = now.checked_add(backup_retention).map_or(Timestamp::MAX, row_time);
        let row = self
            .update(id, |row| {
                record(row, |erasure| {
                    erasure.end_time = erasure.end_time.or(Some(now));
                    erasure.backups_end_time = erasure.backups_end_time.or(Some(backups_end));
                })
            })
            .await?;
        erasure(&row)
    }

    /// Writes what `step` makes of the customer, and answers it; `None`: nothing is left to do.
    async fn update(
        &self,
        id: &CustomerId,
        step: impl Fn(&CustomerRow) -> Result<Option<CustomerWrite>, CustomerError>,
    ) -> Result<CustomerRow, CustomerError> {
        change(self.customers.as_ref(), id, |present: Option<CustomerRow>| {
            let decided = present.ok_or(CustomerError::NotFound).and_then(|row| {
                Ok(match step(&row)? {
                    None => Decision::Done(row),
                    Some(write) => {
                        let written = write.customer.clone();
                        Decision::Replace(write, written)
                    }
                })
            });
            std::future::ready(decided)
        })
        .await
    }

    /// Counts the customer's credentials, and erases them on the way if that is wanted: by their names, whether or not they can be read,
    /// and whoever wrote them last. Nothing opens under this customer any more.
    async fn walk(&self, id: &CustomerId, erases: bool) -> Result<u64, CustomerError> {
        let (all, mut met, mut after) = (Extent::Customer(id.clone()), 0, None);
        loop {
            let page = self.credentials.scan(&all, after.as_ref(), PAGE).await?;
            met += page.rows.len() as u64;
            if erases {
                for row in page.rows {
                    self.credentials.erase(&row.id).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(met);
            }
        }
    }
}

/// Whoever reads it decides: the service does not.
const OVERDUE_ADVICE: &str = "a customer's day is long past and it is not destroyed: the tables may be older than a rescue. Take it back by \
                              `triseal customer restore`; or do that and `triseal customer destroy`, for a new day";

fn turn(row: &CustomerRow, now: Timestamp) -> Turn {
    match row.state {
        CustomerState::Active | CustomerState::Disabled => Turn::NotYet,
        CustomerState::PendingDestruction { destroy_time } => match now.duration_since(destroy_time) {
            past if past.is_negative() => Turn::NotYet,
            past if past <= OVERDUE => Turn::Due,
            _ => Turn::Overdue,
        },
        CustomerState::Destroyed { erasure, .. } if erasure.end_time.is_none() => Turn::Due,
        CustomerState::Destroyed { .. } => Turn::NotYet,
    }
}

/// Erases the first keys that are left. From the first of them on the customer is destroyed, and can't be restored.
fn erase_keys(row: &CustomerRow, now: Timestamp) -> Result<Option<CustomerWrite>, CustomerError> {
    let (destroy_time, mut erasure) = match row.state {
        CustomerState::Active | CustomerState::Disabled => return Err(CustomerError::NotDisabled),
        CustomerState::PendingDestruction { .. } if turn(row, now) != Turn::Due => {
            return Err(CustomerError::NotDisabled);
        }
        CustomerState::PendingDestruction { .. } => (row_time(now), Erasure::default()),
        CustomerState::Destroyed { .. } if row.versions.is_empty() => return Ok(None),
        CustomerState::Destroyed { destroy_time, erasure } => (destroy_time, erasure),
    };
    let erased: Vec<_> = row.versions.iter().take(CustomerWrite::MAX_ERASED).map(|key| key.version).collect();
    erasure.key_versions = erasure.key_versions.saturating_add(u32::try_from(erased.len()).unwrap_or(u32::MAX));
    let customer = CustomerRow {
        state: CustomerState::Destroyed { destroy_time, erasure },
        versions: row.versions.iter().skip(erased.len()).cloned().collect(),
        write_id: WriteId::random()?,
        ..row.clone()
    };
    Ok(Some(CustomerWrite { erased, ..CustomerWrite::of(customer) }))
}

/// Notes what a destruction has come to.
fn record(row: &CustomerRow, note: impl Fn(&mut Erasure)) -> Result<Option<CustomerWrite>, CustomerError> {
    let before = erasure(row)?;
    let CustomerState::Destroyed { destroy_time, .. } = row.state else { return Err(CustomerError::NotDisabled) };
    let mut after = before;
    note(&mut after);
    if after == before {
        return Ok(None);
    }
    let state = CustomerState::Destroyed { destroy_time, erasure: after };
    Ok(Some(CustomerWrite::of(CustomerRow { state, write_id: WriteId::random()?, ..row.clone() })))
}

fn erasure(row: &CustomerRow) -> Result<Erasure, CustomerError> {
    match row.state {
        CustomerState::Destroyed { erasure, .. } => Ok(erasure),
        CustomerState::Active | CustomerState::Disabled | CustomerState::PendingDestruction { .. } => {
            Err(CustomerError::Store(StoreError::Corrupt("a destroyed customer is not destroyed".to_owned())))
        }
    }
}
