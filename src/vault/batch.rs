//! Opens many secrets at once, within bounds: each as it would be opened alone, and none that would not be answered.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{Credential, Sealed, Vault, VaultError, readable};
use crate::access::{DecryptCredential, Permit};
use crate::audit::Event;
use crate::secret::Secret;
use crate::store::{CredentialRow, Revision, State, StoreError};

/// Customers whose keys one batch waits for at the same time: enough where keys are unwrapped far away, few enough to leave others
/// theirs.
pub(super) const CUSTOMERS_AT_ONCE: usize = 16;
/// A customer whose keys take longer fails by itself, and holds the others up no further. Less than half of what a call has that
/// names no deadline.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What of a credential to open.
#[derive(Debug)]
pub struct Reading {
    /// Which one, and how much of it: permitted.
    pub permit: Permit<DecryptCredential>,
    /// Only this revision.
    pub revision: Option<Revision>,
}

/// An opened secret and what is known of it, or why it was not opened.
pub type Opened = Result<(Secret, Credential), VaultError>;

/// One reading of a batch.
struct Item<'a> {
    /// In the batch.
    place: usize,
    reading: &'a Reading,
    /// `None`: nothing lives there.
    found: Result<Option<Sealed>, VaultError>,
}

impl Vault {
    /// Opens many secrets, each as [`Vault::decrypt`] does, and answers in their order. One that can't be opened fails by itself
    /// alone. `room` is how many octets of envelopes, and of texts beside them, are opened in all: in their order, as many as fit.
    pub async fn decrypt_many(&self, readings: &[&Reading], mut room: usize) -> Vec<Opened> {
        let ids: Vec<_> = readings.iter().map(|reading| &reading.permit.asked().id).collect();
        let rows = self.credentials.get_many(&ids).await;
        let mut customers: HashMap<_, Vec<_>> = HashMap::new();
        for (place, (reading, row)) in readings.iter().zip(rows).enumerate() {
            let found = readable_within(&mut room, row, reading);
            customers.entry(&reading.permit.asked().id.customer).or_default().push(Item { place, reading, found });
        }
        let mut opened = Vec::with_capacity(readings.len());
        let mut waiting = FuturesUnordered::new();
        for items in customers.into_values() {
            let mut opening = Box::pin(self.open_all(items));
            // What is at hand is opened at once; who has to wait takes a place among those who do.
            match opening.as_mut().now_or_never() {
                Some(at_once) => opened.extend(at_once),
                None => waiting.push(opening),
            }
            if waiting.len() == CUSTOMERS_AT_ONCE {
                opened.extend(waiting.next().await.into_iter().flatten());
            }
        }
        while let Some(waited) = waiting.next().await {
            opened.extend(waited);
        }
        opened.sort_unstable_by_key(|(place, _)| *place);
        // At once, so that the audit log writes the entries in one go.
        let event = Event::BatchDecryptCredentials;
        let opened = opened.into_iter().zip(readings);
        join_all(opened.map(|((_, opened), reading)| self.disclosed(event, &reading.permit, opened))).await
    }

    /// Opens the items of one customer, one after another: the first waits for its keys, and the others have them at hand.
    async fn open_all(&self, items: Vec<Item<'_>>) -> Vec<(usize, Opened)> {
        let mut until = None;
        let mut opened = Vec::with_capacity(items.len());
        for Item { place, reading, found } in items {
            let DecryptCredential { id, view } = reading.permit.asked();
            let mut opening = pin!(async {
                match found? {
                    Some(sealed) => self.opened(sealed, *view).await,
                    None => Err(self.missing(&id.customer).await),
                }
            });
            let outcome = match opening.as_mut().now_or_never() {
                Some(at_once) => at_once,
                None => {
                    let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                    timeout_at(until, opening).await.unwrap_or(Err(VaultError::TooSlow))
                }
            };
            opened.push((place, outcome));
        }
        opened
    }
}

/// What is to be opened for a reading, if it fits in the room that is left: what will not be answered is not opened either. A
/// smaller one may yet fit where a larger one did not.
fn readable_within(
    room: &mut usize,
    row: Result<Option<CredentialRow>, StoreError>,
    reading: &Reading,
) -> Result<Option<Sealed>, VaultError> {
    let found = readable(row?, reading.permit.asked().view, reading.revision)?;
    if let Some(Sealed { credential, envelope }) = &found {
        let beside = match &credential.state {
            State::Active => 0,
            State::NeedsReauth { reason, .. } => reason.len(),
        };
        *room = room.checked_sub(envelope.len() + beside).ok_or(VaultError::NoRoom)?;
    }
    Ok(found)
}
