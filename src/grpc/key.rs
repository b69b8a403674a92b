//! KeyService: convert → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::wire::v1;
use super::wire::v1::key_service_server::KeyService;
use crate::customers::CustomerDirectory;
use crate::jobs::Jobs;

/// KeyService over a directory and jobs.
pub struct Keys {
    directory: Arc<CustomerDirectory>,
    jobs: Arc<Jobs>,
}

impl Keys {
    /// Serves these.
    pub fn new(directory: Arc<CustomerDirectory>, jobs: Arc<Jobs>) -> Self {
        Self { directory, jobs }
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

    async fn start_reencryption(
        &self,
        request: Request<v1::StartReencryptionRequest>,
    ) -> Result<Response<v1::StartReencryptionResponse>, Status> {
        let (kind, customer, rate) = convert::start_reencryption_request(request.get_ref())?;
        let job = self.jobs.start(kind, customer, rate).await?;
        Ok(Response::new(v1::StartReencryptionResponse { job: Some(convert::job_message(&job, None)) }))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let id = convert::job_id(&request.get_ref().job_id)?;
        let (job, progress) = self.jobs.get(&id).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(convert::job_message(&job, Some(progress))) }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let (after, limit) = convert::list_jobs_request(request.get_ref())?;
        let page = self.jobs.list(after.as_ref(), limit).await?;
        Ok(Response::new(convert::list_jobs_response(&page)))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let id = convert::job_id(&request.get_ref().job_id)?;
        let job = self.jobs.cancel(&id).await?;
        Ok(Response::new(v1::CancelJobResponse { job: Some(convert::job_message(&job, None)) }))
    }

    async fn list_replicas(
        &self,
        _: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let replicas = self.jobs.replicas().await.map_err(crate::jobs::JobError::from)?;
        Ok(Response::new(convert::list_replicas_response(replicas)))
    }
}
