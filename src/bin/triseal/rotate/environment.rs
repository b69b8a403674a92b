//! `triseal rotate environment`: a version is added, everyone reads it, and then it is promoted. Stopped anywhere and run again, it goes on
//! from what is there.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use tokio::time::sleep;
use triseal::factors::document::{KeyDocument, KeyState};
use triseal::factors::rotation::{Fetched, Next};

use super::fleet::{self, Factor};
use super::place::{EnvironmentKeys, Place};
use super::{Change, Changed, impossible, new_key, retire, say, state_of};
use crate::client::{Connect, Service};
use crate::confirm::Confirm;
use crate::duration;
use crate::failure::Failure;
use crate::job::{self, Ended, Job};
use crate::output::{Format, Output};
use crate::reencrypt::{self, Pace};

/// What clap shows below the options.
pub(crate) const HELP: &str = "\
Adds a version that opens and does not seal yet, waits until every replica has read it, and makes it the primary. No record is
rewritten: they open under the old version until they are re-encrypted. With --complete, it also waits until all replicas seal
under the new version, re-encrypts, and prints the command that retires the old one: for that the service must be reached. Where
records are still under older versions, it completes the rotation that was made before, and adds no version.

It may be stopped at any time: there is the old state or the new one, and the same command goes on; but one without --complete that
came to its end is followed by another rotation. Asks for the name of the secret
or the file typed back, or takes --yes.

Examples:
  triseal rotate environment --secret arn:aws:secretsmanager:eu-central-1:111122223333:secret:triseal-AbCdEf
  triseal rotate environment --file environment-keys.json --complete";

/// What it takes.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    keys: EnvironmentKeys,
    /// Wait so long between adding and promoting: at least two polls of the service (factors.*.poll, 30s each)
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration::parse)]
    settle: Duration,
    /// Go on until all is re-encrypted
    #[arg(long)]
    complete: bool,
    #[command(flatten)]
    confirm: Confirm,
}

pub(crate) async fn run(arguments: Arguments, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let format = output.format();
    let service = if arguments.complete { Some(Service::new(connect)?) } else { None };
    if let Some(service) = &service {
        // Before anything is changed: what can't be completed is not begun.
        fleet::replicas(service).await?;
    }
    let place = arguments.keys.open().await?;
    let fetched = place.fetch().await?;
    let next = fetched.document.next(fetched.former_primary);
    say(format, &format!("{}: {}", place.name, state_of(&fetched.document)));
    let is_left_over = match &service {
        Some(service) if next == Next::Add => is_incomplete(&fetched.document, service, format).await?,
        Some(_) | None => false,
    };
    let plan = if is_left_over { COMPLETES.to_owned() } else { plan(next, arguments.settle, arguments.complete) };
    arguments.confirm.ask(&plan, &place.short_name, format)?;

    let document = match is_left_over {
        true => fetched.document,
        false => rotate(&place, fetched, arguments.settle, format).await?,
    };
    let mut changed = Changed::of(&place, &document, Change::Promoted, document.primary);
    let Some(service) = service else {
        changed.show(output)?;
        return next_steps(&place, &document, output);
    };
    if format == Format::Text {
        changed.show(output)?;
    }
    let completed = complete(document.primary, &service, format).await;
    match (&completed, format) {
        (Ok(job), Format::Text) => job.show(output)?,
        (Err(_), Format::Text) => {}
        // Of what was done and not completed, too, there is one answer.
        (completed, Format::Json) => {
            changed.reencryption = completed.as_ref().ok();
            changed.show(output)?;
        }
    }
    completed?.end()?;
    if let Some(retire) = retire_command(&place, &document).filter(|_| format == Format::Text) {
        let primary = document.primary;
        output.octets(format!("next: keep an offline copy that has version {primary}\n      {retire}\n").as_bytes())?;
    }
    Ok(())
}

/// What is done where the last rotation was made and not completed.
const COMPLETES: &str = "completes the rotation that was made before: re-encrypts all records, and adds no version";

