//! A table, read page by page in the order of its key.

use std::collections::VecDeque;

use super::tables::{Row, Table};
use crate::catalog::Catalog;
use crate::catalog::sql::Value;
use crate::error::StoreError;

/// Rows of a page: of files with their sums some hundred bytes each.
const PAGE: u32 = 2_000;

/// Where the reading of a table is.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    catalog: &'a Catalog,
    table: &'static Table,
    page: VecDeque<Row>,
    /// The key of the last row that was read.
    after: Option<Vec<Value>>,
    ended: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(catalog: &'a Catalog, table: &'static Table) -> Self {
        Self { catalog, table, page: VecDeque::new(), after: None, ended: false }
    }

    /// The next row, which stays.
    pub(super) async fn front(&mut self) -> Result<Option<&Row>, StoreError> {
        if self.page.is_empty() && !self.ended {
            self.fill().await?;
        }
        Ok(self.page.front())
    }

    /// Takes the row that [`front`](Self::front) showed.
    pub(super) fn take(&mut self) -> Option<Row> {
        self.page.pop_front()
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        let (table, after) = (self.table, self.after.take());
        let rows: Vec<Row> = self
            .catalog
            .run_read("reading a table", move |c| {
                let mut statement = c.prepare_cached(&table.select(after.is_some(), PAGE))?;
                let row = |row: &crate::catalog::sql::Row<'_>| {
                    (0..table.columns.len()).map(|at| Ok(row.value(at)?.owned())).collect()
                };
                statement.query_map(after.as_deref().unwrap_or_default(), row)?.collect()
            })
            .await?;
        self.ended = rows.len() < PAGE as usize;
        self.after = rows.last().map(|row| row[..table.key].to_vec());
        self.page = rows.into();
        Ok(())
    }
}
