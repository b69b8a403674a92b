//! `triseal tables`: makes the DynamoDB tables of a service's settings, under the operator's own AWS identity. For development: the
//! service never makes a table, and production's stand in `deploy/cloudformation/tables.yaml`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;
use triseal::config::{Backend, Settings};
use triseal::store::dynamodb::{Created, DynamoStore, Table};

use crate::failure::Failure;
use crate::output::{Format, Output};

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make the tables that are not there, for development: on demand, without protection or backups
    #[command(after_help = "Example:\n  triseal tables create --config triseald.toml")]
    Create {
        /// The service's settings
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

pub(crate) async fn run(command: Command, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Create { config } => create(&config, output).await,
    }
}

#[derive(Serialize)]
struct Made<'a> {
    table: &'a str,
    created: bool,
}

async fn create(config: &Path, output: &mut Output) -> Result<(), Failure> {
    let settings = Settings::from_file(config).map_err(|error| Failure::input(error.to_string()))?;
    if settings.store.backend != Backend::Dynamodb {
        return Err(Failure::input("settings: store.backend: must be \"dynamodb\" for tables to be made".to_owned()));
    }
    let store = DynamoStore::new(&triseal::aws::load().await, (&settings.store.dynamodb).into());
    for table in Table::ALL {
        let name = store.name(table);
        let made = store.create(table).await.map_err(|error| {
            Failure::failed(format!("the table {name} can't be made: {error}")).with_hint(
                "AWS_REGION and AWS_PROFILE say where and by whom; they need dynamodb:CreateTable and DescribeTable",
            )
        })?;
        let created = made == Created::New;
        match output.format() {
            Format::Json => output.json(&Made { table: name, created })?,
            Format::Text => {
                output.octets(format!("{} {name}\n", if created { "created" } else { "there  " }).as_bytes())?;
            }
        }
    }
    Ok(())
}
