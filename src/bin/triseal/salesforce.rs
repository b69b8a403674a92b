//! The answer of Salesforce's token endpoint, taken as it is: what of it is kept, and under which name.
//!
//! Of the answer's fields, `access_token`, `refresh_token`, `instance_url`, `id`, `issued_at` and `scope` are kept. The
//! answer does not say where tokens are refreshed, so that is derived, unless it is given.

use http::Uri;
use http::uri::Scheme;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use triseal::grpc::v1::SalesforceOAuth;
use triseal::secret::stored::to_timestamp;

use crate::failure::Failure;
use crate::input::{self, Text};

/// Fields that it does not name are ignored: token_type, signature, id_token, and whatever else a flow adds.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<Text>,
    refresh_token: Option<Text>,
    instance_url: Option<Text>,
    id: Option<Text>,
    issued_at: Option<IssuedAt>,
    scope: Option<Text>,
    error: Option<Text>,
}

const FIELDS: [&str; 7] = ["access_token", "refresh_token", "instance_url", "id", "issued_at", "scope", "error"];

/// Reads an answer. `token_url` is where tokens are refreshed; without it, it is derived from the answer's `id`.
pub(crate) fn read(octets: &[u8], token_url: Option<String>) -> Result<SalesforceOAuth, Failure> {
    let answer: Answer = input::json(octets, &FIELDS)
        .map_err(|failure| failure.with_hint("it must be the JSON that Salesforce's token endpoint answered"))?;
    if let Some(error) = &answer.error {
        return Err(error_answer(error.as_str()));
    }
    let Some(access_token) = answer.access_token.filter(|token| !token.as_str().is_empty()) else {
        return Err(Failure::input("the input has no access_token".to_owned())
            .with_hint("it must be the JSON that Salesforce's token endpoint answered"));
    };
    let id = answer.id.unwrap_or_default();
    let scopes = answer.scope.unwrap_or_default();
    Ok(SalesforceOAuth {
        access_token: access_token.into_exposed(),
        refresh_token: answer.refresh_token.unwrap_or_default().into_exposed(),
        instance_url: answer.instance_url.unwrap_or_default().into_exposed(),
        token_url: token_url.or_else(|| derive_token_url(id.as_str())).unwrap_or_default(),
        identity_url: id.into_exposed(),
        scopes: scopes.as_str().split_whitespace().map(str::to_owned).collect(),
        issue_time: answer.issued_at.map(|time| to_timestamp(time.0)),
        // Salesforce's answers carry no expiry.
        access_token_expire_time: None,
    })
}

/// `https://HOST/id/…` → `https://HOST/services/oauth2/token`
fn derive_token_url(identity_url: &str) -> Option<String> {
    let uri: Uri = identity_url.parse().ok()?;
    let authority = uri.authority()?;
    let usable = uri.scheme() == Some(&Scheme::HTTPS) && !authority.as_str().contains('@');
    usable.then(|| format!("https://{authority}/services/oauth2/token"))
}

/// Only the error's code is told: its description is a text that may be anything.
fn error_answer(code: &str) -> Failure {
    let is_word = (1..=64).contains(&code.len()) && code.bytes().all(|octet| matches!(octet, b'a'..=b'z' | b'_'));
    let code = if is_word { format!(": {code}") } else { String::new() };
    Failure::input(format!("the input is an error that Salesforce answered, and has no tokens{code}"))
        .with_hint("nothing was stored; have the customer consent again, and encrypt the answer with the tokens")
}

/// Milliseconds since 1970, in a string; a number is taken as well.
struct IssuedAt(jiff::Timestamp);

