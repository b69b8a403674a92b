//! Every metric: its name, its labels and what it counts. Whoever counts holds a handle that was registered once, so that counting
//! looks nothing up.
//!
//! Labels come from closed sets: the enums here and in [`dependency`](super::dependency), the protocol's methods, its codes and its
//! reasons. None is an id, and none comes from a caller.

use std::time::Duration;

pub use metrics::{Counter, Gauge, Histogram};
use metrics::{Label, SharedString, Unit, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// A metric as docs/OPERATING.md lists it.
#[derive(Debug)]
pub struct Metric {
    /// In Prometheus's form: `_total` for what only grows, `_seconds` for times.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

/// How a metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD = Gauge "triseal_build_info" ["version"] "1; the label names the release";
    REQUESTS = Counter "triseal_requests_total" ["rpc", "code", "reason"]
        "calls that ended, by method, gRPC code and reason; CANCELLED: the caller gave up";
    REQUEST_SECONDS = Histogram "triseal_request_seconds" ["rpc"]
        "from a call's headers to the last octet of its answer that the connection took";
    IN_FLIGHT = Gauge "triseal_requests_in_flight" [] "calls under way, and those that wait for somebody else's refresh";
    SHED = Counter "triseal_requests_shed_total" ["reason"]
        "calls refused at once: OVERLOADED above server.max_concurrent_requests, RATE_LIMITED above a caller's share";
    CONNECTIONS = Gauge "triseal_connections" [] "connections, those in their handshake included";
    CONNECTIONS_ENDED = Counter "triseal_connections_ended_total" ["cause"] "connections that ended, by what ended them";
    HANDSHAKES_REFUSED = Counter "triseal_tls_handshakes_refused_total" ["reason"] "TLS handshakes that failed, by what was wrong";
    TLS_READS = Counter "triseal_tls_reads_total" ["files", "outcome"]
        "changed TLS files: accepted; refused: the last good ones stay. certificate: the server's, with its key; clients: CAs and lists";
    TLS_EXPIRY = Gauge "triseal_tls_expiry_timestamp_seconds" ["what"]
        "when the server's certificate, or the first of the revocation lists, is good no more, in seconds since 1970";
    ROOT_HITS = Counter "triseal_root_cache_hits_total" [] "roots that were in memory";
    ROOT_MISSES = Counter "triseal_root_cache_misses_total" [] "roots that a customer key had to be unwrapped for, or waited for";
    ROOT_EVICTIONS = Counter "triseal_root_cache_evictions_total" [] "roots dropped because the cache was full";
    ENVIRONMENT_READS = Counter "triseal_environment_key_reads_total" ["outcome"]
        "readings of the environment keys: accepted; unavailable: the last good ones stay; refused: they took something back";
    POLICY_RELOADS = Counter "triseal_policy_reloads_total" ["outcome"]
        "changes of the policy directory: taken; refused: the last good set stays";
    POLICY_GENERATION = Gauge "triseal_policy_generation" [] "sets of policies taken since the start, the first one included";
    POLICY_FAILURES = Counter "triseal_policy_failures_total" [] "decisions that a failing policy made refusals";
    REFUSALS_UNWRITTEN = Counter "triseal_policy_refusals_unwritten_total" []
        "refusals by policy that were answered RATE_LIMITED, without an entry in the audit log: their caller was refused too often";
    REFRESH_LEASES = Counter "triseal_refresh_leases_total" ["event"]
        "refresh leases: given; after_lapse: given after one whose holder never came back; completed; invalid_grant, abandoned: given up";
    REFRESH_WAITERS = Gauge "triseal_refresh_waiters" [] "calls that wait for somebody else's refresh";
    JOBS_RUNNING = Gauge "triseal_jobs_running" ["kind", "dry_run"]
        "1 while a job of the kind runs, on whichever replica, as this replica last saw it; else 0";
    JOB_ITEMS = Counter "triseal_job_items_total" ["kind", "dry_run", "outcome"]
        "records and customers that jobs came to here, in each pass: changed; skipped; failed; in dry runs counted, and due to be changed";
    DESTRUCTIONS_OVERDUE = Gauge "triseal_destructions_overdue" []
        "customers whose day is more than 3 h past and who are not destroyed unasked, as this replica's last sweep found; the log names them";
    DEPENDENCY_UP = Gauge "triseal_dependency_up" ["dependency"] "1 if it answered when it was last asked, else 0";
    DEPENDENCY_SECONDS = Histogram "triseal_dependency_seconds" ["dependency", "operation", "outcome"]
        "time until a dependency answered, by operation and outcome; customer_keys unwrap counts the unwraps";
    GROUP_SIZE = Histogram "triseal_store_group_size" [] "writes that shared one durable commit of the embedded store";
}

/// Upper bounds in seconds, from a read in memory to the longest deadline.
const SECONDS: [f64; 16] =
    [0.0001, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds in writes; the last is the largest group.
const GROUP_SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Why nothing is counted.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The buckets are wrong: a bug.
    #[error("metrics: {0}")]
    Buckets(#[from] BuildError),
    /// Something else in the process counts already.
    #[error("metrics are recorded by something else in this process")]
    Taken,
}

/// What was counted, to be read.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// All numbers, in Prometheus's text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Puts what was timed since into its buckets; until then each time is kept.
    pub fn tidy(&self) {
        self.0.run_upkeep();
    }
}

/// Starts counting, for the rest of the process. Handles that were registered before count nothing.
///
/// # Errors
/// A [`MetricsError`].
pub fn start() -> Result<Exposition, MetricsError> {
    let recorder = recorder()?;
    let exposition = Exposition(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Taken)?;
    describe();
    gauge!(BUILD.name, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(exposition)
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(GROUP_SIZE.name.to_owned()), &GROUP_SIZES)?;
    Ok(builder.build_recorder())
}

fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram if metric.name.ends_with("_seconds") => {
                metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help);
            }
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// The calls of one method.
pub struct Rpc {
    name: SharedString,
    ok: Counter,
    seconds: Histogram,
}

