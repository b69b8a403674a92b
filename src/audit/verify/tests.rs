use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::fakes::{FakeMac, Made, at, credential, kinds, of_stream, read, verify};
use super::*;

/// Three streams of 20 entries each, and their heads.
fn three() -> (Vec<Made>, Vec<Head>) {
    let streams: Vec<_> = "abc".chars().map(|digit| Made::closed(digit, 20)).collect();
    let heads = streams.iter().map(|stream| stream.head(true)).collect();
    (streams, heads)
}

fn one() -> (Made, Option<Vec<Head>>) {
    let made = Made::closed('a', 20);
    let heads = Some(vec![made.head(true)]);
    (made, heads)
}

/// Edits the lines of a stream, and tells what is found, with and without its head.
fn found(edit: impl Fn(&mut Vec<String>)) -> (Vec<&'static str>, Vec<&'static str>) {
    let (made, heads) = one();
    let mut lines = made.lines.clone();
    edit(&mut lines);
    let log = lines.concat();
    let verdicts = (verify(heads, &[&log]), verify(None, &[&log]));
    (kinds(&verdicts.0), kinds(&verdicts.1))
}

/// Found alike with and without the head.
#[track_caller]
fn finds(edit: impl Fn(&mut Vec<String>), wanted: &[&str]) {
    let (with_head, without) = found(edit);
    assert_eq!(with_head, wanted);
    assert_eq!(without, wanted);
}

/// The line with other content, its hash made anew.
fn rehashed(line: &str, from: &str, to: &str) -> String {
    let edited = line.replacen(from, to, 1);
    assert_ne!(edited, line);
    let parsed = Line::parse(line.trim_end().as_bytes()).unwrap();
    let hashed = edited.split(",\"prev\"").next().unwrap();
    edited.replace(&parsed.hash.to_string(), &Hash::link(&parsed.prev, hashed.as_bytes()).to_string())
}

#[test]
fn a_log_as_it_was_written_is_clean() {
    let (streams, heads) = three();
    let all: String = streams.iter().map(Made::log).collect();
    let verdict = verify(Some(heads), &[&all]);
    assert_eq!(kinds(&verdict), [""; 0]);
    assert!(verdict.is_clean());
    assert_eq!((verdict.entries, verdict.heads, verdict.torn_lines), (60, Some(3), 0));
    let seen: Vec<_> = verdict.streams.iter().map(|seen| (seen.entries, seen.end, seen.head)).collect();
    assert_eq!(seen, [((1, 20), End::Closed, Some(20)); 3]);
    assert_eq!(verdict.streams[0].times.0, "2025-11-24T16:00:00.000000Z");
    assert_eq!(verdict.streams[0].times.1, "2025-11-24T16:00:19.000000Z");
}

#[test]
fn files_may_come_in_any_order_and_hold_several_streams() {
    let (streams, heads) = three();
    let part = |stream: usize, from: usize, to: usize| streams[stream].lines[from..to].concat();
    let files = [
        part(0, 0, 7),
        // Lines of several processes, as a collector of their standard outputs mixes them.
        streams[1].lines[..5].iter().zip(&streams[2].lines[..5]).map(|(one, other)| format!("{one}{other}")).collect(),
        part(0, 7, 20),
        part(1, 5, 11) + &part(2, 5, 20),
        part(1, 11, 20),
        String::new(),
    ];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    for rotation in 0..files.len() {
        let mut files = files.clone();
        files.rotate_left(rotation);
        assert_eq!(kinds(&verify(Some(heads.clone()), &files)), [""; 0]);
        files.reverse();
        assert_eq!(kinds(&verify(Some(heads.clone()), &files)), [""; 0]);
    }
}

#[test]
fn a_changed_entry_is_found() {
    finds(|lines| lines[9] = lines[9].replace("realtask", "realsync"), &["changed"]);
    finds(|lines| lines[9] = lines[9].replace("\"revision\":10", "\"revision\":9"), &["changed"]);
    finds(|lines| lines[9] = lines[9].replace("2025-11-24", "2025-11-25"), &["changed"]);
}

#[test]
fn a_changed_entry_whose_hash_was_made_anew_is_found_by_the_next() {
    finds(|lines| lines[9] = rehashed(&lines[9], "realtask", "realsync"), &["unlinked"]);
}

