//! `triseal policy`: what a policy directory permits, and whether the service would take it. It needs no service: it reads the
//! directory as the service does, by the same code.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde::Serialize;
use triseal::access::{Action, Contents, Policies, PolicyError, Question, Reason, Why};
use triseal::ids::{Caller, CredentialId, CustomerId};
use triseal::secret::Kind;

use crate::failure::{Exit, Failure};
use crate::output::{Format, Output, Table};

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Tell whether a policy directory is good, and what stands in it
    #[command(after_help = "Example:\n  triseal policy check deploy/policy")]
    Check(Check),
    /// Tell whether a caller may do something, and which policies decide that
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Explain),
}

const EXPLAIN_HELP: &str = "\
Actions have the names of the RPCs; DecryptAccess and DecryptFull stand for reading in the two views. ListCredentials and
ListCustomers permit the call; which items it shows is decided for each, by GetCredential and GetCustomer.

Examples:
  triseal policy explain deploy/policy --caller spiffe://datasert.com/realtask \\
      --action DecryptAccess --customer acme --credential realtask.crm
  triseal policy explain deploy/policy --caller spiffe://datasert.com/security --action StartReencryption

Exit codes: 0 it is permitted, 4 it is not.";

#[derive(Args)]
pub(crate) struct Check {
    /// With *.cedar, triseal.cedarschema and entities.json
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Args)]
pub(crate) struct Explain {
    /// With *.cedar, triseal.cedarschema and entities.json
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Who calls: the SPIFFE id of a certificate, or dns:NAME
    #[arg(long, value_name = "ID")]
    caller: String,
    /// What it does
    #[arg(long, value_name = "ACTION", value_parser = actions())]
    action: String,
    /// To which customer; without one it is about all of them
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    customer: Option<CustomerId>,
    /// To which credential
    #[arg(long, value_name = "ID", value_parser = CredentialId::parse)]
    credential: Option<CredentialId>,
    /// For EncryptCredential: what is to be stored
    #[arg(long, value_name = "KIND", value_parser = kinds())]
    kind: Option<String>,
}

fn actions() -> PossibleValuesParser {
    Action::ALL.iter().map(|action| action.as_str()).collect::<Vec<_>>().into()
}

fn kinds() -> PossibleValuesParser {
    Kind::ALL.map(Kind::as_str).into()
}

pub(crate) fn run(command: &Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Check(arguments) => check(&arguments.directory, output),
        Command::Explain(arguments) => explain(arguments, output),
    }
}

fn read(directory: &Path) -> Result<Policies, Failure> {
    Policies::read(directory).map_err(|PolicyError(problems)| {
        let message = match problems.len() {
            1 => "the policy is refused, for one thing".to_owned(),
            several => format!("the policy is refused, for {several} things"),
        };
        let details = problems.iter().map(ToString::to_string).collect();
        Failure { details, ..Failure::failed(message) }
    })
}

fn check(directory: &Path, output: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct File<'a> {
        file: &'a str,
        policies: usize,
    }
    #[derive(Serialize)]
    struct Team<'a> {
        team: &'a str,
        callers: &'a [String],
    }
    #[derive(Serialize)]
    struct Good<'a> {
        files: Vec<File<'a>>,
        teams: Vec<Team<'a>>,
        callers_without_team: &'a [String],
        notes: Vec<String>,
    }
    let Contents { files, teams, teamless, notes } = read(directory)?.contents();
    let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
    if output.format() == Format::Json {
        let files = files.iter().map(|(file, policies)| File { file, policies: *policies }).collect();
        let teams = teams.iter().map(|(team, callers)| Team { team, callers }).collect();
        return output.json(&Good { files, teams, callers_without_team: &teamless, notes });
    }
    let mut text = String::new();
    let rows: Vec<_> = files.into_iter().map(|(file, policies)| [file, policies.to_string()]).collect();
    text += &Table::new(["FILE", "POLICIES"]).page(&rows);
    let teams = teams.iter().flat_map(|(team, callers)| callers.iter().map(|caller| [team.clone(), caller.clone()]));
    let teamless = teamless.iter().map(|caller| ["-".to_owned(), caller.clone()]);
    let rows: Vec<_> = teams.chain(teamless).collect();
    text += "\n";
    text += &Table::new(["TEAM", "CALLER"]).page(&rows);
    for note in &notes {
        text += &format!("\nnote: {}\n", crate::output::printable(note));
    }
    text += "\nThe policy is good.\n";
    output.octets(text.as_bytes())
}

fn explain(arguments: &Explain, output: &mut Output) -> Result<(), Failure> {
    let action = Action::ALL.iter().find(|action| action.as_str() == arguments.action);
    let kind = Kind::ALL.into_iter().find(|kind| Some(kind.as_str()) == arguments.kind.as_deref());
    let action = *action.ok_or_else(|| Failure::usage("there is no such action".to_owned()))?;
    let question = Question::new(action, arguments.customer.clone(), arguments.credential.clone(), kind)
        .map_err(|error| Failure::usage(error.to_string()))?;
    let why = read(&arguments.directory)?.explain(&Caller::new(&arguments.caller), &question);

    let (decision, because) = match &why {
        Why::Permitted(_) => ("permitted", "a policy permits it, and none forbids it"),
        Why::Forbidden(_) => ("refused", "a policy forbids it"),
        Why::NothingPermits => ("refused", "no policy permits it"),
        Why::UnknownCaller => ("refused", "entities.json does not list the caller"),
        Why::Failed(_) => ("refused", "a policy failed while it was evaluated"),
    };
    let (policies, fault): (&[Reason], _) = match &why {
        Why::Permitted(policies) | Why::Forbidden(policies) => (policies, None),
        Why::Failed(fault) => (&[], Some(fault.as_str())),
        Why::NothingPermits | Why::UnknownCaller => (&[], None),
    };
    show(decision, because, policies, fault, output)?;
    match why {
        Why::Permitted(_) => Ok(()),
        Why::Forbidden(_) | Why::NothingPermits | Why::UnknownCaller | Why::Failed(_) => {
            Err(Failure::told(Exit::Refused))
        }
    }
}

fn show(
    decision: &str,
    because: &str,
    policies: &[Reason],
    fault: Option<&str>,
    output: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Policy<'a> {
        id: &'a str,
        file: &'a str,
        line: usize,
    }
    #[derive(Serialize)]
    struct Explained<'a> {
        decision: &'a str,
        because: &'a str,
        policies: Vec<Policy<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        fault: Option<&'a str>,
    }
    if output.format() == Format::Json {
        let policies = policies.iter().map(|Reason { id, file, line }| Policy { id, file, line: *line }).collect();
        return output.json(&Explained { decision, because, policies, fault });
    }
    let mut fields = vec![("decision", decision.to_owned()), ("because", because.to_owned())];
    fields.extend(policies.iter().map(|Reason { id, file, line }| ("policy", format!("{id}, {file}:{line}"))));
    fields.extend(fault.map(|fault| ("fault", fault.to_owned())));
    output.fields(&fields)
}
