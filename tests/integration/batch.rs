//! BatchDecryptCredentials as a backend meets it.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Request, Status};
use tonic_types::{RpcStatusExt, StatusExt};
use triseal::grpc::v1;
use v1::batch_decrypt_credentials_result::Result as Outcome;

use crate::support::site::{Site, on_both_sites};
use crate::support::{Service, data, decrypt, dev, encrypt, oauth, opaque, opaque_data, password, reason};

on_both_sites! {
    each_result_is_what_the_call_alone_would_answer,
    a_batch_of_none_or_too_many_is_refused_as_a_whole,
}

fn asked(customer: &str, credential: &str, view: v1::View) -> v1::DecryptCredentialRequest {
    decrypt(customer, credential, view).into_inner()
}

async fn batch(service: &Service, requests: Vec<v1::DecryptCredentialRequest>) -> Result<Vec<Outcome>, Status> {
    let mut request = Request::new(v1::BatchDecryptCredentialsRequest { requests });
    // The longest there is, for machines that are busy.
    request.set_timeout(Duration::from_secs(10));
    let results = service.credentials().batch_decrypt_credentials(request).await?.into_inner().results;
    Ok(results.into_iter().map(|result| result.result.expect("one is set")).collect())
}

/// An outcome's error: code, reason and message, as an item has them or a call of its own.
type Told = (Code, String, String);

fn item(outcome: &Outcome) -> Told {
    let Outcome::Error(error) = outcome else { panic!("it was opened") };
    let info = error.get_details_error_info().expect("ErrorInfo");
    (Code::from(error.code), info.reason, error.message.clone())
}

fn call(status: &Status) -> Told {
    (status.code(), reason(status).to_owned(), status.message().to_owned())
}

async fn each_result_is_what_the_call_alone_would_answer(site: &Site) {
    let service = site.start().await;
    let (mut credentials, mut customers) = (service.credentials(), service.customers());
    customers.create_customer(v1::CreateCustomerRequest { customer_id: "acme".into() }).await.unwrap();
    for (customer, id, secret) in [
        ("demo", "main", oauth("MARKED access", "MARKED refresh")),
        ("demo", "password", password("secret")),
        ("acme", "main", opaque(b"octets")),
    ] {
        credentials.encrypt_credential(encrypt(customer, id, secret)).await.unwrap();
    }
    use v1::View::{Access, Full};
    let at = |if_revision, request| v1::DecryptCredentialRequest { if_revision: Some(if_revision), ..request };
    let requests = vec![
        asked("demo", "main", Access),
        asked("MARKED/", "main", Full),
        asked("acme", "main", Full),
        asked("demo", "missing", Full),
        asked("demo", "main", Full),
        asked("demo", "password", Access),
        asked("nobody", "main", Full),
        at(7, asked("demo", "password", Full)),
        at(0, v1::DecryptCredentialRequest { view: 9, ..asked("", "MARKED ", Full) }),
        at(1, asked("demo", "password", Full)),
        asked("demo", "main", Access),
    ];
    let results = batch(&service, requests.clone()).await.unwrap();
    assert_eq!(results.len(), requests.len());
    let mut refused = Vec::new();
    for (request, result) in requests.into_iter().zip(&results) {
        match credentials.decrypt_credential(request).await {
            Ok(answer) => assert!(*result == Outcome::Decrypted(answer.into_inner())),
            Err(status) => {
                let told = item(result);
                assert_eq!(told, call(&status));
                let Outcome::Error(error) = result else { panic!("it was opened") };
                // Every detail, octet for octet.
                let details = tonic_types::Status::decode(status.details()).unwrap().details;
                assert_eq!(error.details, details);
                refused.push(told.1);
            }
        }
    }
    let reasons =
        ["BAD_FIELD", "CREDENTIAL_NOT_FOUND", "NO_ACCESS_VIEW", "CUSTOMER_NOT_FOUND", "REVISION_MISMATCH", "BAD_FIELD"];
    assert_eq!(refused, reasons);
    assert!(!format!("{results:?}").contains("MARKED"), "what was refused is not repeated, and no secret is printed");
}

