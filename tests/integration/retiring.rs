//! What `triseal key retire` asks of the replicas, and when: against a service that tells what a test wants it to tell.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64ct::{Base64, Encoding};
use jiff::Timestamp;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use triseal::grpc::v1;
use triseal::grpc::v1::key_service_server::{KeyService, KeyServiceServer};

use crate::support::{run, triseal};

/// A service of one new replica. While records are counted, an old one comes back.
#[derive(Default)]
struct Told {
    comes_back: bool,
    unreadable: u32,
    counted: AtomicBool,
}

fn time(at: Timestamp) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: at.as_second(), nanos: 0 })
}

fn replica(name: &str, codebase_version: u32) -> v1::Replica {
    v1::Replica {
        replica_id: name.to_owned(),
        primaries: Some(v1::Lineage { codebase_version, environment_version: 1, customer_version: 0 }),
        primaries_time: time(Timestamp::UNIX_EPOCH),
        report_time: time(Timestamp::now()),
        ..v1::Replica::default()
    }
}

fn counting(state: v1::JobState) -> Option<v1::Job> {
    let kind = v1::JobKind::Reencryption.into();
    Some(v1::Job { job_id: "count".to_owned(), kind, dry_run: true, state: state.into(), ..v1::Job::default() })
}

#[tonic::async_trait]
impl KeyService for Told {
    async fn list_replicas(
        &self,
        _: Request<v1::ListReplicasRequest>,
    ) -> Result<Response<v1::ListReplicasResponse>, Status> {
        let mut replicas = vec![replica("new", 2)];
        if self.comes_back && self.counted.load(Ordering::Relaxed) {
            replicas.push(replica("old", 1));
        }
        Ok(Response::new(v1::ListReplicasResponse {
            replicas,
            time: time(Timestamp::now()),
            unreadable_replicas: self.unreadable,
        }))
    }

    async fn start_reencryption(
        &self,
        _: Request<v1::StartReencryptionRequest>,
    ) -> Result<Response<v1::StartReencryptionResponse>, Status> {
        Ok(Response::new(v1::StartReencryptionResponse { job: counting(v1::JobState::Running) }))
    }

    async fn get_job(&self, _: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        self.counted.store(true, Ordering::Relaxed);
        Ok(Response::new(v1::GetJobResponse { job: counting(v1::JobState::Done) }))
    }

    async fn rotate_customer_key(
        &self,
        _: Request<v1::RotateCustomerKeyRequest>,
    ) -> Result<Response<v1::RotateCustomerKeyResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn retire_customer_key_version(
        &self,
        _: Request<v1::RetireCustomerKeyVersionRequest>,
    ) -> Result<Response<v1::RetireCustomerKeyVersionResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn start_customer_key_rotation(
        &self,
        _: Request<v1::StartCustomerKeyRotationRequest>,
    ) -> Result<Response<v1::StartCustomerKeyRotationResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn start_rewrap(
        &self,
        _: Request<v1::StartRewrapRequest>,
    ) -> Result<Response<v1::StartRewrapResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn list_jobs(&self, _: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn cancel_job(&self, _: Request<v1::CancelJobRequest>) -> Result<Response<v1::CancelJobResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

async fn serve(told: Told) -> SocketAddr {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = KeyServiceServer::from_arc(Arc::new(told));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    address
}

/// Two versions, of which the first has not been the primary for long.
fn key_file() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("codebase-keys.json");
    let key = |octet: u8| Base64::encode_string(&[octet; 32]);
    let document = format!(
        r#"{{"format": "triseal-codebase-keys/v1", "primary": 2, "keys": [
            {{"version": 1, "key": "{}", "state": "enabled", "created_at": "2026-01-01T00:00:00Z", "primary_until": "2026-01-02T00:00:00Z"}},
            {{"version": 2, "key": "{}", "state": "enabled", "created_at": "2026-01-02T00:00:00Z"}}]}}"#,
        key(7),
        key(8)
    );
    crate::support::write(path.clone(), &document);
    (folder, path.to_str().unwrap().to_owned())
}

/// Retires version 1 at a service of which this is told: the exit code, what was said, and whether the file is another one now.
async fn retire(told: Told) -> (Option<i32>, String, bool) {
    let address = serve(told).await;
    let (_folder, file) = key_file();
    let before = fs::read(&file).unwrap();
    let mut command = triseal(&["key", "retire", "codebase", "1", "--file", &file, "--yes"]);
    command.env("TRISEAL_ENDPOINT", format!("http://{address}"));
    let output = run(command).await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), said, fs::read(&file).unwrap() != before)
}

#[tokio::test]
async fn a_replica_that_comes_back_while_records_are_counted_keeps_its_version() {
    for (comes_back, wanted) in [(false, Some(0)), (true, Some(4))] {
        let (code, said, is_written) = retire(Told { comes_back, ..Told::default() }).await;
        assert_eq!(code, wanted, "{said}");
        assert_eq!(said.contains("replica old seals under codebase version 1"), comes_back, "{said}");
        assert_eq!(is_written, !comes_back, "it is written if nobody seals under it");
    }
}

/// Such as one of a newer release: it may seal under any version.
#[tokio::test]
async fn nothing_is_retired_while_a_replica_may_live_whose_report_can_not_be_read() {
    for (unreadable, wanted) in [(0, Some(0)), (1, Some(4))] {
        let (code, said, is_written) = retire(Told { unreadable, ..Told::default() }).await;
        assert_eq!(code, wanted, "{said}");
        assert_eq!(said.contains("can't read the reports of 1 replica"), unreadable > 0, "{said}");
        assert_eq!(is_written, unreadable == 0);
    }
}
