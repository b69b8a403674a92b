//! Messages ↔ domain values. Every check of a length or a character set is here, and all that is wrong with a request is
//! told at once. Nothing is checked again after this, and nothing is repaired. Descriptions never repeat a value.

mod batch;
mod jobs;
mod refresh;

use jiff::Timestamp;
use tonic::Status;
use tonic_types::FieldViolation;

pub(super) use batch::{batch_request, batch_response, room_for_secrets};
pub(super) use jobs::{
    job_id, job_message, list_jobs_request, list_jobs_response, list_replicas_response, retire_request, start_request,
};
pub(super) use refresh::{abandon_request, acquire_request, acquired, complete_request, mark_request};

use super::status::bad_fields;
use super::wire::v1;
use crate::access::DecryptCredential;
use crate::crypto::Lineage;
use crate::customers::StateFilter;
use crate::ids::{BadId, CredentialId, CredentialRef, CustomerId};
use crate::keyring::{NoPageToken, PageTokens};
use crate::secret::stored::{self, to_timestamp as timestamp};
use crate::secret::{Kind, Opaque, Password, SalesforceOAuth, Secret, SecretOctets, SecretString, View};
use crate::store::{CustomerRow, CustomerState, IdempotencyKey, KeyVersionState, Page, Revision, State};
use crate::vault::{Condition, Credential, ListFilter, VaultError};

const MAX_TOKEN: usize = 16_384;
const MAX_URL: usize = 2_048;
const MAX_SCOPES: usize = 100;
const MAX_SCOPE: usize = 256;
const MAX_USERNAME: usize = 1_024;
const MAX_PASSWORD: usize = 4_096;
const MAX_OPAQUE: usize = 32_768;
const MAX_CONTENT_TYPE: usize = 255;
const MAX_IDEMPOTENCY_KEY: usize = 128;
const MAX_PAGE: i32 = 1_000;
const DEFAULT_PAGE: i32 = 100;
/// The first second that protobuf's Timestamp has. jiff goes further back.
const YEAR_1: i64 = -62_135_596_800;

/// Collects what is wrong with a request.
#[derive(Default)]
struct Check(Vec<FieldViolation>);

impl Check {
    fn wrong(&mut self, field: &str, description: impl Into<String>) {
        self.0.push(FieldViolation::new(field, description));
    }

    fn id<I>(&mut self, field: &str, parsed: Result<I, BadId>) -> Option<I> {
        parsed.map_err(|bad| self.wrong(field, bad.to_string())).ok()
    }

    fn credential(&mut self, customer: &str, credential: &str) -> Option<CredentialRef> {
        let customer = self.id("customer_id", CustomerId::parse(customer));
        let credential = self.id("credential_id", CredentialId::parse(credential));
        Some(CredentialRef { customer: customer?, credential: credential? })
    }

    fn text(&mut self, field: &str, text: &str, longest: usize) {
        if text.len() > longest {
            self.wrong(field, format!("must have at most {longest} octets"));
        }
    }

    fn required(&mut self, field: &str, octets: &[u8], longest: usize) {
        if octets.is_empty() {
            self.wrong(field, "must not be empty");
        } else if octets.len() > longest {
            self.wrong(field, format!("must have at most {longest} octets"));
        }
    }

    /// Empty, or an https URL; http on the loopback interface, where a test's server may stand.
    fn url(&mut self, field: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let parsed = text.parse::<http::Uri>().ok();
        let host = parsed.as_ref().and_then(http::Uri::host);
        let permitted = match (parsed.as_ref().and_then(http::Uri::scheme_str), host) {
            (Some("https"), Some(host)) => !host.is_empty(),
            (Some("http"), Some(host)) => matches!(host, "localhost" | "127.0.0.1" | "[::1]"),
            (_, _) => false,
        };
        if !permitted || text.len() > MAX_URL {
            self.wrong(field, format!("must be an https URL of at most {MAX_URL} octets"));
        }
    }

    fn time(&mut self, field: &str, time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
        let time = time?;
        let parsed = Timestamp::new(time.seconds, time.nanos).ok();
        let parsed = parsed.filter(|_| time.seconds >= YEAR_1 && (0..1_000_000_000).contains(&time.nanos));
        if parsed.is_none() {
            self.wrong(field, "must lie between the years 1 and 9999");
        }
        parsed
    }

