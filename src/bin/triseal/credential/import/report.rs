//! What became of all lines: counts, the first of those that were not stored, and a file of all of these. Never a secret.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use super::entry::Id;
use super::transfer::{Mode, Outcome};
use crate::failure::Failure;
use crate::output::{Format, Output, printable};

/// Problems that are shown at the end, at most.
const MAX_SHOWN: usize = 20;

#[derive(Serialize)]
pub(super) struct Report {
    dry_run: bool,
    /// Whether every line was tried.
    complete: bool,
    /// In a dry run: whether a service answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_asked: Option<bool>,
    lines: u64,
    /// In a dry run none is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_store: Option<u64>,
    already_there: u64,
    differing: u64,
    failed: u64,
    /// The first of those that failed or differ.
    problems: Vec<Problem>,
    problems_left_out: u64,
    #[serde(skip)]
    file: Option<File>,
}

/// A line that failed or differs.
#[derive(Serialize)]
struct Problem {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<String>,
    outcome: &'static str,
    #[serde(flatten)]
    why: Why,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Why {
    Differs { revision: u64 },
    Failed(Failure),
}

impl Report {
    /// A report in which there is nothing yet.
    pub(super) fn new(mode: Mode, file: Option<&Path>) -> Result<Self, Failure> {
        let dry_run = mode != Mode::Store;
        Ok(Self {
            dry_run,
            complete: false,
            service_asked: dry_run.then_some(mode == Mode::Look),
            lines: 0,
            done: (!dry_run).then_some(0),
            to_store: dry_run.then_some(0),
            already_there: 0,
            differing: 0,
            failed: 0,
            problems: Vec::new(),
            problems_left_out: 0,
            file: file.map(make).transpose()?,
        })
    }

    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Counts a line, and keeps what is to be told of it.
    pub(super) fn conclude(&mut self, line: u64, id: Option<&Id>, outcome: Outcome) -> Result<(), Failure> {
        self.lines += 1;
        let (outcome, why) = match outcome {
            Outcome::Done => {
                for count in [&mut self.done, &mut self.to_store].into_iter().flatten() {
                    *count += 1;
                }
                return Ok(());
            }
            Outcome::AlreadyThere => {
                self.already_there += 1;
                return Ok(());
            }
            Outcome::Differing { revision } => {
                self.differing += 1;
                ("differing", Why::Differs { revision })
            }
            Outcome::Failed(failure) | Outcome::GivenUp(failure) => {
                self.failed += 1;
                ("failed", Why::Failed(failure))
            }
        };
        let customer_id = id.map(|id| id.customer.to_string());
        let credential_id = id.map(|id| id.credential.to_string());
        let problem = Problem { line, customer_id, credential_id, outcome, why };
        if let Some(file) = &mut self.file {
            let mut text = serde_json::to_vec(&problem).unwrap_or_default();
            text.push(b'\n');
            let unwritten = |error: io::Error| Failure::failed(format!("cannot write the report: {}", error.kind()));
            file.write_all(&text).map_err(unwritten)?;
        }
        if self.problems.len() < MAX_SHOWN {
            self.problems.push(problem);
        } else {
            self.problems_left_out += 1;
        }
        Ok(())
    }

    fn counts(&self) -> [(u64, &'static str); 4] {
        let done = match (self.done, self.to_store) {
            (Some(done), _) => (done, "done"),
            (None, to_store) => (to_store.unwrap_or_default(), "to store"),
        };
        [done, (self.already_there, "already there"), (self.differing, "differing"), (self.failed, "failed")]
    }

    /// The counts that are not zero, or `nothing`.
    pub(super) fn so_far(&self) -> String {
        let counts = self.counts().into_iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts.map(|(count, name)| format!("{count} {name}")).collect();
        if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") }
    }

    /// Writes it to standard output.
    pub(super) fn show(&mut self, complete: bool, output: &mut Output) -> Result<(), Failure> {
        self.complete = complete;
        // They came as they ended.
        self.problems.sort_by_key(|problem| problem.line);
        match output.format() {
            Format::Json => output.json(self),
            Format::Text => output.octets(self.text().as_bytes()),
        }
    }

    fn text(&self) -> String {
        let plural = if self.lines == 1 { "" } else { "s" };
        let counts = self.counts().map(|(count, name)| format!("{count} {name}")).join(", ");
        let mut text = format!("{} line{plural}: {counts}\n", self.lines);
        if self.service_asked == Some(false) {
            text += "no service answered: what is there already is not known\n";
        }
        for problem in &self.problems {
            text += &format!("  {}\n", printable(&problem.told()));
        }
        if self.problems_left_out > 0 {
            text += &format!("  and {} more; --report FILE writes all of them\n", self.problems_left_out);
        }
        text
    }

    /// How a run ends that tried every line.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        if self.failed + self.differing == 0 {
            return Ok(());
        }
        let Self { lines, differing, failed, dry_run, .. } = self;
        let is = if *dry_run { "would be" } else { "is" };
        Err(Failure::incomplete(format!(
            "not every line {is} stored: {failed} failed and {differing} differing, of {lines}"
        ))
        .with_hint("correct what failed and run it again: what is there already is never written over"))
    }
}