#[test]
fn a_changed_hash_or_link_is_found() {
    let flip = |line: &str, field: &str| {
        let place = line.find(&format!("\"{field}\":\"")).unwrap() + field.len() + 4;
        let other = if line[place..].starts_with('0') { "1" } else { "0" };
        let mut line = line.to_owned();
        line.replace_range(place..=place, other);
        line
    };
    finds(|lines| lines[9] = flip(&lines[9], "hash"), &["changed", "unlinked"]);
    finds(|lines| lines[9] = flip(&lines[9], "prev"), &["changed", "unlinked"]);
}

#[test]
fn a_dropped_entry_is_found() {
    finds(|lines| drop(lines.remove(9)), &["missing"]);
    finds(|lines| drop(lines.remove(0)), &["missing"]);
    finds(|lines| drop(lines.drain(3..15)), &["missing"]);
}

#[test]
fn an_inserted_entry_is_found() {
    let mut forged = Made::new('a');
    for number in 1..=10 {
        forged.add(&read("nobody", &credential("acme", "crm"), number));
    }
    // As it is, under a number that is taken.
    let insert = |line: &'static str| move |lines: &mut Vec<String>| lines.insert(9, line.to_owned());
    finds(insert(forged.lines[8].clone().leak()), &["unlinked", "repeated"]);
    // A copy of another line of the log.
    finds(|lines| lines.insert(9, lines[8].clone()), &["repeated"]);
    finds(|lines| lines.push(lines[3].clone()), &["repeated"]);
    // No entry at all.
    for line in ["hello\n", "\n", "{}\n", "{\"stream\":\"aaaa\n"] {
        finds(insert(line), &["not_an_entry"]);
    }
    let long: &'static str = format!("{}\n", "x".repeat(100_000)).leak();
    finds(insert(long), &["not_an_entry"]);
}

#[test]
fn reordered_entries_are_found() {
    finds(|lines| lines.swap(9, 10), &["reordered"]);
    finds(|lines| lines.swap(0, 19), &["reordered", "reordered"]);
    finds(|lines| lines.reverse(), &["reordered"; 19]);
    finds(|lines| lines.rotate_left(5), &["reordered"]);
    // From one file to another.
    let (made, heads) = one();
    let moved = [
        made.lines[..5].concat() + &made.lines[8..10].concat(),
        made.lines[5..8].concat() + &made.lines[10..].concat(),
    ];
    assert_eq!(kinds(&verify(heads, &[&moved[0], &moved[1]])), ["reordered", "reordered"]);
}

#[test]
fn an_end_that_was_cut_off_is_found_by_the_head_alone() {
    for left in [1, 10, 19] {
        let (with_head, without) = found(|lines| lines.truncate(left));
        assert_eq!((with_head, without), (vec!["cut_off"], vec![]));
    }
    let (made, heads) = one();
    let verdict = verify(heads, &[&made.lines[..10].concat()]);
    assert_eq!(verdict.findings[0].entries, Some((11, 20)));
    assert_eq!(
        verdict.findings[0].to_string(),
        format!(
            "stream {}, entries 11 to 20: the end of the stream is cut off: its head in the store is further on",
            made.id
        )
    );
    assert_eq!(verify(None, &[&made.lines[..10].concat()]).heads, None, "and it is said that there were no heads");
}

#[test]
fn an_end_that_was_cut_off_within_a_line_is_found_by_the_head() {
    let (made, heads) = one();
    let log = made.log();
    for end in (0..log.len() - 1).step_by(7).chain([log.len() - 2]) {
        let verdict = verify(heads.clone(), &[&log[..end]]);
        assert!(!verdict.is_clean(), "cut at {end}");
    }
    // Its line break alone carries nothing.
    assert!(verify(heads, &[log.trim_end()]).is_clean());
}

#[test]
fn a_missing_stream_is_found_by_the_heads_alone() {
    let (streams, heads) = three();
    let two = streams[0].log() + &streams[2].log();
    assert_eq!(kinds(&verify(Some(heads), &[&two])), ["stream_missing"]);
    assert_eq!(kinds(&verify(None, &[&two])), [""; 0]);
    // A stream whose process was killed before its first entry has nothing that could be missing.
    let unborn = Made::new('d').head(false);
    assert_eq!(kinds(&verify(Some(vec![unborn]), &[])), [""; 0]);
}

#[test]
fn a_stream_that_the_store_does_not_know_is_found() {
    let (streams, mut heads) = three();
    heads.pop();
    let all: String = streams.iter().map(Made::log).collect();
    assert_eq!(kinds(&verify(Some(heads), &[&all])), ["stream_unknown"]);
}

