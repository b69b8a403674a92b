//! Whether a log is what was written: each entry by its hash, each stream as a chain without a gap, its end by its head in
//! the store. Files are read once, in any order, in memory that does not grow with them.
//!
//! What it can't know, it says: entries after the last head may have been cut off, and without heads any number of last
//! ones, or a whole stream.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use super::entry::{Hash, StreamId};
use super::finding::{End, Finding, Kind, Seen, Verdict};
use super::heads::{CheckpointMac, Head};
use super::line::{Line, NotAnEntry};
use super::reader::{RawLine, read_lines};
use super::words::Event;
use crate::factors::FactorError;

/// A log in more pieces is no log. A piece is a run of entries of one stream in one file: a file has about one.
const MAX_PIECES: usize = 100_000;

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Memory is bounded.
    #[error("the entries stand in more than {MAX_PIECES} pieces that do not hang together: this is no audit log")]
    TooScattered,
}

/// Reads logs, and then says what is wrong with them.
pub struct Verifier {
    files: Vec<String>,
    streams: Vec<Stream>,
    index: HashMap<StreamId, usize>,
    /// The stream of the line before: mostly it is this one's, too.
    latest: usize,
    fragments: Vec<Fragment>,
    pieces: usize,
    partial: bool,
    verdict: Verdict,
}

struct Stream {
    id: StreamId,
    /// In the order of their numbers. Several, where heads were kept elsewhere at different times.
    heads: Vec<Head>,
    runs: Vec<Run>,
    /// The lowest and the highest number, and their times.
    span: Option<((u64, String), (u64, String))>,
    torn: bool,
}

/// Entries of one stream that stand in one file, one after the other. Their hashes and links have been checked.
#[derive(Clone)]
struct Run {
    file: usize,
    line: u64,
    first: u64,
    follows: Hash,
    last: u64,
    hash: Hash,
    /// Whether the last entry is the end of the stream.
    closed: bool,
}

/// A line that ends before its entry does.
struct Fragment {
    file: usize,
    line: u64,
    of: Option<(StreamId, u64)>,
    is_last: bool,
}

impl Verifier {
    /// `heads`: what the store has of all streams, or had at some time. `partial`: the files are a part of the log, so that what lacks
    /// before or after it, and streams that lack, are no findings.
    pub fn new(heads: Option<Vec<Head>>, partial: bool) -> Self {
        let verdict = Verdict { heads: heads.as_ref().map(|heads| heads.len() as u64), ..Verdict::default() };
        let mut verifier = Self {
            files: Vec::new(),
            streams: Vec::new(),
            index: HashMap::new(),
            latest: 0,
            fragments: Vec::new(),
            pieces: 0,
            partial,
            verdict,
        };
        for head in heads.into_iter().flatten() {
            verifier.verdict.unchecked_macs += u64::from(head.mac.is_some());
            let at = verifier.stream(head.stream);
            if let Some(stream) = verifier.streams.get_mut(at) {
                stream.heads.push(head);
            }
        }
        verifier.streams.iter_mut().for_each(|stream| stream.heads.sort_by_key(|head| (head.seq, head.closed)));
        verifier
    }

