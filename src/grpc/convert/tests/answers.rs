//! Domain values as messages, and page tokens there and back.

use super::*;
use crate::store::contract::{credential_ref, customer, customer_id as id, time as microsecond, version};
use crate::store::{Erasure, KeyVersion, KeyVersionState};

fn credential(state: State) -> Credential {
    Credential {
        id: credential_ref("acme", "crm"),
        kind: Kind::SalesforceOAuth,
        state,
        revision: Revision::new(7).unwrap(),
        lineage: Some(Lineage { codebase: version(1), environment: version(2), customer: version(3) }),
        create_time: microsecond(-500_000),
        update_time: microsecond(2_000_000),
        refresh_time: Some(microsecond(3_000_000)),
        access_token_expire_time: None,
    }
}

#[test]
fn a_credential_is_shown_with_all_that_is_known() {
    let shown = credential_message(&credential(State::Active));
    assert_eq!((shown.customer_id.as_str(), shown.credential_id.as_str(), shown.revision), ("acme", "crm", 7));
    assert_eq!((shown.kind(), shown.state()), (v1::CredentialKind::SalesforceOauth, v1::CredentialState::Active));
    assert_eq!((shown.state_reason.as_str(), shown.state_time), ("", time(2, 0)));
    let lineage = v1::Lineage { codebase_version: 1, environment_version: 2, customer_version: 3 };
    assert_eq!(shown.lineage, Some(lineage));
    assert_eq!((shown.create_time, shown.update_time), (time(-1, 500_000_000), time(2, 0)));
    assert_eq!((shown.refresh_time, shown.access_token_expire_time), (time(3, 0), None));

    let state = State::NeedsReauth { reason: "restored".to_owned(), time: microsecond(9_000_000) };
    let shown = credential_message(&Credential { lineage: None, ..credential(state) });
    assert_eq!(shown.state(), v1::CredentialState::NeedsReauth);
    assert_eq!((shown.state_reason.as_str(), shown.state_time, shown.lineage), ("restored", time(9, 0), None));
    for (kind, wanted) in [(Kind::Password, v1::CredentialKind::Password), (Kind::Opaque, v1::CredentialKind::Opaque)] {
        assert_eq!(credential_message(&Credential { kind, ..credential(State::Active) }).kind(), wanted);
    }
}

#[test]
fn a_secret_goes_out_as_it_came_in() {
    let opaque = v1::secret::Value::Opaque(v1::Opaque { data: vec![0, 255], content_type: "a/b".to_owned() });
    let password = v1::secret::Value::Password(v1::Password {
        username: "user".to_owned(),
        password: "secret".to_owned(),
        security_token: "token".to_owned(),
        login_url: "https://login.salesforce.com".to_owned(),
    });
    let mut tokens = oauth();
    tokens.refresh_token = "refresh".to_owned();
    tokens.scopes = vec!["api".to_owned()];
    tokens.issue_time = time(-1, 1);
    for value in [opaque, password, v1::secret::Value::SalesforceOauth(tokens)] {
        let request = encrypt_request(encrypt(value.clone())).unwrap();
        assert!(secret_message(request.secret).value == Some(value));
    }
}

