//! Logs: JSON on standard error, a line for each event. Success is quiet. Secrets have types that print as their name.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Starts logging, for the rest of the process.
///
/// # Errors
/// [`ParseError`] if `filter` is none, such as `info` or `triseal=debug,warn`.
pub fn start(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(filter)?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    Ok(())
}
