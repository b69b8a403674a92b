//! `triseal audit verify`: findings, the streams, and what can't be known.

use serde::Serialize;
use triseal::audit::finding::{End, Finding, Seen, Verdict};
use triseal::audit::verify::Verifier;
use triseal::factors::FactorError;

use super::Logs;
use crate::failure::Failure;
use crate::output::{Format, Output, Table, printable};

pub(super) async fn run(logs: &Logs, output: &mut Output) -> Result<(), Failure> {
    let mut verifier = Verifier::new(logs.heads().await?, logs.partial);
    let files =
        logs.each(|name, log| verifier.read(name, log).map_err(|error| Failure::failed(format!("{name}: {error}"))))?;
    if let Some(mac) = logs.mac().await {
        verifier.check_macs(mac.as_ref()).await.map_err(|error| no_mac(&error))?;
    }
    let verdict = verifier.finish();
    match output.format() {
        Format::Json => output.json(&Shown::new(&verdict, files))?,
        Format::Text => output.octets(text(&verdict, files).as_bytes())?,
    }
    judged(&verdict)
}

/// The MACs could not be checked.
pub(super) fn no_mac(error: &FactorError) -> Failure {
    Failure::failed(format!("--mac-key: {error}"))
        .with_hint("AWS_REGION and AWS_PROFILE say where the key is and who asks; the identity needs kms:VerifyMac")
}

/// Exit code 3 if anything was found.
pub(super) fn judged(verdict: &Verdict) -> Result<(), Failure> {
    if verdict.is_clean() {
        return Ok(());
    }
    let message = format!("the log is not what the service wrote: {}", counted(verdict.total_findings, "finding"));
    Err(Failure::findings(message)
        .with_hint("docs/AUDIT.md says what each finding can mean; keep the files as they are"))
}

fn text(verdict: &Verdict, files: u64) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        text.push_str(&printable(&finding.to_string()));
        text.push('\n');
    }
    let unlisted = verdict.total_findings - verdict.findings.len() as u64;
    if unlisted > 0 {
        text.push_str(&format!("and {} more\n", counted(unlisted, "finding")));
    }
    let rows: Vec<_> = verdict.streams.iter().map(row).collect();
    text.push_str(&Table::new(["STREAM", "ENTRIES", "FROM", "TO", "END", "HEAD"]).page(&rows));
    let (streams, files) = (counted(verdict.streams.len() as u64, "stream"), counted(files, "file"));
    let found = if verdict.is_clean() { "nothing was found" } else { "see above" };
    text.push_str(&format!("{} entries of {streams} in {files}: {found}\n", verdict.entries));
    for note in notes(verdict) {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

fn row(seen: &Seen) -> [String; 6] {
    let Seen { stream, entries: (first, last), times: (from, to), end, head } = seen;
    [
        stream.to_string(),
        format!("{first}-{last}"),
        from.clone(),
        to.clone(),
        word(*end).to_owned(),
        head.map(|head| head.to_string()).unwrap_or_default(),
    ]
}

fn word(end: End) -> &'static str {
    match end {
        End::Closed => "closed",
        End::Open => "open",
        End::Torn => "torn",
    }
}

/// The number with its noun.
pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// What can't be known.
fn notes(verdict: &Verdict) -> Vec<String> {
    let mut notes = Vec::new();
    if verdict.heads.is_none() {
        notes.push(
            "without --checkpoints, an end that was cut off and a stream that is missing are not noticed".to_owned(),
        );
    }
    if verdict.unchecked_macs > 0 {
        let heads = counted(verdict.unchecked_macs, "head");
        notes.push(format!("the MACs of {heads} were not checked: name the key by --mac-key"));
    }
    let open = verdict.streams.iter().filter(|seen| seen.end != End::Closed).count();
    if open > 0 {
        notes.push(format!(
            "{} without an end: the process runs, was killed, or the rest was cut off; entries after a stream's head \
             can't be missed",
            counted(open as u64, "stream")
        ));
    }
    if verdict.torn_lines > 0 {
        let lines = counted(verdict.torn_lines, "last line");
        notes.push(format!("{lines} cut off, too short to say of which stream"));
    }
    notes
}

#[derive(Serialize)]
struct Shown<'a> {
    clean: bool,
    files: u64,
    entries: u64,
    total_findings: u64,
    findings: Vec<ShownFinding<'a>>,
    streams: Vec<ShownStream<'a>>,
    torn_lines: u64,
    heads: Option<u64>,
    unchecked_macs: u64,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct ShownFinding<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    message: &'static str,
}

#[derive(Serialize)]
struct ShownStream<'a> {
    stream: String,
    first: u64,
    last: u64,
    first_time: &'a str,
    last_time: &'a str,
    end: &'static str,
    head: Option<u64>,
}

impl<'a> Shown<'a> {
    fn new(verdict: &'a Verdict, files: u64) -> Self {
        let finding = |finding: &'a Finding| ShownFinding {
            kind: finding.kind.as_str(),
            file: finding.place.as_ref().map(|(file, _)| file.as_str()),
            line: finding.place.as_ref().map(|(_, line)| *line),
            stream: finding.stream.map(|stream| stream.to_string()),
            first: finding.entries.map(|(first, _)| first),
            last: finding.entries.map(|(_, last)| last),
            message: finding.kind.meaning(),
        };
        let stream = |seen: &'a Seen| ShownStream {
            stream: seen.stream.to_string(),
            first: seen.entries.0,
            last: seen.entries.1,
            first_time: &seen.times.0,
            last_time: &seen.times.1,
            end: word(seen.end),
            head: seen.head,
        };
        Self {
            clean: verdict.is_clean(),
            files,
            entries: verdict.entries,
            total_findings: verdict.total_findings,
            findings: verdict.findings.iter().map(finding).collect(),
            streams: verdict.streams.iter().map(stream).collect(),
            torn_lines: verdict.torn_lines,
            heads: verdict.heads,
            unchecked_macs: verdict.unchecked_macs,
            notes: notes(verdict),
        }
    }
}
