use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::super::WriteId;
use super::*;

/// A row that remembers which changes made it, as credentials do.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    write_id: WriteId,
    made_by: Vec<&'static str>,
}

impl Versioned for Row {
    fn write_id(&self) -> WriteId {
        self.write_id
    }
}

fn row(made_by: &[&'static str]) -> Row {
    Row { write_id: WriteId::random().unwrap(), made_by: made_by.to_vec() }
}

/// What becomes of one write.
enum Answer {
    /// The condition decides.
    Honest,
    /// It is done, and the answer is lost.
    LostAfter,
    /// It is not done, and the answer is lost.
    LostBefore,
    /// The answer is lost, the row is read as it was, and then the write lands.
    Late,
    /// Somebody else writes first.
    Overtaken,
    /// An error that is an answer.
    Error(StoreError),
    /// After so long it is away, and was not done.
    Hangs(Duration),
}

#[derive(Default)]
struct Fake {
    /// How long a reading takes.
    reading: Duration,
    row: Mutex<Option<Row>>,
    late: Mutex<Option<Row>>,
    writes: Mutex<VecDeque<Answer>>,
    /// Errors of the readings, in their order; `None` is no error.
    reads: Mutex<VecDeque<Option<StoreError>>>,
    written: Mutex<u32>,
}

impl Fake {
    fn new(row: Option<Row>, writes: impl IntoIterator<Item = Answer>) -> Self {
        Self { row: Mutex::new(row), writes: Mutex::new(writes.into_iter().collect()), ..Self::default() }
    }

    fn made_by(&self) -> Vec<&'static str> {
        self.row.lock().unwrap().as_ref().map_or_else(Vec::new, |row| row.made_by.clone())
    }

    fn written(&self) -> u32 {
        *self.written.lock().unwrap()
    }
}

#[async_trait]
impl Rows for Fake {
    type Id = ();
    type Row = Row;
    type Write = Row;

    async fn get(&self, (): &()) -> Result<Option<Row>, StoreError> {
        sleep(self.reading).await;
        if let Some(error) = self.reads.lock().unwrap().pop_front().flatten() {
            return Err(error);
        }
        let read = self.row.lock().unwrap().clone();
        if let Some(late) = self.late.lock().unwrap().take() {
            *self.row.lock().unwrap() = Some(late);
        }
        Ok(read)
    }

