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