#[test]
fn two_streams_mixed_are_found() {
    let (a, b) = (Made::closed('a', 20), Made::closed('b', 20));
    let heads = || Some(vec![a.head(true), b.head(true)]);
    let renamed = |line: &str| line.replacen(&b.id.to_string(), a.id.as_str(), 1);
    // Entries of one stream under the name of the other, as they are.
    let mixed = a.lines[..10].concat() + &b.lines[10..].iter().map(|line| renamed(line)).collect::<String>();
    let names = kinds(&verify(heads(), &[&mixed, &b.log()]));
    assert_eq!(names.iter().filter(|name| **name == "changed").count(), 10);
    // With their hashes made anew.
    let mixed = a.lines[..10].concat()
        + &b.lines[10..].iter().map(|line| rehashed(line, &b.id.to_string(), a.id.as_str())).collect::<String>();
    let names = kinds(&verify(heads(), &[&mixed, &b.log()]));
    assert!(names.contains(&"unlinked") && names.contains(&"other_head"), "{names:?}");
    // The whole tail forged, chain and all: the head tells.
    let mut forged = Made::new('a');
    for number in 1..=19 {
        forged.add(&read("realtask", &credential("other", "crm"), number));
    }
    forged.add(&of_stream(Event::StreamClosed));
    assert_eq!(kinds(&verify(heads(), &[&forged.log(), &b.log()])), ["other_head"]);
    assert_eq!(kinds(&verify(None, &[&forged.log()])), [""; 0], "without heads a whole stream can be forged");
    // One stream's entries within another's lines are in order, each in its own.
    let interleaved: String = a.lines.iter().zip(&b.lines).map(|(one, other)| format!("{one}{other}")).collect();
    assert!(verify(heads(), &[&interleaved]).is_clean());
    // Both, under one name.
    let both: String = a.lines.iter().zip(&b.lines).map(|(one, other)| format!("{one}{}", renamed(other))).collect();
    let names = kinds(&verify(heads(), &[&both]));
    assert!(
        names.contains(&"changed") && names.contains(&"repeated") && names.contains(&"stream_missing"),
        "{names:?}"
    );
}

#[test]
fn entries_after_the_end_are_found() {
    let mut made = Made::closed('a', 20);
    let heads = Some(vec![made.head(true)]);
    made.add(&read("realtask", &credential("acme", "crm"), 1));
    assert_eq!(kinds(&verify(None, &[&made.log()])), ["after_end"]);
    assert_eq!(kinds(&verify(heads.clone(), &[&made.log()])), ["after_end", "after_end"]);
    let split = [made.lines[..20].concat(), made.lines[20..].concat()];
    assert_eq!(kinds(&verify(None, &[&split[1], &split[0]])), ["after_end"]);
}

#[test]
fn a_head_that_says_closed_needs_the_last_entry_to_say_so() {
    let mut made = Made::new('a');
    (1..=5).for_each(|number| made.add(&read("realtask", &credential("acme", "crm"), number)));
    assert_eq!(kinds(&verify(Some(vec![made.head(true)]), &[&made.log()])), ["no_end"]);
    assert!(verify(Some(vec![made.head(false)]), &[&made.log()]).is_clean());
}

#[test]
fn what_comes_after_the_last_head_is_checked_and_its_end_is_not_known() {
    let mut made = Made::new('a');
    (1..=5).for_each(|number| made.add(&read("realtask", &credential("acme", "crm"), number)));
    let head = made.head(false);
    (6..=9).for_each(|number| made.add(&read("realtask", &credential("acme", "crm"), number)));
    for left in 5..=9 {
        let verdict = verify(Some(vec![head.clone()]), &[&made.lines[..left].concat()]);
        assert!(verdict.is_clean());
        assert_eq!((verdict.streams[0].end, verdict.streams[0].head), (End::Open, Some(5)), "which is said");
    }
    let changed = made.log().replace("\"revision\":8", "\"revision\":1");
    assert_eq!(kinds(&verify(Some(vec![head]), &[&changed])), ["changed"]);
}