    fn revision(&mut self, field: &str, number: Option<u64>) -> Option<Revision> {
        let revision = Revision::new(number?);
        if revision.is_none() {
            self.wrong(field, "must be at least 1");
        }
        revision
    }

    fn idempotency_key(&mut self, key: &str) -> Option<IdempotencyKey> {
        if key.len() > MAX_IDEMPOTENCY_KEY || !key.bytes().all(|octet| octet.is_ascii_graphic()) {
            self.wrong("idempotency_key", format!("must have at most {MAX_IDEMPOTENCY_KEY} visible ASCII characters"));
        }
        (!key.is_empty()).then(|| IdempotencyKey::given(key))
    }

    fn page_size(&mut self, size: i32) -> usize {
        if !(0..=MAX_PAGE).contains(&size) {
            self.wrong("page_size", format!("must be 0 to {MAX_PAGE}; 0 means {DEFAULT_PAGE}"));
        }
        usize::try_from(if size == 0 { DEFAULT_PAGE } else { size }).unwrap_or_default()
    }

    /// Where a list goes on. `None`: from the start.
    fn place<P>(&mut self, token: &str, tokens: &PageTokens<'_>, parse: impl FnOnce(&str) -> Option<P>) -> Option<P> {
        if token.is_empty() {
            return None;
        }
        let place = tokens.open(token).and_then(|text| parse(&text));
        if place.is_none() {
            self.wrong("page_token", "must be the next_page_token of the same list, asked for by the same caller");
        }
        place
    }

    /// The value, if nothing was wrong.
    fn done<T>(self, value: Option<T>) -> Result<T, Status> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            Some(_) | None => Err(bad_fields(self.0)),
        }
    }
}

pub(super) struct EncryptRequest {
    pub(super) id: CredentialRef,
    pub(super) secret: Secret,
    pub(super) condition: Condition,
    pub(super) key: Option<IdempotencyKey>,
}

pub(super) fn encrypt_request(request: v1::EncryptCredentialRequest) -> Result<EncryptRequest, Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    let secret = secret_from(&mut check, request.secret);
    let condition = match request.if_revision.map(Revision::new) {
        None => Condition::None,
        Some(None) => Condition::Absent,
        Some(Some(revision)) => Condition::At(revision),
    };
    let key = check.idempotency_key(&request.idempotency_key);
    let request = id.zip(secret).map(|(id, secret)| EncryptRequest { id, secret, condition, key });
    check.done(request)
}

/// Tells, before anything is sent, what this release would refuse a request to seal for.
///
/// # Errors
/// What the service would answer.
pub fn check_encrypt_request(request: v1::EncryptCredentialRequest) -> Result<(), Status> {
    let request = encrypt_request(request)?;
    stored::encode(request.secret).map(drop).map_err(|_| VaultError::SecretTooLong.into())
}

pub(super) fn decrypt_request(
    request: &v1::DecryptCredentialRequest,
) -> Result<(DecryptCredential, Option<Revision>), Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    let revision = check.revision("if_revision", request.if_revision);
    let view = match v1::View::try_from(request.view) {
        Ok(v1::View::Unspecified | v1::View::Access) => View::Access,
        Ok(v1::View::Full) => View::Full,
        Err(_) => {
            check.wrong("view", "must be VIEW_ACCESS or VIEW_FULL");
            View::Access
        }
    };
    check.done(id.map(|id| (DecryptCredential { id, view }, revision)))
}

pub(super) fn credential_ref(customer: &str, credential: &str) -> Result<CredentialRef, Status> {
    let mut check = Check::default();
    let id = check.credential(customer, credential);
    check.done(id)
}

pub(super) fn delete_request(
    request: &v1::DeleteCredentialRequest,
) -> Result<(CredentialRef, Option<Revision>), Status> {
    let mut check = Check::default();
    let id = check.credential(&request.customer_id, &request.credential_id);
    let revision = check.revision("if_revision", request.if_revision);
    check.done(id.map(|id| (id, revision)))
}

/// Of one customer or all; which; after which; how many at most.
type ListRequest = (Option<CustomerId>, ListFilter, Option<CredentialRef>, usize);

