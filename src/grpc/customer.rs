//! CustomerService: who calls → convert → may they → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::gate::Gate;
use super::wire::v1;
use super::wire::v1::customer_service_server::CustomerService;
use crate::access::{
    AllCustomers, CreateCustomer, DestroyCustomer, DisableCustomer, EnableCustomer, GetCustomer, ListCustomers,
    RestoreCustomer,
};
use crate::audit::Event;
use crate::customers::CustomerDirectory;

/// The list that page tokens are of.
const CUSTOMERS: &str = "customers";

/// CustomerService over a directory.
pub struct Customers {
    gate: Gate,
    directory: Arc<CustomerDirectory>,
}

impl Customers {
    /// Serves this directory behind this gate.
    pub fn new(gate: Gate, directory: Arc<CustomerDirectory>) -> Self {
        Self { gate, directory }
    }
}

#[tonic::async_trait]
impl CustomerService for Customers {
    async fn create_customer(
        &self,
        request: Request<v1::CreateCustomerRequest>,
    ) -> Result<Response<v1::CreateCustomerResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.gate.permit(&caller, Event::CreateCustomer, CreateCustomer(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.create(&permit).await?));
        Ok(Response::new(v1::CreateCustomerResponse { customer }))
    }

    async fn get_customer(
        &self,
        request: Request<v1::GetCustomerRequest>,
    ) -> Result<Response<v1::GetCustomerResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.gate.permit(&caller, Event::GetCustomer, GetCustomer(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.get(&permit).await?));
        Ok(Response::new(v1::GetCustomerResponse { customer }))
    }

    async fn list_customers(
        &self,
        request: Request<v1::ListCustomersRequest>,
    ) -> Result<Response<v1::ListCustomersResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let tokens = self.directory.page_tokens(CUSTOMERS, &caller);
        let (state, after, limit) = convert::list_customers_request(request.get_ref(), &tokens)?;
        let permit = self.gate.permit(&caller, Event::ListCustomers, ListCustomers(AllCustomers)).await?;
        let may_see = |id: &_| self.gate.shows(&permit, &GetCustomer(Clone::clone(id)));
        let page = self.directory.list(&permit, state, after, limit, may_see).await?;
        Ok(Response::new(convert::list_customers_response(&page, &tokens)?))
    }

    async fn disable_customer(
        &self,
        request: Request<v1::DisableCustomerRequest>,
    ) -> Result<Response<v1::DisableCustomerResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.gate.permit(&caller, Event::DisableCustomer, DisableCustomer(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.disable(&permit).await?));
        Ok(Response::new(v1::DisableCustomerResponse { customer }))
    }

    async fn enable_customer(
        &self,
        request: Request<v1::EnableCustomerRequest>,
    ) -> Result<Response<v1::EnableCustomerResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.gate.permit(&caller, Event::EnableCustomer, EnableCustomer(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.enable(&permit).await?));
        Ok(Response::new(v1::EnableCustomerResponse { customer }))
    }

    async fn destroy_customer(
        &self,
        request: Request<v1::DestroyCustomerRequest>,
    ) -> Result<Response<v1::DestroyCustomerResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, days) = convert::destroy_request(request.get_ref())?;
        let permit = self.gate.permit(&caller, Event::DestroyCustomer, DestroyCustomer(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.destroy(&permit, days).await?));
        Ok(Response::new(v1::DestroyCustomerResponse { customer }))
    }

    async fn restore_customer(
        &self,
        request: Request<v1::RestoreCustomerRequest>,
    ) -> Result<Response<v1::RestoreCustomerResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.gate.permit(&caller, Event::RestoreCustomer, RestoreCustomer(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.restore(&permit).await?));
        Ok(Response::new(v1::RestoreCustomerResponse { customer }))
    }
}
