//! CustomerService: who calls → convert → may they → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::identity;
use super::wire::v1;
use super::wire::v1::customer_service_server::CustomerService;
use crate::access::{
    Access, AllCustomers, CreateCustomer, DestroyCustomer, DisableCustomer, EnableCustomer, GetCustomer, ListCustomers,
    RestoreCustomer,
};
use crate::customers::CustomerDirectory;

/// CustomerService over a directory.
pub struct Customers {
    access: Arc<Access>,
    directory: Arc<CustomerDirectory>,
}

impl Customers {
    /// Serves this directory to whom access is given.
    pub fn new(access: Arc<Access>, directory: Arc<CustomerDirectory>) -> Self {
        Self { access, directory }
    }
}

#[tonic::async_trait]
impl CustomerService for Customers {
    async fn create_customer(
        &self,
        request: Request<v1::CreateCustomerRequest>,
    ) -> Result<Response<v1::CreateCustomerResponse>, Status> {
        let caller = identity::caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.access.permit(&caller, CreateCustomer(id))?;
        let customer = Some(convert::customer_message(&self.directory.create(&permit).await?));
        Ok(Response::new(v1::CreateCustomerResponse { customer }))
    }

    async fn get_customer(
        &self,
        request: Request<v1::GetCustomerRequest>,
    ) -> Result<Response<v1::GetCustomerResponse>, Status> {
        let caller = identity::caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.access.permit(&caller, GetCustomer(id))?;
        let customer = Some(convert::customer_message(&self.directory.get(&permit).await?));
        Ok(Response::new(v1::GetCustomerResponse { customer }))
    }

    async fn list_customers(
        &self,
        request: Request<v1::ListCustomersRequest>,
    ) -> Result<Response<v1::ListCustomersResponse>, Status> {
        let caller = identity::caller(&request)?;
        let (state, after, limit) = convert::list_customers_request(request.get_ref())?;
        let permit = self.access.permit(&caller, ListCustomers(AllCustomers))?;
        let page = self.directory.list(&self.access, &permit, state, after, limit).await?;
        Ok(Response::new(convert::list_customers_response(&page)))
    }

    async fn disable_customer(
        &self,
        request: Request<v1::DisableCustomerRequest>,
    ) -> Result<Response<v1::DisableCustomerResponse>, Status> {
        let caller = identity::caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.access.permit(&caller, DisableCustomer(id))?;
        let customer = Some(convert::customer_message(&self.directory.disable(&permit).await?));
        Ok(Response::new(v1::DisableCustomerResponse { customer }))
    }

    async fn enable_customer(
        &self,
        request: Request<v1::EnableCustomerRequest>,
    ) -> Result<Response<v1::EnableCustomerResponse>, Status> {
        let caller = identity::caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.access.permit(&caller, EnableCustomer(id))?;
        let customer = Some(convert::customer_message(&self.directory.enable(&permit).await?));
        Ok(Response::new(v1::EnableCustomerResponse { customer }))
    }

    async fn restore_customer(
        &self,
        request: Request<v1::RestoreCustomerRequest>,
    ) -> Result<Response<v1::RestoreCustomerResponse>, Status> {
        let caller = identity::caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.access.permit(&caller, RestoreCustomer(id))?;
        let customer = Some(convert::customer_message(&self.directory.restore(&permit).await?));
        Ok(Response::new(v1::RestoreCustomerResponse { customer }))
    }

    async fn destroy_customer(
        &self,
        request: Request<v1::DestroyCustomerRequest>,
    ) -> Result<Response<v1::DestroyCustomerResponse>, Status> {
        let caller = identity::caller(&request)?;
        let (id, days) = convert::destroy_request(request.get_ref())?;
        let permit = self.access.permit(&caller, DestroyCustomer(id))?;
        let customer = Some(convert::customer_message(&self.directory.destroy(&permit, days).await?));
        Ok(Response::new(v1::DestroyCustomerResponse { customer }))
    }
}