impl Rpc {
    /// Registers a method of the protocol, so that it is shown before it is called.
    pub fn new(name: String) -> Self {
        let name = SharedString::from(std::sync::Arc::<str>::from(name));
        let ok = requests(name.clone(), "OK", "");
        Self { ok, seconds: histogram!(REQUEST_SECONDS.name, vec![Label::new("rpc", name.clone())]), name }
    }

    /// A call ended.
    pub fn ended(&self, code: &'static str, reason: &'static str, took: Duration) {
        self.seconds.record(took);
        if code == "OK" {
            self.ok.increment(1);
        } else {
            // Looked up, since most pairs never occur.
            requests(self.name.clone(), code, reason).increment(1);
        }
    }
}

fn requests(rpc: SharedString, code: &'static str, reason: &'static str) -> Counter {
    counter!(REQUESTS.name, vec![Label::new("rpc", rpc), Label::new("code", code), Label::new("reason", reason)])
}

/// The listener.
pub struct Server {
    /// Calls under way.
    pub in_flight: Gauge,
    /// Calls refused as OVERLOADED.
    pub overloaded: Counter,
    /// Calls refused as RATE_LIMITED.
    pub rate_limited: Counter,
    /// Connections.
    pub connections: Gauge,
}

impl Server {
    /// Registers them.
    pub fn new() -> Self {
        Self {
            in_flight: gauge!(IN_FLIGHT.name),
            overloaded: counter!(SHED.name, "reason" => "OVERLOADED"),
            rate_limited: counter!(SHED.name, "reason" => "RATE_LIMITED"),
            connections: gauge!(CONNECTIONS.name),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a connection that ended.
pub fn connection_ended(cause: &'static str) {
    counter!(CONNECTIONS_ENDED.name, "cause" => cause).increment(1);
}

/// Counts a TLS handshake that failed.
pub fn handshake_refused(reason: &'static str) {
    counter!(HANDSHAKES_REFUSED.name, "reason" => reason).increment(1);
}

/// Counts a reading of TLS files that have changed.
pub fn tls_read(files: &'static str, accepted: bool) {
    let outcome = if accepted { "accepted" } else { "refused" };
    counter!(TLS_READS.name, "files" => files, "outcome" => outcome).increment(1);
}

/// Shows until when something of TLS is good.
pub fn tls_expiry(what: &'static str, second: i64) {
    gauge!(TLS_EXPIRY.name, "what" => what).set(second as f64);
}

/// The cache of roots.
pub struct RootCache {
    /// A root was there.
    pub hits: Counter,
    /// It was not.
    pub misses: Counter,
    /// One was dropped for want of room.
    pub evictions: Counter,
}

impl RootCache {
    /// Registers them.
    pub fn new() -> Self {
        Self {
            hits: counter!(ROOT_HITS.name),
            misses: counter!(ROOT_MISSES.name),
            evictions: counter!(ROOT_EVICTIONS.name),
        }
    }
}

impl Default for RootCache {
    fn default() -> Self {
        Self::new()
    }
}

/// How a reading of the environment keys ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvironmentRead {
    /// They are in use.
    Accepted,
    /// There was no answer, or none that could be compared.
    Unavailable,
    /// They took something back.
    Refused,
}

/// Counts a reading of the environment keys.
pub fn environment_read(outcome: EnvironmentRead) {
    let outcome = match outcome {
        EnvironmentRead::Accepted => "accepted",
        EnvironmentRead::Unavailable => "unavailable",
        EnvironmentRead::Refused => "refused",
    };
    counter!(ENVIRONMENT_READS.name, "outcome" => outcome).increment(1);
}

/// Counts a change of the policy directory: taken, or refused.
pub fn policy_reload(taken: bool) {
    counter!(POLICY_RELOADS.name, "outcome" => if taken { "taken" } else { "refused" }).increment(1);
}

/// Tells how many sets of policies were taken.
pub fn policy_generation(number: u64) {
    gauge!(POLICY_GENERATION.name).set(number as f64);
}

/// Counts a decision that a failing policy made a refusal.
pub fn policy_failure() {
    counter!(POLICY_FAILURES.name).increment(1);
}

/// Counts a refusal that the audit log has no entry of.
pub fn refusal_unwritten() {
    counter!(REFUSALS_UNWRITTEN.name).increment(1);
}

/// Whether a dependency answers.
pub(super) fn dependency_up(dependency: &'static str) -> Gauge {
    gauge!(DEPENDENCY_UP.name, "dependency" => dependency)
}

/// How long it takes.
pub(super) fn dependency_seconds(
    dependency: &'static str,
    operation: &'static str,
    outcome: &'static str,
) -> Histogram {
    histogram!(
        DEPENDENCY_SECONDS.name,
        vec![Label::new("dependency", dependency), Label::new("operation", operation), Label::new("outcome", outcome),]
    )
}

/// What becomes of a refresh lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Given.
    Given,
    /// Given after one that had lapsed.
    AfterLapse,
    /// New tokens came.
    Completed,
    /// Given up, since Salesforce refused the refresh token for good.
    InvalidGrant,
    /// Given up for another cause.
    Abandoned,
}

/// Counts what becomes of a refresh lease.
pub fn refresh_lease(event: LeaseEvent) {
    let event = match event {
        LeaseEvent::Given => "given",
        LeaseEvent::AfterLapse => "after_lapse",
        LeaseEvent::Completed => "completed",
        LeaseEvent::InvalidGrant => "invalid_grant",
        LeaseEvent::Abandoned => "abandoned",
    };
    counter!(REFRESH_LEASES.name, "event" => event).increment(1);
}

/// Calls that wait for somebody else's refresh.
pub fn refresh_waiters() -> Gauge {
    gauge!(REFRESH_WAITERS.name)
}

/// What became of what a job came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobItem {
    /// It is now as the job wants it.
    Changed,
    /// There was nothing to do.
    Skipped,
    /// It could not be done, and the job names it.
    Failed,
    /// A dry run counted it.
    Counted,
    /// A dry run found that it would be changed.
    Due,
}

