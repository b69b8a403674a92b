//! New versions of a customer's key, the end of old ones, and another wrapping of the same ones. None of these rewrites a record.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use super::{CustomerDirectory, CustomerError, InUse, WriteId};
use crate::access::{Permit, RetireCustomerKeyVersion, RotateCustomerKey};
use crate::audit::entry::{Subject, Versions};
use crate::audit::{Changing, Event, Made, Origin};
use crate::crypto::{Envelope, Version, fingerprint};
use crate::factors::rotation::UNDER_WAY;
use crate::factors::{FactorError, WrapContext, WrappedKey};
use crate::ids::CustomerId;
use crate::store::{
    CustomerRow, CustomerState, CustomerWrite, Decision, Extent, KeyRow, KeyVersion, KeyVersionState, Life, StoreError,
    change, row_time,
};

/// Rows read at once.
const PAGE: usize = 500;
/// Versions that a customer may have: all stand in its one row, which DynamoDB limits to 400 KiB.
const MAX_VERSIONS: usize = 1_000;

/// What became of a customer that a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// It is now as the job wants it.
    Changed,
    /// It was so before, or its keys are erased or about to be.
    Skipped,
}

impl CustomerDirectory {
    /// Makes a new version of a customer's key, and the primary of it, in one conditional write. A customer that is disabled can be
    /// rotated, too. Of two rotations at once, one is refused.
    ///
    /// # Errors
    /// A [`CustomerError`]. After [`StoreError::Away`] the key may have been rotated: look before asking again.
    pub async fn rotate(&self, permit: &Permit<RotateCustomerKey>) -> Result<CustomerRow, CustomerError> {
        let RotateCustomerKey(id) = permit.asked();
        let entries = self.changing(permit.caller(), Event::RotateCustomerKey, id);
        let announced = &entries;
        let rotated = async {
            let before = self.customers.get(id).await?.ok_or(CustomerError::NotFound)?.primary;
            change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
                let row = rotatable(present.ok_or(CustomerError::NotFound)?)?;
                if row.primary != before {
                    return Err(CustomerError::ChangedConcurrently);
                }
                let (write, rotated) = self.rotated(row, Timestamp::MIN).await?;
                announced.announce(None).await?;
                Ok(Decision::Replace(write, rotated))
            })
            .await
        }
        .await;
        // Also after a failure: the change may have happened.
        self.keyring.forget(id);
        let made = |row: &CustomerRow| Made { versions: Some(Versions::Customer(row.primary)), ..Made::default() };
        entries.settle(rotated, made).await
    }

    /// Rotates a customer for a job that began at `since`, unless that was done since: a job that is taken up again rotates none twice.
    /// A customer pending destruction is left as it is.
    ///
    /// # Errors
    /// A [`CustomerError`].
    pub async fn rotate_since(&self, id: &CustomerId, since: Timestamp) -> Result<Upkeep, CustomerError> {
        let rotated = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            let Some(row) = present.filter(|row| wants_rotation(row, since)) else {
                return Ok(Decision::Done(Upkeep::Skipped));
            };
            let (write, _) = self.rotated(row, since).await?;
            Ok(Decision::Replace(write, Upkeep::Changed))
        })
        .await;
        self.keyring.forget(id);
        rotated
    }

    /// The row with a new primary, which was made at `since` at the earliest, whatever this process's clock says. How long the former one may
    /// still be in use, and what a job brings records to, is told by these times: none is set by a clock that may be wrong.
    async fn rotated(&self, row: CustomerRow, since: Timestamp) -> Result<(CustomerWrite, CustomerRow), CustomerError> {
        self.check_clock()?;
        let (made, key) = self.new_key(&row.id, next_version(&row)?).await?;
        let made = KeyVersion { create_time: made.create_time.max(since), ..made };
        let mut versions = row.versions.clone();
        for former in versions.iter_mut().filter(|former| former.version == row.primary) {
            former.primary_until = Some(made.create_time);
        }
        let primary = made.version;
        versions.push(made);
        let customer = CustomerRow { primary, versions, write_id: WriteId::random()?, ..row };
        Ok((CustomerWrite { key: Some(key), ..CustomerWrite::of(customer.clone()) }, customer))
    }

    /// Refuses a version from now on. Its wrapped key stays, for whoever has to read a backup. A version that is retired already is
    /// answered as it is.
    ///
    /// # Errors
    /// A [`CustomerError`]: [`CustomerError::KeyVersionInUse`] for the primary, for a version that was the primary so lately that a
    /// replica may not know, and for one that a record refers to.
    pub async fn retire(
        &self,
        permit: &Permit<RetireCustomerKeyVersion>,
        version: Version,
    ) -> Result<CustomerRow, CustomerError> {
        let RetireCustomerKeyVersion(id) = permit.asked();
        let subject = Subject { versions: Some(Versions::Customer(version)), ..Subject::customer(id) };
        let origin = Origin::of(permit.caller());
        let entries = Changing::new(&self.audit, origin, Event::RetireCustomerKeyVersion, subject);
        let announced = &entries;
        let retired = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            let mut row = rotatable(present.ok_or(CustomerError::NotFound)?)?;
            self.check_clock()?;
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
            let customer = CustomerRow { write_id: WriteId::random()?, ..row };
            announced.announce(None).await?;
            Ok(Decision::Replace(CustomerWrite::of(customer.clone()), customer))
        })
        .await;
        self.keyring.forget(id);
        entries.settle(retired, |_| Made::default()).await
    }

    /// Records whose envelope's own header names the version. What can't be read might: then nothing is retired.
    async fn records_under(&self, id: &CustomerId, version: Version) -> Result<u64, CustomerError> {
        let (mut records, mut unreadable, mut after) = (0, 0, None);
        let all = Extent::Customer(id.clone());
        loop {
            let page = self.credentials.scan(&all, after.as_ref(), PAGE).await?;
            for met in page.rows {
                let lineage = match met.row.map(|row| row.life) {
                    Ok(Life::Living(living)) => Envelope::lineage_of(&living.envelope).ok(),
                    Ok(Life::Deleted { .. }) => continue,
                    Err(_) => None,
                };
                match lineage {
                    Some(lineage) => records += u64::from(lineage.customer == version),
                    None => unreadable += 1,
                }
            }
            after = page.next;
            // A walk takes long, and reading the embedded store waits for nothing: a caller that has gone is noticed here.
            tokio::task::yield_now().await;
            match after {
                Some(_) => {}
                None if unreadable > 0 => return Err(InUse::Unreadable { records: unreadable }.into()),
                None => return Ok(records),
            }
        }
    }

    /// Wraps every version of a customer's key under the KMS key that the service is set to wrap with, the primary first: each is moved by
    /// KMS, proved to be the same key by an unwrap, and then put in the former one's place. Retired ones, too: a backup may need them. One
    /// that can't be moved is named in the log, and holds up no other.
    ///
    /// # Errors
    /// A [`CustomerError`]: the first of a version that is left under its former KMS key. Versions that were moved stay so.
    pub async fn rewrap(&self, id: &CustomerId) -> Result<Upkeep, CustomerError> {
        let Some(row) = self.customers.get(id).await? else { return Ok(Upkeep::Skipped) };
        let mut versions: Vec<_> = row.versions.iter().map(|key| key.version).collect();
        versions.sort_by_key(|version| (*version != row.primary, std::cmp::Reverse(*version)));
        let (mut upkeep, mut left) = (Upkeep::Skipped, None);
        for version in versions {
            let moved = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
                let kept = present.filter(|row| !matches!(row.state, CustomerState::Destroyed { .. }));
                match kept {
                    Some(row) => self.rewrapped(row, version).await,
                    None => Ok(Decision::Done(false)),
                }
            });
            match moved.await {
                Ok(true) => upkeep = Upkeep::Changed,
                Ok(false) => {}
                Err(error) if is_of_one_version(&error) => {
                    let version = version.get();
                    warn!(customer = id.as_str(), version, %error, "a version of a customer's key is not moved");
                    left.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        left.map_or(Ok(upkeep), Err)
    }

    /// The row with this version under the right KMS key, if it does not stand there.
    async fn rewrapped(
        &self,
        mut row: CustomerRow,
        version: Version,
    ) -> Result<Decision<CustomerWrite, bool>, CustomerError> {
        let wraps_with = self.wrapper.wraps_with();
        let Some(named) = row.versions.iter_mut().find(|key| key.version == version) else {
            return Ok(Decision::Done(false));
        };
        let key = self.customers.key(&row.id, version).await?;
        let key = key.ok_or_else(|| StoreError::Corrupt("a customer's wrapped key is missing".to_owned()))?;
        if named.kms_key_arn == wraps_with && key.kms_key_arn == wraps_with {
            return Ok(Decision::Done(false));
        }
        let context = WrapContext { deployment: &self.deployment, customer: &row.id, version };
        let former = WrappedKey { octets: key.wrapped, kms_key_arn: key.kms_key_arn };
        let moved = self.wrapper.rewrap(&context, &former).await?;
        let before = fingerprint(&self.wrapper.unwrap(&context, &former).await?);
        if fingerprint(&self.wrapper.unwrap(&context, &moved).await?) != before {
            return Err(FactorError::Corrupt("what was wrapped anew is another key".to_owned()).into());
        }
        named.kms_key_arn.clone_from(&moved.kms_key_arn);
        let key = KeyRow { version, wrapped: moved.octets, kms_key_arn: moved.kms_key_arn };
        let customer = CustomerRow { write_id: WriteId::random()?, ..row };
        Ok(Decision::Replace(CustomerWrite { rewrapped: Some(key), ..CustomerWrite::of(customer) }, true))
    }
}

