//! The RPCs of the security team, each answered and refused.

use triseal::grpc::v1;
use triseal::grpc::v1::key_service_client::KeyServiceClient;

use super::came_out::CameOut;
use super::{REFUSED, Scenario, marked};

/// The name of a job that there never was.
const NO_JOB: &str = "8235999999999-00000001";

fn rotation(customer: &str) -> v1::RotateCustomerKeyRequest {
    v1::RotateCustomerKeyRequest { customer_id: customer.to_owned() }
}

pub(super) fn retirement(customer: &str, version: u32) -> v1::RetireCustomerKeyVersionRequest {
    v1::RetireCustomerKeyVersionRequest { customer_id: customer.to_owned(), version }
}

fn job(job_id: &str) -> (v1::GetJobRequest, v1::CancelJobRequest) {
    (v1::GetJobRequest { job_id: job_id.to_owned() }, v1::CancelJobRequest { job_id: job_id.to_owned() })
}

impl Scenario {
    pub(super) async fn keys(&self, out: &mut CameOut) {
        let channel = || self.secured.channel(self.secured.client(&self.pair)).0;
        let mut client = KeyServiceClient::new(channel());
        out.shown(client.rotate_customer_key(marked(rotation("acme"))).await).unwrap();
        out.shown(client.rotate_customer_key(marked(rotation(REFUSED))).await).unwrap_err();
        // The primary, and one that was it a moment ago.
        for version in [2, 1, 99] {
            out.shown(client.retire_customer_key_version(marked(retirement("acme", version))).await).unwrap_err();
        }
        let all = v1::StartCustomerKeyRotationRequest { dry_run: true, ..Default::default() };
        out.shown(client.start_customer_key_rotation(marked(all)).await).unwrap();
        out.shown(client.start_rewrap(marked(v1::StartRewrapRequest { dry_run: true, ..Default::default() })).await)
            .unwrap();

        // It waits for what every replica must have seen, so it is still there when it is asked for again.
        let start = || marked(v1::StartReencryptionRequest { rate: 1, ..Default::default() });
        let started = out.shown(client.start_reencryption(start()).await).unwrap().job.unwrap();
        out.shown(client.start_reencryption(start()).await).unwrap_err();
        let (get, cancel) = job(&started.job_id);
        out.shown(client.get_job(marked(get)).await).unwrap();
        out.shown(client.list_jobs(marked(v1::ListJobsRequest::default())).await).unwrap();
        out.shown(client.cancel_job(marked(cancel)).await).unwrap();
        for name in [NO_JOB, REFUSED] {
            let (get, cancel) = job(name);
            out.shown(client.get_job(marked(get)).await).unwrap_err();
            out.shown(client.cancel_job(marked(cancel)).await).unwrap_err();
        }
        out.shown(client.list_replicas(marked(v1::ListReplicasRequest {})).await).unwrap();
        self.keys_are_not_for_everybody(out).await;
    }

    async fn keys_are_not_for_everybody(&self, out: &mut CameOut) {
        let stranger = self.secured.authority.client("spiffe://datasert.com/stranger");
        let mut client = KeyServiceClient::new(self.secured.channel(self.secured.client(&stranger)).0);
        out.shown(client.start_customer_key_rotation(marked(Default::default())).await).unwrap_err();
        out.shown(client.start_rewrap(marked(Default::default())).await).unwrap_err();
        out.shown(client.start_reencryption(marked(Default::default())).await).unwrap_err();
        out.shown(client.list_jobs(marked(Default::default())).await).unwrap_err();
        out.shown(client.list_replicas(marked(v1::ListReplicasRequest {})).await).unwrap_err();
    }

    /// A version that somebody with access to the store has retired already.
    pub(super) async fn a_retired_version(&self, out: &mut CameOut) {
        let mut client = KeyServiceClient::new(self.secured.channel(self.secured.client(&self.pair)).0);
        out.shown(client.retire_customer_key_version(marked(retirement("retired", 1))).await).unwrap();
    }
}
