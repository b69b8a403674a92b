//! `triseal rotate` and `triseal key`: new versions of keys, and the end of old ones. No key passes through here.

use std::num::NonZeroU32;

use clap::{Args, Subcommand};
use triseal::grpc::v1;

use crate::client::{Connect, Service};
use crate::confirm::Confirm;
use crate::customer::{Which, show};
use crate::failure::Failure;
use crate::output::Output;

/// What is rotated.
#[derive(Subcommand)]
pub(crate) enum Rotate {
    /// Make a new version of a customer's key, and seal under it from now on
    #[command(after_help = ROTATE_CUSTOMER_HELP)]
    Customer(Which),
}

const ROTATE_CUSTOMER_HELP: &str = "\
KMS makes the key without showing it. No record is rewritten: they open under the old version until they are re-encrypted.

Example:
  triseal rotate customer acme";

/// What is done to a version.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Refuse a version from now on
    #[command(subcommand)]
    Retire(Retire),
}

/// Of which factor.
#[derive(Subcommand)]
pub(crate) enum Retire {
    /// Of a customer's key
    #[command(after_help = RETIRE_CUSTOMER_HELP)]
    Customer(RetireCustomer),
}

const RETIRE_CUSTOMER_HELP: &str = "\
Refused for the primary, for a version that was the primary a moment ago, and as long as a record is sealed under it.
Asks for the version typed back, or takes --yes.

Example:
  triseal key retire customer acme --version 1";

#[derive(Args)]
pub(crate) struct RetireCustomer {
    #[command(flatten)]
    which: Which,
    /// The version
    #[arg(long, value_name = "N")]
    version: NonZeroU32,
    #[command(flatten)]
    confirm: Confirm,
}

/// Does what is asked.
pub(crate) async fn rotate(command: Rotate, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    match command {
        Rotate::Customer(which) => {
            let request = service.request(v1::RotateCustomerKeyRequest { customer_id: which.customer.to_string() });
            let answer = service.keys().rotate_customer_key(request).await;
            show(which.told(answer)?.customer, output)
        }
    }
}

/// Does what is asked.
pub(crate) async fn run(command: Command, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    match command {
        Command::Retire(Retire::Customer(RetireCustomer { which, version, confirm })) => {
            let customer = which.customer.as_str();
            confirm
                .ask(&format!("refuses version {version} of the key of {customer} for good"), &version.to_string())?;
            let message =
                v1::RetireCustomerKeyVersionRequest { customer_id: customer.to_owned(), version: version.get() };
            let answer = service.keys().retire_customer_key_version(service.request(message)).await;
            show(which.told(answer)?.customer, output)
        }
    }
}
