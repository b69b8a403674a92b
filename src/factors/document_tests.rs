use base64ct::{Base64, Encoding};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::document::{DocumentError, Form, KeyDocument, KeyEntry, KeyState, MAX_DOCUMENT_OCTETS, Problem};

/// The base64 of a key of 32 such octets.
fn key(octet: u8) -> String {
    Base64::encode_string(&[octet; 32])
}

/// A document with these entries, whose primary is 1.
fn with_keys(entries: &str) -> String {
    format!(r#"{{"format": "triseal-environment-keys/v1", "primary": 1, "keys": [{entries}]}}"#)
}

fn refusal(text: &str) -> DocumentError {
    KeyDocument::parse(Form::Environment, text).expect_err("the document is wrong")
}

#[test]
fn the_form_in_the_documentation_is_read() {
    let text = format!(
        r#"{{"format": "triseal-environment-keys/v1", "primary": 2,
            "keys": [{{"version": 1, "key": "{}", "state": "retired",
                       "created_at": "2026-01-07T09:00:00Z", "primary_until": "2026-11-23T09:02:00Z"}},
                     {{"version": 2, "key": "{}"}}]}}"#,
        key(1),
        key(2)
    );
    let document = KeyDocument::parse(Form::Environment, &text).unwrap();
    assert_eq!((document.primary, document.keys.len()), (2, 2));
    let [first, second] = document.keys.as_slice() else { panic!("two keys") };
    assert_eq!((first.version, *first.key, first.state), (1, [1; 32], KeyState::Retired));
    assert_eq!(first.created_at.unwrap().to_string(), "2026-01-07T09:00:00Z");
    assert_eq!(first.primary_until.unwrap().to_string(), "2026-11-23T09:02:00Z");
    assert_eq!((second.version, *second.key, second.state), (2, [2; 32], KeyState::Enabled));
    assert_eq!((second.created_at, second.primary_until), (None, None));
}

