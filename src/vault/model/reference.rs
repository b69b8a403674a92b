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
    Encrypt {
        credential: usize,
        secret: SecretId,
        condition: Require,
        key: Option<u32>,
        caller: usize,
    },
    Decrypt {
        credential: usize,
        revision: Option<u64>,
    },
    Delete {
        credential: usize,
        revision: Option<u64>,
        caller: usize,
    },
    /// With a lease of so many seconds.
    Acquire {
        credential: usize,
        rejected: Option<u64>,
        key: Option<u32>,
        ttl: i64,
        caller: usize,
    },
    /// With the token that this acquisition was answered.
    Complete {
        credential: usize,
        lease: OpId,
        secret: SecretId,
        caller: usize,
    },
    Abandon {
        credential: usize,
        lease: OpId,
        invalid_grant: bool,
        caller: usize,
    },
    Mark {
        credential: usize,
        revision: Option<u64>,
        caller: usize,
    },
    /// What re-encryption does: the same secret under the primary that there is when it is asked for, or a later one.
    Rewrite {
        credential: usize,
    },
    CreateCustomer,
    /// Of the first customer's key, as the next.
    Rotate,
    Retire {
        version: u32,
    },
}

impl Op {
    fn credential(&self) -> usize {
        match self {
            Self::Encrypt { credential, .. }
            | Self::Decrypt { credential, .. }
            | Self::Delete { credential, .. }
            | Self::Acquire { credential, .. }
            | Self::Complete { credential, .. }
            | Self::Abandon { credential, .. }
            | Self::Mark { credential, .. }
            | Self::Rewrite { credential } => *credential,
            Self::CreateCustomer => 1,
            Self::Rotate | Self::Retire { .. } => 0,
        }
    }

    /// Whether what it does concerns the secret that is there, and means nothing afterwards.
    fn ends_with_the_secret(&self) -> bool {
        matches!(self, Self::Acquire { .. } | Self::Abandon { .. } | Self::Mark { .. } | Self::Rewrite { .. })
    }

    /// Whether it seals, and so may change what the secret is sealed under.
    fn seals(&self) -> bool {
        matches!(self, Self::Encrypt { .. } | Self::Complete { .. } | Self::Rewrite { .. })
    }

    /// Whether it is refused while the customer is disabled.
    fn needs_an_active_customer(&self) -> bool {
        matches!(self, Self::Encrypt { .. } | Self::Decrypt { .. } | Self::Delete { .. } | Self::Acquire { .. })
    }
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
    /// The tokens that are there.
    Fresh {
        revision: u64,
        secret: SecretId,
    },
    Leased {
        revision: u64,
        secret: SecretId,
        expires: i64,
        after_lapse: bool,
    },
    /// What is known of it now.
    Shown {
        revision: u64,
        needs_reauth: bool,
    },
    Rewritten,
    Skipped,
    NeedsReauth,
    /// With the time from which the lease may be had.
    InProgress(i64),
    LeaseLost,
    CustomerDisabled,
    Created {
        row: Mark,
    },
    Rotated {
        primary: u32,
    },
    Retired,
    /// By so many records.
    InUse {
        records: u64,
    },
    /// It is the primary, or was until a moment ago.
    InUseBySealing,
    KeyVersionUnknown,
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
        needs_reauth: bool,
        leases: Vec<Facts>,
        /// Of the customer's key.
        version: Option<u32>,
    },
    Customer {
        customer: usize,
        row: Mark,
        /// When each was made.
        versions: Vec<i64>,
        primary: u32,
        retired: Vec<u32>,
    },
}

/// What a row tells of a lease, but for whose token it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) caller: usize,
    pub(super) revision: u64,
    pub(super) expires: i64,
    pub(super) after_lapse: bool,
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Completed { made: u64, time: i64 },
    Abandoned { invalid_grant: bool },
}

