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
}