pub(super) fn list_request(
    request: &v1::ListCredentialsRequest,
    tokens: &PageTokens<'_>,
) -> Result<ListRequest, Status> {
    let mut check = Check::default();
    let customer = match request.customer_id.as_str() {
        "" => None,
        id => check.id("customer_id", CustomerId::parse(id)),
    };
    let limit = check.page_size(request.page_size);
    let kind = match v1::CredentialKind::try_from(request.kind) {
        Ok(v1::CredentialKind::Unspecified) => None,
        Ok(v1::CredentialKind::SalesforceOauth) => Some(Kind::SalesforceOAuth),
        Ok(v1::CredentialKind::Password) => Some(Kind::Password),
        Ok(v1::CredentialKind::Opaque) => Some(Kind::Opaque),
        Err(_) => {
            check.wrong("kind", "must be one of the kinds");
            None
        }
    };
    let needs_reauth = match v1::CredentialState::try_from(request.state) {
        Ok(v1::CredentialState::Unspecified) => None,
        Ok(v1::CredentialState::Active) => Some(false),
        Ok(v1::CredentialState::NeedsReauth) => Some(true),
        Err(_) => {
            check.wrong("state", "must be one of the states");
            None
        }
    };
    let refreshed_before = check.time("refreshed_before", request.refreshed_before.as_ref());
    let after = check.place(&request.page_token, tokens, |text| {
        let id = read_place(text)?;
        customer.as_ref().is_none_or(|customer| *customer == id.customer).then_some(id)
    });
    check.done(Some((customer, ListFilter { kind, needs_reauth, refreshed_before }, after, limit)))
}

pub(super) fn customer_id(id: &str) -> Result<CustomerId, Status> {
    let mut check = Check::default();
    let id = check.id("customer_id", CustomerId::parse(id));
    check.done(id)
}

/// Days until a destruction: long enough to notice a mistake, short enough for whoever asked to be forgotten.
const DAYS: std::ops::RangeInclusive<i32> = 7..=30;

pub(super) fn destroy_request(request: &v1::DestroyCustomerRequest) -> Result<(CustomerId, u8), Status> {
    let mut check = Check::default();
    let id = check.id("customer_id", CustomerId::parse(&request.customer_id));
    let days = u8::try_from(request.days).ok().filter(|_| DAYS.contains(&request.days));
    if days.is_none() {
        check.wrong("days", format!("must be {} to {}", DAYS.start(), DAYS.end()));
    }
    check.done(id.zip(days))
}

pub(super) fn list_customers_request(
    request: &v1::ListCustomersRequest,
    tokens: &PageTokens<'_>,
) -> Result<(Option<StateFilter>, Option<CustomerId>, usize), Status> {
    let mut check = Check::default();
    let limit = check.page_size(request.page_size);
    let state = match v1::CustomerState::try_from(request.state) {
        Ok(v1::CustomerState::Unspecified) => None,
        Ok(v1::CustomerState::Active) => Some(StateFilter::Active),
        Ok(v1::CustomerState::Disabled) => Some(StateFilter::Disabled),
        Ok(v1::CustomerState::PendingDestruction) => Some(StateFilter::PendingDestruction),
        Ok(v1::CustomerState::Destroyed) => Some(StateFilter::Destroyed),
        Err(_) => {
            check.wrong("state", "must be one of the states");
            None
        }
    };
    let after = check.place(&request.page_token, tokens, |text| CustomerId::parse(text).ok());
    check.done(Some((state, after, limit)))
}

/// What a page token of credentials stands for. Ids contain no slash.
fn place(id: &CredentialRef) -> String {
    format!("{}/{}", id.customer, id.credential)
}

fn read_place(text: &str) -> Option<CredentialRef> {
    let (customer, credential) = text.split_once('/')?;
    let (customer, credential) = (CustomerId::parse(customer).ok()?, CredentialId::parse(credential).ok()?);
    Some(CredentialRef { customer, credential })
}

/// Moves the secret out of the message, which wipes what it still holds when dropped.
fn secret_from(check: &mut Check, secret: Option<v1::Secret>) -> Option<Secret> {
    let Some(mut value) = secret.and_then(|secret| secret.value) else {
        check.wrong("secret", "must be set to one of its kinds");
        return None;
    };
    match &mut value {
        v1::secret::Value::SalesforceOauth(oauth) => {
            Some(Secret::SalesforceOAuth(salesforce_from(check, "secret.salesforce_oauth", oauth)))
        }
        v1::secret::Value::Password(password) => Some(password_from(check, password)),
        v1::secret::Value::Opaque(opaque) => Some(opaque_from(check, opaque)),
    }
}

