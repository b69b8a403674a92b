//! What came out of a service and of those who spoke with it, kept to be searched. It knows no call.

use std::collections::BTreeSet;
use std::fmt::Debug;

use tonic::{Response, Status};
use tonic_types::RpcStatusExt;
use triseal::grpc::v1::BatchDecryptCredentialsResponse;
use triseal::grpc::v1::batch_decrypt_credentials_result::Result as Outcome;

use crate::encodings::{Searched, flat};
use crate::support::{Service, reason};

/// Everything that came out, and what the answers said.
#[derive(Default)]
pub(super) struct CameOut {
    parts: Vec<(String, Vec<u8>)>,
    /// Of errors, of calls and of items of batches.
    pub(super) reasons: BTreeSet<String>,
    /// Method and code of every call that was counted.
    pub(super) counted: BTreeSet<(String, String)>,
}

impl CameOut {
    pub(super) fn add(&mut self, part: impl Into<String>, octets: impl Into<Vec<u8>>) {
        self.parts.push((part.into(), octets.into()));
    }

    /// Log lines and the like, in which quoted text is quoted again.
    pub(super) fn add_text(&mut self, part: &str, text: &str) {
        self.add(part, flat(text));
        self.add(part, text);
    }

    /// An answer that shows no secret: all of it.
    pub(super) fn shown<T: Debug>(&mut self, answer: Result<Response<T>, Status>) -> Result<T, Status> {
        if let Ok(answer) = &answer {
            self.add("an answer", format!("{answer:?}"));
        }
        self.opened(answer)
    }

    /// An answer that may show a secret: what stands beside it, and what it prints as.
    pub(super) fn opened<T: Debug>(&mut self, answer: Result<Response<T>, Status>) -> Result<T, Status> {
        match answer {
            Ok(answer) => {
                let (metadata, message, _) = answer.into_parts();
                self.add("an answer's headers", format!("{metadata:?}"));
                self.add("an answer, printed", format!("{message:?}"));
                Ok(message)
            }
            Err(status) => {
                self.add("a status", format!("{status:?}"));
                self.add("a status's message", status.message());
                self.add("a status's details", status.details());
                for (name, value) in &status.metadata().clone().into_headers() {
                    self.add("a status's trailers", [name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
                }
                self.reasons.insert(reason(&status).to_owned());
                Err(status)
            }
        }
    }

    /// The errors of the items of a batch.
    pub(super) fn items(&mut self, batch: &BatchDecryptCredentialsResponse) {
        for result in &batch.results {
            if let Some(Outcome::Error(error)) = &result.result {
                self.add("an item's error", format!("{error:?}"));
                error.details.iter().for_each(|detail| self.add("an item's details", detail.value.clone()));
                self.reasons.extend(error.get_details_error_info().map(|info| info.reason));
            }
        }
    }

    /// What its metrics say.
    pub(super) async fn numbers(&mut self, service: &Service) {
        let (_, text) = service.ops("/metrics").await;
        for line in text.lines() {
            let Some((labels, count)) =
                line.strip_prefix("triseal_requests_total{rpc=\"").and_then(|rest| rest.split_once(' '))
            else {
                continue;
            };
            let mut quoted = labels.split('"');
            if let (Some(rpc), Some(code), true) = (quoted.next(), quoted.nth(1), count != "0") {
                self.counted.insert((rpc.to_owned(), code.to_owned()));
            }
        }
        self.add("metrics", text);
        self.add("readiness", service.ops("/readyz").await.1);
    }

    /// Where something stands, and in which encoding.
    pub(super) fn find(&self, searched: &Searched) -> BTreeSet<(&str, &'static str)> {
        let parts = self.parts.iter();
        parts
            .flat_map(|(part, octets)| searched.found_in(octets).map(|(encoding, _)| (part.as_str(), encoding)))
            .collect()
    }

    /// The octets of all parts of this name.
    pub(super) fn octets(&self, part: &str) -> usize {
        self.parts.iter().filter(|(name, _)| name == part).map(|(_, octets)| octets.len()).sum()
    }
}
