//! `triseal credential mark-needs-reauth`: has the customers of many credentials consent again, after a breach or a restore. Which ones
//! stands in a list, or is asked of the service. Marking twice changes nothing, so the command can be stopped at any time and run again.
//!
//! Where it is known which revision was seen, that one alone is marked: what was refreshed since is not what somebody has.

mod listed;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use triseal::grpc::v1;
use triseal::ids::CredentialRef;

use super::arguments::Mark;
use crate::client::Service;
use crate::failure::Failure;
use crate::input;
use crate::output::{Format, Output};
use crate::progress::{Progress, TimeLeft};
use crate::status::{self, Again, Subject};
use listed::Seen;

/// Credentials under way at the same time.
const AT_ONCE: usize = 16;
/// A call that may be answered otherwise is made so often, at most.
const ATTEMPTS: u32 = 6;
/// The pause before the second attempt, at least. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Held in memory at the same time. More are marked in parts: a list is split, and of times the later ones are named first.
const MAX_CREDENTIALS: usize = 1_000_000;

/// Which credentials, and at which revisions.
type Marks = BTreeMap<CredentialRef, Seen>;

/// What became of one.
enum Outcome {
    Marked,
    Changed,
    Gone,
    Failed(Failure),
}

pub(super) async fn run(arguments: &Mark, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let marks = match (&arguments.file, arguments.refreshed_since) {
        (_, Some(since)) => refreshed_since(since, service).await?,
        (Some(file), None) => listed::read(input::open(Some(file))?)?,
        (None, None) => return Err(Failure::usage("name a list, or --refreshed-since".to_owned())),
    };
    if marks.is_empty() {
        return Summary::default().show(output);
    }
    let count = marks.len().to_string();
    let what = match marks.len() {
        1 => "has the customer of 1 credential consent again".to_owned(),
        count => format!("has the customers of {count} credentials consent again"),
    };
    arguments.confirm.ask(&what, &count, output.format())?;

    let mut progress = Progress::new(Some(marks.len() as u64), TimeLeft::Bar, output.format());
    let mut marking = stream::iter(&marks)
        .map(|(id, seen)| async move { (id, mark(service, id, seen, &arguments.reason).await) })
        .buffer_unordered(AT_ONCE);
    let mut summary = Summary::default();
    let mut done = 0;
    while let Some((id, outcome)) = marking.next().await {
        summary.count(id, outcome, output)?;
        done += 1;
        progress.show(done, || format!("so far {done} of {count}"));
    }
    drop(progress);
    summary.show(output)
}

/// The Salesforce credentials whose tokens were last issued at this time or later, each at the revision at which it was listed.
async fn refreshed_since(since: jiff::Timestamp, service: &Service) -> Result<Marks, Failure> {
    let (mut client, mut marks, mut page_token) = (service.credentials(), Marks::new(), String::new());
    loop {
        let request = service.request(v1::ListCredentialsRequest {
            page_size: 1_000,
            page_token: page_token.clone(),
            kind: v1::CredentialKind::SalesforceOauth.into(),
            state: v1::CredentialState::Active.into(),
            ..v1::ListCredentialsRequest::default()
        });
        let answer = client.list_credentials(request).await;
        let page = answer.map_err(|status| Failure::from_status(&status, Subject::default()))?.into_inner();
        for credential in page.credentials {
            let time = credential.refresh_time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
            // Without a time nobody can say that it is older.
            if time.is_none_or(|time| time >= since) {
                let id = listed::id(&credential.customer_id, &credential.credential_id);
                let id = id.ok_or_else(Failure::unknown_answer)?;
                marks.insert(id, Seen::at(credential.revision));
            }
        }
        if marks.len() > MAX_CREDENTIALS {
            return Err(too_many());
        }
        if page.next_page_token.is_empty() {
            return Ok(marks);
        }
        page_token = page.next_page_token;
    }
}

/// A later time alone would leave the rest to whoever has their tokens.
fn too_many() -> Failure {
    Failure::failed(format!("there are more than {MAX_CREDENTIALS} of them: nothing was marked")).with_hint(
        "name a later time first, since what is marked is not listed again; repeat with earlier times until you reach this one",
    )
}

