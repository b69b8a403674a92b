//! Opens many secrets at once, within bounds: each as it would be opened alone, and none that would not be answered.

use futures_util::StreamExt;
use futures_util::stream;

use super::{Credential, Vault, VaultError, readable};
use crate::ids::CredentialRef;
use crate::secret::{Secret, View};
use crate::store::{CredentialRow, Living, Revision, State, StoreError};

/// Of one batch: enough for keys that are unwrapped far away, few enough to leave others theirs.
pub(super) const OPENED_AT_ONCE: usize = 16;

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

impl Vault {
    /// Opens many secrets, each as [`Vault::decrypt`] does, and answers in their order. One that can't be opened fails by itself
    /// alone. `room` is how many octets of envelopes, and of texts beside them, are opened in all: in their order, as many as fit.
    pub async fn decrypt_many(
        &self,
        readings: &[&Reading],
        mut room: usize,
    ) -> Vec<Result<(Secret, Credential), VaultError>> {
        let ids: Vec<_> = readings.iter().map(|reading| &reading.id).collect();
        let rows = self.credentials.get_many(&ids).await;
        let mut opening = Vec::with_capacity(readings.len());
        for (reading, row) in readings.iter().zip(&rows) {
            let found = readable_within(&mut room, row, reading);
            opening.push(async move {
                match found? {
                    Some((row, living)) => self.opened(row, living, reading.view).await,
                    None => Err(self.missing(&reading.id.customer).await),
                }
            });
        }
        stream::iter(opening).buffered(OPENED_AT_ONCE).collect().await
    }
}

/// What is to be opened for a reading, if it fits in the room that is left: what will not be answered is not opened either. A
/// smaller one may yet fit where a larger one did not.
fn readable_within<'a>(
    room: &mut usize,
    row: &'a Result<Option<CredentialRow>, StoreError>,
    reading: &Reading,
) -> Result<Option<(&'a CredentialRow, &'a Living)>, VaultError> {
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
