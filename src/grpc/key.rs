//! KeyService: who calls → convert → may they → one call → convert.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::gate::Gate;
use super::wire::v1;
use super::wire::v1::key_service_server::KeyService;
use crate::access::{
    AllCustomers, CancelJob, GetJob, ListJobs, ListReplicas, RetireCustomerKeyVersion, RotateCustomerKey,
    StartCustomerKeyRotation, StartReencryption, StartRewrap,
};
use crate::audit::Event;
use crate::customers::CustomerDirectory;
use crate::jobs::Jobs;

/// The list that page tokens are of.
const JOBS: &str = "jobs";

/// KeyService over a directory and jobs.
pub struct Keys {
    gate: Gate,
    directory: Arc<CustomerDirectory>,
    jobs: Arc<Jobs>,
}

impl Keys {
    /// Serves these behind this gate.
    pub fn new(gate: Gate, directory: Arc<CustomerDirectory>, jobs: Arc<Jobs>) -> Self {
        Self { gate, directory, jobs }
    }
}

#[tonic::async_trait]
impl KeyService for Keys {
    async fn rotate_customer_key(
        &self,
        request: Request<v1::RotateCustomerKeyRequest>,
    ) -> Result<Response<v1::RotateCustomerKeyResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::customer_id(&request.get_ref().customer_id)?;
        let permit = self.gate.permit(&caller, Event::RotateCustomerKey, RotateCustomerKey(id)).await?;
        let customer = Some(convert::customer_message(&self.directory.rotate(&permit).await?));
        Ok(Response::new(v1::RotateCustomerKeyResponse { customer }))
    }

    async fn retire_customer_key_version(
        &self,
        request: Request<v1::RetireCustomerKeyVersionRequest>,
    ) -> Result<Response<v1::RetireCustomerKeyVersionResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let (id, version) = convert::retire_request(request.get_ref())?;
        let asked = RetireCustomerKeyVersion(id);
        let permit = self.gate.permit(&caller, Event::RetireCustomerKeyVersion, asked).await?;
        let customer = Some(convert::customer_message(&self.directory.retire(&permit, version).await?));
        Ok(Response::new(v1::RetireCustomerKeyVersionResponse { customer }))
    }

    async fn start_customer_key_rotation(
        &self,
        request: Request<v1::StartCustomerKeyRotationRequest>,
    ) -> Result<Response<v1::StartCustomerKeyRotationResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let request = request.get_ref();
        let (customer, rate) = convert::start_request(&request.customer_id, request.rate)?;
        let permit =
            self.gate.permit(&caller, Event::StartCustomerKeyRotation, StartCustomerKeyRotation(customer)).await?;
        let job = self.jobs.start_customer_key_rotation(&permit, request.dry_run, rate).await?;
        Ok(Response::new(v1::StartCustomerKeyRotationResponse { job: Some(convert::job_message(&job, None)) }))
    }

    async fn start_rewrap(
        &self,
        request: Request<v1::StartRewrapRequest>,
    ) -> Result<Response<v1::StartRewrapResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let request = request.get_ref();
        let (customer, rate) = convert::start_request(&request.customer_id, request.rate)?;
        let permit = self.gate.permit(&caller, Event::StartRewrap, StartRewrap(customer)).await?;
        let job = self.jobs.start_rewrap(&permit, request.dry_run, rate).await?;
        Ok(Response::new(v1::StartRewrapResponse { job: Some(convert::job_message(&job, None)) }))
    }

    async fn start_reencryption(
        &self,
        request: Request<v1::StartReencryptionRequest>,
    ) -> Result<Response<v1::StartReencryptionResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let request = request.get_ref();
        let (customer, rate) = convert::start_request(&request.customer_id, request.rate)?;
        let permit = self.gate.permit(&caller, Event::StartReencryption, StartReencryption(customer)).await?;
        let job = self.jobs.start_reencryption(&permit, request.dry_run, rate).await?;
        Ok(Response::new(v1::StartReencryptionResponse { job: Some(convert::job_message(&job, None)) }))
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::job_id(&request.get_ref().job_id)?;
        let permit = self.gate.permit(&caller, Event::GetJob, GetJob(AllCustomers)).await?;
        let (job, progress) = self.jobs.get(&permit, &id).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(convert::job_message(&job, Some(progress))) }))
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let tokens = self.directory.page_tokens(JOBS, &caller);
        let (after, limit) = convert::list_jobs_request(request.get_ref(), &tokens)?;
        let permit = self.gate.permit(&caller, Event::ListJobs, ListJobs(AllCustomers)).await?;
        let page = self.jobs.list(&permit, after.as_ref(), limit).await?;
        Ok(Response::new(convert::list_jobs_response(&page, &tokens)?))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let id = convert::job_id(&request.get_ref().job_id)?;
        let permit = self.gate.permit(&caller, Event::CancelJob, CancelJob(AllCustomers)).await?;
        let job = self.jobs.cancel(&permit, &id).await?;
        Ok(Response::new(v1::CancelJobResponse { job: Some(convert::job_message(&job, None)) }))
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let caller = self.gate.caller(&request)?;
        let permit = self.gate.permit(&caller, Event::ListReplicas, ListReplicas(AllCustomers)).await?;
        let reported = self.jobs.replicas(&permit).await?;
        Ok(Response::new(convert::list_replicas_response(reported, self.jobs.time())))
    }
}