#[derive(Clone, Debug)]
struct Lease {
    /// Whose answer has its token.
    by: OpId,
    key: Key,
    facts: Facts,
}

impl Lease {
    /// One lease under two tokens.
    fn is_same(&self, other: &Self) -> bool {
        let facts = |lease: &Self| (lease.facts.caller, lease.facts.revision, lease.facts.expires);
        self.key == other.key && facts(self) == facts(other)
    }
}

/// What the history must agree with.
#[derive(Clone, Debug, Default)]
struct Row {
    revision: u64,
    secret: Option<SecretId>,
    needs_reauth: bool,
    leases: Vec<Lease>,
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
            let row = Row { revision, secret: Some(*secret), needs_reauth: false, remembered, ..present };
            Due::Write(row, Outcome::Sealed { revision, time: now })
        }
        Op::Delete { revision, caller, .. } => match living {
            None => missing,
            Some(row) if revision.is_some_and(|revision| revision != row.revision) => {
                Due::Answer(Outcome::Mismatch(row.revision))
            }
            Some(row) => {
                let remembered = remember(row, (Key::Own(id), *caller, row.revision, now));
                Due::Write(Row { secret: None, needs_reauth: false, remembered, ..row.clone() }, Outcome::Deleted)
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
        Op::Acquire { .. } | Op::Complete { .. } | Op::Abandon { .. } | Op::Mark { .. } | Op::Rewrite { .. } => {
            due_of_refresh(row, missing, id, op, now)
        }
        Op::CreateCustomer | Op::Rotate | Op::Retire { .. } => unreachable!("it is checked apart"),
    }
}

/// The same for what is there for refreshing.
fn due_of_refresh(row: Option<&Row>, missing: Due, id: OpId, op: &Op, now: i64) -> Due {
    let living = row.filter(|row| row.secret.is_some());
    match op {
        Op::Acquire { rejected, key, ttl, caller, .. } => match living {
            None => missing,
            Some(row) => acquire(row, id, (*rejected, *key, *ttl, *caller), now),
        },
        Op::Complete { lease, secret, caller, .. } => match row {
            None => missing,
            Some(row) => match (row.lease(*lease, *caller), living.is_some()) {
                (Some(Lease { facts: Facts { end: Some(End::Completed { made, time }), .. }, .. }), _) => {
                    Due::Answer(Outcome::Sealed { revision: *made, time: *time })
                }
                (_, false) => missing,
                (None, true) => Due::Answer(Outcome::LeaseLost),
                (Some(held), true) if held.facts.revision != row.revision => {
                    Due::Answer(Outcome::Mismatch(row.revision))
                }
                (Some(_), true) => {
                    let revision = row.revision + 1;
                    let ended = row.ended(*lease, End::Completed { made: revision, time: now });
                    let row = Row { revision, secret: Some(*secret), needs_reauth: false, ..ended };
                    Due::Write(row, Outcome::Sealed { revision, time: now })
                }
            },
        },
        Op::Abandon { lease, invalid_grant, caller, .. } => {
            let Some(row) = living else { return missing };
            let Some(held) = row.lease(*lease, *caller) else { return Due::Answer(Outcome::LeaseLost) };
            let end = End::Abandoned { invalid_grant: *invalid_grant };
            if held.facts.end == Some(end) {
                return Due::Answer(row.shown());
            }
            if row.present().is_none_or(|present| !present.is_same(held)) {
                return Due::Answer(Outcome::LeaseLost);
            }
            let mut ended = row.clone();
            for lease in ended.leases.iter_mut().filter(|lease| lease.is_same(held)) {
                lease.facts.end = Some(end);
            }
            let row = Row { needs_reauth: row.needs_reauth || *invalid_grant, ..ended };
            let shown = row.shown();
            Due::Write(row, shown)
        }
        Op::Mark { revision, caller, .. } => {
            let Some(row) = living else { return missing };
            if row.remembered.iter().any(|known| known.0 == Key::Own(id)) {
                return Due::Answer(row.shown());
            }
            if revision.is_some_and(|revision| revision != row.revision) {
                return Due::Answer(Outcome::Mismatch(row.revision));
            }
            if row.needs_reauth {
                return Due::Answer(row.shown());
            }
            let remembered = remember(row, (Key::Own(id), *caller, row.revision, now));
            let row = Row { needs_reauth: true, remembered, ..row.clone() };
            let shown = row.shown();
            Due::Write(row, shown)
        }
        Op::Rewrite { .. } => match living {
            None => Due::Answer(Outcome::Skipped),
            Some(row) => Due::Write(row.clone(), Outcome::Rewritten),
        },
        Op::Encrypt { .. }
        | Op::Decrypt { .. }
        | Op::Delete { .. }
        | Op::CreateCustomer
        | Op::Rotate
        | Op::Retire { .. } => unreachable!("it is due elsewhere"),
    }
}

