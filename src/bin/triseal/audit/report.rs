//! `triseal audit report`: who saw and changed which credentials, and whether what was seen is still what is stored.

use std::collections::HashMap;

use clap::{ArgGroup, Args};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tonic::Code;
use triseal::audit::report::{Disclosed, Filter, Report, Row, Times};
use triseal::grpc::v1;
use triseal::ids::{CredentialId, CustomerId};

use super::{Logs, verify};
use crate::client::{Connect, Service};
use crate::failure::Failure;
use crate::output::{Format, Output, Table, printable};
use crate::status::Subject;

pub(super) const HELP: &str = "\
One row for all entries that differ in nothing but time and request. SEEN says whether the caller has that revision's
secret from it: yes, perhaps (the entry of a change has no outcome, or one that leaves it open), no. With --living the
service is asked whether that revision is still the stored one: living, replaced, gone, or unknown.

The log is verified on the way. Exit codes: 0 done, 1 failed, 3 done, but the log is not what the service wrote, or the
service did not tell of every credential.

Examples:
  triseal audit report --caller spiffe://example.com/realtask --since 2026-11-24T00:00:00Z audit.jsonl*
  triseal audit report --customer acme --living --csv audit.jsonl* > acme.csv
  triseal audit report --caller spiffe://example.com/realtask --living --output json audit.jsonl* |
    jq -c 'select(.seen != \"no\" and .living != \"replaced\") | {customer_id, credential_id, revision}'";

/// The service is asked for so many credentials at a time.
const ASK_AT_ONCE: usize = 16;

#[derive(Args)]
#[command(group(ArgGroup::new("whom").required(true).multiple(true).args(["customer", "caller", "credential"])))]
pub(crate) struct Arguments {
    /// Only what concerns this customer
    #[arg(long, value_name = "ID", value_parser = CustomerId::parse)]
    customer: Option<CustomerId>,
    /// Only what this caller asked for
    #[arg(long, value_name = "IDENTITY")]
    caller: Option<String>,
    /// Only what concerns credentials of this name
    #[arg(long, value_name = "ID", value_parser = CredentialId::parse)]
    credential: Option<CredentialId>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<jiff::Timestamp>,
    /// Only before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<jiff::Timestamp>,
    /// Ask the service which revisions are still stored
    #[arg(long)]
    living: bool,
    /// Write comma-separated values
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    logs: Logs,
}

/// A customer and a credential.
type Name = (String, String);

pub(super) async fn run(arguments: &Arguments, connect: &Connect, output: &mut Output) -> Result<(), Failure> {
    if arguments.csv && output.format() == Format::Json {
        return Err(Failure::usage("--csv and --output json exclude each other".to_owned()));
    }
    let filter = Filter {
        caller: arguments.caller.clone(),
        customer: arguments.customer.clone(),
        credential: arguments.credential.clone(),
        since: arguments.since,
        until: arguments.until,
    };
    let mut report = Report::new(filter, arguments.logs.heads().await?, arguments.logs.partial);
    arguments
        .logs
        .each(|name, log| report.read(name, log).map_err(|error| Failure::failed(format!("{name}: {error}"))))?;
    if let Some(mac) = arguments.logs.mac().await {
        report.check_macs(mac.as_ref()).await.map_err(|error| verify::no_mac(&error))?;
    }
    let answer = report.finish();
    let known = if arguments.living { ask(&answer.rows, connect).await? } else { Known::default() };
    let lines: Vec<_> = answer.rows.iter().map(|(row, times)| Line::new(row, times, &known.revisions)).collect();
    if arguments.csv {
        output.octets(csv(&lines).as_bytes())?;
    } else if output.format() == Format::Json {
        lines.iter().try_for_each(|line| output.json(line))?;
    } else {
        let rows: Vec<_> = lines.iter().map(Line::cells).collect();
        output.octets(Table::new(Line::HEADING).page(&rows).as_bytes())?;
    }
    verify::judged(&answer.verdict)?;
    known.judged()
}

