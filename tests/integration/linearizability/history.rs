//! Whether one order of a credential's operations explains what every caller was answered: the reference (what each operation does to
//! a credential, in as few words as that can be said) and the search for such an order. It knows no service.
//!
//! The search is Wing and Gong's, with Lowe's memory of what was tried
//! (<http://www.cs.ox.ac.uk/people/gavin.lowe/LinearizabiltyTesting/>). An operation that was never answered stands anywhere
//! after its call, or nowhere; crates that search know only operations with an answer.

use std::collections::HashSet;
use std::fmt::Write;

/// Changes that a credential remembers.
const REMEMBERED: usize = 8;
/// Operations in one history: they are bits.
const MAX_EVENTS: usize = 128;
/// States that one search visits. A history that needs more is too wide to be checked, and no pass.
const MAX_VISITED: usize = 500_000;

/// A moment. They are counted and not timed, so no two are equal.
pub(super) type Moment = u64;
/// Each encryption brings another secret, so that no two are mistaken for each other.
pub(super) type SecretId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Encrypt { secret: SecretId, require: Require, key: Option<u32> },
    Decrypt { revision: Option<u64> },
    Get,
    Delete { revision: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Require {
    Nothing,
    Absent,
    At(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Sealed(u64),
    Opened { revision: u64, secret: SecretId },
    Shown(u64),
    Deleted,
    NotFound,
    Exists(u64),
    Mismatch(u64),
    KeyReused,
}

/// An operation, when it was called, and what it was answered.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) client: usize,
    pub(super) op: Op,
    pub(super) called: Moment,
    /// `None`: nobody answered. It has happened, or happens until `ended`, or does not.
    pub(super) answer: Option<Answer>,
    /// When it was answered; without an answer, from when on it can no longer happen.
    pub(super) ended: Moment,
}

/// A credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    revision: u64,
    /// `None`: deleted, or never there.
    secret: Option<SecretId>,
    /// Key and revision of the last changes. A call without a key takes a place, too.
    remembered: Vec<(Option<u32>, u64)>,
}

impl Row {
    /// What an operation makes of it, and is answered.
    fn apply(&self, op: Op) -> (Self, Answer) {
        let unchanged = |answer| (self.clone(), answer);
        let is_at = |revision: Option<u64>| revision.is_none_or(|revision| revision == self.revision);
        match (op, self.secret) {
            (Op::Encrypt { secret, require, key }, present) => {
                let repeated = self.remembered.iter().find(|(known, _)| key.is_some() && *known == key);
                match (repeated, present, require) {
                    (Some((_, revision)), Some(present), _) if *revision == self.revision && present != secret => {
                        unchanged(Answer::KeyReused)
                    }
                    (Some((_, revision)), _, _) => unchanged(Answer::Sealed(*revision)),
                    (None, Some(_), Require::Absent) => unchanged(Answer::Exists(self.revision)),
                    (None, Some(_), Require::At(revision)) if revision != self.revision => {
                        unchanged(Answer::Mismatch(self.revision))
                    }
                    (None, None, Require::At(_)) => unchanged(Answer::NotFound),
                    (None, _, _) => {
                        let revision = self.revision + 1;
                        (self.changed(revision, Some(secret), key), Answer::Sealed(revision))
                    }
                }
            }
            (Op::Decrypt { .. } | Op::Get | Op::Delete { .. }, None) => unchanged(Answer::NotFound),
            (Op::Decrypt { revision } | Op::Delete { revision }, Some(_)) if !is_at(revision) => {
                unchanged(Answer::Mismatch(self.revision))
            }
            (Op::Decrypt { .. }, Some(secret)) => unchanged(Answer::Opened { revision: self.revision, secret }),
            (Op::Get, Some(_)) => unchanged(Answer::Shown(self.revision)),
            (Op::Delete { .. }, Some(_)) => (self.changed(self.revision, None, None), Answer::Deleted),
        }
    }

    fn changed(&self, revision: u64, secret: Option<SecretId>, key: Option<u32>) -> Self {
        let mut remembered = self.remembered.clone();
        remembered.push((key, revision));
        let surplus = remembered.len().saturating_sub(REMEMBERED);
        Self { revision, secret, remembered: remembered.split_off(surplus) }
    }
}

