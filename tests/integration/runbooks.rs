//! `docs/operations`: every command of the runbooks is run, in its order, by a shell and against a real service with something in it. A command that
//! rots fails here. So does one that the policy of `deploy/policy` does not permit to the identity that the page names: each block starts with none.
//!
//! What a person does beside the commands, the test does: it types names back (`--yes`), waits where a message says to try again, and waits less
//! long for the replicas than two minutes.

mod day;
mod pages;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use day::Day;
use pages::blocks;
use triseal::factors::document::{Form, KeyDocument, KeyState};
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;
use zeroize::Zeroizing;

use crate::support::key_documents::{parse, write_key_file};
use crate::support::site::Site;
use crate::support::{Service, decrypt, encrypt, oauth, reason, run, triseal};

const CUSTOMER: &str = "acme";
const CREDENTIAL: &str = "realsync.main";
const PASSWORD: &str = "realsync.password.ftp";
/// Who has stored and read what there is.
const PRODUCT: &str = "realsync";

async fn rotate_keys(site: &Site) {
    let mut day = Day::new(site).await;
    day.run("rotate-keys.md").await;
    day.nothing_is_under_the_old_version_of(&["codebase", "environment", "customer"]).await;
    let codebase = fs::read_to_string(day.below("codebase-keys.json")).unwrap();
    assert!(codebase.contains("\"primary\": 2") && codebase.contains("\"state\": \"retired\""));
    let customer = &day.json(&["customer", "get", CUSTOMER]).await[0];
    assert_eq!(
        (customer["primary_version"].as_u64(), &customer["key_versions"][0]["state"]),
        (Some(2), &"retired".into())
    );
}

async fn leaked_key(site: &Site) {
    let mut day = Day::new(site).await;
    day.run("leaked-key.md").await;
    day.nothing_is_under_the_old_version_of(&["environment", "customer"]).await;
}

mod embedded {
    use super::*;

    #[tokio::test]
    async fn rotate_keys() {
        super::rotate_keys(&Site::embedded()).await;
    }

    #[tokio::test]
    async fn leaked_key() {
        super::leaked_key(&Site::embedded()).await;
    }

    #[tokio::test]
    async fn lost_kms_key() {
        super::lost_kms_key(&Site::embedded()).await;
    }
}

mod aws {
    use super::*;

    #[tokio::test]
    #[ignore = "needs tests/aws/up"]
    async fn rotate_keys() {
        super::rotate_keys(&Site::aws().await).await;
    }

    #[tokio::test]
    #[ignore = "needs tests/aws/up"]
    async fn leaked_key() {
        super::leaked_key(&Site::aws().await).await;
    }

    #[tokio::test]
    #[ignore = "needs tests/aws/up"]
    async fn lost_kms_key() {
        super::lost_kms_key(&Site::aws().await).await;
    }
}

#[tokio::test]
async fn a_record_that_does_not_open() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.run_section("lost-key.md", "A record does not open").await;
    assert_eq!(day.state_of_credential().await, "needs_reauth");
}

#[tokio::test]
async fn the_drill() {
    let site = Site::embedded();
    Day::new(&site).await.run_section("lost-key.md", "The drill, twice a year").await;
}

/// Stored by a product, and read by it.
async fn is_stored(day: &Day<'_>, customer: &str) -> Result<(), tonic::Status> {
    let mut client = CredentialServiceClient::new(day.channel(PRODUCT));
    client.encrypt_credential(encrypt(customer, CREDENTIAL, oauth("anew", "anew"))).await?;
    client.decrypt_credential(decrypt(customer, CREDENTIAL, v1::View::Access)).await.map(drop)
}

