//! Rows from any octets, as a table may hold them.

use super::encoding::{self, BadRow};
use super::{OperationId, WriteId};
use crate::crypto::Version;
use crate::ids::{CredentialId, CredentialRef, CustomerId};

/// A row. The first octet tells of which sort. What is read is written so that it reads as the same, and has the write id that stands
/// at its place.
pub fn row(octets: &[u8]) {
    let Some((sort, octets)) = octets.split_first() else { return };
    let (Ok(customer), Ok(credential)) = (CustomerId::parse("acme"), CredentialId::parse("crm")) else { return };
    match sort {
        0 => {
            let id = CredentialRef { customer, credential };
            let decode = |octets: &[u8]| encoding::decode_credential(id.clone(), octets);
            reads_as_written(octets, decode, encoding::encode_credential, |row| row.write_id);
        }
        1 => {
            let decode = |octets: &[u8]| encoding::decode_customer(customer.clone(), octets);
            reads_as_written(octets, decode, encoding::encode_customer, |row| row.write_id);
        }
        2 => {
            let Ok(write_id) = encoding::write_id(octets) else { return };
            let decode = |octets: &[u8]| encoding::decode_key(Version::FIRST, octets);
            reads_as_written(octets, decode, |row| encoding::encode_key(write_id, row), |_| write_id);
        }
        _ => {
            let decode = |octets: &[u8]| {
                let id = OperationId { kind: "fuzzing", id: "1".to_owned() };
                encoding::decode_operation(id, octets)
            };
            reads_as_written(octets, decode, encoding::encode_operation, |row| row.write_id);
        }
    }
}

fn reads_as_written<R: PartialEq>(
    octets: &[u8],
    decode: impl Fn(&[u8]) -> Result<R, BadRow>,
    encode: impl Fn(&R) -> Vec<u8>,
    write_id: impl Fn(&R) -> WriteId,
) {
    let Ok(row) = decode(octets) else { return };
    assert!(
        encoding::write_id(octets).is_ok_and(|at_its_place| at_its_place == write_id(&row)),
        "a row's write id is another than the one that conditions are checked against"
    );
    let written = encode(&row);
    let again = decode(&written);
    assert!(again.is_ok_and(|again| again == row && encode(&again) == written), "a row is not written as it was read");
}

#[cfg(test)]
mod tests;