/// What the service tells of the credentials that were seen.
#[derive(Default)]
struct Known {
    /// `None`: there is no living one.
    revisions: HashMap<Name, Option<u64>>,
    /// How often it did not tell, and why at first.
    untold: Option<(u64, Failure)>,
}

impl Known {
    fn judged(self) -> Result<(), Failure> {
        let Some((count, Failure { message, hint, .. })) = self.untold else { return Ok(()) };
        let credentials = verify::counted(count, "credential");
        let failure = Failure::incomplete(format!("{credentials} could not be asked for: {message}"));
        Err(Failure { hint, ..failure })
    }
}

async fn ask(rows: &[(Row, Times)], connect: &Connect) -> Result<Known, Failure> {
    let service = Service::new(connect)?;
    let mut names: Vec<Name> = rows
        .iter()
        .filter(|(row, _)| row.discloses() != Disclosed::No)
        .map(|(row, _)| (row.customer.clone(), row.credential.clone()))
        .collect();
    names.sort();
    names.dedup();
    let ask = |(customer, credential): Name| {
        let mut client = service.credentials();
        let request = service
            .request(v1::GetCredentialRequest { customer_id: customer.clone(), credential_id: credential.clone() });
        async move {
            let told = match client.get_credential(request).await {
                Ok(answer) => match answer.into_inner().credential {
                    Some(credential) => Ok(Some(credential.revision)),
                    None => Err(Failure::unknown_answer()),
                },
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => {
                    let subject = Subject { customer: &customer, credential: &credential, ..Subject::default() };
                    Err(Failure::from_status(&status, subject))
                }
            };
            ((customer, credential), told)
        }
    };
    let mut answers = stream::iter(names).map(ask).buffer_unordered(ASK_AT_ONCE);
    let mut known = Known::default();
    while let Some((name, told)) = answers.next().await {
        match (told, &mut known.untold) {
            (Ok(revision), _) => drop(known.revisions.insert(name, revision)),
            (Err(_), Some((count, _))) => *count += 1,
            (Err(failure), untold) => *untold = Some((1, failure)),
        }
    }
    Ok(known)
}

/// A row as it is shown.
#[derive(Serialize)]
struct Line<'a> {
    caller: &'a str,
    customer_id: &'a str,
    credential_id: &'a str,
    event: &'a str,
    view: &'a str,
    revision: Option<u64>,
    outcome: &'a str,
    seen: &'static str,
    living: &'static str,
    count: u64,
    first_time: &'a str,
    last_time: &'a str,
}

impl<'a> Line<'a> {
    const HEADING: [&'static str; 12] = [
        "CALLER",
        "CUSTOMER",
        "CREDENTIAL",
        "EVENT",
        "VIEW",
        "REVISION",
        "OUTCOME",
        "SEEN",
        "LIVING",
        "COUNT",
        "FIRST",
        "LAST",
    ];

    fn new(row: &'a Row, times: &'a Times, present: &HashMap<Name, Option<u64>>) -> Self {
        let (disclosed, present) = (row.discloses(), present.get(&(row.customer.clone(), row.credential.clone())));
        let living = match (disclosed, present, row.revision_seen()) {
            (Disclosed::No, _, _) => "",
            (_, Some(None), _) => "gone",
            (_, Some(Some(present)), Some(seen)) if *present == seen => "living",
            (_, Some(Some(present)), Some(seen)) if *present > seen => "replaced",
            // The service did not tell, has an older store, or the log does not say what was seen.
            (_, _, _) => "unknown",
        };
        Self {
            caller: &row.caller,
            customer_id: &row.customer,
            credential_id: &row.credential,
            event: &row.event,
            view: &row.view,
            revision: row.revision,
            outcome: &row.outcome,
            seen: disclosed.as_str(),
            living,
            count: times.count,
            first_time: &times.first,
            last_time: &times.last,
        }
    }

