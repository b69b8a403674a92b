use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;

use super::*;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// That the corpus has a seed that is made by a test. One that is missing is written, so that it can be committed.
#[track_caller]
pub(crate) fn expect_seed(target: &str, name: &str, octets: &[u8]) {
    let path = fuzz().join("corpus").join(target).join(format!("seed-{name}"));
    if fs::read(&path).is_ok_and(|present| present == octets) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, octets).unwrap();
    panic!("{} was missing or of an older form: it was written now; look at it and commit it", path.display());
}

/// A seed that is there.
pub(crate) fn seed(target: &str, name: &str) -> Vec<u8> {
    let path = fuzz().join("corpus").join(target).join(format!("seed-{name}"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a fuzzer found once, and what seeds it.
#[test]
fn the_corpora_break_no_promise() {
    let broken: Vec<_> = thread::scope(|scope| {
        let replays: Vec<_> = TARGETS.iter().map(|target| scope.spawn(|| replay(target))).collect();
        replays.into_iter().flat_map(|replay| replay.join().unwrap()).collect()
    });
    assert!(broken.is_empty(), "what was said above is of: {broken:?}");
}

/// The files of a corpus that break a promise.
fn replay(Target { name, run }: &Target) -> Vec<String> {
    let folder = fuzz().join("corpus").join(name);
    let inputs = names_in(&folder);
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    let breaks = |input: &String| {
        let octets = fs::read(folder.join(input)).unwrap();
        catch_unwind(AssertUnwindSafe(|| run(&octets))).is_err()
    };
    inputs.into_iter().filter(breaks).map(|input| format!("fuzz/corpus/{name}/{input}")).collect()
}

#[test]
fn every_target_is_built_and_has_a_corpus() {
    let targets: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    assert_eq!(names_in(&fuzz().join("corpus")), targets);
    let files = targets.iter().map(|target| format!("{target}.rs")).collect();
    assert_eq!(names_in(&fuzz().join("fuzz_targets")), files);
    let manifest: toml::Table = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap().parse().unwrap();
    let built = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned());
    assert_eq!(built.collect::<BTreeSet<_>>(), targets);
    for target in &targets {
        let text = fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{target}.rs"))).unwrap();
        assert!(text.contains(&format!("triseal::fuzzing::{target}(octets)")), "{target}.rs runs another target");
    }
}

#[test]
fn seeds_of_envelopes_open() {
    let envelope = sealed(b"\x01a stored secret");
    assert!(open_canonical(&root(), envelope.as_octets()).is_some());
    expect_seed("envelope", "good", &[&[0], envelope.as_octets()].concat());
    expect_seed("envelope", "one-bit-changed", &[1, 0, 90, 1]);
    expect_seed("envelope", "changed-and-changed-back", &[1, 0, 90, 1, 0, 90, 1]);
    expect_seed("envelope", "cut-off", &[1, 16]);
    expect_seed("envelope", "another-version", &[1, 0, 7, 3]);
    expect_seed("envelope", "to-seal", b"\x02a plaintext of any octets\x80\x00\x00");
    expect_seed("envelope", "a-whole-block-to-seal", &[2; 65]);
}

#[test]
fn seeds_of_stored_secrets_are_read() {
    use crate::secret::{Opaque, Password, SalesforceOAuth, Secret, SecretOctets, SecretString};
    let text = |text: &str| SecretString::new(text.to_owned());
    let time = |second| Some(jiff::Timestamp::new(second, 999).unwrap());
    let secrets = [
        Secret::SalesforceOAuth(SalesforceOAuth {
            access_token: text("token"),
            refresh_token: text("refresh"),
            instance_url: "https://acme.my.salesforce.com".to_owned(),
            token_url: String::new(),
            identity_url: String::new(),
            scopes: vec!["api".to_owned(), "id".to_owned()],
            issue_time: time(1_764_000_000),
            access_token_expire_time: time(-1_764_000_000),
        }),
        Secret::Password(Password {
            username: text("user"),
            password: text("word"),
            security_token: text("token"),
            login_url: "https://login.salesforce.com".to_owned(),
        }),
        Secret::Opaque(Opaque { data: SecretOctets::new(vec![0, 255, 1]), content_type: "text/plain".to_owned() }),
    ];
    for secret in secrets {
        let kind = secret.kind();
        let plaintext = stored::encode(secret).unwrap();
        expect_seed("stored_secret", kind.as_str(), plaintext.expose_secret());
    }
}

#[test]
fn seeds_of_key_documents_are_what_their_names_say() {
    let read = |form, name| {
        let text = String::from_utf8(seed("key_document", name)).unwrap();
        KeyDocument::parse(form, &text).map(|document| document.primary).map_err(|error| error.to_string())
    };
    assert_eq!(read(Form::Environment, "environment"), Ok(2));
    assert_eq!(read(Form::Environment, "escaped"), Ok(1));
    assert_eq!(read(Form::Codebase, "codebase"), Ok(2));
    assert_eq!(read(Form::Environment, "good-key-misplaced"), Ok(1));
    for name in
        ["key-for-a-state", "key-for-a-format", "key-for-a-name", "key-for-a-time", "key-alone", "zero", "twice"]
    {
        read(Form::Environment, name).unwrap_err();
    }
}

#[test]
#[should_panic(expected = "an error repeats what it refuses")]
fn an_error_that_repeats_what_it_refuses_is_found() {
    tells_nothing(format!("unknown field `{MISPLACED}`"));
}

#[test]
fn what_was_misplaced_could_be_a_key() {
    use base64ct::{Base64, Encoding};
    assert_eq!(Base64::decode_vec(MISPLACED).unwrap().len(), 32);
}
