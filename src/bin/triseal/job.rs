//! A job as it is shown, and how it is watched until it ends: a bar on a terminal, a line now and then elsewhere.

mod progress;

use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;
use tonic::Status;
use triseal::grpc::v1;

use crate::client::Service;
use crate::failure::Failure;
use crate::metadata::{Lineage, short, time};
use crate::output::{Format, Output, Row};
use crate::status::{Again, Subject, retry_after};
use progress::Watched;

/// Between two looks at a job.
const LOOK: Duration = Duration::from_secs(1);
/// The least pause after a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Long work on every record, or every customer.
#[derive(Serialize)]
pub(crate) struct Job {
    job_id: String,
    kind: String,
    state: String,
    dry_run: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    customer_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Lineage>,
    total: u64,
    /// `None`: the answer was without it.
    #[serde(flatten)]
    progress: Option<Done>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<JobFailure>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    counts: Vec<VersionCount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_time: Option<String>,
    pass: u32,
    waiting: bool,
    rate: u32,
    caller: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    target_kms_key_arn: String,
    #[serde(skip)]
    is_running: bool,
}

/// How far it has come.
#[derive(Serialize)]
struct Done {
    done: u64,
    changed: u64,
    skipped: u64,
    failed: u64,
    /// In a dry run that does not count versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
}

#[derive(Serialize)]
struct JobFailure {
    customer_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    credential_id: String,
    reason: String,
}

/// How a job ended.
pub(crate) enum Ended {
    Done,
    /// All but so many.
    WithFailures(u64),
    Cancelled,
    /// In a state that this release does not know.
    Unknown,
}

/// `1 record`, `2 records`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Records under a version of a factor.
#[derive(Serialize)]
pub(crate) struct VersionCount {
    factor: String,
    version: u32,
    records: u64,
}

impl From<v1::Job> for Job {
    fn from(job: v1::Job) -> Self {
        let state = v1::JobState::try_from(job.state);
        let failures = job.failures.into_iter().map(|failure| JobFailure {
            customer_id: failure.customer_id,
            credential_id: failure.credential_id,
            reason: failure.reason,
        });
        let counts = job.counts.into_iter().map(|count| VersionCount {
            factor: short(v1::Factor::try_from(count.factor).map(|factor| factor.as_str_name()), "FACTOR_"),
            version: count.version,
            records: count.records,
        });
        let tells_due = job.dry_run && job.kind != i32::from(v1::JobKind::Reencryption);
        let progress = Done {
            done: job.done,
            changed: job.changed,
            skipped: job.skipped,
            failed: job.failed,
            due: tells_due.then_some(job.due),
        };
        Self {
            job_id: job.job_id,
            kind: short(v1::JobKind::try_from(job.kind).map(|kind| kind.as_str_name()), "JOB_KIND_"),
            state: short(state.map(|state| state.as_str_name()), "JOB_STATE_"),
            dry_run: job.dry_run,
            customer_id: job.customer_id,
            target: job.target.map(Lineage::from),
            total: job.total,
            progress: Some(progress),
            failures: failures.collect(),
            counts: counts.collect(),
            create_time: time(job.create_time),
            update_time: time(job.update_time),
            pass: job.pass,
            waiting: job.waiting,
            rate: job.rate,
            caller: job.caller,
            target_kms_key_arn: job.target_kms_key_arn,
            is_running: state == Ok(v1::JobState::Running),
        }
    }
}

impl Row<6> for Job {
    const HEADING: [&'static str; 6] = ["JOB", "KIND", "STATE", "CUSTOMER", "STARTED", "UPDATED"];

    fn row(&self) -> [String; 6] {
        [
            self.job_id.clone(),
            self.kind(),
            self.state.clone(),
            if self.customer_id.is_empty() { "(all)".to_owned() } else { self.customer_id.clone() },
            self.create_time.clone().unwrap_or_default(),
            self.update_time.clone().unwrap_or_default(),
        ]
    }
}

impl Row<3> for VersionCount {
    const HEADING: [&'static str; 3] = ["FACTOR", "VERSION", "RECORDS"];

    fn row(&self) -> [String; 3] {
        [self.factor.clone(), self.version.to_string(), self.records.to_string()]
    }
}

impl Job {
    /// From an answer that must have one.
    pub(crate) fn from_answer(job: Option<v1::Job>) -> Result<Self, Failure> {
        job.map(Self::from).ok_or_else(Failure::unknown_answer)
    }

