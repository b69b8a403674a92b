//! For tests: the directory without anybody who asks policy first.

use super::*;
use crate::access::{AllCustomers, RetireCustomerKeyVersion, RotateCustomerKey};

fn permit<A>(asked: A) -> Permit<A> {
    Permit::unasked(Caller::new("test"), asked)
}

impl CustomerDirectory {
    pub(crate) async fn create_unasked(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.create(&permit(CreateCustomer(id.clone()))).await
    }

    pub(crate) async fn get_unasked(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.get(&permit(GetCustomer(id.clone()))).await
    }

    pub(crate) async fn list_unasked(
        &self,
        state: Option<StateFilter>,
        after: Option<CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, CustomerError> {
        self.list(&permit(ListCustomers(AllCustomers)), state, after, limit, |_| true).await
    }

    pub(crate) async fn disable_unasked(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.disable(&permit(DisableCustomer(id.clone()))).await
    }

    pub(crate) async fn enable_unasked(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.enable(&permit(EnableCustomer(id.clone()))).await
    }

    pub(crate) async fn destroy_unasked(&self, id: &CustomerId, days: u8) -> Result<CustomerRow, CustomerError> {
        self.destroy(&permit(DestroyCustomer(id.clone())), days).await
    }

    pub(crate) async fn restore_unasked(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.restore(&permit(RestoreCustomer(id.clone()))).await
    }

    pub(crate) async fn rotate_unasked(&self, id: &CustomerId) -> Result<CustomerRow, CustomerError> {
        self.rotate(&permit(RotateCustomerKey(id.clone()))).await
    }

    pub(crate) async fn retire_unasked(&self, id: &CustomerId, version: Version) -> Result<CustomerRow, CustomerError> {
        self.retire(&permit(RetireCustomerKeyVersion(id.clone())), version).await
    }
}
