//! The heads of audit streams in DynamoDB, and their MACs by KMS.

use std::path::{Path, PathBuf};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::types::{KeySpec, KeyUsageType};
use tempfile::TempDir;

use super::{Replica, until};
use crate::support::proxy::Fault;
use crate::support::run;
use crate::support::site::Aws;

const KEY: &str = "TRISEAL__AUDIT__KMS_MAC_KEY";

/// A key for MACs, and a place for a log.
struct Signed {
    site: Aws,
    key: String,
    folder: TempDir,
}

impl Signed {
    async fn new() -> Self {
        let site = Aws::new().await;
        let key = mac_key(&site).await;
        Self { site, key, folder: tempfile::tempdir().unwrap() }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    async fn start(&self) -> Replica {
        let log = self.log();
        let log = log.to_str().unwrap();
        let settings = [("TRISEAL__AUDIT__SINK", "file"), ("TRISEAL__AUDIT__FILE", log), (KEY, &self.key)];
        Replica::start(&self.site, &settings).await
    }

    /// Exit code and output of `triseal audit verify`, with this key.
    async fn verify(&self, key: &str) -> (i32, String) {
        let checkpoints = format!("dynamodb:{}", self.site.tables.operations);
        let log = self.log();
        let arguments = ["audit", "verify", "--checkpoints", &checkpoints, "--mac-key", key, log.to_str().unwrap()];
        let output = run(self.site.triseal(&arguments)).await;
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), said)
    }
}

pub(super) async fn mac_key(site: &Aws) -> String {
    let made = site.kms.create_key().key_usage(KeyUsageType::GenerateVerifyMac).key_spec(KeySpec::Hmac256);
    made.send().await.unwrap().key_metadata.unwrap().arn.unwrap()
}

fn entries(log: &Path) -> usize {
    std::fs::read_to_string(log).unwrap().lines().count()
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn heads_in_the_table_carry_macs_that_the_key_proves() {
    let signed = Signed::new().await;
    let replica = signed.start().await;
    replica.create("acme").await;
    replica.seal("acme", "one").await.unwrap();
    replica.open("acme").await.unwrap();
    assert!(replica.kms.take_calls().contains(&"GenerateMac".to_owned()), "the first head has a MAC");
    assert!(replica.service.terminate().await.success());
    let (code, said) = signed.verify(&signed.key).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("1 stream in 1 file: nothing was found") && !said.contains("MAC"), "{said}");

    // Exported heads keep their MACs.
    let table = format!("dynamodb:{}", signed.site.tables.operations);
    let exported = run(signed.site.triseal(&["audit", "checkpoints", &table])).await;
    let lines = String::from_utf8(exported.stdout).unwrap();
    assert!(exported.status.success() && lines.lines().count() == 1 && lines.contains("\"mac\":\""), "{lines}");

    // Another key proves nothing.
    let (code, said) = signed.verify(&mac_key(&signed.site).await).await;
    assert!(code == 3 && said.contains("the head's MAC is wrong"), "{said}");
}

/// Whoever can write the table and the log, but has no right to the key, can't hide an end that was cut off.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_head_that_somebody_else_made_is_found() {
    let signed = Signed::new().await;
    let replica = signed.start().await;
    replica.create("acme").await;
    replica.seal("acme", "one").await.unwrap();
    assert!(replica.service.terminate().await.success());
    let operations = &signed.site.tables.operations;
    let dynamodb = &signed.site.dynamodb;
    let kind = AttributeValue::S("audit-stream".into());
    let heads = dynamodb.query().table_name(operations).key_condition_expression("kind = :kind");
    let heads = heads.expression_attribute_values(":kind", kind).send().await.unwrap().items.unwrap();
    let [head] = heads.as_slice() else { panic!("{} heads", heads.len()) };

    let mut forged = head.clone();
    let mut row = head["row"].as_b().unwrap().clone().into_inner();
    // The MAC stands last; its last octet is part of it.
    *row.last_mut().unwrap() ^= 1;
    forged.insert("row".into(), AttributeValue::B(Blob::new(row)));
    dynamodb.put_item().table_name(operations).set_item(Some(forged)).send().await.unwrap();
    let (code, said) = signed.verify(&signed.key).await;
    assert!(code == 3 && said.contains("the head's MAC is wrong"), "{said}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn without_the_key_calls_go_on_and_heads_follow_when_it_is_back() {
    let signed = Signed::new().await;
    let replica = signed.start().await;
    replica.create("acme").await;
    replica.seal("acme", "one").await.unwrap();
    let away = Fault::Answers(400, "AccessDeniedException");
    replica.kms.set(away);
    for number in 0..5 {
        replica.seal("acme", &format!("secret {number}")).await.unwrap();
        replica.open("acme").await.unwrap();
    }
    // A head is due after ten seconds.
    until(&true, async || replica.service.stderr().contains("head of the audit")).await;
    let before = entries(&signed.log());
    replica.open("acme").await.unwrap();
    assert_eq!(entries(&signed.log()), before + 1, "calls are audited meanwhile");
    replica.kms.set(Fault::None);
    assert!(replica.service.terminate().await.success());
    let (code, said) = signed.verify(&signed.key).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("closed"), "{said}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn what_can_not_be_asked_is_told_with_what_to_do() {
    let signed = Signed::new().await;
    let replica = signed.start().await;
    assert!(replica.service.terminate().await.success());
    let missing = format!("{}/missing", signed.key.rsplit_once('/').unwrap().0);
    let (code, said) = signed.verify(&missing).await;
    assert!(code == 1 && said.contains("NotFoundException") && said.contains("kms:VerifyMac"), "{said}");
    let output = run(signed.site.triseal(&["audit", "checkpoints", "dynamodb:no-such-table"])).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("the table no-such-table is missing"), "{said}");
}
