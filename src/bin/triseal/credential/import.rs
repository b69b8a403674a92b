//! `triseal credential import`: many lines of a file, some at a time, each stored, opened again and compared, or else told of. It
//! holds as many lines as are under way, however long the file is.
//!
//! What makes it safe to stop and to repeat: a line is stored only where nothing lives (`if_revision` 0), under a random key that
//! all attempts of one run share, so that a write whose answer was lost is recognised. A later run finds what is there, and compares.

mod entry;
mod lines;
mod report;
mod transfer;

use std::collections::HashSet;
use std::fs::File;
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::arguments::Import;
use crate::client::Service;
use crate::failure::{Exit, Failure};
use crate::input::{self, MAX_INPUT_OCTETS};
use crate::output::Output;
use crate::progress::{Progress, TimeLeft};
use entry::{BadEntry, Entry, Id};
use lines::Lines;
use report::Report;
use transfer::{Mode, Outcome, Transfer};

/// Lines that are read ahead of those under way.
const LINES_AHEAD: usize = 32;
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(arguments: &Import, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let unreadable = |failure| Failure { code: "INPUT", exit: Exit::Usage, ..failure };
    let input = input::open(Some(&arguments.file)).map_err(unreadable)?;
    let reached = service.reach().await;
    let mode = match (arguments.dry_run, reached) {
        (false, reached) => reached.map(|()| Mode::Store)?,
        (true, Ok(())) => Mode::Look,
        (true, Err(_)) => Mode::Check,
    };
    let mut report = Report::new(mode, arguments.report.as_deref())?;
    let mut progress = Progress::new(length(&input), TimeLeft::Bar, output.format());
    let transfer = Transfer::new(service, mode, arguments.create_customers, arguments.retry_for);
    let ended = import(input, usize::from(arguments.concurrency), &transfer, &mut report, &mut progress).await;
    drop(progress);
    if report.lines() == 0 {
        ended?;
        return Err(Failure::input("the input has no lines".to_owned()));
    }
    report.show(ended.is_ok(), output)?;
    ended?;
    report.verdict()
}

/// Of a file whose end is known.
fn length(input: &File) -> Option<u64> {
    input.metadata().ok().filter(std::fs::Metadata::is_file).map(|about| about.len()).filter(|length| *length > 0)
}

/// How far it has come, and why it does not go on.
fn so_far(report: &Report, trouble: Option<&str>) -> String {
    let trouble = trouble.map(|trouble| format!("; trying again: {trouble}")).unwrap_or_default();
    format!("so far {}{trouble}", report.so_far())
}

/// What the reading thread has to say.
struct Told {
    number: u64,
    octets: u64,
    entry: Result<Entry, Box<BadEntry>>,
}

/// Reads and parses in a thread of its own: a pipe may have nothing to read for long, and calls are under way meanwhile.
fn read(input: File, told: &mpsc::Sender<Result<Option<Told>, Failure>>) {
    let mut lines = Lines::new(input);
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => Ok(Some(Told {
                number: line.number,
                octets: line.octets,
                entry: match line.text {
                    Some(text) => entry::parse(text),
                    None => {
                        let message = format!("the line is longer than {MAX_INPUT_OCTETS} octets");
                        Err(Box::new(BadEntry { id: None, failure: Failure::input(message) }))
                    }
                },
            })),
            Ok(None) => Ok(None),
            Err(error) => Err(Failure::input(format!("cannot read the input any further: {}", error.kind()))),
        };
        let is_last = !matches!(line, Ok(Some(_)));
        // Nobody listens any more when the command stops.
        if told.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

/// A line that was tried.
struct Tried {
    number: u64,
    octets: u64,
    id: Id,
    outcome: Outcome,
}

/// Tries every line, at most so many at the same time.
///
/// # Errors
/// Why it ended before the last one.
async fn import(
    input: File,
    concurrency: usize,
    transfer: &Transfer<'_>,
    report: &mut Report,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (telling, mut told) = mpsc::channel(LINES_AHEAD);
    thread::spawn(move || read(input, &telling));
    let mut under_way = FuturesUnordered::new();
    // Lines with the same ids follow one another, so that it is always the first that is stored.
    let mut busy = HashSet::new();
    let mut next: Option<(u64, u64, Entry)> = None;
    let mut ended = None;
    // How much of the input has been done with.
    let mut reached = 0;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        if let Some((number, octets, entry)) = next.take_if(|(_, _, entry)| !busy.contains(&entry.id)) {
            busy.insert(entry.id.clone());
            under_way.push(async move {
                let outcome = transfer.transfer(&entry).await;
                Tried { number, octets, id: entry.id, outcome }
            });
        }
        let has_room = next.is_none() && under_way.len() < concurrency && ended.is_none();
        tokio::select! {
            tried = under_way.next(), if !under_way.is_empty() => {
                let Some(Tried { number, octets, id, outcome }) = tried else { continue };
                busy.remove(&id);
                if let Some(stop) = transfer.reason_to_stop(&outcome) {
                    ended.get_or_insert(Err(stop));
                    next = None;
                }
                report.conclude(number, Some(&id), outcome)?;
                reached = reached.max(octets);
            }
            line = told.recv(), if has_room => match line {
                Some(Ok(Some(Told { number, octets, entry: Ok(entry) }))) => next = Some((number, octets, entry)),
                Some(Ok(Some(Told { number, octets, entry: Err(bad) }))) => {
                    let BadEntry { id, failure } = *bad;
                    report.conclude(number, id.as_ref(), Outcome::Failed(failure))?;
                    reached = reached.max(octets);
                }
                Some(Ok(None)) => ended = Some(Ok(())),
                Some(Err(failure)) => ended = Some(Err(failure)),
                // It ended without having come to the end of the file.
                None => ended = Some(Err(Failure::failed("the reader of the file stopped: this is a bug".to_owned()))),
            },
            _ = look.tick() => progress.show(reached, || so_far(report, transfer.trouble().as_deref())),
        }
        if under_way.is_empty()
            && next.is_none()
            && let Some(ended) = ended.take()
        {
            return ended;
        }
    }
}