const SECOND: i64 = 1_000_000;

/// What an acquisition does to a living credential: refused revision, key, seconds, caller.
fn acquire(row: &Row, id: OpId, asked: (Option<u64>, Option<u32>, i64, usize), now: i64) -> Due {
    let (rejected, key, ttl, caller) = asked;
    let (revision, secret) = (row.revision, row.secret.unwrap_or_default());
    if row.needs_reauth {
        return Due::Answer(Outcome::NeedsReauth);
    }
    match rejected {
        Some(rejected) if rejected > revision => return Due::Answer(Outcome::Mismatch(revision)),
        Some(rejected) if rejected == revision => {}
        Some(_) | None => return Due::Answer(Outcome::Fresh { revision, secret }),
    }
    let key = key.map_or(Key::Own(id), Key::Given);
    let leased =
        |facts: &Facts| Outcome::Leased { revision, secret, expires: facts.expires, after_lapse: facts.after_lapse };
    if let Some(present) = row.present() {
        if present.key == key && present.facts.caller == caller {
            if row.lease(id, caller).is_some() {
                return Due::Answer(leased(&present.facts));
            }
            // One lease, for whoever shows the one token or the other.
            if now < present.facts.expires {
                let facts = present.facts.clone();
                let outcome = leased(&facts);
                return Due::Write(row.with(Lease { by: id, key, facts }), outcome);
            }
        }
        // Five seconds for the clocks, and a minute of grace.
        let available = present.facts.expires + 65 * SECOND;
        if now < available {
            return Due::Answer(Outcome::InProgress(available));
        }
    }
    let after_lapse = row.leases.iter().any(|lease| lease.facts.revision == revision && lease.facts.end.is_none());
    let facts = Facts { caller, revision, expires: now + ttl * SECOND, after_lapse, end: None };
    let outcome = leased(&facts);
    Due::Write(row.with(Lease { by: id, key, facts }), outcome)
}

impl Row {
    /// The last four, of which those go first that were given up.
    fn with(&self, lease: Lease) -> Self {
        let mut row = self.clone();
        row.leases.push(lease);
        if row.leases.len() > 4 {
            let given_up = |lease: &Lease| matches!(lease.facts.end, Some(End::Abandoned { .. }));
            row.leases.remove(row.leases.iter().position(given_up).unwrap_or_default());
        }
        row
    }

