//! Lists of credentials, by pages. Nothing is opened for them: they show what rows say.

use jiff::Timestamp;

use super::decide::living;
use super::{Credential, Vault, VaultError, shown};
use crate::access::{ListCredentials, Permit};
use crate::audit::entry::Subject;
use crate::audit::{Changing, Event, Made, Origin};
use crate::ids::{Caller, CredentialRef, CustomerId};
use crate::keyring::{KeyringError, PageTokens};
use crate::secret::Kind;
use crate::store::{CredentialRow, Living, Page, State, filtered};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Of this kind alone.
    pub kind: Option<Kind>,
    /// Only those that need a new consent (true), or that do not (false).
    pub needs_reauth: Option<bool>,
    /// Only those whose tokens were last issued before.
    pub refreshed_before: Option<Timestamp>,
}

impl Vault {
    /// At most `limit` credentials that the filter wants and the caller may see, after `after`.
    ///
    /// # Errors
    /// A [`VaultError`].
    pub async fn list(
        &self,
        permit: &Permit<ListCredentials>,
        filter: &ListFilter,
        after: Option<CredentialRef>,
        limit: usize,
        may_see: impl Fn(&CredentialRef) -> bool,
    ) -> Result<Page<Credential, CredentialRef>, VaultError> {
        let ListCredentials(customer) = permit.asked();
        let listed = self.listed(customer.as_ref(), filter, after, limit, may_see).await;
        let subject = customer.as_ref().map(Subject::customer).unwrap_or_default();
        let entries = Changing::new(&self.audit, Origin::of(permit.caller()), Event::ListCredentials, subject);
        entries.settle(listed, |_| Made::default()).await
    }

    /// What seals and opens the page tokens of a list, for a caller.
    pub fn page_tokens<'a>(&'a self, list: &'static str, caller: &'a Caller) -> PageTokens<'a> {
        self.keyring.page_tokens(list, caller)
    }

    async fn listed(
        &self,
        customer: Option<&CustomerId>,
        filter: &ListFilter,
        after: Option<CredentialRef>,
        limit: usize,
        may_see: impl Fn(&CredentialRef) -> bool,
    ) -> Result<Page<Credential, CredentialRef>, VaultError> {
        let query = |after: Option<CredentialRef>, limit| async move {
            self.credentials.query(customer, after.as_ref(), limit).await
        };
        let keep = |row: CredentialRow| {
            let (row, living) = living(&row)?;
            if filter.wants(living) && may_see(&row.id) { shown(row).ok() } else { None }
        };
        let page = filtered(limit, after, |row: &CredentialRow| row.id.clone(), query, keep).await?;
        if let Some(customer) = customer.filter(|_| page.rows.is_empty() && page.next.is_none()) {
            match self.keyring.check_active(customer).await {
                // A customer without credentials, whatever its state.
                Ok(())
                | Err(
                    KeyringError::CustomerDisabled
                    | KeyringError::CustomerPendingDestruction
                    | KeyringError::CustomerDestroyed,
                ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(page)
    }
}

impl ListFilter {
    fn wants(&self, living: &Living) -> bool {
        let reauth = matches!(living.state, State::NeedsReauth { .. });
        self.kind.is_none_or(|kind| living.kind == kind)
            && self.needs_reauth.is_none_or(|wanted| reauth == wanted)
            && self.refreshed_before.is_none_or(|before| living.refresh_time.is_some_and(|time| time < before))
    }
}
