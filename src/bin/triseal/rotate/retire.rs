//! `triseal key retire environment` and `codebase`: a version is marked as refused, when nobody can have sealed under it since, and then no
//! record was found under it. In this order, all of it: the document, the replicas, a walk over all records that begins after that, the
//! replicas again, for one may have come that nobody knew of, and the write.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use triseal::factors::document::Form;
use triseal::factors::rotation::TransitionError;

use super::fleet::{self, Factor};
use super::place::{EnvironmentKeys, Place};
use super::{Change, Changed, impossible, say};
use crate::client::{Connect, Service};
use crate::confirm::Confirm;
use crate::duration;
use crate::failure::Failure;
use crate::job::{self, Ended, Job, counted};
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
    /// Must equal the service's setting factors.secrets_manager.max_age or factors.file.max_age: so long a replica seals with keys that
    /// it can't read anew
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration::parse)]
    max_age: Duration,
    #[command(flatten)]
    confirm: Confirm,
}

/// What `key retire codebase` and `key unretire codebase` take.
#[derive(Args)]
pub(crate) struct Codebase {
    /// The version
    #[arg(value_name = "VERSION")]
    pub(super) version: NonZeroU32,
    /// The key file of the build
    #[arg(long, value_name = "PATH")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) confirm: Confirm,
}

/// Which version of what.
struct Retirement {
    factor: Factor,
    version: u32,
    /// For so long a replica may seal under a primary that is none any more.
    still_seals: Duration,
    place: Place,
}

pub(crate) async fn environment(arguments: Environment, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let Environment { version, keys, max_age, confirm } = arguments;
    let (factor, version, place) = (Factor::Environment, version.get(), keys.open().await?);
    retire(Retirement { factor, version, still_seals: max_age, place }, &confirm, connect, output).await
}

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
            return Changed::of(&place, &before.document, Change::Retired, version).show(output);
        }
        Err(error) => return Err(impossible(&error)),
    }
    fleet::nobody_seals_under(&fleet::replicas(&service).await?, factor, version)?;
    let what = format!("refuses version {version} of the {} key for good, if no record is under it", factor.as_str());
    confirm.ask(&what, &version.to_string(), format)?;

    no_record_is_under(factor, version, &service, format).await?;
    fleet::nobody_seals_under(&fleet::replicas(&service).await?, factor, version)?;
    let fetched = place.fetch().await?;
    if !fetched.mark.is_same(&before.mark) {
        return Err(place.changed().await);
    }
    let retired = fetched.document.with_retired(version, still_seals, Timestamp::now());
    let retired = retired.map_err(|error| impossible(&error))?;
    place.replace(&fetched.mark, &retired).await?;
    Changed::of(&place, retired.document(), Change::Retired, version).show(output)?;
    if factor == Factor::Codebase && format == Format::Text {
        output.octets(b"next: build and deploy with the file; the version opens until then\n")?;
    }
    Ok(())
}

async fn no_record_is_under(factor: Factor, version: u32, service: &Service, format: Format) -> Result<(), Failure> {
    verdict(&count(service, format).await?, factor, version)
}

/// Walks over all records, each of whose headers is read.
pub(super) async fn count(service: &Service, format: Format) -> Result<Job, Failure> {
    say(format, "counting the records under each version");
    let started = reencrypt::start("", &Pace { dry_run: true, rate: None }, service).await?;
    job::watch(started.id(), service, format).await
}

/// Whether a count that ended lets a version be retired. Re-encryption moves what could be read, and nothing else.
fn verdict(job: &Job, factor: Factor, version: u32) -> Result<(), Failure> {
    let factor = factor.as_str();
    let again = "triseal reencrypt start; triseal reencrypt watch; then the same command";
    let details = job.failures();
    let refused = |message, hint| Err(Failure { details, ..Failure::refused(message) }.with_hint(hint));
    match (job.records_under(factor, version), job.ended()) {
        (_, Ended::Cancelled) => Err(Failure::failed("somebody cancelled the count: nothing was retired".to_owned())
            .with_hint("run the command again")),
        (_, Ended::Unknown) => job.end(),
        (0, Ended::Done) => Ok(()),
        (0, Ended::WithFailures(failed)) => {
            let failed = counted(failed, "record");
            let message = format!("{failed} can't be read, and may be sealed under {factor} version {version}");
            refused(message, "restore each from a backup, or delete it: docs/operations/lost-key.md")
        }
        (1, _) => refused(format!("1 record is sealed under {factor} version {version}"), again),
        (records, _) => refused(format!("{records} records are sealed under {factor} version {version}"), again),
    }
}

#[cfg(test)]
mod tests {
    use triseal::grpc::v1;

    use super::*;
    use crate::failure::Exit;

    fn count(state: v1::JobState, records: u64, failed: u64) -> Job {
        let failures = (0..failed).map(|number| v1::JobFailure {
            customer_id: "acme".to_owned(),
            credential_id: format!("crm{number}"),
            reason: "MALFORMED".to_owned(),
        });
        Job::from(v1::Job {
            kind: v1::JobKind::Reencryption.into(),
            state: state.into(),
            dry_run: true,
            failed,
            failures: failures.collect(),
            counts: vec![v1::VersionCount { factor: v1::Factor::Codebase.into(), version: 1, records }],
            ..v1::Job::default()
        })
    }

    #[test]
    fn a_count_says_what_holds_a_version_up_and_what_ends_that() {
        use v1::JobState::{Cancelled, Done, DoneWithFailures};
        assert!(verdict(&count(Done, 0, 0), Factor::Codebase, 1).is_ok());
        assert!(verdict(&count(Done, 3, 0), Factor::Codebase, 2).is_ok());
        for (job, exit, message, hint) in [
            (count(Done, 1, 0), Exit::Refused, "1 record is sealed under codebase version 1", "reencrypt start"),
            (count(Done, 2, 0), Exit::Refused, "2 records are sealed under codebase version 1", "reencrypt start"),
            (count(DoneWithFailures, 2, 1), Exit::Refused, "2 records are sealed", "reencrypt start"),
            // Re-encryption leaves these as they are: to be told to start one is a loop.
            (count(DoneWithFailures, 0, 2), Exit::Refused, "2 records can't be read", "or delete it"),
            (count(Cancelled, 0, 0), Exit::Failed, "cancelled the count", "run the command again"),
        ] {
            let failed = job.failures();
            let failure = verdict(&job, Factor::Codebase, 1).unwrap_err();
            assert_eq!((failure.exit, failure.details), (exit, failed));
            assert!(failure.message.contains(message), "{}", failure.message);
            assert!(failure.hint.is_some_and(|told| told.contains(hint)), "{message}");
        }
        assert_eq!(count(DoneWithFailures, 0, 1).failures(), ["acme/crm0: MALFORMED"]);
    }
}
