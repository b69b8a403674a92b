//! Ciphertext at rest: rows, the ports that a backend fills, and the one rule for writing ([`change`]).
//!
//! Only an envelope is authentic. Everything else in a row is a hint that someone with access to the store can change, so
//! nothing here decides what opens. The store knows no key and no secret.

mod change;
mod clock;
#[cfg(test)]
pub(crate) mod contract;
pub mod dynamodb;
pub mod embedded;
mod encoding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod rows;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;

pub use change::{ChangeError, Decision, change, change_from};
pub use clock::{ClockUnconfirmed, StoreClock};
pub use rows::{
    AbandonCause, Change, Changes, CredentialRow, CustomerRow, CustomerState, CustomerWrite, Erasure, IdempotencyKey,
    KeyRow, KeyVersion, KeyVersionState, Lease, LeaseEnd, Leases, Life, Living, OperationId, OperationRow, Revision,
    State, TokenHash, Versioned, WriteId, row_time,
};

use crate::crypto::Version;
use crate::ids::{CredentialRef, CustomerId};

/// Why a store did not do what it was asked. The texts name no row's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It did not answer. A write may have happened all the same.
    #[error("the store is away: {0}")]
    Away(String),
    /// It asks for fewer requests.
    #[error("the store throttles")]
    Throttled,
    /// It does not permit this.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// A table is missing.
    #[error("the table {0} is missing")]
    Absent(String),
    /// A newer release wrote the row: it is left as it is, and read by an upgraded process.
    #[error("the row has a form that this release does not know")]
    Newer,
    /// What it holds is not of our form.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
}

/// Rows that one call reads at the same time, where a backend has no better way to read many.
const READ_AT_ONCE: usize = 16;
/// Rows that are rewritten at once, where each is a call of its own: they share its round trips.
const REWRITTEN_AT_ONCE: usize = 32;

/// What became of a conditional write.
#[derive(Debug)]
pub enum Replaced<R> {
    /// It is on disk.
    Done,
    /// The condition failed, or could not be looked at for another write under way. This is the present row.
    Refused(Option<R>),
}

/// Rows that are read and replaced one by one.
#[async_trait]
pub trait Rows: Send + Sync {
    /// What names a row.
    type Id: Send + Sync;
    /// A row.
    type Row: Versioned + Send;
    /// What replaces a row: the new row, and what is written with it in one transaction.
    type Write: Versioned + Send;

    /// The row, consistently: it reflects every write that was answered before.
    async fn get(&self, id: &Self::Id) -> Result<Option<Self::Row>, StoreError>;

    /// Writes on the condition that the present row has the write id `expected`, or that there is none. Answered
    /// [`Replaced::Done`], it is on disk. Use [`change`], which knows what to do with every other answer.
    async fn replace(&self, expected: Option<WriteId>, write: Self::Write) -> Result<Replaced<Self::Row>, StoreError>;
}

/// The credentials. Tombstones are rows, too.
#[async_trait]
pub trait Credentials: Rows<Id = CredentialRef, Row = CredentialRow, Write = CredentialRow> {
    /// Many rows, as [`Rows::get`] and in the order of their ids, of which some may be the same. One that can't be read fails by
    /// itself alone.
    async fn get_many(&self, ids: &[&CredentialRef]) -> Vec<Result<Option<CredentialRow>, StoreError>> {
        let reading: Vec<_> = ids.iter().map(|id| self.get(id)).collect();
        stream::iter(reading).buffered(READ_AT_ONCE).collect().await
    }

    /// At most `limit` rows of a customer, or of all, which come after `after`; in the backend's order, which does not change.
    /// A page may be shorter; it is the last if it names no successor.
    async fn query(
        &self,
        customer: Option<&CustomerId>,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<CredentialRow, CredentialRef>, StoreError>;

    /// Into how many parts a walk over all credentials is best cut, so that several can walk at once. From 1.
    fn parts(&self) -> u32 {
        1
    }

    /// How many rows who rewrites them all has best under way at once.
    fn writes_at_once(&self) -> usize {
        REWRITTEN_AT_ONCE
    }

    /// As [`Credentials::query`], for who must miss nothing: a row that can't be read is met, too.
    async fn scan(
        &self,
        extent: &Extent,
        after: Option<&CredentialRef>,
        limit: usize,
    ) -> Result<Page<Met<CredentialRef, CredentialRow>, CredentialRef>, StoreError>;

    /// Removes a row, tombstone or not, whoever wrote it last and whether or not it can be read. Then it is gone from the disk, or was
    /// gone. Only the destruction of a customer does this: whatever else ends a secret leaves a tombstone.
    async fn erase(&self, id: &CredentialRef) -> Result<(), StoreError>;
}

/// Why a customer and a key of it were not written, though the customer's row is as it was read.
const KEY_MISFIT: &str = "a wrapped key is there that its customer's row does not know, or is gone that it knows: one of them was lost; \
                          restore it";

/// The customers, and their wrapped keys. A write that would put a new key over one that is there, or an old one where none is, writes
/// nothing and is [`StoreError::Corrupt`].
#[async_trait]
pub trait Customers: Rows<Id = CustomerId, Row = CustomerRow, Write = CustomerWrite> {
    /// One wrapped key.
    async fn key(&self, customer: &CustomerId, version: Version) -> Result<Option<KeyRow>, StoreError>;

