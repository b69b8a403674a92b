//! A log, line by line, in memory that does not grow with it.

use std::io::{self, BufRead, BufReader, Read};

use super::entry::MAX_LINE_OCTETS;
use super::line::Line;

/// Read at once.
const BUFFER_OCTETS: usize = 1 << 20;

/// One line.
pub(super) struct RawLine<'a> {
    /// From 1.
    pub(super) number: u64,
    /// Without its line break. `None`: it is longer than a line can be.
    pub(super) octets: Option<&'a [u8]>,
    /// Whether there is a line break. Only a last line may have none.
    pub(super) is_ended: bool,
}

/// Hands on each line.
///
/// # Errors
/// The reader's, and what `take` answers.
pub(super) fn read_lines<E: From<io::Error>>(
    log: impl Read,
    mut take: impl FnMut(RawLine<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut log = BufReader::with_capacity(BUFFER_OCTETS, log);
    let mut line = Vec::with_capacity(MAX_LINE_OCTETS);
    for number in 1.. {
        line.clear();
        log.by_ref().take(MAX_LINE_OCTETS as u64).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        let is_ended = line.pop_if(|last| *last == b'\n').is_some();
        if is_ended || line.len() < MAX_LINE_OCTETS {
            take(RawLine { number, octets: Some(&line), is_ended })?;
            continue;
        }
        log.skip_until(b'\n')?;
        take(RawLine { number, octets: None, is_ended: true })?;
    }
    Ok(())
}

/// When the first entry of a log was written, for putting files in their order. `None`: it begins with no entry.
///
/// # Errors
/// The reader's.
pub fn first_time(log: impl Read) -> io::Result<Option<String>> {
    let mut line = Vec::with_capacity(MAX_LINE_OCTETS);
    BufReader::with_capacity(MAX_LINE_OCTETS, log).take(MAX_LINE_OCTETS as u64).read_until(b'\n', &mut line)?;
    line.pop_if(|last| *last == b'\n');
    Ok(Line::parse(&line).ok().map(|line| line.time.to_owned()))
}
