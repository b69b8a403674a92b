//! `triseal key unretire environment` and `codebase`: a version that was retired opens again, for tables that were restored from before
//! that. It asks no service: none may be running, and a version that opens does no harm.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use triseal::factors::document::Form;
use triseal::factors::rotation::TransitionError;

use super::fleet::Factor;
use super::place::{EnvironmentKeys, Place};
use super::retire::Codebase;
use super::{Change, Changed, impossible, say};
use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::output::{Format, Output};

const ENVIRONMENT_HELP: &str = "\
For tables that were restored from before the version was retired: it opens again, and nothing is sealed under it. Replicas read the
document anew by themselves. Asks for the version typed back, or takes --yes.

Examples:
  triseal key unretire environment 1 --secret arn:aws:secretsmanager:eu-central-1:111122223333:secret:triseal-AbCdEf
  triseal key unretire environment 1 --file environment-keys.json";

const CODEBASE_HELP: &str = "\
For tables that were restored from before the version was retired: the next build opens what is under it, and seals nothing under it.
Asks for the version typed back, or takes --yes.

Example:
  triseal key unretire codebase 1 --file codebase-keys.json";

/// Of which factor. A customer's versions stand in the tables, and are restored with them.
#[derive(Subcommand)]
pub(crate) enum Unretire {
    /// Of the deployment's key
    // Without the options of a service, which clap would name where the environment sets them.
    #[command(override_usage = "triseal key unretire environment [OPTIONS] <--secret <ARN>|--file <PATH>> <VERSION>")]
    #[command(after_help = ENVIRONMENT_HELP)]
    Environment(Environment),
    /// Of the codebase's key
    #[command(override_usage = "triseal key unretire codebase [OPTIONS] --file <PATH> <VERSION>")]
    #[command(after_help = CODEBASE_HELP)]
    Codebase(Codebase),
}

/// What `key unretire environment` takes.
#[derive(Args)]
pub(crate) struct Environment {
    /// The version
    #[arg(value_name = "VERSION")]
    version: NonZeroU32,
    #[command(flatten)]
    keys: EnvironmentKeys,
    #[command(flatten)]
    confirm: Confirm,
}

pub(crate) async fn run(command: Unretire, output: &mut Output) -> Result<(), Failure> {
    match command {
        Unretire::Environment(Environment { version, keys, confirm }) => {
            unretire(Factor::Environment, version.get(), keys.open().await?, &confirm, output).await
        }
        Unretire::Codebase(Codebase { version, file, confirm }) => {
            let place = Place::file(Form::Codebase, file)?;
            unretire(Factor::Codebase, version.get(), place, &confirm, output).await
        }
    }
}

async fn unretire(
    factor: Factor,
    version: u32,
    place: Place,
    confirm: &Confirm,
    output: &mut Output,
) -> Result<(), Failure> {
    let format = output.format();
    let fetched = place.fetch().await?;
    if fetched.document.may_unretire(version) == Err(TransitionError::IsNotRetired(version)) {
        place.finish(&fetched.mark).await?;
        say(format, "it is not retired");
        return Changed::of(&place, &fetched.document, Change::Unretired, version).show(output);
    }
    let unretired = fetched.document.with_unretired(version).map_err(|error| impossible(&error))?;
    let what = format!("opens again what is under version {version} of the {} key", factor.as_str());
    confirm.ask(&what, &version.to_string(), format)?;
    place.replace(&fetched.mark, &unretired).await?;
    Changed::of(&place, unretired.document(), Change::Unretired, version).show(output)?;
    if factor == Factor::Codebase && format == Format::Text {
        output.octets(b"next: build and deploy with the file; the version is refused until then\n")?;
    }
    Ok(())
}
