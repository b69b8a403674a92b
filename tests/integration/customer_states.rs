//! What each RPC that names a customer answers in each state of it, as one table, which the protocol's descriptors hold complete. Each
//! answer is of a customer of its own, so that none changes what another meets.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;
use tonic::{Code, Response, Status};
use tonic_types::RpcStatusExt;
use triseal::grpc::v1;
use triseal::ids::{CustomerId, Deployment};
use triseal::store::embedded::{EmbeddedCustomers, EmbeddedStore};
use triseal::store::{CustomerRow, CustomerState, CustomerWrite, Rows, WriteId, row_time};
use v1::acquire_refresh_response::Outcome as Acquired;
use v1::batch_decrypt_credentials_result::Result as Decrypted;

use crate::support::{Service, decrypt, encrypt, fresh, oauth, opaque, reason, until};

const STATES: [&str; 5] = ["active", "disabled", "restored", "pending", "destroyed"];

/// What an RPC answers: nothing wrong, or this code and reason.
type Answer = Result<(), (Code, String)>;

fn refused(reason: &str) -> Answer {
    Err((Code::FailedPrecondition, reason.to_owned()))
}

/// In the order of `STATES`; a customer that was restored is one that is disabled.
fn table() -> Vec<(&'static str, [Answer; 5])> {
    let (disabled, pending) = (|| refused("CUSTOMER_DISABLED"), || refused("CUSTOMER_PENDING_DESTRUCTION"));
    let (not_disabled, unknown) = (|| refused("CUSTOMER_NOT_DISABLED"), || refused("KEY_VERSION_UNKNOWN"));
    let destroyed = || refused("CUSTOMER_DESTROYED");
    let not_found = || Err((Code::NotFound, "CREDENTIAL_NOT_FOUND".to_owned()));
    let ok = || Ok(());
    vec![
        // Only who may use the secret now.
        ("EncryptCredential", [ok(), disabled(), disabled(), pending(), destroyed()]),
        ("DecryptCredential", [ok(), disabled(), disabled(), pending(), destroyed()]),
        ("BatchDecryptCredentials", [ok(), disabled(), disabled(), pending(), destroyed()]),
        ("AcquireRefresh", [ok(), disabled(), disabled(), pending(), destroyed()]),
        // What is known, and what makes less of it.
        ("GetCredential", [ok(), ok(), ok(), ok(), destroyed()]),
        ("ListCredentials", [ok(), ok(), ok(), ok(), ok()]),
        ("DeleteCredential", [ok(), ok(), ok(), ok(), destroyed()]),
        ("MarkNeedsReauth", [ok(), ok(), ok(), ok(), not_found()]),
        // A refresh that was begun ends: the new tokens are the only living ones.
        ("CompleteRefresh", [ok(), ok(), ok(), ok(), not_found()]),
        ("AbandonRefresh", [ok(), ok(), ok(), ok(), not_found()]),
        ("GetCustomer", [ok(), ok(), ok(), ok(), ok()]),
        ("CreateCustomer", [ok(), ok(), ok(), ok(), destroyed()]),
        ("DisableCustomer", [ok(), ok(), ok(), pending(), destroyed()]),
        ("EnableCustomer", [ok(), ok(), ok(), pending(), destroyed()]),
        ("DestroyCustomer", [not_disabled(), ok(), ok(), ok(), destroyed()]),
        ("RestoreCustomer", [not_disabled(), ok(), ok(), ok(), destroyed()]),
        ("RotateCustomerKey", [ok(), ok(), ok(), pending(), destroyed()]),
        ("RetireCustomerKeyVersion", [unknown(), unknown(), unknown(), pending(), destroyed()]),
        ("StartCustomerKeyRotation", [ok(), ok(), ok(), pending(), destroyed()]),
        ("StartRewrap", [ok(), ok(), ok(), ok(), destroyed()]),
        ("StartReencryption", [ok(), ok(), ok(), ok(), destroyed()]),
    ]
}

/// The RPCs whose request names a customer, itself or in a message in it.
fn rpcs_that_name_a_customer() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(v1::DESCRIPTORS).unwrap().file;
    let ours = || files.iter().filter(|file| file.package() == "triseal.v1");
    let messages: HashMap<_, _> = ours()
        .flat_map(|file| &file.message_type)
        .map(|message| (format!(".triseal.v1.{}", message.name()), message))
        .collect();
    let names_a_customer = |request: &str| {
        let (mut left, mut seen) = (vec![request], BTreeSet::new());
        while let Some(name) = left.pop() {
            // Messages of others name no customer of ours.
            let Some(message) = messages.get(name).filter(|_| seen.insert(name)) else { continue };
            if message.field.iter().any(|field| field.name() == "customer_id") {
                return true;
            }
            left.extend(
                message.field.iter().filter(|field| field.r#type() == Type::Message).map(|field| field.type_name()),
            );
        }
        false
    };
    let methods = ours().flat_map(|file| &file.service).flat_map(|service| &service.method);
    methods.filter(|method| names_a_customer(method.input_type())).map(|method| method.name().to_owned()).collect()
}

