//! The list of what to mark: names, or what `triseal audit report` writes. It decides which rows of a report are about a secret that
//! somebody has and that is still stored.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use serde::Deserialize;
use triseal::ids::{CredentialId, CredentialRef, CustomerId};

use super::{MAX_CREDENTIALS, Marks};
use crate::failure::Failure;

/// A line of a report has at most some hundred octets.
const MAX_LINE_OCTETS: u64 = 65_536;

/// At which revisions of a credential its secret was seen. None: nobody knows, so whatever is there is marked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    revisions: BTreeSet<u64>,
    any: bool,
}

impl Seen {
    pub(super) fn at(revision: u64) -> Self {
        Self { revisions: BTreeSet::from([revision]), any: false }
    }

    /// The condition to begin with.
    pub(super) fn last(&self) -> Option<u64> {
        self.revisions.last().copied().filter(|_| !self.any)
    }

    pub(super) fn has(&self, revision: u64) -> bool {
        self.revisions.contains(&revision)
    }

    fn add(&mut self, revision: Option<u64>) {
        match revision {
            Some(revision) => drop(self.revisions.insert(revision)),
            None => self.any = true,
        }
    }
}

pub(super) fn id(customer: &str, credential: &str) -> Option<CredentialRef> {
    let (customer, credential) = (CustomerId::parse(customer).ok()?, CredentialId::parse(credential).ok()?);
    Some(CredentialRef { customer, credential })
}

/// Reads `CUSTOMER/CREDENTIAL` on each line, or a report in CSV or JSON.
pub(super) fn read(file: File) -> Result<Marks, Failure> {
    read_from(BufReader::new(file))
}

fn read_from(mut input: impl BufRead) -> Result<Marks, Failure> {
    let (mut marks, mut columns, mut number) = (Marks::new(), None::<Vec<String>>, 0);
    loop {
        let mut line = String::new();
        number += 1;
        let read = input.by_ref().take(MAX_LINE_OCTETS).read_line(&mut line);
        let wrong = |what: &str| Failure::input(format!("line {number} {what}"));
        match read {
            Ok(0) => return Ok(marks),
            Ok(length) if length as u64 == MAX_LINE_OCTETS => return Err(wrong("is too long")),
            Ok(_) => {}
            Err(error) => return Err(wrong(&format!("can't be read: {}", error.kind()))),
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let row = if line.starts_with('{') {
            serde_json::from_str(line).map_err(|_| wrong("is not a row of a report"))?
        } else if let Some(columns) = &columns {
            Row::from_csv(columns, &cells(line)).ok_or_else(|| wrong("has not the columns of the first"))?
        } else if number == 1 && line.contains("customer_id") {
            columns = Some(cells(line));
            continue;
        } else {
            let (customer_id, credential_id) = line.split_once('/').unwrap_or((line, ""));
            Row::named(customer_id, credential_id)
        };
        if row.is_of_no_use() {
            continue;
        }
        let id = id(&row.customer_id, &row.credential_id).ok_or_else(|| {
            wrong("names no credential").with_hint(
                "each line is CUSTOMER/CREDENTIAL, or a row of `triseal audit report` with --csv or --output json",
            )
        })?;
        marks.entry(id).or_default().add(row.revision_seen());
        if marks.len() > MAX_CREDENTIALS {
            return Err(Failure::input(format!("the list names more than {MAX_CREDENTIALS} credentials: split it")));
        }
    }
}

/// A row of a report, or a name alone. Only what is needed here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Row {
    customer_id: String,
    credential_id: String,
    revision: Option<u64>,
    seen: String,
    living: String,
}

impl Row {
    fn named(customer_id: &str, credential_id: &str) -> Self {
        Self { customer_id: customer_id.to_owned(), credential_id: credential_id.to_owned(), ..Self::default() }
    }

    fn from_csv(columns: &[String], cells: &[String]) -> Option<Self> {
        let cell = |name: &str| {
            let index = columns.iter().position(|column| column == name);
            index.map_or(Some(""), |index| cells.get(index).map(String::as_str))
        };
        let revision = match cell("revision")? {
            "" => None,
            revision => Some(revision.parse().ok()?),
        };
        let (seen, living) = (cell("seen")?.to_owned(), cell("living")?.to_owned());
        Some(Self { revision, seen, living, ..Self::named(cell("customer_id")?, cell("credential_id")?) })
    }

