//! What somebody with access to the table can do: deny service, and no more.

use super::*;
use crate::ids::CredentialId;

async fn opens(setup: &Setup, id: &CredentialRef) -> Result<(), VaultError> {
    setup.vault.decrypt_unasked(id, View::Full, None).await.map(|_| ())
}

/// An edit of a row, and what opening it is then answered.
type Edit = (&'static str, fn(&mut CredentialRow, &mut Living), VaultError);

#[tokio::test]
async fn a_record_opens_in_its_place_alone() {
    let edits: [Edit; 8] = [
        ("customer", |row, _| row.id.customer = customer_id("other"), VaultError::NotAuthentic),
        ("credential", |row, _| row.id.credential = CredentialId::parse("crm2").unwrap(), VaultError::NotAuthentic),
        ("later revision", |row, _| row.revision = revision(3), VaultError::NotAuthentic),
        ("earlier revision", |row, _| row.revision = revision(1), VaultError::NotAuthentic),
        ("kind", |_, living| living.kind = Kind::Password, VaultError::NotAuthentic),
        ("tag", |_, living| *living.envelope.last_mut().unwrap() ^= 1, VaultError::NotAuthentic),
        ("cut off", |_, living| living.envelope.truncate(100), VaultError::Malformed),
        ("empty", |_, living| living.envelope.clear(), VaultError::Malformed),
    ];
    for (what, edit, wanted) in edits {
        let setup = Setup::new().await;
        setup.encrypt("crm", salesforce("former"), Condition::None).await.unwrap();
        setup.encrypt("crm", salesforce("token"), Condition::None).await.unwrap();
        let mut row = setup.credentials.get(&credential_ref("acme", "crm")).await.unwrap().unwrap();
        let Life::Living(mut living) = row.life.clone() else { panic!("a tombstone") };
        edit(&mut row, &mut living);
        row.life = Life::Living(living);
        setup.put(row.clone()).await;
        assert_eq!(opens(&setup, &row.id).await, Err(wanted), "{what}");
        // Metadata are hints: they are shown.
        assert_eq!(setup.vault.get_unasked(&row.id).await.unwrap().revision, row.revision, "{what}");
    }
}

#[tokio::test]
async fn an_older_envelope_under_a_newer_revision_does_not_open() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    setup.encrypt("crm", password("former"), Condition::None).await.unwrap();
    let former = setup.credentials.get(&id).await.unwrap().unwrap();
    setup.encrypt("crm", password("present"), Condition::None).await.unwrap();
    setup
        .change("crm", |_, living| {
            let Life::Living(old) = former.life.clone() else { panic!("a tombstone") };
            living.envelope = old.envelope;
        })
        .await;
    assert_eq!(opens(&setup, &id).await, Err(VaultError::NotAuthentic));

    // A whole old row put back does open; who names the revision that it expects notices.
    setup.put(former).await;
    assert_eq!(opens(&setup, &id).await, Ok(()));
    let noticed = setup.vault.decrypt_unasked(&id, View::Full, Some(revision(2))).await.err();
    assert_eq!(noticed, Some(VaultError::RevisionMismatch { current: revision(1) }));
}

#[tokio::test]
async fn a_header_that_names_other_versions_opens_nothing() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    // The last octet of each version: codebase, environment, customer.
    for (at, wanted) in
        [(7, KeyringError::KeysStale), (11, KeyringError::KeysStale), (15, KeyringError::KeyVersionUnknown)]
    {
        setup.encrypt("crm", password("secret"), Condition::None).await.unwrap();
        setup.change("crm", |_, living| living.envelope[at] = 9).await;
        assert_eq!(opens(&setup, &id).await, Err(VaultError::Keyring(wanted)));
        setup.change("crm", |_, living| living.envelope[at] = 0).await;
        assert_eq!(opens(&setup, &id).await, Err(VaultError::Malformed));
        assert_eq!(setup.vault.get_unasked(&id).await.unwrap().lineage, None);
    }
}

/// Puts a plaintext that this release does not write where a credential stands, sealed by the right keys.
async fn put_plaintext(setup: &Setup, octets: &[u8]) {
    let id = credential_ref("acme", "crm");
    let (lineage, root) = setup.keyring.primary(&id.customer).await.unwrap();
    let plaintext = Plaintext::new(octets.to_vec().into()).unwrap();
    let row = setup.credentials.get(&id).await.unwrap().unwrap();
    let envelope = setup.vault.seal(&root, lineage, &id, Kind::Password, row.revision, &plaintext).unwrap();
    setup.change("crm", |_, living| living.envelope = envelope.as_octets().to_vec()).await;
}

#[tokio::test]
async fn an_unknown_encoding_is_told_and_left_as_it_is() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    setup.encrypt_as("realtask", "key", password("a")).await.unwrap();
    put_plaintext(&setup, &[2, 1, 2, 3]).await;
    let row = setup.credentials.get(&id).await.unwrap();
    assert_eq!(opens(&setup, &id).await, Err(VaultError::EncodingUnknown));
    // A retry that meets it can't tell whether the secret is the same.
    let retried = setup.encrypt_as("realtask", "key", password("a")).await;
    assert_eq!(retried, Err(VaultError::EncodingUnknown));
    assert_eq!(setup.credentials.get(&id).await.unwrap(), row);
    assert!(setup.vault.get_unasked(&id).await.is_ok());
}

#[tokio::test]
async fn a_sealed_plaintext_that_is_not_of_its_form_is_malformed() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    setup.encrypt("crm", password("a"), Condition::None).await.unwrap();
    for octets in [&[][..], &[1], &[1, 255, 255], &[1, 0x1a, 0]] {
        put_plaintext(&setup, octets).await;
        assert_eq!(opens(&setup, &id).await, Err(VaultError::Malformed), "{octets:?}");
    }
}

#[tokio::test]
async fn another_deployments_vault_opens_nothing() {
    let setup = Setup::new().await;
    let id = credential_ref("acme", "crm");
    setup.encrypt("crm", password("a"), Condition::None).await.unwrap();
    let deployment = Deployment::parse("staging").unwrap();
    let other = Vault::new(
        deployment,
        setup.credentials.clone(),
        setup.keyring.clone(),
        AuditLog::insecure_none(),
        Timestamp::now,
    );
    assert_eq!(other.decrypt_unasked(&id, View::Full, None).await.err(), Some(VaultError::NotAuthentic));
}
