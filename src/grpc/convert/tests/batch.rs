//! Batches: what is asked for, and how much of it the reply holds.

use prost::Message;
use v1::batch_decrypt_credentials_result::Result as Outcome;

use super::super::super::limits::MAX_REPLY_OCTETS;
use super::*;
use crate::access::Permit;
use crate::ids::Caller;
use crate::store::contract::{credential_ref, time as microsecond, version};
use crate::vault::{Reading, VaultError};

fn asked(customer: &str, view: i32) -> v1::DecryptCredentialRequest {
    let (customer_id, credential_id) = (customer.to_owned(), "crm".to_owned());
    v1::DecryptCredentialRequest { customer_id, credential_id, view, if_revision: None }
}

fn batch(requests: Vec<v1::DecryptCredentialRequest>) -> Result<Vec<Result<Reading, Status>>, Status> {
    let permitted = |(asked, revision)| Reading { permit: Permit::unasked(Caller::new("test"), asked), revision };
    let items = batch_request(&v1::BatchDecryptCredentialsRequest { requests })?;
    Ok(items.into_iter().map(|item| item.map(permitted)).collect())
}

/// As much as can stand beside a secret.
fn largest_credential() -> Credential {
    let id = "x".repeat(128);
    let late = microsecond(253_402_207_200_999_999);
    Credential {
        id: credential_ref(&id, &id),
        kind: Kind::Opaque,
        state: State::NeedsReauth { reason: String::new(), time: late },
        revision: Revision::new(u64::MAX).unwrap(),
        lineage: Some(Lineage {
            codebase: version(u32::MAX),
            environment: version(u32::MAX),
            customer: version(u32::MAX),
        }),
        create_time: late,
        update_time: late,
        refresh_time: Some(late),
        access_token_expire_time: Some(late),
    }
}

fn opaque_secret(octets: usize) -> Secret {
    Secret::Opaque(Opaque { data: SecretOctets::new(vec![7; octets]), content_type: String::new() })
}

#[test]
fn a_batch_has_1_to_100_requests_and_each_is_right_or_wrong_by_itself() {
    assert_eq!(wrong(batch(vec![])), ["requests"]);
    assert_eq!(wrong(batch(vec![asked("acme", 0); 101])), ["requests"]);
    assert_eq!(batch(vec![asked("acme", 0); 100]).unwrap().len(), 100);

    let mut requests = batch(vec![asked("acme", 2), asked("planted/", 7), asked("other", 0)]).unwrap();
    let last = requests.pop().unwrap().unwrap();
    assert_eq!((last.permit.asked().id.customer.as_str(), last.permit.asked().view), ("other", View::Access));
    assert_eq!(wrong(requests.pop().unwrap()), ["customer_id", "view"]);
    assert_eq!(requests.pop().unwrap().unwrap().permit.asked().view, View::Full);
}

#[test]
fn outcomes_stand_where_they_were_asked_for() {
    let requests = batch(vec![asked("a", 2), asked("planted/", 2), asked("b", 2), asked("c", 2)]).unwrap();
    let opened = |octets| Ok((opaque_secret(octets), largest_credential()));
    let outcomes = vec![opened(1), Err(VaultError::CredentialNotFound), opened(2)];
    let response = batch_response(requests, outcomes);
    let told = response.results.iter().map(|result| match result.result.as_ref().unwrap() {
        Outcome::Decrypted(opened) => match opened.secret.as_ref().unwrap().value.as_ref().unwrap() {
            v1::secret::Value::Opaque(opaque) => format!("{} octets", opaque.data.len()),
            _ => panic!("another kind"),
        },
        Outcome::Error(error) => format!("{:?}", tonic::Code::from(error.code)),
    });
    assert_eq!(told.collect::<Vec<_>>(), ["1 octets", "InvalidArgument", "NotFound", "2 octets"]);
    let shown = format!("{response:?}");
    assert!(shown.contains("Opaque") && !shown.contains("planted") && !shown.contains("[7"), "{shown}");
}

#[test]
fn a_full_reply_is_within_its_limit_and_holds_60_of_any_secrets() {
    let largest_plaintext = crate::crypto::MAX_PLAINTEXT_OCTETS;
    // Header, commitment, padding and tag are what an envelope has beside the secret.
    let largest_envelope = largest_plaintext + 48 + 32 + 64 + 16;
    assert!(room_for_secrets(100) / largest_envelope >= 60);

    // The message of a secret is as long as its stored form, but for the encoding octet.
    let data = |secret: usize| secret - opaque_secret_overhead();
    let full = room_for_secrets(100) / largest_plaintext;
    let requests = batch(vec![asked(&"x".repeat(128), 2); 100]).unwrap();
    let opened = (0..100).map(|number| match number < full {
        true => Ok((opaque_secret(data(largest_plaintext)), largest_credential())),
        false => Err(VaultError::NoRoom),
    });
    let response = batch_response(requests, opened.collect());
    assert!(response.encoded_len() <= MAX_REPLY_OCTETS, "{}", response.encoded_len());
    assert!(response.encoded_len() > MAX_REPLY_OCTETS - (MAX_REPLY_OCTETS >> 3), "it is nearly full");

    // Each error there is has less than an item's share.
    let worst = v1::DecryptCredentialRequest { if_revision: Some(0), ..asked("planted/", 9) };
    let wrong = v1::DecryptCredentialRequest { credential_id: "/".repeat(1_000), ..worst };
    let response = batch_response(batch(vec![wrong]).unwrap(), vec![]);
    assert!(response.encoded_len() < MAX_REPLY_OCTETS - room_for_secrets(1));
}

fn opaque_secret_overhead() -> usize {
    secret_message(opaque_secret(40_000)).encoded_len() - 40_000
}
