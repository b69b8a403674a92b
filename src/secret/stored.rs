//! The stored form of a secret: an encoding octet and a message of `proto/triseal/storage/v1/`. It is the plaintext of an
//! envelope. It stands outside `grpc/` because the application, and not the edge, seals (docs/adr/0002).

use prost::Message;
use zeroize::Zeroizing;

use super::{Kind, Opaque, Password, SalesforceOAuth, Secret, SecretOctets, SecretString, prints_as_its_name};
use crate::crypto::{Plaintext, PlaintextTooLong};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod message {
    tonic::include_proto!("triseal.storage.v1");
}
use message::stored_secret::Value;
use message::{StoredOpaque, StoredPassword, StoredSalesforceOAuth, StoredSecret};

/// A protobuf [`StoredSecret`] follows.
const ENCODING: u8 = 1;

/// Why an opened plaintext is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A newer release wrote it: it is left as it is, and read by an upgraded process.
    #[error("the stored secret has an encoding that this release does not know")]
    UnknownEncoding,
    /// It was sealed by us and yet is not of our form.
    #[error("the stored secret is not of its form")]
    Malformed,
}

/// The plaintext to seal. The secret is taken, and wiped.
///
/// # Errors
/// [`PlaintextTooLong`]; the edge's limits on single fields keep below it, nearly.
pub fn encode(secret: Secret) -> Result<Plaintext, PlaintextTooLong> {
    let message = StoredSecret { value: Some(to_message(secret)) };
    // Of the final size from the start: a vector that grows leaves a copy behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(1 + message.encoded_len()));
    octets.push(ENCODING);
    message.encode_raw(&mut *octets);
    Plaintext::new(octets)
}

/// The secret in an opened plaintext, whose kind the envelope's context proved.
///
/// # Errors
/// [`DecodeError`]; the record must then be left as it is.
pub fn decode(kind: Kind, plaintext: &Plaintext) -> Result<Secret, DecodeError> {
    let octets = match plaintext.expose_secret().split_first() {
        Some((&ENCODING, octets)) => octets,
        Some(_) => return Err(DecodeError::UnknownEncoding),
        None => return Err(DecodeError::Malformed),
    };
    let mut message = StoredSecret::decode(octets).map_err(|_| DecodeError::Malformed)?;
    let secret = from_message(message.value.as_mut().ok_or(DecodeError::Malformed)?)?;
    if secret.kind() == kind { Ok(secret) } else { Err(DecodeError::Malformed) }
}

fn to_message(secret: Secret) -> Value {
    match secret {
        Secret::SalesforceOAuth(oauth) => Value::SalesforceOauth(StoredSalesforceOAuth {
            access_token: oauth.access_token.into_exposed(),
            refresh_token: oauth.refresh_token.into_exposed(),
            instance_url: oauth.instance_url,
            token_url: oauth.token_url,
            identity_url: oauth.identity_url,
            scopes: oauth.scopes,
            issue_time: oauth.issue_time.map(to_timestamp),
            access_token_expire_time: oauth.access_token_expire_time.map(to_timestamp),
        }),
        Secret::Password(password) => Value::Password(StoredPassword {
            username: password.username.into_exposed(),
            password: password.password.into_exposed(),
            security_token: password.security_token.into_exposed(),
            login_url: password.login_url,
        }),
        Secret::Opaque(opaque) => {
            Value::Opaque(StoredOpaque { data: opaque.data.into_exposed(), content_type: opaque.content_type })
        }
    }
}

/// Moves the secret out of a message that wipes what it still holds when dropped.
fn from_message(value: &mut Value) -> Result<Secret, DecodeError> {
    use std::mem::take;
    Ok(match value {
        Value::SalesforceOauth(oauth) => Secret::SalesforceOAuth(SalesforceOAuth {
            access_token: SecretString::new(take(&mut oauth.access_token)),
            refresh_token: SecretString::new(take(&mut oauth.refresh_token)),
            instance_url: take(&mut oauth.instance_url),
            token_url: take(&mut oauth.token_url),
            identity_url: take(&mut oauth.identity_url),
            scopes: take(&mut oauth.scopes),
            issue_time: oauth.issue_time.as_ref().map(from_timestamp).transpose()?,
            access_token_expire_time: oauth.access_token_expire_time.as_ref().map(from_timestamp).transpose()?,
        }),
        Value::Password(password) => Secret::Password(Password {
            username: SecretString::new(take(&mut password.username)),
            password: SecretString::new(take(&mut password.password)),
            security_token: SecretString::new(take(&mut password.security_token)),
            login_url: take(&mut password.login_url),
        }),
        Value::Opaque(opaque) => Secret::Opaque(Opaque {
            data: SecretOctets::new(take(&mut opaque.data)),
            content_type: take(&mut opaque.content_type),
        }),
    })
}

/// A time as protobuf writes it: the nanoseconds count forward, before 1970 too.
pub fn to_timestamp(time: jiff::Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    if nanos < 0 {
        prost_types::Timestamp { seconds: seconds - 1, nanos: nanos + 1_000_000_000 }
    } else {
        prost_types::Timestamp { seconds, nanos }
    }
}

fn from_timestamp(time: &prost_types::Timestamp) -> Result<jiff::Timestamp, DecodeError> {
    jiff::Timestamp::new(time.seconds, time.nanos).map_err(|_| DecodeError::Malformed)
}

prints_as_its_name!(StoredSalesforceOAuth, StoredPassword, StoredOpaque);

#[cfg(test)]
mod tests;