impl JobItem {
    /// Each once.
    pub const ALL: [Self; 5] = [Self::Changed, Self::Skipped, Self::Failed, Self::Counted, Self::Due];

    fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Counted => "counted",
            Self::Due => "due",
        }
    }
}

/// The jobs of one kind, as dry runs or not.
pub struct JobsOfKind {
    /// Whether one runs.
    pub running: Gauge,
    items: [Counter; JobItem::ALL.len()],
}

impl JobsOfKind {
    /// Registers them, so that the first failure of all is seen as a change.
    pub fn new(kind: &'static str, dry_run: bool) -> Self {
        let dry_run = if dry_run { "true" } else { "false" };
        let of =
            |item: JobItem| counter!(JOB_ITEMS.name, "kind" => kind, "dry_run" => dry_run, "outcome" => item.as_str());
        Self { running: gauge!(JOBS_RUNNING.name, "kind" => kind, "dry_run" => dry_run), items: JobItem::ALL.map(of) }
    }

    /// A job came to something.
    pub fn came_to(&self, item: JobItem) {
        if let Some((_, counter)) = JobItem::ALL.iter().zip(&self.items).find(|(known, _)| **known == item) {
            counter.increment(1);
        }
    }
}

/// Tells how many customers' destruction is overdue.
pub fn destructions_overdue(customers: u64) {
    gauge!(DESTRUCTIONS_OVERDUE.name).set(customers as f64);
}