/// JSON has many ways to write one string: programs that escape slashes, or all but letters, wrote no other document.
#[test]
fn strings_may_be_written_with_escapes() {
    // Its base64 has slashes, pluses and letters.
    let key = Base64::encode_string(&std::array::from_fn::<u8, 32, _>(|index| {
        [0xfb, 0xef, 0xbe, 0xff, 0xff, 0x7f][index % 6]
    }));
    assert!(key.contains('/') && key.contains('+'), "{key}");
    let plain = with_keys(&format!(r#"{{"version": 1, "key": "{key}", "created_at": "2026-01-07T09:00:00Z"}}"#));
    let escaped = |character: char| format!("\\u{:04x}", u32::from(character));
    let slashes = plain.replace('/', "\\/");
    let others = plain.replace('+', &escaped('+')).replace('=', &escaped('=')).replace("T09", &(escaped('T') + "09"));
    let names = plain.replace("\"key\"", &format!("\"{}ey\"", escaped('k')));
    let all = plain.replace(&key, &key.chars().map(escaped).collect::<String>());
    for text in [&plain, &slashes, &others, &names, &all] {
        let read = KeyDocument::parse(Form::Environment, text).unwrap();
        assert_eq!(Base64::encode_string(read.keys[0].key.as_slice()), key);
        assert!(read.keys[0].created_at.is_some());
    }
    let refusal = refusal(&slashes.replace("\\/v1", "\\/v2"));
    assert_eq!(refusal.problem, Problem::WrongFormat("triseal-environment-keys/v1"));
}

#[test]
fn each_defect_is_named_by_its_field() {
    let (one, two) = (key(1), key(2));
    let entry = |version: &str, key: &str| format!(r#"{{"version": {version}, "key": "{key}"}}"#);
    let good = entry("1", &one);
    let cases = [
        ("document", Problem::TooLong, " ".repeat(MAX_DOCUMENT_OCTETS + 1)),
        ("document", Problem::NotJson { line: 1, column: 0 }, String::new()),
        ("document", Problem::WrongType, "[]".to_owned()),
        ("document", Problem::NotJson { line: 2, column: 1 }, with_keys(&good) + "\n{}"),
        ("format", Problem::Missing, "{}".to_owned()),
        ("format", Problem::WrongType, r#"{"format": 1}"#.to_owned()),
        ("extra", Problem::WrongType, r#"{"extra": 1}"#.to_owned()),
        (
            "format",
            Problem::WrongFormat("triseal-environment-keys/v1"),
            with_keys(&good).replace("environment", "codebase"),
        ),
        ("format", Problem::WrongFormat("triseal-environment-keys/v1"), with_keys(&good).replace("/v1", "/v2")),
        ("primary", Problem::Missing, with_keys(&good).replace(r#""primary": 1, "#, "")),
        ("primary", Problem::WrongType, with_keys(&good).replace("primary\": 1,", "primary\": -1,")),
        ("primary", Problem::WrongType, with_keys(&good).replace("primary\": 1,", "primary\": 4294967296,")),
        ("primary", Problem::PrimaryNotEnabled, with_keys(&good).replace("primary\": 1,", "primary\": 0,")),
        ("primary", Problem::PrimaryNotEnabled, with_keys("")),
        ("primary", Problem::PrimaryNotEnabled, with_keys(&entry("2", &one))),
        ("primary", Problem::PrimaryNotEnabled, with_keys(&good.replace('}', r#", "state": "retired"}"#))),
        ("keys", Problem::Missing, r#"{"format": "triseal-environment-keys/v1", "primary": 1}"#.to_owned()),
        ("keys", Problem::WrongType, with_keys("").replace("[]", "{}")),
        ("keys[0].version", Problem::Missing, with_keys(&format!(r#"{{"key": "{one}"}}"#))),
        ("keys[0].version", Problem::Zero, with_keys(&entry("0", &one))),
        ("keys[1].version", Problem::Repeated, with_keys(&format!("{good}, {}", entry("1", &two)))),
        ("keys[0].key", Problem::Missing, with_keys(r#"{"version": 1}"#)),
        ("keys[0].key", Problem::NotAKey, with_keys(&entry("1", ""))),
        ("keys[0].key", Problem::NotAKey, with_keys(&entry("1", one.trim_end_matches('=')))),
        ("keys[0].key", Problem::NotAKey, with_keys(&entry("1", &Base64::encode_string(&[1; 31])))),
        ("keys[0].key", Problem::NotAKey, with_keys(&entry("1", &Base64::encode_string(&[1; 33])))),
        ("keys[0].key", Problem::NotAKey, with_keys(&entry("1", &format!(" {one}")))),
        ("keys[0].key", Problem::NotAKey, with_keys(&entry("1", &"ä".repeat(22)))),
        ("keys[0].key", Problem::ZeroKey, with_keys(&entry("1", &key(0)))),
        ("keys[1].key", Problem::Repeated, with_keys(&format!("{good}, {}", entry("2", &one)))),
        ("keys[0].state", Problem::WrongType, with_keys(&good.replace('}', r#", "state": "lost"}"#))),
        ("keys[0].created_at", Problem::WrongType, with_keys(&good.replace('}', r#", "created_at": "today"}"#))),
        ("keys[0]", Problem::WrongType, with_keys(&good.replace('}', r#", "version": 1}"#))),
        ("keys[0].extra", Problem::WrongType, with_keys(&good.replace('}', r#", "extra": 1}"#))),
    ];
    for (field, problem, text) in cases {
        assert_eq!(refusal(&text), DocumentError { field: field.to_owned(), problem }, "{text:.300}");
    }
}

/// A key is planted wherever one might end up by mistake.
#[test]
fn no_error_repeats_a_value() {
    const PLANTED: &str = "cGxhbnRlZCBrZXkgb2YgMzIgb2N0ZXRzLCBwbGVhc2U=";
    let entry = |fields: &str| with_keys(&format!("{{{fields}}}"));
    for text in [
        PLANTED.to_owned(),
        format!("\"{PLANTED}\""),
        format!("[\"{PLANTED}\"]"),
        format!(r#"{{"{PLANTED}": 1}}"#),
        format!(r#"{{"format": "{PLANTED}"}}"#),
        with_keys("").replace("1,", &format!("\"{PLANTED}\",")),
        with_keys(&format!("\"{PLANTED}\"")),
        entry(&format!(r#""{PLANTED}": 1"#)),
        entry(&format!(r#""version": "{PLANTED}""#)),
        entry(&format!(r#""version": 1, "key": ["{PLANTED}"]"#)),
        entry(&format!(r#""version": 1, "key": "{PLANTED}{PLANTED}""#)),
        entry(&format!(r#""version": 1, "key": "{PLANTED}\u0041""#)),
        entry(&format!(r#""version": 1, "key": "{PLANTED}", "state": "{PLANTED}""#)),
        entry(&format!(r#""version": 1, "key": "{PLANTED}", "created_at": "{PLANTED}""#)),
        entry(&format!(r#""version": 9, "key": "{PLANTED}""#)),
        entry(&format!(r#""version": 1, "key": "{PLANTED}"#)),
        with_keys(&format!(r#"{{"version": 1, "key": "{PLANTED}"}}, {{"version": 2, "key": "{PLANTED}"}}"#)),
    ] {
        let refusal = refusal(&text);
        let told = format!("{refusal} {refusal:?}");
        for length in [12, 20] {
            assert!(
                PLANTED.as_bytes().windows(length).all(|part| !told.contains(str::from_utf8(part).unwrap())),
                "{told}"
            );
        }
    }
    let document = KeyDocument::parse(Form::Environment, &entry(&format!(r#""version": 1, "key": "{PLANTED}""#)));
    assert!(!format!("{:?}", document.unwrap().keys).contains("planted"));
}

fn some_entries() -> impl Strategy<Value = Vec<(u32, [u8; 32], bool, Option<i64>)>> {
    let entry =
        (any::<u32>(), any::<[u8; 32]>(), any::<bool>(), proptest::option::of(-10_000_000_000..100_000_000_000_i64));
    proptest::collection::vec(entry, 1..20)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(entries in some_entries()) {
        let keys: Vec<_> = entries
            .into_iter()
            .enumerate()
            .map(|(index, (version, mut key, retired, second))| {
                // Every version and key once, and none of them zero.
                key[..8].copy_from_slice(&(index as u64 + 1).to_be_bytes());
                KeyEntry {
                    version: (version / 32).saturating_mul(32).saturating_add(index as u32 + 1),
                    key: Zeroizing::new(key),
                    state: if retired && index > 0 { KeyState::Retired } else { KeyState::Enabled },
                    created_at: second.map(|second| jiff::Timestamp::new(second, 123_456_789).unwrap()),
                    primary_until: second.map(|second| jiff::Timestamp::from_second(second).unwrap()),
                }
            })
            .collect();
        let mut versions: Vec<_> = keys.iter().map(|entry| entry.version).collect();
        versions.sort_unstable();
        versions.dedup();
        prop_assume!(versions.len() == keys.len());
        let document = KeyDocument { primary: keys[0].version, keys };
        let text = document.to_json(Form::Codebase);
        prop_assert!(text.capacity() == 128 + document.keys.len() * 256, "the text was never moved");
        let read = KeyDocument::parse(Form::Codebase, &text).unwrap();
        prop_assert_eq!(read.primary, document.primary);
        prop_assert_eq!(read.keys.len(), document.keys.len());
        for (read, written) in read.keys.iter().zip(&document.keys) {
            prop_assert_eq!((read.version, &read.key, read.state), (written.version, &written.key, written.state));
            prop_assert_eq!((read.created_at, read.primary_until), (written.created_at, written.primary_until));
        }
        prop_assert!(KeyDocument::parse(Form::Environment, &text).is_err());
    }

    #[test]
    fn nothing_makes_it_panic(text in ".{0,200}") {
        let _ = KeyDocument::parse(Form::Environment, &text);
    }
}
