//! Every RPC, as a backend meets it: what goes in comes out, and each refusal has its code and its reason. On embedded parts, and
//! on AWS's.

use tonic::{Code, Request};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;
use triseal::grpc::v1;

use crate::support::site::{Site, on_both_sites};
use crate::support::{Service, decrypt, encrypt, fresh, oauth, opaque, password, reason};

on_both_sites! {
    each_kind_of_secret_comes_out_as_it_went_in,
    the_access_view_has_no_refresh_token_and_is_the_default,
    revisions_are_conditions_on_every_change_and_reading,
    a_retry_under_the_same_key_changes_nothing,
    lists_show_each_credential_once_and_no_deleted_one,
    customers_are_created_once_and_explicitly,
    what_was_answered_is_there_after_a_restart,
    a_codebase_rotation_is_a_restart_and_is_undone_by_one,
    health_and_reflection_tell_what_is_served,
    wrong_fields_are_all_named_and_none_repeated,
}

async fn each_kind_of_secret_comes_out_as_it_went_in(site: &Site) {
    let service = site.start().await;
    let mut credentials = service.credentials();
    for (id, kind, secret) in [
        ("realsync.main", v1::CredentialKind::SalesforceOauth, oauth("00D!access", "5Aep.refresh")),
        ("legacy", v1::CredentialKind::Password, password("correct horse")),
        ("jira", v1::CredentialKind::Opaque, opaque([0, 255, 10, 13])),
        ("largest", v1::CredentialKind::Opaque, opaque(vec![7; 32_768])),
    ] {
        let sealed = credentials.encrypt_credential(encrypt("demo", id, secret.clone())).await.unwrap().into_inner();
        let sealed = sealed.credential.unwrap();
        assert_eq!((sealed.revision, sealed.kind()), (1, kind));
        assert_eq!(
            sealed.lineage,
            Some(v1::Lineage { codebase_version: 1, environment_version: 1, customer_version: 1 })
        );

        let opened = credentials.decrypt_credential(decrypt("demo", id, v1::View::Full)).await.unwrap().into_inner();
        assert!(opened.secret == Some(secret), "{id} differs");
        assert_eq!(opened.credential.as_ref(), Some(&sealed));
        let request = v1::GetCredentialRequest { customer_id: "demo".into(), credential_id: id.into() };
        let got = credentials.get_credential(request).await.unwrap().into_inner();
        assert_eq!(got.credential, Some(sealed));
    }
}

async fn the_access_view_has_no_refresh_token_and_is_the_default(site: &Site) {
    let service = site.start().await;
    let mut credentials = service.credentials();
    credentials.encrypt_credential(encrypt("demo", "main", oauth("access", "refresh"))).await.unwrap();
    credentials.encrypt_credential(encrypt("demo", "password", password("x"))).await.unwrap();
    for view in [v1::View::Unspecified, v1::View::Access] {
        let opened = credentials.decrypt_credential(decrypt("demo", "main", view)).await.unwrap().into_inner();
        assert!(opened.secret == Some(oauth("access", "")), "{view:?}");
        let refused = credentials.decrypt_credential(decrypt("demo", "password", view)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "NO_ACCESS_VIEW"));
    }
}

