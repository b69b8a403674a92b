use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::crypto::Version;
use crate::ids::{CustomerId, Deployment};

const DOCUMENT: &str = r#"{"format": "triseal-environment-keys/v1", "primary": 1, "keys": [
    {"version": 1, "key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}]}"#;

/// A directory with one file of mode 0600.
fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    create(&path, content).unwrap();
    (directory, path)
}

fn wrapper(octet: u8) -> LocalWrapper {
    let (_directory, path) = file(Base64::encode_string(&[octet; 32]).as_bytes());
    LocalWrapper::open(&path).unwrap()
}

fn refusal(path: &Path) -> KeyFileError {
    match LocalWrapper::open(path) {
        Err(error) => error,
        Ok(_) => panic!("{} was read", path.display()),
    }
}

async fn fetch(path: &Path) -> Result<KeySet<Environment>, FactorError> {
    EnvironmentFile::new(path.to_owned()).fetch().await
}

/// What a wrapped key is bound to.
struct Binding(Deployment, CustomerId, u32);

impl Binding {
    fn new(deployment: &str, customer: &str, version: u32) -> Self {
        Self(Deployment::parse(deployment).unwrap(), CustomerId::parse(customer).unwrap(), version)
    }

    fn context(&self) -> WrapContext<'_> {
        WrapContext { deployment: &self.0, customer: &self.1, version: Version::new(self.2).unwrap() }
    }
}

#[tokio::test]
async fn a_file_that_others_may_read_or_change_is_refused() {
    let (_directory, path) = file(DOCUMENT.as_bytes());
    assert_eq!(fetch(&path).await.unwrap().primary(), Version::FIRST);
    for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o777] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        assert!(matches!(refusal(&path), KeyFileError::OpenToOthers(_, told) if told == mode));
        assert!(matches!(fetch(&path).await, Err(FactorError::Refused(_))), "{mode:o}");
    }
    for mode in [0o600, 0o400, 0o700] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        assert!(fetch(&path).await.is_ok(), "{mode:o}");
    }
}

#[tokio::test]
async fn what_is_no_key_file_is_told_apart() {
    let (directory, path) = file(DOCUMENT.as_bytes());
    let missing = directory.path().join("missing");
    assert!(matches!(refusal(&missing), KeyFileError::Absent(at) if at == missing));
    assert!(matches!(fetch(&missing).await, Err(FactorError::Absent(_))));
    assert!(!missing.exists(), "nothing is made because a reading failed");
    assert!(matches!(refusal(directory.path()), KeyFileError::NotAKeyFile(..)));
    assert!(matches!(fetch(directory.path()).await, Err(FactorError::Corrupt(_))));
    let below_a_file = path.join("key");
    assert!(matches!(refusal(&below_a_file), KeyFileError::Io(..)));
    assert!(matches!(fetch(&below_a_file).await, Err(FactorError::Away(_))));

    for content in [&b"\xff\xfe"[..], b"", b"{}", b"not json", &[b' '; MAX_DOCUMENT_OCTETS + 1]] {
        let (_directory, path) = file(content);
        assert!(matches!(fetch(&path).await, Err(FactorError::Corrupt(_))));
        assert!(matches!(refusal(&path), KeyFileError::NotAKeyFile(..)));
    }
    // As long as a document may be.
    let mut longest = DOCUMENT.to_owned();
    longest.push_str(&" ".repeat(MAX_DOCUMENT_OCTETS - DOCUMENT.len()));
    let (_directory, path) = file(longest.as_bytes());
    assert!(fetch(&path).await.is_ok());
}

#[test]
fn a_wrapping_key_is_the_base64_of_32_octets() {
    let good = Base64::encode_string(&[7; 32]);
    for content in [good.clone(), format!("{good}\n")] {
        let (_directory, path) = file(content.as_bytes());
        assert!(LocalWrapper::open(&path).is_ok());
    }
    for content in [
        Base64::encode_string(&[7; 31]),
        Base64::encode_string(&[7; 33]),
        Base64::encode_string(&[7; 64]),
        Base64::encode_string(&[0; 32]),
        good.trim_end_matches('=').to_owned(),
        format!(" {good}"),
        format!("{good}\r\n"),
        format!("{good}\n{good}\n"),
        "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBw*=".to_owned(),
    ] {
        let (_directory, path) = file(content.as_bytes());
        let told = format!("{0} {0:?}", refusal(&path));
        assert!(!told.contains("BwcHBwcH") && told.contains(path.to_str().unwrap()), "{told}");
    }
}

