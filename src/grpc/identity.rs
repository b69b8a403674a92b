//! Who calls: whoever is at the other end of the connection, as the handshake found out.

use tonic::{Request, Status};

use super::status;
use crate::ids::Caller;

/// The caller of a request.
///
/// # Errors
/// UNAUTHENTICATED, if the connection is nobody's.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(status::no_client_certificate)
}