async fn revisions_are_conditions_on_every_change_and_reading(site: &Site) {
    let service = site.start().await;
    let mut credentials = service.credentials();
    let mut put = async |if_revision, secret| {
        let request = v1::EncryptCredentialRequest { if_revision, ..encrypt("demo", "main", secret) };
        match credentials.encrypt_credential(request).await {
            Ok(answer) => Ok(answer.into_inner().credential.unwrap().revision),
            Err(status) => Err((status.code(), reason(&status).to_owned(), current(&status))),
        }
    };
    let refused = |code, reason: &str, current| Err((code, reason.to_owned(), current));
    assert_eq!(put(Some(1), opaque(b"0")).await, refused(Code::NotFound, "CREDENTIAL_NOT_FOUND", None));
    assert_eq!(put(Some(0), opaque(b"1")).await, Ok(1));
    assert_eq!(put(Some(0), opaque(b"x")).await, refused(Code::AlreadyExists, "CREDENTIAL_EXISTS", Some(1)));
    assert_eq!(put(None, opaque(b"2")).await, Ok(2));
    assert_eq!(put(Some(1), opaque(b"x")).await, refused(Code::Aborted, "REVISION_MISMATCH", Some(2)));
    assert_eq!(put(Some(2), opaque(b"3")).await, Ok(3));

    let mut credentials = service.credentials();
    let mut at = decrypt("demo", "main", v1::View::Full);
    at.get_mut().if_revision = Some(2);
    let status = credentials.decrypt_credential(at).await.unwrap_err();
    assert_eq!((status.code(), reason(&status), current(&status)), (Code::Aborted, "REVISION_MISMATCH", Some(3)));
    let delete = |if_revision| v1::DeleteCredentialRequest {
        customer_id: "demo".into(),
        credential_id: "main".into(),
        if_revision,
    };
    let status = credentials.delete_credential(delete(Some(2))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Aborted, "REVISION_MISMATCH"));
    credentials.delete_credential(delete(Some(3))).await.unwrap();
    for again in [delete(None), delete(Some(3))] {
        let status = credentials.delete_credential(again).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::NotFound, "CREDENTIAL_NOT_FOUND"));
    }
    let status = credentials.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await.unwrap_err();
    assert_eq!(reason(&status), "CREDENTIAL_NOT_FOUND");
    // A later life goes on counting.
    let reborn = v1::EncryptCredentialRequest { if_revision: Some(0), ..encrypt("demo", "main", opaque(b"4")) };
    assert_eq!(credentials.encrypt_credential(reborn).await.unwrap().into_inner().credential.unwrap().revision, 4);
}

fn current(status: &tonic::Status) -> Option<u64> {
    let info = status.get_details_error_info()?;
    info.metadata.get("current_revision").map(|revision| revision.parse().unwrap())
}

async fn a_retry_under_the_same_key_changes_nothing(site: &Site) {
    let service = site.start().await;
    let mut credentials = service.credentials();
    let request = |secret| v1::EncryptCredentialRequest {
        idempotency_key: "sign-up-17".into(),
        ..encrypt("demo", "main", secret)
    };
    let first = credentials.encrypt_credential(request(opaque(b"one"))).await.unwrap().into_inner();
    let again = credentials.encrypt_credential(request(opaque(b"one"))).await.unwrap().into_inner();
    assert_eq!(first, again);
    let status = credentials.encrypt_credential(request(opaque(b"two"))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "IDEMPOTENCY_KEY_REUSED"));
    // Recognised under another writer's change, too, and that change stays.
    credentials.encrypt_credential(encrypt("demo", "main", opaque(b"three"))).await.unwrap();
    let late = credentials.encrypt_credential(request(opaque(b"one"))).await.unwrap().into_inner();
    assert_eq!(late.credential.unwrap().revision, 1);
    let opened = credentials.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await.unwrap().into_inner();
    assert!(opened.secret == Some(opaque(b"three")));
}

async fn lists_show_each_credential_once_and_no_deleted_one(site: &Site) {
    let service = site.start().await;
    let (mut credentials, mut customers) = (service.credentials(), service.customers());
    for customer in ["a", "ab", "a.b"] {
        customers.create_customer(v1::CreateCustomerRequest { customer_id: customer.into() }).await.unwrap();
        for number in 0..25 {
            let secret = if number % 5 == 0 { oauth("a", "r") } else { opaque(b"o") };
            credentials.encrypt_credential(encrypt(customer, &format!("c{number}"), secret)).await.unwrap();
        }
        let gone =
            v1::DeleteCredentialRequest { customer_id: customer.into(), credential_id: "c7".into(), if_revision: None };
        credentials.delete_credential(gone).await.unwrap();
    }
    let mut list = async |customer: &str, kind: v1::CredentialKind, page_size| {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListCredentialsRequest {
                customer_id: customer.into(),
                kind: kind.into(),
                page_size,
                page_token,
                ..Default::default()
            };
            let page = credentials.list_credentials(request).await.unwrap().into_inner();
            assert!(page.credentials.len() <= page_size as usize);
            found.extend(page.credentials.into_iter().map(|row| (row.customer_id, row.credential_id)));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                let count = found.len();
                found.sort();
                found.dedup();
                assert_eq!(found.len(), count, "one was shown twice");
                return found;
            }
        }
    };
    for size in [1, 7, 24, 1_000] {
        let found = list("a", v1::CredentialKind::Unspecified, size).await;
        assert_eq!(found.len(), 24);
        assert!(found.iter().all(|(customer, credential)| customer == "a" && credential != "c7"));
        assert_eq!(list("ab", v1::CredentialKind::SalesforceOauth, size).await.len(), 5);
    }
    assert_eq!(list("", v1::CredentialKind::Unspecified, 10).await.len(), 72);
    assert_eq!(list("demo", v1::CredentialKind::Unspecified, 10).await, []);
}

