//! Why a command ends without having done what was asked, and how that is told: a sentence, what to do next, an exit
//! code. It knows no source of failures; `status` makes them of the service's answers.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::output::{Format, printable};

/// What goes to standard error, and the exit code.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    /// The name of the gRPC status, or `USAGE`, `INPUT`, `FAILED`, `INCOMPLETE`, `FINDINGS`, `REFUSED` for what the command line itself finds.
    pub(crate) code: &'static str,
    /// The service's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    pub(crate) message: String,
    /// One line for each part of what is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) details: Vec<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    #[serde(skip)]
    pub(crate) exit: Exit,
    /// Nobody listens at the endpoint: there is no service, or it is elsewhere.
    #[serde(skip)]
    pub(crate) nothing_listens: bool,
}

/// What the exit code tells scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Whoever read the output has read enough, such as `head`: nothing to tell, and no failure.
    ReaderGone = 0,
    /// It may work another time.
    Failed = 1,
    /// The arguments or the input are wrong.
    Usage = 2,
    /// All that was asked for was tried, and some of it was not done.
    DoneInPart = 3,
    /// Policy or the state of things forbids it.
    Refused = 4,
}

impl Failure {
    pub(crate) fn usage(message: String) -> Self {
        Self::local("USAGE", Exit::Usage, message)
    }

    pub(crate) fn input(message: String) -> Self {
        Self::local("INPUT", Exit::Usage, message)
    }

    pub(crate) fn failed(message: String) -> Self {
        Self::local("FAILED", Exit::Failed, message)
    }

    pub(crate) fn incomplete(message: String) -> Self {
        Self::local("INCOMPLETE", Exit::DoneInPart, message)
    }

    /// It was looked for, and found.
    pub(crate) fn findings(message: String) -> Self {
        Self::local("FINDINGS", Exit::DoneInPart, message)
    }

    pub(crate) fn refused(message: String) -> Self {
        Self::local("REFUSED", Exit::Refused, message)
    }

    /// The answer, which is written, says already why it is none.
    pub(crate) fn told(exit: Exit) -> Self {
        Self::local("FAILED", exit, String::new())
    }

    /// The output could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::told(Exit::ReaderGone),
            _ => Self::failed(format!("cannot write the answer: {error}")),
        }
    }

    /// The service's answer lacks what every answer has.
    pub(crate) fn unknown_answer() -> Self {
        Self::failed("unexpected answer from the service".to_owned())
            .with_hint("is there a triseal service of this version at --endpoint?")
    }

    fn local(code: &'static str, exit: Exit, message: String) -> Self {
        Self { code, reason: None, message, details: Vec::new(), hint: None, exit, nothing_listens: false }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes it to standard error.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        if !self.message.is_empty() {
            let text = match format {
                Format::Text => self.text(),
                Format::Json => self.json(),
            };
            // If standard error is closed, the exit code has to do.
            let _ = io::stderr().write_all(text.as_bytes());
        }
        ExitCode::from(self.exit as u8)
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}\n", printable(&self.message));
        // A single violation is the message itself.
        for detail in self.details.iter().filter(|detail| **detail != self.message) {
            text.push_str(&format!("  {}\n", printable(detail)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {}\n", printable(hint)));
        }
        text
    }

    fn json(&self) -> String {
        #[derive(Serialize)]
        struct Wrapper<'a> {
            error: &'a Failure,
        }
        // Texts under names that are texts: there is nothing that could fail.
        let mut text = serde_json::to_string(&Wrapper { error: self }).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_what_to_do_next_and_escapes_control_characters() {
        let failure = Failure::refused("no\u{1b}[2Jway".to_owned()).with_hint("try another way");
        assert_eq!(failure.text(), "error: no\\u{1b}[2Jway\nhint: try another way\n");
    }

    #[test]
    fn what_the_message_says_is_not_said_again() {
        let mut failure = Failure::input("name: is too long".to_owned());
        failure.details = vec!["name: is too long".to_owned()];
        assert_eq!(failure.text(), "error: name: is too long\n");
        failure.details.push("kind: is unknown".to_owned());
        failure.message = "2 fields are wrong".to_owned();
        assert_eq!(failure.text(), "error: 2 fields are wrong\n  name: is too long\n  kind: is unknown\n");
    }

    #[test]
    fn json_has_what_is_known_and_nothing_else() {
        let failure = Failure::usage("no".to_owned());
        assert_eq!(failure.json(), "{\"error\":{\"code\":\"USAGE\",\"message\":\"no\"}}\n");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        assert_eq!(Failure::output(&io::ErrorKind::BrokenPipe.into()).exit, Exit::ReaderGone);
        assert_eq!(Failure::output(&io::ErrorKind::StorageFull.into()).exit, Exit::Failed);
    }
}
