//! That the check accepts what may be, and refuses what may not.

use super::*;

const ENCRYPT: Op = Op::Encrypt { secret: 1, require: Require::Nothing, key: None };

fn encrypt(secret: SecretId) -> Op {
    Op::Encrypt { secret, require: Require::Nothing, key: None }
}

fn keyed(secret: SecretId, key: u32) -> Op {
    Op::Encrypt { secret, require: Require::Nothing, key: Some(key) }
}

const DECRYPT: Op = Op::Decrypt { revision: None };
const DELETE: Op = Op::Delete { revision: None };

fn opened(revision: u64) -> Answer {
    Answer::Opened { revision, secret: revision as SecretId }
}

/// Answered between these moments.
fn event(called: Moment, ended: Moment, op: Op, answer: Answer) -> Event {
    Event { client: called as usize, op, called, answer: Some(answer), ended }
}

/// Not answered; it can happen until then.
fn unanswered(called: Moment, ended: Moment, op: Op) -> Event {
    Event { client: called as usize, op, called, answer: None, ended }
}

/// One after another.
fn sequence(steps: &[(Op, Answer)]) -> Vec<Event> {
    let event = |(at, (op, answer)): (usize, &(Op, Answer))| event(2 * at as u64, 2 * at as u64 + 1, *op, *answer);
    steps.iter().enumerate().map(event).collect()
}

fn accepted(history: &[Event]) {
    explain(history).unwrap_or_else(|told| panic!("{told}"));
}

#[track_caller]
fn refused(history: &[Event]) {
    assert!(explain(history).is_err(), "accepted: {history:?}");
}

#[test]
fn a_life_in_sequence_is_accepted_and_every_wrong_answer_in_it_refused() {
    let right = [
        (DECRYPT, Answer::NotFound),
        (Op::Encrypt { secret: 9, require: Require::At(1), key: None }, Answer::NotFound),
        (Op::Encrypt { secret: 1, require: Require::Absent, key: Some(7) }, Answer::Sealed(1)),
        (Op::Encrypt { secret: 9, require: Require::Absent, key: None }, Answer::Exists(1)),
        (Op::Encrypt { secret: 2, require: Require::At(1), key: None }, Answer::Sealed(2)),
        (Op::Encrypt { secret: 9, require: Require::At(1), key: None }, Answer::Mismatch(2)),
        (keyed(1, 7), Answer::Sealed(1)),
        (Op::Decrypt { revision: Some(2) }, opened(2)),
        (Op::Decrypt { revision: Some(1) }, Answer::Mismatch(2)),
        (Op::Get, Answer::Shown(2)),
        (Op::Delete { revision: Some(1) }, Answer::Mismatch(2)),
        (Op::Delete { revision: Some(2) }, Answer::Deleted),
        (Op::Get, Answer::NotFound),
        (DELETE, Answer::NotFound),
        (keyed(1, 7), Answer::Sealed(1)),
        (keyed(3, 8), Answer::Sealed(3)),
        (keyed(4, 8), Answer::KeyReused),
        (DECRYPT, opened(3)),
    ];
    accepted(&sequence(&right));
    let wrong = [Answer::Sealed(4), Answer::Sealed(2), opened(1), Answer::Shown(1), Answer::Deleted, Answer::NotFound];
    for (place, (_, answer)) in right.iter().enumerate() {
        for other in wrong.iter().filter(|other| *other != answer) {
            let mut history = right;
            history[place].1 = *other;
            refused(&sequence(&history));
        }
    }
}

#[test]
fn a_stale_read_is_refused_and_a_concurrent_one_accepted() {
    let update = [event(0, 1, encrypt(1), Answer::Sealed(1)), event(2, 5, encrypt(2), Answer::Sealed(2))];
    let read = |called, ended, revision| {
        let mut history = update.to_vec();
        history.push(event(called, ended, DECRYPT, opened(revision)));
        history
    };
    accepted(&read(3, 4, 1));
    accepted(&read(3, 4, 2));
    accepted(&read(6, 7, 2));
    refused(&read(6, 7, 1));
    // What one has seen, the next does not see undone.
    let mut both = read(3, 4, 2);
    both.push(event(6, 7, Op::Get, Answer::Shown(1)));
    refused(&both);
}