impl Problem {
    fn told(&self) -> String {
        let whose = match (&self.customer_id, &self.credential_id) {
            (Some(customer), Some(credential)) => format!(", {credential} of {customer}"),
            (_, _) => String::new(),
        };
        let why = match &self.why {
            Why::Differs { revision } => format!("another secret is there, at revision {revision}"),
            Why::Failed(failure) => {
                let details = match failure.details.as_slice() {
                    [] | [_] => String::new(),
                    details => format!(" ({})", details.join("; ")),
                };
                let hint = failure.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                format!("{}{details}{hint}", failure.message)
            }
        };
        format!("line {}{whose}: {}: {why}", self.line, self.outcome)
    }
}

/// A new file that only its owner can read: one that is there may be anything, the input among it.
fn make(path: &Path) -> Result<File, Failure> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::usage("the report's file is there already".to_owned())
            .with_hint("name a file that is not there yet, or remove it"),
        kind => Failure::usage(format!("cannot make the report's file: {kind}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use triseal::ids::{CredentialId, CustomerId};

    fn id() -> Id {
        Id { customer: CustomerId::parse("acme").unwrap(), credential: CredentialId::parse("crm").unwrap() }
    }

    fn failed(message: &str) -> Outcome {
        Outcome::Failed(Failure::input(message.to_owned()))
    }

    #[test]
    fn every_outcome_is_counted_and_problems_are_told_by_line_and_ids() {
        let mut report = Report::new(Mode::Store, None).unwrap();
        for (line, outcome) in [(1, Outcome::Done), (2, Outcome::AlreadyThere), (3, Outcome::Done)] {
            report.conclude(line, Some(&id()), outcome).unwrap();
        }
        assert!(report.verdict().is_ok());
        assert_eq!(report.so_far(), "2 done, 1 already there");
        report.conclude(5, Some(&id()), Outcome::Differing { revision: 7 }).unwrap();
        report.conclude(6, None, failed("it is\u{1b} so")).unwrap();
        assert_eq!(report.verdict().unwrap_err().exit, Exit::DoneInPart);
        assert_eq!(
            report.text(),
            "5 lines: 2 done, 1 already there, 1 differing, 1 failed\n  \
             line 5, crm of acme: differing: another secret is there, at revision 7\n  \
             line 6: failed: it is\\u{1b} so\n"
        );
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "dry_run": false, "complete": false, "lines": 5, "done": 2, "already_there": 1, "differing": 1, "failed": 1,
                "problems": [
                    {"line": 5, "customer_id": "acme", "credential_id": "crm", "outcome": "differing", "revision": 7},
                    {"line": 6, "outcome": "failed", "code": "INPUT", "message": "it is\u{1b} so"},
                ],
                "problems_left_out": 0,
            })
        );
    }

    #[test]
    fn few_problems_are_kept_and_all_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("problems.jsonl");
        let mut report = Report::new(Mode::Look, Some(&path)).unwrap();
        for line in 1..=1_000 {
            report.conclude(line, Some(&id()), failed("no")).unwrap();
        }
        assert_eq!((report.problems.len(), report.problems_left_out), (MAX_SHOWN, 1_000 - MAX_SHOWN as u64));
        assert!(report.text().ends_with("and 980 more; --report FILE writes all of them\n"));
        let written = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1_000);
        assert_eq!((&lines[999]["line"], &lines[999]["message"]), (&1_000.into(), &"no".into()));
    }

    #[test]
    fn a_report_is_never_written_over_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.jsonl");
        std::fs::write(&path, "precious").unwrap();
        let failure = Report::new(Mode::Store, Some(&path)).err().unwrap();
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_dry_run_says_what_it_could_not_know() {
        let mut report = Report::new(Mode::Check, None).unwrap();
        report.conclude(1, Some(&id()), Outcome::Done).unwrap();
        assert_eq!(
            report.text(),
            "1 line: 1 to store, 0 already there, 0 differing, 0 failed\n\
             no service answered: what is there already is not known\n"
        );
    }
}
