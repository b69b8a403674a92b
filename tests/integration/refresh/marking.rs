//! `triseal credential mark-needs-reauth`, from a list, from a report, and by the time of the last refresh.

use std::fs;
use std::process::Output;

use tempfile::TempDir;
use triseal::grpc::v1;

use crate::support::{Service, data, decrypt, dev, encrypt, oauth, opaque, reason};

const REASON: &str = "leak of 2026-11-24";

/// A service that does not permit to mark `locked`, with the credentials `a`, `b`, `c`, `locked` and the opaque `d`.
async fn started() -> (Service, TempDir) {
    let (folder, data) = data();
    let policy = folder.path().join("policy");
    fs::create_dir(&policy).unwrap();
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policy/triseal.cedarschema");
    fs::copy(schema, policy.join("triseal.cedarschema")).unwrap();
    let entities = r#"[{"uid": {"type": "Caller", "id": "insecure:plaintext"}, "attrs": {}, "parents": []}]"#;
    fs::write(policy.join("entities.json"), entities).unwrap();
    let rules = r#"
        @id("all") permit (principal, action, resource);
        @id("locked") forbid (principal, action == Action::"MarkNeedsReauth", resource)
        when { context.credential_id == "locked" };
    "#;
    fs::write(policy.join("test.cedar"), rules).unwrap();
    let mut command = dev(&data);
    command.env("TRISEAL__POLICY__DIRECTORY", policy);
    let service = Service::start(command).await;
    for id in ["a", "b", "c", "locked"] {
        // oauth() is issued at 2025-11-24T16:00:00.123Z.
        service.credentials().encrypt_credential(encrypt("demo", id, oauth("access", "refresh"))).await.unwrap();
    }
    service.credentials().encrypt_credential(encrypt("demo", "d", opaque("x"))).await.unwrap();
    (service, folder)
}

async fn mark(service: &Service, arguments: &[&str], input: &str) -> Output {
    let fixed = ["credential", "mark-needs-reauth", "--reason", REASON];
    service.triseal(&[&fixed, arguments].concat(), input.as_bytes()).await
}

/// Which of the credentials are marked.
async fn marked(service: &Service) -> Vec<String> {
    let request = v1::ListCredentialsRequest {
        state: v1::CredentialState::NeedsReauth.into(),
        ..v1::ListCredentialsRequest::default()
    };
    let listed = service.credentials().list_credentials(request).await.unwrap().into_inner().credentials;
    assert!(listed.iter().all(|credential| credential.state_reason == REASON));
    let mut ids: Vec<_> = listed.into_iter().map(|credential| credential.credential_id).collect();
    ids.sort();
    ids
}

fn text(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[tokio::test]
async fn a_list_is_marked_and_what_can_not_be_is_told_and_counted() {
    let (service, _folder) = started().await;
    let list = "demo/a\ndemo/locked\ndemo/missing\nnobody/crm\n\ndemo/d\n";
    let asked = mark(&service, &["-"], list).await;
    assert_eq!(asked.status.code(), Some(2), "without a terminal there is nobody to ask");
    assert!(text(&asked.stderr).contains("has the customers of 5 credentials consent again"), "{asked:?}");
    assert!(marked(&service).await.is_empty());

    for _ in 0..2 {
        let done = mark(&service, &["-", "--yes"], list).await;
        assert_eq!(done.status.code(), Some(3));
        let told = text(&done.stdout);
        assert!(told.contains("failed: demo/locked: policy does not permit this\n"), "{told}");
        for line in ["marked:              2", "gone:                2", "failed:              1"] {
            assert!(told.contains(line), "{told}");
        }
        assert!(text(&done.stderr).contains("marking twice changes nothing"));
        assert_eq!(marked(&service).await, ["a", "d"]);
    }
    let refused = service.credentials().decrypt_credential(decrypt("demo", "a", v1::View::Access)).await.unwrap_err();
    assert_eq!(reason(&refused), "NEEDS_REAUTH");
    let bad = mark(&service, &["-", "--yes"], "demo/b\nnonsense\n").await;
    assert_eq!((bad.status.code(), marked(&service).await), (Some(2), vec!["a".to_owned(), "d".to_owned()]));
    assert!(text(&bad.stderr).contains("line 2 names no credential"));
}

#[tokio::test]
async fn what_a_report_says_was_seen_and_is_still_stored_is_marked() {
    for format in [&["--csv"][..], &["--output", "json"]] {
        let (service, folder) = started().await;
        let mut credentials = service.credentials();
        // Seen by reading and by a lease; `c` is replaced since, and `d` was refused.
        credentials.decrypt_credential(decrypt("demo", "a", v1::View::Full)).await.unwrap();
        let lease = v1::AcquireRefreshRequest {
            customer_id: "demo".to_owned(),
            credential_id: "b".to_owned(),
            rejected_revision: Some(1),
            ..v1::AcquireRefreshRequest::default()
        };
        credentials.acquire_refresh(lease).await.unwrap();
        credentials.decrypt_credential(decrypt("demo", "c", v1::View::Full)).await.unwrap();
        credentials.encrypt_credential(encrypt("demo", "c", oauth("new", "new"))).await.unwrap();
        credentials.decrypt_credential(decrypt("demo", "d", v1::View::Access)).await.unwrap_err();

        let log = folder.path().join("data/audit.jsonl");
        // The first entries are those of storing, which hand a secret in: not what is asked for here.
        let report = ["audit", "report", "--customer", "demo", log.to_str().unwrap()];
        let report = service.triseal(&[&report, format].concat(), b"").await;
        assert!(report.status.success(), "{}", text(&report.stderr));
        let read: String = text(&report.stdout)
            .lines()
            .filter(|line| !line.contains("encrypt_credential"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(read.contains("acquire_refresh"), "{read}");
        let done = mark(&service, &["-", "--yes", "--output", "json"], &read).await;
        assert!(done.status.success(), "{done:?}");
        let summary: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(summary, serde_json::json!({ "marked": 2, "changed_since": 1, "gone": 0, "failed": 0 }));
        assert_eq!(marked(&service).await, ["a", "b"]);
    }
}

#[tokio::test]
async fn what_was_refreshed_since_a_time_is_listed_and_marked() {
    let (service, _folder) = started().await;
    let since = async |time: &str| mark(&service, &["--refreshed-since", time, "--yes"], "").await;
    let none = since("2025-11-24T16:00:01Z").await;
    assert!(none.status.success() && marked(&service).await.is_empty(), "{none:?}");
    let done = since("2025-11-24T16:00:00.123Z").await;
    assert_eq!(done.status.code(), Some(3), "locked is");
    assert_eq!(marked(&service).await, ["a", "b", "c"]);
    let again = since("2025-11-24T16:00:00Z").await;
    assert_eq!(again.status.code(), Some(3));
    assert!(text(&again.stdout).contains("\nmarked:              0  "), "nothing is left to do: {again:?}");
    let usage = mark(&service, &["-", "--refreshed-since", "2025-11-24T16:00:00Z"], "").await;
    assert_eq!(usage.status.code(), Some(2));
    assert_eq!(mark(&service, &[], "").await.status.code(), Some(2));
}