#[test]
fn a_line_that_its_process_did_not_finish_is_torn_and_no_finding() {
    let mut made = Made::new('a');
    (1..=9).for_each(|number| made.add(&read("realtask", &credential("acme", "crm"), number)));
    let head = || Some(vec![Made::closed('a', 0).head(false)]);
    let whole = made.lines[..8].concat();
    for octets in 1..made.lines[8].len() - 1 {
        let verdict = verify(head(), &[&format!("{whole}{}", &made.lines[8][..octets])]);
        assert_eq!(kinds(&verdict), [""; 0]);
        let says_which = octets > made.lines[8].find(",\"time\"").unwrap();
        assert_eq!(verdict.torn_lines, u64::from(!says_which));
        assert_eq!(verdict.streams[0].end, if says_which { End::Torn } else { End::Open });
    }
    // A collector ends the line, and then other streams go on.
    let other = Made::closed('b', 4);
    let collected = format!("{whole}{}\n{}", &made.lines[8][..200], other.log());
    let verdict = verify(None, &[&collected]);
    let torn = verdict.streams.iter().find(|seen| seen.stream == made.id).unwrap();
    assert_eq!((kinds(&verdict), torn.end), (vec![], End::Torn));
    // The first entry of all.
    assert!(verify(None, &[&made.lines[0][..200]]).is_clean());
}

#[test]
fn heads_of_different_times_are_all_compared() {
    let mut made = Made::new('a');
    let mut heads = Vec::new();
    for number in 1..=9 {
        made.add(&read("realtask", &credential("acme", "crm"), number));
        heads.push(made.head(false));
    }
    heads.reverse();
    assert!(verify(Some(heads.clone()), &[&made.log()]).is_clean());
    assert_eq!(verify(Some(heads.clone()), &[&made.log()]).streams[0].head, Some(9));
    assert_eq!(kinds(&verify(Some(heads.clone()), &[&made.lines[..5].concat()])), ["cut_off"]);

    // Log and store were both made anew: a head that was kept elsewhere tells.
    let mut forged = Made::new('a');
    (1..=9).for_each(|_| forged.add(&read("nobody", &credential("acme", "crm"), 1)));
    let kept = heads[7].clone();
    assert_eq!(kinds(&verify(Some(vec![forged.head(false)]), &[&forged.log()])), [""; 0]);
    assert_eq!(kinds(&verify(Some(vec![forged.head(false), kept]), &[&forged.log()])), ["other_head"]);
}

#[test]
fn a_torn_line_where_none_can_be_is_found() {
    let (made, heads) = one();
    let torn = |at: usize| made.lines[..at].concat() + &made.lines[at][..200];
    // The head is further on.
    assert_eq!(kinds(&verify(heads.clone(), &[&torn(9)])), ["cut_off"]);
    // Its stream goes on.
    let goes_on = torn(9) + "\n" + &made.lines[9..].concat();
    assert_eq!(kinds(&verify(heads.clone(), &[&goes_on])), ["not_an_entry"]);
    let goes_on = torn(9) + "\n" + &made.lines[10..].concat();
    assert_eq!(kinds(&verify(heads.clone(), &[&goes_on])), ["not_an_entry", "missing"]);
    // Its stream had ended.
    let after_end = made.log() + &made.lines[9].replace("\"seq\":10", "\"seq\":21")[..200];
    assert_eq!(kinds(&verify(heads, &[&after_end])), ["not_an_entry"]);
    // There is only one end.
    let twice = torn(9) + "\n" + &made.lines[9][..210];
    assert_eq!(kinds(&verify(None, &[&twice])), ["not_an_entry"]);
}

#[test]
fn a_part_of_a_log_is_checked_as_one() {
    let (made, heads) = one();
    let partial = |from: usize, to: usize| {
        let mut verifier = Verifier::new(heads.clone(), true);
        verifier.read("part", made.lines[from..to].concat().as_bytes()).unwrap();
        kinds(&verifier.finish())
    };
    for (from, to) in [(0, 20), (5, 20), (0, 15), (5, 15), (5, 5)] {
        assert_eq!(partial(from, to), [""; 0], "{from}..{to}");
    }
    let mut verifier = Verifier::new(heads, true);
    verifier.read("part", (made.lines[5..9].concat() + &made.lines[10..].concat()).as_bytes()).unwrap();
    assert_eq!(kinds(&verifier.finish()), ["missing"]);
}

