//! What the service writes to standard error: JSON, each line of a call with its request id, and nothing about success. That it is never a
//! secret, `scenario.rs` shows.

use std::path::Path;

use redb::ReadableTable;
use serde_json::Value;
use tonic::Code;
use triseal::grpc::v1;

use crate::support::{Service, data, decrypt, encrypt, opaque};

const ACCESS: &str = "00D!planted-access-token";
const REFRESH: &str = "5Aep.planted-refresh-token";
const PASSWORD: &str = "planted horse battery staple";
const SECURITY: &str = "planted-security-token";
const DATA: &[u8] = b"planted \x00\xff\xfe binary data";

fn lines(service: &Service) -> Vec<Value> {
    let said = service.stderr();
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

fn secrets() -> [v1::Secret; 3] {
    let mut password = crate::support::password(PASSWORD);
    if let Some(v1::secret::Value::Password(password)) = &mut password.value {
        password.security_token = SECURITY.to_owned();
    }
    [crate::support::oauth(ACCESS, REFRESH), password, opaque(DATA)]
}

#[tokio::test]
async fn success_is_quiet_and_what_goes_wrong_is_logged_under_the_id_that_its_caller_is_told() {
    let (_folder, data) = data();
    let service = Service::dev(&data).await;
    let mut credentials = service.credentials();
    for secret in secrets() {
        credentials.encrypt_credential(encrypt("demo", "main", secret)).await.unwrap();
        credentials.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await.unwrap();
    }
    credentials.decrypt_credential(decrypt("demo", "missing", v1::View::Full)).await.unwrap_err();
    let said = lines(&service);
    assert_eq!(said.iter().map(|line| &line["message"]).collect::<Vec<_>>(), ["serving"], "{said:?}");
    assert!(said[0].get("request_id").is_none());
    assert!(service.terminate().await.success());

    damage(&data.join("store.redb"));
    let service = Service::dev(&data).await;
    let mut credentials = service.credentials();
    let mut request = decrypt("demo", "main", v1::View::Full);
    request.metadata_mut().insert("x-request-id", "sign-up-17".parse().unwrap());
    for (request, given) in [(request, Some("sign-up-17")), (decrypt("demo", "main", v1::View::Full), None)] {
        let status = credentials.decrypt_credential(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss);
        let told = status.metadata().get("x-request-id").unwrap().to_str().unwrap();
        let named = given.is_none_or(|given| told.strip_prefix(given).is_some_and(|made| made.starts_with('~')));
        assert!(named && (given.is_some() || told.len() == 32), "{told}");
        let said = lines(&service);
        let of_the_call: Vec<_> = said.iter().filter(|line| line["request_id"] == told).collect();
        assert!(of_the_call.len() == 1 && of_the_call[0]["level"] == "ERROR", "{said:?}");
    }
}

/// Changes the last octet of every credential's row.
fn damage(store: &Path) {
    const TABLE: redb::TableDefinition<'static, &[u8], &[u8]> = redb::TableDefinition::new("credentials");
    let db = redb::Database::open(store).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut table = txn.open_table(TABLE).unwrap();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        let rows: Vec<_> = rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec())).collect();
        assert!(!rows.is_empty());
        for (key, mut row) in rows {
            *row.last_mut().unwrap() ^= 1;
            table.insert(key.as_slice(), row.as_slice()).unwrap();
        }
    }
    txn.commit().unwrap();
}