async fn customers_are_created_once_and_explicitly(site: &Site) {
    let service = site.start().await;
    let (mut credentials, mut customers) = (service.credentials(), service.customers());
    for status in [
        credentials.encrypt_credential(encrypt("nobody", "main", opaque(b"x"))).await.unwrap_err(),
        credentials.decrypt_credential(decrypt("nobody", "main", v1::View::Full)).await.unwrap_err(),
        credentials
            .list_credentials(v1::ListCredentialsRequest { customer_id: "nobody".into(), ..Default::default() })
            .await
            .unwrap_err(),
        customers.get_customer(v1::GetCustomerRequest { customer_id: "nobody".into() }).await.unwrap_err(),
    ] {
        assert_eq!((status.code(), reason(&status)), (Code::NotFound, "CUSTOMER_NOT_FOUND"));
    }
    // Asked for by many at once, it is made once: all see the same key.
    let asked = (0..16).map(|_| {
        let mut customers = customers.clone();
        async move {
            let request = v1::CreateCustomerRequest { customer_id: "acme".into() };
            customers.create_customer(request).await.unwrap().into_inner().customer.unwrap()
        }
    });
    let created = futures_util::future::join_all(asked).await;
    assert!(created.iter().all(|customer| *customer == created[0]));
    assert_eq!((created[0].primary_version, created[0].state()), (1, v1::CustomerState::Active));
    assert_eq!(created[0].key_versions.len(), 1);
    assert_eq!(created[0].key_versions[0].state(), v1::CustomerKeyState::Primary);

    // No order is promised, and a page may be empty.
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListCustomersRequest { page_size: 1, page_token, ..Default::default() };
        let page = customers.list_customers(request).await.unwrap().into_inner();
        assert!(page.customers.len() <= 1);
        listed.extend(page.customers.into_iter().map(|row| row.customer_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    listed.sort();
    assert_eq!(listed, ["acme", "demo"]);
}

async fn what_was_answered_is_there_after_a_restart(site: &Site) {
    let service = site.start().await;
    let mut credentials = service.credentials();
    credentials.encrypt_credential(encrypt("demo", "main", oauth("access", "refresh"))).await.unwrap();
    assert!(service.terminate().await.success());

    let service = site.start().await;
    let mut credentials = service.credentials();
    let opened = credentials.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await.unwrap().into_inner();
    assert!(opened.secret == Some(oauth("access", "refresh")));
    service.kill9().await;

    let service = site.start().await;
    let mut credentials = service.credentials();
    let opened = credentials.decrypt_credential(decrypt("demo", "main", v1::View::Full)).await.unwrap().into_inner();
    assert!(opened.secret == Some(oauth("access", "refresh")));
}

async fn a_codebase_rotation_is_a_restart_and_is_undone_by_one(site: &Site) {
    let start = async |version: &str| site.start_with(&[("TRISEAL__FACTORS__CODEBASE_PRIMARY", version)]).await;
    let (before, after) = (oauth("before", "r"), oauth("after", "r"));
    let service = start("1").await;
    service.credentials().encrypt_credential(encrypt("demo", "before", before.clone())).await.unwrap();
    service.terminate().await;
    let service = start("2").await;
    let mut credentials = service.credentials();
    let sealed = credentials.encrypt_credential(encrypt("demo", "after", after.clone())).await.unwrap().into_inner();
    assert_eq!(sealed.credential.unwrap().lineage.unwrap().codebase_version, 2);
    service.terminate().await;
    let service = start("1").await;
    let mut credentials = service.credentials();
    for (id, secret) in [("before", before), ("after", after)] {
        let opened = credentials.decrypt_credential(decrypt("demo", id, v1::View::Full)).await.unwrap().into_inner();
        assert!(opened.secret == Some(secret), "{id}");
    }
}

async fn health_and_reflection_tell_what_is_served(site: &Site) {
    let service = site.start().await;
    let mut health = HealthClient::new(service.channel());
    for name in ["", "triseal.v1.CredentialService", "triseal.v1.CustomerService", "triseal.v1.KeyService"] {
        let answer = health.check(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "triseal.v1.NoService".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let wanted = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1",
        "triseal.v1.CredentialService",
        "triseal.v1.CustomerService",
        "triseal.v1.KeyService",
    ];
    let found = reflected_v1(&service).await;
    for name in wanted {
        assert!(found.iter().any(|service| service.starts_with(name)), "{name} is not in {found:?}");
    }
    assert!(reflected_v1alpha(&service).await.contains(&"triseal.v1.CredentialService".to_owned()));
    assert!(!found.iter().any(|service| service.contains("storage")), "the stored form is no API");
}

/// The service names that reflection lists.
macro_rules! reflected {
    ($name:ident, $version:ident) => {
        async fn $name(service: &Service) -> Vec<String> {
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;
            let request = tonic_reflection::pb::$version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(MessageRequest::ListServices(String::new())),
            };
            let mut client = ServerReflectionClient::new(service.channel());
            let requests = Request::new(tokio_stream::once(request));
            let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
            match answers.message().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|one| one.name).collect(),
                other => panic!("{other:?}"),
            }
        }
    };
}
reflected!(reflected_v1, v1);
reflected!(reflected_v1alpha, v1alpha);

