//! What a running service keeps in its memory: no secret, once those who asked for it have gone. And who may look: root alone.
//!
//! It reads `/proc/PID/mem` and starts programs as another user, and so needs root.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use futures_util::future::join_all;
use tonic::transport::Channel;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use crate::encodings::Searched;
use crate::support::tls::{CALLER, Secured};
use crate::support::{Service, data, decrypt, encrypt, fresh, oauth, opaque, password, program, run, until};

/// Encryptions and decryptions together.
const CALLS: usize = 10_000;
const REFRESHES: usize = 1_000;
const CONNECTIONS: usize = 8;
/// Nothing is called for so long before the memory is read.
const REST: Duration = Duration::from_secs(1);
/// More than this of one mapping is not read at once.
const PIECE: usize = 4 << 20;
/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_left_in_memory() {
    if !is_root() {
        return println!("not shown: only root may read the memory of another process");
    }
    let (service, _data) = fresh().await;
    let mark =
        format!("M4rk{:032x}", u128::from(getrandom::u64().unwrap()) << 64 | u128::from(getrandom::u64().unwrap()));
    // An id is no secret: it is kept in the caches, and shows that the search finds what is there.
    let customer = format!("customer-{:016x}", getrandom::u64().unwrap());
    let request = v1::CreateCustomerRequest { customer_id: customer.clone() };
    service.customers().create_customer(request).await.unwrap();

    join_all((0..CONNECTIONS).map(|connection| call(&service, connection, &customer, &mark))).await;
    tokio::time::sleep(REST).await;

    assert!(!found(&service, &Searched::new(customer.as_bytes())).is_empty(), "the search finds nothing at all");
    let found = found(&service, &Searched::new(mark.as_bytes()));
    assert!(found.is_empty(), "{} copies of secrets are left:\n{}", found.len(), found.join("\n"));
}

/// The same over TLS, of tokens that were refreshed and of the leases by which they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_left_in_memory_after_refreshes_over_tls() {
    if !is_root() {
        return println!("not shown: only root may read the memory of another process");
    }
    let secured = Secured::start().await;
    let (pair, mark) = (secured.authority.client(CALLER), format!("M4rk{:016x}", getrandom::u64().unwrap()));
    let leases = join_all((0..CONNECTIONS).map(|connection| {
        let client = secured.credentials(secured.client(&pair));
        refresh(client, connection, &mark)
    }))
    .await;
    until("alone", async || secured.service.metric("triseal_connections").await == 0.0).await;
    tokio::time::sleep(REST).await;

    assert!(!found(&secured.service, &Searched::new(b"datasert.com")).is_empty(), "the search finds nothing at all");
    // Each takes a search of its own.
    for secret in std::iter::once(&mark).chain(leases.iter().take(2)) {
        let found = found(&secured.service, &Searched::new(secret.as_bytes()));
        assert!(found.is_empty(), "{} copies of secrets are left:\n{}", found.len(), found.join("\n"));
    }
}

/// Encrypts tokens that hold the mark, and refreshes them, on a connection that is closed in the end. Tells a lease's token.
async fn refresh(mut client: CredentialServiceClient<Channel>, connection: usize, mark: &str) -> String {
    let (customer_id, mut last) = ("demo".to_owned(), String::new());
    for number in 0..REFRESHES / CONNECTIONS {
        let id = format!("c{connection}.{}", number % 25);
        let secret = oauth(&format!("00D!{mark}.{number}"), &format!("5Aep{mark}-{number}"));
        let stored = client.encrypt_credential(encrypt("demo", &id, secret)).await.unwrap().into_inner();
        let acquire = v1::AcquireRefreshRequest {
            customer_id: customer_id.clone(),
            credential_id: id.clone(),
            rejected_revision: stored.credential.map(|credential| credential.revision),
            ..Default::default()
        };
        let mut outcome = client.acquire_refresh(acquire).await.unwrap().into_inner().outcome;
        let Some(v1::acquire_refresh_response::Outcome::Lease(lease)) = &mut outcome else { panic!("no lease") };
        let lease_token = std::mem::take(&mut lease.lease_token);
        last.clone_from(&lease_token);
        if number % 3 == 0 {
            let (customer_id, credential_id, detail) = (customer_id.clone(), id.clone(), String::new());
            let abandon = v1::AbandonRefreshRequest { customer_id, credential_id, lease_token, cause: 0, detail };
            client.abandon_refresh(abandon).await.unwrap();
        } else {
            let mut new = v1::SalesforceOAuth::default();
            (new.access_token, new.refresh_token) = (format!("00D!{mark}.new.{number}"), format!("5Aep{mark}.new"));
            let (customer_id, credential_id, salesforce_oauth) = (customer_id.clone(), id.clone(), Some(new));
            let complete = v1::CompleteRefreshRequest { customer_id, credential_id, lease_token, salesforce_oauth };
            client.complete_refresh(complete).await.unwrap();
        }
        client.decrypt_credential(decrypt("demo", &id, v1::View::Full)).await.unwrap();
    }
    last
}