    /// At most `limit` customers that come after `after`, as [`Credentials::query`].
    async fn query(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<CustomerRow, CustomerId>, StoreError>;

    /// As [`Customers::query`], for who must miss none, as [`Credentials::scan`].
    async fn scan(
        &self,
        after: Option<&CustomerId>,
        limit: usize,
    ) -> Result<Page<Met<CustomerId, CustomerRow>, CustomerId>, StoreError>;
}

/// What a walk goes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One customer's rows.
    Customer(CustomerId),
    /// One part of all rows: every row is in exactly one of them.
    Part {
        /// Which one, from 0.
        index: u32,
        /// Of how many: a number that [`Credentials::parts`] gave.
        of: u32,
    },
}

/// A row as a walk meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met<I, R> {
    /// Which.
    pub id: I,
    /// The row, or why it can't be read: [`StoreError::Corrupt`] or [`StoreError::Newer`].
    pub row: Result<R, StoreError>,
}

/// The service's own records: fingerprints of factor versions, heads of audit streams, jobs, what replicas report.
#[async_trait]
pub trait Operations: Rows<Id = OperationId, Row = OperationRow, Write = OperationRow> {
    /// At most `limit` records of a kind that come after the id `after`, in the order of their ids, as [`Credentials::query`].
    async fn query(
        &self,
        kind: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<OperationRow, String>, StoreError>;

    /// Removes a record on the condition that it has the write id `expected`. Answered [`Replaced::Done`], it is gone, or was.
    async fn remove(&self, id: &OperationId, expected: WriteId) -> Result<Replaced<OperationRow>, StoreError>;
}

/// Rows that one list call reads, at most, before it answers with a page that is not full.
const MAX_LIST_READ: usize = 1_000;
/// And pages, which may be shorter than asked for. Each takes DynamoDB some 5 ms.
const MAX_LIST_QUERIES: usize = 30;
/// Where a first page had too little of what is wanted, so many rows are read at once, however few are missing.
const LIST_PAGE: usize = 100;

/// A page of at most `limit` of what `keep` makes of rows, after `after`; it reads at most 1,000 of them, in 30 pages. It may be empty
/// and yet name a successor. `id` names a row.
///
/// # Errors
/// The query's.
pub async fn filtered<R, I, T, F>(
    limit: usize,
    mut after: Option<I>,
    id: impl Fn(&R) -> I,
    query: impl Fn(Option<I>, usize) -> F,
    keep: impl Fn(R) -> Option<T>,
) -> Result<Page<T, I>, StoreError>
where
    F: Future<Output = Result<Page<R, I>, StoreError>>,
{
    let (mut rows, mut left) = (Vec::new(), MAX_LIST_READ);
    for queried in 0..MAX_LIST_QUERIES {
        let missing = limit - rows.len();
        let page = query(after, left.min(if queried == 0 { missing } else { missing.max(LIST_PAGE) })).await?;
        left = left.saturating_sub(page.rows.len());
        let mut read = page.rows.into_iter().peekable();
        while let Some(row) = read.next() {
            let name = id(&row);
            rows.extend(keep(row));
            // What was read beyond it is read again, for the next page.
            if rows.len() == limit && read.peek().is_some() {
                return Ok(Page { rows, next: Some(name) });
            }
        }
        after = page.next;
        if after.is_none() || rows.len() == limit || left == 0 {
            break;
        }
    }
    Ok(Page { rows, next: after })
}

/// Some rows, and after which one the next page starts.
#[derive(Debug)]
pub struct Page<R, I> {
    /// The rows.
    pub rows: Vec<R>,
    /// `None`: this was the last page.
    pub next: Option<I>,
}

#[cfg(test)]
mod tests;
