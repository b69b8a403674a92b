//! The limits of the refresh's messages, each at its bounds and beyond.

use super::*;
use crate::refresh::LeaseToken;
use crate::store::AbandonCause;

fn acquire(change: impl FnOnce(&mut v1::AcquireRefreshRequest)) -> v1::AcquireRefreshRequest {
    let (customer_id, credential_id) = ("acme".to_owned(), "crm".to_owned());
    let mut request = v1::AcquireRefreshRequest { customer_id, credential_id, ..v1::AcquireRefreshRequest::default() };
    change(&mut request);
    request
}

fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

#[test]
fn what_is_absent_has_its_default() {
    let (id, asked) = acquire_request(&acquire(|_| {})).unwrap();
    assert_eq!((id.customer.as_str(), id.credential.as_str()), ("acme", "crm"));
    assert_eq!((asked.rejected, asked.key.is_none()), (None, true));
    assert_eq!([asked.min_validity, asked.wait, asked.ttl].map(|time| time.as_secs()), [0, 0, 60]);
    let all = acquire(|request| {
        request.rejected_revision = Some(7);
        request.min_validity = seconds(3_600, 0);
        request.wait = seconds(8, 0);
        request.lease_ttl = seconds(15, 500_000_000);
        request.idempotency_key = "refresh-17".to_owned();
    });
    let (_, asked) = acquire_request(&all).unwrap();
    assert_eq!((asked.rejected.map(Revision::get), asked.key.is_some()), (Some(7), true));
    assert_eq!([asked.min_validity, asked.wait, asked.ttl].map(|time| time.as_millis()), [3_600_000, 8_000, 15_500]);
}

#[test]
fn times_keep_to_their_ranges() {
    type Set = fn(&mut v1::AcquireRefreshRequest, Option<prost_types::Duration>);
    let fields: [(&str, Set, i64, i64); 3] = [
        ("min_validity", |request, time| request.min_validity = time, 0, 3_600),
        ("wait", |request, time| request.wait = time, 0, 8),
        ("lease_ttl", |request, time| request.lease_ttl = time, 15, 120),
    ];
    for (field, set, shortest, longest) in fields {
        let asked = |time| acquire_request(&acquire(|request| set(request, time)));
        for good in [seconds(shortest, 0), seconds(shortest, 1), seconds(longest, 0)] {
            assert!(asked(good).is_ok(), "{field}: {good:?}");
        }
        for bad in [
            seconds(longest, 1),
            seconds(longest + 1, 0),
            seconds(shortest - 1, 0),
            seconds(-1, -1),
            seconds(shortest, -1),
            seconds(shortest, 1_000_000_000),
            seconds(i64::MIN, 0),
            seconds(i64::MAX, i32::MAX),
        ] {
            let wanted = format!("{field}: must be {shortest} to {longest} seconds");
            assert_eq!(asked(bad).unwrap_err().message(), wanted, "{bad:?}");
        }
    }
    let zero = acquire_request(&acquire(|request| request.rejected_revision = Some(0)));
    assert_eq!(zero.unwrap_err().message(), "rejected_revision: must be at least 1");
    let long = acquire_request(&acquire(|request| request.idempotency_key = "x".repeat(129)));
    assert!(long.unwrap_err().message().starts_with("idempotency_key: "));
}

#[test]
fn new_tokens_keep_to_the_limits_of_a_secret_and_may_leave_out_all_but_the_access_token() {
    let token = LeaseToken::random().unwrap().expose_secret();
    let complete = |lease_token: &str, oauth: Option<v1::SalesforceOAuth>| {
        complete_request(v1::CompleteRefreshRequest {
            customer_id: "acme".to_owned(),
            credential_id: "crm".to_owned(),
            lease_token: lease_token.to_owned(),
            salesforce_oauth: oauth,
        })
    };
    let oauth = |access: &str, refresh: &str| {
        let mut oauth = v1::SalesforceOAuth::default();
        (oauth.access_token, oauth.refresh_token) = (access.to_owned(), refresh.to_owned());
        oauth
    };
    assert!(complete(&token, Some(oauth("a", ""))).is_ok());
    for (lease_token, oauth, wanted) in [
        (token.as_str(), None, "salesforce_oauth: must be set"),
        (&token, Some(oauth("", "r")), "salesforce_oauth.access_token: must not be empty"),
        (
            &token,
            Some(oauth("a", &"r".repeat(16_385))),
            "salesforce_oauth.refresh_token: must have at most 16384 octets",
        ),
        ("", Some(oauth("a", "")), "lease_token: must be the lease_token of a lease"),
        (&token[1..], Some(oauth("a", "")), "lease_token: must be the lease_token of a lease"),
    ] {
        assert_eq!(complete(lease_token, oauth).err().unwrap().message(), wanted);
    }
}

#[test]
fn reasons_are_short_lines() {
    let token = LeaseToken::random().unwrap().expose_secret();
    let abandon = |cause: i32, detail: &str| {
        abandon_request(&v1::AbandonRefreshRequest {
            customer_id: "acme".to_owned(),
            credential_id: "crm".to_owned(),
            lease_token: token.clone(),
            cause,
            detail: detail.to_owned(),
        })
    };
    let mark = |reason: &str| {
        mark_request(&v1::MarkNeedsReauthRequest {
            customer_id: "acme".to_owned(),
            credential_id: "crm".to_owned(),
            reason: reason.to_owned(),
            if_revision: None,
        })
    };
    let invalid_grant = v1::AbandonCause::InvalidGrant.into();
    assert_eq!(abandon(invalid_grant, "").unwrap().3, "INVALID_GRANT");
    assert_eq!(abandon(invalid_grant, "expired token ☂").unwrap().3, "INVALID_GRANT: expired token ☂");
    assert_eq!(abandon(0, "").unwrap().2, AbandonCause::Transient);
    assert_eq!(abandon(3, "").unwrap_err().message(), "cause: must be one of the causes");
    for good in ["x", &"x".repeat(200)] {
        assert!(abandon(2, good).is_ok() && mark(good).is_ok());
    }
    for bad in ["a\nb", "\u{1b}[2J", &"x".repeat(201), &"ä".repeat(101)] {
        assert!(abandon(2, bad).is_err() && mark(bad).is_err(), "{bad}");
    }
    assert_eq!(mark("").unwrap_err().message(), "reason: must not be empty");
}
