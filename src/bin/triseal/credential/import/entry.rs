//! What one line says: whose credential, which one, and its secret in any of the forms that `credential encrypt` takes.

use base64ct::{Base64, Encoding};
use prost::Message;
use serde::Deserialize;
use serde_json::value::RawValue;
use subtle::ConstantTimeEq;
use triseal::grpc::v1;
use triseal::ids::{CredentialId, CustomerId};
use v1::secret::Value;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::input::{self, Text};
use crate::salesforce;

/// A line that is right, as far as its form goes.
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) secret: EncodedSecret,
}

/// A credential of a customer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub(super) customer: CustomerId,
    pub(super) credential: CredentialId,
}

/// A line that is not, and whose it is, if it says that much.
pub(super) struct BadEntry {
    pub(super) id: Option<Id>,
    pub(super) failure: Failure,
}

/// What may stand in an error: nothing else of a line is repeated.
const FIELDS: [&str; 7] =
    ["customer", "credential", "from_salesforce", "token_url", "salesforce_oauth", "password", "opaque"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    customer: Text,
    credential: Text,
    #[serde(borrow)]
    from_salesforce: Option<&'a RawValue>,
    token_url: Option<Text>,
    #[serde(borrow)]
    salesforce_oauth: Option<&'a RawValue>,
    #[serde(borrow)]
    password: Option<&'a RawValue>,
    #[serde(borrow)]
    opaque: Option<&'a RawValue>,
}

/// Reads a line.
pub(super) fn parse(line: &[u8]) -> Result<Entry, Box<BadEntry>> {
    let nameless = |failure| Box::new(BadEntry { id: None, failure });
    let fields: Fields<'_> = input::json(line, &FIELDS).map_err(nameless)?;
    let id = id(&fields).map_err(nameless)?;
    match secret(fields) {
        Ok(secret) => Ok(Entry { id, secret: EncodedSecret::new(v1::Secret { value: Some(secret) }) }),
        Err(failure) => Err(Box::new(BadEntry { id: Some(id), failure })),
    }
}

fn id(fields: &Fields<'_>) -> Result<Id, Failure> {
    let bad = |field, error| Failure::input(format!("{field}: {error}"));
    Ok(Id {
        customer: CustomerId::parse(fields.customer.as_str()).map_err(|error| bad("customer", error))?,
        credential: CredentialId::parse(fields.credential.as_str()).map_err(|error| bad("credential", error))?,
    })
}