    /// Checks the MACs of all heads.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn check_macs(&mut self, mac: &dyn CheckpointMac) -> Result<(), FactorError> {
        for head in self.streams.iter().flat_map(|stream| &stream.heads) {
            let kind = match &head.mac {
                None => Kind::MacMissing,
                Some(octets) if mac.verify(&head.message(), octets).await? => continue,
                Some(_) => Kind::MacWrong,
            };
            let entries = Some((head.seq, head.seq));
            self.verdict.add(Finding { kind, place: None, stream: Some(head.stream), entries });
        }
        self.verdict.unchecked_macs = 0;
        Ok(())
    }

    /// Reads one file.
    ///
    /// # Errors
    /// A [`VerifyError`].
    pub fn read(&mut self, name: &str, log: impl Read) -> Result<(), VerifyError> {
        self.read_with(name, log, |_| {})
    }

    /// Reads one file, and hands on each entry, be it intact or not.
    pub(super) fn read_with(
        &mut self,
        name: &str,
        log: impl Read,
        mut entry: impl FnMut(&Line<'_>),
    ) -> Result<(), VerifyError> {
        let file = self.files.len();
        self.files.push(name.to_owned());
        read_lines(log, |RawLine { number, octets, is_ended }| {
            match octets.map_or(Err(NotAnEntry::Malformed), Line::parse) {
                Ok(line) => {
                    self.entry(file, number, &line)?;
                    entry(&line);
                }
                Err(NotAnEntry::CutOff(of)) => {
                    self.one_piece_more()?;
                    self.fragments.push(Fragment { file, line: number, of, is_last: !is_ended });
                }
                Err(NotAnEntry::Malformed) => self.found(Kind::NotAnEntry, Some((file, number)), None, None),
            }
            Ok(())
        })
    }

    fn entry(&mut self, file: usize, number: u64, line: &Line<'_>) -> Result<(), VerifyError> {
        self.verdict.entries += 1;
        let at = self.stream(line.stream);
        let Some(stream) = self.streams.get_mut(at) else { return Ok(()) };
        let mut kinds = [None; 3];
        if !line.is_intact() {
            kinds[0] = Some(Kind::Changed);
        }
        if stream.heads_at(line.seq).any(|head| head.hash != line.hash) {
            kinds[1] = Some(Kind::OtherHead);
        }
        let closed = line.event == Event::StreamClosed.as_str();
        stream.widen(line);
        let is_new = match stream.runs.last_mut() {
            Some(run) if run.file == file && line.seq.checked_sub(1) == Some(run.last) => {
                if line.prev != run.hash {
                    kinds[2] = Some(Kind::Unlinked);
                } else if run.closed {
                    kinds[2] = Some(Kind::AfterEnd);
                }
                (run.last, run.hash, run.closed) = (line.seq, line.hash, closed);
                false
            }
            Some(_) | None => {
                let (first, follows, hash) = (line.seq, line.prev, line.hash);
                stream.runs.push(Run { file, line: number, first, follows, last: first, hash, closed });
                true
            }
        };
        for kind in kinds.into_iter().flatten() {
            self.found(kind, Some((file, number)), Some(line.stream), Some((line.seq, line.seq)));
        }
        if is_new { self.one_piece_more() } else { Ok(()) }
    }

    /// Where a stream is kept.
    fn stream(&mut self, id: StreamId) -> usize {
        if self.streams.get(self.latest).is_none_or(|stream| stream.id != id) {
            self.latest = *self.index.entry(id).or_insert_with(|| {
                self.streams.push(Stream { id, heads: Vec::new(), runs: Vec::new(), span: None, torn: false });
                self.streams.len() - 1
            });
        }
        self.latest
    }

    fn one_piece_more(&mut self) -> Result<(), VerifyError> {
        self.pieces += 1;
        if self.pieces > MAX_PIECES { Err(VerifyError::TooScattered) } else { Ok(()) }
    }

    fn found(
        &mut self,
        kind: Kind,
        place: Option<(usize, u64)>,
        stream: Option<StreamId>,
        entries: Option<(u64, u64)>,
    ) {
        let name = |file: usize| self.files.get(file).cloned().unwrap_or_default();
        let place = place.map(|(file, line)| (name(file), line));
        self.verdict.add(Finding { kind, place, stream, entries });
    }

    /// Puts the pieces together.
    pub fn finish(mut self) -> Verdict {
        self.judge_fragments();
        let mut streams = std::mem::take(&mut self.streams);
        for stream in &mut streams {
            self.judge(stream);
        }
        self.verdict.streams = streams.iter().filter_map(Stream::seen).collect();
        self.verdict.streams.sort_by(|one, other| one.times.cmp(&other.times));
        self.verdict
    }

    /// The beginning of the entry that would come next is what the end of a process leaves. Anywhere else it is damage.
    fn judge_fragments(&mut self) {
        for fragment in std::mem::take(&mut self.fragments) {
            let next = |stream: &Stream, seq: u64| {
                let last = stream.span.as_ref().map_or(0, |(_, (highest, _))| *highest);
                let closed = stream.runs.iter().any(|run| run.last == last && run.closed);
                seq.checked_sub(1) == Some(last) && !closed
            };
            let torn = match fragment.of {
                None if fragment.is_last => {
                    self.verdict.torn_lines += 1;
                    continue;
                }
                None => None,
                Some((id, seq)) => {
                    let at = self.stream(id);
                    self.streams.get_mut(at).filter(|stream| next(stream, seq))
                }
            };
            let place = Some((fragment.file, fragment.line));
            match torn {
                Some(stream) if !stream.torn => stream.torn = true,
                Some(_) | None => self.found(Kind::NotAnEntry, place, fragment.of.map(|(id, _)| id), None),
            }
        }
    }

    fn judge(&mut self, stream: &mut Stream) {
        let id = Some(stream.id);
        stream.runs.sort_unstable_by_key(|run| (run.first, run.last, run.file, run.line));
        self.judge_order(stream);
        let (mut next, mut hash, mut closed) = (1, Hash::first(&stream.id), false);
        for run in &stream.runs {
            let place = Some((run.file, run.line));
            if run.first > next {
                let is_beginning = next == 1;
                if !(self.partial && is_beginning) {
                    self.found(Kind::Missing, place, id, Some((next, run.first - 1)));
                }
            } else if run.first < next {
                self.found(Kind::Repeated, place, id, Some((run.first, run.last.min(next - 1))));
            } else if run.follows != hash {
                self.found(Kind::Unlinked, place, id, Some((run.first, run.first)));
            }
            if closed && run.last >= next {
                self.found(Kind::AfterEnd, place, id, Some((run.first.max(next), run.last)));
            }
            if run.last >= next {
                (next, hash, closed) = (run.last.saturating_add(1), run.hash, run.closed);
            }
        }
        self.judge_end(stream, next - 1, closed);
    }

    /// In the order of their numbers, the runs of a file stand together and downward.
    fn judge_order(&mut self, stream: &Stream) {
        let mut left = HashSet::new();
        for pair in stream.runs.windows(2) {
            let [before, run] = pair else { continue };
            let in_order = if before.file == run.file {
                before.line < run.line
            } else {
                left.insert(before.file);
                !left.contains(&run.file)
            };
            // Where numbers are there twice, that is what is said.
            if !in_order && before.last < run.first {
                let place = Some((run.file, run.line));
                self.found(Kind::Reordered, place, Some(stream.id), Some((run.first, run.last)));
            }
        }
    }

    fn judge_end(&mut self, stream: &Stream, last: u64, closed: bool) {
        let id = Some(stream.id);
        let Some(head) = stream.heads.last() else {
            if let (Some(_), Some(first)) = (self.verdict.heads, stream.runs.first()) {
                self.found(Kind::StreamUnknown, Some((first.file, first.line)), id, None);
            }
            return;
        };
        if stream.runs.is_empty() {
            if head.seq > 0 && !self.partial {
                self.found(Kind::StreamMissing, None, id, Some((1, head.seq)));
            }
        } else if last < head.seq {
            if !self.partial {
                self.found(Kind::CutOff, None, id, Some((last + 1, head.seq)));
            }
        } else if head.closed && last > head.seq {
            self.found(Kind::AfterEnd, None, id, Some((head.seq + 1, last)));
        } else if head.closed && !closed {
            self.found(Kind::NoEnd, None, id, Some((last, last)));
        }
    }
}

