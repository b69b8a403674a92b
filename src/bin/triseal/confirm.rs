//! What destroys something asks for its name typed back, on the terminal, or takes `--yes`. It knows nothing of what is destroyed.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use clap::Args;

use crate::failure::Failure;
use crate::output::{Format, printable};
use crate::progress;

/// Says what a command does that asks nobody, for whoever looks on.
pub(crate) fn will(what: &str, format: Format) {
    if format == Format::Text {
        progress::line(&format!("this {what}"));
    }
}

#[derive(Args)]
pub(crate) struct Confirm {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Confirm {
    /// Says what the command does, and asks for `name` unless `--yes` was given.
    pub(crate) fn ask(&self, what: &str, name: &str, format: Format) -> Result<(), Failure> {
        if self.yes {
            will(what, format);
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::usage(format!("this {what}, and there is no terminal to confirm it at"))
                .with_hint("add --yes to go on without being asked"));
        }
        let _ = io::stderr().write_all(printable(&format!("this {what}; type {name} to go on: ")).as_bytes());
        let mut typed = String::new();
        match io::stdin().lock().take(1_024).read_line(&mut typed) {
            Ok(_) if typed.trim() == name => Ok(()),
            Ok(_) | Err(_) => Err(Failure::failed(format!("nothing was done: that was not {name}"))),
        }
    }
}
