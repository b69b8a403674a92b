//! What the service tells of itself: logs here, numbers in [`metrics`], the state of what it depends on in [`dependency`].
//!
//! Logs are JSON on standard error, a line for each event, and name the call that they were written in. Success is quiet. Secrets have
//! types that print as their name.

pub mod dependency;
pub mod metrics;

use std::fmt;
use std::panic::PanicHookInfo;

use tracing::{Event, Subscriber, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::ids::{RequestId, TraceId};

tokio::task_local! {
    /// Not a span: a span costs each call as much as a log line, and is gone where the filter leaves its level or target out.
    static CALL: (RequestId, Option<TraceId>);
}

/// Starts logging, for the rest of the process.
///
/// # Errors
/// [`ParseError`] if `filter` is none, such as `info` or `triseal=debug,warn`.
pub fn start(filter: &str) -> Result<(), ParseError> {
    let subscriber = subscriber(EnvFilter::builder().parse(filter)?, std::io::stderr);
    // Fails only if something else in the process logs already: then that goes on.
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Runs a call. What is logged within names it.
pub fn within<F: Future>(id: RequestId, trace: Option<TraceId>, call: F) -> impl Future<Output = F::Output> {
    CALL.scope((id, trace), call)
}

/// The call that this is part of, if it is part of one: what a call starts in a task of its own is not.
pub fn request_id() -> Option<RequestId> {
    CALL.try_with(|(id, _)| id.clone()).ok()
}

/// The trace of the call that this is part of, if its caller named one.
pub fn trace_id() -> Option<TraceId> {
    CALL.try_with(|(_, trace)| *trace).ok().flatten()
}

fn subscriber<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let json = format::format().json().flatten_event(true).with_current_span(false).with_span_list(false);
    tracing_subscriber::fmt()
        .fmt_fields(JsonFields::new())
        .event_format(WithRequestId(json))
        .with_writer(writer)
        .with_env_filter(filter)
        .finish()
}

/// Puts the call's id in front of the other fields of a line.
struct WithRequestId<F>(F);

impl<S, N, F> FormatEvent<S, N> for WithRequestId<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(id) = request_id() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let id = serde_json::to_string(id.as_str()).map_err(|_| fmt::Error)?;
        write!(writer, "{{\"request_id\":{id},{}", line.strip_prefix('{').ok_or(fmt::Error)?)
    }
}

/// Tells where a panic was, and not what it said: a message such as that of a slice may repeat what was sliced.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    error!(place, "panic: a bug");
}

#[cfg(test)]
mod tests;