/// Not even the user that it runs as: a second program of that user has no business in it.
#[tokio::test]
async fn its_own_user_may_not_look_into_it() {
    if !is_root() {
        return println!("not shown: only root may start programs as another user");
    }
    let (folder, data) = data();
    std::fs::create_dir(&data).unwrap();
    // Where the build stands nobody else may be permitted to go.
    let program = folder.path().join("triseald");
    std::fs::copy(env!("CARGO_BIN_EXE_triseald"), &program).unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for path in [&data, &program] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let arguments = ["--dev", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let service = Service::start(as_nobody(program.to_str().unwrap(), &arguments)).await;
    let mut other = as_nobody("sleep", &["60"]).spawn().unwrap();

    // The same right that reading its memory takes, and the kernel's own settings do not take it from `other`.
    let readable = async |process: u32| {
        let environ = format!("/proc/{process}/environ");
        run(as_nobody("cat", &[&environ])).await.status.success()
    };
    let mut patience = 0..100;
    while !readable(other.id().unwrap()).await {
        patience.next().expect("another process of this user can be read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!readable(service.process()).await, "its user may look into it");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.process())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_ascii_whitespace().rev().take(3).collect::<Vec<_>>(), ["bytes", "0", "0"]);
    other.kill().await.unwrap();
}

fn as_nobody(path: &str, arguments: &[&str]) -> tokio::process::Command {
    let id = NOBODY.to_string();
    program("setpriv", &[&["--reuid", &id, "--regid", &id, "--clear-groups", path], arguments].concat())
}

/// Encrypts and decrypts secrets of each kind that hold the mark, alone and in batches, on a connection that is closed in the end.
async fn call(service: &Service, connection: usize, customer: &str, mark: &str) {
    let mut client = service.credentials();
    for number in 0..CALLS / 2 / CONNECTIONS {
        let id = format!("c{connection}.{}", number % 50);
        let secret = match number % 3 {
            0 => oauth(&format!("00D!{mark}.{number}"), &format!("5Aep{mark}-{number}")),
            1 => password(&format!("{mark} {number}")),
            _ => opaque(format!("{{\"key\": \"{mark}\", \"padding\": \"{}\"}}", "x".repeat(number * 7 % 30_000))),
        };
        client.encrypt_credential(encrypt(customer, &id, secret)).await.unwrap();
        let opened = client.decrypt_credential(decrypt(customer, &id, v1::View::Full)).await.unwrap();
        assert!(opened.into_inner().secret.is_some());
        if number % 100 == 99 {
            let requests = (0..50)
                .map(|number| decrypt(customer, &format!("c{connection}.{number}"), v1::View::Full).into_inner());
            let request = v1::BatchDecryptCredentialsRequest { requests: requests.collect() };
            let results = client.batch_decrypt_credentials(request).await.unwrap().into_inner().results;
            assert_eq!(results.len(), 50);
        }
    }
}

/// Where a text stands in the memory of a service: mapping, encoding, and what is around it.
fn found(service: &Service, searched: &Searched) -> Vec<String> {
    let process = service.process();
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).expect("root may read it");
    let memory = File::open(format!("/proc/{process}/mem")).expect("root may read it");
    let (mut found, mut piece) = (Vec::new(), vec![0; PIECE]);
    for mapping in maps.lines() {
        let mut columns = mapping.split_ascii_whitespace();
        let (range, mode) = (columns.next().expect("a range"), columns.next().expect("a mode"));
        let (start, end) = range.split_once('-').expect("two addresses");
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if !mode.starts_with('r') {
            continue;
        }
        let mut at = start;
        while at < end {
            let wanted = PIECE.min(usize::try_from(end - at).unwrap());
            // The kernel's own mappings can't be read.
            let Ok(read) = memory.read_at(&mut piece[..wanted], at) else { break };
            let (name, piece) = (columns.clone().last().unwrap_or_default(), &piece[..read]);
            found.extend(searched.found_in(piece).map(|(encoding, place)| {
                let around = piece[place.saturating_sub(24)..(place + 72).min(read)].escape_ascii();
                format!("{:x} {name} {encoding}: {around}", at + place as u64)
            }));
            at += read.max(1) as u64;
        }
    }
    found
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_ascii_whitespace().nth(2) == Some("0"))
}
