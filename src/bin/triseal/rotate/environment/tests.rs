//! The steps, on a fake of what holds the keys that fails or dies at any of them.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use triseal::factors::FactorError;
use triseal::factors::document::Form;
use triseal::factors::rotation::{DocumentSource, Mark, ReplaceError, Successor};
use zeroize::Zeroizing;

use super::*;
use crate::failure::Exit;

/// Keeps a document and the number of its changes. Its clones are the same one.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    text: String,
    changes: u32,
    /// The primary before the last change, while its label is on.
    unfinished: Option<u32>,
    /// Calls until it goes away. `None`: it stays.
    calls_left: Option<u32>,
    /// The call with which it goes away is carried out.
    carried_out: bool,
}

impl Fake {
    fn new() -> Self {
        let fake = Self::default();
        fake.0.lock().unwrap().text =
            KeyDocument::first(Zeroizing::new([1; 32]), Timestamp::UNIX_EPOCH).to_json(Form::Environment).to_string();
        fake
    }

    /// One call: whether it is carried out, and whether it is answered.
    fn call<T>(&self, carry_out: impl FnOnce(&mut State) -> T) -> Result<T, FactorError> {
        let mut state = self.0.lock().unwrap();
        let away = || FactorError::Away("gone".to_owned());
        match state.calls_left {
            Some(0) => {
                let carried_out = std::mem::take(&mut state.carried_out);
                if carried_out {
                    carry_out(&mut state);
                }
                return Err(away());
            }
            Some(left) => state.calls_left = Some(left - 1),
            None => {}
        }
        Ok(carry_out(&mut state))
    }

    fn document(&self) -> KeyDocument {
        KeyDocument::parse(Form::Environment, &self.0.lock().unwrap().text).unwrap()
    }

    fn comes_back(&self) {
        self.0.lock().unwrap().calls_left = None;
    }
}

#[async_trait]
impl DocumentSource for Fake {
    async fn fetch(&self) -> Result<Fetched, FactorError> {
        self.call(|state| Fetched {
            document: KeyDocument::parse(Form::Environment, &state.text).unwrap(),
            mark: Mark::new(Zeroizing::new(state.changes.to_string())),
            former_primary: state.unfinished,
        })
    }

    async fn replace(&self, fetched: &Mark, successor: &Successor) -> Result<Mark, ReplaceError> {
        // Two calls, as at AWS: the change, and the end of it.
        let made = self.call(|state| {
            if !fetched.is_same(&Mark::new(Zeroizing::new(state.changes.to_string()))) {
                return Err(ReplaceError::Changed);
            }
            state.unfinished = Some(KeyDocument::parse(Form::Environment, &state.text).unwrap().primary);
            state.text = successor.document().to_json(Form::Environment).to_string();
            state.changes += 1;
            Ok(Mark::new(Zeroizing::new(state.changes.to_string())))
        })??;
        self.finish(&made).await?;
        Ok(made)
    }

    async fn finish(&self, _: &Mark) -> Result<(), FactorError> {
        self.call(|state| state.unfinished = None)
    }
}

const SETTLE: Duration = Duration::from_mins(2);

/// The whole command, but for its arguments.
async fn run(fake: &Fake) -> Result<KeyDocument, Failure> {
    let place = Place::of(fake.clone());
    let fetched = place.fetch().await?;
    rotate(&place, fetched, SETTLE, Format::Json).await
}

#[tokio::test(start_paused = true)]
async fn the_former_primary_opens_and_the_pause_is_kept() {
    let fake = Fake::new();
    let began = tokio::time::Instant::now();
    let running = tokio::spawn({
        let fake = fake.clone();
        async move { run(&fake).await }
    });
    sleep(SETTLE - Duration::from_secs(1)).await;
    let added = fake.document();
    assert_eq!((added.primary, added.added()), (1, Some(2)));
    let document = running.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), SETTLE);
    assert_eq!((document.primary, document.keys.len()), (2, 2));
    assert!(document.keys[0].primary_until.is_some());
}

/// A whole rotation makes six calls. It dies with each of them, carried out or not, and is run again: until then it is the old state or
/// the new, and in the end there is one more version, and no second one.
#[tokio::test(start_paused = true)]
async fn killed_at_any_step_and_run_again_it_rotates_once() {
    let mut killed = 0;
    for carried_out in [false, true] {
        for calls in 0..6 {
            let fake = Fake::new();
            {
                let mut state = fake.0.lock().unwrap();
                (state.calls_left, state.carried_out) = (Some(calls), carried_out);
            }
            let failure = run(&fake).await.expect_err("it dies");
            assert_eq!(failure.exit, Exit::Failed, "{calls}");
            assert!(failure.hint.unwrap().contains("run the same command again"));
            killed += 1;
            let between = fake.document();
            assert!(matches!((between.primary, between.keys.len()), (1, 1 | 2) | (2, 2)));
            fake.comes_back();
            // With the last call carried out, all was done: only then the next run is another rotation.
            let all_done = carried_out && calls == 5;
            let document = run(&fake).await.unwrap();
            let versions = if all_done { 3 } else { 2 };
            assert_eq!((document.primary as usize, document.keys.len()), (versions, versions), "after {calls} calls");
            assert_eq!(fake.0.lock().unwrap().unfinished, None);
        }
    }
    assert_eq!(killed, 12);
    let fake = Fake::new();
    fake.0.lock().unwrap().calls_left = Some(6);
    assert!(run(&fake).await.is_ok(), "six calls are all");
}

#[tokio::test(start_paused = true)]
async fn of_two_operators_at_once_one_is_refused_with_the_state_as_it_is() {
    let fake = Fake::new();
    let other = tokio::spawn({
        let fake = fake.clone();
        async move {
            // While the first one waits.
            sleep(Duration::from_secs(30)).await;
            run(&fake).await
        }
    });
    assert_eq!(run(&fake).await.unwrap().primary, 2);
    let refusal = other.await.unwrap().unwrap_err();
    assert_eq!(refusal.exit, Exit::Refused);
    assert!(refusal.message.contains("version 2 is the primary"), "{}", refusal.message);
    assert_eq!(fake.document().keys.len(), 2, "one version was added");
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_during_the_pause_is_not_written_over() {
    let fake = Fake::new();
    let running = tokio::spawn({
        let fake = fake.clone();
        async move { run(&fake).await }
    });
    sleep(Duration::from_secs(60)).await;
    // Somebody takes the version back by hand.
    {
        let mut state = fake.0.lock().unwrap();
        state.changes += 1;
        state.text =
            KeyDocument::first(Zeroizing::new([1; 32]), Timestamp::UNIX_EPOCH).to_json(Form::Environment).to_string();
    }
    assert_eq!(running.await.unwrap().unwrap_err().exit, Exit::Refused);
    assert_eq!(fake.document().keys.len(), 1);
}
