//! The one rule for writing. Every change of a row, on every backend, goes through [`change`].

use std::time::Duration;

use tokio::time::sleep;

use super::{Replaced, Rows, StoreError, Versioned};

/// A row is written at most so many times before the caller is told that others keep changing it.
const ATTEMPTS: u32 = 5;
/// The longest pause before the second attempt, in milliseconds. It doubles with each.
const FIRST_PAUSE_MS: u64 = 10;

/// What is to be done about a row.
#[derive(Debug)]
pub enum Decision<W, A> {
    /// Nothing is left to do: this is the answer.
    Done(A),
    /// Write this; the answer if that succeeds.
    Replace(W, A),
}

/// Why a row was not changed, apart from what the decision itself refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Others changed the row each time.
    #[error("the row was changed by others, {ATTEMPTS} times")]
    Concurrent,
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Changes a row.
///
/// 1. Read it.
/// 2. Decide: nothing to do, refused (an error), or a new row under a new write id.
/// 3. Replace it, on the condition that its write id is the one that was read.
/// 4. Refused: if the present row has the write id just written, only the answer was lost. Otherwise decide again, from
///    the present row. After a time-out: read, and likewise.
///
/// A write that timed out may land after the read. It is recognised all the same, because the condition lets one of two
/// writes through, and the decision finds its own change among those that the row remembers
/// ([`Changes`](super::Changes)).
///
/// # Errors
/// The decision's own, and a [`ChangeError`]. After [`StoreError::Away`] the change may have happened, or happen yet; after no other
/// error. So while a write of ours is unaccounted for, whatever fails is told as that.
pub async fn change<R, A, E, F>(rows: &R, id: &R::Id, decide: impl FnMut(Option<R::Row>) -> F) -> Result<A, E>
where
    R: Rows + ?Sized,
    F: Future<Output = Result<Decision<R::Write, A>, E>>,
    E: From<ChangeError>,
{
    let present = rows.get(id).await.map_err(ChangeError::from)?;
    change_from(rows, id, present, decide).await
}

/// [`change`], where the row was read before: it may have changed since, and then the first write is refused.
///
/// # Errors
/// As [`change`].
pub async fn change_from<R, A, E, F>(
    rows: &R,
    id: &R::Id,
    mut present: Option<R::Row>,
    mut decide: impl FnMut(Option<R::Row>) -> F,
) -> Result<A, E>
where
    R: Rows + ?Sized,
    F: Future<Output = Result<Decision<R::Write, A>, E>>,
    E: From<ChangeError>,
{
    // A write of ours was not answered, and the row is still the one that it replaces: it may land yet.
    let mut unanswered = None;
    for attempt in 0..=ATTEMPTS {
        if attempt > 0 {
            sleep(pause(attempt)).await;
        }
        let expected = present.as_ref().map(Versioned::write_id);
        let (write, answer) = match decide(present).await {
            Ok(Decision::Done(answer)) => return Ok(answer),
            // The last decision only looks whether a write of ours stands in the row.
            Ok(Decision::Replace(..)) if attempt == ATTEMPTS => break,
            Ok(Decision::Replace(write, answer)) => (write, answer),
            Err(error) => return Err(unanswered.map_or(error, |away| ChangeError::Store(away).into())),
        };
        let written = write.write_id();
        present = match rows.replace(expected, write).await {
            Ok(Replaced::Done) => return Ok(answer),
            Ok(Replaced::Refused(present)) => {
                unanswered = None;
                present
            }
            Err(away @ StoreError::Away(_)) => {
                // The first says why; a later one perhaps only that the store still is.
                let away = unanswered.take().unwrap_or(away);
                let present = rows.get(id).await.map_err(|_| ChangeError::Store(away.clone()))?;
                unanswered = (present.as_ref().map(Versioned::write_id) == expected).then_some(away);
                present
            }
            Err(error) => return Err(ChangeError::Store(unanswered.unwrap_or(error)).into()),
        };
        if present.as_ref().map(Versioned::write_id) == Some(written) {
            return Ok(answer);
        }
    }
    Err(unanswered.map_or(ChangeError::Concurrent, ChangeError::Store).into())
}

/// A random pause, so that two writers do not meet again.
fn pause(attempt: u32) -> Duration {
    let longest = FIRST_PAUSE_MS << (attempt - 1).min(8);
    // Without a generator there is no jitter, and nothing else to fear.
    let random = getrandom::u64().unwrap_or(longest);
    Duration::from_millis(random % (longest + 1))
}

#[cfg(test)]
mod tests;