    /// From a list, or of a job that was cancelled: such answers do not tell how far it has come.
    pub(crate) fn without_progress(job: v1::Job) -> Self {
        Self { progress: None, ..Self::from(job) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.job_id
    }

    /// Whether it is under way and leaves no record below a version of the environment key.
    pub(crate) fn brings_all_to_environment(&self, version: u32) -> bool {
        let reaches = self.target.as_ref().is_some_and(|target| target.environment_version >= version);
        self.is_running && self.customer_id.is_empty() && reaches
    }

    /// The counts, each by itself.
    pub(crate) fn into_counts(self) -> Vec<VersionCount> {
        self.counts
    }

    /// How many of the records that a dry run could read are sealed under a version of a factor.
    pub(crate) fn records_under(&self, factor: &str, version: u32) -> u64 {
        let under = self.counts.iter().filter(|count| count.factor == factor && count.version == version);
        under.map(|count| count.records).sum()
    }

    fn kind(&self) -> String {
        if self.dry_run { format!("{} (dry run)", self.kind) } else { self.kind.clone() }
    }

    /// What it walks through.
    fn things(&self) -> &'static str {
        if self.kind == "reencryption" { "records" } else { "customers" }
    }

    pub(crate) fn show(&self, output: &mut Output) -> Result<(), Failure> {
        match output.format() {
            Format::Json => output.json(self),
            Format::Text => output.fields(&self.fields()),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let pass = match self.waiting {
            true => format!("{}, waiting {}", self.pass, self.waits_for()),
            false => self.pass.to_string(),
        };
        let target = self.target.as_ref().map(|target| {
            format!("codebase {}, environment {}, and each customer's primary", target.codebase(), target.environment())
        });
        let counted = |count: fn(&Done) -> u64| self.progress.as_ref().map(|done| count(done).to_string());
        let due = self.progress.as_ref().and_then(|done| done.due);
        let mut fields = vec![
            ("job_id", self.job_id.clone()),
            ("kind", self.kind()),
            ("state", self.state.clone()),
            ("customer_id", self.customer_id.clone()),
            ("target", target.unwrap_or_else(|| self.target_kms_key_arn.clone())),
            ("pass", pass),
            ("done", self.so_far().unwrap_or_default()),
            ("due", due.map(|due| due.to_string()).unwrap_or_default()),
            ("changed", counted(|done| done.changed).unwrap_or_default()),
            ("skipped", counted(|done| done.skipped).unwrap_or_default()),
            ("failed", counted(|done| done.failed).unwrap_or_default()),
            ("rate", if self.rate == 0 { String::new() } else { format!("{} {}/s at most", self.rate, self.things()) }),
            ("caller", self.caller.clone()),
            ("create_time", self.create_time.clone().unwrap_or_default()),
            ("update_time", self.update_time.clone().unwrap_or_default()),
        ];
        for count in &self.counts {
            fields.push(("count", format!("{} version {}: {} records", count.factor, count.version, count.records)));
        }
        for failure in &self.failures {
            let JobFailure { customer_id, credential_id, reason } = failure;
            fields.push(("failure", format!("{customer_id} {credential_id} {reason}").replace("  ", " ")));
        }
        fields
    }

    /// For whom, where it waits.
    fn waits_for(&self) -> String {
        if self.target_kms_key_arn.is_empty() {
            return "until every replica has seen the target".to_owned();
        }
        let target = &self.target_kms_key_arn;
        format!("until every replica wraps with {target} (triseal replicas --output json tells which do not)")
    }

    /// Of how many, where that is known.
    fn so_far(&self) -> Option<String> {
        let Done { done, .. } = self.progress.as_ref()?;
        Some(match self.total {
            0 => format!("{done} {}", self.things()),
            total => format!("{done} of {total} {}", self.things()),
        })
    }

    /// How it ended. One that runs has met nothing that would be told.
    pub(crate) fn ended(&self) -> Ended {
        match self.state.as_str() {
            "done_with_failures" => Ended::WithFailures(self.progress.as_ref().map_or(0, |done| done.failed)),
            "cancelled" => Ended::Cancelled,
            "done" | "running" => Ended::Done,
            _ => Ended::Unknown,
        }
    }

    /// What it could not do, a line for each that the service names.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures
            .iter()
            .map(|JobFailure { customer_id, credential_id, reason }| {
                let name = format!("{customer_id}/{credential_id}");
                format!("{}: {reason}", name.trim_end_matches('/'))
            })
            .collect()
    }

    /// What the exit code tells of it.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        match self.ended() {
            Ended::WithFailures(failed) => {
                let thing = self.things().trim_end_matches('s');
                let message = if self.dry_run {
                    format!("{} can't be read", counted(failed, thing))
                } else {
                    format!("{} failed; all others succeeded", counted(failed, thing))
                };
                let were = if failed == 1 { format!("that {thing} was") } else { format!("those {thing}s were") };
                let hint = match self.failures.len() {
                    listed if (listed as u64) < failed => {
                        format!("the first {listed} are listed above, the audit log has all; {were} not changed")
                    }
                    _ => format!("listed above; {were} not changed"),
                };
                Err(Failure::incomplete(message).with_hint(hint))
            }
            Ended::Cancelled => {
                let message = "the job was cancelled; what it has done stands".to_owned();
                Err(Failure::failed(message).with_hint("start another to go on"))
            }
            Ended::Done => Ok(()),
            // Whatever it means, it does not mean that the job is done.
            Ended::Unknown => {
                let message = format!("the job is in a state that this command line does not know: {}", self.state);
                Err(Failure::failed(message).with_hint("the service is newer: use the triseal of its release"))
            }
        }
    }
}

