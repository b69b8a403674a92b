//! The life of a customer: created once, explicitly, with a key of its own; disabled and enabled; destroyed on a day, if at all.
//!
//! Every transition is decided in pure code and written by the one rule; asking for the state that a customer is in changes nothing.

pub mod destruction;
pub mod rotation;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::access::{
    CreateCustomer, DestroyCustomer, DisableCustomer, EnableCustomer, GetCustomer, ListCustomers, Permit,
    RestoreCustomer,
};
use crate::audit::entry::Subject;
use crate::audit::{AuditError, AuditLog, Changing, Event, Made, Origin, Reason};
use crate::crypto::Version;
use crate::factors::{FactorError, KeyWrapper, WrapContext};
use crate::ids::{Caller, CustomerId, Deployment};
use crate::keyring::{Keyring, PageTokens};
use crate::randomness::NoRandomness;
use crate::store::{
    ChangeError, ClockUnconfirmed, Credentials, CustomerRow, CustomerState, CustomerWrite, Customers, Decision, KeyRow,
    KeyVersion, KeyVersionState, Page, StoreClock, StoreError, WriteId, change, filtered, row_time,
};

/// Why a customer was not created or shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustomerError {
    /// It was never created.
    #[error("the customer does not exist")]
    NotFound,
    /// It was destroyed, and its id is never provisioned again.
    #[error("the customer is destroyed")]
    Destroyed,
    /// It is pending destruction: it has to be restored first.
    #[error("the customer is pending destruction")]
    PendingDestruction,
    /// Only a disabled customer is destroyed, and only one pending destruction is restored.
    #[error("the customer is not disabled")]
    NotDisabled,
    /// It has no such key version.
    #[error("the customer has no key of that version")]
    KeyVersionUnknown,
    /// A key version can't be retired yet, or not at all.
    #[error(transparent)]
    KeyVersionInUse(#[from] InUse),
    /// Others changed the row each time, or rotated the key meanwhile.
    #[error("the customer was changed by others at the same time")]
    ChangedConcurrently,
    /// The wrapper of customer keys made none, or one that does not unwrap.
    #[error("no customer key can be made: {0}")]
    Wrapper(#[from] FactorError),
    /// What depends on the time is not done by a clock that may be wrong.
    #[error(transparent)]
    Clock(#[from] ClockUnconfirmed),
    /// The audit log's: a change may have happened.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A bug, or a system without randomness.
    #[error("{0}")]
    Internal(&'static str),
}

impl From<ChangeError> for CustomerError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Concurrent => Self::ChangedConcurrently,
            ChangeError::Store(error) => Self::Store(error),
        }
    }
}

impl From<NoRandomness> for CustomerError {
    fn from(_: NoRandomness) -> Self {
        Self::Internal(NoRandomness::TEXT)
    }
}

impl From<&CustomerError> for Reason {
    fn from(error: &CustomerError) -> Self {
        use CustomerError as E;
        match error {
            E::NotFound => Self::CustomerNotFound,
            E::Destroyed => Self::CustomerDestroyed,
            E::PendingDestruction => Self::CustomerPendingDestruction,
            E::NotDisabled => Self::CustomerNotDisabled,
            E::KeyVersionUnknown => Self::KeyVersionUnknown,
            E::KeyVersionInUse(_) => Self::KeyVersionInUse,
            E::ChangedConcurrently => Self::ChangedConcurrently,
            E::Wrapper(error) => error.into(),
            E::Clock(_) => Self::StoreUnavailable,
            E::Audit(_) => Self::AuditUnavailable,
            E::Store(error) => error.into(),
            E::Internal(_) => Self::Internal,
        }
    }
}

/// Why a key version has to stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InUse {
    /// It seals.
    #[error("the version is the primary: rotate the key first")]
    Primary,
    /// Some replica may still seal under it.
    #[error("the version was the primary until a moment ago, and some replica may not know that yet")]
    TooEarly {
        /// After so long none does.
        wait: Duration,
    },
    /// Records are sealed under it.
    #[error("{records} {} sealed under the version: re-encrypt first", if *.records == 1 { "record is" } else { "records are" })]
    Records {
        /// So many.
        records: u64,
    },
    /// Nobody knows what they are sealed under.
    #[error("{records} {} that may be sealed under the version can't be read: see what re-encryption says of them", if *.records == 1 { "record" } else { "records" })]
    Unreadable {
        /// So many.
        records: u64,
    },
}

/// Which customers to list: those in one state, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter {
    /// Active ones.
    Active,
    /// Disabled ones.
    Disabled,
    /// Those pending destruction.
    PendingDestruction,
    /// Destroyed ones.
    Destroyed,
}

impl StateFilter {
    fn wants(self, state: CustomerState) -> bool {
        match state {
            CustomerState::Active => self == Self::Active,
            CustomerState::Disabled => self == Self::Disabled,
            CustomerState::PendingDestruction { .. } => self == Self::PendingDestruction,
            CustomerState::Destroyed { .. } => self == Self::Destroyed,
        }
    }
}

