//! What someone with access to the store can do to it, and what a newer release or an AWS account may have left there: for the failures
//! that no call leads to. Each has a credential of its own that was whole before.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use triseal::crypto::Version;
use triseal::ids::{CredentialId, CredentialRef, CustomerId, Deployment};
use triseal::store::embedded::{EmbeddedCredentials, EmbeddedCustomers, EmbeddedStore};
use triseal::store::{
    CredentialRow, CustomerRow, CustomerState, CustomerWrite, Customers, Erasure, KeyRow, KeyVersionState, Life,
    Living, Replaced, Revision, Rows, State, WriteId,
};

/// Credentials of `acme`, each with what a decryption answers once it was tampered with.
pub(super) const CREDENTIALS: [(&str, &str); 8] = [
    ("not-authentic", "NOT_AUTHENTIC"),
    ("malformed", "MALFORMED"),
    ("codebase-9", "KEYS_STALE"),
    ("environment-9", "SECRETS_UNAVAILABLE"),
    ("customer-9", "KEY_VERSION_UNKNOWN"),
    ("needs-reauth", "NEEDS_REAUTH"),
    ("newer", "ENCODING_UNKNOWN"),
    ("last-revision", "NOT_AUTHENTIC"),
];
/// Customers with a credential `main`, and what its decryption answers then.
pub(super) const CUSTOMERS: [(&str, &str); 3] =
    [("destroyed", "CUSTOMER_DESTROYED"), ("retired", "KEY_VERSION_RETIRED"), ("refused", "KMS_REFUSED")];

/// Of an envelope: two octets of magic, format, suite, and then three versions of four octets.
const VERSIONS: usize = 4;

pub(super) async fn tamper(path: &Path) {
    let store = Arc::new(EmbeddedStore::open(path, &Deployment::parse("dev").unwrap()).unwrap());
    let credentials = EmbeddedCredentials(Arc::clone(&store));
    for (name, _) in CREDENTIALS {
        edit_credential(&credentials, name).await;
    }
    let customers = EmbeddedCustomers(Arc::clone(&store));
    for (name, _) in CUSTOMERS {
        edit_customer(&customers, name).await;
    }
    drop((credentials, customers));
    drop(Arc::into_inner(store).expect("nobody else has it"));
    raise_format(path, b"newer");
}

async fn edit_credential(credentials: &EmbeddedCredentials, name: &str) {
    let id =
        CredentialRef { customer: CustomerId::parse("acme").unwrap(), credential: CredentialId::parse(name).unwrap() };
    let mut row = credentials.get(&id).await.unwrap().expect("it was stored");
    let before = row.write_id;
    let Life::Living(living) = &mut row.life else { panic!("it was deleted") };
    let Living { envelope, state, .. } = living;
    let version = |envelope: &mut Vec<u8>, factor: usize| envelope[VERSIONS + 4 * factor + 3] = 9;
    match name {
        "not-authentic" => *envelope.last_mut().unwrap() ^= 1,
        "malformed" => envelope.truncate(17),
        "codebase-9" => version(envelope, 0),
        "environment-9" => version(envelope, 1),
        "customer-9" => version(envelope, 2),
        "needs-reauth" => *state = State::NeedsReauth { reason: "revoked".to_owned(), time: Timestamp::UNIX_EPOCH },
        "last-revision" => row.revision = Revision::new(u64::MAX).unwrap(),
        "newer" => return,
        _ => panic!("nobody tampers with {name}"),
    }
    let row = CredentialRow { write_id: WriteId::random().unwrap(), ..row };
    assert!(matches!(credentials.replace(Some(before), row).await.unwrap(), Replaced::Done));
}

async fn edit_customer(customers: &EmbeddedCustomers, name: &str) {
    let mut row = customers.get(&CustomerId::parse(name).unwrap()).await.unwrap().expect("it was created");
    let (before, mut rewrapped) = (row.write_id, None);
    match name {
        "destroyed" => {
            row.state = CustomerState::Destroyed { destroy_time: Timestamp::now(), erasure: Erasure::default() };
        }
        "retired" => row.versions[0].state = KeyVersionState::Retired,
        "refused" => {
            let wrapped = customers.key(&row.id, Version::FIRST).await.unwrap().expect("it has a key");
            rewrapped = Some(KeyRow { kms_key_arn: "local:another".to_owned(), ..wrapped });
        }
        _ => panic!("nobody tampers with {name}"),
    }
    let customer = CustomerRow { write_id: WriteId::random().unwrap(), ..row };
    let write = CustomerWrite { rewrapped, ..CustomerWrite::of(customer) };
    assert!(matches!(customers.replace(Some(before), write).await.unwrap(), Replaced::Done));
}

/// Says that a newer release wrote the row.
fn raise_format(path: &Path, credential: &[u8]) {
    use redb::ReadableTable;
    const TABLE: redb::TableDefinition<'static, &[u8], &[u8]> = redb::TableDefinition::new("credentials");
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    {
        let mut table = txn.open_table(TABLE).unwrap();
        let rows = table.iter().unwrap().map(|row| row.unwrap());
        let found = rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec()));
        let (key, mut row) = found.into_iter().find(|(key, _)| key.ends_with(credential)).expect("it was stored");
        row[0] = u8::MAX;
        table.insert(key.as_slice(), row.as_slice()).unwrap();
    }
    txn.commit().unwrap();
}
