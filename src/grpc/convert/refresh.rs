//! The messages of the refresh: its limits are [`Acquire`]'s, and here they are checked.

use std::ops::RangeInclusive;
use std::time::Duration;

use tonic::Status;

use super::{Check, credential_message, decrypted, salesforce_from, secret_message, timestamp};
use crate::grpc::wire::v1;
use crate::ids::CredentialRef;
use crate::refresh::{Acquire, LeaseToken};
use crate::secret::SalesforceOAuth;
use crate::store::{AbandonCause, Revision};
use crate::vault::{GivenLease, Refreshed};

/// Of a reason that stands in a credential's metadata.
const MAX_REASON: usize = 200;

impl Check {
    /// Absent, it is `default`.
    fn duration(
        &mut self,
        field: &str,
        given: Option<&prost_types::Duration>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(given) = given else { return default };
        let seconds = u64::try_from(given.seconds).ok();
        let nanos = u32::try_from(given.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let duration = seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos));
        duration.filter(|duration| range.contains(duration)).unwrap_or_else(|| {
            let (shortest, longest) = (range.start().as_secs(), range.end().as_secs());
            self.wrong(field, format!("must be {shortest} to {longest} seconds"));
            default
        })
    }

    fn lease_token(&mut self, text: &str) -> Option<LeaseToken> {
        let token = LeaseToken::parse(text);
        if token.is_none() {
            self.wrong("lease_token", "must be the lease_token of a lease");
        }
        token
    }

    fn reason(&mut self, field: &str, text: &str) {
        if text.len() > MAX_REASON || text.chars().any(char::is_control) {
            self.wrong(field, format!("must have at most {MAX_REASON} octets, and no control characters"));
        }
    }
}

pub(in crate::grpc) fn acquire_request(
    request: &v1::AcquireRefreshRequest,
) -> Result<(CredentialRef, Acquire), Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    let rejected = check.revision("rejected_revision", request.rejected_revision);
    let none = Duration::ZERO;
    let validity = none..=Acquire::MAX_MIN_VALIDITY;
    let min_validity = check.duration("min_validity", request.min_validity.as_ref(), none, validity);
    let wait = check.duration("wait", request.wait.as_ref(), none, none..=Acquire::MAX_WAIT);
    let ttls = Acquire::MIN_TTL..=Acquire::MAX_TTL;
    let ttl = check.duration("lease_ttl", request.lease_ttl.as_ref(), Acquire::DEFAULT_TTL, ttls);
    let key = check.idempotency_key(&request.idempotency_key);
    check.done(id.map(|id| (id, Acquire { rejected, min_validity, wait, ttl, key })))
}

pub(in crate::grpc) fn acquired(refreshed: Refreshed) -> v1::AcquireRefreshResponse {
    let outcome = match refreshed {
        Refreshed::Fresh(fresh) => v1::acquire_refresh_response::Outcome::Fresh(decrypted(*fresh)),
        Refreshed::Lease(lease) => {
            let GivenLease { token, expire_time, after_lapse, secret, credential } = *lease;
            v1::acquire_refresh_response::Outcome::Lease(v1::RefreshLease {
                lease_token: token.expose_secret(),
                expire_time: Some(timestamp(expire_time)),
                after_lapse,
                secret: Some(secret_message(secret)),
                credential: Some(credential_message(&credential)),
            })
        }
    };
    v1::AcquireRefreshResponse { outcome: Some(outcome) }
}

pub(in crate::grpc) fn complete_request(
    mut request: v1::CompleteRefreshRequest,
) -> Result<(CredentialRef, LeaseToken, SalesforceOAuth), Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    let token = check.lease_token(&request.lease_token);
    let oauth = request.salesforce_oauth.as_mut().map(|oauth| salesforce_from(&mut check, "salesforce_oauth", oauth));
    if oauth.is_none() {
        check.wrong("salesforce_oauth", "must be set");
    }
    check.done(id.zip(token).zip(oauth).map(|((id, token), oauth)| (id, token, oauth)))
}

/// The lease, the cause, and what is to stand in the credential's metadata for it.
type AbandonRequest = (CredentialRef, LeaseToken, AbandonCause, String);

pub(in crate::grpc) fn abandon_request(request: &v1::AbandonRefreshRequest) -> Result<AbandonRequest, Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    let token = check.lease_token(&request.lease_token);
    check.reason("detail", &request.detail);
    let cause = match v1::AbandonCause::try_from(request.cause) {
        Ok(v1::AbandonCause::InvalidGrant) => AbandonCause::InvalidGrant,
        Ok(v1::AbandonCause::Unspecified | v1::AbandonCause::Transient) => AbandonCause::Transient,
        Err(_) => {
            check.wrong("cause", "must be one of the causes");
            AbandonCause::Transient
        }
    };
    let reason = match request.detail.as_str() {
        "" => "INVALID_GRANT".to_owned(),
        detail => format!("INVALID_GRANT: {detail}"),
    };
    check.done(id.zip(token).map(|(id, token)| (id, token, cause, reason)))
}

pub(in crate::grpc) fn mark_request(
    request: &v1::MarkNeedsReauthRequest,
) -> Result<(CredentialRef, String, Option<Revision>), Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    if request.reason.is_empty() {
        check.wrong("reason", "must not be empty");
    }
    check.reason("reason", &request.reason);
    let revision = check.revision("if_revision", request.if_revision);
    check.done(id.map(|id| (id, request.reason.clone(), revision)))
}
