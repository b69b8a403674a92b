//! What a credential is and what each change of it does, in as few words as that can be said; and the check of a history
//! against it. It shares no logic with `vault` or `store`.
//!
//! The store's order of writes is the order of the changes. So the history is linearizable if each write is the one that its
//! operation makes at that point, none is made twice, and each answer is the one that is due at its operation's own write, or,
//! where it made none, at some point between its call and its answer.

use std::collections::BTreeMap;
use std::fmt;

use crate::store::WriteId;

/// An operation's number in its history.
pub(super) type OpId = usize;
/// A secret: each operation brings another one, so that no two are mistaken for each other.
pub(super) type SecretId = u32;

const HOUR: i64 = 3_600_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Encrypt { credential: usize, secret: SecretId, condition: Require, key: Option<u32>, caller: usize },
    Decrypt { credential: usize, revision: Option<u64> },
    Delete { credential: usize, revision: Option<u64>, caller: usize },
    CreateCustomer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Require {
    Nothing,
    Absent,
    At(u64),
}

/// What an operation is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Sealed {
        revision: u64,
        time: i64,
    },
    Opened {
        revision: u64,
        secret: SecretId,
    },
    Deleted,
    Created {
        row: Mark,
    },
    NotFound,
    CustomerNotFound,
    Exists(u64),
    Mismatch(u64),
    KeyReused,
    /// It may have happened, or happen yet.
    Away,
    /// Its caller did not wait for the answer.
    Cancelled,
    Throttled,
    Concurrent,
    /// The keyring could not read the customer. It may have happened: a change whose answer was lost is opened to be recognised.
    KeysAway,
    Other(String),
}

/// Tells a customer's row from another. It is random, so it is not printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Mark(pub(super) WriteId);

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// An operation and what became of it. Points in time are numbers of writes that had been applied.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) called: usize,
    /// The clock of the replica that it was made at.
    pub(super) now: i64,
    pub(super) answered: Option<(usize, Outcome)>,
}

/// A write that the store applied, and for whom.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    pub(super) by: OpId,
    pub(super) made: Made,
}

#[derive(Clone, Debug)]
pub(super) enum Made {
    /// A row of a credential; its secret, opened, if it is living.
    Credential {
        credential: usize,
        revision: u64,
        secret: Option<SecretId>,
    },
    Customer {
        row: Mark,
    },
}

