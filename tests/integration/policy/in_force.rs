//! A service under a policy: what its callers meet, and what becomes of a change. Without TLS there is one caller, and the policy is
//! written for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding};
use tempfile::TempDir;
use tonic::{Code, Status};
use v1::batch_decrypt_credentials_result::Result as Outcome;

use super::root;
use crate::support::site::{Site, on_both_sites};
use crate::support::{self, Service, data, decrypt, dev, encrypt, oauth, opaque, opaque_data, reason};
use triseal::grpc::v1;

on_both_sites! {
    a_refusal_is_the_same_whether_or_not_the_thing_exists,
    batches_and_lists_are_decided_item_by_item,
}

const EVERYTHING: &str = "@id(\"everything\") permit (principal, action, resource);\n";
/// Credentials that begin with `mine.`, and the customer `demo`.
const MINE: &str = r#"
    @id("lists") permit (principal, action in [Action::"ListCredentials", Action::"ListCustomers"], resource);
    @id("demo") permit (principal, action == Action::"GetCustomer", resource == Customer::"demo");
    @id("mine")
    permit (
        principal,
        action in [Action::"EncryptCredential", Action::"GetCredential", Action::"DeleteCredential", Action::"DecryptFull"],
        resource
    )
    when { context.credential_id like "mine.*" };
"#;

fn write(directory: &Path, policies: &str) {
    let entities = r#"[{"uid": {"type": "Caller", "id": "insecure:plaintext"}, "attrs": {}, "parents": []}]"#;
    fs::create_dir_all(directory).unwrap();
    fs::copy(root().join("deploy/policy/triseal.cedarschema"), directory.join("triseal.cedarschema")).unwrap();
    fs::write(directory.join("entities.json"), entities).unwrap();
    // At once, as whoever edits policy should.
    fs::write(directory.join("new"), policies).unwrap();
    fs::rename(directory.join("new"), directory.join("test.cedar")).unwrap();
}

/// A service under a policy of its own.
async fn under(site: &Site, policies: &str) -> (Service, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("policy");
    write(&directory, policies);
    let service = site.start_with(&[("TRISEAL__POLICY__DIRECTORY", directory.to_str().unwrap())]).await;
    (service, folder)
}

/// Writes other policies, and waits until they are in force, or refused.
async fn change(service: &Service, folder: &TempDir, policies: &str) {
    let changes = async || {
        let of = |outcome| format!("triseal_policy_reloads_total{{outcome=\"{outcome}\"}}");
        service.metric(&of("taken")).await + service.metric(&of("refused")).await
    };
    let before = changes().await;
    write(&folder.path().join("policy"), policies);
    let noticed = async {
        while changes().await == before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noticed).await.expect("the change is noticed");
}

/// All that a client is told, but for the call's own id.
fn told(status: &Status) -> (Code, String, Vec<u8>, String) {
    (status.code(), status.message().to_owned(), status.details().to_vec(), reason(status).to_owned())
}

fn id(customer: &str, credential: &str) -> (String, String) {
    (customer.to_owned(), credential.to_owned())
}

/// What every RPC that names a credential answers for one.
async fn refusals(service: &Service, customer: &str, credential: &str) -> Vec<Status> {
    let mut client = service.credentials();
    let (customer_id, credential_id) = id(customer, credential);
    let get = v1::GetCredentialRequest { customer_id: customer_id.clone(), credential_id: credential_id.clone() };
    let delete = v1::DeleteCredentialRequest {
        customer_id: customer_id.clone(),
        credential_id: credential_id.clone(),
        if_revision: Some(7),
    };
    let acquire = v1::AcquireRefreshRequest {
        customer_id: customer_id.clone(),
        credential_id: credential_id.clone(),
        rejected_revision: Some(1),
        ..Default::default()
    };
    // Of nobody's lease.
    let lease_token = "A".repeat(43);
    let complete = v1::CompleteRefreshRequest {
        customer_id: customer_id.clone(),
        credential_id: credential_id.clone(),
        lease_token: lease_token.clone(),
        salesforce_oauth: Some(salesforce()),
    };
    let abandon = v1::AbandonRefreshRequest {
        customer_id: customer_id.clone(),
        credential_id: credential_id.clone(),
        lease_token,
        cause: v1::AbandonCause::InvalidGrant.into(),
        detail: String::new(),
    };
    let mark =
        v1::MarkNeedsReauthRequest { customer_id, credential_id, reason: "leaked".to_owned(), if_revision: None };
    let stored = encrypt(customer, credential, opaque("x"));
    vec![
        client.encrypt_credential(stored).await.unwrap_err(),
        client.decrypt_credential(decrypt(customer, credential, v1::View::Access)).await.unwrap_err(),
        client.decrypt_credential(decrypt(customer, credential, v1::View::Full)).await.unwrap_err(),
        client.get_credential(get).await.unwrap_err(),
        client.delete_credential(delete).await.unwrap_err(),
        client.acquire_refresh(acquire).await.unwrap_err(),
        client.complete_refresh(complete).await.unwrap_err(),
        client.abandon_refresh(abandon).await.unwrap_err(),
        client.mark_needs_reauth(mark).await.unwrap_err(),
    ]
}