async fn mark(service: &Service, id: &CredentialRef, seen: &Seen, reason: &str) -> Outcome {
    let mut if_revision = seen.last();
    loop {
        match call(service, id, if_revision, reason).await {
            Ok(()) => return Outcome::Marked,
            Err(status) if status.code() == Code::NotFound => return Outcome::Gone,
            Err(status) if status::reason_of(&status).as_deref() == Some("REVISION_MISMATCH") => {
                match current_revision(&status) {
                    // An older one that was seen, too: a table was restored.
                    Some(current) if if_revision != Some(current) && seen.has(current) => if_revision = Some(current),
                    Some(_) | None => return Outcome::Changed,
                }
            }
            Err(status) => {
                let (customer, credential) = (id.customer.as_str(), id.credential.as_str());
                let subject = Subject { customer, credential, again: Again::Safe };
                return Outcome::Failed(Failure::from_status(&status, subject));
            }
        }
    }
}

/// Makes the call, again if that may help.
async fn call(service: &Service, id: &CredentialRef, if_revision: Option<u64>, reason: &str) -> Result<(), Status> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let request = service.request(v1::MarkNeedsReauthRequest {
            customer_id: id.customer.to_string(),
            credential_id: id.credential.to_string(),
            reason: reason.to_owned(),
            if_revision,
        });
        let Err(status) = service.credentials().mark_needs_reauth(request).await else { return Ok(()) };
        match status::retry_after(&status) {
            Some(delay) if attempt < ATTEMPTS => sleep(delay.max(pause)).await,
            Some(_) | None => return Err(status),
        }
        attempt += 1;
        pause *= 2;
    }
}

fn current_revision(status: &Status) -> Option<u64> {
    status.get_details_error_info()?.metadata.get("current_revision")?.parse().ok()
}

/// How many came to what.
#[derive(Default, Serialize)]
struct Summary {
    marked: u64,
    changed_since: u64,
    gone: u64,
    failed: u64,
}

impl Summary {
    /// Counts one, and tells of it at once if it failed.
    fn count(&mut self, id: &CredentialRef, outcome: Outcome, output: &mut Output) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Failed<'a> {
            outcome: &'static str,
            customer_id: &'a str,
            credential_id: &'a str,
            error: &'a Failure,
        }
        match outcome {
            Outcome::Marked => self.marked += 1,
            Outcome::Changed => self.changed_since += 1,
            Outcome::Gone => self.gone += 1,
            Outcome::Failed(error) => {
                self.failed += 1;
                let (customer_id, credential_id) = (id.customer.as_str(), id.credential.as_str());
                return match output.format() {
                    Format::Json => {
                        output.json(&Failed { outcome: "failed", customer_id, credential_id, error: &error })
                    }
                    Format::Text => {
                        let message = crate::output::printable(&error.message);
                        output.octets(format!("failed: {customer_id}/{credential_id}: {message}\n").as_bytes())
                    }
                };
            }
        }
        Ok(())
    }

    fn show(&self, output: &mut Output) -> Result<(), Failure> {
        match output.format() {
            Format::Json => output.json(self)?,
            Format::Text => {
                let Self { marked, changed_since, gone, failed } = self;
                let lines = [
                    (marked, "marked", "the customer has to consent again"),
                    (changed_since, "changed since", "not what was seen, and left as it is"),
                    (gone, "gone", "there is nothing to mark"),
                    (failed, "failed", "run the same command again"),
                ];
                // What did not occur is not explained; that nothing was marked is.
                let shown = lines.into_iter().filter(|(count, name, _)| **count > 0 || *name == "marked");
                for (count, name, meaning) in shown {
                    output.octets(format!("{:<14} {count:>7}  {meaning}\n", format!("{name}:")).as_bytes())?;
                }
            }
        }
        if self.failed == 0 {
            return Ok(());
        }
        Err(Failure::incomplete(format!("{} of them could not be marked", self.failed))
            .with_hint("mend what is named above and run the same command again: marking twice changes nothing"))
    }
}