#[tokio::test]
async fn a_wrong_mac_and_a_missing_one_are_found() {
    let (streams, mut heads) = three();
    let mac = FakeMac::with_key(1);
    for head in &mut heads {
        head.mac = Some(mac.make(&head.message()).await.unwrap());
    }
    let all: String = streams.iter().map(Made::log).collect();
    assert_eq!(verify(Some(heads.clone()), &[&all]).unchecked_macs, 3, "it is said that nobody checked them");
    let check = async |heads: Vec<Head>, mac: &FakeMac| {
        let mut verifier = Verifier::new(Some(heads), false);
        verifier.check_macs(mac).await.unwrap();
        verifier.read("all", all.as_bytes()).unwrap();
        let verdict = verifier.finish();
        assert_eq!(verdict.unchecked_macs, 0);
        kinds(&verdict)
    };
    assert_eq!(check(heads.clone(), &mac).await, [""; 0]);
    assert_eq!(check(heads.clone(), &FakeMac::with_key(2)).await, ["mac_wrong"; 3]);
    let edits: [fn(&mut Head); 4] = [
        |head| head.seq -= 1,
        |head| head.hash.0[0] ^= 1,
        |head| head.stream = StreamId::parse(&"d".repeat(32)).unwrap(),
        |head| head.mac.as_mut().unwrap()[31] ^= 1,
    ];
    for edit in edits {
        let mut heads = heads.clone();
        edit(&mut heads[1]);
        assert!(check(heads, &mac).await.contains(&"mac_wrong"));
    }
    heads[1].mac = None;
    assert_eq!(check(heads.clone(), &mac).await, ["mac_missing"]);

    mac.fail(FactorError::Away("x".to_owned()));
    let mut verifier = Verifier::new(Some(heads), false);
    assert!(verifier.check_macs(&mac).await.is_err(), "no answer is no finding");
}

#[test]
fn numbers_at_the_end_of_their_range_are_read() {
    let line = Made::closed('a', 2).lines[1].clone();
    for number in ["18446744073709551615", "18446744073709551614", "9223372036854775808"] {
        let far = line.replacen("\"seq\":2", &format!("\"seq\":{number}"), 1);
        let verdict = verify(None, &[&far, &far, &line]);
        assert!(!verdict.is_clean());
    }
}

#[test]
fn findings_and_memory_are_bounded() {
    let garbage = "x\n".repeat(5_000);
    let verdict = verify(None, &[&garbage]);
    assert_eq!((verdict.total_findings, verdict.findings.len()), (5_000, 1_000));

    let line = Made::closed('a', 2).lines[0].clone();
    let scattered: String =
        (0..=MAX_PIECES).map(|number| line.replacen(&"a".repeat(32), &format!("{number:032x}"), 1)).collect();
    let mut verifier = Verifier::new(None, false);
    assert!(matches!(verifier.read("scattered", scattered.as_bytes()), Err(VerifyError::TooScattered)));
}

#[test]
fn a_reader_that_fails_is_told() {
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    assert!(matches!(Verifier::new(None, false).read("x", Fails), Err(VerifyError::Io(_))));
}

#[test]
fn a_finding_names_file_and_line() {
    let (made, _) = one();
    let verdict = verify(None, &["", &made.log().replacen("realtask", "realsync", 1)]);
    assert_eq!(
        verdict.findings[0].to_string(),
        format!("file1:2: stream {}, entry 2: the entry was changed: its hash is of another one", made.id)
    );
    assert_eq!(at(0).to_string(), "2025-11-24T16:00:00Z");
}

/// What somebody does to a log.
#[derive(Clone, Debug)]
enum Edit {
    FlipBit(Index, u8),
    DropOctets(Index, usize),
    InsertOctets(Index, Vec<u8>),
    CutOff(Index),
    DropLines(Index, usize),
    CopyLine(Index, Index),
    SwapLines(Index, Index),
    ForgeLine(Index),
    MoveLines(Index, usize, Index),
    DropFile(Index),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        (index(), 0..8_u8).prop_map(|(at, bit)| Edit::FlipBit(at, bit)),
        (index(), 1..600_usize).prop_map(|(at, octets)| Edit::DropOctets(at, octets)),
        (index(), proptest::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, octets)| Edit::InsertOctets(at, octets)),
        index().prop_map(Edit::CutOff),
        (index(), 1..5_usize).prop_map(|(at, lines)| Edit::DropLines(at, lines)),
        (index(), index()).prop_map(|(from, to)| Edit::CopyLine(from, to)),
        (index(), index()).prop_map(|(one, other)| Edit::SwapLines(one, other)),
        index().prop_map(Edit::ForgeLine),
        (index(), 1..4_usize, index()).prop_map(|(from, lines, to)| Edit::MoveLines(from, lines, to)),
        index().prop_map(Edit::DropFile),
    ]
}

