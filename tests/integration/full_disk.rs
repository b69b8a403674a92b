//! A service whose store can't grow: a write that does not fit is not acknowledged, none that was is lost, and the service ends and
//! says why. The limit on the size of a file is the system's, so the writes fail as on a full disk.

use tonic::transport::Channel;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use crate::support::{self, Service, dev, encrypt, is_ambiguous, limited, opaque, opaque_data, reason};

const CUSTOMER: &str = "demo";
const WRITERS: usize = 8;
/// The store has so much to grow, in octets.
const ROOM: u64 = 2 << 20;
/// More than fits.
const SECRETS_EACH: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let (_folder, data) = support::data();
    assert!(Service::dev(&data).await.terminate().await.success());
    let size = data.join("store.redb").metadata().unwrap().len();
    let service = Service::start(limited(&dev(&data), size + ROOM)).await;
    let writing: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(writer, service.credentials()))).collect();
    let (mut stored, mut refused) = (Vec::new(), Vec::new());
    for writing in writing {
        let (own_stored, own_refused) = writing.await.expect("a writer was answered something else");
        stored.extend(own_stored);
        refused.push(own_refused);
    }
    assert!(stored.len() > WRITERS, "{} secrets were stored", stored.len());
    let (ended, said) = service.ended_saying().await;
    assert!(!ended.success());
    for part in ["store.redb", "can't be written", "nothing that was acknowledged is lost", "a commit failed"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }

    // With room again.
    let service = Service::dev(&data).await;
    let mut client = service.credentials();
    for id in &stored {
        assert_eq!(read(&mut client, id).await, Some(secret(id)), "{id} was acknowledged");
    }
    for id in &refused {
        let found = read(&mut client, id).await;
        assert!(found.is_none() || found == Some(secret(id)), "{id} is half there");
    }
    client.encrypt_credential(encrypt(CUSTOMER, "after", opaque("fits"))).await.unwrap();
    assert!(service.terminate().await.success());
}

/// Stores secrets until one is refused: those that were stored, and that one.
async fn write(writer: usize, mut client: CredentialServiceClient<Channel>) -> (Vec<String>, String) {
    let mut stored = Vec::new();
    for number in 0..SECRETS_EACH {
        let id = format!("{writer}.{number}");
        match client.encrypt_credential(encrypt(CUSTOMER, &id, opaque(secret(&id)))).await {
            Ok(_) => stored.push(id),
            Err(status) => {
                // Or its connection broke, because the service had ended.
                let told = ["STORE_UNAVAILABLE", ""].contains(&reason(&status));
                assert!(is_ambiguous(&status) && told, "{status:?}");
                return (stored, id);
            }
        }
    }
    panic!("everything fitted");
}

/// Fills some pages.
fn secret(id: &str) -> Vec<u8> {
    format!("{id};").bytes().cycle().take(20_000).collect()
}

async fn read(client: &mut CredentialServiceClient<Channel>, id: &str) -> Option<Vec<u8>> {
    match client.decrypt_credential(support::decrypt(CUSTOMER, id, v1::View::Full)).await {
        Ok(answer) => Some(opaque_data(answer.into_inner().secret)),
        Err(status) => {
            assert_eq!(reason(&status), "CREDENTIAL_NOT_FOUND", "{id}: {status}");
            None
        }
    }
}
