//! One entry, and the chain that it is a link of: from values to octets. `line` reads them again. docs/AUDIT.md specifies
//! both.
//!
//! There is no field for a text of one's own. What callers choose are ids, whose characters are restricted where they
//! are parsed, and a request id, which is escaped.

use std::fmt;
use std::io::Write;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::words::{Event, Reason};
use crate::crypto::{Lineage, Version};
use crate::ids::{Caller, CredentialId, CredentialRef, CustomerId, RequestId, TraceId};
use crate::randomness::NoRandomness;
use crate::secret::View;
use crate::store::Revision;

/// No line is longer, its line break included. Collectors of standard output cut longer ones, at 16 KiB the strictest.
pub const MAX_LINE_OCTETS: usize = 8 * 1024;
/// A caller's identity may have so many octets when escaped. SPIFFE ids have at most 2,048, and nothing to escape.
const MAX_CALLER_OCTETS: usize = 4 * 1024;

const LINK_LABEL: &[u8] = b"triseal/v1 audit";
const FIRST_LABEL: &[u8] = b"triseal/v1 stream";

/// What links an entry to the one before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub(super) [u8; 32]);

impl Hash {
    /// What the first entry of a stream follows: `SHA-256("triseal/v1 stream" || stream)`.
    pub fn first(stream: &StreamId) -> Self {
        Self(Sha256::new().chain_update(FIRST_LABEL).chain_update(stream.0).finalize().into())
    }

    /// `SHA-256("triseal/v1 audit" || prev || hashed)`. `prev` has 32 octets, so nothing can move across its border.
    pub(super) fn link(prev: &Self, hashed: &[u8]) -> Self {
        Self(Sha256::new().chain_update(LINK_LABEL).chain_update(prev.0).chain_update(hashed).finalize().into())
    }

    /// Takes 64 lowercase hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        hex_octets(text).map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// The name of a stream: 32 lowercase hexadecimal digits. Each process writes one stream, and each stream has one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId([u8; StreamId::LENGTH]);

impl StreamId {
    const LENGTH: usize = 32;

    /// A new one: 128 random bits.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random() -> Result<Self, NoRandomness> {
        let mut octets = [0; 16];
        getrandom::fill(&mut octets)?;
        let mut digits = [0; Self::LENGTH];
        for (pair, octet) in digits.chunks_exact_mut(2).zip(octets) {
            pair.copy_from_slice(&hex_pair(octet));
        }
        Ok(Self(digits))
    }

    /// For want of a random one.
    pub(super) const ZERO: Self = Self([b'0'; Self::LENGTH]);

    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits: [u8; Self::LENGTH] = text.as_bytes().try_into().ok()?;
        digits.iter().all(|digit| hex_digit(*digit).is_some()).then_some(Self(digits))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        // It is made of digits alone.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({self})")
    }
}

/// What an entry says, without its place in a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What was asked for.
    pub event: Event,
    /// By whom. `None`: the service itself.
    pub caller: Option<Caller>,
    /// For which request; of a job's entries, the job's id.
    pub request: Option<RequestId>,
    /// In which trace.
    pub trace: Option<TraceId>,
    /// Of what.
    pub subject: Subject,
    /// How it went.
    pub outcome: Outcome,
}

/// What an entry is about. What does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    /// Whose.
    pub customer: Option<CustomerId>,
    /// Which credential.
    pub credential: Option<CredentialId>,
    /// How much of its secret.
    pub view: Option<View>,
    /// At which revision: the one that was read, that a change expects, or, with [`Outcome::Ok`], that it made.
    pub revision: Option<Revision>,
    /// Under which key versions, or which one.
    pub versions: Option<Versions>,
}

/// The key versions that an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// All that a credential is sealed under.
    Lineage(Lineage),
    /// One of the customer's key.
    Customer(Version),
}

impl From<Lineage> for Versions {
    fn from(lineage: Lineage) -> Self {
        Self::Lineage(lineage)
    }
}

impl Subject {
    /// One customer.
    pub fn customer(id: &CustomerId) -> Self {
        Self { customer: Some(id.clone()), ..Self::default() }
    }

    /// One credential.
    pub fn credential(id: &CredentialRef) -> Self {
        Self { credential: Some(id.credential.clone()), ..Self::customer(&id.customer) }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is about to be done: a later entry says how it went.
    Intent,
    /// It was done.
    Ok,
    /// It was not.
    Refused(Reason),
}

impl Outcome {
    pub(super) const INTENT: &str = "intent";
    pub(super) const OK: &str = "ok";

    /// As it stands in an entry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => Self::INTENT,
            Self::Ok => Self::OK,
            Self::Refused(reason) => reason.as_str(),
        }
    }
}

