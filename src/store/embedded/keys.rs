//! The keys of the tables: the parts of a name with a separator between them, so that what belongs together stands together, in order.

use crate::crypto::Version;
use crate::ids::{CredentialId, CredentialRef, CustomerId};
use crate::store::encoding::BadRow;

/// Stands between the parts of a key. No id contains it.
pub(super) const SEPARATOR: u8 = 0;
/// The sort key of a customer's own row, before those of its wrapped keys.
pub(super) const CUSTOMER: &str = "customer";

pub(super) fn key(partition: &str, sort: &str) -> Vec<u8> {
    [partition.as_bytes(), &[SEPARATOR], sort.as_bytes()].concat()
}

pub(super) fn credential_key(id: &CredentialRef) -> Vec<u8> {
    key(id.customer.as_str(), id.credential.as_str())
}

pub(super) fn wrapped_key_key(customer: &CustomerId, version: Version) -> Vec<u8> {
    // Padded, so that the versions stand in order.
    key(customer.as_str(), &format!("key#{:010}", version.get()))
}

pub(super) fn credential_ref(key: &[u8]) -> Result<CredentialRef, BadRow> {
    let bad = BadRow::Corrupt("a credential's key is no pair of ids");
    let (customer, credential) = split(key).ok_or(BadRow::Corrupt("a credential's key has one part"))?;
    match (CustomerId::parse(customer), CredentialId::parse(credential)) {
        (Ok(customer), Ok(credential)) => Ok(CredentialRef { customer, credential }),
        (Err(_), _) | (_, Err(_)) => Err(bad),
    }
}

pub(super) fn customer_id(key: &[u8]) -> Result<CustomerId, BadRow> {
    let (customer, _) = split(key).ok_or(BadRow::Corrupt("a customer's key has one part"))?;
    CustomerId::parse(customer).map_err(|_| BadRow::Corrupt("a customer's key is no id"))
}

pub(super) fn operation_id(key: &[u8]) -> Result<String, BadRow> {
    let (_, id) = split(key).ok_or(BadRow::Corrupt("a record's key has one part"))?;
    Ok(id.to_owned())
}

fn split(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once(char::from(SEPARATOR))
}