#[test]
fn a_lost_update_is_refused() {
    refused(&[event(0, 3, encrypt(1), Answer::Sealed(1)), event(1, 2, encrypt(2), Answer::Sealed(1))]);
    let overwritten = |read| {
        let conditional = Op::Encrypt { secret: 2, require: Require::At(1), key: None };
        let other = Op::Encrypt { secret: 3, require: Require::At(1), key: None };
        [
            event(0, 1, encrypt(1), Answer::Sealed(1)),
            event(2, 5, conditional, Answer::Sealed(2)),
            event(3, 4, other, read),
        ]
    };
    accepted(&overwritten(Answer::Mismatch(2)));
    refused(&overwritten(Answer::Sealed(2)));
    // An acknowledged change that nobody ever finds.
    refused(&[event(0, 1, ENCRYPT, Answer::Sealed(1)), event(2, 3, DECRYPT, Answer::NotFound)]);
    // Of two deletions of one life, one is done.
    let twice = |second| {
        [event(0, 1, ENCRYPT, Answer::Sealed(1)), event(2, 5, DELETE, Answer::Deleted), event(3, 4, DELETE, second)]
    };
    accepted(&twice(Answer::NotFound));
    refused(&twice(Answer::Deleted));
}

#[test]
fn what_was_not_answered_may_have_happened_and_stays_as_it_is() {
    let history = |reads: &[Answer]| {
        let mut history = vec![event(0, 1, encrypt(1), Answer::Sealed(1)), unanswered(2, Moment::MAX, encrypt(2))];
        let read = |(at, answer): (usize, &Answer)| event(4 + 2 * at as u64, 5 + 2 * at as u64, DECRYPT, *answer);
        history.extend(reads.iter().enumerate().map(read));
        history
    };
    accepted(&history(&[opened(1), opened(1)]));
    accepted(&history(&[opened(2), opened(2)]));
    accepted(&history(&[opened(1), opened(2)]));
    refused(&history(&[opened(2), opened(1)]));
    refused(&history(&[Answer::Opened { revision: 2, secret: 3 }]));
    refused(&history(&[Answer::Opened { revision: 3, secret: 2 }]));
}

#[test]
fn what_was_killed_does_not_happen_later() {
    let history = |killed: Moment| {
        [
            event(0, 1, encrypt(1), Answer::Sealed(1)),
            unanswered(2, killed, encrypt(2)),
            event(4, 5, DECRYPT, opened(1)),
            event(6, 7, DECRYPT, opened(2)),
        ]
    };
    accepted(&history(Moment::MAX));
    refused(&history(3));
    // Nor before it was called.
    refused(&[
        event(0, 1, encrypt(1), Answer::Sealed(1)),
        event(2, 3, DECRYPT, opened(2)),
        unanswered(4, Moment::MAX, encrypt(2)),
    ]);
}

#[test]
fn a_retry_is_made_once() {
    let history = |retried, read| {
        [
            unanswered(0, Moment::MAX, keyed(1, 7)),
            event(2, 3, keyed(1, 7), retried),
            event(4, 5, DECRYPT, Answer::Opened { revision: read, secret: 1 }),
        ]
    };
    accepted(&history(Answer::Sealed(1), 1));
    refused(&history(Answer::Sealed(2), 2));
    refused(&history(Answer::Sealed(1), 2));
    // Without a key it is another call.
    let twice = [unanswered(0, Moment::MAX, ENCRYPT), event(2, 3, ENCRYPT, Answer::Sealed(2))];
    accepted(&twice);
}

#[test]
fn eight_changes_are_remembered() {
    let history = |others: u32, retried: Answer| {
        let mut steps = vec![(keyed(1, 7), Answer::Sealed(1))];
        steps.extend((0..others).map(|other| (encrypt(10 + other), Answer::Sealed(u64::from(other) + 2))));
        steps.push((keyed(1, 7), retried));
        sequence(&steps)
    };
    accepted(&history(7, Answer::Sealed(1)));
    refused(&history(7, Answer::Sealed(9)));
    accepted(&history(8, Answer::Sealed(10)));
    refused(&history(8, Answer::Sealed(1)));
}

#[test]
fn a_refusal_shows_the_history() {
    let told = explain(&sequence(&[(ENCRYPT, Answer::Sealed(1)), (DECRYPT, opened(4))])).unwrap_err();
    for line in
        ["client 0:    0 to    1", "→ Opened { revision: 4", "the longest order that agrees: [0]", "answered Opened"]
    {
        assert!(told.contains(line), "{told}");
    }
}
