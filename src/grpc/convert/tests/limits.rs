//! Each limit at its bound and one beyond.

use super::*;

/// A field's name, its limit, and a request whose field has so many octets.
type Limit = (&'static str, usize, fn(usize) -> Result<EncryptRequest, Status>);

fn octets(count: usize) -> String {
    "x".repeat(count)
}

fn url(count: usize) -> String {
    format!("https://{}", octets(count - "https://".len()))
}

#[test]
fn a_text_may_have_so_many_octets_and_no_more() {
    let limits: [Limit; 14] = [
        ("secret.salesforce_oauth.access_token", 16_384, |n| encrypt_oauth(|oauth| oauth.access_token = octets(n))),
        ("secret.salesforce_oauth.refresh_token", 16_384, |n| encrypt_oauth(|oauth| oauth.refresh_token = octets(n))),
        ("secret.salesforce_oauth.instance_url", 2_048, |n| encrypt_oauth(|oauth| oauth.instance_url = url(n))),
        ("secret.salesforce_oauth.token_url", 2_048, |n| encrypt_oauth(|oauth| oauth.token_url = url(n))),
        ("secret.salesforce_oauth.identity_url", 2_048, |n| encrypt_oauth(|oauth| oauth.identity_url = url(n))),
        ("secret.salesforce_oauth.scopes", 100, |n| encrypt_oauth(|oauth| oauth.scopes = vec![octets(1); n])),
        ("secret.salesforce_oauth.scopes[0]", 256, |n| encrypt_oauth(|oauth| oauth.scopes = vec![octets(n)])),
        ("secret.password.username", 1_024, |n| encrypt_password(|password| password.username = octets(n))),
        ("secret.password.password", 4_096, |n| encrypt_password(|password| password.password = octets(n))),
        ("secret.password.security_token", 1_024, |n| encrypt_password(|password| password.security_token = octets(n))),
        ("secret.password.login_url", 2_048, |n| encrypt_password(|password| password.login_url = url(n))),
        ("secret.opaque.data", 32_768, |n| encrypt_opaque(|opaque| opaque.data = vec![0; n])),
        ("secret.opaque.content_type", 255, |n| encrypt_opaque(|opaque| opaque.content_type = octets(n))),
        ("idempotency_key", 128, |n| {
            let request = encrypt(v1::secret::Value::Opaque(opaque()));
            encrypt_request(v1::EncryptCredentialRequest { idempotency_key: octets(n), ..request })
        }),
    ];
    for (field, limit, request) in limits {
        assert!(request(limit).is_ok(), "{field} of {limit}");
        assert_eq!(wrong(request(limit + 1)), [field]);
    }
}

#[test]
fn octets_count_and_not_characters() {
    assert!(encrypt_password(|password| password.username = "ä".repeat(512)).is_ok());
    assert_eq!(wrong(encrypt_password(|password| password.username = "ä".repeat(513))), ["secret.password.username"]);
}

#[test]
fn what_is_required_is_not_empty_and_the_rest_may_be() {
    assert_eq!(wrong(encrypt_oauth(|oauth| oauth.access_token.clear())), ["secret.salesforce_oauth.access_token"]);
    assert_eq!(wrong(encrypt_password(|password| password.password.clear())), ["secret.password.password"]);
    assert_eq!(wrong(encrypt_opaque(|opaque| opaque.data.clear())), ["secret.opaque.data"]);
    assert!(encrypt_oauth(|_| {}).is_ok() && encrypt_password(|_| {}).is_ok() && encrypt_opaque(|_| {}).is_ok());
}

#[test]
fn the_largest_secret_that_the_limits_permit_can_be_sealed() {
    let request = encrypt_oauth(|oauth| {
        *oauth = v1::SalesforceOAuth {
            access_token: octets(16_384),
            refresh_token: octets(16_384),
            instance_url: url(2_048),
            token_url: url(2_048),
            identity_url: url(2_048),
            scopes: vec![octets(256); 100],
            issue_time: time(253_402_207_200, 999_999_999),
            access_token_expire_time: time(253_402_207_200, 999_999_999),
        }
    });
    assert!(crate::secret::stored::encode(request.unwrap().secret).is_ok());
}

#[test]
fn texts_keep_to_their_characters() {
    for text in ["\u{7f}", "a\nb", "ä", "\u{0}"] {
        assert_eq!(
            wrong(encrypt_opaque(|opaque| opaque.content_type = text.to_owned())),
            ["secret.opaque.content_type"]
        );
    }
    assert!(encrypt_opaque(|opaque| opaque.content_type = "text/plain; charset=\"utf-8\"".to_owned()).is_ok());
    for key in ["a b", "ä", "a\t", "\u{7f}"] {
        let request = encrypt(v1::secret::Value::Opaque(opaque()));
        let request = v1::EncryptCredentialRequest { idempotency_key: key.to_owned(), ..request };
        assert_eq!(wrong(encrypt_request(request)), ["idempotency_key"]);
    }
}

#[test]
fn urls_are_https_or_stay_on_this_machine() {
    let request = |url: &str| encrypt_oauth(|oauth| oauth.instance_url = url.to_owned());
    for good in [
        "",
        "https://acme.my.salesforce.com",
        "https://acme.my.salesforce.com:8443/services?x=1",
        "https://[2001:db8::1]/",
        "http://localhost:8080/token",
        "http://127.0.0.1",
        "http://[::1]:9000/",
    ] {
        assert!(request(good).is_ok(), "{good}");
    }
    for bad in [
        "acme.my.salesforce.com",
        "/services",
        "https://",
        "https:///path",
        "https://:443",
        "http://acme.my.salesforce.com",
        "http://localhost.example.org",
        "http://localhost@example.org",
        "http://127.0.0.1.example.org",
        "ftp://acme.my.salesforce.com",
        "javascript:alert(1)",
        "https://a b",
        "https://a\nb",
        " https://acme.my.salesforce.com",
    ] {
        assert_eq!(wrong(request(bad)), ["secret.salesforce_oauth.instance_url"], "{bad}");
    }
}

#[test]
fn times_are_protobufs() {
    let request =
        |time| encrypt_oauth(|oauth| oauth.issue_time = time).map(|request| request.secret.issue_time().unwrap());
    for (seconds, nanos, wanted) in [
        (0, 0, "1970-01-01T00:00:00Z"),
        (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
        (-2, 500_000_000, "1969-12-31T23:59:58.5Z"),
        (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
        // jiff's last: protobuf's is a day later.
        (253_402_207_200, 999_999_999, "9999-12-30T22:00:00.999999999Z"),
    ] {
        let read = request(time(seconds, nanos)).unwrap();
        assert_eq!(read.to_string(), wanted);
        assert_eq!(Some(timestamp(read)), time(seconds, nanos), "it is answered as it came");
    }
    for (seconds, nanos) in [
        (0, -1),
        (0, 1_000_000_000),
        (5, i32::MIN),
        (-62_135_596_801, 999_999_999),
        (-377_705_023_201, 0),
        (253_402_300_800, 0),
        (i64::MIN, 0),
        (i64::MAX, 999_999_999),
    ] {
        assert_eq!(wrong(request(time(seconds, nanos))), ["secret.salesforce_oauth.issue_time"], "{seconds} {nanos}");
    }
}

#[test]
fn pages_have_a_size() {
    let request = |page_size| v1::ListCredentialsRequest { page_size, ..v1::ListCredentialsRequest::default() };
    for (size, wanted) in [(0, 100), (1, 1), (1_000, 1_000)] {
        assert_eq!(list_request(&request(size), &tokens()).unwrap().3, wanted);
    }
    for size in [-1, 1_001, i32::MIN, i32::MAX] {
        assert_eq!(wrong(list_request(&request(size), &tokens())), ["page_size"]);
    }
}
