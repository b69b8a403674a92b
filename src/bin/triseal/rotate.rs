//! Rotations that need no service, and the end of the versions that they leave behind: key documents in AWS Secrets Manager under the
//! operator's own identity, in a file of a service, and in the build's file.
//!
//! A key goes from the system's generator into a document, and nowhere else: it is never printed and never an argument.

pub(crate) mod codebase;
pub(crate) mod environment;
mod fleet;
mod place;
pub(crate) mod retire;

use triseal::crypto::{CodebaseKey, fingerprint};
use triseal::factors::document::KeyDocument;
use triseal::factors::rotation::TransitionError;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::output::Format;
use crate::progress;

/// Tells a person what is going on. Whoever reads JSON gets the outcome alone.
fn say(format: Format, text: &str) {
    if format == Format::Text {
        progress::line(text);
    }
}

fn new_key() -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut key = Zeroizing::new([0; 32]);
    getrandom::fill(key.as_mut())
        .map_err(|_| Failure::failed("the operating system gives no random numbers".to_owned()))?;
    Ok(key)
}

/// The fingerprint of a version, in hex. It is the same for keys of either form. Empty for a version that is not there.
fn fingerprint_of(document: &KeyDocument, version: u32) -> String {
    let entry = document.keys.iter().find(|entry| entry.version == version);
    let octets = entry.map(|entry| fingerprint(&CodebaseKey::new(entry.key.clone())).0);
    octets.iter().flatten().map(|octet| format!("{octet:02x}")).collect()
}

/// The versions of a document, as a person wants to see them.
fn state_of(document: &KeyDocument) -> String {
    let mut state = format!("version {} is the primary", document.primary);
    if let Some(added) = document.added() {
        state += &format!(", version {added} is added and not promoted");
    }
    state
}

fn impossible(error: &TransitionError) -> Failure {
    let failure = Failure::refused(error.to_string());
    match error {
        TransitionError::NoSuchVersion(_) | TransitionError::IsPrimary(_) | TransitionError::IsRetired(_) => failure,
        TransitionError::NotYetPrimary(_) | TransitionError::NothingAdded => {
            failure.with_hint("a version is added, then promoted, and retired when another one has been promoted")
        }
        TransitionError::SinceUnknown(version) => failure.with_hint(format!(
            "the document was changed by hand: write \"primary_until\", the time when version {version} stopped being the \
             primary, into its entry"
        )),
        TransitionError::TooEarly { until, .. } => failure.with_hint(format!("try again after {until}")),
        TransitionError::TooLong => {
            failure.with_hint("versions are never removed: a deployment with so many needs a new secret, and help")
        }
    }
}

#[cfg(test)]
mod tests;