/// Finds an order of the operations in which each is answered as it was, and none comes before one that had ended when it was called.
///
/// # Errors
/// There is none: the history, and how far the search came.
pub(super) fn explain(history: &[Event]) -> Result<(), String> {
    assert!(history.len() <= MAX_EVENTS, "{} operations are too many for one history", history.len());
    let mut search = Search { history, visited: HashSet::new(), order: Vec::new(), longest: Vec::new() };
    if search.extend(0, &Row::default(), 0) { Ok(()) } else { Err(search.told()) }
}

struct Search<'a> {
    history: &'a [Event],
    /// Operations that are in order, and the row that they made, from which no order led to the end.
    visited: HashSet<(u128, Row)>,
    order: Vec<usize>,
    longest: Vec<usize>,
}

impl Search<'_> {
    /// Whether the operations that are not among `ordered` can follow on the row. `last_call` is the latest call of those that are.
    fn extend(&mut self, ordered: u128, row: &Row, last_call: Moment) -> bool {
        let history = self.history;
        let left = || history.iter().enumerate().filter(|(index, _)| ordered >> index & 1 == 0);
        let Some(first_end) = left().filter(|(_, event)| event.answer.is_some()).map(|(_, event)| event.ended).min()
        else {
            // What is left was never answered, and need not have happened.
            return true;
        };
        if !self.visited.insert((ordered, row.clone())) {
            return false;
        }
        assert!(self.visited.len() < MAX_VISITED, "the history is too wide to be checked:\n{}", self.told());
        // Revisions never go back: whoever is told the present one is told it before a later one is made.
        if left().filter_map(|(_, event)| event.present_revision()).any(|told| told < row.revision) {
            return false;
        }
        // An operation that had ended when another was called comes before it; what was killed by then does not come after it.
        let may_follow = |event: &Event| event.called < first_end && event.ended > last_call;
        for (index, event) in left().filter(|(_, event)| may_follow(event)) {
            let (after, due) = row.apply(event.op);
            let changes = after != *row;
            // Without an answer, one that changes nothing explains nothing.
            if !event.answer.map_or(changes, |answer| answer == due) {
                continue;
            }
            self.order.push(index);
            if self.order.len() > self.longest.len() {
                self.longest.clone_from(&self.order);
            }
            if self.extend(ordered | 1 << index, &after, last_call.max(event.called)) {
                return true;
            }
            self.order.pop();
            // What is right here and changes nothing need not come later, unless it would keep something from coming before it.
            if !changes && left().all(|(_, other)| other.ended >= event.called) {
                return false;
            }
        }
        false
    }

    fn told(&self) -> String {
        let mut told = String::from("no order explains this history (client: from call to end, operation, answer):\n");
        let mut by_call: Vec<_> = self.history.iter().enumerate().collect();
        by_call.sort_by_key(|(_, event)| event.called);
        for (index, event) in by_call {
            let _ = writeln!(told, "  {index:>3}  {}", event.told());
        }
        let row = self.longest.iter().fold(Row::default(), |row, index| row.apply(self.history[*index].op).0);
        let _ = writeln!(told, "the longest order that agrees: {:?}\nafter it: {row:?}; and then", self.longest);
        for (index, event) in self.history.iter().enumerate().filter(|(index, _)| !self.longest.contains(index)) {
            let _ = writeln!(told, "  {index:>3}  would be answered {:?}", row.apply(event.op).1);
        }
        told
    }
}

impl Event {
    /// The revision that the credential had when this was answered, or before this made the next.
    fn present_revision(&self) -> Option<u64> {
        match (self.answer?, self.op) {
            (Answer::Opened { revision, .. } | Answer::Shown(revision), _) => Some(revision),
            (Answer::Exists(revision) | Answer::Mismatch(revision), _) => Some(revision),
            (Answer::Sealed(revision), Op::Encrypt { key: None, .. }) => Some(revision.saturating_sub(1)),
            // Under a key, it may be an old answer.
            (Answer::Sealed(_) | Answer::Deleted | Answer::NotFound | Answer::KeyReused, _) => None,
        }
    }

    fn told(&self) -> String {
        let Self { client, op, called, answer, ended } = self;
        let ended = if *ended == Moment::MAX { "…".to_owned() } else { ended.to_string() };
        let answer = answer.map_or_else(|| "not answered".to_owned(), |answer| format!("{answer:?}"));
        format!("client {client}: {called:>4} to {ended:>4}  {op:?} → {answer}")
    }
}

#[cfg(test)]
mod tests;
