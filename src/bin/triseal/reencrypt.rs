//! `triseal reencrypt` and `triseal rewrap`: jobs, started, looked at and ended.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use triseal::grpc::v1;
use triseal::ids::CustomerId;

use crate::client::{Connect, Service};
use crate::failure::Failure;
use crate::job::{self, Job};
use crate::output::Output;
use crate::status::Again;

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Re-encrypt every record that is not under the current primaries
    #[command(after_help = START_HELP)]
    Start(Start),
    /// Show how far a job has come
    #[command(after_help = STATUS_HELP)]
    Status(Which),
    /// Watch a job until it ends
    #[command(after_help = WATCH_HELP)]
    Watch(Which),
    /// List jobs of every kind, the last first
    #[command(after_help = LIST_HELP)]
    List(List),
    /// End a job after what is under way
    #[command(after_help = CANCEL_HELP)]
    Cancel(Cancel),
}

const START_HELP: &str = "\
The replicas carry it out; it goes on through restarts, and callers come first. No revision and no time of a credential
changes. It ends with a walk that changed nothing, which begins when every replica has seen the primaries.

Examples:
  triseal reencrypt start
  triseal reencrypt start --customer acme --rate 500
  triseal reencrypt watch";

const STATUS_HELP: &str = "\
Without a JOB: the last re-encryption. Exit code 3: it is done, with failures.

Example:
  triseal reencrypt status --output json";

const WATCH_HELP: &str = "\
Without a JOB: the last re-encryption. Any job can be watched. The job goes on when the watching ends. A bar on a terminal,
lines elsewhere, and how it ended. Exit codes: 0 done, 1 cancelled, 3 done with failures.

Example:
  triseal reencrypt watch";

const LIST_HELP: &str = "\
Example:
  triseal reencrypt list --limit 5";

const CANCEL_HELP: &str = "\
Any job can be cancelled. What it has done stands, and another one goes on from there.

Example:
  triseal reencrypt cancel 8212345678901-0a1b2c3d";

/// What the starts of all jobs have in common.
#[derive(Args)]
pub(crate) struct Pace {
    /// Write nothing, and tell what there is to do
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// At most N per second, all replicas together: 1 to 1000000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
}

#[derive(Args)]
pub(crate) struct Start {
    /// Only this customer's records
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    customer: Option<CustomerId>,
    #[command(flatten)]
    pace: Pace,
}

#[derive(Args)]
pub(crate) struct Which {
    /// The job, as its start named it
    #[arg(value_name = "JOB")]
    job: Option<String>,
}

#[derive(Args)]
pub(crate) struct List {
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<NonZeroU32>,
}

#[derive(Args)]
pub(crate) struct Cancel {
    /// The job, as its start named it
    #[arg(value_name = "JOB")]
    job: String,
}

/// What `triseal rewrap` takes.
#[derive(Args)]
pub(crate) struct Rewrap {
    /// Only this customer's keys
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    customer: Option<CustomerId>,
    #[command(flatten)]
    pace: Pace,
    /// Do not wait until it ends
    #[arg(long)]
    detach: bool,
}

pub(crate) async fn run(command: Command, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    match command {
        Command::Start(Start { customer, pace }) => {
            let customer = customer.map(|id| id.to_string()).unwrap_or_default();
            start(&customer, &pace, &service).await?.show(output)
        }
        Command::Status(which) => {
            let id = which.named(&service).await?;
            let job = job::look(&id, &service).await.map_err(|status| job::refusal(&status, Again::Reads))?;
            job.show(output)?;
            job.end()
        }
        Command::Watch(which) => ends(&which.named(&service).await?, &service, output).await,
        Command::List(arguments) => list(&arguments, &service, output).await,
        Command::Cancel(Cancel { job }) => {
            let answer = service.keys().cancel_job(service.request(v1::CancelJobRequest { job_id: job })).await;
            let answer = answer.map_err(|status| job::refusal(&status, Again::Safe))?.into_inner();
            let job = answer.job.ok_or_else(Failure::unknown_answer)?;
            Job::without_progress(job).show(output)
        }
    }
}

pub(crate) async fn rewrap(arguments: Rewrap, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    let customer = arguments.customer.map(|id| id.to_string()).unwrap_or_default();
    let message = v1::StartRewrapRequest {
        customer_id: customer.clone(),
        dry_run: arguments.pace.dry_run,
        rate: arguments.pace.rate.unwrap_or_default(),
    };
    let answer = service.keys().start_rewrap(service.request(message)).await;
    let answer = answer.map_err(|status| job::not_started(&status, &customer, arguments.pace.dry_run))?.into_inner();
    started(Job::from_answer(answer.job)?, arguments.detach, &service, output).await
}

/// Starts a re-encryption, or a count of what is under each version.
pub(crate) async fn start(customer: &str, pace: &Pace, service: &Service) -> Result<Job, Failure> {
    let message = v1::StartReencryptionRequest {
        customer_id: customer.to_owned(),
        dry_run: pace.dry_run,
        rate: pace.rate.unwrap_or_default(),
    };
    let answer = service.keys().start_reencryption(service.request(message)).await;
    Job::from_answer(answer.map_err(|status| job::not_started(&status, customer, pace.dry_run))?.into_inner().job)
}

/// Waits for a job that was started, unless nobody wants to.
pub(crate) async fn started(job: Job, detach: bool, service: &Service, output: &mut Output) -> Result<(), Failure> {
    if detach { job.show(output) } else { ends(job.id(), service, output).await }
}

async fn ends(id: &str, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let job = job::watch(id, service, output.format()).await?;
    job.show(output)?;
    job.end()
}

impl Which {
    /// The job that is named, or the last re-encryption.
    async fn named(self, service: &Service) -> Result<String, Failure> {
        if let Some(job) = self.job {
            return Ok(job);
        }
        let last = last(service).await?.ok_or_else(|| {
            let failure = Failure::failed("there was no re-encryption yet".to_owned());
            failure.with_hint("start one: triseal reencrypt start")
        })?;
        Ok(last.id().to_owned())
    }
}

/// The last re-encryption, if there was one.
pub(crate) async fn last(service: &Service) -> Result<Option<Job>, Failure> {
    let mut page_token = String::new();
    loop {
        let message = v1::ListJobsRequest { page_size: 0, page_token: page_token.clone() };
        let page = service.keys().list_jobs(service.request(message)).await;
        let page = page.map_err(|status| job::refusal(&status, Again::Reads))?.into_inner();
        let kind = i32::from(v1::JobKind::Reencryption);
        if let Some(job) = page.jobs.into_iter().find(|job| job.kind == kind && !job.dry_run) {
            return Ok(Some(Job::without_progress(job)));
        }
        if page.next_page_token.is_empty() || page.next_page_token == page_token {
            return Ok(None);
        }
        page_token = page.next_page_token;
    }
}

async fn list(arguments: &List, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let mut client = service.keys();
    let fetch = async |page_token: String, wanted: u64| {
        let page_size = i32::try_from(wanted.min(100)).unwrap_or(100);
        let answer = client.list_jobs(service.request(v1::ListJobsRequest { page_size, page_token })).await;
        let page = answer.map_err(|status| job::refusal(&status, Again::Reads))?.into_inner();
        Ok((page.jobs.into_iter().map(Job::without_progress).collect(), page.next_page_token))
    };
    output.list(arguments.limit.map(|limit| u64::from(limit.get())), fetch).await
}
