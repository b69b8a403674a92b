use proptest::prelude::*;

use super::super::fakes::{at, credential, entry, lineage, of_stream, read};
use super::super::line::Line;
use super::*;
use crate::crypto::Version;
use crate::ids::TraceId;

/// Made by a script that knows docs/AUDIT.md alone. They never change: logs are kept for years.
const FIRST: &str = r#"{"stream":"0123456789abcdef0123456789abcdef","seq":1,"time":"2026-11-24T09:00:00.000000Z","event":"stream_opened","caller":null,"customer":null,"credential":null,"view":null,"revision":null,"lineage":null,"outcome":"ok","request_id":null,"trace_id":null,"prev":"bf4ec0ea7a156928cc289bcc4847ed336b5ff9071039f988c8c16e05d1fe0cb7","hash":"59d5aa8fb80e46f4772eff8a6bef2c80a7ae0918aa947b658a032e482837b806"}"#;
const SECOND: &str = r#"{"stream":"0123456789abcdef0123456789abcdef","seq":2,"time":"2026-11-24T09:00:01.234567Z","event":"decrypt_credential","caller":"spiffe://example.com/realtask","customer":"acme","credential":"realsync.main","view":"full","revision":18446744073709551615,"lineage":"1/2/4294967295","outcome":"ok","request_id":"a\"b\\c","trace_id":"0af7651916cd43dd8448eb211c80319c","prev":"59d5aa8fb80e46f4772eff8a6bef2c80a7ae0918aa947b658a032e482837b806","hash":"a0a6554e20ab31ab21bfa7d3ece4fcb2df3088dd21968bebec825b99b3eda301"}"#;

fn stream() -> StreamId {
    StreamId::parse("0123456789abcdef0123456789abcdef").unwrap()
}

