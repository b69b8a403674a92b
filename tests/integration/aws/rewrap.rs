//! Customers' keys moved from one KMS key to another by `triseal rewrap`, so that the first can be switched off for good.

use tonic::Code;
use triseal::grpc::v1;

use super::{Replica, told};
use crate::support::site::Aws;

const CUSTOMERS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];

/// A KMS key of whoever runs the service, besides the site's first.
async fn second_key(site: &Aws) -> String {
    site.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap()
}

async fn switch_off(site: &Aws, arn: &str) {
    site.kms.disable_key().key_id(arn).send().await.unwrap();
}

/// The rows of customers and of their wrapped keys, by their names, and whether each names the KMS key: as the service's own record of
/// what wraps it, and inside of what KMS wrapped.
async fn rows_that_name(site: &Aws, arn: &str) -> Vec<(String, bool)> {
    let scanned = site.dynamodb.scan().table_name(&site.tables.customers).consistent_read(true).send().await.unwrap();
    let id = arn.rsplit('/').next().unwrap();
    let mut found: Vec<_> = scanned
        .items()
        .iter()
        .map(|item| {
            let text = |name: &str| item[name].as_s().unwrap().as_str();
            let row = item["row"].as_b().unwrap().as_ref();
            let names = row.windows(id.len()).any(|octets| octets == id.as_bytes());
            (format!("{} {}", text("customer_id"), text("item")), names)
        })
        .collect();
    found.sort();
    found
}

async fn open_all(replica: &Replica) -> Vec<Result<String, super::Told>> {
    let mut opened = Vec::new();
    for customer in CUSTOMERS {
        opened.push(replica.open(customer).await);
    }
    opened
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn after_a_rewrap_everything_opens_without_the_first_kms_key() {
    let site = Aws::new().await;
    let (first, second) = (site.key.clone(), second_key(&site).await);
    let before = Replica::start(&site, &[]).await;
    for customer in CUSTOMERS {
        before.create(customer).await;
        before.seal(customer, customer).await.unwrap();
    }
    // Two versions, and a record under the older; customers that are in no use, but may be again.
    let rotate = v1::RotateCustomerKeyRequest { customer_id: "globex".to_owned() };
    before.service.keys().rotate_customer_key(rotate).await.unwrap();
    for customer_id in ["initech", "umbrella"].map(str::to_owned) {
        before.service.customers().disable_customer(v1::DisableCustomerRequest { customer_id }).await.unwrap();
    }
    let destroy = v1::DestroyCustomerRequest { customer_id: "umbrella".to_owned(), days: 7 };
    before.service.customers().destroy_customer(destroy).await.unwrap();
    assert!(before.service.terminate().await.success());
    let rows = rows_that_name(&site, &first).await;
    assert_eq!(rows.len(), 2 * CUSTOMERS.len() + 1, "a customer, and a key for each version");
    assert!(rows.iter().all(|(_, names)| *names), "{rows:?}");

    let both = [
        ("TRISEAL__FACTORS__KMS__WRAP_WITH", second.as_str()),
        ("TRISEAL__FACTORS__KMS__UNWRAP_WITH", first.as_str()),
        ("TRISEAL__CACHE__CUSTOMER_STALENESS", "1s"),
    ];
    // The first key is needed until then: new services have no root at hand.
    switch_off(&site, &first).await;
    let refused = told(Code::Unavailable, "KMS_REFUSED", false);
    let cold = Replica::start(&site, &both).await;
    assert_eq!(cold.open("acme").await, Err(refused));
    // And a rewrap that can't unwrap changes nothing, and says so.
    let output = cold.service.triseal(&["rewrap", "--customer", "acme", "--output", "json"], b"").await;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(r#""customer_id":"acme","reason":"KMS_REFUSED""#), "{said}");
    assert_eq!(rows_that_name(&site, &first).await, rows);
    site.kms.enable_key().key_id(&first).send().await.unwrap();
    drop(cold);

    let service = Replica::start(&site, &both).await;
    service.create("new").await;
    let output = service.service.triseal(&["rewrap", "--output", "json"], b"").await;
    let said = String::from_utf8([output.stdout.clone(), output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let ended: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&ended["state"], &ended["kind"]), (&"done".into(), &"rewrap".into()), "{ended}");
    assert_eq!((&ended["changed"], &ended["failed"]), (&4.into(), &0.into()), "all but the new one: {ended}");
    let rows = rows_that_name(&site, &second).await;
    assert_eq!(rows.len(), 2 * CUSTOMERS.len() + 1 + 2);
    assert!(rows.iter().all(|(_, names)| *names), "{rows:?}");
    let rows = rows_that_name(&site, &first).await;
    assert!(rows.iter().all(|(_, names)| !*names), "{rows:?}");
    assert!(service.service.terminate().await.success());

    switch_off(&site, &first).await;
    let after = Replica::start(&site, &[("TRISEAL__FACTORS__KMS__WRAP_WITH", &second)]).await;
    for customer in ["initech", "umbrella"] {
        let customers = || after.service.customers();
        if customer == "umbrella" {
            customers()
                .restore_customer(v1::RestoreCustomerRequest { customer_id: customer.to_owned() })
                .await
                .unwrap();
        }
        customers().enable_customer(v1::EnableCustomerRequest { customer_id: customer.to_owned() }).await.unwrap();
    }
    let secrets = CUSTOMERS.map(|customer| Ok(customer.to_owned()));
    assert_eq!(open_all(&after).await, secrets);
    // Under the new version of the one that was rotated, too.
    assert_eq!(after.seal("globex", "again").await, Ok(2));
    assert_eq!(after.open("globex").await.as_deref(), Ok("again"));
}