/// One customer for each cell of the table.
fn id_of(rpc: &str, state: &str) -> String {
    format!("{state}-{rpc}")
}

#[tokio::test]
async fn each_rpc_that_names_a_customer_answers_by_its_state() {
    let table = table();
    let rpcs: BTreeSet<_> = table.iter().map(|(rpc, _)| (*rpc).to_owned()).collect();
    assert_eq!(rpcs, rpcs_that_name_a_customer(), "each has its row in the table");
    assert_eq!(rpcs.len(), table.len());

    let (service, folder) = fresh().await;
    let cells: Vec<_> = rpcs.iter().flat_map(|rpc| STATES.map(|state| (rpc, state))).collect();
    let leases: HashMap<_, _> = stream::iter(&cells)
        .map(|(rpc, state)| async {
            let id = id_of(rpc, state);
            prepare(&service, &id, state).await.map(|lease| (id, lease))
        })
        .buffer_unordered(16)
        .try_collect()
        .await
        .unwrap();
    // New, so that it believes nothing of before.
    let service = on_their_day(service, &folder.path().join("data")).await;

    let mut wrong = Vec::new();
    for (column, state) in STATES.iter().enumerate() {
        for (rpc, wanted) in &table {
            let id = id_of(rpc, state);
            let answer = call(&service, rpc, &id, &leases[&id]).await;
            if answer != wanted[column] {
                wrong.push(format!("{rpc} of a customer that is {state}: {answer:?}, and not {:?}", wanted[column]));
            }
        }
        no_job_runs(&service).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Makes a customer with the credentials `crm`, `token` and `held`, and brings it into a state. Answers the token of the lease of `held`.
async fn prepare(service: &Service, id: &str, state: &str) -> Result<String, Status> {
    let (mut credentials, mut customers) = (service.credentials(), service.customers());
    let customer_id = || id.to_owned();
    customers.create_customer(v1::CreateCustomerRequest { customer_id: customer_id() }).await?;
    for (name, secret) in [("crm", opaque("x")), ("token", oauth("access", "5Aep")), ("held", oauth("access", "5Aep"))]
    {
        credentials.encrypt_credential(encrypt(id, name, secret)).await?;
    }
    let acquired = credentials.acquire_refresh(acquire(id, "held")).await?.into_inner();
    let Some(Acquired::Lease(lease)) = acquired.outcome else { panic!("no lease, with a token that was refused") };
    if state != "active" {
        customers.disable_customer(v1::DisableCustomerRequest { customer_id: customer_id() }).await?;
    }
    if matches!(state, "restored" | "pending" | "destroyed") {
        customers.destroy_customer(v1::DestroyCustomerRequest { customer_id: customer_id(), days: 7 }).await?;
    }
    if state == "restored" {
        customers.restore_customer(v1::RestoreCustomerRequest { customer_id: customer_id() }).await?;
    }
    Ok(lease.lease_token)
}

fn acquire(customer: &str, credential: &str) -> v1::AcquireRefreshRequest {
    v1::AcquireRefreshRequest {
        customer_id: customer.to_owned(),
        credential_id: credential.to_owned(),
        rejected_revision: Some(1),
        ..Default::default()
    }
}

/// A service with the same store, an hour after the time at which the customers named `destroyed-…` were to be destroyed.
async fn on_their_day(service: Service, data: &Path) -> Service {
    assert!(service.terminate().await.success());
    let store = EmbeddedStore::open(&data.join("store.redb"), &Deployment::parse("dev").unwrap()).unwrap();
    let customers = EmbeddedCustomers(Arc::new(store));
    let ids: Vec<_> = table().iter().map(|(rpc, _)| id_of(rpc, "destroyed")).collect();
    let destroy_time = row_time(jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1));
    for id in &ids {
        let row = customers.get(&CustomerId::parse(id).unwrap()).await.unwrap().unwrap();
        let before = row.write_id;
        let state = CustomerState::PendingDestruction { destroy_time };
        let due = CustomerRow { state, write_id: WriteId::random().unwrap(), ..row };
        let _ = customers.replace(Some(before), CustomerWrite::of(due)).await.unwrap();
    }
    drop(customers);
    let service = Service::dev(data).await;
    for id in ids {
        until("destroyed", async || {
            let request = v1::GetCustomerRequest { customer_id: id.clone() };
            let customer = service.customers().get_customer(request).await.unwrap().into_inner().customer.unwrap();
            customer.receipt.is_some_and(|receipt| receipt.end_time.is_some())
        })
        .await;
    }
    service
}

async fn call(service: &Service, rpc: &str, customer: &str, lease: &str) -> Answer {
    let (id, name) = (|| customer.to_owned(), |name: &str| name.to_owned());
    let (mut credentials, mut customers, mut keys) = (service.credentials(), service.customers(), service.keys());
    match rpc {
        "EncryptCredential" => answer(credentials.encrypt_credential(encrypt(customer, "crm", opaque("again"))).await),
        "DecryptCredential" => answer(credentials.decrypt_credential(decrypt(customer, "crm", v1::View::Full)).await),
        "BatchDecryptCredentials" => {
            let requests = vec![decrypt(customer, "crm", v1::View::Full).into_inner()];
            let request = v1::BatchDecryptCredentialsRequest { requests };
            batched(credentials.batch_decrypt_credentials(request).await)
        }
        "AcquireRefresh" => answer(credentials.acquire_refresh(acquire(customer, "token")).await),
        "CompleteRefresh" => {
            let mut brought = v1::SalesforceOAuth::default();
            "new".clone_into(&mut brought.access_token);
            let request = v1::CompleteRefreshRequest {
                customer_id: id(),
                credential_id: name("held"),
                lease_token: name(lease),
                salesforce_oauth: Some(brought),
            };
            answer(credentials.complete_refresh(request).await)
        }
        "AbandonRefresh" => {
            let request = v1::AbandonRefreshRequest {
                customer_id: id(),
                credential_id: name("held"),
                lease_token: name(lease),
                ..Default::default()
            };
            answer(credentials.abandon_refresh(request).await)
        }
        "MarkNeedsReauth" => {
            let request = v1::MarkNeedsReauthRequest {
                customer_id: id(),
                credential_id: name("token"),
                reason: name("a breach"),
                if_revision: None,
            };
            answer(credentials.mark_needs_reauth(request).await)
        }
        "GetCredential" => {
            let request = v1::GetCredentialRequest { customer_id: id(), credential_id: name("crm") };
            answer(credentials.get_credential(request).await)
        }
        "ListCredentials" => {
            let request = v1::ListCredentialsRequest { customer_id: id(), ..Default::default() };
            answer(credentials.list_credentials(request).await)
        }
        "DeleteCredential" => {
            let request =
                v1::DeleteCredentialRequest { customer_id: id(), credential_id: name("crm"), if_revision: None };
            answer(credentials.delete_credential(request).await)
        }
        "CreateCustomer" => answer(customers.create_customer(v1::CreateCustomerRequest { customer_id: id() }).await),
        "GetCustomer" => answer(customers.get_customer(v1::GetCustomerRequest { customer_id: id() }).await),
        "DisableCustomer" => answer(customers.disable_customer(v1::DisableCustomerRequest { customer_id: id() }).await),
        "EnableCustomer" => answer(customers.enable_customer(v1::EnableCustomerRequest { customer_id: id() }).await),
        "DestroyCustomer" => {
            answer(customers.destroy_customer(v1::DestroyCustomerRequest { customer_id: id(), days: 7 }).await)
        }
        "RestoreCustomer" => answer(customers.restore_customer(v1::RestoreCustomerRequest { customer_id: id() }).await),
        "RotateCustomerKey" => {
            answer(keys.rotate_customer_key(v1::RotateCustomerKeyRequest { customer_id: id() }).await)
        }
        "RetireCustomerKeyVersion" => {
            let request = v1::RetireCustomerKeyVersionRequest { customer_id: id(), version: 9 };
            answer(keys.retire_customer_key_version(request).await)
        }
        "StartCustomerKeyRotation" => {
            let request = v1::StartCustomerKeyRotationRequest { customer_id: id(), dry_run: true, rate: 0 };
            answer(keys.start_customer_key_rotation(request).await)
        }
        "StartRewrap" => {
            let request = v1::StartRewrapRequest { customer_id: id(), dry_run: true, rate: 0 };
            answer(keys.start_rewrap(request).await)
        }
        "StartReencryption" => {
            let request = v1::StartReencryptionRequest { customer_id: id(), dry_run: true, rate: 0 };
            answer(keys.start_reencryption(request).await)
        }
        other => panic!("no call of {other}"),
    }
}

fn answer<T>(answer: Result<Response<T>, Status>) -> Answer {
    answer.map(|_| ()).map_err(|status| (status.code(), reason(&status).to_owned()))
}

/// Of the one item.
fn batched(answer: Result<Response<v1::BatchDecryptCredentialsResponse>, Status>) -> Answer {
    let item = answer.expect("a batch fails by its items").into_inner().results.remove(0).result.unwrap();
    match item {
        Decrypted::Decrypted(_) => Ok(()),
        Decrypted::Error(error) => {
            let reason = error.get_details_error_info().expect("ErrorInfo").reason;
            Err((Code::from(error.code), reason))
        }
    }
}

/// Since one of each kind runs at a time.
async fn no_job_runs(service: &Service) {
    until("without a running job", async || {
        let jobs = service.keys().list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
        jobs.iter().all(|job| job.state() != v1::JobState::Running)
    })
    .await;
}
