//! What is read: the tables as the last commit left them. A transaction and the look-up of a table by its name cost as much as finding a
//! row, so both are done once a commit and not once a reading.

use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::file::{ALL_TABLES, Table, definition};
use super::{BadRow, StoreError, away, bad_row};

/// The tables at one commit, in the order of [`ALL_TABLES`]. Their pages stay as they are for as long as somebody holds them.
pub(super) struct Tables([ReadOnlyTable<&'static [u8], &'static [u8]>; ALL_TABLES.len()]);

impl Tables {
    fn at_last_commit(db: &Database) -> Result<Self, redb::Error> {
        let txn = db.begin_read()?;
        let [credentials, customers, operations] = ALL_TABLES.map(|table| txn.open_table(definition(table)));
        Ok(Self([credentials?, customers?, operations?]))
    }

    /// One row.
    pub(super) fn get<R>(
        &self,
        table: Table,
        key: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<R, BadRow>,
    ) -> Result<Option<R>, StoreError> {
        let found = self.table(table).get(key).map_err(away)?;
        found.map(|octets| decode(octets.value())).transpose().map_err(bad_row)
    }

    pub(super) fn table(&self, table: Table) -> &ReadOnlyTable<&'static [u8], &'static [u8]> {
        let Self([credentials, customers, operations]) = self;
        match table {
            Table::Credentials => credentials,
            Table::Customers => customers,
            Table::Operations => operations,
        }
    }
}

/// The tables at the last commit.
pub(super) struct View {
    tables: RwLock<Arc<Tables>>,
    /// Open for as long as anybody reads, whatever becomes of the writer.
    pub(super) db: Database,
}

impl View {
    pub(super) fn new(db: Database) -> Result<Self, redb::Error> {
        Ok(Self { tables: RwLock::new(Arc::new(Tables::at_last_commit(&db)?)), db })
    }

    /// Shows what was committed since. Nobody is answered that a write is done before this.
    pub(super) fn renew(&self) -> Result<(), redb::Error> {
        let tables = Arc::new(Tables::at_last_commit(&self.db)?);
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = tables;
        Ok(())
    }

    pub(super) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }
}