#[test]
fn an_error_names_the_file_and_the_field_and_no_value() {
    let (_directory, path) = file(DOCUMENT.replace("AQE=", "AQE").as_bytes());
    let error = read_document(Form::Environment, &path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}: keys[0].key: must be the base64 of 32 octets, with padding", path.display())
    );
}

#[tokio::test]
async fn a_key_is_unwrapped_for_its_context_by_its_wrapper_alone() {
    let wrapper_one = wrapper(1);
    let binding = Binding::new("test", "acme", 1);
    let wrapped = wrapper_one.wrap_new(&binding.context()).await.unwrap();
    let key = wrapper_one.unwrap(&binding.context(), &wrapped).await.unwrap();
    assert!(key.is_same(&wrapper_one.unwrap(&binding.context(), &wrapped).await.unwrap()));
    assert!(!wrapped.octets.windows(32).any(|octets| octets == key.expose_secret()));

    let corrupt = |outcome| matches!(outcome, Err(FactorError::Corrupt(_)));
    for other in [
        Binding::new("other", "acme", 1),
        Binding::new("test", "acm", 1),
        Binding::new("testa", "cme", 1),
        Binding::new("test", "acme", 2),
        Binding::new("test", "acme", 11),
    ] {
        assert!(corrupt(wrapper_one.unwrap(&other.context(), &wrapped).await));
    }
    for at in 0..wrapped.octets.len() {
        let mut changed = wrapped.clone();
        changed.octets[at] ^= 1;
        assert!(corrupt(wrapper_one.unwrap(&binding.context(), &changed).await), "octet {at}");
        changed.octets.truncate(at);
        assert!(corrupt(wrapper_one.unwrap(&binding.context(), &changed).await), "cut to {at}");
    }

    // Another wrapping key refuses, and does not open it under the first one's name.
    let wrapper_two = wrapper(2);
    assert!(matches!(wrapper_two.unwrap(&binding.context(), &wrapped).await, Err(FactorError::Refused(_))));
    let renamed = WrappedKey { kms_key_arn: wrapper_two.name.clone(), ..wrapped.clone() };
    assert!(corrupt(wrapper_two.unwrap(&binding.context(), &renamed).await));
    // The same key from another file is the same wrapper.
    assert!(wrapper(1).unwrap(&binding.context(), &wrapped).await.unwrap().is_same(&key));
}

#[tokio::test]
async fn a_key_that_is_wrapped_anew_is_the_same_key() {
    let (wrapper_one, binding) = (wrapper(1), Binding::new("test", "acme", 1));
    let wrapped = wrapper_one.wrap_new(&binding.context()).await.unwrap();
    let anew = wrapper_one.rewrap(&binding.context(), &wrapped).await.unwrap();
    assert_ne!(anew.octets, wrapped.octets);
    let key = wrapper_one.unwrap(&binding.context(), &wrapped).await.unwrap();
    assert!(wrapper_one.unwrap(&binding.context(), &anew).await.unwrap().is_same(&key));
    let other = Binding::new("test", "other", 1);
    assert!(matches!(wrapper_one.rewrap(&other.context(), &wrapped).await, Err(FactorError::Corrupt(_))));
    assert!(matches!(wrapper(2).rewrap(&binding.context(), &wrapped).await, Err(FactorError::Refused(_))));
}

#[tokio::test]
async fn every_new_key_is_another() {
    let (wrapper, binding) = (wrapper(1), Binding::new("test", "acme", 1));
    let first = wrapper.wrap_new(&binding.context()).await.unwrap();
    let second = wrapper.wrap_new(&binding.context()).await.unwrap();
    assert_ne!(first.octets[1..33], second.octets[1..33], "the salt");
    let unwrap = async |wrapped| wrapper.unwrap(&binding.context(), wrapped).await.unwrap();
    assert!(!unwrap(&first).await.is_same(&unwrap(&second).await));
}

#[test]
fn a_new_file_is_its_owners_and_nothing_else_is_left() {
    let (directory, path) = file(b"content");
    assert_eq!(std::fs::read(&path).unwrap(), b"content");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}

#[test]
fn what_is_there_is_never_written_over() {
    let (directory, path) = file(b"former");
    std::os::unix::fs::symlink("nowhere", directory.path().join("dangling")).unwrap();
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    for name in ["file", "dangling", "directory"] {
        let refusal = create(&directory.path().join(name), b"new").unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::AlreadyExists, "{name}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"former");
    assert!(!directory.path().join("nowhere").exists());
    let missing = directory.path().join("missing/file");
    assert_eq!(create(&missing, b"new").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(create(Path::new("/"), b"new").is_err());
    assert_eq!(directory.path().read_dir().unwrap().count(), 3);
}
