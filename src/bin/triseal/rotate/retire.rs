//! `triseal key retire environment` and `codebase`: a version is marked as refused, when nobody can have sealed under it since, and then no
//! record was found under it. In this order, all of it: the document, the replicas, a walk over all records that begins after that, the
//! replicas again, for one may have come that nobody knew of, and the write.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use triseal::factors::document::Form;
use triseal::factors::rotation::TransitionError;

use super::fleet::{self, Factor};
use super::place::{EnvironmentKeys, Place};
use super::{impossible, parse_duration, say};
use crate::client::{Connect, Service};
use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::job;
use crate::output::{Format, Output};
use crate::reencrypt::{self, Pace};

/// What clap shows below the options of `environment`.
pub(crate) const ENVIRONMENT_HELP: &str = "\
Refused for the primary, as long as a replica may still seal under the version, and as long as a record is sealed under it: then
it tells how many. The service must be reached, since it counts the records. The version stays in the document, marked as retired:
a backup may hold a record of it. Asks for the version typed back, or takes --yes.

Examples:
  triseal key retire environment 1 --secret arn:aws:secretsmanager:eu-central-1:111122223333:secret:triseal-AbCdEf
  triseal key retire environment 1 --file environment-keys.json";

/// What clap shows below the options of `codebase`.
pub(crate) const CODEBASE_HELP: &str = "\
Marks the version as retired in the key file of the build; the next build refuses it. Refused for the file's primary, as long as a
replica seals under the version, and as long as a record is sealed under it: then it tells how many. The service must be reached,
since it counts the records. Asks for the version typed back, or takes --yes.

Example:
  triseal key retire codebase 1 --file codebase-keys.json";

/// What `key retire environment` takes.
#[derive(Args)]
pub(crate) struct Environment {
    /// The version
    #[arg(value_name = "VERSION")]
    version: NonZeroU32,
    #[command(flatten)]
    keys: EnvironmentKeys,
    /// The service's factors.secrets_manager.max_age or factors.file.max_age: so long a replica seals with keys that it can't read anew
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    max_age: Duration,
    #[command(flatten)]
    confirm: Confirm,
}

/// What `key retire codebase` takes.
#[derive(Args)]
pub(crate) struct Codebase {
    /// The version
    #[arg(value_name = "VERSION")]
    version: NonZeroU32,
    /// The key file of the build
    #[arg(long, value_name = "PATH")]
    file: PathBuf,
    #[command(flatten)]
    confirm: Confirm,
}

/// Which version of what.
struct Retirement {
    factor: Factor,
    version: u32,
    /// For so long a replica may seal under a primary that is none any more.
    still_seals: Duration,
    place: Place,
}

#[derive(Serialize)]
struct Retired<'a> {
    keys: &'a str,
    primary: u32,
    retired: u32,
}

/// Does what is asked.
pub(crate) async fn environment(arguments: Environment, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let Environment { version, keys, max_age, confirm } = arguments;
    let (factor, version, place) = (Factor::Environment, version.get(), keys.open().await?);
    retire(Retirement { factor, version, still_seals: max_age, place }, &confirm, connect, output).await
}

/// Does what is asked.
pub(crate) async fn codebase(arguments: Codebase, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let Codebase { version, file, confirm } = arguments;
    let (factor, version, place) = (Factor::Codebase, version.get(), Place::file(Form::Codebase, file)?);
    // A process never changes the version of the binary that it seals under: what the replicas report is all that there is to wait for.
    retire(Retirement { factor, version, still_seals: Duration::ZERO, place }, &confirm, connect, output).await
}

async fn retire(
    retirement: Retirement,
    confirm: &Confirm,
    connect: &Connect,
    output: &mut Output,
) -> Result<(), Failure> {
    let Retirement { factor, version, still_seals, place } = retirement;
    let format = output.format();
    let service = Service::new(connect)?;
    let before = place.fetch().await?;
    match before.document.may_retire(version, still_seals, Timestamp::now()) {
        Ok(()) => {}
        Err(TransitionError::IsRetired(_)) => {
            place.finish(&before.mark).await?;
            say(format, "it was retired before");
            return show(&place, before.document.primary, version, output);
        }
        Err(error) => return Err(impossible(&error)),
    }
    fleet::nobody_seals_under(&fleet::replicas(&service).await?, factor, version)?;
    let what = format!("refuses version {version} of the {} key for good, if no record is under it", factor.as_str());
    confirm.ask_or_say(&what, &version.to_string(), format)?;

    no_record_is_under(factor, version, &service, format).await?;
    fleet::nobody_seals_under(&fleet::replicas(&service).await?, factor, version)?;
    let fetched = place.fetch().await?;
    if !fetched.mark.is_same(&before.mark) {
        return Err(place.changed().await);
    }
    let retired = fetched.document.with_retired(version, still_seals, Timestamp::now());
    let retired = retired.map_err(|error| impossible(&error))?;
    place.replace(&fetched.mark, &retired).await?;
    show(&place, retired.document().primary, version, output)?;
    if factor == Factor::Codebase && format == Format::Text {
        output.octets(b"next: build and deploy with the file; the version opens until then\n")?;
    }
    Ok(())
}

/// Walks over all records, each of whose headers is read.
async fn no_record_is_under(factor: Factor, version: u32, service: &Service, format: Format) -> Result<(), Failure> {
    say(format, "counting the records under each version");
    let started = reencrypt::start("", &Pace { dry_run: true, rate: None }, service).await?;
    let job = job::watch(started.id(), service, format).await?;
    let again = "triseal reencrypt start; triseal reencrypt watch; then the same command";
    match job.records_under(factor.as_str(), version) {
        0 => {}
        records => {
            let factor = factor.as_str();
            let message = format!("{records} records are sealed under {factor} version {version}");
            return Err(Failure::refused(message).with_hint(again));
        }
    }
    // Those that could not be read may be under it.
    job.end().map_err(|failure| Failure::refused(failure.message).with_hint(again))
}

fn show(place: &Place, primary: u32, retired: u32, output: &mut Output) -> Result<(), Failure> {
    match output.format() {
        Format::Json => output.json(&Retired { keys: &place.name, primary, retired }),
        Format::Text => output.fields(&[
            ("keys", place.name.clone()),
            ("primary", primary.to_string()),
            ("retired", retired.to_string()),
        ]),
    }
}
