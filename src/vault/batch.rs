//! Opens many secrets at once, within bounds: each as it would be opened alone, and none that would not be answered.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::decide::readable;
use super::{Credential, Vault, VaultError};
use crate::access::{DecryptCredential, Permit};
use crate::audit::Event;
use crate::ids::CustomerId;
use crate::secret::Secret;
use crate::store::{CredentialRow, Living, Revision, State, StoreError};

/// Customers whose keys one batch waits for at the same time: enough where keys are unwrapped far away, few enough to leave others
/// theirs.
pub(super) const CUSTOMERS_AT_ONCE: usize = 16;
/// What a batch waits for keys, in all: a customer whose keys take longer fails by itself, and holds the others up no further. Less than
/// what a call has that names no deadline.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// After so many octets of envelopes it is others' turn: opening them takes some 100 µs, and a thread serves many calls.
const TURN_OCTETS: usize = 64 << 10;

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

/// A row that may be opened. `None`: nothing lives there.
type Found<'a> = Result<Option<(&'a CredentialRow, &'a Living)>, VaultError>;

struct Item<'a> {
    /// In the batch.
    place: usize,
    reading: &'a Reading,
    found: Found<'a>,
}

impl Item<'_> {
    fn customer(&self) -> &CustomerId {
        &self.reading.permit.asked().id.customer
    }
}

impl Vault {
    /// Opens many secrets, each as [`Vault::decrypt`] does, and answers in their order. One that can't be opened fails by itself
    /// alone. `room` is how many octets of envelopes, and of texts beside them, are opened in all: in their order, as many as fit.
    pub async fn decrypt_many(&self, readings: &[&Reading], mut room: usize) -> Vec<Opened> {
        let until = Instant::now() + PATIENCE;
        let ids: Vec<_> = readings.iter().map(|reading| &reading.permit.asked().id).collect();
        let rows = self.credentials.get_many(&ids).await;
        let items = readings.iter().zip(&rows).enumerate();
        let mut items: Vec<_> = items
            .map(|(place, (reading, row))| Item { place, reading, found: readable_within(&mut room, row, reading) })
            .collect();
        // Those of one customer one after another: the first waits for its keys, and the others have them at hand.
        items.sort_by(|a, b| a.customer().cmp(b.customer()));
        let customers = items.chunk_by(|a, b| a.customer() == b.customer());
        let opening: Vec<_> = customers.map(|items| self.open_all(items, until)).collect();
        let opened: Vec<_> = stream::iter(opening).buffer_unordered(CUSTOMERS_AT_ONCE).collect().await;
        let mut opened: Vec<_> = opened.into_iter().flatten().collect();
        opened.sort_unstable_by_key(|(place, _)| *place);
        // At once, so that the audit log writes the entries in one go.
        let event = Event::BatchDecryptCredentials;
        let opened = opened.into_iter().zip(readings);
        join_all(opened.map(|((_, opened), reading)| self.disclosed(event, &reading.permit, opened))).await
    }

    /// Opens the items of one customer.
    async fn open_all(&self, items: &[Item<'_>], until: Instant) -> Vec<(usize, Opened)> {
        let (mut all, mut turn) = (Vec::with_capacity(items.len()), 0);
        for Item { place, reading, found } in items {
            let opened = async {
                match found.clone()? {
                    Some((row, living)) => self.opened(row, living, reading.permit.asked().view).await,
                    None => Err(self.missing(&reading.permit.asked().id.customer).await),
                }
            };
            let opened = timeout_at(until, opened).await;
            all.push((*place, opened.unwrap_or(Err(VaultError::TooSlow))));
            turn += found.as_ref().ok().copied().flatten().map_or(0, |(_, living)| living.envelope.len());
            if turn >= TURN_OCTETS {
                turn = 0;
                yield_now().await;
            }
        }
        all
    }
}

/// What is to be opened for a reading, if it fits in the room that is left: what will not be answered is not opened either. A
/// smaller one may yet fit where a larger one did not.
fn readable_within<'a>(
    room: &mut usize,
    row: &'a Result<Option<CredentialRow>, StoreError>,
    reading: &Reading,
) -> Found<'a> {
    let row = row.as_ref().map_err(StoreError::clone)?;
    let found = readable(row.as_ref(), reading.permit.asked().view, reading.revision)?;
    if let Some((_, living)) = found {
        let beside = match &living.state {
            State::Active => 0,
            State::NeedsReauth { reason, .. } => reason.len(),
        };
        *room = room.checked_sub(living.envelope.len() + beside).ok_or(VaultError::NoRoom)?;
    }
    Ok(found)
}
