//! What `triseal credential` takes from the command line. No secret is among it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use triseal::ids::{CredentialId, CustomerId};

use crate::confirm::Confirm;
use crate::duration;

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Seal a secret and store it
    #[command(after_help = ENCRYPT_HELP)]
    Encrypt(Encrypt),
    /// Open a secret and print it
    #[command(after_help = DECRYPT_HELP)]
    Decrypt(Decrypt),
    /// Show what is known of a credential, without its secret
    Get(Which),
    /// List what is known of credentials, without their secrets
    #[command(after_help = LIST_HELP)]
    List(List),
    /// Erase a secret
    #[command(after_help = DELETE_HELP)]
    Delete(Delete),
    /// Store the secrets of a file, many at a time; safe to stop and to repeat
    #[command(after_help = IMPORT_HELP)]
    Import(Import),
    /// Mark credentials as needing new consent, after a breach or a restore
    #[command(after_help = MARK_HELP)]
    MarkNeedsReauth(Mark),
}

const ENCRYPT_HELP: &str = "\
The secret is read from FILE or from standard input, never from an argument.

  --from-salesforce       the JSON that Salesforce's token endpoint answered, as it is. Kept are access_token,
                          refresh_token, instance_url, id, issued_at and scope
  --kind salesforce_oauth a JSON object with any of access_token, refresh_token, instance_url, token_url, identity_url,
                          scopes (an array), issue_time and access_token_expire_time (RFC 3339)
  --kind password         a JSON object with any of username, password, security_token, login_url
  --kind opaque           the octets as they are, a last line break included

Examples:
  triseal credential encrypt --customer acme --credential crm --from-salesforce answer.json
  printf %s \"$KEY\" | triseal credential encrypt --customer acme --credential api --kind opaque
  triseal credential encrypt --customer acme --credential crm --kind password --if-revision 0 < login.json";

