//! `triseal audit`: reads audit logs. What they mean is for the library to know; here files are opened, and what was
//! found is shown.

mod report;
mod verify;

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use triseal::audit::first_time;
use triseal::audit::heads::CheckpointMac;
use triseal::audit::heads::{self, Head};
use triseal::factors::kms::KmsMac;
use triseal::store::dynamodb::{DynamoStore, all_operations};
use triseal::store::embedded::operations_in_file;

use crate::client::Connect;
use crate::failure::Failure;
use crate::output::Output;

/// What stands before the name of a table, in the place of a file.
const TABLE: &str = "dynamodb:";
/// How a redb file begins.
const STORE_FILE: &[u8] = b"redb";
/// Exported heads are no larger: one is a line of some 250 octets.
const MAX_EXPORT_OCTETS: u64 = 256 << 20;

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Tell whether a log is what the service wrote
    #[command(after_help = VERIFY_HELP)]
    Verify(Logs),
    /// Tell who saw and changed which credentials
    #[command(after_help = report::HELP)]
    Report(report::Arguments),
    /// Print the heads of all streams, to keep them where the service's administrators can't change them
    #[command(after_help = CHECKPOINTS_HELP)]
    Checkpoints(Store),
}

const VERIFY_HELP: &str = "\
Files are given in any order. Found is each entry that was changed, dropped, inserted or reordered; with --checkpoints
also an end that was cut off, and a stream that is missing. Entries after the last head can't be missed: the answer says
for each stream where that is.

Exit codes: 0 nothing was found, 1 the files or heads can't be read, 3 something was found.

Examples:
  triseal audit verify --checkpoints .triseal/store.redb .triseal/audit.jsonl*
  triseal audit verify --checkpoints heads-2026-11-24.jsonl --mac-key arn:aws:kms:… audit/*
  triseal audit verify --output json audit/* | jq .findings";

const CHECKPOINTS_HELP: &str = "\
A table is read under your own AWS identity (AWS_PROFILE, AWS_REGION), which needs dynamodb:Query on it.

Examples:
  triseal audit checkpoints .triseal/store.redb > heads-$(date -I).jsonl
  triseal audit checkpoints dynamodb:triseal-operations > heads-$(date -I).jsonl";

/// The logs that a command reads.
#[derive(Args)]
pub(crate) struct Logs {
    /// The log's files, rotated ones too; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Compare with the heads in this store file, in dynamodb:TABLE, or in a file that `checkpoints` wrote. May be given several times
    #[arg(long, value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Check the heads' MACs with this KMS key, under your own AWS identity, which needs kms:VerifyMac
    #[arg(long, value_name = "ARN", requires = "checkpoints")]
    mac_key: Option<String>,
    /// The files are a part of the log: what is missing before or after them is no finding
    #[arg(long)]
    partial: bool,
}

#[derive(Args)]
pub(crate) struct Store {
    /// The embedded store's file, which no process may have open; or dynamodb:TABLE, the table *operations*
    store: PathBuf,
}

pub(crate) async fn run(command: Command, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Verify(logs) => verify::run(&logs, output).await,
        Command::Report(arguments) => report::run(&arguments, connect, output).await,
        Command::Checkpoints(store) => {
            let lines: String = heads_in_store(&store.store).await?.iter().map(|head| head.to_json() + "\n").collect();
            output.octets(lines.as_bytes())
        }
    }
}

impl Logs {
    /// What the logs are compared with.
    async fn heads(&self) -> Result<Option<Vec<Head>>, Failure> {
        let mut heads = Vec::new();
        for path in &self.checkpoints {
            heads.extend(heads_in(path).await?);
        }
        Ok((!self.checkpoints.is_empty()).then_some(heads))
    }

    /// What checks the MACs of the heads, if a key is named.
    async fn mac(&self) -> Option<Box<dyn CheckpointMac>> {
        let key = self.mac_key.clone()?;
        Some(Box::new(KmsMac::new(&triseal::aws::load().await, key)))
    }

    /// Opens each file once, in the order of their first entries, and hands it on with its name.
    fn each(&self, mut read: impl FnMut(&str, &mut dyn Read) -> Result<(), Failure>) -> Result<u64, Failure> {
        let mut known = HashSet::new();
        let mut files = Vec::new();
        for path in &self.files {
            if path == Path::new("-") {
                files.push((None, path));
                continue;
            }
            let file = open(path)?;
            let about = file.metadata().map_err(|error| unreadable(path, &error))?;
            if about.is_dir() {
                return Err(Failure::usage(format!("{} is a directory", path.display()))
                    .with_hint(format!("name its files, such as {}/*", path.display())));
            }
            if known.insert((about.dev(), about.ino())) {
                files.push((first_time(file).map_err(|error| unreadable(path, &error))?, path));
            }
        }
        files.sort();
        for (_, path) in &files {
            let name = path.to_string_lossy();
            if name == "-" {
                read("standard input", &mut io::stdin().lock())?;
            } else {
                read(&name, &mut open(path)?)?;
            }
        }
        Ok(files.len() as u64)
    }
}

/// The heads in a store, or in an exported file.
async fn heads_in(path: &Path) -> Result<Vec<Head>, Failure> {
    if table(path).is_some() {
        return heads_in_store(path).await;
    }
    let mut file = open(path)?;
    let mut beginning = Vec::with_capacity(STORE_FILE.len());
    let unreadable = |error: io::Error| unreadable(path, &error);
    file.by_ref().take(STORE_FILE.len() as u64).read_to_end(&mut beginning).map_err(unreadable)?;
    if beginning == STORE_FILE {
        return heads_in_store(path).await;
    }
    let lines = BufReader::new(beginning.as_slice().chain(file)).take(MAX_EXPORT_OCTETS).lines();
    let head = |(index, line): (usize, io::Result<String>)| {
        Head::from_json(&line.map_err(unreadable)?).map_err(|error| {
            Failure::failed(format!("{}:{}: {error}", path.display(), index + 1))
                .with_hint("--checkpoints takes a store file, or what `triseal audit checkpoints` printed")
        })
    };
    lines.enumerate().map(head).collect()
}

async fn heads_in_store(path: &Path) -> Result<Vec<Head>, Failure> {
    let rows = match table(path) {
        Some(operations) => {
            let store = DynamoStore::of_operations(&triseal::aws::load().await, operations);
            all_operations(&store, heads::KIND).await.map_err(|error| {
                let advice = "AWS_REGION and AWS_PROFILE say where it is and who asks; they need dynamodb:Query";
                Failure::failed(format!("{}: {error}", path.display())).with_hint(advice)
            })?
        }
        None => operations_in_file(path, heads::KIND).map_err(|error| Failure::failed(error.to_string()))?,
    };
    let head = |row| Head::from_record(row).map_err(|error| Failure::failed(format!("{}: {error}", path.display())));
    rows.iter().map(head).collect()
}

/// The name of a table, if it is one.
fn table(path: &Path) -> Option<String> {
    path.to_str()?.strip_prefix(TABLE).map(str::to_owned)
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{} can't be read: {error}", path.display()))
}
