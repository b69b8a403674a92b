//! The form of the environment secret and of the codebase key file (docs/FORMAT.md): reading, checking, writing.
//!
//! The build script compiles this file too, so it uses nothing else of the crate. It knows no source: a document is a
//! string. What it refuses it names by field and never by value, since the value may be a key.

use std::fmt;

use base64ct::{Base64, Encoding};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use serde_path_to_error::{Path, Segment};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A document has at most so many octets: what one Secrets Manager secret holds
/// (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>).
pub const MAX_DOCUMENT_OCTETS: usize = 65_536;

/// Of a field's name that is told in an error; the base64 of a key has 44.
const MAX_NAME_OCTETS: usize = 20;

/// Which of the two factors a document holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `triseal-codebase-keys/v1`
    Codebase,
    /// `triseal-environment-keys/v1`
    Environment,
}

impl Form {
    /// The value of the field `format`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Codebase => "triseal-codebase-keys/v1",
            Self::Environment => "triseal-environment-keys/v1",
        }
    }
}

/// All versions of one factor, checked: every key is there once, and the primary is enabled.
pub struct KeyDocument {
    /// The version that seals.
    pub primary: u32,
    /// In the document's order. Never empty.
    pub keys: Vec<KeyEntry>,
}

/// One version of a factor.
pub struct KeyEntry {
    /// From 1.
    pub version: u32,
    /// 32 octets, not all zero.
    pub key: Zeroizing<[u8; 32]>,
    /// Whether it opens.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Option<jiff::Timestamp>,
    /// Since when it is no longer the primary.
    pub primary_until: Option<jiff::Timestamp>,
}

/// Whether a version opens. Which one seals is the document's `primary`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It opens.
    #[default]
    Enabled,
    /// It is refused.
    Retired,
}

/// Why a document is refused: the field, and what is wrong with it. Never its value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct DocumentError {
    /// A path such as `keys[1].key`, or `document`.
    pub field: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Longer than Secrets Manager holds.
    #[error("is longer than {MAX_DOCUMENT_OCTETS} octets")]
    TooLong,
    /// Not JSON.
    #[error("is not JSON from line {line}, column {column} on")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Unknown, repeated, or of another type.
    #[error("is unknown, there twice, or not of the expected type")]
    WrongType,
    /// Not there.
    #[error("is missing")]
    Missing,
    /// Another form, or another version of it.
    #[error("must be \"{0}\"")]
    WrongFormat(&'static str),
    /// Versions count from 1.
    #[error("must be at least 1")]
    Zero,
    /// One version or key twice.
    #[error("is there twice")]
    Repeated,
    /// Not the encoding of a key.
    #[error("must be the base64 of 32 octets, with padding")]
    NotAKey,
    /// No key was ever set.
    #[error("is all zeros")]
    ZeroKey,
    /// Nothing could be sealed.
    #[error("must be the version of an enabled key")]
    PrimaryNotEnabled,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    format: Option<Text>,
    primary: Option<u32>,
    keys: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    version: Option<u32>,
    key: Option<Text>,
    #[serde(default)]
    state: KeyState,
    created_at: Option<jiff::Timestamp>,
    primary_until: Option<jiff::Timestamp>,
}