    async fn replace(&self, expected: Option<WriteId>, write: Row) -> Result<Replaced<Row>, StoreError> {
        *self.written.lock().unwrap() += 1;
        let away = Err(StoreError::Away("timed out".to_owned()));
        let answer = self.writes.lock().unwrap().pop_front().unwrap_or(Answer::Honest);
        if let Answer::Hangs(time) = answer {
            sleep(time).await;
        }
        let mut present = self.row.lock().unwrap();
        match answer {
            Answer::Error(error) => return Err(error),
            Answer::LostBefore | Answer::Hangs(_) => return away,
            Answer::Late => {
                *self.late.lock().unwrap() = Some(write);
                return away;
            }
            Answer::Overtaken => {
                let mut made_by = present.as_ref().map_or_else(Vec::new, |row| row.made_by.clone());
                made_by.push("other");
                *present = Some(row(&made_by));
            }
            Answer::Honest | Answer::LostAfter => {}
        }
        if present.as_ref().map(Versioned::write_id) != expected {
            return Ok(Replaced::Refused(present.clone()));
        }
        *present = Some(write);
        if matches!(answer, Answer::LostAfter) { away } else { Ok(Replaced::Done) }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Error {
    Decision,
    Change(ChangeError),
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        Self::Change(error)
    }
}

/// Adds "me" to a row, once. Answers with what the row then shows, or with `repeated`.
async fn add_me(fake: &Fake) -> (Result<Vec<&'static str>, Error>, u32) {
    let decisions = Cell::new(0);
    let answer = change(fake, &(), |present: Option<Row>| {
        decisions.set(decisions.get() + 1);
        async move {
            let mut made_by = present.map_or_else(Vec::new, |row| row.made_by);
            if made_by.contains(&"me") {
                made_by.push("repeated");
                return Ok(Decision::Done(made_by));
            }
            made_by.push("me");
            Ok(Decision::Replace(row(&made_by), made_by))
        }
    })
    .await;
    (answer, decisions.get())
}

fn away() -> StoreError {
    StoreError::Away("timed out".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_row_is_inserted_or_replaced() {
    let fake = Fake::new(None, []);
    assert_eq!(add_me(&fake).await, (Ok(vec!["me"]), 1));
    let fake = Fake::new(Some(row(&["former"])), []);
    assert_eq!(add_me(&fake).await, (Ok(vec!["former", "me"]), 1));
    assert_eq!(fake.made_by(), ["former", "me"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_to_do_writes_nothing() {
    let fake = Fake::new(Some(row(&["me"])), []);
    assert_eq!(add_me(&fake).await, (Ok(vec!["me", "repeated"]), 1));
    assert_eq!(fake.written(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_decided_again_from_the_present_row() {
    let fake = Fake::new(Some(row(&["former"])), [Answer::Overtaken, Answer::Overtaken]);
    assert_eq!(add_me(&fake).await, (Ok(vec!["former", "other", "other", "me"]), 3));
    let fake = Fake::new(None, [Answer::Overtaken]);
    assert_eq!(add_me(&fake).await, (Ok(vec!["other", "me"]), 2));
}

#[tokio::test(start_paused = true)]
async fn five_refusals_are_the_end() {
    let fake = Fake::new(None, (0..9).map(|_| Answer::Overtaken));
    // The sixth decision writes nothing.
    assert_eq!(add_me(&fake).await, (Err(Error::Change(ChangeError::Concurrent)), 6));
    assert_eq!(fake.written(), 5);
}

/// Nobody else writes. A change that may land yet is not told as one that did not happen.
#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_away() {
    let fake = Fake::new(None, (0..5).map(|_| Answer::LostBefore));
    assert_eq!(add_me(&fake).await, (Err(Error::Change(ChangeError::Store(away()))), 6));
    assert_eq!(fake.written(), 5);

    let mut answers: Vec<_> = (0..4).map(|_| Answer::LostBefore).collect();
    answers.push(Answer::Late);
    let fake = Fake::new(None, answers);
    let (answer, _) = add_me(&fake).await;
    assert_eq!(answer, Err(Error::Change(ChangeError::Store(away()))));
    assert_eq!(fake.made_by(), ["me"], "and it did happen");
}

/// However its readings and writings share the time, the caller of a call without a deadline of its own is told why.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_away_before_a_call_ends() {
    let hangs = |time| (0..5).map(move |_| Answer::Hangs(time));
    let second = Duration::from_secs(1);
    for (reading, writing, writes) in
        [(Duration::ZERO, 2 * second, 2), (Duration::ZERO, 100 * second, 1), (2 * second, 100 * second, 1)]
    {
        let fake = Fake { reading, ..Fake::new(None, hangs(writing)) };
        let begun = Instant::now();
        let (answer, _) = add_me(&fake).await;
        assert!(matches!(answer, Err(Error::Change(ChangeError::Store(StoreError::Away(_))))), "{answer:?}");
        assert_eq!((begun.elapsed().as_secs(), fake.written()), (PATIENCE.as_secs(), writes));
    }
    let fake = Fake { reading: 100 * second, ..Fake::new(None, []) };
    let begun = Instant::now();
    assert!(matches!(add_me(&fake).await, (Err(Error::Change(ChangeError::Store(StoreError::Away(_)))), 0)));
    assert_eq!(begun.elapsed(), PATIENCE);
}

/// What came first is the cause of the rest.
#[tokio::test(start_paused = true)]
async fn the_first_reason_is_told() {
    let later = || Answer::Error(StoreError::Away("its writer has stopped".to_owned()));
    let told = Err(Error::Change(ChangeError::Store(away())));
    let fake = Fake::new(None, [Answer::LostBefore, later(), later(), later(), later()]);
    assert_eq!(add_me(&fake).await, (told.clone(), 6));

    // Also where the row can't be read any more.
    let fake = Fake::new(None, [Answer::LostBefore, later()]);
    fake.reads.lock().unwrap().extend([None, None, Some(StoreError::Throttled)]);
    assert_eq!(add_me(&fake).await, (told, 2));

    // Somebody else's write came between: what was lost before it is settled.
    let fake = Fake::new(None, [Answer::LostBefore, Answer::Overtaken, later(), later(), later()]);
    let later = StoreError::Away("its writer has stopped".to_owned());
    assert_eq!(add_me(&fake).await.0, Err(Error::Change(ChangeError::Store(later))));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_recognised() {
    let fake = Fake::new(None, [Answer::LostAfter]);
    assert_eq!(add_me(&fake).await, (Ok(vec!["me"]), 1));
    assert_eq!(fake.written(), 1);

    let fake = Fake::new(None, [Answer::LostBefore]);
    assert_eq!(add_me(&fake).await, (Ok(vec!["me"]), 2));
    assert_eq!(fake.made_by(), ["me"]);
}

/// The second write is refused by the first, which the decision finds in the row.
#[tokio::test(start_paused = true)]
async fn a_write_that_lands_late_is_recognised() {
    for former in [None, Some(row(&["former"]))] {
        let fake = Fake::new(former, [Answer::Late]);
        let (answer, decisions) = add_me(&fake).await;
        assert_eq!((answer.unwrap().last(), decisions), (Some(&"repeated"), 3));
        assert_eq!(fake.made_by().iter().filter(|name| **name == "me").count(), 1);
    }
}

/// The answer of the fifth write was lost, and it was the one that won.
#[tokio::test(start_paused = true)]
async fn the_last_attempt_counts() {
    let mut answers: Vec<_> = (0..4).map(|_| Answer::Overtaken).collect();
    answers.push(Answer::LostAfter);
    let fake = Fake::new(None, answers);
    assert_eq!(add_me(&fake).await, (Ok(vec!["other", "other", "other", "other", "me"]), 5));
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_fails_is_told_and_decides_nothing() {
    let fake = Fake::new(None, []);
    fake.reads.lock().unwrap().push_back(Some(StoreError::Throttled));
    assert_eq!(add_me(&fake).await, (Err(Error::Change(ChangeError::Store(StoreError::Throttled))), 0));

    // After a lost answer nobody knows; nothing is written again on a guess.
    let fake = Fake::new(None, [Answer::LostAfter]);
    fake.reads.lock().unwrap().extend([None, Some(StoreError::Throttled)]);
    assert_eq!(add_me(&fake).await, (Err(Error::Change(ChangeError::Store(away()))), 1));
    assert_eq!((fake.written(), fake.made_by()), (1, vec!["me"]));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_answered_with_an_error_is_not_tried_again() {
    for error in [
        StoreError::Throttled,
        StoreError::Refused("no".to_owned()),
        StoreError::Absent("credentials".to_owned()),
        StoreError::Corrupt("a row is empty".to_owned()),
    ] {
        let fake = Fake::new(None, [Answer::Error(error.clone())]);
        assert_eq!(add_me(&fake).await, (Err(Error::Change(ChangeError::Store(error))), 1));
        assert_eq!(fake.written(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_refuses_writes_nothing() {
    let fake = Fake::new(Some(row(&["former"])), []);
    let refuse = |_| async { Err::<Decision<Row, ()>, _>(Error::Decision) };
    assert_eq!(change(&fake, &(), refuse).await, Err(Error::Decision));
    assert_eq!(fake.written(), 0);
}

/// The row is as it was read, so the first write may land yet, whatever stops the second.
#[tokio::test(start_paused = true)]
async fn what_fails_while_a_write_is_unaccounted_for_is_told_as_that() {
    let fake = Fake::new(None, [Answer::LostBefore, Answer::Error(StoreError::Throttled)]);
    assert_eq!(add_me(&fake).await, (Err(Error::Change(ChangeError::Store(away()))), 2));

    let fake = Fake::new(None, [Answer::LostBefore]);
    let decided = Cell::new(false);
    let once = |_| {
        let again = decided.replace(true);
        async move { if again { Err(Error::Decision) } else { Ok(Decision::Replace(row(&["me"]), ())) } }
    };
    assert_eq!(change(&fake, &(), once).await, Err(Error::Change(ChangeError::Store(away()))));
}