impl Entry {
    /// Whether its line is sure to be no longer than [`MAX_LINE_OCTETS`]: every other field has its limit.
    pub(super) fn fits(&self) -> bool {
        let escaped = |octet: u8| match octet {
            b'"' | b'\\' => 2,
            0..=0x1f => 6,
            _ => 1,
        };
        self.caller
            .as_ref()
            .is_none_or(|caller| caller.as_str().bytes().map(escaped).sum::<usize>() <= MAX_CALLER_OCTETS)
    }
}

/// A stream as it is written: each entry is linked to the one before it.
pub struct Chain {
    stream: StreamId,
    seq: u64,
    hash: Hash,
}

impl Chain {
    /// A stream without entries.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, seq: 0, hash: Hash::first(&stream) }
    }

    /// Number and hash of the last entry.
    pub fn end(&self) -> (u64, Hash) {
        (self.seq, self.hash)
    }

    /// Appends an entry's line to `log`.
    pub fn append(&mut self, time: Timestamp, entry: &Entry, log: &mut Vec<u8>) {
        let start = log.len();
        self.seq += 1;
        self.hashed_fields(time, entry, log);
        let hash = Hash::link(&self.hash, log.get(start..).unwrap_or_default());
        log.extend_from_slice(b",\"prev\":\"");
        push_hex(log, &self.hash.0);
        log.extend_from_slice(b"\",\"hash\":\"");
        push_hex(log, &hash.0);
        log.extend_from_slice(b"\"}\n");
        self.hash = hash;
    }

    fn hashed_fields(&self, time: Timestamp, entry: &Entry, log: &mut Vec<u8>) {
        let Subject { customer, credential, view, revision, versions } = &entry.subject;
        log.extend_from_slice(b"{\"stream\":\"");
        log.extend_from_slice(&self.stream.0);
        // A vector takes all that is written to it.
        let _ = write!(log, "\",\"seq\":{},\"time\":\"{time:.6}\",\"event\":\"", self.seq);
        log.extend_from_slice(entry.event.as_str().as_bytes());
        log.extend_from_slice(b"\",\"caller\":");
        escaped(log, entry.caller.as_ref().map(Caller::as_str));
        log.extend_from_slice(b",\"customer\":");
        plain(log, customer.as_ref().map(CustomerId::as_str));
        log.extend_from_slice(b",\"credential\":");
        plain(log, credential.as_ref().map(CredentialId::as_str));
        log.extend_from_slice(b",\"view\":");
        plain(log, view.map(view_word));
        let _ = match revision {
            Some(revision) => write!(log, ",\"revision\":{}", revision.get()),
            None => log.write_all(b",\"revision\":null"),
        };
        let _ = match versions {
            Some(Versions::Lineage(Lineage { codebase, environment, customer })) => {
                write!(log, ",\"lineage\":\"{codebase}/{environment}/{customer}\"")
            }
            Some(Versions::Customer(version)) => write!(log, ",\"lineage\":\"-/-/{version}\""),
            None => log.write_all(b",\"lineage\":null"),
        };
        log.extend_from_slice(b",\"outcome\":\"");
        log.extend_from_slice(entry.outcome.as_str().as_bytes());
        log.extend_from_slice(b"\",\"request_id\":");
        escaped(log, entry.request.as_ref().map(RequestId::as_str));
        log.extend_from_slice(b",\"trace_id\":");
        match entry.trace {
            Some(TraceId(octets)) => {
                log.push(b'"');
                push_hex(log, &octets);
                log.push(b'"');
            }
            None => log.extend_from_slice(b"null"),
        }
    }
}

/// A time as it stands in an entry: UTC, in microseconds, of a fixed width, so that texts compare as times do.
pub fn entry_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

fn view_word(view: View) -> &'static str {
    match view {
        View::Access => "access",
        View::Full => "full",
    }
}

/// A text without anything to escape, or null.
fn plain(log: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => {
            log.push(b'"');
            log.extend_from_slice(text.as_bytes());
            log.push(b'"');
        }
        None => log.extend_from_slice(b"null"),
    }
}

fn escaped(log: &mut Vec<u8>, text: Option<&str>) {
    // Neither a text nor a vector can fail.
    let _ = serde_json::to_writer(log, &text);
}

fn push_hex(log: &mut Vec<u8>, octets: &[u8]) {
    octets.iter().for_each(|octet| log.extend_from_slice(&hex_pair(*octet)));
}

pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().flat_map(|octet| hex_pair(*octet)).map(char::from).collect()
}

fn hex_pair(octet: u8) -> [u8; 2] {
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + (half - 10) };
    [digit(octet >> 4), digit(octet & 0x0f)]
}

/// `None` unless the text is as [`hex`] writes it, of exactly so many octets.
pub(super) fn hex_octets<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut octets = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *octet = hex_digit(*high)? << 4 | hex_digit(*low)?;
    }
    Some(octets)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
