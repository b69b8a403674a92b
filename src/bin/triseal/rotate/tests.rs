use triseal::factors::document::Form;

use super::*;

#[test]
fn a_document_is_told_without_its_keys() {
    let first = KeyDocument::first(Zeroizing::new([7; 32]), jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(state_of(&first), "version 1 is the primary");
    let added = first.with_added(Zeroizing::new([8; 32]), jiff::Timestamp::UNIX_EPOCH).unwrap().into_document();
    assert_eq!(state_of(&added), "version 1 is the primary, version 2 is added and not promoted");
    assert_eq!(fingerprint_of(&added, 2).len(), 32);
    assert_ne!(fingerprint_of(&added, 1), fingerprint_of(&added, 2));
    assert_eq!(fingerprint_of(&added, 3), "");
}

#[tokio::test]
async fn every_change_of_a_document_is_told_in_one_shape() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::file(Form::Codebase, folder.path().join("keys.json")).unwrap();
    let first = KeyDocument::first(Zeroizing::new([7; 32]), jiff::Timestamp::UNIX_EPOCH);
    let added = first.with_added(Zeroizing::new([8; 32]), jiff::Timestamp::UNIX_EPOCH).unwrap().into_document();
    let job = Job::from(triseal::grpc::v1::Job::default());
    let completed =
        |change, version| Changed { reencryption: Some(&job), ..Changed::of(&place, &added, change, version) };
    for (changed, name) in [
        (Changed::of(&place, &added, Change::Added, 2), "added"),
        (completed(Change::Promoted, 1), "promoted"),
        (Changed::of(&place, &added, Change::Retired, 1), "retired"),
        (Changed::of(&place, &added, Change::Unretired, 1), "unretired"),
    ] {
        let lines = changed.fields();
        let told = serde_json::to_value(&changed).unwrap();
        assert_eq!((&told["change"], &told["document"]), (&name.into(), &place.name.as_str().into()));
        assert_eq!((told["version"].as_u64(), told["primary"].as_u64()), (Some(changed.version.into()), Some(1)));
        assert_eq!(told["fingerprint"].as_str().map(str::len), Some(32));
        assert_eq!(told["reencryption"].is_object(), name == "promoted");
        assert!(lines.contains(&("change", name.to_owned())), "{lines:?}");
    }
}