/// Does it to one of the files.
fn apply(edit: &Edit, files: &mut Vec<Vec<u8>>, of: Index) {
    let of = of.index(files.len());
    if let Edit::DropFile(which) = edit {
        files.remove(which.index(files.len()));
        return;
    }
    let file = &mut files[of];
    if file.is_empty() {
        return;
    }
    let mut lines: Vec<Vec<u8>> = file.split_inclusive(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect();
    match edit {
        Edit::FlipBit(at, bit) => {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            return;
        }
        Edit::DropOctets(at, octets) => {
            let at = at.index(file.len());
            let end = (at + octets).min(file.len());
            file.drain(at..end);
            return;
        }
        Edit::InsertOctets(at, octets) => {
            let at = at.index(file.len() + 1);
            file.splice(at..at, octets.iter().copied());
            return;
        }
        Edit::CutOff(at) => {
            file.truncate(at.index(file.len()));
            return;
        }
        Edit::DropLines(at, count) => {
            let at = at.index(lines.len());
            let end = (at + count).min(lines.len());
            lines.drain(at..end);
        }
        Edit::CopyLine(from, to) => {
            let line = lines[from.index(lines.len())].clone();
            lines.insert(to.index(lines.len() + 1), line);
        }
        Edit::SwapLines(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
        }
        Edit::ForgeLine(at) => {
            let at = at.index(lines.len());
            let line = String::from_utf8_lossy(&lines[at]).into_owned();
            if Line::parse(line.trim_end().as_bytes()).is_ok() && line.contains("\"acme\"") {
                lines[at] = rehashed(&line, "\"acme\"", "\"evil\"").into_bytes();
            }
        }
        Edit::MoveLines(from, count, to) => {
            let from = from.index(lines.len());
            let end = (from + count).min(lines.len());
            let moved: Vec<_> = lines.drain(from..end).collect();
            let to = to.index(lines.len() + 1);
            lines.splice(to..to, moved);
        }
        Edit::DropFile(_) => {}
    }
    *file = lines.concat();
}

/// What stands in each file of each stream, in its order. How the lines of different streams alternate says nothing, and neither does the
/// beginning of a line at the end of a file: a writer that is killed leaves one.
fn content(files: &[Vec<u8>]) -> Vec<BTreeMap<Vec<u8>, Vec<Vec<u8>>>> {
    let stream = |line: &[u8]| line[..line.len().min(45)].to_vec();
    let of_file = |file: &Vec<u8>| {
        let mut streams: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for line in file.split_inclusive(|octet| *octet == b'\n').filter(|line| line.ends_with(b"\n")) {
            streams.entry(stream(line)).or_default().push(line.to_vec());
        }
        streams
    };
    files.iter().filter(|file| !file.is_empty()).map(of_file).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_edit_of_a_log_is_found(
        lengths in proptest::collection::vec(2..30_u64, 1..4),
        cuts in proptest::collection::vec(any::<Index>(), 0..4),
        edits in proptest::collection::vec((any_edit(), any::<Index>()), 1..3),
    ) {
        let streams: Vec<_> = "abcd".chars().zip(&lengths).map(|(digit, length)| Made::closed(digit, *length)).collect();
        let heads: Vec<_> = streams.iter().map(|stream| stream.head(true)).collect();
        // One after the other, in files that were rotated anywhere.
        let lines: Vec<_> = streams.iter().flat_map(|stream| stream.lines.iter().cloned()).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(lines.len())).chain([0, lines.len()]).collect();
        cuts.sort_unstable();
        let before: Vec<_> = cuts.windows(2).map(|cut| lines[cut[0]..cut[1]].concat().into_bytes()).collect();
        let mut after = before.clone();
        for (edit, of) in &edits {
            if !after.is_empty() {
                apply(edit, &mut after, *of);
            }
        }
        let says = |files: &[Vec<u8>]| {
            let mut verifier = Verifier::new(Some(heads.clone()), false);
            for file in files {
                verifier.read("file", file.as_slice()).unwrap();
            }
            verifier.finish()
        };
        prop_assert!(says(&before).is_clean());
        let unchanged = content(&before) == content(&after);
        let verdict = says(&after);
        prop_assert!(unchanged || !verdict.is_clean(), "not found: {edits:?}");
    }

    #[test]
    fn no_octets_make_a_verification_panic(octets in proptest::collection::vec(any::<u8>(), 0..500), splice in any::<Index>()) {
        let mut log = Made::closed('a', 5).log().into_bytes();
        let at = splice.index(log.len());
        log.splice(at..at, octets);
        let mut verifier = Verifier::new(None, false);
        verifier.read("file", log.as_slice()).unwrap();
        drop(verifier.finish());
    }
}