    /// Nobody has the secret, or what somebody has is no longer stored.
    fn is_of_no_use(&self) -> bool {
        self.seen == "no" || matches!(self.living.as_str(), "replaced" | "gone")
    }

    /// `perhaps` is a change of which nobody knows whether it was made: then the revision may be the next one.
    fn revision_seen(&self) -> Option<u64> {
        self.revision.filter(|_| self.seen != "perhaps")
    }
}

/// The cells of a line of RFC 4180. No cell of a report has a line break.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => cell.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            character => cell.push(character),
        }
    }
    cells.push(cell);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(text: &str) -> Vec<(String, Option<u64>)> {
        let marks = read_from(text.as_bytes()).unwrap();
        marks.into_iter().map(|(id, seen)| (format!("{}/{}", id.customer, id.credential), seen.last())).collect()
    }

    fn refused(text: &str) -> String {
        read_from(text.as_bytes()).unwrap_err().message
    }

    #[test]
    fn names_stand_on_a_line_each() {
        let wanted = [("acme/crm".to_owned(), None), ("other/realsync.main".to_owned(), None)];
        assert_eq!(marks("acme/crm\n\n other/realsync.main \r\nacme/crm\n"), wanted);
        assert_eq!(marks(""), []);
        assert_eq!(refused("acme/crm\nacme\n"), "line 2 names no credential");
        assert_eq!(refused("a/b/c\n"), "line 1 names no credential");
        assert_eq!(refused(&"x".repeat(70_000)), "line 1 is too long");
    }

    const CSV: &str = "caller,customer_id,credential_id,event,view,revision,outcome,seen,living,count,first_time,last_time\r\n\
        \"'=a,\"\"b\",acme,crm,decrypt_credential,full,3,ok,yes,living,1,x,x\r\n\
        c,acme,crm,decrypt_credential,full,2,ok,yes,unknown,1,x,x\r\n\
        c,acme,old,decrypt_credential,full,2,ok,yes,replaced,1,x,x\r\n\
        c,acme,gone,decrypt_credential,full,2,ok,yes,gone,1,x,x\r\n\
        c,acme,refused,decrypt_credential,full,,NOT_PERMITTED,no,,1,x,x\r\n\
        c,acme,doubt,encrypt_credential,,4,unknown,perhaps,unknown,1,x,x\r\n";

    #[test]
    fn a_report_names_what_was_seen_and_is_still_stored() {
        let wanted = [("acme/crm".to_owned(), Some(3)), ("acme/doubt".to_owned(), None)];
        assert_eq!(marks(CSV), wanted);
        let json = |id: &str, more: &str| format!("{{\"customer_id\":\"acme\",\"credential_id\":\"{id}\",{more}}}\n");
        let rows = json("crm", "\"revision\":3,\"seen\":\"yes\",\"living\":\"living\",\"count\":7")
            + &json("crm", "\"revision\":2,\"seen\":\"yes\",\"living\":\"unknown\"")
            + &json("old", "\"revision\":2,\"seen\":\"yes\",\"living\":\"replaced\"")
            + &json("refused", "\"revision\":null,\"seen\":\"no\",\"living\":\"\"")
            + &json("doubt", "\"revision\":4,\"seen\":\"perhaps\",\"living\":\"unknown\"");
        assert_eq!(marks(&rows), wanted);
        let seen = read_from(CSV.as_bytes()).unwrap();
        assert!(seen[&id("acme", "crm").unwrap()].has(2), "an older one that was seen, too");
        assert_eq!(refused("{\"customer_id\":7}"), "line 1 is not a row of a report");
        assert_eq!(refused("customer_id,credential_id\nacme\n"), "line 2 has not the columns of the first");
        // A customer's list, or what jq leaves of a report.
        assert_eq!(marks("customer_id,credential_id\nacme,crm\n"), [("acme/crm".to_owned(), None)]);
    }
}
