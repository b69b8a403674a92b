use super::super::entry::Outcome;
use super::super::fakes::{Made, credential, entry, read};
use super::super::words::Event;
use super::*;
use crate::secret::View;

fn lines() -> Vec<String> {
    let mut made = Made::closed('a', 2);
    let of = credential("acme", "crm");
    made.add(&read("ä\"\\\u{1}\u{7f}", &of, 7));
    made.add(&entry("realtask", "\\\"", Event::AcquireRefresh, &of, Some(View::Access), 1, Outcome::Intent));
    made.lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

fn refused(line: impl AsRef<[u8]>) -> NotAnEntry {
    Line::parse(line.as_ref())
        .err()
        .unwrap_or_else(|| panic!("{:?} was read", line.as_ref().escape_ascii().to_string()))
}

#[test]
fn every_beginning_of_a_line_is_cut_off_and_says_of_what_once_that_stands_there() {
    for line in lines() {
        let seq_ends = line.find(",\"time\"").unwrap();
        for end in 0..line.len() {
            let NotAnEntry::CutOff(of) = refused(&line.as_bytes()[..end]) else { panic!("{end}: {line}") };
            assert_eq!(of.is_some(), end > seq_ends, "{end}: {line}");
        }
    }
}

#[test]
fn every_changed_octet_is_noticed() {
    for line in lines() {
        for place in 0..line.len() {
            for flip in [1, 2, 0x20, 0x80] {
                let mut octets = line.clone().into_bytes();
                octets[place] ^= flip;
                let intact = Line::parse(&octets).is_ok_and(|line| line.is_intact());
                assert!(!intact, "octet {place} of {line}");
            }
        }
    }
}

#[test]
fn what_is_not_canonical_is_no_entry() {
    let line = lines().remove(2);
    assert!(Line::parse(line.as_bytes()).unwrap().is_intact());
    let edits: [(&str, &str, &str); 15] = [
        ("a space", "{\"stream\"", "{ \"stream\""),
        (
            "another order",
            ",\"customer\":\"acme\",\"credential\":\"crm\"",
            ",\"credential\":\"crm\",\"customer\":\"acme\"",
        ),
        ("a further field", ",\"prev\"", ",\"more\":1,\"prev\""),
        ("a field that is absent", ",\"view\":\"full\"", ""),
        ("a number as a text", "\"seq\":3", "\"seq\":\"3\""),
        ("a zero before a number", "\"seq\":3", "\"seq\":03"),
        ("the number 0", "\"seq\":3", "\"seq\":0"),
        ("a sign", "\"seq\":3", "\"seq\":+3"),
        ("an exponent", "\"seq\":3", "\"seq\":3e0"),
        ("a number beyond 2^64", "\"seq\":3", "\"seq\":18446744073709551616"),
        ("a stream in capitals", "\"aaaa", "\"AAAA"),
        ("an escaped id", "\"acme\"", "\"\\u0061cme\""),
        ("a null that is a text", "\"revision\":7", "\"revision\":\"null\""),
        ("a raw control character", "\"crm\"", "\"c\u{1}m\""),
        ("something after it", "\"}", "\"} "),
    ];
    for (what, from, to) in edits {
        let edited = line.replacen(from, to, 1);
        assert_ne!(edited, line, "{what}");
        assert_eq!(refused(edited), NotAnEntry::Malformed, "{what}");
    }
    for not_even_text in [&b"\xff\xfe"[..], b"{\"stream\":\"\xff", b"PK\x03\x04", b"-----BEGIN", b"null", b"[]"] {
        assert_eq!(refused(not_even_text), NotAnEntry::Malformed);
    }
}

#[test]
fn a_character_that_is_cut_in_two_is_cut_off() {
    let line = lines().remove(2);
    let place = line.find('ä').unwrap();
    assert!(matches!(refused(&line.as_bytes()[..=place]), NotAnEntry::CutOff(Some(_))));
}

#[test]
fn callers_are_shown_as_they_were() {
    let lines = lines();
    let caller = |line: &'static str| Line::parse(line.as_bytes()).unwrap().caller().map(Cow::into_owned);
    let third: &'static str = lines[2].clone().leak();
    assert_eq!(caller(third).as_deref(), Some("ä\"\\\u{1}\u{7f}"));
    let first: &'static str = lines[0].clone().leak();
    assert_eq!(caller(first), None);
}