/// A string that is wiped when dropped. Only where the JSON has escapes does the parser keep a copy that is not.
struct Text(Zeroizing<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Zeroizing::new(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl KeyDocument {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// A [`DocumentError`] that names the first field that is wrong.
    pub fn parse(form: Form, text: &str) -> Result<Self, DocumentError> {
        if text.len() > MAX_DOCUMENT_OCTETS {
            return Err(refused("document", Problem::TooLong));
        }
        let raw = parse_json(text)?;
        match raw.format.as_ref().map(|format| format.0.as_str()) {
            None => return Err(refused("format", Problem::Missing)),
            Some(format) if format != form.as_str() => {
                return Err(refused("format", Problem::WrongFormat(form.as_str())));
            }
            Some(_) => {}
        }
        let primary = raw.primary.ok_or_else(|| refused("primary", Problem::Missing))?;
        let entries = raw.keys.ok_or_else(|| refused("keys", Problem::Missing))?;
        let mut keys: Vec<KeyEntry> = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let entry = check_entry(index, entry, &keys)?;
            keys.push(entry);
        }
        if !keys.iter().any(|entry| entry.version == primary && entry.state == KeyState::Enabled) {
            return Err(refused("primary", Problem::PrimaryNotEnabled));
        }
        Ok(Self { primary, keys })
    }

    /// A document with one key, which is the primary as version 1.
    pub fn first(key: Zeroizing<[u8; 32]>, created_at: jiff::Timestamp) -> Self {
        let created_at = Some(created_at);
        Self {
            primary: 1,
            keys: vec![KeyEntry { version: 1, key, state: KeyState::Enabled, created_at, primary_until: None }],
        }
    }

    /// The document as it is stored, with a line for each version. It is a secret.
    pub fn to_json(&self, form: Form) -> Zeroizing<String> {
        // Long enough from the start, so that the string never moves and leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(128 + self.keys.len() * 256));
        text.push_str(&format!("{{\"format\": \"{}\", \"primary\": {},\n \"keys\": [", form.as_str(), self.primary));
        for (index, entry) in self.keys.iter().enumerate() {
            text.push_str(if index == 0 { "" } else { ",\n          " });
            text.push_str(&format!("{{\"version\": {}, \"key\": \"", entry.version));
            let mut encoded = Zeroizing::new([0_u8; 44]);
            // 32 octets always fill 44 characters.
            text.push_str(Base64::encode(entry.key.as_ref(), encoded.as_mut()).unwrap_or_default());
            text.push_str(match entry.state {
                KeyState::Enabled => "\", \"state\": \"enabled\"",
                KeyState::Retired => "\", \"state\": \"retired\"",
            });
            for (name, time) in [("created_at", entry.created_at), ("primary_until", entry.primary_until)] {
                if let Some(time) = time {
                    text.push_str(&format!(", \"{name}\": \"{time}\""));
                }
            }
            text.push('}');
        }
        text.push_str("]}\n");
        text
    }
}

fn parse_json(text: &str) -> Result<RawDocument, DocumentError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let raw = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = field(error.path());
        // The inner error's text may echo the value, so only its kind and place are kept.
        let problem = match error.inner().classify() {
            serde_json::error::Category::Data => Problem::WrongType,
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => not_json(error.inner()),
        };
        DocumentError { field: path, problem }
    })?;
    json.end().map_err(|error| refused("document", not_json(&error)))?;
    Ok(raw)
}

/// A path's name. A name that is too long to be a misspelt one of ours may be a misplaced key, and is not repeated.
fn field(path: &Path) -> String {
    let mut name = String::new();
    for segment in path.iter() {
        let part = match segment {
            Segment::Seq { index } => format!("[{index}]"),
            Segment::Map { key } if key.len() <= MAX_NAME_OCTETS => format!(".{key}"),
            Segment::Map { .. } | Segment::Enum { .. } | Segment::Unknown => ".?".to_owned(),
        };
        name.push_str(&part);
    }
    if name.is_empty() { "document".to_owned() } else { name.trim_start_matches('.').to_owned() }
}

fn check_entry(index: usize, entry: &RawEntry, before: &[KeyEntry]) -> Result<KeyEntry, DocumentError> {
    let at = |field: &str, problem| Err(DocumentError { field: format!("keys[{index}].{field}"), problem });
    let Some(version) = entry.version else { return at("version", Problem::Missing) };
    if version == 0 {
        return at("version", Problem::Zero);
    }
    if before.iter().any(|other| other.version == version) {
        return at("version", Problem::Repeated);
    }
    let Some(Text(encoded)) = &entry.key else { return at("key", Problem::Missing) };
    let mut key = Zeroizing::new([0_u8; 32]);
    match Base64::decode(encoded, key.as_mut()) {
        Ok(octets) if octets.len() == 32 => {}
        Ok(_) | Err(_) => return at("key", Problem::NotAKey),
    }
    if bool::from(key.as_slice().ct_eq(&[0; 32])) {
        return at("key", Problem::ZeroKey);
    }
    if before.iter().any(|other| bool::from(other.key.as_slice().ct_eq(key.as_slice()))) {
        return at("key", Problem::Repeated);
    }
    Ok(KeyEntry { version, key, state: entry.state, created_at: entry.created_at, primary_until: entry.primary_until })
}

fn refused(field: &str, problem: Problem) -> DocumentError {
    DocumentError { field: field.to_owned(), problem }
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::NotJson { line: error.line(), column: error.column() }
}

impl fmt::Debug for KeyDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyDocument").field("primary", &self.primary).finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEntry").field("version", &self.version).finish_non_exhaustive()
    }
}