/// Provisions and shows customers.
pub struct CustomerDirectory {
    deployment: Deployment,
    customers: Arc<dyn Customers>,
    credentials: Arc<dyn Credentials>,
    wrapper: Arc<dyn KeyWrapper>,
    keyring: Keyring,
    audit: AuditLog,
    clock: fn() -> Timestamp,
    /// Of a store that tells its time: the clock has to agree with it.
    store_clock: Option<Arc<StoreClock>>,
}

impl CustomerDirectory {
    /// A directory over a store and a wrapper of keys.
    pub fn new(
        deployment: Deployment,
        customers: Arc<dyn Customers>,
        credentials: Arc<dyn Credentials>,
        wrapper: Arc<dyn KeyWrapper>,
        keyring: Keyring,
        audit: AuditLog,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self { deployment, customers, credentials, wrapper, keyring, audit, clock, store_clock: None }
    }

    /// With a store that tells its time: nothing that depends on the time is done while the clock does not agree with it.
    #[must_use]
    pub fn with_store_clock(self, store_clock: Option<Arc<StoreClock>>) -> Self {
        Self { store_clock, ..self }
    }

    /// Whether the clock is good enough for what depends on the time.
    ///
    /// # Errors
    /// [`ClockUnconfirmed`], if not.
    pub fn check_clock(&self) -> Result<(), ClockUnconfirmed> {
        StoreClock::check_of(self.store_clock.as_deref())
    }