async fn wrong_fields_are_all_named_and_none_repeated(site: &Site) {
    let service = site.start().await;
    let mut credentials = service.credentials();
    let mut oauth = v1::SalesforceOAuth::default();
    oauth.instance_url = "ftp://MARKED.example".into();
    oauth.refresh_token = "MARKED".repeat(4_000);
    let secret = v1::Secret { value: Some(v1::secret::Value::SalesforceOauth(oauth)) };
    let request = v1::EncryptCredentialRequest { idempotency_key: "MARKED key".into(), ..encrypt("a/b", "", secret) };
    let status = credentials.encrypt_credential(request).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "BAD_FIELD"));
    let violations = status.get_details_bad_request().unwrap().field_violations;
    let mut fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "credential_id",
            "customer_id",
            "idempotency_key",
            "secret.salesforce_oauth.access_token",
            "secret.salesforce_oauth.instance_url",
            "secret.salesforce_oauth.refresh_token",
        ]
    );
    assert!(!format!("{status:?} {violations:?}").contains("MARKED"));
    assert!(!service.stderr().contains("MARKED"));

    let empty = v1::EncryptCredentialRequest { secret: None, ..encrypt("demo", "main", opaque(b"")) };
    for request in [empty, encrypt("demo", "main", opaque(b"")), encrypt("demo", "main", opaque([1; 32_769]))] {
        let status = credentials.encrypt_credential(request).await.unwrap_err();
        assert_eq!(reason(&status), "BAD_FIELD");
    }
    // Above the size of a message it is not even read.
    let status = credentials.encrypt_credential(encrypt("demo", "main", opaque(vec![1; 1 << 20]))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "BAD_FIELD"));
}

/// Neither tonic's code nor the decoder's text: the fault is the caller's, and is told as one.
#[tokio::test]
async fn a_message_that_is_none_is_a_bad_field() {
    use http::uri::PathAndQuery;
    use tonic_prost::ProstCodec;

    let (service, _data) = fresh().await;
    let mut client = tonic::client::Grpc::new(service.channel());
    let methods =
        ["CredentialService/EncryptCredential", "CredentialService/GetCredential", "CustomerService/GetCustomer"];
    for method in methods {
        let path: PathAndQuery = format!("/triseal.v1.{method}").parse().unwrap();
        // Field 1 is a text: neither octets that are no UTF-8 nor a number.
        client.ready().await.unwrap();
        let no_text = tonic::Request::new(v1::Opaque { data: b"MARKED\xff".to_vec(), content_type: String::new() });
        let octets = client.unary(no_text, path.clone(), ProstCodec::<_, v1::Opaque>::default()).await;
        client.ready().await.unwrap();
        let lineage = v1::Lineage { codebase_version: 7, environment_version: 7, customer_version: 7 };
        let number = client.unary(tonic::Request::new(lineage), path, ProstCodec::<_, v1::Opaque>::default()).await;
        for status in [octets.unwrap_err(), number.unwrap_err()] {
            assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "BAD_FIELD"), "{method}: {status}");
            let violations = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(violations.len(), 1);
            assert!(violations[0].field == "request" && violations[0].description.starts_with("must be a message of"));
            assert!(!status.message().contains("UTF-8 at") && !format!("{status:?}").contains("MARKED"), "{status:?}");
        }
    }
    assert!(!service.stderr().contains("MARKED"));
}
