//! CustomerService: convert → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::wire::v1;
use super::wire::v1::customer_service_server::CustomerService;
use crate::customers::CustomerDirectory;

/// CustomerService over a directory.
pub struct Customers {
    directory: Arc<CustomerDirectory>,
}

impl Customers {
    /// Serves this directory.
    pub fn new(directory: Arc<CustomerDirectory>) -> Self {
        Self { directory }
    }
}

#[tonic::async_trait]
impl CustomerService for Customers {
    async fn create_customer(
        &self,
        request: Request<v1::CreateCustomerRequest>,
    ) -> Result<Response<v1::CreateCustomerResponse>, Status> {
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let customer = Some(convert::customer_message(&self.directory.create(&id).await?));
        Ok(Response::new(v1::CreateCustomerResponse { customer }))
    }

    async fn get_customer(
        &self,
        request: Request<v1::GetCustomerRequest>,
    ) -> Result<Response<v1::GetCustomerResponse>, Status> {
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let customer = Some(convert::customer_message(&self.directory.get(&id).await?));
        Ok(Response::new(v1::GetCustomerResponse { customer }))
    }

    async fn list_customers(
        &self,
        request: Request<v1::ListCustomersRequest>,
    ) -> Result<Response<v1::ListCustomersResponse>, Status> {
        let (state, after, limit) = convert::list_customers_request(request.get_ref())?;
        let page = self.directory.list(state, after, limit).await?;
        Ok(Response::new(convert::list_customers_response(&page)))
    }

    async fn disable_customer(
        &self,
        request: Request<v1::DisableCustomerRequest>,
    ) -> Result<Response<v1::DisableCustomerResponse>, Status> {
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let customer = Some(convert::customer_message(&self.directory.disable(&id).await?));
        Ok(Response::new(v1::DisableCustomerResponse { customer }))
    }

    async fn enable_customer(
        &self,
        request: Request<v1::EnableCustomerRequest>,
    ) -> Result<Response<v1::EnableCustomerResponse>, Status> {
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let customer = Some(convert::customer_message(&self.directory.enable(&id).await?));
        Ok(Response::new(v1::EnableCustomerResponse { customer }))
    }

    async fn restore_customer(
        &self,
        request: Request<v1::RestoreCustomerRequest>,
    ) -> Result<Response<v1::RestoreCustomerResponse>, Status> {
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let customer = Some(convert::customer_message(&self.directory.restore(&id).await?));
        Ok(Response::new(v1::RestoreCustomerResponse { customer }))
    }

    async fn destroy_customer(
        &self,
        request: Request<v1::DestroyCustomerRequest>,
    ) -> Result<Response<v1::DestroyCustomerResponse>, Status> {
        let (id, days) = convert::destroy_request(request.get_ref())?;
        let customer = Some(convert::customer_message(&self.directory.destroy(&id, days).await?));
        Ok(Response::new(v1::DestroyCustomerResponse { customer }))
    }
}