fn salesforce() -> v1::SalesforceOAuth {
    match oauth("access", "refresh").value.take() {
        Some(v1::secret::Value::SalesforceOauth(oauth)) => oauth,
        _ => unreachable!("it is one"),
    }
}

async fn create(service: &Service, customer: &str) -> Result<(), Status> {
    let request = v1::CreateCustomerRequest { customer_id: customer.to_owned() };
    service.customers().create_customer(request).await.map(drop)
}

async fn a_refusal_is_the_same_whether_or_not_the_thing_exists(site: &Site) {
    let (service, folder) = under(site, EVERYTHING).await;
    create(&service, "acme").await.unwrap();
    for name in ["yours.crm", "mine.crm"] {
        service.credentials().encrypt_credential(encrypt("acme", name, opaque("secret"))).await.unwrap();
    }
    change(&service, &folder, MINE).await;

    let mut all = Vec::new();
    for (customer, credential) in [("acme", "yours.crm"), ("acme", "yours.none"), ("nobody", "yours.crm")] {
        all.extend(refusals(&service, customer, credential).await);
    }
    let mut customers = service.customers();
    for customer in ["acme", "nobody"] {
        let customer_id = customer.to_owned();
        all.push(create(&service, customer).await.unwrap_err());
        let request = v1::GetCustomerRequest { customer_id: customer_id.clone() };
        all.push(customers.get_customer(request).await.unwrap_err());
        let request = v1::DisableCustomerRequest { customer_id: customer_id.clone() };
        all.push(customers.disable_customer(request).await.unwrap_err());
        let request = v1::EnableCustomerRequest { customer_id: customer_id.clone() };
        all.push(customers.enable_customer(request).await.unwrap_err());
        let request = v1::DestroyCustomerRequest { customer_id: customer_id.clone(), days: 7 };
        all.push(customers.destroy_customer(request).await.unwrap_err());
        let request = v1::RestoreCustomerRequest { customer_id };
        all.push(customers.restore_customer(request).await.unwrap_err());
    }
    for status in &all {
        assert_eq!(told(status), told(&all[0]));
    }
    assert_eq!((all[0].code(), reason(&all[0])), (Code::PermissionDenied, "NOT_PERMITTED"));
    // And what is permitted is told apart.
    let get = v1::GetCredentialRequest { customer_id: "acme".to_owned(), credential_id: "mine.none".to_owned() };
    assert_eq!(reason(&service.credentials().get_credential(get).await.unwrap_err()), "CREDENTIAL_NOT_FOUND");

    let wanted = ["credential", "get", "--customer", "acme", "--credential", "yours.crm"];
    let output = service.triseal(&wanted, b"").await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains("hint: ask whoever keeps the service's policy"), "{error}");
}

