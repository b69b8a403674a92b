//! What the service writes to standard error: JSON, each line of a call with its request id, nothing about success, and never a secret.

use std::path::Path;

use redb::ReadableTable;
use serde_json::Value;
use tonic::Code;
use tonic::transport::Channel;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;

use crate::encodings::Searched;
use crate::support::{Service, data, decrypt, dev, encrypt, opaque};

const ACCESS: &str = "00D!planted-access-token";
const REFRESH: &str = "5Aep.planted-refresh-token";
const NEW: &str = "00D!planted-access-token-of-a-refresh";
const PASSWORD: &str = "planted horse battery staple";
const SECURITY: &str = "planted-security-token";
const DATA: &[u8] = b"planted \x00\xff\xfe binary data";

/// All that is there for refreshing, where it is a Salesforce credential: the tokens of the leases.
async fn refreshed(credentials: &mut CredentialServiceClient<Channel>) -> Vec<String> {
    let (customer_id, credential_id) = ("acme".to_owned(), "main".to_owned());
    let mut tokens = Vec::new();
    for cause in [None, Some(v1::AbandonCause::InvalidGrant)] {
        let get = v1::GetCredentialRequest { customer_id: customer_id.clone(), credential_id: credential_id.clone() };
        let present = credentials.get_credential(get).await.unwrap().into_inner().credential.unwrap();
        let acquire = v1::AcquireRefreshRequest {
            customer_id: customer_id.clone(),
            credential_id: credential_id.clone(),
            rejected_revision: Some(present.revision),
            ..v1::AcquireRefreshRequest::default()
        };
        let Ok(answer) = credentials.acquire_refresh(acquire.clone()).await else { return tokens };
        let Some(v1::acquire_refresh_response::Outcome::Lease(lease)) = answer.into_inner().outcome else {
            panic!("fresh")
        };
        credentials.acquire_refresh(acquire).await.unwrap_err();
        let lease_token = lease.lease_token.clone();
        tokens.push(lease_token.clone());
        if let Some(cause) = cause {
            let request = v1::AbandonRefreshRequest {
                customer_id: customer_id.clone(),
                credential_id: credential_id.clone(),
                lease_token,
                cause: cause.into(),
                detail: "token reused".to_owned(),
            };
            credentials.abandon_refresh(request.clone()).await.unwrap();
        } else {
            let mut oauth = v1::SalesforceOAuth::default();
            NEW.clone_into(&mut oauth.access_token);
            let request = v1::CompleteRefreshRequest {
                customer_id: customer_id.clone(),
                credential_id: credential_id.clone(),
                lease_token,
                salesforce_oauth: Some(oauth),
            };
            credentials.complete_refresh(request.clone()).await.unwrap();
            let bad = v1::CompleteRefreshRequest { salesforce_oauth: None, ..request };
            credentials.complete_refresh(bad).await.unwrap_err();
        }
    }
    let mark = v1::MarkNeedsReauthRequest { customer_id, credential_id, reason: "leak".to_owned(), if_revision: None };
    credentials.mark_needs_reauth(mark).await.unwrap();
    tokens
}

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

/// However often something was quoted within something quoted, there is one backslash.
fn flat(text: &str) -> String {
    let mut flat = text.to_owned();
    while flat.contains(r"\\") {
        flat = flat.replace(r"\\", r"\");
    }
    flat
}

/// The keys that the service of this directory was given.
fn keys(data: &Path) -> Vec<String> {
    let environment: Value =
        serde_json::from_str(&std::fs::read_to_string(data.join("environment.json")).unwrap()).unwrap();
    let local = std::fs::read_to_string(data.join("insecure-local-kms.key")).unwrap();
    let key = |entry: &Value| entry["key"].as_str().unwrap().to_owned();
    let mut keys: Vec<_> = environment["keys"].as_array().unwrap().iter().map(key).collect();
    keys.push(local.trim().to_owned());
    keys
}

#[tokio::test]
async fn no_secret_and_no_key_is_logged_even_at_trace() {
    let (_folder, data) = data();
    let mut command = dev(&data);
    command.env("TRISEAL__TELEMETRY__LOG", "trace");
    let service = Service::start(command).await;
    let (mut credentials, mut customers) = (service.credentials(), service.customers());
    customers.create_customer(v1::CreateCustomerRequest { customer_id: "acme".into() }).await.unwrap();
    customers.get_customer(v1::GetCustomerRequest { customer_id: "acme".into() }).await.unwrap();
    customers.list_customers(v1::ListCustomersRequest::default()).await.unwrap();
    let mut tokens = Vec::new();
    for (number, secret) in secrets().into_iter().enumerate() {
        let key = format!("sign-up-{number}");
        let keyed =
            |secret| v1::EncryptCredentialRequest { idempotency_key: key.clone(), ..encrypt("acme", "main", secret) };
        credentials.encrypt_credential(keyed(secret.clone())).await.unwrap();
        credentials.encrypt_credential(keyed(secret.clone())).await.unwrap();
        credentials.encrypt_credential(keyed(opaque(DATA.repeat(2)))).await.unwrap_err();
        let conditional =
            v1::EncryptCredentialRequest { if_revision: Some(0), ..encrypt("acme", "main", secret.clone()) };
        credentials.encrypt_credential(conditional).await.unwrap_err();
        credentials.encrypt_credential(encrypt("nobody", "main", secret.clone())).await.unwrap_err();
        credentials.encrypt_credential(encrypt("not an id", "main", secret)).await.unwrap_err();
        for view in [v1::View::Access, v1::View::Full] {
            let _ = credentials.decrypt_credential(decrypt("acme", "main", view)).await;
        }
        let get = v1::GetCredentialRequest { customer_id: "acme".into(), credential_id: "main".into() };
        credentials.get_credential(get).await.unwrap();
        credentials.list_credentials(v1::ListCredentialsRequest::default()).await.unwrap();
        tokens.extend(refreshed(&mut credentials).await);
        let delete =
            v1::DeleteCredentialRequest { customer_id: "acme".into(), credential_id: "main".into(), if_revision: None };
        credentials.delete_credential(delete).await.unwrap();
    }
    let said = service.stderr();
    assert!(said.lines().filter(|line| line.contains("\"TRACE\"")).count() > 100, "it was not at TRACE:\n{said}");
    let keys = keys(&data);
    let mut planted: Vec<&[u8]> =
        vec![ACCESS.as_bytes(), REFRESH.as_bytes(), PASSWORD.as_bytes(), SECURITY.as_bytes(), DATA];
    let decoded: Vec<_> =
        keys.iter().map(|key| <base64ct::Base64 as base64ct::Encoding>::decode_vec(key).unwrap()).collect();
    planted.extend(decoded.iter().map(Vec::as_slice));
    planted.push(NEW.as_bytes());
    planted.extend(tokens.iter().map(String::as_bytes));
    assert_eq!(planted.len(), 10);
    let (_, numbers) = service.ops("/metrics").await;
    for text in [flat(&said), numbers] {
        for secret in &planted {
            let found = Searched::new(secret).found_in(text.as_bytes()).next();
            assert_eq!(found, None, "{:?}", String::from_utf8_lossy(secret));
        }
    }
    lines(&service);
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
        assert!(given.is_none_or(|given| given == told) && (given.is_some() || told.len() == 32), "{told}");
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