#[tokio::test]
async fn a_lost_environment_key() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    let Site::Embedded(folder) = &site else { unreachable!() };
    let keys = folder.path().join("data/environment.json");
    fs::remove_file(&keys).unwrap();
    // What runs, opens.
    let reading = decrypt(CUSTOMER, PASSWORD, v1::View::Full);
    CredentialServiceClient::new(day.channel(PRODUCT)).decrypt_credential(reading).await.unwrap();
    day.stop().await;
    // Nothing starts there any more, with no key and with another one.
    for wanted in ["is missing", "not the one that this store's records were sealed under"] {
        let (ended, told) = Service::spawn(day.command(&[])).ended_saying().await;
        assert!(!ended.success() && told.contains(wanted), "{told}");
        if !keys.exists() {
            assert!(run(triseal(&["keygen", "environment", keys.to_str().unwrap()])).await.status.success());
        }
    }
    day.run_section("lost-key.md", "Nothing was found: a key of the environment or of the codebase").await;
    is_stored(&day, CUSTOMER).await.unwrap();
}

/// The section on the KMS key, run after it is gone.
async fn lost_kms_key(site: &Site) {
    let mut day = Day::new(site).await;
    day.stop().await;
    let mut settings = Vec::new();
    let another;
    match site {
        Site::Embedded(folder) => {
            let path = folder.path().join("data/insecure-local-kms.key");
            crate::support::write(path, &Base64::encode_string(&[9; 32]));
        }
        Site::Aws(aws) => {
            aws.kms.disable_key().key_id(&aws.key).send().await.unwrap();
            another = aws.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap();
            settings.push(("TRISEAL__FACTORS__KMS__WRAP_WITH", another.as_str()));
        }
    }
    day.start(&settings).await;
    let refused = is_stored(&day, CUSTOMER).await.unwrap_err();
    assert_eq!(reason(&refused), "KMS_REFUSED");
    // One that came afterwards has lost nothing.
    let request = v1::CreateCustomerRequest { customer_id: "later".into() };
    CustomerServiceClient::new(day.channel(PRODUCT)).create_customer(request).await.unwrap();
    is_stored(&day, "later").await.unwrap();

    let told = day.run_section("lost-key.md", "Nothing was found: the KMS key").await;
    for lost in [CREDENTIAL, PASSWORD] {
        assert!(told.contains(&format!("{CUSTOMER} {lost} KMS_REFUSED")), "{told}");
    }
    let listed = day.json(&["credential", "list"]).await;
    let states: Vec<_> = listed.iter().map(|one| (one["customer_id"].as_str(), one["state"].as_str())).collect();
    let (lost, kept) = ((Some(CUSTOMER), Some("needs_reauth")), (Some("later"), Some("active")));
    assert_eq!(states.iter().filter(|state| **state == lost).count(), 2, "{states:?}");
    assert!(states.contains(&kept), "{states:?}");
    is_stored(&day, CUSTOMER).await.unwrap();
    assert_eq!(day.state_of_credential().await, "active");
    is_stored(&day, "later").await.unwrap();
}

/// A drill that any copy would pass would be none.
#[tokio::test]
async fn the_drill_finds_a_copy_that_is_another_key() {
    let site = Site::embedded();
    let day = Day::new(&site).await;
    let copy = day.below("drill/environment.json");
    fs::remove_file(&copy).unwrap();
    assert!(run(triseal(&["keygen", "environment", &copy])).await.status.success());
    let drill = blocks("lost-key.md").into_iter().find(|block| block.contains("$DRILL_ENDPOINT")).unwrap();
    let (succeeded, told) = day.run_block(&drill).await;
    assert!(!succeeded && told.contains("environment key of version 1"), "{told}");
}

#[tokio::test]
async fn stolen_certificate() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.set("CALLER", "spiffe://datasert.com/realtask");
    day.run("stolen-certificate.md").await;
    let ran = day.ran();
    for refused in ["4 policy explain", "4 credential list"] {
        assert!(ran.iter().any(|line| line.starts_with(refused)), "{ran:?}");
    }
}

