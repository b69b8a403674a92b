//! Opens many secrets at once, within bounds: each as it would be opened alone, and none that would not be answered.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use super::{Credential, Vault, VaultError, readable};
use crate::ids::CredentialRef;
use crate::secret::{Secret, View};
use crate::store::{CredentialRow, Living, Read, Revision, State, StoreError};

/// Customers whose keys one batch waits for at the same time: enough where keys are unwrapped far away, few enough to leave others
/// theirs.
pub(super) const CUSTOMERS_AT_ONCE: usize = 16;
/// A customer whose keys take longer fails by itself, and holds the others up no further. Less than half of what a call has that
/// names no deadline.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What of a credential to open.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Which one.
    pub id: CredentialRef,
    /// How much of it.
    pub view: View,
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

impl Vault {
    /// Opens many secrets, each as [`Vault::decrypt`] does, and answers in their order. One that can't be opened fails by itself
    /// alone. `room` is how many octets of envelopes, and of texts beside them, are opened in all: in their order, as many as fit.
    pub async fn decrypt_many(&self, readings: &[&Reading], mut room: usize) -> Vec<Opened> {
        let ids: Vec<_> = readings.iter().map(|reading| &reading.id).collect();
        let rows = self.credentials.get_many(&ids).await;
        let rows = rows.unwrap_or_else(|error| vec![Err(error); ids.len()]);
        let items = readings.iter().zip(&rows).enumerate();
        let mut items: Vec<_> = items
            .map(|(place, (reading, row))| Item { place, reading, found: readable_within(&mut room, row, reading) })
            .collect();
        // Those of one customer one after another: the first waits for its keys, and the others have them at hand.
        items.sort_by(|a, b| a.reading.id.customer.cmp(&b.reading.id.customer));
        let customers = items.chunk_by(|a, b| a.reading.id.customer == b.reading.id.customer);
        let opening: Vec<_> = customers.map(|items| self.open_all(items)).collect();
        let opened: Vec<_> = stream::iter(opening).buffer_unordered(CUSTOMERS_AT_ONCE).collect().await;
        let mut opened: Vec<_> = opened.into_iter().flatten().collect();
        opened.sort_unstable_by_key(|(place, _)| *place);
        opened.into_iter().map(|(_, opened)| opened).collect()
    }

    /// Opens the items of one customer.
    async fn open_all(&self, items: &[Item<'_>]) -> Vec<(usize, Opened)> {
        let until = Instant::now() + PATIENCE;
        let mut all = Vec::with_capacity(items.len());
        for Item { place, reading, found } in items {
            let opened = async {
                match found.clone()? {
                    Some((row, living)) => self.opened(row, living, reading.view).await,
                    None => Err(self.missing(&reading.id.customer).await),
                }
            };
            let opened = timeout_at(until, opened).await;
            all.push((*place, opened.unwrap_or(Err(VaultError::TooSlow))));
        }
        all
    }
}

/// What is to be opened for a reading, if it fits in the room that is left: what will not be answered is not opened either. A
/// smaller one may yet fit where a larger one did not.
fn readable_within<'a>(room: &mut usize, row: &'a Read, reading: &Reading) -> Found<'a> {
    let row = row.as_ref().map_err(StoreError::clone)?;
    let found = readable(row.as_ref(), reading.view, reading.revision)?;
    if let Some((_, living)) = found {
        let beside = match &living.state {
            State::Active => 0,
            State::NeedsReauth { reason, .. } => reason.len(),
        };
        *room = room.checked_sub(living.envelope.len() + beside).ok_or(VaultError::NoRoom)?;
    }
    Ok(found)
}