/// Writes in one commit of the embedded store.
pub fn group_size() -> Histogram {
    histogram!(GROUP_SIZE.name)
}

#[cfg(test)]
impl Exposition {
    /// One that nothing is counted in.
    pub(crate) fn empty() -> Self {
        Self(recorder().expect("the buckets are right").handle())
    }
}

/// What `count` counts, on this thread.
#[cfg(test)]
pub(crate) fn counted(count: impl FnOnce()) -> String {
    let recorder = recorder().expect("the buckets are right");
    metrics::with_local_recorder(&recorder, || {
        describe();
        count();
    });
    recorder.handle().render()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_is_shown_with_its_help_its_kind_and_no_label_but_its_own() {
        let text = counted(|| {
            gauge!(BUILD.name, "version" => "1").set(1.0);
            let rpc = Rpc::new("DecryptCredential".to_owned());
            rpc.ended("OK", "", Duration::from_millis(3));
            rpc.ended("NOT_FOUND", "CREDENTIAL_NOT_FOUND", Duration::from_millis(3));
            let server = Server::new();
            server.in_flight.increment(2.0);
            server.in_flight.decrement(1.0);
            server.overloaded.increment(1);
            connection_ended("age");
            handshake_refused("expired");
            tls_read("clients", true);
            tls_expiry("certificate", 1_800_000_000);
            drop(RootCache::new());
            environment_read(EnvironmentRead::Refused);
            policy_reload(true);
            policy_generation(2);
            policy_failure();
            refusal_unwritten();
            refresh_lease(LeaseEvent::AfterLapse);
            refresh_waiters().increment(1.0);
            destructions_overdue(1);
            let jobs = JobsOfKind::new("rewrap", true);
            jobs.running.set(1.0);
            jobs.came_to(JobItem::Due);
            dependency_up("store").set(1.0);
            dependency_seconds("store", "credentials_get", "ok").record(0.2);
            group_size().record(3.0);
        });
        for metric in ALL {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}:\n{text}", metric.name);
            assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{}:\n{text}", metric.name);
            let labels: BTreeSet<_> = metric.labels.iter().copied().chain(["le"]).collect();
            let series = text.lines().filter_map(|line| line.split_once('{'));
            let own =
                series.filter(|(name, _)| name.trim_end_matches("_bucket").trim_end_matches("_sum") == metric.name);
            for label in own.flat_map(|(_, rest)| rest.split(',')) {
                let name = label.split_once('=').unwrap().0;
                assert!(labels.contains(name), "{name} of {}", metric.name);
            }
        }
        for line in [
            "triseal_requests_total{rpc=\"DecryptCredential\",code=\"OK\",reason=\"\"} 1",
            "triseal_requests_total{rpc=\"DecryptCredential\",code=\"NOT_FOUND\",reason=\"CREDENTIAL_NOT_FOUND\"} 1",
            "triseal_request_seconds_bucket{rpc=\"DecryptCredential\",le=\"0.0025\"} 0",
            "triseal_request_seconds_bucket{rpc=\"DecryptCredential\",le=\"0.005\"} 2",
            "triseal_requests_in_flight 1",
            "triseal_store_group_size_bucket{le=\"4\"} 1",
            "triseal_jobs_running{kind=\"rewrap\",dry_run=\"true\"} 1",
            "triseal_job_items_total{kind=\"rewrap\",dry_run=\"true\",outcome=\"due\"} 1",
            "triseal_job_items_total{kind=\"rewrap\",dry_run=\"true\",outcome=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn names_are_in_prometheus_form_and_the_guide_lists_them_all() {
        let guide = include_str!("../../docs/OPERATING.md");
        for metric in ALL {
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(guide.contains(&format!("`{}`", metric.name)), "docs/OPERATING.md lacks {}", metric.name);
            for label in metric.labels {
                assert!(guide.contains(&format!("`{label}`")), "docs/OPERATING.md lacks the label {label}");
            }
        }
        let known = |word: &str| ALL.iter().any(|metric| metric.name == word);
        for word in guide.split(['`', '{']).filter(|word| word.starts_with("triseal_")) {
            assert!(known(word), "docs/OPERATING.md names {word}, which is no metric");
        }
    }
}
