//! What every handler passes first: who calls, and whether policy permits what they ask. A refusal has its entry in the audit log, and
//! tells nothing of what exists. Who is refused beyond measure has no more entries.

use std::sync::Arc;

use tonic::{Request, Status};

use super::call::Standing;
use super::identity;
use super::refusals::Refusals;
use super::status::{audit_unavailable, no_client_certificate, refused_too_often};
use crate::access::{Access, Action, Ask, Permit, Question};
use crate::audit::entry::Subject;
use crate::audit::{AuditLog, Event, Origin, Reason};
use crate::ids::Caller;
use crate::secret::View;
use crate::telemetry::metrics;

/// Policy and audit log.
#[derive(Clone)]
pub struct Gate {
    access: Arc<Access>,
    audit: AuditLog,
    refusals: Arc<Refusals>,
}

impl Gate {
    /// A gate of this policy, which writes its refusals here.
    pub fn new(access: Arc<Access>, audit: AuditLog) -> Self {
        Self { access, audit, refusals: Arc::default() }
    }

    /// Who calls, now that the whole message is there: a certificate may have been revoked while it came.
    ///
    /// # Errors
    /// UNAUTHENTICATED, NO_CLIENT_CERTIFICATE.
    pub(super) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        if Standing::is_lost_by(request) {
            return Err(no_client_certificate());
        }
        identity::caller(request)
    }

    /// Asks policy. `event` is how the audit log calls what is asked.
    ///
    /// # Errors
    /// PERMISSION_DENIED, NOT_PERMITTED; RESOURCE_EXHAUSTED, RATE_LIMITED, of whoever was refused too often of late; UNAVAILABLE,
    /// AUDIT_UNAVAILABLE, if the refusal can't be noted.
    pub(super) async fn permit<A: Ask>(&self, caller: &Caller, event: Event, asked: A) -> Result<Permit<A>, Status> {
        match self.access.permit(caller, asked) {
            Ok(permit) => Ok(permit),
            Err(denied) => {
                if !self.refusals.count(caller) {
                    metrics::refusal_unwritten();
                    return Err(refused_too_often());
                }
                let (origin, subject) = (Origin::of(caller), subject(&denied.question));
                let _written = self
                    .audit
                    .refusal(&origin, event, subject, Reason::NotPermitted)
                    .await
                    .map_err(audit_unavailable)?;
                Err(denied.into())
            }
        }
    }

    /// Whether an item of a list may be shown to whoever may have the list.
    pub(super) fn shows<L, A: Ask>(&self, list: &Permit<L>, item: &A) -> bool {
        self.access.shows(list, item)
    }
}

fn subject(question: &Question) -> Subject {
    Subject {
        customer: question.customer().cloned(),
        credential: question.credential().cloned(),
        view: view(question.action()),
        ..Subject::default()
    }
}

/// How much of a secret would have been shown.
fn view(asked: Action) -> Option<View> {
    match asked {
        Action::DecryptAccess => Some(View::Access),
        // A lease comes with the refresh token.
        Action::DecryptFull | Action::AcquireRefresh => Some(View::Full),
        _ => None,
    }
}