#[test]
fn a_customer_is_shown_with_its_key_versions_and_listed_without() {
    let key = |number, state| KeyVersion {
        version: version(number),
        state,
        create_time: microsecond(-1),
        primary_until: None,
        kms_key_arn: format!("arn:{number}"),
    };
    let (enabled, retired) = (KeyVersionState::Enabled, KeyVersionState::Retired);
    let row = CustomerRow {
        primary: version(2),
        versions: vec![key(1, retired), key(2, enabled), key(3, enabled)],
        ..customer("acme")
    };
    let shown = customer_message(&row);
    assert_eq!((shown.customer_id.as_str(), shown.primary_version), ("acme", 2));
    let states: Vec<_> = shown.key_versions.iter().map(|key| (key.version, key.state())).collect();
    use v1::CustomerKeyState::{Enabled, Primary, Retired};
    assert_eq!(states, [(1, Retired), (2, Primary), (3, Enabled)]);
    assert_eq!(shown.key_versions[0].kms_key_arn, "arn:1");
    assert_eq!(shown.key_versions[0].create_time, time(-1, 999_999_000));
    let listed = list_customers_response(&Page { rows: vec![row], next: None }, &tokens()).unwrap();
    assert!(listed.customers[0].key_versions.is_empty() && listed.next_page_token.is_empty());

    let destroy_time = microsecond(5_000_000);
    for (state, wanted, destroyed) in [
        (CustomerState::Active, v1::CustomerState::Active, None),
        (CustomerState::Disabled, v1::CustomerState::Disabled, None),
        (CustomerState::PendingDestruction { destroy_time }, v1::CustomerState::PendingDestruction, time(5, 0)),
        (
            CustomerState::Destroyed { destroy_time, erasure: Erasure::default() },
            v1::CustomerState::Destroyed,
            time(5, 0),
        ),
    ] {
        let shown = customer_message(&CustomerRow { state, ..customer("acme") });
        assert_eq!((shown.state(), shown.destroy_time), (wanted, destroyed));
    }
}

#[test]
fn a_page_token_is_read_as_it_was_given() {
    for (owner, name) in [("a", "b"), ("00D5g000004XyZ", "crm.prod_1-2"), (&*"a".repeat(128), &*"b".repeat(128))] {
        let next = credential_ref(owner, name);
        let page = Page { rows: vec![credential(State::Active)], next: Some(next.clone()) };
        let response = list_response(&page, &tokens()).unwrap();
        assert_eq!(response.credentials.len(), 1);
        for customer_id in ["", owner] {
            let request = v1::ListCredentialsRequest {
                customer_id: customer_id.to_owned(),
                page_token: response.next_page_token.clone(),
                ..v1::ListCredentialsRequest::default()
            };
            assert_eq!(list_request(&request, &tokens()).unwrap().2, Some(next.clone()));
        }
        let page = Page { rows: vec![], next: Some(id(owner)) };
        let page_token = list_customers_response(&page, &tokens()).unwrap().next_page_token;
        let request = v1::ListCustomersRequest { page_token, ..v1::ListCustomersRequest::default() };
        assert_eq!(list_customers_request(&request, &tokens()).unwrap().1, Some(id(owner)));
    }
    assert_eq!(list_response(&Page { rows: vec![], next: None }, &tokens()).unwrap().next_page_token, "");
}

#[test]
fn a_page_token_of_another_list_or_of_none_is_refused() {
    let sealed = |place: &str| tokens().seal(place).unwrap();
    let credentials = |customer_id: &str, page_token: String| {
        let customer_id = customer_id.to_owned();
        list_request(&v1::ListCredentialsRequest { customer_id, page_token, ..Default::default() }, &tokens())
    };
    assert!(credentials("acme", sealed("acme/crm")).is_ok());
    assert_eq!(wrong(credentials("other", sealed("acme/crm"))), ["page_token"]);
    let elsewhere = PageTokens::development("elsewhere").seal("acme/crm").unwrap();
    assert_eq!(wrong(credentials("acme", elsewhere)), ["page_token"]);
    for place in ["acme", "acme/", "/crm", "/", "a/b/c", "acme/cr m", "acme\0crm", "ä/b"] {
        assert_eq!(wrong(credentials("", sealed(place))), ["page_token"], "{place:?}");
    }
    for token in ["!", "YQ==", "YW", "-_", " ", "acme/crm"] {
        assert_eq!(wrong(credentials("", token.to_owned())), ["page_token"], "{token:?}");
    }
    let customers =
        |page_token| list_customers_request(&v1::ListCustomersRequest { page_token, ..Default::default() }, &tokens());
    assert!(customers(sealed("acme")).is_ok());
    for token in [sealed("acme/crm"), sealed(".acme"), "!".to_owned()] {
        assert_eq!(wrong(customers(token)), ["page_token"]);
    }
}
