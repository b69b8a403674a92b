//! Audit logs of any octets, with heads of any octets.

use super::entry::MAX_LINE_OCTETS;
use super::finding::Verdict;
use super::heads::Head;
use super::line::Line;
use super::report::{Filter, Report};
use super::verify::Verifier;
use crate::store::WriteId;

/// A log, after its heads: a line of JSON each, up to the first NUL. Whatever is read, a report finds what a verification finds, and each
/// line that is an entry counts as one.
pub fn audit(octets: &[u8]) {
    let at = octets.iter().position(|octet| *octet == 0);
    let (before, log) = at.map_or((&[][..], octets), |at| (&octets[..at], &octets[at + 1..]));
    let heads: Vec<_> = String::from_utf8_lossy(before).lines().filter_map(read_head).collect();
    let heads = at.map(|_| heads);

    let verdict = verified(heads.clone(), log, false);
    if let Some(verdict) = &verdict {
        assert_eq!(verdict.entries, entries(log), "entries are counted in two ways");
    }
    let _partial = verified(heads.clone(), log, true);
    let mut report = Report::new(Filter::default(), heads, false);
    if report.read("log", log).is_ok() {
        assert_eq!(verdict, Some(report.finish().verdict), "a report finds something else than a verification");
    }
}

/// A head that is written as it was read, as JSON and as a record.
fn read_head(line: &str) -> Option<Head> {
    let head = Head::from_json(line).ok()?;
    assert!(Head::from_json(&head.to_json()).is_ok_and(|again| again == head), "a head is not written as it was read");
    let stored = WriteId::random().ok().map(|write_id| Head::from_record(&head.record(write_id)));
    // A record has microseconds.
    let is_same = |again: &Head| again.message() == head.message() && again.mac == head.mac;
    assert!(
        stored.is_none_or(|stored| stored.is_ok_and(|again| is_same(&again))),
        "a head is not stored as it was read"
    );
    Some(head)
}

fn verified(heads: Option<Vec<Head>>, log: &[u8], partial: bool) -> Option<Verdict> {
    let mut verifier = Verifier::new(heads, partial);
    verifier.read("log", log).ok().map(|()| verifier.finish())
}

fn entries(log: &[u8]) -> u64 {
    let lines = log.split(|octet| *octet == b'\n').filter(|line| line.len() < MAX_LINE_OCTETS);
    lines.filter(|line| Line::parse(line).is_ok()).count() as u64
}

#[cfg(test)]
mod tests;
