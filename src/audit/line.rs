//! A line of a log, read: the octets of `entry` back into fields. Nothing is repaired: a line that `entry` would not have
//! written is no entry.

use std::borrow::Cow;

use super::entry::{Hash, StreamId};

/// The fields of a line, as they stand there. Words are not looked up: a newer release may know more of them.
#[derive(Clone, Debug)]
pub(super) struct Line<'a> {
    pub(super) stream: StreamId,
    pub(super) seq: u64,
    pub(super) time: &'a str,
    pub(super) event: &'a str,
    /// Escaped, as [`Line::request`].
    caller: Option<&'a str>,
    pub(super) customer: Option<&'a str>,
    pub(super) credential: Option<&'a str>,
    pub(super) view: Option<&'a str>,
    pub(super) revision: Option<u64>,
    pub(super) outcome: &'a str,
    request: Option<&'a str>,
    pub(super) prev: Hash,
    pub(super) hash: Hash,
    /// What the hash is of, apart from `prev`.
    hashed: &'a str,
}

/// Why octets are no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAnEntry {
    /// They are the beginning of one, and then they end. What stands there of its stream and number, where that much does.
    CutOff(Option<(StreamId, u64)>),
    /// They are of another form.
    Malformed,
}

impl<'a> Line<'a> {
    /// Reads a line without its line break.
    pub(super) fn parse(octets: &'a [u8]) -> Result<Self, NotAnEntry> {
        // All are looked at, since that is quicker than stopping at the first.
        if octets.iter().fold(false, |found, octet| found | (*octet < b' ')) {
            return Err(NotAnEntry::Malformed);
        }
        let (text, whole) = match std::str::from_utf8(octets) {
            Ok(text) => (text, true),
            // Cut off within a character, perhaps.
            Err(error) if error.error_len().is_none() => {
                let text = octets.get(..error.valid_up_to()).and_then(|octets| std::str::from_utf8(octets).ok());
                (text.ok_or(NotAnEntry::Malformed)?, false)
            }
            Err(_) => return Err(NotAnEntry::Malformed),
        };
        let mut rest = Rest { text, place: None };
        match Self::fields(&mut rest) {
            Ok(line) if whole => Ok(line),
            Ok(_) => Err(NotAnEntry::Malformed),
            Err(Broken::Ends) => Err(NotAnEntry::CutOff(rest.place)),
            Err(Broken::Differs) => Err(NotAnEntry::Malformed),
        }
    }

    fn fields(rest: &mut Rest<'a>) -> Result<Self, Broken> {
        let line = rest.text;
        rest.literal("{\"stream\":\"")?;
        let stream = StreamId::parse(rest.fixed(32)?).ok_or(Broken::Differs)?;
        rest.literal("\",\"seq\":")?;
        let seq = rest.number()?;
        rest.place = Some((stream, seq));
        rest.literal(",\"time\":")?;
        let time = rest.plain()?;
        rest.literal(",\"event\":")?;
        let event = rest.plain()?;
        rest.literal(",\"caller\":")?;
        let caller = rest.optional(Rest::escaped)?;
        rest.literal(",\"customer\":")?;
        let customer = rest.optional(Rest::plain)?;
        rest.literal(",\"credential\":")?;
        let credential = rest.optional(Rest::plain)?;
        rest.literal(",\"view\":")?;
        let view = rest.optional(Rest::plain)?;
        rest.literal(",\"revision\":")?;
        let revision = rest.optional(Rest::number)?;
        rest.literal(",\"lineage\":")?;
        rest.optional(Rest::plain)?;
        rest.literal(",\"outcome\":")?;
        let outcome = rest.plain()?;
        rest.literal(",\"request_id\":")?;
        let request = rest.optional(Rest::escaped)?;
        rest.literal(",\"trace_id\":")?;
        rest.optional(Rest::plain)?;
        let hashed = line.get(..line.len() - rest.text.len()).unwrap_or_default();
        rest.literal(",\"prev\":\"")?;
        let prev = Hash::parse(rest.fixed(64)?).ok_or(Broken::Differs)?;
        rest.literal("\",\"hash\":\"")?;
        let hash = Hash::parse(rest.fixed(64)?).ok_or(Broken::Differs)?;
        rest.literal("\"}")?;
        if !rest.text.is_empty() {
            return Err(Broken::Differs);
        }
        #[rustfmt::skip]
        let line = Self {
            stream, seq, time, event, caller, customer, credential, view, revision, outcome, request, prev, hash, hashed,
        };
        Ok(line)
    }

    /// Whether the line is the one that its hash was made of.
    pub(super) fn is_intact(&self) -> bool {
        Hash::link(&self.prev, self.hashed.as_bytes()) == self.hash
    }

    /// The caller. `None`: the service itself.
    pub(super) fn caller(&self) -> Option<Cow<'a, str>> {
        self.caller.map(unescaped)
    }

    /// The request's id as it stands in the line: the same id always stands there in the same form.
    pub(super) fn request(&self) -> Option<&'a str> {
        self.request
    }
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    // What JSON can't have meant is shown as it stands.
    serde_json::from_str(&format!("\"{text}\"")).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// What is left of a line.
struct Rest<'a> {
    text: &'a str,
    /// Stream and number, once they were read.
    place: Option<(StreamId, u64)>,
}

enum Broken {
    /// So far all is as it must be, and nothing comes after it.
    Ends,
    /// Something else comes.
    Differs,
}

impl<'a> Rest<'a> {
    fn literal(&mut self, expected: &str) -> Result<(), Broken> {
        match self.text.strip_prefix(expected) {
            Some(rest) => {
                self.text = rest;
                Ok(())
            }
            None if expected.starts_with(self.text) => Err(Broken::Ends),
            None => Err(Broken::Differs),
        }
    }

    fn fixed(&mut self, length: usize) -> Result<&'a str, Broken> {
        if self.text.len() < length {
            return Err(Broken::Ends);
        }
        let (text, rest) = self.text.split_at_checked(length).ok_or(Broken::Differs)?;
        self.text = rest;
        Ok(text)
    }

    /// A number from 1, without zeros before it.
    fn number(&mut self) -> Result<u64, Broken> {
        let end = self.text.find(|digit: char| !digit.is_ascii_digit()).ok_or(Broken::Ends)?;
        let digits = self.fixed(end)?;
        if digits.starts_with('0') {
            return Err(Broken::Differs);
        }
        digits.parse().map_err(|_| Broken::Differs)
    }

    /// A text that has nothing to escape.
    fn plain(&mut self) -> Result<&'a str, Broken> {
        let text = self.escaped()?;
        if text.contains('\\') { Err(Broken::Differs) } else { Ok(text) }
    }

    /// A text, with its escapes.
    fn escaped(&mut self) -> Result<&'a str, Broken> {
        self.literal("\"")?;
        let mut from = 0;
        loop {
            let found = self.text.get(from..).and_then(|text| text.find(['"', '\\'])).ok_or(Broken::Ends)? + from;
            if self.text.as_bytes().get(found) == Some(&b'"') {
                let text = self.fixed(found)?;
                return self.literal("\"").map(|()| text);
            }
            match self.text.as_bytes().get(found + 1) {
                Some(escaped) if escaped.is_ascii() => from = found + 2,
                Some(_) => return Err(Broken::Differs),
                None => return Err(Broken::Ends),
            }
        }
    }

    /// Null, or what `read` reads.
    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Broken>) -> Result<Option<T>, Broken> {
        if !self.text.starts_with('n') {
            return read(self).map(Some);
        }
        self.literal("null").map(|()| None)
    }
}

#[cfg(test)]
mod tests;
