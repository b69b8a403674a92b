//! `triseal rotate codebase`: one more version in the key file of the build. What makes it the primary is a setting of the service, so that it
//! is undone by a restart; the file follows afterwards.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use triseal::factors::document::{Form, KeyDocument};

use super::place::Place;
use super::{Change, Changed, impossible, new_key, state_of};
use crate::failure::Failure;
use crate::output::{Format, Output};

/// What clap shows below the options.
pub(crate) const HELP: &str = "\
Adds a version to the file. The primary stays, so that a build with it seals as before and opens what either version has sealed.
Build, deploy everywhere, then set factors.codebase_primary and restart one replica after the other; that is undone as quickly.
When all have it, --promote makes the version the file's own primary, and the setting is no longer needed.

The file is replaced whole or not at all, and no version is ever removed from it.

Examples:
  triseal rotate codebase --file codebase-keys.json
  triseal rotate codebase --file codebase-keys.json --promote";

/// What it takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The key file, as `triseal keygen codebase` made it
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    /// Make the added version the file's primary, once all replicas seal under it
    #[arg(long)]
    promote: bool,
}

pub(crate) async fn run(arguments: Arguments, output: &mut Output) -> Result<(), Failure> {
    let absolute = std::path::absolute(&arguments.file).unwrap_or_else(|_| arguments.file.clone());
    let place = Place::file(Form::Codebase, arguments.file)?;
    let fetched = place.fetch().await?;
    let successor = match (arguments.promote, fetched.document.added()) {
        // A second one would be a rotation of a rotation: some builds know neither.
        (false, Some(added)) => {
            let (name, option) = (&place.name, &place.option);
            return Err(Failure::refused(format!("{name}: {}", state_of(&fetched.document))).with_hint(format!(
                "build and deploy it, set factors.codebase_primary = {added}, and when all replicas report that: triseal rotate \
                 {option} --promote"
            )));
        }
        (false, None) => fetched.document.with_added(new_key()?, Timestamp::now()),
        (true, _) => fetched.document.with_promoted(Timestamp::now()),
    };
    let successor = successor.map_err(|error| impossible(&error))?;
    place.replace(&fetched.mark, &successor).await?;
    let document = successor.document();
    let change = if arguments.promote { Change::Promoted } else { Change::Added };
    Changed::of(&place, document, change, successor.version()).show(output)?;
    if output.format() == Format::Json {
        return Ok(());
    }
    output.octets(next_steps(document, &absolute.to_string_lossy(), &place.option).as_bytes())
}

fn next_steps(document: &KeyDocument, path: &str, option: &str) -> String {
    let path = crate::output::printable(path);
    match document.added() {
        Some(added) => format!(
            "next: keep an offline copy of the file: without it nothing that version {added} seals opens again\n\
             \x20     TRISEAL_CODEBASE_KEYS={path} cargo build --profile dist\n\
             \x20     deploy that build everywhere, then set factors.codebase_primary = {added} and restart one replica after the other\n\
             \x20     triseal replicas            (until all report codebase {added})\n\
             \x20     triseal rotate codebase --file {path} --promote\n"
        ),
        None => {
            let mut text = "next: triseal reencrypt start\n      triseal reencrypt watch\n".to_owned();
            if let Some(former) = document.former_primary() {
                text += &format!("      triseal key retire codebase {former} {option}\n");
            }
            text
        }
    }
}
