//! `triseald check` and `triseal tables create`, with one part after another taken away or broken.

use std::process::Output;

use super::{proxies, through};
use crate::support::policy::everything_permitted;
use crate::support::proxy::{Fault, Proxy};
use crate::support::site::{Aws, environment_of};
use crate::support::{Service, run};

const DENIED: Fault = Fault::Answers(400, "AccessDeniedException");

async fn check(site: &Aws, variables: &[(&str, &str)], proxies: Option<&[Proxy; 3]>) -> (bool, String) {
    let mut command = site.triseald(&["check", "--config", site.settings().to_str().unwrap()]);
    if let Some(proxies) = proxies {
        through(&mut command, proxies.each_ref());
    }
    command.envs(variables.iter().copied());
    let Output { status, stdout, stderr } = run(command).await;
    let said = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(matches!(status.code(), Some(0 | 1)), "{said}");
    (status.success(), said)
}

/// The lines that say what failed.
fn failed(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("FAILED   ")).collect()
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn where_all_is_there_each_permission_has_a_line() {
    let site = Aws::new().await;
    let (fine, said) = check(&site, &[], None).await;
    assert!(fine && failed(&said).is_empty(), "{said}");
    for wanted in ["secretsmanager:GetSecretValue", "kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt"] {
        assert!(said.lines().any(|line| line.starts_with("ok ") && line.contains(wanted)), "{said}");
    }
    for table in [&site.tables.credentials, &site.tables.customers, &site.tables.operations] {
        for action in ["GetItem", "PutItem", "Query", "Scan", "DeleteItem"] {
            let wanted = format!("{table}: dynamodb:{action}");
            assert!(said.lines().any(|line| line.starts_with("ok ") && line.contains(&wanted)), "{said}");
        }
        let left = site.dynamodb.scan().table_name(table).send().await.unwrap();
        assert_eq!(left.count, 0, "a probe was left in {table}");
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn each_part_that_is_denied_or_away_is_named_and_the_others_are_tried() {
    let site = Aws::new().await;
    let proxies = proxies(&site).await;
    for (part, action, lines) in [
        (0, "kms:GenerateDataKeyWithoutPlaintext", 1),
        (1, "secretsmanager:GetSecretValue", 1),
        (2, "dynamodb:PutItem", 15),
    ] {
        for (fault, why) in [(DENIED, "AccessDeniedException"), (Fault::Refused, "the connection failed")] {
            proxies[part].set(fault);
            let (fine, said) = check(&site, &[], Some(&proxies)).await;
            let failed = failed(&said);
            assert!(!fine && failed.len() == lines, "{said}");
            assert!(failed.iter().any(|line| line.contains(action) && line.contains(why)), "{said}");
            let counted = if lines == 1 { "1 check failed".to_owned() } else { format!("{lines} checks failed") };
            assert!(said.contains(&format!("triseald: {counted}, named above")), "{said}");
            proxies[part].set(Fault::None);
        }
    }
    let (fine, said) = check(&site, &[], Some(&proxies)).await;
    assert!(fine, "{said}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn the_audit_log_and_the_policy_have_lines() {
    let site = Aws::new().await;
    let (key, folder) = (super::audit::mac_key(&site).await, tempfile::tempdir().unwrap());
    let policy = everything_permitted(folder.path());
    let log = folder.path().join("audit.jsonl");
    let named = [
        ("TRISEAL__AUDIT__KMS_MAC_KEY", key.as_str()),
        ("TRISEAL__POLICY__DIRECTORY", policy.to_str().unwrap()),
        ("TRISEAL__AUDIT__SINK", "file"),
        ("TRISEAL__AUDIT__FILE", log.to_str().unwrap()),
        ("TRISEAL__FACTORS__KMS__UNWRAP_WITH", site.key.as_str()),
    ];
    let (fine, said) = check(&site, &named, None).await;
    assert!(fine && said.contains("ok       audit: kms:GenerateMac\n") && said.contains("ok       policy: "), "{said}");
    assert!(said.contains(&format!("ok       audit: {}\n", log.display())) && !log.exists(), "{said}");
    assert!(said.contains(&format!("untried  customer keys: kms:Decrypt with {}", site.key)), "{said}");

    std::fs::write(policy.join("all.cedar"), "permit (principal, action, resource) when { MARKED };").unwrap();
    let nowhere = folder.path().join("missing/audit.jsonl");
    let wrong = [
        ("TRISEAL__AUDIT__KMS_MAC_KEY", site.key.as_str()),
        named[1],
        named[2],
        ("TRISEAL__AUDIT__FILE", nowhere.to_str().unwrap()),
    ];
    let (fine, said) = check(&site, &wrong, None).await;
    let failed = failed(&said);
    assert!(!fine && failed.len() == 3, "{said}");
    assert!(failed.iter().any(|line| line.contains("missing/audit.jsonl: No such file")), "{said}");
    assert!(failed.iter().any(|line| line.contains("audit: kms:GenerateMac: InvalidKeyUsageException")), "{said}");
    assert!(failed.iter().any(|line| line.contains("policy: ")), "{said}");
}

/// One that is broken hides none of the others.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn a_wrapping_key_that_is_missing_hides_nothing() {
    let site = Aws::new().await;
    let local = [
        ("TRISEAL__FACTORS__CUSTOMER", "local"),
        ("TRISEAL__INSECURE__LOCAL_KMS", "true"),
        ("TRISEAL__FACTORS__LOCAL__MASTER_KEY", "/nowhere/local.key"),
    ];
    let (fine, said) = check(&site, &local, None).await;
    let failed = failed(&said);
    assert!(!fine && failed.len() == 1 && failed[0].contains("/nowhere/local.key"), "{said}");
    assert!(said.contains("ok       environment keys: secretsmanager:GetSecretValue\n"), "{said}");
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn what_is_broken_is_named() {
    let site = Aws::new().await;
    site.kms.disable_key().key_id(&site.key).send().await.unwrap();
    let (fine, said) = check(&site, &[], None).await;
    assert!(!fine && failed(&said)[0].contains("DisabledException"), "{said}");
    site.kms.enable_key().key_id(&site.key).send().await.unwrap();

    site.put_secret("MARKED").await;
    let (fine, said) = check(&site, &[], None).await;
    assert!(!fine && failed(&said)[0].contains("the secret's value: document: is not JSON"), "{said}");
    assert!(!said.contains("MARKED"));

    site.dynamodb.delete_table().table_name(&site.tables.customers).send().await.unwrap();
    let (fine, said) = check(&site, &[], None).await;
    assert!(!fine && failed(&said)[1].contains(&format!("the table {} is missing", site.tables.customers)), "{said}");

    let (fine, said) = check(&site, &[("AWS_REGION", "")], None).await;
    assert!(!fine && said.contains("AWS_REGION"), "{said}");
    let (fine, said) = check(&site, &[("TRISEAL__FACTORS__KMS__WRAP_WITH", "alias/key")], None).await;
    assert!(!fine && said.contains("factors.kms.wrap_with"), "{said}");
}

/// What would end the service's start.
#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn keys_that_are_not_those_of_the_stores_records_are_named() {
    let site = Aws::new().await;
    let keys = "codebase and environment keys: those of the store's records";
    let kept = async || site.dynamodb.scan().table_name(&site.tables.operations).send().await.unwrap().count;
    let (fine, said) = check(&site, &[], None).await;
    assert!(fine && said.contains(&format!("ok       {keys}\n")), "{said}");
    assert_eq!(kept().await, 0, "nothing is remembered of a trial");
    assert!(Service::start(site.command()).await.terminate().await.success());
    let (fine, said) = check(&site, &[], None).await;
    assert!(fine, "{said}");
    for (value, wanted) in [
        (environment_of([(1, 9)], 1), "the environment key of version 1 is not the one"),
        (environment_of([(2, 102)], 2), "version 1 of the environment key is gone"),
    ] {
        site.put_secret(&value).await;
        let before = kept().await;
        let (fine, said) = check(&site, &[], None).await;
        assert!(!fine && failed(&said).len() == 1, "{said}");
        assert!(failed(&said)[0].starts_with(&format!("FAILED   {keys}: {wanted}")), "{said}");
        assert_eq!(kept().await, before);
    }
}

#[tokio::test]
#[ignore = "needs tests/aws/up"]
async fn tables_are_created_where_they_are_missing_and_left_where_they_are() {
    let site = Aws::without_tables().await;
    let create = async || {
        let create = site.triseal(&["tables", "create", "--config", site.settings().to_str().unwrap()]);
        let Output { status, stdout, stderr } = run(create).await;
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    };
    let all = [&site.tables.credentials, &site.tables.customers, &site.tables.operations];
    let lines = |word: &str| all.map(|table| format!("{word:<8}{table}\n")).concat();
    assert_eq!(create().await, lines("created"));
    assert_eq!(create().await, lines("there"));
    let (fine, said) = check(&site, &[], None).await;
    assert!(fine, "{said}");
}
