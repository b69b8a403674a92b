use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::factors::local::create;

fn keys() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let document = KeyDocument::first(Zeroizing::new([1; 32]), jiff::Timestamp::UNIX_EPOCH);
    create(&path, document.to_json(Form::Codebase).as_bytes()).unwrap();
    (folder, path)
}

fn source(path: &Path) -> DocumentFile {
    DocumentFile::new(Form::Codebase, path.to_owned())
}

/// With a version more than was fetched.
fn successor(fetched: Fetched) -> (Mark, Successor) {
    let octet = 1 + fetched.document.keys.len() as u8;
    let added = fetched.document.with_added(Zeroizing::new([octet; 32]), jiff::Timestamp::UNIX_EPOCH);
    (fetched.mark, added.unwrap())
}

#[tokio::test]
async fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
    let (folder, path) = keys();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
    // Of somebody who died between writing and renaming.
    std::fs::write(folder.path().join("keys.json.new"), "half").unwrap();
    let (mark, next) = successor(source(&path).fetch().await.unwrap());
    let made = source(&path).replace(&mark, &next).await.unwrap();
    let fetched = source(&path).fetch().await.unwrap();
    assert!(fetched.mark.is_same(&made) && !fetched.mark.is_same(&mark));
    assert_eq!((fetched.document.primary, fetched.document.keys.len()), (1, 2));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn of_two_changes_of_one_state_the_second_is_refused() {
    let (_folder, path) = keys();
    let (one, other) = (source(&path).fetch().await.unwrap(), source(&path).fetch().await.unwrap());
    let (mark, next) = successor(one);
    source(&path).replace(&mark, &next).await.unwrap();
    let before = std::fs::read(&path).unwrap();
    let (mark, next) = successor(other);
    assert_eq!(source(&path).replace(&mark, &next).await.err(), Some(ReplaceError::Changed));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn nobody_else_may_change_it_meanwhile() {
    let (folder, path) = keys();
    let (mark, next) = successor(source(&path).fetch().await.unwrap());
    let lock = File::open(folder.path()).unwrap();
    lock.try_lock().unwrap();
    assert_eq!(source(&path).replace(&mark, &next).await.err(), Some(ReplaceError::Changed));
    drop(lock);
    assert!(source(&path).replace(&mark, &next).await.is_ok());
}

#[tokio::test]
async fn a_link_stays_and_what_it_leads_to_is_replaced() {
    let (folder, path) = keys();
    let link = folder.path().join("link");
    symlink("keys.json", &link).unwrap();
    let (mark, next) = successor(source(&link).fetch().await.unwrap());
    source(&link).replace(&mark, &next).await.unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(source(&path).fetch().await.unwrap().document.keys.len(), 2);
}

#[tokio::test]
async fn what_can_not_be_written_leaves_the_old_file() {
    let (folder, path) = keys();
    let (mark, next) = successor(source(&path).fetch().await.unwrap());
    let before = std::fs::read(&path).unwrap();
    // A folder stands where the new file is to be written: also root meets an error.
    std::fs::create_dir(folder.path().join("keys.json.new")).unwrap();
    assert!(matches!(source(&path).replace(&mark, &next).await, Err(ReplaceError::Source(_))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(source(&path).replace(&mark, &next).await, Err(ReplaceError::Source(FactorError::Away(_)))));
}
