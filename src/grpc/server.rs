//! The listener: the services with health and reflection, sizes, deadlines, and the drain at the end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::Server;
use tower::Service;
use tracing::warn;

use super::credential::Credentials;
use super::customer::Customers;
use super::key::Keys;
use super::status::{self, deadline_exceeded};
use super::wire::v1;
use super::wire::v1::credential_service_server::CredentialServiceServer;
use super::wire::v1::customer_service_server::CustomerServiceServer;
use super::wire::v1::key_service_server::KeyServiceServer;
use crate::customers::CustomerDirectory;
use crate::vault::Vault;

const MAX_REQUEST_OCTETS: usize = 1 << 20;
const MAX_REPLY_OCTETS: usize = 4 << 20;
/// Of a call whose caller named no deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Of a call whose caller named a later one.
const MAX_DEADLINE: Duration = Duration::from_secs(10);

/// tonic has a timer of its own for the caller's deadline, which answers CANCELLED. This one is ahead of it.
const AHEAD: Duration = Duration::from_millis(3);

/// Why the service stopped serving, or never started to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("{0} can't be listened on: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// The descriptors that are compiled in can't be read: a bug.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Takes the port.
///
/// # Errors
/// [`ServeError::Bind`], if another process has it.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Bind(address, error))
}

/// Serves until `stop`, then answers what is under way, for at most `drain`.
///
/// # Errors
/// A [`ServeError`].
pub async fn serve(
    listener: TcpListener,
    vault: Arc<Vault>,
    directory: Arc<CustomerDirectory>,
    stop: impl Future<Output = ()> + Send + 'static,
    drain: Duration,
) -> Result<(), ServeError> {
    let credentials = CredentialServiceServer::new(Credentials::new(vault))
        .max_decoding_message_size(MAX_REQUEST_OCTETS)
        .max_encoding_message_size(MAX_REPLY_OCTETS);
    let customers = CustomerServiceServer::new(Customers::new(directory.clone()))
        .max_decoding_message_size(MAX_REQUEST_OCTETS)
        .max_encoding_message_size(MAX_REPLY_OCTETS);
    let keys = KeyServiceServer::new(Keys::new(directory))
        .max_decoding_message_size(MAX_REQUEST_OCTETS)
        .max_encoding_message_size(MAX_REPLY_OCTETS);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<CredentialServiceServer<Credentials>>().await;
    health.set_serving::<CustomerServiceServer<Customers>>().await;
    health.set_serving::<KeyServiceServer<Keys>>().await;

    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let stop = async move {
        stop.await;
        // Load balancers look elsewhere before the listener closes.
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        health.set_not_serving::<CredentialServiceServer<Credentials>>().await;
        health.set_not_serving::<CustomerServiceServer<Customers>>().await;
        health.set_not_serving::<KeyServiceServer<Keys>>().await;
        // The receiver lives for as long as the server does.
        let _ = stopping.send(());
    };
    let server = Server::builder()
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(Deadline(credentials))
        .add_service(Deadline(customers))
        .add_service(Deadline(keys))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop);
    tokio::pin!(server);
    let grace = async {
        match stopped.await {
            Ok(()) => tokio::time::sleep(drain).await,
            // The server ended by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = &mut server => Ok(ended?),
        () = grace => {
            warn!(seconds = drain.as_secs(), "calls were still under way after the drain");
            Ok(())
        }
    }
}

/// Ends a call at its deadline: the caller's, at most [`MAX_DEADLINE`], or [`DEFAULT_DEADLINE`].
#[derive(Clone)]
struct Deadline<S>(S);

impl<S: NamedService> NamedService for Deadline<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let named = request.headers().get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
        let deadline = named.map_or(DEFAULT_DEADLINE, |named| named.min(MAX_DEADLINE)).saturating_sub(AHEAD);
        let answer = self.0.call(request);
        Box::pin(async move {
            match timeout(deadline, answer).await {
                Ok(Ok(answer)) => Ok(status::with_reason(answer)),
                Ok(Err(never)) => match never {},
                Err(_) => Ok(deadline_exceeded().into_http()),
            }
        })
    }
}

/// `1*8DIGIT` and a unit, of <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
fn parse_timeout(text: &str) -> Option<Duration> {
    let digits = text.len().checked_sub(1).filter(|digits| (1..=8).contains(digits))?;
    let (number, unit) = text.split_at_checked(digits)?;
    if !number.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never answers.
    #[derive(Clone)]
    struct Silent;

    impl Service<Request<Body>> for Silent {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_by_its_deadline_or_by_ours() {
        for (named, wanted) in [(None, 5_000), (Some("250m"), 250), (Some("1H"), 10_000), (Some("no time"), 5_000)] {
            let mut request = Request::new(Body::empty());
            if let Some(named) = named {
                request.headers_mut().insert("grpc-timeout", named.parse().unwrap());
            }
            let began = tokio::time::Instant::now();
            let answer = Deadline(Silent).call(request).await.unwrap();
            let code = tonic::Code::DeadlineExceeded as i32;
            assert_eq!(answer.headers()["grpc-status"], code.to_string().as_str());
            assert_eq!(began.elapsed(), Duration::from_millis(wanted) - AHEAD);
        }
    }

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        for (text, wanted) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("123456789S", None),
            ("1ä", None),
        ] {
            assert_eq!(parse_timeout(text), wanted, "{text:?}");
        }
    }
}
