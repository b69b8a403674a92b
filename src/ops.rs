//! The second listener, for probes and scrapers, which have no client certificate: `/livez`, `/readyz` and `/metrics` over plain HTTP, and
//! nothing else. It shows no id and no secret, and takes little even from those who mean harm.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tracing::warn;

use crate::audit::AuditLog;
use crate::store::{OperationId, Operations, StoreClock};
use crate::telemetry::dependency::{Dependency, Outcome};
use crate::telemetry::metrics::Exposition;

/// Connections, at most: a few probes and scrapers, each for one request. One more is closed at once.
const MAX_CONNECTIONS: usize = 32;
/// A request must be there in this time, and its answer taken in twice that.
const HEADERS: Duration = Duration::from_secs(5);
/// Octets of a request, which has no body worth reading.
const MAX_REQUEST_OCTETS: usize = 8 << 10;
const MAX_HEADERS: usize = 32;
/// After an error of the listener, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// What was timed is put into its buckets so often.
const TIDY: Duration = Duration::from_secs(5);
/// The store is asked for something so often, so that it is known to be back although no call dares to come.
const PROBE: Duration = Duration::from_secs(5);
/// And has so long to answer.
const PROBE_ANSWER: Duration = Duration::from_secs(3);
/// The audit log is looked at so often, which costs a lock: by the time that one more call has failed, no further one is sent here.
const LOOK: Duration = Duration::from_millis(250);

/// What the process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has not checked itself yet.
    Starting,
    /// It serves.
    Serving,
    /// It answers what is under way, and ends.
    Draining,
}

/// Whether this process should get calls.
pub struct Readiness {
    /// And since when.
    phase: Mutex<(Phase, Timestamp)>,
    dependencies: Vec<Arc<Dependency>>,
    /// Of a store that tells its time.
    clock: OnceLock<Arc<StoreClock>>,
}

impl Readiness {
    /// Starting, with these dependencies.
    pub fn new(dependencies: Vec<Arc<Dependency>>) -> Self {
        Self { phase: Mutex::new((Phase::Starting, Timestamp::now())), dependencies, clock: OnceLock::new() }
    }

    /// From now on, this machine's clock has to agree with the store's. Only the first that is given counts.
    pub fn require_clock(&self, clock: Arc<StoreClock>) {
        let _ = self.clock.set(clock);
    }

    /// The process goes on to its next phase.
    pub fn enter(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Timestamp::now());
    }

    fn phase(&self) -> (Phase, Timestamp) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it serves, and everything that is required for that answers.
    pub fn is_ready(&self) -> bool {
        let mut required = self.dependencies.iter().filter(|dependency| dependency.name().is_required());
        let agrees = self.clock.get().is_none_or(|clock| clock.agrees());
        self.phase().0 == Phase::Serving && required.all(|dependency| dependency.standing().is_up()) && agrees
    }

    fn report(&self) -> Value {
        let (phase, since) = self.phase();
        let phase = match phase {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
        };
        let dependencies = self.dependencies.iter().map(|dependency| {
            let (name, standing) = (dependency.name(), dependency.standing());
            let state = match standing.outcome {
                None => "unknown",
                Some(Outcome::Ok | Outcome::Corrupt) => "up",
                Some(outcome) => outcome.as_str(),
            };
            let report = json!({
                "state": state,
                "since": standing.since.to_string(),
                "required": name.is_required(),
            });
            (name.as_str().to_owned(), report)
        });
        let clock = self.clock.get().map(|clock| json!({ "agrees": clock.agrees(), "ahead_ms": clock.ahead_ms() }));
        json!({
            "ready": self.is_ready(),
            "phase": phase,
            "since": since.to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "clock": clock,
            "dependencies": dependencies.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// Serves, for as long as the process lives.
pub async fn serve(listener: TcpListener, readiness: Arc<Readiness>, numbers: Exposition) {
    let (mut connections, mut tidying) = (JoinSet::new(), interval(TIDY));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = tidying.tick() => {
                numbers.tidy();
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                connections.spawn(connection(stream, Arc::clone(&readiness), numbers.clone()));
            }
            Ok(_) => {}
            Err(error) => {
                warn!(%error, "the ops listener can't accept; trying on");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// One connection, for one request.
async fn connection(stream: TcpStream, readiness: Arc<Readiness>, numbers: Exposition) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &readiness, &numbers);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_REQUEST_OCTETS)
        .max_headers(MAX_HEADERS)
        .keep_alive(false);
    // Whatever went wrong is the client's to notice.
    let _ = timeout(2 * HEADERS, builder.serve_connection(TokioIo::new(stream), service)).await;
}

fn answer(method: &Method, path: &str, readiness: &Readiness, numbers: &Exposition) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(path, "/livez" | "/readyz" | "/metrics") {
        return response(StatusCode::NOT_FOUND, TEXT, "/livez, /readyz and /metrics are here\n".to_owned());
    }
    if *method != Method::GET && *method != Method::HEAD {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET or HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/livez" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let report = readiness.report();
            let ready = report.get("ready") == Some(&Value::Bool(true));
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            response(status, "application/json", format!("{report}\n"))
        }
        _ => response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", numbers.render()),
    }
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Asks the store for something again and again, for as long as the process lives. What comes of it, the store's [`Dependency`] and its
/// [`StoreClock`] know.
pub async fn probe(operations: Arc<dyn Operations>) {
    let id = OperationId { kind: "probe", id: "readiness".to_owned() };
    let mut ticks = interval(PROBE);
    loop {
        ticks.tick().await;
        let _ = timeout(PROBE_ANSWER, operations.get(&id)).await;
    }
}

/// Looks at the audit log now, and again and again for as long as the process lives. It tries by itself until it can write, so it is
/// found to be back although no call dares to come.
pub fn follow(audit: AuditLog, dependency: Arc<Dependency>) {
    let look = move || dependency.found(if audit.is_available() { Outcome::Ok } else { Outcome::Away });
    look();
    tokio::spawn(async move {
        let mut ticks = interval(LOOK);
        loop {
            ticks.tick().await;
            look();
        }
    });
}

#[cfg(test)]
mod tests;