impl Stream {
    fn heads_at(&self, seq: u64) -> impl Iterator<Item = &Head> {
        let first = self.heads.partition_point(|head| head.seq < seq);
        self.heads.iter().skip(first).take_while(move |head| head.seq == seq)
    }

    fn widen(&mut self, line: &Line<'_>) {
        match &mut self.span {
            None => self.span = Some(((line.seq, line.time.to_owned()), (line.seq, line.time.to_owned()))),
            Some(((lowest, first), (highest, last))) => {
                if line.seq < *lowest {
                    *lowest = line.seq;
                    line.time.clone_into(first);
                }
                if line.seq > *highest {
                    *highest = line.seq;
                    line.time.clone_into(last);
                }
            }
        }
    }

    fn seen(&self) -> Option<Seen> {
        let ((lowest, first), (highest, last)) = self.span.clone()?;
        let closed = self.runs.iter().any(|run| run.last == highest && run.closed);
        let end = match (self.torn, closed) {
            (true, _) => End::Torn,
            (false, true) => End::Closed,
            (false, false) => End::Open,
        };
        let head = self.heads.last().map(|head| head.seq);
        Some(Seen { stream: self.id, entries: (lowest, highest), times: (first, last), end, head })
    }
}

#[cfg(test)]
mod tests;