async fn a_batch_of_none_or_too_many_is_refused_as_a_whole(site: &Site) {
    let service = site.start().await;
    service.credentials().encrypt_credential(encrypt("demo", "main", opaque(b"x"))).await.unwrap();
    for count in [0, 101] {
        let status = batch(&service, vec![asked("demo", "main", v1::View::Full); count]).await.err().unwrap();
        assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "BAD_FIELD"));
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "requests");
    }
    let results = batch(&service, vec![asked("demo", "main", v1::View::Full); 100]).await.unwrap();
    assert!(results.len() == 100 && results.iter().all(|result| matches!(result, Outcome::Decrypted(_))));
}

/// A batch that all of it was opened in time for. On a busy machine it takes several.
async fn batch_in_time(service: &Service, requests: Vec<v1::DecryptCredentialRequest>) -> Vec<Outcome> {
    let is_late =
        |result: &Outcome| matches!(result, Outcome::Error(error) if Code::from(error.code) == Code::DeadlineExceeded);
    for _ in 0..20 {
        match batch(service, requests.clone()).await {
            Ok(results) if results.iter().any(is_late) => {}
            // Nobody answered in time, says this side or the other.
            Err(status) if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) => {}
            answered => return answered.unwrap(),
        }
    }
    panic!("the machine has no time for a batch");
}

/// 100 secrets of the greatest length are more than one reply holds. Who asks again for those that it left out gets all of them.
#[tokio::test]
async fn what_one_reply_has_no_room_for_comes_with_the_next() {
    let (_folder, data) = data();
    let mut command = dev(&data);
    // Nor does the audit log hurry.
    command.env("TRISEAL__AUDIT__TIMEOUT", "4s");
    let service = Service::start(command).await;
    let mut credentials = service.credentials();
    let secret = |number: usize| {
        let tokens = [number.to_string().repeat(16_384 / number.to_string().len()), "r".repeat(16_384)];
        let mut largest = oauth(&tokens[0], &tokens[1]);
        let Some(v1::secret::Value::SalesforceOauth(oauth)) = &mut largest.value else { panic!("another kind") };
        oauth.scopes = vec!["s".repeat(256); 100];
        largest
    };
    let mut wanted: Vec<_> = (0..100).collect();
    for number in &wanted {
        credentials.encrypt_credential(encrypt("demo", &format!("c{number}"), secret(*number))).await.unwrap();
    }
    let mut rounds = Vec::new();
    while !wanted.is_empty() {
        let requests = wanted.iter().map(|number| asked("demo", &format!("c{number}"), v1::View::Full)).collect();
        let results = batch_in_time(&service, requests).await;
        let mut left_out = Vec::new();
        for (number, result) in wanted.iter().zip(results) {
            match &result {
                Outcome::Decrypted(opened) => assert!(opened.secret == Some(secret(*number)), "{number} differs"),
                Outcome::Error(error) => {
                    let (code, reason, message) = item(&result);
                    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "REPLY_FULL"));
                    assert!(message.contains("again"), "it says what to do: {message}");
                    assert_eq!(error.get_details_retry_info().unwrap().retry_delay, Some(Duration::ZERO));
                    left_out.push(*number);
                }
            }
        }
        rounds.push(wanted.len() - left_out.len());
        wanted = left_out;
    }
    assert!(rounds.len() == 2 && rounds[0] >= 60, "{rounds:?}");

    // Small ones fit beside.
    credentials.encrypt_credential(encrypt("demo", "small", opaque(b"small"))).await.unwrap();
    let mut requests: Vec<_> = (0..99).map(|number| asked("demo", &format!("c{number}"), v1::View::Full)).collect();
    requests.push(asked("demo", "small", v1::View::Full));
    match batch_in_time(&service, requests).await.pop() {
        Some(Outcome::Decrypted(opened)) => assert_eq!(opaque_data(opened.secret), b"small"),
        other => panic!("{other:?}"),
    }
}
