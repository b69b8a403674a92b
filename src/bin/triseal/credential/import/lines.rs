//! The lines of a file that may be of any length, each within its bound and in memory that is wiped. It knows nothing of what
//! stands in a line.

use std::io::{self, Read};

use zeroize::Zeroizing;

use crate::input::MAX_INPUT_OCTETS;

/// Cuts an input into lines.
pub(super) struct Lines<R> {
    input: R,
    /// As long as a line can get, from the start: what grows leaves copies behind.
    buffer: Zeroizing<Vec<u8>>,
    /// What was read and not yet given out.
    unread: std::ops::Range<usize>,
    /// The number of the line that was given out last, from 1.
    number: u64,
    /// Up to the end of that line.
    octets: u64,
    ended: bool,
}

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// From 1; blank lines count.
    pub(super) number: u64,
    /// How much of the input ends with this line.
    pub(super) octets: u64,
    /// Without its end. `None`: it is longer than a line may be.
    pub(super) text: Option<&'a [u8]>,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        let buffer = Zeroizing::new(vec![0; MAX_INPUT_OCTETS + 1]);
        Self { input, buffer, unread: 0..0, number: 0, octets: 0, ended: false }
    }

    /// The next line that is not blank. What follows the last line break is a line, too.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        let (mut looked_at, mut too_long) = (0, false);
        loop {
            let unread = self.buffer.get(self.unread.clone()).unwrap_or_default();
            let found = unread.iter().skip(looked_at).position(|octet| *octet == b'\n').map(|at| looked_at + at);
            let (length, taken) = match found {
                Some(at) => (at, at + 1),
                None if !self.ended => {
                    if unread.len() == self.buffer.len() {
                        too_long = true;
                        self.octets += unread.len() as u64;
                        self.unread = 0..0;
                    }
                    looked_at = self.unread.len();
                    self.read_more()?;
                    continue;
                }
                None if unread.is_empty() && !too_long => return Ok(None),
                None => (unread.len(), unread.len()),
            };
            let line = self.unread.start..self.unread.start + length;
            self.unread.start += taken;
            self.number += 1;
            self.octets += taken as u64;
            let (number, octets) = (self.number, self.octets);
            if too_long {
                return Ok(Some(Line { number, octets, text: None }));
            }
            looked_at = 0;
            let is_blank = self.buffer.get(line.clone()).is_none_or(|text| text.trim_ascii().is_empty());
            if !is_blank {
                return Ok(Some(Line { number, octets, text: self.buffer.get(line) }));
            }
        }
    }

    /// Reads behind what is unread, which moves to the front first.
    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        let Some(free) = self.buffer.get_mut(self.unread.end..) else { return Ok(()) };
        loop {
            match self.input.read(free) {
                Ok(read) => {
                    self.ended = read == 0;
                    self.unread.end += read;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most so many octets at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (given, rest) = self.0.split_at(length);
            buffer[..length].copy_from_slice(given);
            self.0 = rest;
            Ok(length)
        }
    }

    /// Every line: its number, its end, its length or `None`, and its first octet.
    fn all(input: impl Read) -> Vec<(u64, u64, Option<usize>, u8)> {
        let (mut lines, mut all) = (Lines::new(input), Vec::new());
        while let Some(line) = lines.next().unwrap() {
            let first = line.text.and_then(|text| text.first()).copied().unwrap_or_default();
            all.push((line.number, line.octets, line.text.map(<[u8]>::len), first));
        }
        assert!(lines.next().unwrap().is_none(), "the end stays the end");
        all
    }

    #[test]
    fn lines_are_numbered_from_1_and_blank_ones_are_left_out() {
        let text = b"ab\n\n \t\r\nc\r\nlast";
        let wanted = [(1, 3, Some(2), b'a'), (4, 11, Some(2), b'c'), (5, 15, Some(4), b'l')];
        for step in 1..=text.len() {
            assert_eq!(all(Trickle(text, step)), wanted, "{step} octets at a time");
        }
        assert_eq!(all(&b""[..]), []);
        assert_eq!(all(&b"\n\n"[..]), []);
    }

    #[test]
    fn a_line_has_a_greatest_length_and_a_longer_one_hides_no_other() {
        let longest = MAX_INPUT_OCTETS;
        for (excess, end) in [(0, "\n"), (1, "\n"), (5_000_000, "\n"), (0, ""), (1, ""), (5_000_000, "")] {
            let long = "x".repeat(longest + excess) + end;
            let text = format!("a\n{long}{}", if end.is_empty() { "" } else { "b\n" });
            let wanted = (excess == 0).then_some(longest);
            for step in [4_096, usize::MAX] {
                let lines = all(Trickle(text.as_bytes(), step));
                assert_eq!(lines[0], (1, 2, Some(1), b'a'));
                assert_eq!((lines[1].0, lines[1].1, lines[1].2), (2, 2 + long.len() as u64, wanted), "{excess} {step}");
                if !end.is_empty() {
                    assert_eq!(lines[2], (3, text.len() as u64, Some(1), b'b'));
                }
            }
        }
    }

    #[test]
    fn what_cant_be_read_is_an_error_and_not_an_end() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::IsADirectory.into())
            }
        }
        let mut lines = Lines::new((&b"one\ntw"[..]).chain(Broken));
        assert_eq!(lines.next().unwrap().unwrap().text, Some(&b"one"[..]));
        assert_eq!(lines.next().unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }
}
