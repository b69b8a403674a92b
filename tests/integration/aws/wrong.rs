//! What somebody broke or tampered with at AWS, and what must not be seen in any log.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::primitives::Blob;
use tonic::Code;

use super::{Replica, command, proxies, told, until};
use crate::encodings::Searched;
use crate::support::Service;
use crate::support::site::{Aws, environment};

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

/// A wrapped key's item.
async fn wrapped_key(site: &Aws, customer: &str) -> HashMap<String, AttributeValue> {
    let key = [("customer_id".to_owned(), text(customer)), ("item".to_owned(), text("key#0000000001"))].into();
    let got = site.dynamodb.get_item().table_name(&site.tables.customers).set_key(Some(key)).send().await.unwrap();
    got.item.expect("a wrapped key")
}

async fn put(site: &Aws, table: &str, item: HashMap<String, AttributeValue>) {
    site.dynamodb.put_item().table_name(table).set_item(Some(item)).send().await.unwrap();
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn another_customers_wrapped_key_or_envelope_in_its_place_opens_nothing() {
    let site = Aws::new().await;
    let before = Replica::start(&site, &[]).await;
    for customer in ["acme", "globex"] {
        before.create(customer).await;
        before.seal(customer, customer).await.unwrap();
    }
    drop(before);
    let own = wrapped_key(&site, "acme").await;
    let mut other = wrapped_key(&site, "globex").await;
    other.insert("customer_id".to_owned(), text("acme"));
    put(&site, &site.tables.customers, other).await;

    // New, so that it has no root at hand.
    let replica = Replica::start(&site, &[]).await;
    let not_authentic = told(Code::DataLoss, "NOT_AUTHENTIC", false);
    assert_eq!(replica.open("acme").await.unwrap_err(), not_authentic);
    assert_eq!(replica.seal("acme", "x").await.unwrap_err(), not_authentic, "nothing is sealed under it, either");
    assert_eq!(replica.open("globex").await.as_deref(), Ok("globex"));
    put(&site, &site.tables.customers, own).await;
    assert_eq!(replica.open("acme").await.as_deref(), Ok("acme"));

    // A whole row of another customer.
    let key = [("customer_id".to_owned(), text("globex")), ("credential_id".to_owned(), text("main"))].into();
    let row = site.dynamodb.get_item().table_name(&site.tables.credentials).set_key(Some(key)).send().await.unwrap();
    let mut row = row.item.unwrap();
    row.insert("customer_id".to_owned(), text("acme"));
    put(&site, &site.tables.credentials, row).await;
    assert_eq!(replica.open("acme").await.unwrap_err(), not_authentic);
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_wrapped_key_of_another_kms_key_or_context_does_not_unwrap() {
    let site = Aws::new().await;
    let before = Replica::start(&site, &[]).await;
    before.create("acme").await;
    before.seal("acme", "acme").await.unwrap();
    drop(before);
    // A deployment of another name: the same keys and tables, and another context.
    let elsewhere = Replica::start(&site, &[("TRISEAL__DEPLOYMENT", "elsewhere")]).await;
    assert_eq!(elsewhere.open("acme").await.unwrap_err(), told(Code::DataLoss, "NOT_AUTHENTIC", false));
    // A KMS key that no setting names any more.
    let other = site.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap();
    let moved = Replica::start(&site, &[("TRISEAL__FACTORS__KMS__WRAP_WITH", other.as_str())]).await;
    assert_eq!(moved.open("acme").await.unwrap_err(), told(Code::Unavailable, "KMS_REFUSED", false));
    // And named as a former one.
    let former = [
        ("TRISEAL__FACTORS__KMS__WRAP_WITH", other.as_str()),
        ("TRISEAL__FACTORS__KMS__UNWRAP_WITH", site.key.as_str()),
    ];
    let both = Replica::start(&site, &former).await;
    assert_eq!(both.open("acme").await.as_deref(), Ok("acme"));
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_disabled_kms_key_is_refused_until_it_is_enabled() {
    let site = Aws::new().await;
    let before = Replica::start(&site, &[]).await;
    before.create("acme").await;
    before.seal("acme", "acme").await.unwrap();
    let replica = Replica::start(&site, &[]).await;
    site.kms.disable_key().key_id(&site.key).send().await.unwrap();
    let refused = told(Code::Unavailable, "KMS_REFUSED", false);
    assert_eq!(replica.open("acme").await.unwrap_err(), refused);
    assert_eq!(before.open("acme").await.as_deref(), Ok("acme"), "its root is at hand");
    site.kms.enable_key().key_id(&site.key).send().await.unwrap();
    assert_eq!(replica.open("acme").await.as_deref(), Ok("acme"));

    site.kms.schedule_key_deletion().key_id(&site.key).pending_window_in_days(7).send().await.unwrap();
    let replica = Replica::start(&site, &[]).await;
    assert_eq!(replica.open("acme").await.unwrap_err(), refused);
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_secret_that_is_missing_or_malformed_stops_the_start_by_name() {
    let site = Aws::new().await;
    let said = async |variables: &[(&str, &str)]| {
        let proxies = proxies(&site).await;
        let [kms, secrets, store] = &proxies;
        let mut service = Service::spawn(command(&site, variables, [kms, secrets, store]));
        assert!(!service.ready().await, "it serves");
        service.stderr()
    };
    let missing = format!("{}XXXXXX", &site.secret[..site.secret.len() - 6]);
    let told = said(&[("TRISEAL__FACTORS__SECRETS_MANAGER__SECRET_ID", &missing)]).await;
    assert!(told.contains("the environment keys can't be read: ResourceNotFoundException"), "{told}");
    for (value, field) in [
        ("MARKED".to_owned(), "document"),
        (environment(1, 2), "primary: must be the version of an enabled key"),
        (environment(1, 1).replace("\"key\": \"", "\"key\": \"MARKED"), "keys[0].key"),
    ] {
        site.put_secret(&value).await;
        let told = said(&[]).await;
        assert!(
            told.contains("the secret's value")
                && told.contains("move AWSCURRENT back to the former version")
                && told.contains(field),
            "{told}"
        );
        assert!(!told.contains("MARKED"), "{told}");
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_missing_table_is_named_at_the_start_and_while_it_runs() {
    let site = Aws::without_tables().await;
    let mut service = Service::spawn(site.command());
    assert!(!service.ready().await, "it serves without tables");
    let wanted = format!(
        "the table {} is missing: make it by deploy/cloudformation/tables.yaml (for development, by `triseal tables create`), or name",
        site.tables.operations
    );
    assert!(service.stderr().contains(&wanted), "{}", service.stderr());

    let site = Aws::new().await;
    let replica = Replica::start(&site, &[]).await;
    replica.create("acme").await;
    replica.seal("acme", "acme").await.unwrap();
    site.dynamodb.delete_table().table_name(&site.tables.credentials).send().await.unwrap();
    let unavailable = Err(told(Code::Unavailable, "STORE_UNAVAILABLE", true));
    until(&unavailable, async || replica.open("acme").await).await;
    assert!(replica.seal("acme", "x").await.is_err(), "and none is made");
    let wanted = format!("the table {} is missing", site.tables.credentials);
    assert!(replica.service.stderr().contains(&wanted));
    assert!(site.dynamodb.describe_table().table_name(&site.tables.credentials).send().await.is_err());
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn no_log_at_any_level_holds_a_key_or_a_secret() {
    let site = Aws::new().await;
    let replica = Replica::start(&site, &[("TRISEAL__TELEMETRY__LOG", "trace")]).await;
    let secret = "00D5g000004XyZA!MARKED.access.token";
    replica.create("acme").await;
    replica.seal("acme", secret).await.unwrap();
    assert_eq!(replica.open("acme").await.as_deref(), Ok(secret));
    let item = wrapped_key(&site, "acme").await;
    // The customer key itself, as only this test can know it.
    let context = [("triseal:deployment", "test"), ("triseal:customer", "acme"), ("triseal:version", "1")];
    let context = context.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let row = item["row"].as_b().unwrap().as_ref();
    let wrapped = (17..row.len()).find_map(|at| wrapped_in(row, at)).expect("a wrapped key in its row");
    let decrypted = site.kms.decrypt().key_id(&site.key).ciphertext_blob(Blob::new(wrapped));
    let customer_key = decrypted.set_encryption_context(Some(context)).send().await.unwrap().plaintext.unwrap();
    let environment_key = [101; 32];

    let log = replica.service.stderr();
    assert!(log.contains("\"level\":\"TRACE\"") && log.contains("aws_smithy"), "the SDK logs nothing");
    for searched in [secret.as_bytes(), customer_key.as_ref(), &environment_key[..]] {
        let searched = Searched::new(searched);
        let found: Vec<_> = searched.found_in(log.as_bytes()).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

/// The octet string of the row's CBOR that begins here, if it is as long as a wrapped key.
fn wrapped_in(row: &[u8], at: usize) -> Option<Vec<u8>> {
    // Major type 2 with a length of one octet.
    let length = match row.get(at..at + 2)? {
        [0x58, length] if *length > 64 => usize::from(*length),
        _ => return None,
    };
    row.get(at + 2..at + 2 + length).map(<[u8]>::to_vec)
}