/// Each of the two ways shuts the thief out by itself.
#[tokio::test]
async fn a_thief_is_shut_out_by_the_list_and_by_policy() {
    for (way, wanted) in
        [("keygen certificates", "it has been revoked"), ("stolen.cedar", "policy does not permit this")]
    {
        let site = Site::embedded();
        let mut day = Day::new(&site).await;
        day.set("CALLER", "spiffe://datasert.com/realtask");
        let (succeeded, told) = day.run_block("as realtask\ntriseal credential list").await;
        assert!(succeeded, "{told}");
        let blocks = blocks("stolen-certificate.md");
        let shut = blocks.iter().find(|block| block.contains(way)).unwrap();
        let (succeeded, told) = day.run_block(shut).await;
        assert!(succeeded && !told.contains("STILL PERMITTED"), "{told}");
        let proof = blocks.iter().find(|block| block.contains("as \"$NAME\"")).unwrap();
        let (succeeded, told) = day.run_block(proof).await;
        assert!(succeeded && told.contains(wanted), "{told}");
    }
}

#[tokio::test]
async fn breach_by_a_caller() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.run("breach-by-a-caller.md").await;
    assert_eq!(day.state_of_credential().await, "needs_reauth");
    assert_eq!(day.state_of_customer().await, "active");
}

#[tokio::test]
async fn a_customer_leaves_and_comes_back() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    day.run("customer-leaves.md").await;
    assert_eq!(day.state_of_customer().await, "pending_destruction");
    day.run("customer-destroyed.md").await;
    assert_eq!(day.state_of_customer().await, "active");
}

/// With a second version for an hour, and the first one retired.
fn rotated_and_retired(document: KeyDocument) -> KeyDocument {
    let (now, key) = (jiff::Timestamp::now(), Zeroizing::new([2; 32]));
    let then = now.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap();
    let promoted = document.with_added(key, then).unwrap().into_document().with_promoted(then).unwrap().into_document();
    promoted.with_retired(1, Duration::ZERO, now).unwrap().into_document()
}

#[tokio::test]
async fn restore_a_table() {
    let site = Site::embedded();
    let mut day = Day::new(&site).await;
    // What was under way at the moment to which the tables are restored.
    let mut keys = KeyServiceClient::new(day.channel("security"));
    let job = keys.start_reencryption(v1::StartReencryptionRequest::default()).await.unwrap();
    let job = job.into_inner().job.unwrap().job_id;
    day.stop().await;
    // Since that moment both factors were rotated, and their first versions retired.
    let Site::Embedded(data) = &site else { unreachable!() };
    let environment = data.path().join("data/environment.json");
    let codebase = PathBuf::from(day.below("codebase-keys.json"));
    for (form, path) in [(Form::Environment, &environment), (Form::Codebase, &codebase)] {
        write_key_file(path, &rotated_and_retired(parse(form, &fs::read_to_string(path).unwrap())), form);
    }
    day.start(&[("TRISEAL__STORE__RESTORED", "true")]).await;
    let reading = decrypt(CUSTOMER, CREDENTIAL, v1::View::Access);
    let refused = CredentialServiceClient::new(day.channel(PRODUCT)).decrypt_credential(reading).await.unwrap_err();
    assert_eq!(reason(&refused), "KEY_VERSION_RETIRED");
    day.stop().await;
    day.run("restore-a-table.md").await;
    day.nothing_is_under_the_old_version_of(&["environment"]).await;
    let codebase = parse(Form::Codebase, &fs::read_to_string(codebase).unwrap());
    assert_eq!((codebase.primary, codebase.keys[0].state), (2, KeyState::Enabled));
    let listed = day.json(&["reencrypt", "list"]).await;
    assert!(listed.iter().any(|one| one["job_id"] == job && one["state"] == "cancelled"), "{listed:?}");
    let refreshed = fs::read_to_string(day.below("refreshed.txt")).unwrap();
    assert_eq!(refreshed.trim(), format!("{CUSTOMER}/{CREDENTIAL}"));
    assert_eq!(day.state_of_credential().await, "needs_reauth");
}
