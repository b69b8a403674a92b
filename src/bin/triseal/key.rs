//! `triseal rotate`, `triseal key` and `triseal replicas`: new versions of keys, the end of old ones, and what stands under which. No
//! key passes through here.

use std::num::NonZeroU32;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use triseal::grpc::v1;
use triseal::ids::CustomerId;

use crate::client::{Connect, Service};
use crate::confirm::{Confirm, will};
use crate::customer::{Which, show};
use crate::failure::Failure;
use crate::job::{self, Job, VersionCount};
use crate::metadata::{Lineage, time};
use crate::output::{Format, Output, Row, Table};
use crate::reencrypt::{self, Pace};
use crate::rotate::unretire::{self, Unretire};
use crate::rotate::{codebase, environment, retire};
use crate::status::Again;

/// What is rotated.
#[derive(Subcommand)]
pub(crate) enum Rotate {
    /// Make a new version of a customer's key, or of every customer's, and seal under it from now on
    #[command(after_help = ROTATE_CUSTOMER_HELP)]
    Customer(RotateCustomer),
    /// Add a version of the deployment's key, and seal under it once every replica has read it
    #[command(after_help = environment::HELP)]
    Environment(environment::Arguments),
    /// Add a version of the codebase's key to the key file of the build
    // Without the options of a service, which clap would name where the environment sets them.
    #[command(override_usage = "triseal rotate codebase [OPTIONS] --file <PATH>", after_help = codebase::HELP)]
    Codebase(codebase::Arguments),
}

const ROTATE_CUSTOMER_HELP: &str = "\
KMS makes the key without showing it. No record is rewritten: they open under the old version until they are re-encrypted.
With --all a job does it, customer by customer, but for those pending destruction; it asks for the word typed back, or takes
--yes, and waits until it ends.

Examples:
  triseal rotate customer acme
  triseal rotate customer --all --yes
  triseal reencrypt start";

#[derive(Args)]
#[command(group = ArgGroup::new("which").args(["customer", "all"]).required(true))]
pub(crate) struct RotateCustomer {
    /// The customer
    #[arg(value_name = "ID", value_parser = CustomerId::parse)]
    customer: Option<CustomerId>,
    /// Every customer
    #[arg(long)]
    all: bool,
    /// With --all: write nothing, and tell how many would be rotated
    #[arg(long, requires = "all")]
    dry_run: bool,
    /// With --all: at most N per second, all replicas together: 1 to 1000000
    #[arg(long, requires = "all", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// With --all: do not wait until it ends
    #[arg(long, requires = "all")]
    detach: bool,
    #[command(flatten)]
    confirm: Confirm,
}

/// What is done to a version.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Count the records under each version of each factor
    #[command(after_help = USAGE_HELP)]
    Usage(Usage),
    /// Refuse a version from now on
    #[command(subcommand)]
    Retire(Retire),
    /// Open a retired version again, for tables that were restored from before
    #[command(subcommand)]
    Unretire(Unretire),
}

const USAGE_HELP: &str = "\
A dry run of re-encryption: it reads each record's own header, and writes nothing. Customers' versions count from 1 for each
of them, so that those are told apart with --customer alone. Exit code 3: some records can't be read; they are named.

Examples:
  triseal key usage
  triseal key usage --customer acme";