    /// Provisions a customer with the first version of its key, which nobody sees: it is unwrapped once as a proof. An
    /// existing customer is answered as it is.
    ///
    /// # Errors
    /// A [`CustomerError`]. After [`StoreError::Away`] the customer may have been created; asking again is safe.
    pub async fn create(&self, permit: &Permit<CreateCustomer>) -> Result<CustomerRow, CustomerError> {
        let CreateCustomer(id) = permit.asked();
        let entries = self.changing(permit.caller(), Event::CreateCustomer, id);
        let announced = &entries;
        let created = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            match present {
                Some(row) if matches!(row.state, CustomerState::Destroyed { .. }) => Err(CustomerError::Destroyed),
                Some(row) => Ok(Decision::Done(row)),
                None => {
                    let (version, key) = self.new_key(id, Version::FIRST).await?;
                    let customer = CustomerRow {
                        id: id.clone(),
                        write_id: WriteId::random()?,
                        state: CustomerState::Active,
                        primary: version.version,
                        create_time: version.create_time,
                        versions: vec![version],
                    };
                    let write = CustomerWrite { key: Some(key), ..CustomerWrite::of(customer.clone()) };
                    announced.announce(None).await?;
                    Ok(Decision::Replace(write, customer))
                }
            }
        })
        .await;
        let created = entries.settle(created, |_| Made::default()).await?;
        self.keyring.forget(id);
        Ok(created)
    }

    /// A customer, with its key versions.
    ///
    /// # Errors
    /// A [`CustomerError`].
    pub async fn get(&self, permit: &Permit<GetCustomer>) -> Result<CustomerRow, CustomerError> {
        let GetCustomer(id) = permit.asked();
        let found = self.customers.get(id).await;
        let found = found.map_err(CustomerError::from).and_then(|row| row.ok_or(CustomerError::NotFound));
        self.changing(permit.caller(), Event::GetCustomer, id).settle(found, |_| Made::default()).await
    }

    /// At most `limit` customers that the filter wants and the caller may see, after `after`.
    ///
    /// # Errors
    /// A [`CustomerError`].
    pub async fn list(
        &self,
        permit: &Permit<ListCustomers>,
        state: Option<StateFilter>,
        after: Option<CustomerId>,
        limit: usize,
        may_see: impl Fn(&CustomerId) -> bool,
    ) -> Result<Page<CustomerRow, CustomerId>, CustomerError> {
        let query = |after: Option<CustomerId>, limit| async move { self.customers.query(after.as_ref(), limit).await };
        let wanted = |row: &CustomerRow| state.is_none_or(|state| state.wants(row.state)) && may_see(&row.id);
        let id = |row: &CustomerRow| row.id.clone();
        let listed = filtered(limit, after, id, query, |row: CustomerRow| Some(row).filter(wanted)).await;
        let origin = Origin::of(permit.caller());
        let entries = Changing::new(&self.audit, origin, Event::ListCustomers, Subject::default());
        entries.settle(listed.map_err(CustomerError::from), |_| Made::default()).await
    }

    /// What seals and opens the page tokens of a list, for a caller.
    pub fn page_tokens<'a>(&'a self, list: &'static str, caller: &'a Caller) -> PageTokens<'a> {
        self.keyring.page_tokens(list, caller)
    }

    /// Nothing opens or seals for callers from now on; on other replicas within `customer_staleness`.
    ///
    /// # Errors
    /// A [`CustomerError`]. After [`StoreError::Away`] it may be disabled; asking again is safe.
    pub async fn disable(&self, permit: &Permit<DisableCustomer>) -> Result<CustomerRow, CustomerError> {
        let DisableCustomer(id) = permit.asked();
        self.transition(permit.caller(), Event::DisableCustomer, id, |state| match state {
            CustomerState::Active | CustomerState::Disabled => Ok(CustomerState::Disabled),
            CustomerState::PendingDestruction { .. } => Err(CustomerError::PendingDestruction),
            CustomerState::Destroyed { .. } => Err(CustomerError::Destroyed),
        })
        .await
    }

    /// Opens a disabled customer again.
    ///
    /// # Errors
    /// As [`CustomerDirectory::disable`].
    pub async fn enable(&self, permit: &Permit<EnableCustomer>) -> Result<CustomerRow, CustomerError> {
        let EnableCustomer(id) = permit.asked();
        self.transition(permit.caller(), Event::EnableCustomer, id, |state| match state {
            CustomerState::Active | CustomerState::Disabled => Ok(CustomerState::Active),
            CustomerState::PendingDestruction { .. } => Err(CustomerError::PendingDestruction),
            CustomerState::Destroyed { .. } => Err(CustomerError::Destroyed),
        })
        .await
    }

    /// Has a disabled customer destroyed in so many days. A date that was set before stays as it is.
    ///
    /// # Errors
    /// As [`CustomerDirectory::disable`], and [`CustomerError::NotDisabled`]; [`CustomerError::Clock`], if nobody knows what day it is.
    pub async fn destroy(&self, permit: &Permit<DestroyCustomer>, days: u8) -> Result<CustomerRow, CustomerError> {
        let DestroyCustomer(id) = permit.asked();
        let day = SignedDuration::from_hours(24 * i64::from(days));
        let destroy_time = row_time((self.clock)().checked_add(day).unwrap_or(Timestamp::MAX));
        self.transition(permit.caller(), Event::DestroyCustomer, id, |state| match state {
            CustomerState::Active => Err(CustomerError::NotDisabled),
            CustomerState::Disabled => {
                self.check_clock()?;
                Ok(CustomerState::PendingDestruction { destroy_time })
            }
            CustomerState::PendingDestruction { .. } => Ok(state),
            CustomerState::Destroyed { .. } => Err(CustomerError::Destroyed),
        })
        .await
    }

    /// Takes a destruction back, before its day. The customer is disabled then.
    ///
    /// # Errors
    /// As [`CustomerDirectory::destroy`].
    pub async fn restore(&self, permit: &Permit<RestoreCustomer>) -> Result<CustomerRow, CustomerError> {
        let RestoreCustomer(id) = permit.asked();
        self.transition(permit.caller(), Event::RestoreCustomer, id, |state| match state {
            CustomerState::Active => Err(CustomerError::NotDisabled),
            CustomerState::Disabled | CustomerState::PendingDestruction { .. } => Ok(CustomerState::Disabled),
            CustomerState::Destroyed { .. } => Err(CustomerError::Destroyed),
        })
        .await
    }

    /// Changes the state of a customer, unless it has that state already.
    async fn transition(
        &self,
        caller: &Caller,
        event: Event,
        id: &CustomerId,
        next: impl Fn(CustomerState) -> Result<CustomerState, CustomerError>,
    ) -> Result<CustomerRow, CustomerError> {
        let entries = self.changing(caller, event, id);
        let (announced, next) = (&entries, &next);
        let changed = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            let row = present.ok_or(CustomerError::NotFound)?;
            let state = next(row.state)?;
            if state == row.state {
                return Ok(Decision::Done(row));
            }
            let row = CustomerRow { state, write_id: WriteId::random()?, ..row };
            announced.announce(None).await?;
            Ok(Decision::Replace(CustomerWrite::of(row.clone()), row))
        })
        .await;
        // Also after a failure: the change may have happened.
        self.keyring.forget(id);
        entries.settle(changed, |_| Made::default()).await
    }

    /// The entries of a change of one customer.
    fn changing(&self, caller: &Caller, event: Event, id: &CustomerId) -> Changing<'_> {
        Changing::new(&self.audit, Origin::of(caller), event, Subject::customer(id))
    }

    /// A new version of a customer's key, which nobody sees: it is unwrapped once as a proof.
    async fn new_key(&self, id: &CustomerId, version: Version) -> Result<(KeyVersion, KeyRow), CustomerError> {
        let context = WrapContext { deployment: &self.deployment, customer: id, version };
        let wrapped = self.wrapper.wrap_new(&context).await?;
        drop(self.wrapper.unwrap(&context, &wrapped).await?);
        let key_version = KeyVersion {
            version,
            state: KeyVersionState::Enabled,
            create_time: row_time((self.clock)()),
            primary_until: None,
            kms_key_arn: wrapped.kms_key_arn.clone(),
        };
        Ok((key_version, KeyRow { version, wrapped: wrapped.octets, kms_key_arn: wrapped.kms_key_arn }))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod unasked;