/// What the history must agree with.
#[derive(Clone, Debug, Default)]
struct Row {
    revision: u64,
    secret: Option<SecretId>,
    /// Key, caller, the revision that was made, time.
    remembered: Vec<(Key, usize, u64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Given(u32),
    /// Of a call without a key.
    Own(OpId),
}

enum Due {
    Answer(Outcome),
    Write(Row, Outcome),
}

/// What an operation does to a credential of a customer that exists or not.
fn due(row: Option<&Row>, customer_exists: bool, id: OpId, op: &Op, now: i64) -> Due {
    let missing = Due::Answer(if customer_exists { Outcome::NotFound } else { Outcome::CustomerNotFound });
    let living = row.filter(|row| row.secret.is_some());
    match op {
        Op::Encrypt { secret, condition, key, caller, .. } => {
            let key = key.map_or(Key::Own(id), Key::Given);
            let present = row.cloned().unwrap_or_default();
            let is_repeated =
                |known: &&(Key, usize, u64, i64)| known.0 == key && known.1 == *caller && now - known.3 < 24 * HOUR;
            if let Some(&(_, _, revision, time)) = present.remembered.iter().find(is_repeated) {
                let other = living.is_some_and(|row| row.revision == revision && row.secret != Some(*secret));
                return Due::Answer(if other { Outcome::KeyReused } else { Outcome::Sealed { revision, time } });
            }
            match (living, condition) {
                (Some(row), Require::Absent) => return Due::Answer(Outcome::Exists(row.revision)),
                (Some(row), Require::At(revision)) if row.revision != *revision => {
                    return Due::Answer(Outcome::Mismatch(row.revision));
                }
                (None, Require::At(_)) => return missing,
                (Some(_), Require::At(_)) | (None, Require::Absent) | (_, Require::Nothing) => {}
            }
            if !customer_exists {
                return missing;
            }
            let revision = present.revision + 1;
            let remembered = remember(&present, (key, *caller, revision, now));
            Due::Write(Row { revision, secret: Some(*secret), remembered }, Outcome::Sealed { revision, time: now })
        }
        Op::Delete { revision, caller, .. } => match living {
            None => missing,
            Some(row) if revision.is_some_and(|revision| revision != row.revision) => {
                Due::Answer(Outcome::Mismatch(row.revision))
            }
            Some(row) => {
                let remembered = remember(row, (Key::Own(id), *caller, row.revision, now));
                Due::Write(Row { revision: row.revision, secret: None, remembered }, Outcome::Deleted)
            }
        },
        Op::Decrypt { revision, .. } => match living {
            None => missing,
            Some(row) if revision.is_some_and(|revision| revision != row.revision) => {
                Due::Answer(Outcome::Mismatch(row.revision))
            }
            Some(row) => {
                let secret = row.secret.unwrap_or_default();
                Due::Answer(Outcome::Opened { revision: row.revision, secret })
            }
        },
        Op::CreateCustomer => unreachable!("it is checked apart"),
    }
}

/// The last eight of the last 24 hours.
fn remember(row: &Row, change: (Key, usize, u64, i64)) -> Vec<(Key, usize, u64, i64)> {
    let young = row.remembered.iter().filter(|known| change.3 - known.3 < 24 * HOUR);
    let mut remembered: Vec<_> = young.copied().chain([change]).collect();
    while remembered.len() > 8 {
        remembered.remove(0);
    }
    remembered
}

/// Whether the history is one of the reference's. `from_the_start` tells which credentials' customer is not
/// created on the way.
pub(super) fn check(calls: &[Call], applied: &[Applied], from_the_start: impl Fn(usize) -> bool) -> Result<(), String> {
    let created = applied.iter().position(|applied| matches!(applied.made, Made::Customer { .. }));
    let exists = |credential: usize, at: usize| from_the_start(credential) || created.is_some_and(|index| index < at);
    // Each credential's rows, by the number of writes after which it has them.
    let mut rows: BTreeMap<usize, Vec<(usize, Row)>> = BTreeMap::new();
    let mut effects: BTreeMap<OpId, (usize, Outcome)> = BTreeMap::new();
    for (index, Applied { by, made }) in applied.iter().enumerate() {
        let call = &calls[*by];
        let outcome = match made {
            Made::Customer { row } => {
                if created != Some(index) {
                    return Err(format!("write {index}: the customer was made twice"));
                }
                Outcome::Created { row: row.clone() }
            }
            Made::Credential { credential, revision, secret } => {
                let history = rows.entry(*credential).or_default();
                let present = history.last().map(|(_, row)| row);
                match due(present, exists(*credential, index), *by, &call.op, call.now) {
                    Due::Write(row, outcome) if row.revision == *revision && row.secret == *secret => {
                        history.push((index + 1, row));
                        outcome
                    }
                    Due::Write(row, _) => {
                        return Err(format!("write {index} of op {by}: the row differs from {row:?}: {made:?}"));
                    }
                    Due::Answer(due) => {
                        return Err(format!("write {index} of op {by}: the op was due {due:?} and no write"));
                    }
                }
            }
        };
        if index < call.called {
            return Err(format!("write {index} of op {by}: before it was called"));
        }
        if effects.insert(*by, (index, outcome)).is_some() {
            return Err(format!("write {index} of op {by}: its second"));
        }
    }
    for (id, call) in calls.iter().enumerate() {
        let Some((answered, outcome)) = &call.answered else { return Err(format!("op {id} was never answered")) };
        let span = call.called..=*answered;
        let fits = match (effects.get(&id), outcome) {
            (_, Outcome::Away | Outcome::Cancelled | Outcome::KeysAway) => true,
            (Some((index, due)), outcome) => due == outcome && index < answered,
            (None, Outcome::Throttled) => true,
            (None, outcome) => match &call.op {
                Op::CreateCustomer => match (outcome, created.map(|index| &applied[index].made)) {
                    (Outcome::Created { row }, Some(Made::Customer { row: made })) => {
                        row == made && created < Some(*answered)
                    }
                    (_, _) => false,
                },
                Op::Encrypt { credential, .. } | Op::Decrypt { credential, .. } | Op::Delete { credential, .. } => {
                    let history = rows.get(credential).map_or(&[][..], |rows| rows);
                    if *outcome == Outcome::Concurrent {
                        // Only where others did change it.
                        history.iter().any(|(at, _)| span.contains(at))
                    } else {
                        span.clone().any(|at| {
                            let row = history.iter().rev().find(|(since, _)| *since <= at).map(|(_, row)| row);
                            let due = due(row, exists(*credential, at), id, &call.op, call.now);
                            matches!(due, Due::Answer(due) if due == *outcome)
                        })
                    }
                }
            },
        };
        if !fits {
            let effect = effects.get(&id);
            return Err(format!("op {id}: {outcome:?} is not due between {span:?}; its own write: {effect:?}"));
        }
    }
    Ok(())
}
