//! The entries of one change: an intent before each attempt to write, and how it went. It knows what is changed by its subject alone.

use std::sync::{Mutex, PoisonError};

use super::entry::{Subject, Versions};
use super::log::{AuditError, AuditLog, Intent, Origin};
use super::words::{Event, Reason};
use crate::store::Revision;

/// What a change has come to, for its outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// The revision that it made, of a credential.
    pub revision: Option<Revision>,
    /// What that is sealed under, or the version that it made of a customer's key.
    pub versions: Option<Versions>,
}

/// The entries of one change.
pub struct Changing<'a> {
    audit: &'a AuditLog,
    origin: Origin,
    event: Event,
    subject: Subject,
    /// Of the last attempt.
    intent: Mutex<Option<Intent>>,
}

impl<'a> Changing<'a> {
    /// A change that is asked for, and not yet announced.
    pub fn new(audit: &'a AuditLog, origin: Origin, event: Event, subject: Subject) -> Self {
        Self { audit, origin, event, subject, intent: Mutex::new(None) }
    }

    /// Before each attempt to write: the row is at this revision, if it has one.
    ///
    /// # Errors
    /// An [`AuditError`]: nothing may be written.
    pub async fn announce(&self, revision: Option<Revision>) -> Result<(), AuditError> {
        let subject = Subject { revision, ..self.subject.clone() };
        let intent = self.audit.intent(&self.origin, self.event, subject).await?;
        *self.intent.lock().unwrap_or_else(PoisonError::into_inner) = Some(intent);
        Ok(())
    }

    /// Whether anything was, so that something may have been written.
    pub fn is_announced(&self) -> bool {
        self.intent.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Another way was found, after all: what was announced, if anything was, is not done.
    pub async fn withdraw(self, reason: Reason) {
        let intent = self.intent.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(intent) = intent {
            // The report shows it as unknown then: what comes instead has an entry of its own.
            let _ = intent.failed(reason).await;
        }
    }

    /// How it went. What was answered without a write, or refused before one, has one entry.
    ///
    /// # Errors
    /// The change's own, and an [`AuditError`], after which it may have happened all the same.
    pub async fn settle<T, E>(self, outcome: Result<T, E>, made: impl FnOnce(&T) -> Made) -> Result<T, E>
    where
        E: From<AuditError>,
        Reason: for<'e> From<&'e E>,
    {
        let Self { audit, origin, event, subject, intent } = self;
        let intent = intent.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (outcome, intent) {
            (Ok(answer), Some(intent)) => {
                let Made { revision, versions } = made(&answer);
                let _written = intent.done(revision, versions).await?;
                Ok(answer)
            }
            (Ok(answer), None) => {
                let Made { revision, versions } = made(&answer);
                let subject = Subject { revision, versions: versions.or(subject.versions), ..subject };
                let _written = audit.shown(&origin, event, subject).await?;
                Ok(answer)
            }
            (Err(error), Some(intent)) => {
                // The caller hears of a failure either way.
                let _ = intent.failed(Reason::from(&error)).await;
                Err(error)
            }
            (Err(error), None) => {
                let _written = audit.refusal(&origin, event, subject, Reason::from(&error)).await?;
                Err(error)
            }
        }
    }
}