    fn lease(&self, by: OpId, caller: usize) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.by == by && lease.facts.caller == caller)
    }

    /// The one that keeps others waiting.
    fn present(&self) -> Option<&Lease> {
        self.leases.last().filter(|lease| lease.facts.revision == self.revision && lease.facts.end.is_none())
    }

    fn ended(&self, by: OpId, end: End) -> Self {
        let mut ended = self.clone();
        for lease in ended.leases.iter_mut().filter(|lease| lease.by == by) {
            lease.facts.end = Some(end);
        }
        ended
    }

    fn shown(&self) -> Outcome {
        Outcome::Shown { revision: self.revision, needs_reauth: self.needs_reauth }
    }

    /// Whether what was written is this.
    fn is(&self, revision: u64, secret: Option<SecretId>, needs_reauth: bool, leases: &[Facts]) -> bool {
        (self.revision, self.secret, self.needs_reauth) == (revision, secret, needs_reauth)
            && self.leases.iter().map(|lease| &lease.facts).eq(leases)
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
/// created on the way: that one is disabled and enabled, after so many writes.
pub(super) fn check(
    calls: &[Call],
    applied: &[Applied],
    first_made: i64,
    from_the_start: impl Fn(usize) -> bool,
    enabled: &[(usize, bool)],
) -> Result<(), String> {
    let created = applied.iter().position(|applied| matches!(applied.made, Made::Customer { customer: 1, .. }));
    let keys = Keys::of(applied, first_made);
    let exists = |credential: usize, at: usize| from_the_start(credential) || created.is_some_and(|index| index < at);
    // Each credential's rows, by the number of writes after which it has them.
    let mut rows: BTreeMap<usize, Vec<(usize, Row)>> = BTreeMap::new();
    let mut effects: BTreeMap<OpId, (usize, Outcome)> = BTreeMap::new();
    for (index, Applied { by, made }) in applied.iter().enumerate() {
        let call = &calls[*by];
        let outcome = match made {
            Made::Customer { customer: 0, .. } => {
                keys.check(index, &call.op).map_err(|error| format!("write {index} of op {by}: {error}"))?
            }
            Made::Customer { row, .. } => {
                if created != Some(index) {
                    return Err(format!("write {index}: the customer was made twice"));
                }
                Outcome::Created { row: row.clone() }
            }
            Made::Credential { credential, revision, secret, needs_reauth, leases, version } => {
                if *credential == 0 {
                    let sealed = keys.check_sealed(index, call, *version);
                    sealed.map_err(|error| format!("write {index} of op {by}: {error}"))?;
                }
                let history = rows.entry(*credential).or_default();
                let present = history.last().map(|(_, row)| row);
                match due(present, exists(*credential, index), *by, &call.op, call.now) {
                    Due::Write(row, outcome) if row.is(*revision, *secret, *needs_reauth, leases) => {
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
        let is_refused = |active| from_the_start(call.op.credential()) && !was(enabled, active, call.called, index);
        if matches!(call.op, Op::Encrypt { .. } | Op::Acquire { .. }) && is_refused(true) {
            return Err(format!("write {index} of op {by}: its customer was disabled all the time"));
        }
        // A lease may be renamed again, where another call of the same name did so meanwhile.
        if effects.insert(*by, (index, outcome)).is_some() && !matches!(call.op, Op::Acquire { .. }) {
            return Err(format!("write {index} of op {by}: its second"));
        }
    }
    for (id, call) in calls.iter().enumerate() {
        let Some((answered, outcome)) = &call.answered else { return Err(format!("op {id} was never answered")) };
        let span = call.called..=*answered;
        let history = rows.get(&call.op.credential()).map_or(&[][..], |rows| rows);
        // Whether it is the answer at some point of this time, without a write.
        let is_due = |mut span: std::ops::RangeInclusive<usize>| {
            span.any(|at| {
                let row = history.iter().rev().find(|(since, _)| *since <= at).map(|(_, row)| row);
                let due = due(row, exists(call.op.credential(), at), id, &call.op, call.now);
                matches!(due, Due::Answer(due) if due == *outcome)
            })
        };
        let was = |active| was(enabled, active, call.called, *answered);
        let fits = match (effects.get(&id), outcome) {
            (_, Outcome::Away | Outcome::Cancelled | Outcome::KeysAway) => true,
            (Some((index, due)), outcome) if due == outcome => index < answered,
            // A change whose answer was lost is opened to be recognised, which the customer's state may not permit.
            (Some(_), Outcome::CustomerDisabled) => {
                matches!(call.op, Op::Encrypt { .. } | Op::Acquire { .. }) && was(false)
            }
            // Its answer was lost, and what came next hid its write: that the key was rotated is seen, and not by whom.
            (Some(_), Outcome::Concurrent) => call.op == Op::Rotate,
            (Some((index, _)), Outcome::Skipped) => keys.may_skip(call, history, index + 1..=*answered),
            // A row that is gone keeps a lease, a mark or the end of a lease from nobody: the answer is what is there since.
            (Some((index, _)), _) => call.op.ends_with_the_secret() && is_due(index + 1..=*answered),
            (None, Outcome::Throttled) => true,
            (None, Outcome::CustomerDisabled) => {
                call.op.needs_an_active_customer() && from_the_start(call.op.credential()) && was(false)
            }
            (None, outcome) => match (&call.op, outcome) {
                (Op::Rewrite { .. }, Outcome::Skipped) => keys.may_skip(call, history, span.clone()),
                (Op::Rotate, Outcome::Concurrent) => keys.changed(span.clone()),
                (Op::Retire { version }, outcome) => keys.may_answer(*version, outcome, history, span.clone()),
                (Op::CreateCustomer, outcome) => match (outcome, created.map(|index| &applied[index].made)) {
                    (Outcome::Created { row }, Some(Made::Customer { row: made, .. })) => {
                        row == made && created < Some(*answered)
                    }
                    (_, _) => false,
                },
                // Only where others did change it.
                (_, Outcome::Concurrent) => history.iter().any(|(at, _)| span.contains(at)),
                (op, Outcome::Opened { .. } | Outcome::Fresh { .. }) => {
                    is_due(span.clone()) && (!from_the_start(op.credential()) || was(true))
                }
                (_, _) => is_due(span.clone()),
            },
        };
        if !fits {
            let effect = effects.get(&id);
            return Err(format!("op {id}: {outcome:?} is not due between {span:?}; its own write: {effect:?}"));
        }
    }
    Ok(())
}

/// The versions of the first customer's key after each write.
struct Keys<'a> {
    applied: &'a [Applied],
    first_made: i64,
}

impl<'a> Keys<'a> {
    fn of(applied: &'a [Applied], first_made: i64) -> Self {
        Self { applied, first_made }
    }

    /// After so many writes: when each version was made, the primary, and which are retired.
    fn at(&self, at: usize) -> (Vec<i64>, u32, Vec<u32>) {
        let written = self.applied.iter().take(at).rev().find_map(|applied| match &applied.made {
            Made::Customer { customer: 0, versions, primary, retired, .. } => {
                Some((versions.clone(), *primary, retired.clone()))
            }
            Made::Customer { .. } | Made::Credential { .. } => None,
        });
        written.unwrap_or_else(|| (vec![self.first_made], 1, Vec::new()))
    }

    /// The version that the first credential was sealed under after so many writes.
    fn sealed(&self, at: usize) -> Option<u32> {
        self.applied.iter().take(at).rev().find_map(|applied| match applied.made {
            Made::Credential { credential: 0, version, .. } => Some(version),
            Made::Credential { .. } | Made::Customer { .. } => None,
        })?
    }

    /// What a write of the customer comes to.
    fn check(&self, index: usize, op: &Op) -> Result<Outcome, String> {
        let ((versions, primary, retired), after) = (self.at(index), self.at(index + 1));
        match op {
            Op::Rotate => {
                let is_next = after.1 == primary + 1 && after.0.starts_with(&versions) && after.2 == retired;
                let outcome = Outcome::Rotated { primary: after.1 };
                if is_next { Ok(outcome) } else { Err(format!("not the next version: {after:?}")) }
            }
            Op::Retire { version } => {
                let wanted: Vec<_> = retired.iter().copied().chain([*version]).collect();
                let is_one_more = (&after.0, after.1) == (&versions, primary) && same(&after.2, &wanted);
                if !is_one_more || *version == primary || retired.contains(version) {
                    return Err(format!("not one retired version more: {after:?}"));
                }
                if self.sealed(index) == Some(*version) {
                    return Err("a record is sealed under the version".to_owned());
                }
                Ok(Outcome::Retired)
            }
            other => Err(format!("{other:?} writes no customer")),
        }
    }

    /// A write of the first credential is under a version that was the primary while its operation went on, and under no retired one;
    /// what seals nothing leaves it as it was; re-encryption brings it up.
    fn check_sealed(&self, index: usize, call: &Call, version: Option<u32>) -> Result<(), String> {
        let Some(version) = version else { return Ok(()) };
        let before = self.sealed(index);
        if self.at(index).2.contains(&version) {
            return Err(format!("sealed under version {version}, which is retired"));
        }
        if !call.op.seals() {
            return if before == Some(version) { Ok(()) } else { Err(format!("version {before:?} became {version}")) };
        }
        if !(call.called..=index).any(|at| self.at(at).1 == version) {
            return Err(format!("sealed under version {version}, which was not the primary"));
        }
        if matches!(call.op, Op::Rewrite { .. }) && before.is_none_or(|before| before >= version) {
            return Err(format!("sealed anew under version {version} what was under {before:?}"));
        }
        Ok(())
    }

    /// Whether there was nothing to re-encrypt at some point: the target are the versions that were made until the call.
    fn may_skip(&self, call: &Call, history: &[(usize, Row)], mut span: std::ops::RangeInclusive<usize>) -> bool {
        span.any(|at| {
            let row = history.iter().rev().find(|(since, _)| *since <= at).map(|(_, row)| row);
            let is_living = row.is_some_and(|row| row.secret.is_some());
            // The second customer's key is never rotated.
            let wanted = self.at(at).0.iter().filter(|made| **made <= call.now).count() as u32;
            !is_living || call.op.credential() != 0 || self.sealed(at).is_some_and(|sealed| sealed >= wanted)
        })
    }

    fn changed(&self, span: std::ops::RangeInclusive<usize>) -> bool {
        self.at(*span.start()) != self.at(*span.end())
    }

    /// Whether a retirement that wrote nothing is answered so at some point.
    fn may_answer(
        &self,
        version: u32,
        outcome: &Outcome,
        history: &[(usize, Row)],
        mut span: std::ops::RangeInclusive<usize>,
    ) -> bool {
        let changed = self.changed(span.clone());
        span.any(|at| {
            let (versions, _, retired) = self.at(at);
            let row = history.iter().rev().find(|(since, _)| *since <= at).map(|(_, row)| row);
            let is_living = row.is_some_and(|row| row.secret.is_some());
            match outcome {
                Outcome::Retired => retired.contains(&version),
                Outcome::InUse { records } => *records == 1 && is_living && self.sealed(at) == Some(version),
                // How long ago it was the primary is the clock's to say.
                Outcome::InUseBySealing => version as usize <= versions.len() && !retired.contains(&version),
                Outcome::KeyVersionUnknown => version as usize > versions.len(),
                Outcome::Concurrent => changed,
                _ => false,
            }
        })
    }
}

/// Whether they hold the same numbers.
fn same(one: &[u32], other: &[u32]) -> bool {
    one.len() == other.len() && one.iter().all(|number| other.contains(number))
}

/// Whether the customer was so at some time between two numbers of writes. It is enabled at the start.
fn was(enabled: &[(usize, bool)], active: bool, from: usize, to: usize) -> bool {
    let mut since = (0, true);
    for (at, now) in enabled.iter().copied().chain([(usize::MAX, true)]) {
        // As it was before this, until this.
        if since.1 == active && since.0 <= to && at >= from {
            return true;
        }
        since = (at, now);
    }
    false
}