/// A call about jobs or replicas that failed.
pub(crate) fn refusal(status: &Status, again: Again) -> Failure {
    Failure::from_status(status, Subject { again, ..Subject::default() })
}

/// A job, customer's or everyone's, that was not started. A dry run does no harm twice.
pub(crate) fn not_started(status: &Status, customer: &str, dry_run: bool) -> Failure {
    let again = if dry_run { Again::Safe } else { Again::AfterTheJobs };
    Failure::from_status(status, Subject { customer, again, ..Subject::default() })
}

/// A job as it is now.
pub(crate) async fn look(id: &str, service: &Service) -> Result<Job, Status> {
    let request = service.request(v1::GetJobRequest { job_id: id.to_owned() });
    let answer = service.keys().get_job(request).await?.into_inner();
    answer.job.map(Job::from).ok_or_else(|| Status::unknown("an answer without a job"))
}

/// Watches a job until it ends, through restarts of the service, and answers how it ended. It goes on without whoever watches it.
pub(crate) async fn watch(id: &str, service: &Service, format: Format) -> Result<Job, Failure> {
    let mut progress = Watched::new(format);
    let mut reached = false;
    loop {
        match look(id, service).await {
            Ok(job) if job.is_running => {
                reached = true;
                progress.show(&job);
                sleep(LOOK).await;
            }
            Ok(job) => return Ok(job),
            // At first, it is told at once that nothing listens there.
            Err(status) => match retry_after(&status).filter(|_| reached) {
                Some(pause) => {
                    progress.trouble(&refusal(&status, Again::Reads).message);
                    sleep(pause.max(LOOK_AGAIN)).await;
                }
                None => return Err(refusal(&status, Again::Reads)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn job(state: v1::JobState) -> Job {
        Job::from(v1::Job {
            job_id: "1-a".to_owned(),
            kind: v1::JobKind::Reencryption.into(),
            state: state.into(),
            failed: 2,
            failures: vec![v1::JobFailure {
                customer_id: "acme".to_owned(),
                credential_id: String::new(),
                reason: "KMS_REFUSED".to_owned(),
            }],
            ..v1::Job::default()
        })
    }

    #[test]
    fn the_exit_code_tells_how_it_ended() {
        for (state, exit) in [
            (v1::JobState::Running, None),
            (v1::JobState::Done, None),
            (v1::JobState::DoneWithFailures, Some(Exit::DoneInPart)),
            (v1::JobState::Cancelled, Some(Exit::Failed)),
        ] {
            assert_eq!(job(state).end().err().map(|failure| failure.exit), exit, "{state:?}");
        }
    }

    /// Zeros that nobody counted would be believed.
    #[test]
    fn what_a_list_does_not_know_is_left_out() {
        let message = || v1::Job {
            kind: v1::JobKind::Rewrap.into(),
            dry_run: true,
            done: 3,
            skipped: 1,
            due: 2,
            ..v1::Job::default()
        };
        let known = serde_json::to_value(Job::from(message())).unwrap();
        assert_eq!([&known["done"], &known["skipped"], &known["due"]].map(|count| count.as_u64()), [3, 1, 2].map(Some));
        assert!(Job::from(message()).fields().contains(&("due", "2".to_owned())));
        let listed = Job::without_progress(message());
        let fields = listed.fields();
        let listed = serde_json::to_value(listed).unwrap();
        for name in ["done", "changed", "skipped", "failed", "due"] {
            assert_eq!(listed.get(name), None, "{name}");
            assert!(fields.iter().all(|(field, value)| *field != name || value.is_empty()), "{name}");
        }
    }

    #[test]
    fn a_state_of_a_newer_service_is_not_taken_for_done() {
        for state in [0, 99] {
            let job = Job::from(v1::Job { state, ..v1::Job::default() });
            assert!(!job.is_running);
            assert_eq!(job.end().unwrap_err().exit, Exit::Failed, "{state}");
        }
    }

    #[test]
    fn a_rewrap_shows_its_target_and_for_whom_it_waits() {
        let waiting =
            v1::Job { waiting: true, pass: 1, target_kms_key_arn: "arn:new".to_owned(), ..v1::Job::default() };
        let fields = Job::from(waiting).fields();
        assert!(fields.contains(&("target", "arn:new".to_owned())), "{fields:?}");
        let (_, pass) = fields.iter().find(|(name, _)| *name == "pass").unwrap();
        assert!(pass.starts_with("1, waiting until every replica wraps with arn:new"), "{pass}");
    }

    #[test]
    fn failures_are_named() {
        let job = job(v1::JobState::DoneWithFailures);
        let failure = job.end().unwrap_err();
        assert_eq!(failure.message, "2 records failed; all others succeeded");
        assert!(
            failure.hint.is_some_and(|hint| hint.starts_with("the first 1 are listed above, the audit log has all"))
        );
        let fields = job.fields();
        assert!(fields.contains(&("failure", "acme KMS_REFUSED".to_owned())), "{fields:?}");
    }
}