#[derive(Args)]
pub(crate) struct Usage {
    /// Only this customer's records
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    customer: Option<CustomerId>,
    /// Read at most N records per second, all replicas together: 1 to 1000000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

/// Of which factor.
#[derive(Subcommand)]
pub(crate) enum Retire {
    /// Of a customer's key
    #[command(after_help = RETIRE_CUSTOMER_HELP)]
    Customer(RetireCustomer),
    /// Of the deployment's key
    #[command(after_help = retire::ENVIRONMENT_HELP)]
    Environment(retire::Environment),
    /// Of the codebase's key
    #[command(after_help = retire::CODEBASE_HELP)]
    Codebase(retire::Codebase),
}

const RETIRE_CUSTOMER_HELP: &str = "\
Refused for the primary, for a version that was the primary a moment ago, and as long as a record is sealed under it: then it
tells how many. Nothing opens under the version afterwards. Asks for the version typed back, or takes --yes. The service reads the
header of each of the customer's records meanwhile, for up to 5 minutes.

Example:
  triseal reencrypt start --customer acme
  triseal reencrypt watch
  triseal key retire customer acme 1";

#[derive(Args)]
pub(crate) struct RetireCustomer {
    #[command(flatten)]
    which: Which,
    /// The version
    #[arg(value_name = "VERSION")]
    version: NonZeroU32,
    #[command(flatten)]
    confirm: Confirm,
}

pub(crate) async fn rotate(command: Rotate, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    match command {
        Rotate::Customer(arguments) => rotate_customer(arguments, connect, output).await,
        Rotate::Environment(arguments) => environment::run(arguments, connect, output).await,
        Rotate::Codebase(arguments) => codebase::run(arguments, output).await,
    }
}

async fn rotate_customer(arguments: RotateCustomer, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    if let Some(customer) = arguments.customer {
        will(
            &format!("gives {customer} a new key, and seals under it from now on; no record is rewritten"),
            output.format(),
        );
        let request = service.request(v1::RotateCustomerKeyRequest { customer_id: customer.to_string() });
        let answer = service.keys().rotate_customer_key(request).await;
        return show(Which { customer }.told(answer, Again::AfterTheCustomer)?.customer, output);
    }
    if !arguments.dry_run {
        arguments.confirm.ask("gives every customer a new key", "all", output.format())?;
    }
    let message = v1::StartCustomerKeyRotationRequest {
        customer_id: String::new(),
        dry_run: arguments.dry_run,
        rate: arguments.rate.unwrap_or_default(),
    };
    let answer = service.keys().start_customer_key_rotation(service.request(message)).await;
    let answer = answer.map_err(|status| job::not_started(&status, "", arguments.dry_run))?.into_inner();
    reencrypt::started(Job::from_answer(answer.job)?, arguments.detach, &service, output).await
}

pub(crate) async fn run(command: Command, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Usage(arguments) => usage(arguments, &Service::new(connect)?, output).await,
        Command::Unretire(command) => unretire::run(command, output).await,
        Command::Retire(Retire::Environment(arguments)) => retire::environment(arguments, connect, output).await,
        Command::Retire(Retire::Codebase(arguments)) => retire::codebase(arguments, connect, output).await,
        Command::Retire(Retire::Customer(RetireCustomer { which, version, confirm })) => {
            let service = Service::new(connect)?;
            let customer = which.customer.as_str();
            let what = format!("refuses version {version} of the key of {customer} for good");
            confirm.ask(&what, &version.to_string(), output.format())?;
            let message =
                v1::RetireCustomerKeyVersionRequest { customer_id: customer.to_owned(), version: version.get() };
            let answer = service.keys().retire_customer_key_version(service.long_request(message)).await;
            show(which.told(answer, Again::Safe)?.customer, output)
        }
    }
}

async fn usage(arguments: Usage, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let customer = arguments.customer.map(|id| id.to_string()).unwrap_or_default();
    let pace = Pace { dry_run: true, rate: arguments.rate };
    let started = reencrypt::start(&customer, &pace, service).await?;
    let job = job::watch(started.id(), service, output.format()).await?;
    let ended = job.end();
    match output.format() {
        Format::Json => output.json(&job)?,
        Format::Text if ended.is_err() => job.show(output)?,
        Format::Text => {
            let rows: Vec<_> = job.into_counts().iter().map(Row::row).collect();
            output.octets(Table::new(<VersionCount as Row<3>>::HEADING).page(&rows).as_bytes())?;
        }
    }
    ended
}

/// A process of the service.
#[derive(Serialize)]
struct Replica {
    replica_id: String,
    release: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    primaries: Option<Lineage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primaries_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report_time: Option<String>,
    kms_key_arn: String,
}

impl Row<6> for Replica {
    const HEADING: [&'static str; 6] = ["REPLICA", "RELEASE", "CODEBASE", "ENVIRONMENT", "SINCE", "REPORTED"];

    fn row(&self) -> [String; 6] {
        let version = |of: fn(&Lineage) -> u32| match self.primaries.as_ref().map(of) {
            None | Some(0) => "seals nothing".to_owned(),
            Some(version) => version.to_string(),
        };
        [
            self.replica_id.clone(),
            self.release.clone(),
            version(Lineage::codebase),
            version(Lineage::environment),
            self.primaries_time.clone().unwrap_or_default(),
            self.report_time.clone().unwrap_or_default(),
        ]
    }
}

/// Lists the replicas.
pub(crate) async fn replicas(connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    let fetch = async |_: String, _: u64| {
        let answer = service.keys().list_replicas(service.request(v1::ListReplicasRequest {})).await;
        let found = answer.map_err(|status| job::refusal(&status, Again::Reads))?.into_inner().replicas;
        let replicas = found.into_iter().map(|replica| Replica {
            replica_id: replica.replica_id,
            release: replica.release,
            primaries: replica.primaries.map(Lineage::from),
            primaries_time: time(replica.primaries_time),
            report_time: time(replica.report_time),
            kms_key_arn: replica.kms_key_arn,
        });
        Ok((replicas.collect::<Vec<_>>(), String::new()))
    };
    output.list(None, fetch).await
}