fn second() -> Entry {
    let trace = [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    let version = |number| Version::new(number).unwrap();
    let subject = Subject {
        view: Some(View::Full),
        revision: Revision::new(u64::MAX),
        versions: Some(Lineage { codebase: version(1), environment: version(2), customer: version(u32::MAX) }.into()),
        ..Subject::credential(&credential("acme", "realsync.main"))
    };
    Entry {
        event: Event::DecryptCredential,
        caller: Some(Caller::new("spiffe://example.com/realtask")),
        request: Some(RequestId::parse("a\"b\\c").unwrap()),
        trace: Some(TraceId(trace)),
        subject,
        outcome: Outcome::Ok,
    }
}

#[test]
fn one_version_of_a_customers_key_stands_in_the_place_of_a_lineage() {
    let versions = Some(Versions::Customer(Version::new(2).unwrap()));
    let subject = Subject { versions, ..Subject::customer(&CustomerId::parse("acme").unwrap()) };
    let mut line = Vec::new();
    Chain::new(stream()).append(Timestamp::UNIX_EPOCH, &Entry { subject, ..second() }, &mut line);
    let line = String::from_utf8(line).unwrap();
    assert!(line.contains(r#""revision":null,"lineage":"-/-/2","outcome":"ok""#), "{line}");
}

#[test]
fn the_octets_are_those_of_the_specification() {
    let mut chain = Chain::new(stream());
    let mut log = Vec::new();
    chain.append("2026-11-24T09:00:00Z".parse().unwrap(), &of_stream(Event::StreamOpened), &mut log);
    chain.append("2026-11-24T09:00:01.234567891Z".parse().unwrap(), &second(), &mut log);
    assert_eq!(String::from_utf8(log).unwrap(), format!("{FIRST}\n{SECOND}\n"));
    assert_eq!(chain.end().0, 2);
}

#[test]
fn a_line_is_json_with_exactly_the_fields_of_the_contract_in_their_order() {
    let fields = [
        "stream",
        "seq",
        "time",
        "event",
        "caller",
        "customer",
        "credential",
        "view",
        "revision",
        "lineage",
        "outcome",
        "request_id",
        "trace_id",
        "prev",
        "hash",
    ];
    for line in [FIRST, SECOND] {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        assert_eq!(object.len(), fields.len());
        let places: Vec<_> = fields.map(|field| line.find(&format!("\"{field}\":")).unwrap()).to_vec();
        assert!(places.is_sorted(), "{line}");
    }
}

#[test]
fn the_longest_entry_fits_into_a_line_and_a_longer_caller_is_refused() {
    let longest = |caller: &str| {
        let id = "x".repeat(128);
        let request = "\"".repeat(128);
        let version = |number| Version::new(number).unwrap();
        let lineage =
            Lineage { codebase: version(u32::MAX), environment: version(u32::MAX), customer: version(u32::MAX) };
        let event = *Event::ALL.iter().max_by_key(|event| event.as_str().len()).unwrap();
        let reason = *Reason::ALL.iter().max_by_key(|reason| reason.as_str().len()).unwrap();
        let mut entry =
            entry(caller, &request, event, &credential(&id, &id), Some(View::Access), u64::MAX, Outcome::Ok);
        entry.outcome = Outcome::Refused(reason);
        entry.request = entry.request.map(|given| RequestId::of_call(&given));
        entry.subject.versions = Some(lineage.into());
        entry
    };
    let mut chain = Chain { stream: stream(), seq: u64::MAX - 1, hash: Hash::first(&stream()) };
    for caller in ["a".repeat(4_096), "\"".repeat(2_048), "\u{1}".repeat(682), "ä".repeat(2_048)] {
        let entry = longest(&caller);
        assert!(entry.fits());
        let mut line = Vec::new();
        chain.seq = u64::MAX - 1;
        chain.append("-009999-01-02T01:59:59Z".parse().unwrap(), &entry, &mut line);
        assert!(line.len() <= MAX_LINE_OCTETS, "{}", line.len());
    }
    for caller in ["a".repeat(4_097), "\"".repeat(2_049), "\u{1}".repeat(683)] {
        assert!(!longest(&caller).fits());
    }
}

#[test]
fn times_compare_as_texts() {
    let times =
        ["2026-11-24T09:00:00Z", "2026-11-24T09:00:00.0000019Z", "2026-11-24T09:00:00.1Z", "2026-11-25T00:00:00Z"];
    let texts: Vec<_> = times.iter().map(|time| entry_time(time.parse().unwrap())).collect();
    assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == 27), "{texts:?}");
    assert_eq!(texts[1], "2026-11-24T09:00:00.000001Z");
}

#[test]
fn streams_have_names_of_their_own() {
    let (one, other) = (StreamId::random().unwrap(), StreamId::random().unwrap());
    assert_ne!(one, other);
    assert_eq!(StreamId::parse(one.as_str()), Some(one));
    for bad in
        ["", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde", "g123456789abcdef0123456789abcdef"]
    {
        assert_eq!(StreamId::parse(bad), None, "{bad}");
    }
}

#[test]
fn another_stream_has_another_chain() {
    let mut lines = Vec::new();
    for stream in [stream(), StreamId::random().unwrap()] {
        let (mut chain, mut line) = (Chain::new(stream), Vec::new());
        chain.append(at(0), &read("realtask", &credential("acme", "crm"), 1), &mut line);
        lines.push(Line::parse(line.trim_ascii_end()).unwrap().hash);
    }
    assert_ne!(lines[0], lines[1]);
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let id = "[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}";
    let words = (0..Event::ALL.len(), 0..Reason::ALL.len() + 2);
    // A caller may be anything that the edge makes an identity of, and more.
    let who = (any::<Option<String>>(), proptest::option::of("[!-~]{1,40}"), any::<Option<[u8; 16]>>());
    let what = (
        proptest::option::of((id, proptest::option::of(id))),
        any::<Option<bool>>(),
        any::<Option<u64>>(),
        any::<bool>(),
    );
    (words, who, what).prop_map(|((event, outcome), (caller, request, trace), (of, view, revision, sealed))| Entry {
        event: Event::ALL[event],
        caller: caller.map(|caller| Caller::new(&caller)),
        request: request.map(|request| RequestId::parse(&request).unwrap()),
        trace: trace.map(TraceId),
        subject: Subject {
            customer: of.as_ref().map(|(customer, _)| CustomerId::parse(customer).unwrap()),
            credential: of.and_then(|(_, credential)| credential).map(|id| CredentialId::parse(&id).unwrap()),
            view: view.map(|full| if full { View::Full } else { View::Access }),
            revision: revision.and_then(Revision::new),
            versions: sealed.then(|| lineage().into()),
        },
        outcome: match outcome {
            0 => Outcome::Intent,
            1 => Outcome::Ok,
            reason => Outcome::Refused(Reason::ALL[reason - 2]),
        },
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec(any_entry(), 1..5), second in 0..1_000_000_i64) {
        let (mut chain, mut log) = (Chain::new(stream()), Vec::new());
        for entry in &entries {
            chain.append(at(second), entry, &mut log);
        }
        let log = String::from_utf8(log).unwrap();
        prop_assert_eq!(log.lines().count(), entries.len(), "nothing breaks a line");
        let mut prev = Hash::first(&stream());
        for (text, entry) in log.lines().zip(&entries) {
            let line = Line::parse(text.as_bytes()).unwrap();
            prop_assert!(line.is_intact());
            prop_assert_eq!(line.prev, prev);
            prop_assert_eq!(line.stream, stream());
            prop_assert_eq!(line.time, entry_time(at(second)));
            prop_assert_eq!(line.event, entry.event.as_str());
            let caller = line.caller();
            prop_assert_eq!(caller.as_deref(), entry.caller.as_ref().map(Caller::as_str));
            prop_assert_eq!(line.customer, entry.subject.customer.as_ref().map(CustomerId::as_str));
            prop_assert_eq!(line.credential, entry.subject.credential.as_ref().map(CredentialId::as_str));
            prop_assert_eq!(line.view, entry.subject.view.map(view_word));
            prop_assert_eq!(line.revision, entry.subject.revision.map(Revision::get));
            prop_assert_eq!(line.outcome, entry.outcome.as_str());
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            prop_assert_eq!(json["request_id"].as_str(), entry.request.as_ref().map(RequestId::as_str));
            prev = line.hash;
        }
        prop_assert_eq!(chain.end(), (entries.len() as u64, prev));
    }
}