async fn batches_and_lists_are_decided_item_by_item(site: &Site) {
    let (service, folder) = under(site, EVERYTHING).await;
    create(&service, "acme").await.unwrap();
    for name in ["mine.a", "yours.a", "mine.b", "yours.b"] {
        service.credentials().encrypt_credential(encrypt("acme", name, opaque(name))).await.unwrap();
    }
    change(&service, &folder, MINE).await;

    let names = ["mine.b", "yours.a", "mine.none", "yours.none", "mine.a"];
    let requests = names.map(|name| decrypt("acme", name, v1::View::Full).into_inner()).to_vec();
    let request = v1::BatchDecryptCredentialsRequest { requests };
    let answer = service.credentials().batch_decrypt_credentials(request).await.unwrap().into_inner();
    let outcomes = answer.results.into_iter().map(|result| match result.result.unwrap() {
        Outcome::Decrypted(opened) => Ok(String::from_utf8(opaque_data(opened.secret)).unwrap()),
        Outcome::Error(error) => Err(Code::from(error.code)),
    });
    let (denied, missing) = (Err(Code::PermissionDenied), Err(Code::NotFound));
    let wanted = [Ok("mine.b".to_owned()), denied.clone(), missing, denied, Ok("mine.a".to_owned())];
    assert_eq!(outcomes.collect::<Vec<_>>(), wanted);

    for customer in ["acme", ""] {
        for page_size in [1, 2, 100] {
            let (mut found, mut page_token) = (Vec::new(), String::new());
            loop {
                let customer_id = customer.to_owned();
                let request = v1::ListCredentialsRequest { customer_id, page_size, page_token, ..Default::default() };
                let page = service.credentials().list_credentials(request).await.unwrap().into_inner();
                found.extend(page.credentials.into_iter().map(|shown| shown.credential_id));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
                // It may be that of a row that the caller may not see.
                let octets = Base64UrlUnpadded::decode_vec(&page_token).unwrap();
                for id in ["acme", "mine", "yours"] {
                    assert!(!octets.windows(id.len()).any(|window| window == id.as_bytes()), "a token names {id}");
                }
            }
            assert_eq!(found, ["mine.a", "mine.b"]);
        }
    }
    // Nobody makes a token of an id.
    let page_token = Base64UrlUnpadded::encode_string(b"acme/yours.a");
    let made = v1::ListCredentialsRequest { page_token: page_token.clone(), ..Default::default() };
    let refused = service.credentials().list_credentials(made).await.unwrap_err();
    assert_eq!(reason(&refused), "BAD_FIELD");
    let made = v1::ListCustomersRequest { page_token, ..Default::default() };
    assert_eq!(reason(&service.customers().list_customers(made).await.unwrap_err()), "BAD_FIELD");

    let customers = service.customers().list_customers(v1::ListCustomersRequest::default()).await.unwrap();
    let found: Vec<_> = customers.into_inner().customers.into_iter().map(|shown| shown.customer_id).collect();
    assert_eq!(found, ["demo"], "acme is there, and not shown");
}

#[tokio::test]
async fn a_change_is_in_force_without_a_restart_and_a_bad_one_is_refused() {
    let (service, folder) = under(&Site::embedded(), MINE).await;
    let may = async || create(&service, "acme").await.is_ok();
    assert!(!may().await);
    change(&service, &folder, EVERYTHING).await;
    assert!(may().await);
    change(&service, &folder, "@id(\"x\")\npermit (principal, action == Action::\"CreateCustomers\", resource);").await;
    assert!(may().await, "the last good set stays");
    assert_eq!(service.metric("triseal_policy_reloads_total{outcome=\"refused\"}").await, 1.0);
    assert_eq!(service.metric("triseal_policy_generation").await, 2.0);
    let log = service.stderr();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("policy refused")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("test.cedar:2: for policy `x`, unrecognized action"), "{}", lines[0]);
    change(&service, &folder, MINE).await;
    assert!(!may().await, "and it is mended");
}

#[tokio::test]
async fn a_service_does_not_start_without_a_good_policy_and_makes_nothing() {
    let (folder, data) = data();
    let policy = folder.path().join("policy");
    let start = async || {
        let mut command = dev(&data);
        command.env("TRISEAL__POLICY__DIRECTORY", &policy);
        let output = support::run(command).await;
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = start().await;
    assert_eq!((code, error), (Some(1), format!("triseald: policy: {}: is not there\n", policy.display())));
    write(&policy, "permit (principal, action, resource);");
    let (code, error) = start().await;
    assert_eq!(code, Some(1));
    assert!(error.starts_with("triseald: policy: test.cedar:1: the policy has no @id"), "{error}");
    assert!(!data.exists());
}
