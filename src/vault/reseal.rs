//! Re-encryption of one record: sealed anew under the primaries, if it is below a target. A backend that changes the credential meanwhile
//! wins and loses nothing; whatever the row remembers stays. Revision and update time do not change.

use jiff::Timestamp;

use super::decide::living;
use super::{Decision, Life, Lineage, Vault, VaultError, WriteId, change, crypto};
use crate::crypto::{Envelope, Version};
use crate::ids::CredentialRef;
use crate::store::{CredentialRow, Living};

/// The versions that a job brings every record up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Of the key in the binary.
    pub codebase: Version,
    /// Of the deployment's key.
    pub environment: Version,
    /// Of each customer's key, the last version that was made until then.
    pub customers_by: Timestamp,
}

/// Customers whose roots are unwrapped at once to re-encrypt their records, however many of these are under way: callers need KMS, too.
pub(super) const UNWRAPPED_AT_ONCE: usize = 32;

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resealed {
    /// It stands under the primaries now.
    Changed,
    /// It was not below the target, or is no living credential.
    Skipped,
    /// It is below the target in one version, and above this process's primaries in another: a newer process has to do it.
    Ahead,
}

impl Vault {
    /// What there is to do about a record, from its row as it was read. Nothing is opened.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn due(&self, row: &CredentialRow, target: Target) -> Result<Resealed, VaultError> {
        let Some((_, living)) = living(row) else { return Ok(Resealed::Skipped) };
        let lineage = Envelope::lineage_of(&living.envelope).map_err(|_| VaultError::Malformed)?;
        let (primary, customer) = self.keyring.upkeep_versions(&row.id.customer, target.customers_by).await?;
        Ok(decide(lineage, primary, wanted(target, customer)))
    }

    /// Seals a record anew under the primaries, if some version of it is below the target and none would go down. The plaintext's octets
    /// are sealed as they are, so that nothing is lost which a newer release put there.
    ///
    /// # Errors
    /// A [`VaultError`]. The record is then as it was, or as it should be.
    pub async fn reseal(&self, id: &CredentialRef, target: Target) -> Result<Resealed, VaultError> {
        change(self.credentials.as_ref(), id, |present: Option<CredentialRow>| async move {
            let Some((row, living)) = present.as_ref().and_then(living) else {
                return Ok(Decision::Done(Resealed::Skipped));
            };
            let envelope = Envelope::parse(living.envelope.clone()).map_err(|_| VaultError::Malformed)?;
            let (_, customer) = self.keyring.upkeep_versions(&id.customer, target.customers_by).await?;
            // It is never closed.
            let turn = self.unwrapping.acquire().await;
            let (primary, root) = self.keyring.upkeep_primary(&id.customer).await?;
            match decide(envelope.lineage(), primary, wanted(target, customer)) {
                Resealed::Changed => {}
                decided @ (Resealed::Skipped | Resealed::Ahead) => return Ok(Decision::Done(decided)),
            }
            let former = self.keyring.upkeep_root(&id.customer, envelope.lineage()).await?;
            drop(turn);
            let plaintext = crypto::open(&former, &self.context(id, living.kind, row.revision)?, &envelope)?;
            let envelope = self.seal(&root, primary, id, living.kind, row.revision, &plaintext)?;
            let living = Living { envelope: envelope.as_octets().to_vec(), ..living.clone() };
            let row = CredentialRow { write_id: WriteId::random()?, life: Life::Living(living), ..row.clone() };
            Ok(Decision::Replace(row, Resealed::Changed))
        })
        .await
    }
}

fn wanted(target: Target, customer: Version) -> Lineage {
    Lineage { codebase: target.codebase, environment: target.environment, customer }
}

/// Whether a record of this lineage is to be sealed anew under these primaries.
fn decide(record: Lineage, primary: Lineage, target: Lineage) -> Resealed {
    let is_below = record.codebase < target.codebase
        || record.environment < target.environment
        || record.customer < target.customer;
    let would_go_down = primary.codebase < record.codebase
        || primary.environment < record.environment
        || primary.customer < record.customer;
    match (is_below, would_go_down) {
        (false, _) => Resealed::Skipped,
        (true, false) => Resealed::Changed,
        (true, true) => Resealed::Ahead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_resealed_if_a_version_is_below_the_target_and_none_would_go_down() {
        let version = |number| Version::new(number).unwrap();
        let lineage = |codebase, environment, customer| Lineage {
            codebase: version(codebase),
            environment: version(environment),
            customer: version(customer),
        };
        let target = lineage(2, 2, 2);
        for (record, primary, wanted) in [
            ((2, 2, 2), (2, 2, 2), Resealed::Skipped),
            ((1, 2, 2), (2, 2, 2), Resealed::Changed),
            ((2, 1, 2), (2, 2, 2), Resealed::Changed),
            ((2, 2, 1), (2, 2, 2), Resealed::Changed),
            ((1, 1, 1), (3, 3, 3), Resealed::Changed),
            // At the target, and yet not under the primaries: the job has nothing to do with that.
            ((2, 2, 2), (3, 3, 3), Resealed::Skipped),
            ((2, 2, 3), (3, 3, 3), Resealed::Skipped),
            ((3, 3, 3), (2, 2, 3), Resealed::Skipped),
            ((3, 1, 2), (2, 2, 2), Resealed::Ahead),
            ((1, 3, 2), (2, 2, 2), Resealed::Ahead),
            ((1, 2, 3), (2, 2, 2), Resealed::Ahead),
        ] {
            let of = |(codebase, environment, customer)| lineage(codebase, environment, customer);
            assert_eq!(decide(of(record), of(primary), target), wanted, "{record:?} under {primary:?}");
        }
    }
}
