//! The command line: reads what is asked for, asks the service, and says how it went.
//!
//! Everything it knows of the service is the protocol. Some commands go to AWS or to files by themselves, under the operator's own
//! identity: `rotate environment`, `key retire` and `unretire` to the key documents, `audit` and `tables` to the store and KMS. It keeps
//! nothing, and it takes secrets from a file or from standard input only: arguments are seen by every process of the machine and kept by shells.

// They panic when their reader has gone, in the middle of whatever is under way.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod audit;
mod certificates;
mod client;
mod confirm;
mod credential;
mod customer;
mod duration;
mod failure;
mod input;
mod job;
mod key;
mod keygen;
mod metadata;
mod opened;
mod output;
mod policy;
mod progress;
mod reencrypt;
mod rotate;
mod salesforce;
mod status;
mod tables;
mod tls;
mod wiped;

use std::alloc::System;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use client::Connect;
use failure::Failure;
use output::{Format, Output};
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: an import passes many secrets through the buffers of the RPC stack.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Seals and opens credentials with a triseal service.
#[derive(Parser)]
#[command(name = "triseal", version, after_help = AFTER_HELP)]
struct Cli {
    /// How answers and errors are written
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_enum,
        value_name = "FORMAT",
        default_value_t = Format::Text
    )]
    output: Format,

    #[command(flatten)]
    connect: Connect,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Encrypt, decrypt, list, delete and import credentials
    #[command(subcommand)]
    Credential(credential::Command),
    /// Create, list, disable and destroy customers
    #[command(subcommand)]
    Customer(customer::Command),
    /// Put new key versions in place of old ones
    #[command(subcommand)]
    Rotate(key::Rotate),
    /// Seal records anew under the present key versions, and watch jobs
    #[command(subcommand)]
    Reencrypt(reencrypt::Command),
    /// Move every wrapped customer key under the KMS key that the service is set to wrap with
    #[command(after_help = REWRAP_HELP)]
    Rewrap(reencrypt::Rewrap),
    /// Count records by key version, retire old versions, and take that back
    #[command(subcommand)]
    Key(key::Command),
    /// List the processes of the service, each with the key versions that it seals under
    #[command(after_help = REPLICAS_HELP)]
    Replicas,
    /// Make new keys for the codebase or the environment, and certificates to try TLS with
    #[command(subcommand)]
    Keygen(keygen::Command),
    /// Check a policy directory, and tell what it permits
    #[command(subcommand)]
    Policy(policy::Command),
    /// Verify audit logs, and report from them who saw what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Make the tables in DynamoDB, for development
    #[command(subcommand)]
    Tables(tables::Command),
}

const REWRAP_HELP: &str = "\
For when the KMS key that wraps customer keys changes: set the service to wrap with the new one and to unwrap with both, restart
it, and rewrap. The customer keys stay the same, so that no record is touched. It waits until the job ends.

Example:
  triseal rewrap --dry-run";

const REPLICAS_HELP: &str = "\
A replica reports every 10 s. One that has not for a minute is gone, or can't reach the store.

Example:
  triseal replicas --output json";

const AFTER_HELP: &str = "\
Examples:
  triseal customer create acme
  triseal credential encrypt --customer acme --credential crm --from-salesforce answer.json
  triseal credential decrypt --customer acme --credential crm
  triseal credential list --customer acme --output json

With --output json every answer is one JSON object on a line of its own, and a list is such a line for each row.
Fields have the names of the protocol; times are RFC 3339. Errors are one object on standard error:
{\"error\": {\"code\", \"reason\", \"message\", \"details\", \"hint\"}}.

Exit codes: 0 done, 1 failed, 2 wrong usage or arguments, 3 done with failures, 4 refused by policy or precondition.";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && json_is_asked_for() => {
            // What is wrong stands before the first empty line, and the usage after it.
            let text = error.render().to_string();
            let wrong = text.split("\n\n").next().unwrap_or_default();
            let wrong = wrong.strip_prefix("error: ").unwrap_or(wrong).trim().to_owned();
            return Failure::usage(wrong).with_hint("see --help").report(Format::Json);
        }
        // Help and the version come this way too. There is nobody to tell that printing them failed.
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let (format, at_default) = (cli.output, cli.connect.is_default());
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.nothing_listens && at_default => {
            failure.with_hint("is the service running? one to try with starts by: cargo run -- --dev").report(format)
        }
        Err(failure) => failure.report(format),
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let mut output = Output::open(cli.output)?;
    match cli.command {
        Command::Credential(command) => credential::run(command, &cli.connect, &mut output).await,
        Command::Customer(command) => customer::run(command, &cli.connect, &mut output).await,
        Command::Rotate(command) => key::rotate(command, &cli.connect, &mut output).await,
        Command::Reencrypt(command) => reencrypt::run(command, &cli.connect, &mut output).await,
        Command::Rewrap(arguments) => reencrypt::rewrap(arguments, &cli.connect, &mut output).await,
        Command::Key(command) => key::run(command, &cli.connect, &mut output).await,
        Command::Replicas => key::replicas(&cli.connect, &mut output).await,
        Command::Keygen(command) => keygen::run(&command, &mut output),
        Command::Policy(command) => policy::run(&command, &mut output),
        Command::Audit(command) => audit::run(command, &cli.connect, &mut output).await,
        Command::Tables(command) => tables::run(command, &mut output).await,
    }
}

/// For arguments that could not be parsed, but whose error is to be written all the same.
fn json_is_asked_for() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    arguments.iter().any(|argument| argument == "--output=json")
        || arguments.windows(2).any(|pair| matches!(pair, [name, value] if name == "--output" && value == "json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn refused(arguments: &[&str]) -> clap::error::ErrorKind {
        match Cli::try_parse_from(arguments) {
            Ok(_) => panic!("{arguments:?} is taken"),
            Err(error) => error.kind(),
        }
    }

    #[test]
    fn encrypt_asks_for_exactly_one_form_of_input() {
        use clap::error::ErrorKind::{ArgumentConflict, MissingRequiredArgument};
        let encrypt = ["triseal", "credential", "encrypt", "--customer", "acme", "--credential", "crm"];
        let with = |more: &[&'static str]| [&encrypt, more].concat();
        assert_eq!(refused(&encrypt), MissingRequiredArgument);
        assert_eq!(refused(&with(&["--kind", "opaque", "--from-salesforce"])), ArgumentConflict);
        assert!(Cli::try_parse_from(with(&["--kind", "salesforce_oauth", "-"])).is_ok());
        assert!(Cli::try_parse_from(with(&["--from-salesforce", "answer.json", "--output", "json"])).is_ok());
    }

    #[test]
    fn ids_are_checked_before_anything_is_sent() {
        use clap::error::ErrorKind::ValueValidation;
        assert_eq!(refused(&["triseal", "customer", "create", "a/b"]), ValueValidation);
        assert_eq!(refused(&["triseal", "credential", "get", "--customer", "", "--credential", "x"]), ValueValidation);
    }
}
