//! KeyService: convert → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::wire::v1;
use super::wire::v1::key_service_server::KeyService;
use crate::customers::CustomerDirectory;

/// KeyService over a directory.
pub struct Keys {
    directory: Arc<CustomerDirectory>,
}

impl Keys {
    /// Serves this directory.
    pub fn new(directory: Arc<CustomerDirectory>) -> Self {
        Self { directory }
    }
}

#[tonic::async_trait]
impl KeyService for Keys {
    async fn rotate_customer_key(
        &self,
        request: Request<v1::RotateCustomerKeyRequest>,
    ) -> Result<Response<v1::RotateCustomerKeyResponse>, Status> {
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let customer = Some(convert::customer_message(&self.directory.rotate(&id).await?));
        Ok(Response::new(v1::RotateCustomerKeyResponse { customer }))
    }

    async fn retire_customer_key_version(
        &self,
        request: Request<v1::RetireCustomerKeyVersionRequest>,
    ) -> Result<Response<v1::RetireCustomerKeyVersionResponse>, Status> {
        let (id, version) = convert::retire_request(request.get_ref())?;
        let customer = Some(convert::customer_message(&self.directory.retire(&id, version).await?));
        Ok(Response::new(v1::RetireCustomerKeyVersionResponse { customer }))
    }
}
