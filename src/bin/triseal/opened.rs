//! How an opened secret is shown. It passes through wiped memory only, and is not escaped: it is the user's own.

use std::io::{self, Write};

use base64ct::{Base64, Encoding};
use serde::Serialize;
use triseal::grpc::v1::secret::Value;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::metadata::{Credential, time};
use crate::output::{Format, Output};
use crate::wiped::WipedBuffer;

#[derive(Serialize)]
struct Decrypted<'a> {
    secret: Secret<'a>,
    credential: Credential,
}

/// As in the protocol, the kind is the name of the one field.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Secret<'a> {
    SalesforceOauth(SalesforceOAuth<'a>),
    Password(Password<'a>),
    Opaque(Opaque<'a>),
}

#[derive(Serialize)]
struct SalesforceOAuth<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    refresh_token: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    instance_url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token_url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    identity_url: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    scopes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    issue_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token_expire_time: Option<String>,
}

#[derive(Serialize)]
struct Password<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    password: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    security_token: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    login_url: &'a str,
}

#[derive(Serialize)]
struct Opaque<'a> {
    /// base64
    data: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
}

/// Writes a secret, and as JSON what is known of it besides.
pub(crate) fn show(secret: &Value, credential: Credential, output: &mut Output) -> Result<(), Failure> {
    match output.format() {
        Format::Json => json(secret, credential, output),
        Format::Text => {
            let mut text = WipedBuffer::new();
            write_text(secret, &mut text).map_err(|error| Failure::output(&error))?;
            output.octets(text.octets())
        }
    }
}

fn json(secret: &Value, credential: Credential, output: &mut Output) -> Result<(), Failure> {
    let encoded;
    let secret = match secret {
        Value::SalesforceOauth(secret) => Secret::SalesforceOauth(SalesforceOAuth {
            access_token: &secret.access_token,
            refresh_token: &secret.refresh_token,
            instance_url: &secret.instance_url,
            token_url: &secret.token_url,
            identity_url: &secret.identity_url,
            scopes: &secret.scopes,
            issue_time: time(secret.issue_time),
            access_token_expire_time: time(secret.access_token_expire_time),
        }),
        Value::Password(secret) => Secret::Password(Password {
            username: &secret.username,
            password: &secret.password,
            security_token: &secret.security_token,
            login_url: &secret.login_url,
        }),
        Value::Opaque(secret) => {
            encoded = Zeroizing::new(Base64::encode_string(&secret.data));
            Secret::Opaque(Opaque { data: &encoded, content_type: &secret.content_type })
        }
    };
    output.json(&Decrypted { secret, credential })
}

/// `name: value` for each field that has one; an opaque secret is its octets and nothing else.
fn write_text(secret: &Value, text: &mut WipedBuffer) -> io::Result<()> {
    let mut line = |name: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(text, "{name}: {value}"),
    };
    match secret {
        Value::SalesforceOauth(secret) => {
            line("access_token", &secret.access_token)?;
            line("refresh_token", &secret.refresh_token)?;
            line("instance_url", &secret.instance_url)?;
            line("token_url", &secret.token_url)?;
            line("identity_url", &secret.identity_url)?;
            line("scopes", &secret.scopes.join(" "))?;
            line("issue_time", &time(secret.issue_time).unwrap_or_default())?;
            line("access_token_expire_time", &time(secret.access_token_expire_time).unwrap_or_default())
        }
        Value::Password(secret) => {
            line("username", &secret.username)?;
            line("password", &secret.password)?;
            line("security_token", &secret.security_token)?;
            line("login_url", &secret.login_url)
        }
        Value::Opaque(secret) => text.write_all(&secret.data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use triseal::grpc::v1;

    fn text(secret: &Value) -> Vec<u8> {
        let mut text = WipedBuffer::new();
        write_text(secret, &mut text).unwrap();
        text.octets().to_vec()
    }

    #[test]
    fn absent_fields_have_no_line() {
        let mut secret = v1::SalesforceOAuth::default();
        secret.access_token = "a b".to_owned();
        secret.scopes = vec!["api".to_owned(), "id".to_owned()];
        secret.issue_time = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
        let secret = Value::SalesforceOauth(secret);
        assert_eq!(text(&secret), b"access_token: a b\nscopes: api id\nissue_time: 1970-01-01T00:00:00Z\n");
    }

    #[test]
    fn an_opaque_secret_is_its_octets() {
        let data = vec![0, 255, b'\n', 0x1b];
        assert_eq!(text(&Value::Opaque(v1::Opaque { data: data.clone(), content_type: "x/y".to_owned() })), data);
    }
}
