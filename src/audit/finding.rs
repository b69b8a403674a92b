//! What a verification says: findings, which mean that the log is not what was written, and what it saw of each stream.

use std::fmt;

use super::entry::StreamId;

/// Something that nobody but a forger, a bug or a damaged disk leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// File and line, where there is one.
    pub place: Option<(String, u64)>,
    /// In which stream, where that is known.
    pub stream: Option<StreamId>,
    /// The first and the last of the entries.
    pub entries: Option<(u64, u64)>,
}

macro_rules! kinds {
    ($($kind:ident = $word:literal: $sentence:literal,)+) => {
        /// What can be wrong with a log.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $sentence] $kind,)+
        }

        impl Kind {
            /// Its name, for programs.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }

            /// What it means, for people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$kind => $sentence,)+
                }
            }
        }
    };
}

kinds! {
    NotAnEntry = "not_an_entry": "the line is no entry: it was changed, or somebody else wrote it",
    Changed = "changed": "the entry was changed: its hash is of another one",
    Unlinked = "unlinked": "the entry does not follow the one before it: one of the two was replaced, or comes from another stream",
    Missing = "missing": "entries are missing",
    Repeated = "repeated": "entries are there twice: they were copied, or inserted under numbers that are taken",
    Reordered = "reordered": "the entries do not stand in their order",
    AfterEnd = "after_end": "an entry stands after the end of its stream",
    CutOff = "cut_off": "the end of the stream is cut off: its head in the store is further on",
    OtherHead = "other_head": "the entry is not the one that the head in the store was taken of",
    NoEnd = "no_end": "the head in the store says that the stream ended here, and the entry does not",
    StreamMissing = "stream_missing": "the stream is missing: the store has its head, and no file an entry of it",
    StreamUnknown = "stream_unknown": "the store has no head of the stream: somebody else wrote it, or the store was away as long as its process ran",
    MacWrong = "mac_wrong": "the head's MAC is wrong: the service did not make this head",
    MacMissing = "mac_missing": "the head has no MAC, although the service makes MACs",
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((file, line)) = &self.place {
            write!(f, "{file}:{line}: ")?;
        }
        if let Some(stream) = &self.stream {
            write!(f, "stream {stream}")?;
            match self.entries {
                Some((first, last)) if first == last => write!(f, ", entry {first}")?,
                Some((first, last)) => write!(f, ", entries {first} to {last}")?,
                None => {}
            }
            f.write_str(": ")?;
        }
        f.write_str(self.kind.meaning())
    }
}

/// What was seen of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which.
    pub stream: StreamId,
    /// The numbers of its first and last entry.
    pub entries: (u64, u64),
    /// When those were written.
    pub times: (String, String),
    /// How it ends.
    pub end: End,
    /// The entry up to which the store's head vouches for it. `None` without heads.
    pub head: Option<u64>,
}

/// How a stream ends in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its last entry.
    Closed,
    /// By any other entry: its process runs, was killed, or the rest was cut off.
    Open,
    /// Within a line: its process was killed, its machine lost its power, or the rest was cut off.
    Torn,
}

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The first of them; all in the order of files and lines, and then of streams.
    pub findings: Vec<Finding>,
    /// How many there are, with those that are not listed.
    pub total_findings: u64,
    /// Every stream of which there is an entry.
    pub streams: Vec<Seen>,
    /// Entries that were read.
    pub entries: u64,
    /// Last lines that are cut off, and do not say of which stream.
    pub torn_lines: u64,
    /// Heads that the log was compared with. `None`: with none, so that an end that is cut off or a stream that is missing would not
    /// be noticed.
    pub heads: Option<u64>,
    /// Heads whose MACs nobody has checked.
    pub unchecked_macs: u64,
}

impl Verdict {
    /// Findings that are listed, at most.
    const MAX_LISTED: usize = 1_000;

    /// Whether there is nothing wrong.
    pub fn is_clean(&self) -> bool {
        self.total_findings == 0
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.total_findings += 1;
        if self.findings.len() < Self::MAX_LISTED {
            self.findings.push(finding);
        }
    }
}
