mod answers;
mod batch;
mod jobs;
mod limits;
mod refresh;

use tonic::Code;
use tonic_types::StatusExt;

use super::*;

/// The fields that a request was refused for.
fn wrong<T>(outcome: Result<T, Status>) -> Vec<String> {
    let status = outcome.err().expect("the request is wrong");
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "BAD_FIELD");
    let told = format!("{status:?}{details:?}");
    assert!(!told.contains(PLANTED), "{told}");
    details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
}

/// Stands in every wrong value, and in no answer.
const PLANTED: &str = "planted";

fn tokens() -> PageTokens<'static> {
    PageTokens::development("tests")
}

fn time(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

fn secret(value: v1::secret::Value) -> Option<v1::Secret> {
    Some(v1::Secret { value: Some(value) })
}

/// The least that is accepted of each kind.
fn oauth() -> v1::SalesforceOAuth {
    let mut oauth = v1::SalesforceOAuth::default();
    oauth.access_token = "token".to_owned();
    oauth
}

fn password() -> v1::Password {
    let mut password = v1::Password::default();
    password.password = "secret".to_owned();
    password
}

fn opaque() -> v1::Opaque {
    v1::Opaque { data: vec![1], content_type: String::new() }
}

fn encrypt(value: v1::secret::Value) -> v1::EncryptCredentialRequest {
    v1::EncryptCredentialRequest {
        customer_id: "acme".to_owned(),
        credential_id: "crm".to_owned(),
        secret: secret(value),
        ..v1::EncryptCredentialRequest::default()
    }
}

fn encrypt_oauth(edit: impl FnOnce(&mut v1::SalesforceOAuth)) -> Result<EncryptRequest, Status> {
    let mut oauth = oauth();
    edit(&mut oauth);
    encrypt_request(encrypt(v1::secret::Value::SalesforceOauth(oauth)))
}

fn encrypt_password(edit: impl FnOnce(&mut v1::Password)) -> Result<EncryptRequest, Status> {
    let mut password = password();
    edit(&mut password);
    encrypt_request(encrypt(v1::secret::Value::Password(password)))
}

fn encrypt_opaque(edit: impl FnOnce(&mut v1::Opaque)) -> Result<EncryptRequest, Status> {
    let mut opaque = opaque();
    edit(&mut opaque);
    encrypt_request(encrypt(v1::secret::Value::Opaque(opaque)))
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let planted = || PLANTED.to_owned();
    let mut request = encrypt(v1::secret::Value::SalesforceOauth(v1::SalesforceOAuth {
        access_token: String::new(),
        refresh_token: planted().repeat(3_000),
        instance_url: planted(),
        token_url: format!("http://{PLANTED}.example.org"),
        identity_url: format!("ftp://{PLANTED}"),
        scopes: vec![String::new(), "api".to_owned(), planted().repeat(100)],
        issue_time: time(i64::MAX, 0),
        access_token_expire_time: time(0, -1),
    }));
    request.customer_id = format!("{PLANTED}/");
    request.credential_id = String::new();
    request.idempotency_key = format!("{PLANTED} ");
    let oauth = |field: &str| format!("secret.salesforce_oauth.{field}");
    assert_eq!(
        wrong(encrypt_request(request)),
        [
            "customer_id".to_owned(),
            "credential_id".to_owned(),
            oauth("access_token"),
            oauth("refresh_token"),
            oauth("instance_url"),
            oauth("token_url"),
            oauth("identity_url"),
            oauth("scopes[0]"),
            oauth("scopes[2]"),
            oauth("issue_time"),
            oauth("access_token_expire_time"),
            "idempotency_key".to_owned(),
        ]
    );
    assert_eq!(
        wrong(encrypt_request(v1::EncryptCredentialRequest::default())),
        ["customer_id", "credential_id", "secret"]
    );
    let unset = v1::EncryptCredentialRequest {
        secret: Some(v1::Secret { value: None }),
        ..encrypt(v1::secret::Value::Opaque(v1::Opaque::default()))
    };
    assert_eq!(wrong(encrypt_request(unset)), ["secret"]);
}

#[test]
fn a_right_request_becomes_what_it_says() {
    let request = encrypt_oauth(|oauth| {
        *oauth = v1::SalesforceOAuth {
            access_token: "access".to_owned(),
            refresh_token: "refresh".to_owned(),
            instance_url: "https://acme.my.salesforce.com".to_owned(),
            token_url: "https://login.salesforce.com/services/oauth2/token".to_owned(),
            identity_url: "https://login.salesforce.com/id/00D/005".to_owned(),
            scopes: vec!["api".to_owned(), "refresh_token".to_owned()],
            issue_time: time(-2, 500_000_000),
            access_token_expire_time: time(1_764_000_000, 0),
        }
    })
    .unwrap();
    assert_eq!((request.id.customer.as_str(), request.id.credential.as_str()), ("acme", "crm"));
    assert_eq!((request.condition, request.key), (Condition::None, None));
    let Secret::SalesforceOAuth(oauth) = request.secret else { panic!("another kind") };
    assert_eq!((oauth.access_token.expose_secret(), oauth.refresh_token.expose_secret()), ("access", "refresh"));
    assert_eq!(oauth.instance_url, "https://acme.my.salesforce.com");
    assert_eq!(oauth.token_url, "https://login.salesforce.com/services/oauth2/token");
    assert_eq!(oauth.identity_url, "https://login.salesforce.com/id/00D/005");
    assert_eq!(oauth.scopes, ["api", "refresh_token"]);
    assert_eq!(oauth.issue_time.unwrap().to_string(), "1969-12-31T23:59:58.5Z");
    assert_eq!(oauth.access_token_expire_time.unwrap().as_second(), 1_764_000_000);
}

#[test]
fn if_revision_and_the_key_are_what_the_caller_gave() {
    for (number, wanted) in [
        (None, Condition::None),
        (Some(0), Condition::Absent),
        (Some(1), Condition::At(Revision::FIRST)),
        (Some(u64::MAX), Condition::At(Revision::new(u64::MAX).unwrap())),
    ] {
        let request = v1::EncryptCredentialRequest {
            if_revision: number,
            idempotency_key: "key".to_owned(),
            ..encrypt(v1::secret::Value::Opaque(opaque()))
        };
        let request = encrypt_request(request).unwrap();
        assert_eq!((request.condition, request.key), (wanted, Some(IdempotencyKey::given("key"))));
    }
}

#[test]
fn decrypt_and_delete_name_a_credential_a_view_and_a_revision() {
    let request = |view: i32, if_revision| v1::DecryptCredentialRequest {
        customer_id: "acme".to_owned(),
        credential_id: "crm".to_owned(),
        view,
        if_revision,
    };
    for (view, wanted) in [(0, View::Access), (1, View::Access), (2, View::Full)] {
        let (DecryptCredential { id, view }, revision) = decrypt_request(&request(view, None)).unwrap();
        assert_eq!((id.customer.as_str(), id.credential.as_str(), view, revision), ("acme", "crm", wanted, None));
    }
    assert_eq!(decrypt_request(&request(0, Some(7))).unwrap().1, Revision::new(7));
    assert_eq!(wrong(decrypt_request(&request(3, Some(0)))), ["if_revision", "view"]);
    assert_eq!(wrong(decrypt_request(&request(-1, None))), ["view"]);

    let request = |if_revision| v1::DeleteCredentialRequest {
        customer_id: "acme".to_owned(),
        credential_id: "crm".to_owned(),
        if_revision,
    };
    assert_eq!(delete_request(&request(Some(7))).unwrap().1, Revision::new(7));
    assert_eq!(delete_request(&request(None)).unwrap().1, None);
    assert_eq!(wrong(delete_request(&request(Some(0)))), ["if_revision"]);
    assert_eq!(wrong(credential_ref(PLANTED, "/planted")), ["credential_id"]);
    assert_eq!(wrong(customer_id("/planted")), ["customer_id"]);
    assert_eq!(customer_id("acme").unwrap().as_str(), "acme");
}

#[test]
fn lists_are_asked_for_by_every_filter() {
    let request = v1::ListCredentialsRequest::default();
    let (customer, filter, after, limit) = list_request(&request, &tokens()).unwrap();
    assert!(customer.is_none() && filter.kind.is_none() && filter.needs_reauth.is_none());
    assert!(filter.refreshed_before.is_none() && after.is_none());
    assert_eq!(limit, 100);

    let request = v1::ListCredentialsRequest {
        customer_id: "acme".to_owned(),
        page_size: 1_000,
        kind: v1::CredentialKind::Password.into(),
        state: v1::CredentialState::NeedsReauth.into(),
        refreshed_before: time(7, 0),
        ..v1::ListCredentialsRequest::default()
    };
    let (customer, filter, _, limit) = list_request(&request, &tokens()).unwrap();
    assert_eq!((customer.unwrap().as_str(), filter.kind, limit), ("acme", Some(Kind::Password), 1_000));
    assert_eq!((filter.needs_reauth, filter.refreshed_before.unwrap().as_second()), (Some(true), 7));

    let request = v1::ListCredentialsRequest {
        customer_id: "/planted".to_owned(),
        page_size: 1_001,
        page_token: PLANTED.to_owned(),
        kind: 4,
        state: 3,
        refreshed_before: time(0, 1_000_000_000),
    };
    let fields = ["customer_id", "page_size", "kind", "state", "refreshed_before", "page_token"];
    assert_eq!(wrong(list_request(&request, &tokens())), fields);

    let request = |state| v1::ListCustomersRequest { state, ..v1::ListCustomersRequest::default() };
    for (state, wanted) in [
        (0, None),
        (1, Some(StateFilter::Active)),
        (2, Some(StateFilter::Disabled)),
        (3, Some(StateFilter::PendingDestruction)),
        (4, Some(StateFilter::Destroyed)),
    ] {
        let (filter, after, limit) = list_customers_request(&request(state), &tokens()).unwrap();
        assert_eq!((filter, after, limit), (wanted, None, 100));
    }
    let all_wrong = v1::ListCustomersRequest { page_size: -1, page_token: "!planted".to_owned(), ..request(5) };
    assert_eq!(wrong(list_customers_request(&all_wrong, &tokens())), ["page_size", "state", "page_token"]);
}

#[test]
fn the_longest_message_of_each_method_has_room() {
    use prost::Message;

    use crate::grpc::limits::{self, MAX_BATCH_REQUEST_OCTETS, MAX_SECRET_REQUEST_OCTETS};
    let long = |octets: usize| "x".repeat(octets);
    let last = Some(prost_types::Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
    let mut oauth = v1::SalesforceOAuth::default();
    (oauth.access_token, oauth.refresh_token) = (long(MAX_TOKEN), long(MAX_TOKEN));
    (oauth.instance_url, oauth.token_url, oauth.identity_url) = (long(MAX_URL), long(MAX_URL), long(MAX_URL));
    oauth.scopes = vec![long(MAX_SCOPE); MAX_SCOPES];
    (oauth.issue_time, oauth.access_token_expire_time) = (last, last);
    let encrypt = v1::EncryptCredentialRequest {
        customer_id: long(128),
        credential_id: long(128),
        secret: Some(v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(oauth)) }),
        if_revision: Some(u64::MAX),
        idempotency_key: long(MAX_IDEMPOTENCY_KEY),
    };
    let item = v1::DecryptCredentialRequest {
        customer_id: long(128),
        credential_id: long(128),
        view: i32::MIN,
        if_revision: Some(u64::MAX),
    };
    let batch = v1::BatchDecryptCredentialsRequest { requests: vec![item; 100] };
    for (octets, longest) in
        [(encrypt.encoded_len(), MAX_SECRET_REQUEST_OCTETS), (batch.encoded_len(), MAX_BATCH_REQUEST_OCTETS)]
    {
        assert!(octets < longest && octets > longest / 2, "{octets} of {longest}");
    }
    let named = |method: &str| limits::request_octets(&format!("/triseal.v1.CredentialService/{method}"));
    let [encrypt, batch] = ["EncryptCredential", "BatchDecryptCredentials"].map(named);
    assert_eq!((encrypt, batch), (MAX_SECRET_REQUEST_OCTETS, MAX_BATCH_REQUEST_OCTETS));
}
