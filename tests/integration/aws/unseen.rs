//! The environment key is rotated while one replica does not reach Secrets Manager: it goes on sealing under the former version for as
//! long as its keys are fresh enough. Nobody else notices, nothing is left behind, and nothing is retired that it may still need.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use triseal::factors::document::KeyState;
use triseal::grpc::v1;

use super::{PATIENCE, Replica, Told, told};
use crate::support::key_documents::{EnvironmentKeys, repeated};
use crate::support::proxy::Fault;
use crate::support::site::Site;
use crate::support::{self, decrypt, encrypt, opaque, opaque_data};

const RECORDS: usize = 40;

async fn seal(replica: &Replica, id: &str) -> Result<u32, Told> {
    let sealed = replica.service.credentials().encrypt_credential(encrypt("acme", id, opaque(id.as_bytes()))).await;
    let credential = sealed.map_err(Told::from)?.into_inner().credential.unwrap();
    Ok(credential.lineage.unwrap().environment_version)
}

async fn open(replica: &Replica, id: &str) -> Result<(), Told> {
    let opened = replica.service.credentials().decrypt_credential(decrypt("acme", id, v1::View::Full)).await;
    let secret = opaque_data(opened.map_err(Told::from)?.into_inner().secret);
    assert_eq!(secret, id.as_bytes());
    Ok(())
}

async fn job(replica: &Replica, id: &str) -> v1::Job {
    let request = v1::GetJobRequest { job_id: id.to_owned() };
    replica.service.keys().get_job(request).await.unwrap().into_inner().job.unwrap()
}

/// Records under each environment version, as their envelopes have it.
async fn versions(replica: &Replica) -> Vec<u32> {
    let request = v1::ListCredentialsRequest { customer_id: "acme".into(), page_size: 1_000, ..Default::default() };
    let page = replica.service.credentials().list_credentials(request).await.unwrap().into_inner();
    page.credentials.into_iter().map(|credential| credential.lineage.unwrap().environment_version).collect()
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_rotation_that_one_replica_does_not_see_leaves_nothing_behind() {
    let site = Site::aws().await;
    let Site::Aws(aws) = &site else { unreachable!("it is this one") };
    let keys = EnvironmentKeys::of(&site);
    let quick = [("TRISEAL__FACTORS__SECRETS_MANAGER__POLL", "500ms"), ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s")];
    let (sees, blind) = (Replica::start(aws, &quick).await, Replica::start(aws, &quick).await);
    sees.create("acme").await;
    for number in 0..RECORDS {
        assert_eq!(seal(&sees, &format!("c{number}")).await, Ok(1));
    }

    blind.secrets.set(Fault::BlackHole);
    let rotate = keys.command(&["rotate", "environment", "--settle", "1s", "--yes"]);
    assert!(support::run(rotate).await.status.success());
    super::until(&Ok(2), async || seal(&sees, "c0").await).await;
    assert_eq!(seal(&blind, "c1").await, Ok(1), "it does not know better");
    // What the others sealed since is not lost to it: it will open that when it has the keys.
    assert_eq!(open(&blind, "c0").await, Err(told(Code::Unavailable, "SECRETS_UNAVAILABLE", true)));

    let started = sees.service.keys().start_reencryption(v1::StartReencryptionRequest::default()).await.unwrap();
    let id = started.into_inner().job.unwrap().job_id;
    // Long enough for a pass over all records, and for the reports of both.
    for round in 0..25 {
        let newest = format!("c{}", round % RECORDS);
        assert_eq!(seal(&blind, &newest).await, Ok(1));
        for number in 0..RECORDS {
            assert_eq!(open(&sees, &format!("c{number}")).await, Ok(()));
        }
        sleep(Duration::from_secs(1)).await;
    }
    let found = job(&sees, &id).await;
    assert!(found.state() == v1::JobState::Running && found.changed > 0, "{found:?}");
    // Not even where the document says that the version has long been replaced.
    keys.backdate().await;
    let retire = async || keys.triseal(&["key", "retire", "environment", "1", "--yes"], &sees.service).await;
    let (code, out, told) = retire().await;
    assert!(code == Some(4) && told.contains("replica "), "{out}{told}");
    assert!(keys.document().await.keys.iter().all(|entry| entry.state == KeyState::Enabled));

    blind.secrets.set(Fault::None);
    super::until(&Ok(2), async || seal(&blind, "c1").await).await;
    let ended = async {
        while job(&sees, &id).await.state() == v1::JobState::Running {
            sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(3 * PATIENCE, ended).await.expect("it ends");
    let found = job(&sees, &id).await;
    assert!(found.state() == v1::JobState::Done && found.failures.is_empty(), "{found:?}");
    assert_eq!(versions(&sees).await, [2; RECORDS]);
    repeated(retire).await;
    assert_eq!(keys.document().await.keys[0].state, KeyState::Retired);
    for number in 0..RECORDS {
        for replica in [&sees, &blind] {
            assert_eq!(open(replica, &format!("c{number}")).await, Ok(()));
        }
    }
}