const DECRYPT_HELP: &str = "\
As text, a name and a value on each line; an opaque secret is its octets and nothing else. As JSON,
{\"secret\": {KIND: {...}}, \"credential\": {...}}, the data of an opaque secret in base64.

Examples:
  triseal credential decrypt --customer acme --credential crm
  triseal credential decrypt --customer acme --credential api --view full > key.bin
  triseal credential decrypt --customer acme --credential crm --output json | jq -r .secret.salesforce_oauth.access_token";

const LIST_HELP: &str = "\
Rows are written as they come, in no promised order; with --output json each is an object on a line of its own.

Examples:
  triseal credential list --customer acme
  triseal credential list --state needs_reauth --output json
  triseal credential list --refreshed-before 2026-11-24T09:00:00Z";

const DELETE_HELP: &str = "\
Asks for the credential's id to be typed back; without a terminal, --yes is needed.

Examples:
  triseal credential delete --customer acme --credential crm
  triseal credential delete --customer acme --credential crm --if-revision 3 --yes";

const IMPORT_HELP: &str = "\
Each line of FILE is a JSON object: \"customer\" and \"credential\", and one of these, each as `credential encrypt` takes it:

  \"from_salesforce\"   the object that Salesforce's token endpoint answered; beside it, if need be, \"token_url\"
  \"salesforce_oauth\"  an object with any of access_token, refresh_token, instance_url, token_url, identity_url, scopes,
                      issue_time and access_token_expire_time
  \"password\"          an object with any of username, password, security_token, login_url
  \"opaque\"            {\"data\": BASE64} or {\"text\": TEXT}, and if need be \"content_type\"

Nothing is written over: a credential that is there already is opened and compared, and counted as \"already there\" or
\"differing\". What is stored is opened again and compared, too, so the policy must permit to decrypt --view full. The command can
be stopped at any time, and run again. Of two lines with the same ids the first is stored. A bad line stops nothing.

While the service is away or overloaded, lines are tried again. If none succeeds for --retry-for, the command stops (exit code 1).
Exit code 3: every line was tried, and some failed or differ. --dry-run tells of each line what the service would refuse, and, if a
service answers, what is there already; it does not look for ids that the file has twice.

Examples:
  triseal credential import tokens.jsonl --dry-run
  triseal credential import tokens.jsonl --create-customers --report problems.jsonl
  psql -qAtc \"SELECT json_build_object('customer', org_id, 'credential', 'realsync.main', 'from_salesforce', answer)
    FROM tokens\" | triseal credential import -";

const MARK_HELP: &str = "\
FILE has CUSTOMER/CREDENTIAL on each line, or is what `triseal audit report` wrote with --csv or --output json. Of a report,
only what was seen and is still stored is marked, and on the condition that it is still at the revision that was seen.

--refreshed-since lists the Salesforce credentials whose tokens were last issued at that time or later, and marks each on the
condition that it is still at the revision that was listed.

Marked, a credential gives no tokens out until new ones are stored. Marking twice changes nothing: the command can be stopped at
any time, and run again. Asks for the number of credentials typed back; without a terminal, --yes is needed.

With --output json there is an object with \"outcome\": \"failed\" for each that could not be marked, and then the numbers of all.

Exit codes: 0 done, 1 failed, 3 done, and some could not be marked.

Examples:
  triseal credential mark-needs-reauth seen.csv --reason \"leak of 2026-11-24\"
  triseal audit report --caller spiffe://example.com/realtask --living --output json audit.jsonl* |
    triseal credential mark-needs-reauth - --reason \"stolen certificate\" --yes
  triseal credential mark-needs-reauth --refreshed-since 2026-11-24T09:00:00Z --reason \"restore of 2026-11-24\"";

/// Names one credential.
#[derive(Args)]
pub(crate) struct Which {
    /// The customer
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    pub(super) customer: CustomerId,
    /// The credential
    #[arg(long, value_name = "ID", value_parser = CredentialId::parse)]
    pub(super) credential: CredentialId,
}

#[derive(Args)]
#[command(group(ArgGroup::new("form").required(true).args(["kind", "from_salesforce"])))]
pub(crate) struct Encrypt {
    #[command(flatten)]
    pub(super) which: Which,
    /// What kind of secret the input is
    #[arg(long, value_enum)]
    pub(super) kind: Option<Kind>,
    /// The input is an answer of Salesforce's token endpoint
    #[arg(long)]
    pub(super) from_salesforce: bool,
    /// Where the tokens are refreshed [default: https://HOST/services/oauth2/token, HOST from the answer's id]
    #[arg(long, value_name = "URL", requires = "from_salesforce", conflicts_with = "kind")]
    pub(super) token_url: Option<String>,
    /// The media type of an opaque secret
    #[arg(long, value_name = "TYPE", conflicts_with = "from_salesforce")]
    pub(super) content_type: Option<String>,
    /// Only if the credential is at this revision; 0: only if there is none
    #[arg(long, value_name = "N")]
    pub(super) if_revision: Option<u64>,
    /// Names this change, so that repeating the command changes nothing
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Where the secret is; standard input if absent or -
    pub(super) file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Decrypt {
    #[command(flatten)]
    pub(super) which: Which,
    /// access: everything but the refresh token; full: everything
    #[arg(long, value_enum, default_value_t = View::Access)]
    pub(super) view: View,
    /// Only this revision
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) if_revision: Option<u64>,
}

#[derive(Args)]
pub(crate) struct List {
    /// Only this customer's
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    pub(super) customer: Option<CustomerId>,
    /// Only of this kind
    #[arg(long, value_enum)]
    pub(super) kind: Option<Kind>,
    /// Only in this state
    #[arg(long, value_enum)]
    pub(super) state: Option<State>,
    /// Only salesforce_oauth whose tokens were last issued before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) refreshed_before: Option<jiff::Timestamp>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pub(super) which: Which,
    /// Only if the credential is at this revision
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) if_revision: Option<u64>,
    #[command(flatten)]
    pub(super) confirm: Confirm,
}

#[derive(Args)]
pub(crate) struct Import {
    /// A JSON object on each line, of at most 1 MiB; - for standard input
    pub(super) file: PathBuf,
    /// Create the customers that do not exist
    #[arg(long)]
    pub(super) create_customers: bool,
    /// Write nothing: tell what is wrong, and what is there already
    #[arg(long)]
    pub(super) dry_run: bool,
    /// A new file, for a JSON object on a line for each line that failed or differs
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// How many lines are under way at the same time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) concurrency: u16,
    /// For how long to try again while the service is away or overloaded
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration::parse_some)]
    pub(super) retry_for: Duration,
}

#[derive(Args)]
#[command(group(ArgGroup::new("which").required(true).args(["file", "refreshed_since"])))]
pub(crate) struct Mark {
    /// Which credentials; - for standard input
    pub(super) file: Option<PathBuf>,
    /// The Salesforce credentials whose tokens were last issued at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(super) refreshed_since: Option<jiff::Timestamp>,
    /// What is to stand in their state_reason: at most 200 octets
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) confirm: Confirm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The OAuth tokens of a Salesforce connection
    SalesforceOauth,
    /// A user name and a password
    Password,
    /// Any other octets
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum View {
    /// Everything of a salesforce_oauth but its refresh token
    Access,
    /// Everything
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum State {
    /// It can be used
    Active,
    /// Its customer has to consent again
    NeedsReauth,
}