/// Whether records are left under a version that was replaced, or are just being sealed anew: then the rotation before was stopped after
/// its promotion.
async fn is_incomplete(document: &KeyDocument, service: &Service, format: Format) -> Result<bool, Failure> {
    if under_way(document.primary, service).await?.is_some() {
        return Ok(document.former_primary().is_some());
    }
    let replaced: Vec<_> = document.keys.iter().filter(|entry| entry.version < document.primary).collect();
    if replaced.iter().all(|entry| entry.state == KeyState::Retired) {
        return Ok(false);
    }
    let counted = retire::count(service, format).await?;
    if matches!(counted.ended(), Ended::Cancelled | Ended::Unknown) {
        counted.end()?;
    }
    Ok(replaced.iter().any(|entry| counted.records_under(Factor::Environment.as_str(), entry.version) > 0))
}

fn plan(next: Next, settle: Duration, complete: bool) -> String {
    let settle = duration::told(settle);
    let rotates = match next {
        Next::Add => format!("adds a version, waits {settle}, and makes it the primary"),
        Next::Promote(version) => {
            format!("goes on with a rotation that was begun: waits {settle}, and makes version {version} the primary")
        }
        Next::Finish => "finishes a rotation that was interrupted at its very end, and begins no other".to_owned(),
    };
    if complete { format!("{rotates}; then it re-encrypts all records") } else { rotates }
}

/// From whatever is there to a promoted version. Answers the document as it is then.
async fn rotate(place: &Place, fetched: Fetched, settle: Duration, format: Format) -> Result<KeyDocument, Failure> {
    let Fetched { document, mark, former_primary } = fetched;
    let (mark, version) = match document.next(former_primary) {
        Next::Finish => {
            place.finish(&mark).await?;
            say(format, &format!("finished: version {} is the primary", document.primary));
            return Ok(document);
        }
        Next::Promote(version) => (mark, version),
        Next::Add => {
            let added = document.with_added(new_key()?, Timestamp::now()).map_err(|error| impossible(&error))?;
            let mark = place.replace(&mark, &added).await?;
            say(format, &format!("added version {}", added.version()));
            (mark, added.version())
        }
    };
    say(format, &format!("waiting {} until every replica has read it", duration::told(settle)));
    sleep(settle).await;
    // Read anew, so that no key is kept in memory meanwhile, and so that the time of the promotion is right.
    let fetched = place.fetch().await?;
    if !fetched.mark.is_same(&mark) {
        return Err(place.changed().await);
    }
    let promoted = fetched.document.with_promoted(Timestamp::now()).map_err(|error| impossible(&error))?;
    place.replace(&mark, &promoted).await?;
    say(format, &format!("version {version} is the primary"));
    Ok(promoted.into_document())
}

/// What is left to do, as it is typed.
fn next_steps(place: &Place, document: &KeyDocument, output: &mut Output) -> Result<(), Failure> {
    if output.format() == Format::Json {
        return Ok(());
    }
    let mut text = format!(
        "next: keep an offline copy that has version {primary}: without it nothing that it seals opens again\n\
         \x20     triseal replicas            (until all report environment {primary})\n\
         \x20     triseal reencrypt start\n\
         \x20     triseal reencrypt watch\n",
        primary = document.primary,
    );
    if let Some(retire) = retire_command(place, document) {
        text += &format!("      {retire}\n");
    }
    output.octets(text.as_bytes())
}

fn retire_command(place: &Place, document: &KeyDocument) -> Option<String> {
    document.former_primary().map(|former| format!("triseal key retire environment {former} {}", place.option))
}

/// All that comes after the promotion, by the service. Answers the re-encryption, as it ended.
async fn complete(primary: u32, service: &Service, format: Format) -> Result<Job, Failure> {
    say(format, &format!("waiting until all replicas seal under version {primary}"));
    say(format, "if this is stopped, the same command goes on");
    fleet::wait_until_all_seal_under(Factor::Environment, primary, service, format).await?;
    let started = match under_way(primary, service).await? {
        Some(job) => job,
        None => reencrypt::start("", &Pace { dry_run: false, rate: None }, service).await?,
    };
    job::watch(started.id(), service, format).await
}

/// The re-encryption that is under way, if it leaves no record below this version.
async fn under_way(primary: u32, service: &Service) -> Result<Option<Job>, Failure> {
    Ok(reencrypt::last(service).await?.filter(|job| job.brings_all_to_environment(primary)))
}

#[cfg(test)]
mod tests;
