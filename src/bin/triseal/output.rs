//! Writes answers to standard output: lines for people, JSON for programs.
//!
//! Standard output is written without the standard library's buffer, since that is never wiped and an answer may be a
//! secret.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;
use crate::wiped::WipedBuffer;

/// How answers and errors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned lines, for people
    Text,
    /// A JSON object on each line, for programs
    Json,
}

/// Standard output.
pub(crate) struct Output {
    format: Format,
    stdout: File,
}

impl Output {
    pub(crate) fn open(format: Format) -> Result<Self, Failure> {
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(|error| Failure::output(&error))?;
        Ok(Self { format, stdout: stdout.into() })
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn octets(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.stdout.write_all(octets).map_err(|error| Failure::output(&error))
    }

    /// One object, on a line of its own.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line = WipedBuffer::new();
        serde_json::to_writer(&mut line, value)
            .map_err(io::Error::from)
            .and_then(|()| line.write_all(b"\n"))
            .map_err(|error| Failure::output(&error))?;
        self.octets(line.octets())
    }

    /// Writes a list of at most `limit` rows. `fetch` is given the token of a page, empty for the first, and how many rows are still
    /// wanted; it answers with the page's rows and the token of the next page, empty after the last.
    pub(crate) async fn list<R: Row<N>, const N: usize>(
        &mut self,
        limit: Option<u64>,
        mut fetch: impl AsyncFnMut(String, u64) -> Result<(Vec<R>, String), Failure>,
    ) -> Result<(), Failure> {
        let mut table = Table::new(R::HEADING);
        let mut wanted = limit.unwrap_or(u64::MAX);
        let mut token = String::new();
        loop {
            let (mut rows, next) = fetch(token.clone(), wanted).await?;
            rows.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
            match self.format {
                Format::Json => rows.iter().try_for_each(|row| self.json(row))?,
                Format::Text => {
                    let rows: Vec<_> = rows.iter().map(R::row).collect();
                    self.octets(table.page(&rows).as_bytes())?;
                }
            }
            wanted -= rows.len() as u64;
            if wanted == 0 || next.is_empty() {
                return Ok(());
            }
            if next == token {
                return Err(Failure::unknown_answer());
            }
            token = next;
        }
    }

    /// `name: value` for each field that has one, the values aligned.
    pub(crate) fn fields(&mut self, fields: &[(&str, String)]) -> Result<(), Failure> {
        self.octets(aligned(fields).as_bytes())
    }
}

fn aligned(fields: &[(&str, String)]) -> String {
    let fields = fields.iter().filter(|(_, value)| !value.is_empty());
    let width = fields.clone().map(|(name, _)| name.len() + 1).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in fields {
        let name = format!("{name}:");
        text.push_str(&format!("{name:width$} {}\n", printable(value)));
    }
    text
}

/// What a list shows of each thing: a line of a table, or an object.
pub(crate) trait Row<const N: usize>: Serialize {
    const HEADING: [&'static str; N];
    /// A cell below each heading.
    fn row(&self) -> [String; N];
}

/// A list whose rows come in pages: columns are aligned within a page, and never become narrower.
pub(crate) struct Table<const N: usize> {
    widths: [usize; N],
    /// Written before the first row.
    heading: Option<[&'static str; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(heading: [&'static str; N]) -> Self {
        Self { widths: [0; N], heading: Some(heading) }
    }

    /// The lines of one page, and before those of the first the heading.
    pub(crate) fn page(&mut self, rows: &[[String; N]]) -> String {
        let heading = self.heading.take().map(|heading| heading.map(str::to_owned));
        let rows: Vec<_> = heading.iter().chain(rows).map(|row| row.each_ref().map(|cell| printable(cell))).collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (width, cell) in self.widths.iter().zip(row) {
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text with its control characters escaped, and those that reorder lines: what a service sends must not drive a
/// terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => printable.extend(character.escape_unicode()),
            character if character.is_control() => printable.extend(character.escape_default()),
            character => printable.push(character),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_aligned_and_absent_ones_left_out() {
        let fields = [("id", "acme".to_owned()), ("reason", String::new()), ("time", "x\ny".to_owned())];
        assert_eq!(aligned(&fields), "id:   acme\ntime: x\\ny\n");
    }

    #[test]
    fn a_table_has_one_heading_and_columns_that_line_up() {
        let mut table = Table::new(["ID", "STATE"]);
        let row = |id: &str| [id.to_owned(), "active".to_owned()];
        assert_eq!(table.page(&[row("acme")]), "ID    STATE\nacme  active\n");
        assert_eq!(table.page(&[row("a")]), "a     active\n");
        assert_eq!(table.page(&[]), "");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m\u{9b}\u{202e}ä\n"), "a\\u{1b}[31m\\u{9b}\\u{202e}ä\\n");
    }
}