    fn cells(&self) -> [String; 12] {
        [
            self.caller.to_owned(),
            self.customer_id.to_owned(),
            self.credential_id.to_owned(),
            self.event.to_owned(),
            self.view.to_owned(),
            self.revision.map(|revision| revision.to_string()).unwrap_or_default(),
            self.outcome.to_owned(),
            self.seen.to_owned(),
            self.living.to_owned(),
            self.count.to_string(),
            self.first_time.to_owned(),
            self.last_time.to_owned(),
        ]
    }
}

/// RFC 4180, with the names of the JSON fields in the first line.
fn csv(lines: &[Line<'_>]) -> String {
    let heading =
        "caller,customer_id,credential_id,event,view,revision,outcome,seen,living,count,first_time,last_time\r\n";
    let mut text = heading.to_owned();
    for line in lines {
        text.push_str(&line.cells().map(|cell| quoted(&printable(&cell))).join(","));
        text.push_str("\r\n");
    }
    text
}

/// A cell that a spreadsheet takes for a text: one that begins like a formula gets an apostrophe before it.
fn quoted(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let text = if is_formula { format!("'{cell}") } else { cell.to_owned() };
    if text.contains(['"', ',', '\r', '\n', '\'']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula() {
        for (cell, wanted) in [
            ("acme", "acme"),
            ("=1+1", "\"'=1+1\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            ("\t=1", "\"'\t=1\""),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\r\n=b", "\"a\r\n=b\""),
            ("", ""),
        ] {
            assert_eq!(quoted(cell), wanted);
        }
    }

    fn row(outcome: &str, revision: u64) -> Row {
        Row {
            caller: "=cmd\u{1b}[2J".to_owned(),
            customer: "acme".to_owned(),
            credential: "crm".to_owned(),
            event: "encrypt_credential".to_owned(),
            view: String::new(),
            revision: Some(revision),
            outcome: outcome.to_owned(),
        }
    }

    #[test]
    fn a_revision_is_living_replaced_gone_or_unknown() {
        let times = Times { count: 1, first: String::new(), last: String::new() };
        let living = |row: &Row, present: Option<Option<u64>>| {
            let present = present.map(|present| (("acme".to_owned(), "crm".to_owned()), present));
            Line::new(row, &times, &present.into_iter().collect()).living
        };
        let done = row("ok", 3);
        assert_eq!(living(&done, Some(Some(3))), "living");
        assert_eq!(living(&done, Some(Some(4))), "replaced");
        assert_eq!(living(&done, Some(Some(2))), "unknown", "a restored store");
        assert_eq!(living(&done, Some(None)), "gone");
        assert_eq!(living(&done, None), "unknown");
        let in_doubt = row("unknown", 3);
        for present in [3, 4] {
            assert_eq!(living(&in_doubt, Some(Some(present))), "unknown", "it may have made revision 4");
        }
        let leased = Row { event: "acquire_refresh".to_owned(), ..in_doubt };
        assert_eq!(living(&leased, Some(Some(3))), "living");
        assert_eq!(living(&row("NOT_PERMITTED", 3), Some(Some(3))), "");
    }

    #[test]
    fn csv_has_one_line_for_each_row_and_the_names_of_the_json() {
        let times = Times { count: 2, first: "2026-11-24T09:00:00.000000Z".to_owned(), last: "x".to_owned() };
        let row = row("ok", 3);
        let lines = [Line::new(&row, &times, &HashMap::new())];
        let text = csv(&lines);
        let json = serde_json::to_value(&lines[0]).unwrap();
        let (heading, rest) = text.split_once("\r\n").unwrap();
        let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut heading: Vec<_> = heading.split(',').collect();
        // Whether JSON's objects are kept in order is for another crate to decide.
        names.sort_unstable();
        heading.sort_unstable();
        assert_eq!(heading, names);
        assert_eq!(
            rest,
            "\"'=cmd\\u{1b}[2J\",acme,crm,encrypt_credential,,3,ok,yes,unknown,2,2026-11-24T09:00:00.000000Z,x\r\n"
        );
    }
}