/// Whether another version may fare better. What is away or throttles is asked again later, for all of them.
fn is_of_one_version(error: &CustomerError) -> bool {
    use CustomerError as E;
    match error {
        E::Wrapper(FactorError::Absent(_) | FactorError::Refused(_) | FactorError::Corrupt(_))
        | E::Store(StoreError::Corrupt(_) | StoreError::Newer) => true,
        E::Wrapper(FactorError::Throttled | FactorError::Away(_))
        | E::Store(StoreError::Away(_) | StoreError::Throttled | StoreError::Refused(_) | StoreError::Absent(_))
        | E::NotFound
        | E::Destroyed
        | E::PendingDestruction
        | E::NotDisabled
        | E::KeyVersionUnknown
        | E::KeyVersionInUse(_)
        | E::ChangedConcurrently
        | E::Clock(_)
        | E::Audit(_)
        | E::Internal(_) => false,
    }
}

/// Whether a job that began at `since` is to rotate the customer.
pub(crate) fn wants_rotation(row: &CustomerRow, since: Timestamp) -> bool {
    let made = row.versions.iter().find(|key| key.version == row.primary).map(|key| key.create_time);
    match row.state {
        CustomerState::Active | CustomerState::Disabled => made.is_none_or(|made| made < since),
        CustomerState::PendingDestruction { .. } | CustomerState::Destroyed { .. } => false,
    }
}

/// Whether the customer's row says that all its keys stand under this KMS key.
pub(crate) fn is_wrapped_with(row: &CustomerRow, kms_key_arn: &str) -> bool {
    row.versions.iter().all(|key| key.kms_key_arn == kms_key_arn)
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
    if row.versions.len() >= MAX_VERSIONS {
        return Err(CustomerError::Internal("a customer has no room for a further version"));
    }
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
