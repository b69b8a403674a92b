//! New versions of a customer's key, and the end of old ones. A rotation rewrites no record.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{CustomerDirectory, CustomerError, InUse, new_write_id};
use crate::crypto::{Envelope, Version};
use crate::ids::CustomerId;
use crate::store::{
    CustomerRow, CustomerState, CustomerWrite, Decision, KeyVersionState, Life, StoreError, change, row_time,
};

/// What a replica that believed a version to be the primary may have under way, once it knows better.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// Rows read at once.
const PAGE: usize = 500;

impl CustomerDirectory {
    /// Makes a new version of a customer's key, and the primary of it, in one conditional write. A customer that is disabled can be
    /// rotated, too. Of two rotations at once, one is refused.
    ///
    /// # Errors
    /// A [`CustomerError`]. After [`StoreError::Away`] the key may have been rotated: look before asking again.
    pub async fn rotate(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        let before = self.get(id).await?.primary;
        let rotated = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            let row = rotatable(present.ok_or(CustomerError::NotFound)?)?;
            if row.primary != before {
                return Err(CustomerError::ChangedConcurrently);
            }
            let (version, key) = self.new_key(id, next_version(&row)?).await?;
            let mut versions = row.versions.clone();
            for former in versions.iter_mut().filter(|former| former.version == row.primary) {
                former.primary_until = Some(version.create_time);
            }
            let primary = version.version;
            versions.push(version);
            let customer = CustomerRow { primary, versions, write_id: new_write_id()?, ..row };
            let write = CustomerWrite { key: Some(key), ..CustomerWrite::of(customer.clone()) };
            Ok(Decision::Replace(write, customer))
        })
        .await;
        self.keyring.forget(id);
        rotated
    }

    /// Refuses a version from now on. Its wrapped key stays, for whoever has to read a backup. A version that is retired already is
    /// answered as it is.
    ///
    /// # Errors
    /// A [`CustomerError`]: [`CustomerError::KeyVersionInUse`] for the primary, for a version that was the primary so lately that a
    /// replica may not know, and for one that a record refers to.
    pub async fn retire(&self, id: &CustomerId, version: Version) -> Result<CustomerRow, CustomerError> {
        let retired = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            let mut row = rotatable(present.ok_or(CustomerError::NotFound)?)?;
            match retirable(&row, version, (self.clock)(), self.keyring.customer_staleness())? {
                KeyVersionState::Retired => return Ok(Decision::Done(row)),
                KeyVersionState::Enabled => {}
            }
            // It starts after the last moment at which a record may have been sealed under the version, and reads consistently.
            match self.records_under(id, version).await? {
                0 => {}
                records => return Err(InUse::Records { records }.into()),
            }
            for key in row.versions.iter_mut().filter(|key| key.version == version) {
                key.state = KeyVersionState::Retired;
            }
            let customer = CustomerRow { write_id: new_write_id()?, ..row };
            Ok(Decision::Replace(CustomerWrite::of(customer.clone()), customer))
        })
        .await;
        self.keyring.forget(id);
        retired
    }

    /// Records whose envelope's own header names the version. What can't be read might: then nothing is retired.
    async fn records_under(&self, id: &CustomerId, version: Version) -> Result<u64, CustomerError> {
        let (mut records, mut after) = (0, None);
        loop {
            let page = self.credentials.query(Some(id), after.as_ref(), PAGE).await?;
            for row in page.rows {
                let Life::Living(living) = row.life else { continue };
                let lineage = Envelope::lineage_of(&living.envelope)
                    .map_err(|_| StoreError::Corrupt("a record's header can't be read".to_owned()))?;
                records += u64::from(lineage.customer == version);
            }
            after = page.next;
            if after.is_none() {
                return Ok(records);
            }
        }
    }
}

fn rotatable(row: CustomerRow) -> Result<CustomerRow, CustomerError> {
    match row.state {
        CustomerState::Active | CustomerState::Disabled => Ok(row),
        CustomerState::PendingDestruction { .. } => Err(CustomerError::PendingDestruction),
        CustomerState::Destroyed { .. } => Err(CustomerError::Destroyed),
    }
}

/// One more than any version that there ever was: rows of versions are never removed.
fn next_version(row: &CustomerRow) -> Result<Version, CustomerError> {
    let highest = row.versions.iter().map(|key| key.version).max().unwrap_or(row.primary);
    highest
        .get()
        .checked_add(1)
        .and_then(Version::new)
        .ok_or(CustomerError::Internal("a customer has no further version"))
}

/// The state of a version that may be retired, or is.
fn retirable(
    row: &CustomerRow,
    version: Version,
    now: Timestamp,
    customer_staleness: Duration,
) -> Result<KeyVersionState, CustomerError> {
    let key = row.versions.iter().find(|key| key.version == version).ok_or(CustomerError::KeyVersionUnknown)?;
    if key.state == KeyVersionState::Retired {
        return Ok(KeyVersionState::Retired);
    }
    if row.primary == version {
        return Err(InUse::Primary.into());
    }
    let until = key.primary_until.unwrap_or(key.create_time);
    let safe = SignedDuration::try_from(customer_staleness + UNDER_WAY).unwrap_or(SignedDuration::MAX);
    let left = safe.saturating_sub(now.duration_since(row_time(until)));
    match Duration::try_from(left) {
        Ok(wait) if !wait.is_zero() => Err(InUse::TooEarly { wait }.into()),
        Ok(_) | Err(_) => Ok(KeyVersionState::Enabled),
    }
}
