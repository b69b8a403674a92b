use super::*;
use crate::fuzzing::tests::expect_seed;
use crate::store::contract::{customer, living, operation, time};
use crate::store::{CredentialRow, CustomerRow, CustomerState, Erasure, KeyRow, Life, OperationRow, State};

const WRITE_ID: [u8; 16] = [9; 16];

fn seed(name: &str, sort: u8, octets: &[u8]) {
    let octets = [&[sort], octets].concat();
    row(&octets);
    expect_seed("row", name, &octets);
}

#[test]
fn seeds_of_rows_are_read() {
    let write_id = WriteId::from_octets(WRITE_ID);
    let alive = CredentialRow { write_id, ..living("acme", "crm") };
    let Life::Living(mut reauth) = alive.life.clone() else { unreachable!("it lives") };
    reauth.state = State::NeedsReauth { reason: "revoked".to_owned(), time: time(7) };
    let credentials = [
        ("living", alive.clone()),
        ("needs-reauth", CredentialRow { life: Life::Living(reauth), ..alive.clone() }),
        ("deleted", CredentialRow { life: Life::Deleted { time: time(-1) }, ..alive }),
    ];
    for (name, row) in credentials {
        seed(&format!("credential-{name}"), 0, &encoding::encode_credential(&row));
    }
    let erasure =
        Erasure { key_versions: 1, credentials: Some(2), end_time: Some(time(3)), backups_end_time: Some(time(4)) };
    let states = [
        ("active", CustomerState::Active),
        ("pending", CustomerState::PendingDestruction { destroy_time: time(5) }),
        ("destroyed", CustomerState::Destroyed { destroy_time: time(5), erasure }),
    ];
    for (name, state) in states {
        let row = CustomerRow { write_id, state, ..customer("acme") };
        seed(&format!("customer-{name}"), 1, &encoding::encode_customer(&row));
    }
    let key = KeyRow { version: Version::FIRST, wrapped: vec![8; 60], kms_key_arn: "arn".to_owned() };
    seed("key", 2, &encoding::encode_key(write_id, &key));
    let operation = OperationRow { write_id, ..operation("1") };
    seed("operation", 3, &encoding::encode_operation(&operation));
}

#[test]
#[should_panic(expected = "a row is not written as it was read")]
fn a_row_that_changes_when_it_is_written_is_found() {
    let octets = encoding::encode_customer(&customer("acme"));
    let decode = |octets: &[u8]| encoding::decode_customer(customer("acme").id, octets);
    let forgetful = |row: &CustomerRow| {
        let row = CustomerRow { versions: Vec::new(), ..row.clone() };
        encoding::encode_customer(&row)
    };
    reads_as_written(&octets, decode, forgetful, |row| row.write_id);
}