fn salesforce_from(check: &mut Check, at: &str, oauth: &mut v1::SalesforceOAuth) -> SalesforceOAuth {
    use std::mem::take;
    let name = |field: &str| format!("{at}.{field}");
    check.required(&name("access_token"), oauth.access_token.as_bytes(), MAX_TOKEN);
    check.text(&name("refresh_token"), &oauth.refresh_token, MAX_TOKEN);
    check.url(&name("instance_url"), &oauth.instance_url);
    check.url(&name("token_url"), &oauth.token_url);
    check.url(&name("identity_url"), &oauth.identity_url);
    if oauth.scopes.len() > MAX_SCOPES {
        check.wrong(&name("scopes"), format!("must be at most {MAX_SCOPES}"));
    }
    for (index, scope) in oauth.scopes.iter().enumerate().take(MAX_SCOPES) {
        check.required(&name(&format!("scopes[{index}]")), scope.as_bytes(), MAX_SCOPE);
    }
    let issue_time = check.time(&name("issue_time"), oauth.issue_time.as_ref());
    let expire_time = check.time(&name("access_token_expire_time"), oauth.access_token_expire_time.as_ref());
    SalesforceOAuth {
        access_token: SecretString::new(take(&mut oauth.access_token)),
        refresh_token: SecretString::new(take(&mut oauth.refresh_token)),
        instance_url: take(&mut oauth.instance_url),
        token_url: take(&mut oauth.token_url),
        identity_url: take(&mut oauth.identity_url),
        scopes: take(&mut oauth.scopes),
        issue_time,
        access_token_expire_time: expire_time,
    }
}

fn password_from(check: &mut Check, password: &mut v1::Password) -> Secret {
    use std::mem::take;
    check.text("secret.password.username", &password.username, MAX_USERNAME);
    check.required("secret.password.password", password.password.as_bytes(), MAX_PASSWORD);
    check.text("secret.password.security_token", &password.security_token, MAX_USERNAME);
    check.url("secret.password.login_url", &password.login_url);
    Secret::Password(Password {
        username: SecretString::new(take(&mut password.username)),
        password: SecretString::new(take(&mut password.password)),
        security_token: SecretString::new(take(&mut password.security_token)),
        login_url: take(&mut password.login_url),
    })
}

fn opaque_from(check: &mut Check, opaque: &mut v1::Opaque) -> Secret {
    check.required("secret.opaque.data", &opaque.data, MAX_OPAQUE);
    let content_type = std::mem::take(&mut opaque.content_type);
    if content_type.len() > MAX_CONTENT_TYPE || !content_type.bytes().all(|octet| (b' '..=b'~').contains(&octet)) {
        check.wrong("secret.opaque.content_type", format!("must have at most {MAX_CONTENT_TYPE} ASCII characters"));
    }
    Secret::Opaque(Opaque { data: SecretOctets::new(std::mem::take(&mut opaque.data)), content_type })
}

pub(super) fn decrypted((secret, credential): (Secret, Credential)) -> v1::DecryptCredentialResponse {
    let credential = Some(credential_message(&credential));
    v1::DecryptCredentialResponse { secret: Some(secret_message(secret)), credential }
}

/// The secret as a message, which wipes itself when it has been sent.
pub(super) fn secret_message(secret: Secret) -> v1::Secret {
    let value = match secret {
        Secret::SalesforceOAuth(oauth) => v1::secret::Value::SalesforceOauth(v1::SalesforceOAuth {
            access_token: oauth.access_token.into_exposed(),
            refresh_token: oauth.refresh_token.into_exposed(),
            instance_url: oauth.instance_url,
            token_url: oauth.token_url,
            identity_url: oauth.identity_url,
            scopes: oauth.scopes,
            issue_time: oauth.issue_time.map(timestamp),
            access_token_expire_time: oauth.access_token_expire_time.map(timestamp),
        }),
        Secret::Password(password) => v1::secret::Value::Password(v1::Password {
            username: password.username.into_exposed(),
            password: password.password.into_exposed(),
            security_token: password.security_token.into_exposed(),
            login_url: password.login_url,
        }),
        Secret::Opaque(opaque) => v1::secret::Value::Opaque(v1::Opaque {
            data: opaque.data.into_exposed(),
            content_type: opaque.content_type,
        }),
    };
    v1::Secret { value: Some(value) }
}