impl<'de> Deserialize<'de> for IssuedAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Milliseconds;

        impl Visitor<'_> for Milliseconds {
            type Value = i64;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("milliseconds")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
                text.parse().map_err(|_| E::custom("no number"))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<i64, E> {
                number.try_into().map_err(|_| E::custom("too large"))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
                Ok(number)
            }
        }
        let milliseconds = deserializer.deserialize_any(Milliseconds)?;
        jiff::Timestamp::from_millisecond(milliseconds).map(Self).map_err(|_| D::Error::custom("no time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the web server flow answers, with every field that it has.
    const ANSWER: &str = r#"{
        "access_token": "00D5g00000ABCDE!AQcAQH0dMHZfz972Szmpkb58urFRkgeBGsxL_QJWwYMfAbUeeG7c1E6LYUfiDUkWe6H34r1AAwOR8B8fLEz6n04NPGRrq0FM",
        "refresh_token": "5Aep861TSESvWeug_xvFHRBTTbf_YrTWgEyjBJrhTMRnJEyTrPlv6VlG6dDpsgPUAzxq1BpL6JXGrT0ySlDfQ7A",
        "signature": "CMJ4l+CCaPQiKjoOEwEig9H4wqhpuLSk4J2urAe+fVg=",
        "scope": "refresh_token api id",
        "id_token": "eyJraWQiOiIyMjAiLCJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.e30.c2ln",
        "instance_url": "https://acme.my.salesforce.com",
        "id": "https://login.salesforce.com/id/00D5g00000ABCDEEA4/0055g000009ABCDAA2",
        "token_type": "Bearer",
        "issued_at": "1795507200123",
        "sfdc_community_url": null
    }"#;

    #[test]
    fn an_answer_is_taken_as_it_is() {
        let read = read(ANSWER.as_bytes(), None).unwrap();
        assert!(read.access_token.starts_with("00D5g00000ABCDE!AQcAQH0"));
        assert!(read.refresh_token.starts_with("5Aep861"));
        assert_eq!(read.instance_url, "https://acme.my.salesforce.com");
        assert_eq!(read.identity_url, "https://login.salesforce.com/id/00D5g00000ABCDEEA4/0055g000009ABCDAA2");
        assert_eq!(read.token_url, "https://login.salesforce.com/services/oauth2/token");
        assert_eq!(read.scopes, ["refresh_token", "api", "id"]);
        let issued = read.issue_time.unwrap();
        assert_eq!((issued.seconds, issued.nanos), (1_795_507_200, 123_000_000));
        assert!(read.access_token_expire_time.is_none());
    }

    #[test]
    fn an_issue_time_that_is_none_is_told_as_that() {
        for issued_at in ["253402300800000", "99999999999999999999", "soon"] {
            let answer = format!(r#"{{"access_token": "a", "issued_at": "{issued_at}"}}"#);
            let failure = read(answer.as_bytes(), None).err().unwrap();
            assert!(
                failure.message.contains("issued_at is there twice, of another type, or out of range"),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn an_access_token_is_enough() {
        let read = read(br#"{"access_token": "a", "issued_at": 1000, "refresh_token": null}"#, None).unwrap();
        assert_eq!((read.access_token.as_str(), read.refresh_token.as_str()), ("a", ""));
        assert_eq!((read.token_url.as_str(), read.issue_time.unwrap().seconds), ("", 1));
    }

    #[test]
    fn a_given_token_url_wins_and_only_https_hosts_are_derived() {
        let given = read(ANSWER.as_bytes(), Some("https://acme.my.salesforce.com/t".to_owned())).unwrap();
        assert_eq!(given.token_url, "https://acme.my.salesforce.com/t");
        assert_eq!(
            derive_token_url("https://test.salesforce.com/id/1/2").as_deref(),
            Some("https://test.salesforce.com/services/oauth2/token")
        );
        for bad in
            ["", "/id/1/2", "http://login.salesforce.com/id/1", "https://a@login.salesforce.com/id/1", "mailto:a@b"]
        {
            assert_eq!(derive_token_url(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_error_answer_is_said_to_be_one() {
        let message = |answer: &str| read(answer.as_bytes(), None).err().map(|failure| format!("{failure:?}")).unwrap();
        let known = message(r#"{"error": "invalid_grant", "error_description": "MARKER expired"}"#);
        assert!(known.contains("invalid_grant") && known.contains("error that Salesforce answered"), "{known}");
        assert!(!known.contains("MARKER"));
        let odd = message(r#"{"error": "MARKER", "access_token": "MARKER"}"#);
        assert!(odd.contains("error that Salesforce answered") && !odd.contains("MARKER"), "{odd}");
    }

    #[test]
    fn a_bad_answer_is_never_repeated() {
        for bad in [
            r#"{"access_token": ["MARKER"]}"#,
            r#"{"access_token": "MARKER", "issued_at": "MARKER"}"#,
            r#"{"access_token": "MARKER", "issued_at": 99999999999999999999}"#,
            r#"{"access_token": "MARKER", "issued_at": 9223372036854775807}"#,
            r#"{"access_token": "MARKER", "access_token": "MARKER"}"#,
            r#"{"access_token": "MARKER"#,
            r#"{"access_token": "", "refresh_token": "MARKER"}"#,
            r#"{"MARKER": "MARKER"}"#,
            "access_token=MARKER&token_type=Bearer",
        ] {
            let Err(failure) = read(bad.as_bytes(), None) else { panic!("{bad} is taken") };
            assert!(!format!("{failure:?}").contains("MARKER"), "{bad}: {failure:?}");
        }
    }
}
