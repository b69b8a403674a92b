//! A batch of readings ↔ its reply: which requests are right, how much the reply holds, and what became of each.

use tonic::Status;

use super::{Check, decrypt_request, decrypted};
use crate::access::DecryptCredential;
use crate::grpc::limits::MAX_REPLY_OCTETS;
use crate::grpc::status::item_error;
use crate::grpc::wire::v1;
use crate::store::Revision;
use crate::vault::{Opened, Reading, VaultError};
use v1::batch_decrypt_credentials_result::Result as Outcome;

const MAX_BATCH: usize = 100;
/// What an item has beside its secret, or else an error, in octets: ids, times, numbers and fixed texts.
const MAX_BESIDE_SECRET: usize = 2_048;

/// What one item asks for, and at which revision; or what is wrong with it.
type Item = Result<(DecryptCredential, Option<Revision>), Status>;

/// A batch of readings, each right or wrong by itself.
pub(in crate::grpc) fn batch_request(request: &v1::BatchDecryptCredentialsRequest) -> Result<Vec<Item>, Status> {
    let mut check = Check::default();
    if !(1..=MAX_BATCH).contains(&request.requests.len()) {
        check.wrong("requests", format!("must be 1 to {MAX_BATCH}"));
        return check.done(None);
    }
    Ok(request.requests.iter().map(decrypt_request).collect())
}

/// The octets of envelopes that the reply to a batch of so many has room for. A secret's message is no longer than its envelope.
pub(in crate::grpc) fn room_for_secrets(requests: usize) -> usize {
    MAX_REPLY_OCTETS.saturating_sub(requests * MAX_BESIDE_SECRET)
}

/// What became of a batch: `opened` has one outcome for each request that was right and permitted.
pub(in crate::grpc) fn batch_response(
    requests: Vec<Result<Reading, Status>>,
    opened: Vec<Opened>,
) -> v1::BatchDecryptCredentialsResponse {
    let mut opened = opened.into_iter();
    let results = requests.into_iter().map(|request| {
        let outcome = request.and_then(|_| match opened.next() {
            Some(outcome) => outcome.map_err(Status::from),
            None => Err(VaultError::Internal("a batch has fewer outcomes than requests").into()),
        });
        let result = match outcome {
            Ok(opened) => Outcome::Decrypted(decrypted(opened)),
            Err(status) => Outcome::Error(item_error(&status)),
        };
        v1::BatchDecryptCredentialsResult { result: Some(result) }
    });
    v1::BatchDecryptCredentialsResponse { results: results.collect() }
}
