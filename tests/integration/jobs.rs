//! Jobs and the commands that start them, on the real service: a record that somebody edited; a service that is killed under a job; two
//! jobs at once, and one that is cancelled.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::sleep;
use tonic::Code;
use triseal::grpc::v1;
use triseal::ids::{CredentialId, CredentialRef, CustomerId, Deployment};
use triseal::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedStore};
use triseal::store::{CredentialRow, CustomerRow, CustomerWrite, Life, Living, Rows, WriteId};

use crate::support::terminal::on_terminal;
use crate::support::{PATIENCE, Service, decrypt, dev, encrypt, opaque, reason, triseal, until};

/// So that a job has not long to wait until nobody can believe an older primary.
const QUICK: (&str, &str) = ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s");

async fn quick(data: &Path) -> Service {
    let mut command = dev(data);
    command.envs([QUICK]);
    Service::start(command).await
}

async fn create(service: &Service, customer: &str) {
    let request = v1::CreateCustomerRequest { customer_id: customer.to_owned() };
    service.customers().create_customer(request).await.unwrap();
}

async fn fill(service: &Service, customer: &str, credentials: usize) {
    let mut client = service.credentials();
    for number in 0..credentials {
        let id = format!("c{number:03}");
        client.encrypt_credential(encrypt(customer, &id, opaque(id.as_bytes()))).await.unwrap();
    }
}

async fn job(service: &Service, id: &str) -> v1::Job {
    let answer = service.keys().get_job(v1::GetJobRequest { job_id: id.to_owned() }).await.unwrap();
    answer.into_inner().job.unwrap()
}

