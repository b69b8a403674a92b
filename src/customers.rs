//! The life of a customer: created once, explicitly, with a key of its own.

use std::sync::Arc;

use jiff::Timestamp;

use crate::crypto::Version;
use crate::factors::{FactorError, KeyWrapper, WrapContext};
use crate::ids::{CustomerId, Deployment};
use crate::keyring::Keyring;
use crate::store::{
    ChangeError, CustomerRow, CustomerState, CustomerWrite, Customers, Decision, KeyRow, KeyVersion, KeyVersionState,
    Page, StoreError, WriteId, change, filtered, row_time,
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
    /// Others changed the row each time.
    #[error("the customer was changed by others at the same time")]
    ChangedConcurrently,
    /// The wrapper of customer keys made none, or one that does not unwrap.
    #[error("no customer key can be made: {0}")]
    Wrapper(#[from] FactorError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system without randomness.
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
    wrapper: Arc<dyn KeyWrapper>,
    keyring: Keyring,
    clock: fn() -> Timestamp,
}

impl CustomerDirectory {
    /// A directory over a store and a wrapper of keys.
    pub fn new(
        deployment: Deployment,
        customers: Arc<dyn Customers>,
        wrapper: Arc<dyn KeyWrapper>,
        keyring: Keyring,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self { deployment, customers, wrapper, keyring, clock }
    }

    /// Provisions a customer with the first version of its key, which nobody sees: it is unwrapped once as a proof. An
    /// existing customer is answered as it is.
    ///
    /// # Errors
    /// A [`CustomerError`]. After [`StoreError::Away`] the customer may have been created; asking again is safe.
    pub async fn create(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        let created = change(self.customers.as_ref(), id, |present: Option<CustomerRow>| async move {
            match present {
                Some(row) if matches!(row.state, CustomerState::Destroyed { .. }) => Err(CustomerError::Destroyed),
                Some(row) => Ok(Decision::Done(row)),
                None => {
                    let (customer, key) = self.provision(id).await?;
                    Ok(Decision::Replace(CustomerWrite { customer: customer.clone(), key: Some(key) }, customer))
                }
            }
        });
        let created = created.await?;
        self.keyring.forget(id);
        Ok(created)
    }

    /// A customer, with its key versions.
    ///
    /// # Errors
    /// A [`CustomerError`].
    pub async fn get(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.customers.get(id).await?.ok_or(CustomerError::NotFound)
    }

    /// At most `limit` customers that the filter wants, after `after`.
    ///
    /// # Errors
    /// A [`CustomerError`].
    pub async fn list(
        &self,
        state: Option<StateFilter>,
        after: Option<CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, CustomerError> {
        let query = |after: Option<CustomerId>, limit| async move { self.customers.query(after.as_ref(), limit).await };
        let keep = |row: CustomerRow| state.is_none_or(|state| state.wants(row.state)).then_some(row);
        Ok(filtered(limit, after, query, keep).await?)
    }

    async fn provision(&self, id: &CustomerId) -> Result<(CustomerRow, KeyRow), CustomerError> {
        let version = Version::FIRST;
        let context = WrapContext { deployment: &self.deployment, customer: id, version };
        let wrapped = self.wrapper.wrap_new(&context).await?;
        drop(self.wrapper.unwrap(&context, &wrapped).await?);
        let now = row_time((self.clock)());
        let key_version = KeyVersion {
            version,
            state: KeyVersionState::Enabled,
            create_time: now,
            kms_key_arn: wrapped.kms_key_arn.clone(),
        };
        let customer = CustomerRow {
            id: id.clone(),
            write_id: WriteId::random()
                .map_err(|_| CustomerError::Internal("the system's generator of random numbers does not answer"))?,
            state: CustomerState::Active,
            primary: version,
            versions: vec![key_version],
            create_time: now,
        };
        Ok((customer, KeyRow { version, wrapped: wrapped.octets, kms_key_arn: wrapped.kms_key_arn }))
    }
}

#[cfg(test)]
mod tests;
