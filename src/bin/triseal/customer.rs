//! `triseal customer`: the arguments of each command, its one call, and how the answer is shown.

use clap::{Args, Subcommand, ValueEnum};
use tonic::{Response, Status};
use triseal::grpc::v1;
use triseal::ids::CustomerId;

use crate::client::{Connect, Service};
use crate::confirm::Confirm;
use crate::failure::Failure;
use crate::metadata::Customer;
use crate::output::{Format, Output};
use crate::status::{Again, Subject};

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Provision a customer with a key of its own; one that is there already is shown as it is
    #[command(after_help = "Example:\n  triseal customer create acme")]
    Create(Which),
    /// Show a customer's state and key versions
    #[command(after_help = "Example:\n  triseal customer get acme --output json")]
    Get(Which),
    /// Let nothing of a customer open or seal, until it is enabled again
    #[command(after_help = "Example:\n  triseal customer disable acme")]
    Disable(Which),
    /// Open a disabled customer again
    #[command(after_help = "Example:\n  triseal customer enable acme")]
    Enable(Which),
    /// Have a disabled customer's keys and credentials erased on a day, for ever
    #[command(after_help = DESTROY_HELP)]
    Destroy(Destroy),
    /// Take a destruction back, before its day
    #[command(after_help = "Example:\n  triseal customer restore acme")]
    Restore(Which),
    /// List customers
    #[command(after_help = LIST_HELP)]
    List(List),
}

const LIST_HELP: &str = "\
Rows are written as they come, in no promised order; with --output json each is an object on a line of its own.

Example:
  triseal customer list --state active";

#[derive(Args)]
pub(crate) struct Which {
    /// The customer
    #[arg(value_name = "ID", value_parser = CustomerId::parse)]
    pub(crate) customer: CustomerId,
}

const DESTROY_HELP: &str = "\
Nothing brings the credentials back after the day: the customer has to consent again, under another id. Until then
`triseal customer restore` takes it back. Asks for the id typed back, or takes --yes. Afterwards, `triseal customer get`
shows the receipt.

Example:
  triseal customer disable acme
  triseal customer destroy acme --days 30";

#[derive(Args)]
pub(crate) struct Destroy {
    #[command(flatten)]
    which: Which,
    /// In so many days: 7 to 30
    #[arg(long, value_parser = clap::value_parser!(i32).range(7..=30))]
    days: i32,
    #[command(flatten)]
    confirm: Confirm,
}

#[derive(Args)]
pub(crate) struct List {
    /// Only in this state
    #[arg(long, value_enum)]
    state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum State {
    /// Its credentials open and can be sealed
    Active,
    /// Nothing opens or seals
    Disabled,
    /// As disabled, and destroyed on a day
    PendingDestruction,
    /// Its keys and credentials are erased
    Destroyed,
}

pub(crate) async fn run(command: Command, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    let service = Service::new(connect)?;
    match command {
        Command::Create(which) => create(&which, &service, output).await,
        Command::Get(which) => get(&which, &service, output).await,
        Command::Disable(which) => {
            let request = service.request(v1::DisableCustomerRequest { customer_id: which.customer.to_string() });
            let answer = service.customers().disable_customer(request).await;
            show(which.told(answer, Again::Safe)?.customer, output)
        }
        Command::Enable(which) => {
            let request = service.request(v1::EnableCustomerRequest { customer_id: which.customer.to_string() });
            let answer = service.customers().enable_customer(request).await;
            show(which.told(answer, Again::Safe)?.customer, output)
        }
        Command::Destroy(Destroy { which, days, confirm }) => {
            let what = format!("erases all keys and credentials of {} in {days} days", which.customer);
            confirm.ask(&what, which.customer.as_str(), output.format())?;
            let message = v1::DestroyCustomerRequest { customer_id: which.customer.to_string(), days };
            let answer = service.customers().destroy_customer(service.request(message)).await;
            show(which.told(answer, Again::Safe)?.customer, output)
        }
        Command::Restore(which) => {
            let request = service.request(v1::RestoreCustomerRequest { customer_id: which.customer.to_string() });
            let answer = service.customers().restore_customer(request).await;
            show(which.told(answer, Again::Safe)?.customer, output)
        }
        Command::List(arguments) => list(&arguments, &service, output).await,
    }
}

impl Which {
    pub(crate) fn told<T>(&self, answer: Result<Response<T>, Status>, again: Again) -> Result<T, Failure> {
        let subject = Subject { customer: self.customer.as_str(), again, ..Subject::default() };
        answer.map(Response::into_inner).map_err(|status| Failure::from_status(&status, subject))
    }
}

async fn create(which: &Which, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let request = service.request(v1::CreateCustomerRequest { customer_id: which.customer.to_string() });
    let answer = service.customers().create_customer(request).await;
    show(which.told(answer, Again::Safe)?.customer, output)
}

async fn get(which: &Which, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let request = service.request(v1::GetCustomerRequest { customer_id: which.customer.to_string() });
    let answer = service.customers().get_customer(request).await;
    show(which.told(answer, Again::Reads)?.customer, output)
}

async fn list(arguments: &List, service: &Service, output: &mut Output) -> Result<(), Failure> {
    let state = match arguments.state {
        None => v1::CustomerState::Unspecified,
        Some(State::Active) => v1::CustomerState::Active,
        Some(State::Disabled) => v1::CustomerState::Disabled,
        Some(State::PendingDestruction) => v1::CustomerState::PendingDestruction,
        Some(State::Destroyed) => v1::CustomerState::Destroyed,
    };
    let mut client = service.customers();
    let fetch = async |page_token: String, _wanted: u64| {
        let message = v1::ListCustomersRequest { page_size: 0, page_token, state: state.into() };
        let answer = client.list_customers(service.request(message)).await;
        let page = answer.map_err(|status| Failure::from_status(&status, Subject::default()))?.into_inner();
        Ok((page.customers.into_iter().map(Customer::from).collect(), page.next_page_token))
    };
    output.list(None, fetch).await
}

pub(crate) fn show(customer: Option<v1::Customer>, output: &mut Output) -> Result<(), Failure> {
    let customer: Customer = customer.ok_or_else(Failure::unknown_answer)?.into();
    match output.format() {
        Format::Json => output.json(&customer),
        Format::Text => output.fields(&customer.fields()),
    }
}
