//! The first start on tables that were restored from a backup (`store.restored`): what was under way in them is left alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use triseal::grpc::v1;
use triseal::ids::{CustomerId, Deployment};
use triseal::store::embedded::{EmbeddedCustomers, EmbeddedStore};
use triseal::store::{CustomerRow, CustomerState, CustomerWrite, Rows, WriteId, row_time};

use crate::support::{Service, data, dev, reason, until};

/// Has the customer `demo` destroyed at this time, in a store that no process has open.
async fn is_to_end(data: &Path, destroy_time: Timestamp) {
    let store = EmbeddedStore::open(&data.join("store.redb"), &Deployment::parse("dev").unwrap()).unwrap();
    let customers = EmbeddedCustomers(Arc::new(store));
    let row = customers.get(&CustomerId::parse("demo").unwrap()).await.unwrap().unwrap();
    let (before, write_id) = (row.write_id, WriteId::random().unwrap());
    let state = CustomerState::PendingDestruction { destroy_time: row_time(destroy_time) };
    let row = CustomerRow { state, write_id, ..row };
    let _ = customers.replace(Some(before), CustomerWrite::of(row)).await.unwrap();
}

async fn state(service: &Service) -> v1::CustomerState {
    let request = v1::GetCustomerRequest { customer_id: "demo".to_owned() };
    service.customers().get_customer(request).await.unwrap().into_inner().customer.unwrap().state()
}

/// Long enough for the sweep of a start, which the last step shows to do what is due.
const A_WHILE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_start_on_restored_tables_destroys_nobody_and_works_on_no_job() {
    let (_folder, data) = data();
    let service = Service::dev(&data).await;
    let request = v1::DisableCustomerRequest { customer_id: "demo".to_owned() };
    service.customers().disable_customer(request).await.unwrap();
    assert!(service.terminate().await.success());
    is_to_end(&data, Timestamp::now() - SignedDuration::from_hours(1)).await;

    let mut restored = dev(&data);
    restored.env("TRISEAL__STORE__RESTORED", "true");
    let mut service = Service::start(restored).await;
    sleep(A_WHILE).await;
    assert_eq!(state(&service).await, v1::CustomerState::PendingDestruction);
    let count = v1::StartReencryptionRequest { dry_run: true, ..Default::default() };
    let refused = service.keys().start_reencryption(count).await.unwrap_err();
    assert_eq!(reason(&refused), "STORE_UNAVAILABLE");
    assert!(refused.message().contains("store.restored"), "{refused}");
    service.signal().await;
    assert!(service.ended().await.success());
    let told = service.said_in_all().await;
    assert!(told.contains("store.restored is set"), "{told}");

    // Without the setting what is due is done, and what is long overdue is not.
    is_to_end(&data, Timestamp::now() - SignedDuration::from_hours(4)).await;
    let mut service = Service::dev(&data).await;
    sleep(A_WHILE).await;
    assert_eq!(state(&service).await, v1::CustomerState::PendingDestruction);
    until("it is counted", async || service.metric("triseal_destructions_overdue").await >= 1.0).await;
    service.signal().await;
    assert!(service.ended().await.success());
    let told = service.said_in_all().await;
    assert!(told.contains("triseal customer restore"), "{told}");
    is_to_end(&data, Timestamp::now() - SignedDuration::from_hours(1)).await;
    let service = Service::dev(&data).await;
    until("it is destroyed", async || state(&service).await == v1::CustomerState::Destroyed).await;
}
