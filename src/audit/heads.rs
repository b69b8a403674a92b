//! The head of a stream: how far it has come, kept in the store, where whoever can write to the log can't. It is what a log is
//! compared with, so that an end that was cut off is noticed. `keeper` stores them.

use async_trait::async_trait;
use jiff::Timestamp;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::entry::{Hash, StreamId, hex, hex_octets};
use crate::factors::FactorError;
use crate::factors::kms::KmsMac;
use crate::store::{OperationId, OperationRow, WriteId};

/// The kind of its records in the store.
pub const KIND: &str = "audit-stream";
const MAC_LABEL: &[u8] = b"triseal/v1 checkpoint";
const FORMAT: u8 = 1;

/// Makes and checks MACs of heads, under a key for nothing else.
#[async_trait]
pub trait CheckpointMac: Send + Sync {
    /// The MAC of a message.
    async fn make(&self, message: &[u8]) -> Result<Vec<u8>, FactorError>;

    /// Whether this is the MAC of the message.
    async fn verify(&self, message: &[u8], mac: &[u8]) -> Result<bool, FactorError>;
}

#[async_trait]
impl CheckpointMac for KmsMac {
    async fn make(&self, message: &[u8]) -> Result<Vec<u8>, FactorError> {
        Self::make(self, message).await
    }

    async fn verify(&self, message: &[u8], mac: &[u8]) -> Result<bool, FactorError> {
        Self::verify(self, message, mac).await
    }
}

/// How far a stream has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which.
    pub stream: StreamId,
    /// The number of its last entry; 0 before the first.
    pub seq: u64,
    /// That entry's hash, or what the first entry follows.
    pub hash: Hash,
    /// Whether it ended there.
    pub closed: bool,
    /// When it was there.
    pub time: Timestamp,
    /// Over [`Head::message`].
    pub mac: Option<Vec<u8>>,
}

/// A record is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// It is not of this form.
    #[error("it is no head of a stream")]
    Malformed,
    /// A newer release wrote it.
    #[error("it has a form that this release does not know")]
    Newer,
}

#[derive(Encode, Decode)]
struct Fields {
    #[n(0)]
    seq: u64,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    hash: [u8; 32],
    #[n(2)]
    closed: bool,
    #[n(3)]
    time: i64,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    mac: Option<Vec<u8>>,
}

/// A head as a line of JSON, for keeping it elsewhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    stream: String,
    seq: u64,
    hash: String,
    closed: bool,
    time: Timestamp,
    mac: Option<String>,
}

impl Head {
    /// What its MAC is over: `"triseal/v1 checkpoint" || stream || seq || hash`. Each has a fixed length, so nothing can move across
    /// their borders: 32 digits, a big-endian u64, 32 octets.
    pub fn message(&self) -> Vec<u8> {
        [MAC_LABEL, self.stream.as_str().as_bytes(), &self.seq.to_be_bytes(), &self.hash.0].concat()
    }

    /// Reads a record of [`KIND`].
    ///
    /// # Errors
    /// [`BadHead`].
    pub fn from_record(row: &OperationRow) -> Result<Self, BadHead> {
        let stream = StreamId::parse(&row.id.id).ok_or(BadHead::Malformed)?;
        let fields = match row.body.split_first() {
            Some((&FORMAT, fields)) => fields,
            Some(_) => return Err(BadHead::Newer),
            None => return Err(BadHead::Malformed),
        };
        let Fields { seq, hash, closed, time, mac } = minicbor::decode(fields).map_err(|_| BadHead::Malformed)?;
        let time = Timestamp::from_microsecond(time).map_err(|_| BadHead::Malformed)?;
        Ok(Self { stream, seq, hash: Hash(hash), closed, time, mac })
    }

    /// As it is stored.
    pub(super) fn record(&self, write_id: WriteId) -> OperationRow {
        let fields = Fields {
            seq: self.seq,
            hash: self.hash.0,
            closed: self.closed,
            time: self.time.as_microsecond(),
            mac: self.mac.clone(),
        };
        let mut body = vec![FORMAT];
        // A vector takes every encoding.
        let _ = minicbor::encode(fields, &mut body);
        OperationRow { id: record_id(&self.stream), write_id, body }
    }

    /// As a line of JSON without its line break.
    pub fn to_json(&self) -> String {
        let exported = Exported {
            stream: self.stream.to_string(),
            seq: self.seq,
            hash: self.hash.to_string(),
            closed: self.closed,
            time: self.time,
            mac: self.mac.as_deref().map(hex),
        };
        // Texts and numbers under names that are texts: there is nothing that could fail.
        serde_json::to_string(&exported).unwrap_or_default()
    }

    /// Reads what [`Head::to_json`] wrote.
    ///
    /// # Errors
    /// [`BadHead`].
    pub fn from_json(line: &str) -> Result<Self, BadHead> {
        let read = || {
            let Exported { stream, seq, hash, closed, time, mac } = serde_json::from_str(line).ok()?;
            let mac = match mac {
                Some(mac) => Some(hex_octets::<32>(&mac)?.to_vec()),
                None => None,
            };
            Some(Self { stream: StreamId::parse(&stream)?, seq, hash: Hash::parse(&hash)?, closed, time, mac })
        };
        read().ok_or(BadHead::Malformed)
    }
}

/// What names the record of a stream's head.
pub(super) fn record_id(stream: &StreamId) -> OperationId {
    OperationId { kind: KIND, id: stream.to_string() }
}

#[cfg(test)]
mod tests;
