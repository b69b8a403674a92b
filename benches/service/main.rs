//! What the service costs: each measurement against its limit, taken in turn in the same run, as one table.
//!
//! `cargo bench --bench service` measures everything; `cargo bench --bench service -- decrypt` what has that in its name;
//! `-- reencrypt --credentials=20000` re-encrypts so many and not a million. The service is the real program in a process of its own, and so
//! is the echo: its CPU time is what the system accounts to the process. Client, server and store share this machine's cores, so look at the
//! ratios: times belong to one machine and its other guests. Nothing is asserted of how long anything takes.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]
#![allow(unreachable_pub, reason = "a program of some files")]

mod echo;
mod load;
mod process;
mod reencrypt;
mod rows;
mod service;
mod table;
mod tls;
mod unaudited;
mod waiters;

use futures_util::future::LocalBoxFuture;
use service::{Configuration, Wire};
use table::Row;

/// Given how many credentials are re-encrypted.
type Measure = fn(usize) -> LocalBoxFuture<'static, Vec<Row>>;

const MEASUREMENTS: &[(&str, Measure)] = &[
    ("decrypt-unaudited", |_| Box::pin(rows::decrypt(Configuration::Unaudited))),
    ("decrypt-dev", |_| Box::pin(rows::decrypt(Configuration::Dev))),
    ("decrypt-mtls", |_| Box::pin(rows::decrypt(Configuration::Mtls))),
    ("batch", |_| Box::pin(rows::batch())),
    ("encrypt", |_| Box::pin(rows::encrypt())),
    ("start", |_| Box::pin(rows::start())),
    ("memory", |_| Box::pin(rows::memory())),
    ("reencrypt", |credentials| Box::pin(reencrypt::measure(credentials))),
    ("waiters", |_| Box::pin(waiters::waiters())),
];

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [echo::ARGUMENT, wire, octets] => {
            return runtime.block_on(echo::serve(Wire::named(wire), octets.parse().expect("a number of octets")));
        }
        [unaudited::ARGUMENT, data] => return runtime.block_on(unaudited::serve(data.as_ref())),
        _ => {}
    }
    let credentials = arguments.iter().find_map(|argument| argument.strip_prefix("--credentials="));
    let credentials = credentials.map_or(reencrypt::CREDENTIALS, |number| number.parse().expect("a number"));
    // Cargo adds `--bench`.
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    let mut rows = Vec::new();
    for (name, measure) in MEASUREMENTS.iter().filter(|(name, _)| is_wanted(name)) {
        println!("measuring {name}");
        rows.extend(runtime.block_on(measure(credentials)));
    }
    table::print(&rows);
}