/// The job as soon as it is so.
async fn job_when(service: &Service, id: &str, is_so: impl Fn(&v1::Job) -> bool) -> v1::Job {
    let wait = async {
        loop {
            let found = job(service, id).await;
            if is_so(&found) {
                return found;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(2 * PATIENCE, wait).await.expect("it comes so far")
}

async fn start(service: &Service, customer: &str, dry_run: bool, rate: u32) -> Result<v1::Job, tonic::Status> {
    let request = v1::StartReencryptionRequest { customer_id: customer.to_owned(), dry_run, rate };
    Ok(service.keys().start_reencryption(request).await?.into_inner().job.unwrap())
}

/// Edits the store of a service that has stopped.
fn edit(data: &Path) -> (EmbeddedCredentials, EmbeddedCustomers) {
    let store = EmbeddedStore::open(&data.join("store.redb"), &Deployment::parse("dev").unwrap()).unwrap();
    let store = std::sync::Arc::new(store);
    (EmbeddedCredentials(store.clone()), EmbeddedCustomers(store))
}

fn output(output: &Output) -> (Option<i32>, String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// One line of JSON.
fn line(text: &str) -> serde_json::Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}"))
}

#[tokio::test]
async fn a_record_that_was_edited_is_named_and_everything_else_is_done() {
    let (_folder, data) = crate::support::data();
    let service = quick(&data).await;
    create(&service, "acme").await;
    fill(&service, "acme", 20).await;
    assert!(service.terminate().await.success());

    let id = CredentialRef {
        customer: CustomerId::parse("acme").unwrap(),
        credential: CredentialId::parse("c007").unwrap(),
    };
    let (credentials, customers) = edit(&data);
    let row = credentials.get(&id).await.unwrap().unwrap();
    let Life::Living(living) = row.life.clone() else { panic!("it lives") };
    let mut envelope = living.envelope.clone();
    envelope[100] ^= 1;
    let edited = CredentialRow {
        write_id: WriteId::random().unwrap(),
        life: Life::Living(Living { envelope, ..living }),
        ..row.clone()
    };
    let _ = credentials.replace(Some(row.write_id), edited).await.unwrap();
    drop((credentials, customers));

    let service = quick(&data).await;
    let triseal = async |arguments: &[&str]| output(&service.triseal(arguments, b"").await);
    let (code, ..) = triseal(&["rotate", "customer", "acme"]).await;
    assert_eq!(code, Some(0));
    let (code, _, told) = triseal(&["key", "retire", "customer", "acme", "1", "--yes"]).await;
    assert_eq!(code, Some(4));
    assert!(told.contains("was the primary until a moment ago") && told.contains("try again in"), "{told}");
    let (code, _, told) = triseal(&["key", "retire", "customer", "acme", "2", "--yes"]).await;
    assert_eq!(code, Some(4));
    assert!(told.contains("the version is the primary"), "{told}");

    let (code, started, _) = triseal(&["reencrypt", "start", "--customer", "acme", "--output", "json"]).await;
    assert_eq!(code, Some(0));
    let started = line(&started);
    let (code, ended, told) = triseal(&["reencrypt", "watch", "--output", "json"]).await;
    assert_eq!(code, Some(3), "{ended}{told}");
    let (ended, told) = (line(&ended), line(&told));
    assert_eq!(ended["job_id"], started["job_id"], "the last one, where none is named");
    assert_eq!(ended["state"], "done_with_failures");
    assert_eq!((&ended["changed"], &ended["failed"]), (&19.into(), &1.into()));
    let failure = serde_json::json!([{"customer_id": "acme", "credential_id": "c007", "reason": "NOT_AUTHENTIC"}]);
    assert_eq!(ended["failures"], failure);
    assert_eq!(told["error"]["code"], "INCOMPLETE");
    no_names_but_numbers(&service).await;
    let (code, shown, _) = triseal(&["reencrypt", "status"]).await;
    assert_eq!(code, Some(3));
    assert!(shown.contains("acme c007 NOT_AUTHENTIC"), "{shown}");

    let (code, listed, _) = triseal(&["credential", "list", "--customer", "acme", "--output", "json"]).await;
    assert_eq!(code, Some(0));
    let versions: Vec<_> = listed.lines().map(|row| line(row)["lineage"]["customer_version"].as_u64()).collect();
    assert_eq!((versions.len(), versions.iter().filter(|version| **version == Some(2)).count()), (20, 19));
    let (code, usage, _) = triseal(&["key", "usage", "--customer", "acme"]).await;
    assert_eq!(code, Some(0));
    let rows: Vec<Vec<_>> = usage.lines().map(|row| row.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["customer", "1", "1"]) && rows.contains(&vec!["customer", "2", "19"]), "{usage}");
    let shown = service.credentials().decrypt_credential(decrypt("acme", "c006", v1::View::Full)).await.unwrap();
    assert_eq!(crate::support::opaque_data(shown.into_inner().secret), b"c006");
}

/// As if the versions that are no longer the primary had not been for an hour, in the store of a service that has stopped.
async fn backdate(data: &Path, customer: &str) {
    let (_credentials, customers) = edit(data);
    let row = customers.get(&CustomerId::parse(customer).unwrap()).await.unwrap().unwrap();
    let mut dated = CustomerRow { write_id: WriteId::random().unwrap(), ..row.clone() };
    for key in &mut dated.versions {
        key.primary_until = key.primary_until.map(|time| time.checked_sub(SignedDuration::from_hours(1)).unwrap());
    }
    let _ = customers.replace(Some(row.write_id), CustomerWrite::of(dated)).await.unwrap();
}

#[tokio::test]
async fn a_customers_version_is_retired_when_no_record_needs_it_and_it_is_typed_back() {
    const RETIRE: [&str; 5] = ["key", "retire", "customer", "acme", "1"];
    let (_folder, data) = crate::support::data();
    let service = quick(&data).await;
    create(&service, "acme").await;
    fill(&service, "acme", 3).await;
    let (code, ..) = output(&service.triseal(&["rotate", "customer", "acme"], b"").await);
    assert_eq!(code, Some(0));
    assert!(service.terminate().await.success());
    backdate(&data, "acme").await;

    let service = quick(&data).await;
    let told = async |arguments: &[&str]| output(&service.triseal(&[&RETIRE[..], arguments].concat(), b"1\n").await);
    let typed = async |version: &str| {
        let mut command = triseal(&RETIRE);
        command.env("TRISEAL_ENDPOINT", service.endpoint());
        on_terminal(&command, version).await
    };
    // Without a terminal nobody can be asked, whatever stands on standard input.
    let (code, _, said) = told(&[]).await;
    assert!(code == Some(2) && said.contains("this refuses version 1 of the key of acme for good"), "{said}");
    assert!(said.contains("no terminal to confirm it at") && said.contains("add --yes"), "{said}");
    let (code, shown) = typed("acme").await;
    assert!(code == Some(1) && shown.contains("type 1 to go on: "), "{shown}");
    assert!(shown.contains("nothing was done: that was not 1"), "{shown}");
    let (code, shown) = typed("1").await;
    assert!(code == Some(4) && shown.contains("3 records are sealed under the version: re-encrypt first"), "{shown}");
    let (code, _, said) = told(&["--yes", "--output", "json"]).await;
    assert_eq!((code, &line(&said)["error"]["reason"]), (Some(4), &"KEY_VERSION_IN_USE".into()), "{said}");

    for arguments in [&["reencrypt", "start", "--customer", "acme"][..], &["reencrypt", "watch"]] {
        let (code, _, said) = output(&service.triseal(arguments, b"").await);
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, shown) = typed("1").await;
    assert_eq!(code, Some(0), "{shown}");
    let (code, shown, _) = told(&["--yes", "--output", "json"]).await;
    assert_eq!(
        (code, &line(&shown)["key_versions"][0]["state"]),
        (Some(0), &"retired".into()),
        "done once, it is done"
    );
    let opened = service.credentials().decrypt_credential(decrypt("acme", "c001", v1::View::Full)).await.unwrap();
    assert_eq!(crate::support::opaque_data(opened.into_inner().secret), b"c001");

    // The audit log names the versions, of what was refused, too.
    let log = std::fs::read_to_string(data.join("audit.jsonl")).unwrap();
    let entries = |event: &str| -> Vec<_> {
        let lines = log.lines().map(line).filter(|entry| entry["event"] == event);
        lines.map(|entry| (entry["outcome"].clone(), entry["lineage"].clone())).collect()
    };
    let of = |outcome: &str, lineage: &str| (outcome.into(), lineage.into());
    let refused = || of("KEY_VERSION_IN_USE", "-/-/1");
    let wanted = [refused(), refused(), of("intent", "-/-/1"), of("ok", "-/-/1"), of("ok", "-/-/1")];
    assert_eq!(entries("retire_customer_key_version"), wanted);
    assert_eq!(entries("rotate_customer_key").pop(), Some(of("ok", "-/-/2")));
}

/// What the metrics tell of that job: each of its passes came to all twenty.
async fn no_names_but_numbers(service: &Service) {
    let (_, shown) = service.ops("/metrics").await;
    assert!(!shown.contains("acme") && !shown.contains("c007"), "no id is a label");
    let items = async |kind: &str, outcome: &str| {
        let labels = format!("kind=\"{kind}\",dry_run=\"false\",outcome=\"{outcome}\"");
        assert!(shown.contains(&format!("triseal_job_items_total{{{labels}}} ")), "{outcome} is not shown");
        service.metric(&format!("triseal_job_items_total{{{labels}}}")).await
    };
    assert_eq!(items("reencryption", "changed").await, 19.0);
    let (skipped, failed) = (items("reencryption", "skipped").await, items("reencryption", "failed").await);
    assert!(failed >= 2.0 && skipped == 19.0 * (failed - 1.0), "{skipped} skipped, {failed} failed");
    assert_eq!((items("rewrap", "failed").await, items("customer_key_rotation", "changed").await), (0.0, 0.0));
}

const RUNNING: &str = "triseal_jobs_running{kind=\"reencryption\",dry_run=\"false\"}";

#[tokio::test]
async fn a_job_goes_on_from_its_checkpoint_after_a_kill_and_runs_alone_of_its_kind() {
    let (_folder, data) = crate::support::data();
    let service = quick(&data).await;
    create(&service, "acme").await;
    fill(&service, "acme", 150).await;
    service.keys().rotate_customer_key(v1::RotateCustomerKeyRequest { customer_id: "acme".to_owned() }).await.unwrap();
    // At this rate a checkpoint comes after 100 records, in 5 s.
    let started = start(&service, "acme", false, 20).await.unwrap();
    let id = started.job_id.as_str();
    let refused = start(&service, "", false, 0).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::AlreadyExists, "JOB_RUNNING"));
    assert!(refused.message().contains(id), "it names the one that runs");
    start(&service, "", true, 0).await.expect("a count is no hindrance");
    let reached = job_when(&service, id, |job| job.done > 0).await;
    assert_eq!((reached.done, reached.changed), (100, 100));
    assert_eq!(service.metric(RUNNING).await, 1.0);
    service.kill9().await;

    let service = quick(&data).await;
    let kept = job(&service, id).await;
    assert_eq!((kept.done, kept.state()), (100, v1::JobState::Running));
    // Its lease lapses, and the rest of the pass is done.
    let next = job_when(&service, id, |job| job.pass == 2).await;
    // What was changed after the last checkpoint was found changed.
    assert!(next.total == 150 && (100..=150).contains(&next.changed), "{next:?}");

    let cancelled = service.keys().cancel_job(v1::CancelJobRequest { job_id: id.to_owned() }).await.unwrap();
    let cancelled = cancelled.into_inner().job.unwrap();
    assert_eq!(cancelled.state(), v1::JobState::Cancelled);
    until("seen that nothing runs", async || service.metric(RUNNING).await == 0.0).await;
    let (code, shown, told) = output(&service.triseal(&["reencrypt", "watch", id], b"").await);
    assert_eq!(code, Some(1));
    assert!(shown.contains("cancelled") && told.contains("what it has done stands"), "{shown}{told}");
    let next = start(&service, "", false, 0).await.expect("it makes room for another");
    service.signal().await;
    drop(service);
    // A service that stops leaves no lease behind: the next goes on at once.
    let service = quick(&data).await;
    let resumed = tokio::time::timeout(Duration::from_secs(25), async {
        job_when(&service, &next.job_id, |job| job.pass == 2).await
    });
    assert_eq!(resumed.await.expect("within less than a lease").changed, 0);
}