fn secret(fields: Fields<'_>) -> Result<Value, Failure> {
    let within = |name: &str, failure: Failure| Failure { message: format!("{name}: {}", failure.message), ..failure };
    let Fields { from_salesforce, token_url, salesforce_oauth, password, opaque, .. } = fields;
    if token_url.is_some() && from_salesforce.is_none() {
        return Err(Failure::input("token_url stands beside from_salesforce alone".to_owned()));
    }
    match (from_salesforce, salesforce_oauth, password, opaque) {
        (Some(answer), None, None, None) => {
            let oauth = salesforce::read(answer.get().as_bytes(), token_url.map(Text::into_exposed));
            oauth.map(Value::SalesforceOauth).map_err(|failure| within("from_salesforce", failure))
        }
        (None, Some(oauth), None, None) => {
            let oauth = input::salesforce_oauth(oauth.get().as_bytes());
            oauth.map(Value::SalesforceOauth).map_err(|failure| within("salesforce_oauth", failure))
        }
        (None, None, Some(password), None) => input::password(password.get().as_bytes())
            .map(Value::Password)
            .map_err(|failure| within("password", failure)),
        (None, None, None, Some(opaque)) => {
            read_opaque(opaque.get().as_bytes()).map(Value::Opaque).map_err(|failure| within("opaque", failure))
        }
        (_, _, _, _) => Err(Failure::input(
            "the line has not exactly one of from_salesforce, salesforce_oauth, password and opaque".to_owned(),
        )),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpaqueFields {
    data: Option<Text>,
    text: Option<Text>,
    content_type: Option<Text>,
}

fn read_opaque(octets: &[u8]) -> Result<v1::Opaque, Failure> {
    let fields: OpaqueFields = input::json(octets, &["data", "text", "content_type"])?;
    let data = match (fields.data, fields.text) {
        (Some(data), None) => decode(data.as_str())?,
        (None, Some(text)) => text.into_exposed().into_bytes(),
        (_, _) => return Err(Failure::input("the input has not exactly one of data and text".to_owned())),
    };
    Ok(v1::Opaque { data, content_type: fields.content_type.unwrap_or_default().into_exposed() })
}

fn decode(text: &str) -> Result<Vec<u8>, Failure> {
    // Long enough from the start, and wiped if it is not handed on.
    let mut octets = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let decoded = Base64::decode(text, octets.as_mut_slice()).map(<[u8]>::len);
    let length = decoded.map_err(|_| {
        Failure::input("the input's field data is no base64 with padding and without line breaks".to_owned())
    })?;
    octets.truncate(length);
    Ok(std::mem::take(&mut *octets))
}

/// A secret's message, encoded: to be sent more than once without being cloned, and compared.
pub(super) struct EncodedSecret(Zeroizing<Vec<u8>>);

impl EncodedSecret {
    /// Takes the message, which wipes itself.
    pub(super) fn new(secret: v1::Secret) -> Self {
        let mut octets = Zeroizing::new(Vec::with_capacity(secret.encoded_len()));
        secret.encode_raw(&mut *octets);
        Self(octets)
    }

    /// The message, to be sent once.
    pub(super) fn message(&self) -> Option<v1::Secret> {
        v1::Secret::decode(self.0.as_slice()).ok()
    }

    /// Whether two secrets are the same, in constant time for a given length.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn read(line: &str) -> Value {
        match parse(line.as_bytes()) {
            Ok(entry) => {
                assert_eq!((entry.id.customer.as_str(), entry.id.credential.as_str()), ("acme", "crm"));
                entry.secret.message().unwrap().value.unwrap()
            }
            Err(bad) => panic!("{line}: {:?}", bad.failure),
        }
    }

    fn line(rest: &str) -> String {
        format!(r#"{{"customer": "acme", "credential": "crm", {rest}}}"#)
    }

    fn message(line: &str) -> String {
        match parse(line.as_bytes()) {
            Ok(_) => panic!("{line} is taken"),
            Err(bad) => bad.failure.message,
        }
    }

    #[test]
    fn a_line_has_a_secret_of_any_kind() {
        let Value::SalesforceOauth(oauth) = read(&line(
            r#""from_salesforce": {"access_token": "a", "refresh_token": "r", "issued_at": "1764000000123",
                "id": "https://test.salesforce.com/id/1/2", "token_type": "Bearer"}"#,
        )) else {
            panic!("another kind")
        };
        assert_eq!((oauth.access_token.as_str(), oauth.refresh_token.as_str()), ("a", "r"));
        assert_eq!(oauth.token_url, "https://test.salesforce.com/services/oauth2/token");
        let with_url = line(r#""from_salesforce": {"access_token": "a"}, "token_url": "https://x/t""#);
        let Value::SalesforceOauth(oauth) = read(&with_url) else { panic!("another kind") };
        assert_eq!(oauth.token_url, "https://x/t");

        let oauth = line(r#""salesforce_oauth": {"access_token": "a", "scopes": ["api"]}, "password": null"#);
        let Value::SalesforceOauth(oauth) = read(&oauth) else { panic!("another kind") };
        assert_eq!(oauth.scopes, ["api"]);

        let Value::Password(password) = read(&line(r#""password": {"username": "u", "password": "p\u00e4"}"#)) else {
            panic!("another kind")
        };
        assert_eq!((password.username.as_str(), password.password.as_str()), ("u", "pä"));

        for (opaque, wanted) in [
            (r#""opaque": {"data": "AP8KDQ==", "content_type": "x/y"}"#, &[0, 255, 10, 13][..]),
            (r#""opaque": {"data": ""}"#, b""),
            (r#""opaque": {"text": "sk_live", "content_type": "x/y"}"#, b"sk_live"),
            (r#""opaque": {"text": "sk_live", "data": null}"#, b"sk_live"),
        ] {
            let Value::Opaque(read) = read(&line(opaque)) else { panic!("another kind") };
            assert_eq!(
                (read.data.as_slice(), read.content_type.as_str()),
                (wanted, if opaque.contains("x/y") { "x/y" } else { "" })
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_field_and_place() {
        for (bad, told) in [
            ("{", "the input is not JSON, at column 1"),
            ("[]", "the input is not a JSON object"),
            (
                r#"{"customer": "acme", "password": {}}"#,
                "the input has a field that is unknown or missing, at column 36",
            ),
            (r#"{"customer": "a/b", "credential": "crm"}"#, "customer: must have 1 to 128 of A-Z"),
            (r#"{"customer": "acme", "credential": ""}"#, "credential: must have 1 to 128 of A-Z"),
            (&line(r#""pasword": {}"#), "the input has a field that is unknown or missing"),
            (&line(r#""opaque": null"#), "the line has not exactly one of"),
            (&line(r#""opaque": {"text": ""}, "password": {}"#), "the line has not exactly one of"),
            (&line(r#""password": {}, "token_url": "x""#), "token_url stands beside from_salesforce alone"),
            (&line(r#""password": []"#), "password: the input is not a JSON object"),
            (
                &line(r#""password": {"password": 7}"#),
                "password: the input's field password is there twice, of another",
            ),
            (&line(r#""password": {"pasword": ""}"#), "password: the input has a field that is unknown"),
            (&line(r#""salesforce_oauth": {"issue_time": "soon"}"#), "salesforce_oauth: the input's field issue_time"),
            (&line(r#""from_salesforce": {"error": "invalid_grant"}"#), "from_salesforce: the input is an error that"),
            (&line(r#""from_salesforce": {}"#), "from_salesforce: the input has no access_token"),
            (&line(r#""opaque": {}"#), "opaque: the input has not exactly one of data and text"),
            (
                &line(r#""opaque": {"data": "AP8K", "text": ""}"#),
                "opaque: the input has not exactly one of data and text",
            ),
            (&line(r#""opaque": {"data": "AP8"}"#), "opaque: the input's field data is no base64"),
            (&line(r#""opaque": {"data": "AP8K\nAP8K"}"#), "opaque: the input's field data is no base64"),
            (&line(r#""opaque": "text""#), "opaque: the input is not a JSON object"),
        ] {
            assert!(message(bad).starts_with(told), "{bad}: {}", message(bad));
        }
    }

    #[test]
    fn whose_a_bad_line_is_is_told_if_it_says_so() {
        let bad = |text: &str| parse(text.as_bytes()).err().unwrap();
        let id = bad(&line(r#""password": {"password": 7}"#)).id.unwrap();
        assert_eq!((id.customer.as_str(), id.credential.as_str()), ("acme", "crm"));
        assert!(bad(r#"{"customer": "acme", "credential": "a b", "password": {}}"#).id.is_none());
        assert!(bad(r#"{"customer": "acme", "credential": "crm", "password": {"#).id.is_none());
    }

    #[test]
    fn a_bad_line_is_never_repeated() {
        for bad in [
            r#"{"customer": "MARKER /", "credential": "crm", "password": {}}"#.to_owned(),
            r#"{"customer": "acme", "credential": "crm", "MARKER": 1}"#.to_owned(),
            r#"{"customer": "acme", "credential": "crm", "password": {"password": "MARKER""#.to_owned(),
            line(r#""password": {"password": "MARKER", "MARKER": "MARKER"}"#),
            line(r#""password": {"password": {"MARKER": 1}}"#),
            line(r#""password": "MARKER""#),
            line(r#""password": {"password": "x"}, "password": {"password": "MARKER"}"#),
            line(r#""opaque": {"data": "MARKER!"}"#),
            line(r#""opaque": {"data": "MARKER==", "MARKER": 1}"#),
            line(r#""from_salesforce": {"error": "MARKER"}"#),
            line(r#""salesforce_oauth": {"access_token": "a", "scopes": [{"MARKER": 1}]}"#),
            "MARKER".to_owned(),
        ] {
            let Err(bad_entry) = parse(bad.as_bytes()) else { panic!("{bad} is taken") };
            assert!(!format!("{:?}", bad_entry.failure).contains("MARKER"), "{bad}: {:?}", bad_entry.failure);
            assert_eq!(bad_entry.failure.exit, Exit::Usage);
        }
    }

    #[test]
    fn secrets_are_the_same_octet_for_octet() {
        let encoded = |rest: &str| parse(line(rest).as_bytes()).ok().unwrap().secret;
        let first = encoded(r#""password": {"username": "u", "password": "p"}"#);
        assert!(first.is_same(&encoded(r#""password": {"password": "p", "username": "u", "login_url": ""}"#)));
        for other in [
            r#""password": {"username": "u", "password": "q"}"#,
            r#""password": {"username": "u", "password": "p", "login_url": "l"}"#,
            r#""opaque": {"text": "p"}"#,
        ] {
            assert!(!first.is_same(&encoded(other)), "{other}");
        }
    }
}
