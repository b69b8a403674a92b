//! Rotations that need no service, and the end of the versions that they leave behind: key documents in AWS Secrets Manager under the
//! operator's own identity, in a file of a service, and in the build's file.
//!
//! A key goes from the system's generator into a document, and nowhere else: it is never printed and never an argument.

pub(crate) mod codebase;
pub(crate) mod environment;
mod fleet;
mod place;
pub(crate) mod retire;
pub(crate) mod unretire;

use place::Place;
use serde::Serialize;
use triseal::crypto::{CodebaseKey, fingerprint};
use triseal::factors::document::KeyDocument;
use triseal::factors::rotation::TransitionError;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::job::Job;
use crate::output::{Format, Output};
use crate::progress;

/// Tells a person what is going on. Whoever reads JSON gets the outcome alone.
fn say(format: Format, text: &str) {
    if format == Format::Text {
        progress::line(text);
    }
}

/// What a command made of a key document.
#[derive(Serialize)]
struct Changed<'a> {
    /// Its file or its secret, as the command was told of it.
    document: &'a str,
    change: Change,
    /// Of which version.
    version: u32,
    /// Of that version.
    fingerprint: String,
    primary: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    former_primary: Option<u32>,
    /// What `--complete` had done afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    reencryption: Option<&'a Job>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Added,
    Promoted,
    Retired,
    Unretired,
}

impl<'a> Changed<'a> {
    fn of(place: &'a Place, document: &KeyDocument, change: Change, version: u32) -> Self {
        let fingerprint = fingerprint_of(document, version);
        let former_primary = match change {
            Change::Promoted => document.former_primary(),
            Change::Added | Change::Retired | Change::Unretired => None,
        };
        let primary = document.primary;
        Self { document: &place.name, change, version, fingerprint, primary, former_primary, reencryption: None }
    }

    /// The lines for a person. What was done afterwards, its own say.
    fn fields(&self) -> [(&'static str, String); 6] {
        let change = match self.change {
            Change::Added => "added",
            Change::Promoted => "promoted",
            Change::Retired => "retired",
            Change::Unretired => "unretired",
        };
        [
            ("document", self.document.to_owned()),
            ("change", change.to_owned()),
            ("version", self.version.to_string()),
            ("fingerprint", self.fingerprint.clone()),
            ("primary", self.primary.to_string()),
            ("former_primary", self.former_primary.map(|version| version.to_string()).unwrap_or_default()),
        ]
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        match output.format() {
            Format::Json => output.json(self),
            Format::Text => output.fields(&self.fields()),
        }
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
        TransitionError::NoSuchVersion(_)
        | TransitionError::IsPrimary(_)
        | TransitionError::IsRetired(_)
        | TransitionError::IsNotRetired(_) => failure,
        TransitionError::NotYetPrimary(_) | TransitionError::NothingAdded => {
            failure.with_hint("a version is added, then promoted, and retired when another one has been promoted")
        }
        TransitionError::SinceUnknown(version) => failure.with_hint(format!(
            "the document was changed by hand: write \"primary_until\", the time when version {version} stopped being the \
             primary, into its entry"
        )),
        TransitionError::TooEarly { until, .. } => failure.with_hint(format!("try again after {until}")),
        TransitionError::TooLong => {
            failure.with_hint("versions are never removed, and the document is full: from now on, rotate the other factors instead")
        }
    }
}

#[cfg(test)]
mod tests;