pub(super) fn credential_message(credential: &Credential) -> v1::Credential {
    let (state, reason, state_time) = match &credential.state {
        State::Active => (v1::CredentialState::Active, String::new(), credential.update_time),
        State::NeedsReauth { reason, time } => (v1::CredentialState::NeedsReauth, reason.clone(), *time),
    };
    let kind = match credential.kind {
        Kind::SalesforceOAuth => v1::CredentialKind::SalesforceOauth,
        Kind::Password => v1::CredentialKind::Password,
        Kind::Opaque => v1::CredentialKind::Opaque,
    };
    v1::Credential {
        customer_id: credential.id.customer.to_string(),
        credential_id: credential.id.credential.to_string(),
        kind: kind.into(),
        state: state.into(),
        state_reason: reason,
        state_time: Some(timestamp(state_time)),
        revision: credential.revision.get(),
        lineage: credential.lineage.map(lineage_message),
        create_time: Some(timestamp(credential.create_time)),
        update_time: Some(timestamp(credential.update_time)),
        refresh_time: credential.refresh_time.map(timestamp),
        access_token_expire_time: credential.access_token_expire_time.map(timestamp),
    }
}

fn lineage_message(lineage: Lineage) -> v1::Lineage {
    v1::Lineage {
        codebase_version: lineage.codebase.get(),
        environment_version: lineage.environment.get(),
        customer_version: lineage.customer.get(),
    }
}

pub(super) fn list_response(
    page: &Page<Credential, CredentialRef>,
    tokens: &PageTokens<'_>,
) -> Result<v1::ListCredentialsResponse, NoPageToken> {
    Ok(v1::ListCredentialsResponse {
        credentials: page.rows.iter().map(credential_message).collect(),
        next_page_token: tokens.seal(&page.next.as_ref().map(place).unwrap_or_default())?,
    })
}

/// A customer, with its key versions.
pub(super) fn customer_message(row: &CustomerRow) -> v1::Customer {
    let key_versions = row.versions.iter().map(|key| {
        let state = match key.state {
            KeyVersionState::Retired => v1::CustomerKeyState::Retired,
            KeyVersionState::Enabled if key.version == row.primary => v1::CustomerKeyState::Primary,
            KeyVersionState::Enabled => v1::CustomerKeyState::Enabled,
        };
        v1::CustomerKeyVersion {
            version: key.version.get(),
            state: state.into(),
            create_time: Some(timestamp(key.create_time)),
            kms_key_arn: key.kms_key_arn.clone(),
        }
    });
    let (state, destroy_time, erasure) = match row.state {
        CustomerState::Active => (v1::CustomerState::Active, None, None),
        CustomerState::Disabled => (v1::CustomerState::Disabled, None, None),
        CustomerState::PendingDestruction { destroy_time } => {
            (v1::CustomerState::PendingDestruction, Some(destroy_time), None)
        }
        CustomerState::Destroyed { destroy_time, erasure } => {
            (v1::CustomerState::Destroyed, Some(destroy_time), Some(erasure))
        }
    };
    let receipt = erasure.map(|erasure| v1::DestructionReceipt {
        key_versions: erasure.key_versions,
        credentials: erasure.credentials.unwrap_or_default(),
        end_time: erasure.end_time.map(timestamp),
        backups_end_time: erasure.backups_end_time.map(timestamp),
    });
    v1::Customer {
        customer_id: row.id.to_string(),
        state: state.into(),
        primary_version: row.primary.get(),
        key_versions: key_versions.collect(),
        create_time: Some(timestamp(row.create_time)),
        destroy_time: destroy_time.map(timestamp),
        receipt,
    }
}

pub(super) fn list_customers_response(
    page: &Page<CustomerRow, CustomerId>,
    tokens: &PageTokens<'_>,
) -> Result<v1::ListCustomersResponse, NoPageToken> {
    let customers = page.rows.iter().map(|row| v1::Customer { key_versions: Vec::new(), ..customer_message(row) });
    Ok(v1::ListCustomersResponse {
        customers: customers.collect(),
        next_page_token: tokens.seal(page.next.as_ref().map_or("", CustomerId::as_str))?,
    })
}

#[cfg(test)]
mod tests;
