//! Connections: the loop that accepts them, and the life of one, from its handshake to its end. It knows neither TLS, which is a
//! [`Handshake`], nor what is served.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tracing::{debug, warn};

use super::admission::{Calls, Look};
use super::call::{ConnectionService, Endpoint, Phase};
use super::limits;
use super::preface;
use crate::ids::Caller;
use crate::jitter::jittered;
use crate::telemetry::metrics;

/// After an error that is not one connection's own, such as too many open files, accepting waits so long for it to pass.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Makes a connection out of an accepted stream, and finds out who is at its other end.
pub trait Handshake: Send + Sync + 'static {
    /// The connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Shakes hands. Its time is limited by whoever calls it.
    fn shake(&self, stream: TcpStream) -> impl Future<Output = io::Result<(Self::Io, Peer)>> + Send;
}

/// Who is at the other end of a connection.
pub struct Peer {
    /// `None` is nobody, who is served health and reflection alone.
    pub caller: Option<Caller>,
    /// Ends when this is no longer true: at the end of its certificate, or when that is revoked. Until the connection has ended, too, it is
    /// then served as nobody.
    pub until: BoxFuture<'static, ()>,
}

/// No TLS (`insecure.plaintext`): everyone who reaches the port is one caller.
pub struct Plaintext;

impl Handshake for Plaintext {
    type Io = TcpStream;

    async fn shake(&self, stream: TcpStream) -> io::Result<(TcpStream, Peer)> {
        let caller = Some(Caller::insecure_plaintext());
        Ok((stream, Peer { caller, until: Box::pin(std::future::pending()) }))
    }
}

/// How many connections there may be, and how long one lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
    pub(super) number: usize,
    pub(super) age: Duration,
}

/// What ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// There were too many, of all or of its caller.
    Limit,
    /// The handshake failed.
    Handshake,
    /// The handshake or the preface took too long.
    Slow,
    /// It speaks no HTTP/2.
    Protocol,
    /// The other end closed it.
    Peer,
    /// It broke, or its other end broke the rules of HTTP/2, or ours.
    Broken,
    /// It was not used.
    Idle,
    /// The other end took no answers.
    Stalled,
    /// It was old.
    Age,
    /// Its certificate is no longer good.
    Disowned,
    /// The service stops.
    Drain,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Handshake => "handshake",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
            Self::Peer => "peer",
            Self::Broken => "broken",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Age => "age",
            Self::Disowned => "disowned",
            Self::Drain => "drain",
        }
    }
}

/// The connections that are there.
pub(super) struct Connections {
    tasks: JoinSet<()>,
    stopping: watch::Sender<bool>,
}

impl Connections {
    /// Accepts connections until `stop`. Then the port is closed.
    pub(super) async fn accept<H: Handshake>(
        listener: TcpListener,
        handshake: H,
        endpoint: Endpoint,
        limits: ConnectionLimits,
        stop: impl Future<Output = ()>,
    ) -> Self {
        let (handshake, endpoint) = (Arc::new(handshake), Arc::new(endpoint));
        let mut here = Self { tasks: JoinSet::new(), stopping: watch::Sender::new(false) };
        let mut healthy = true;
        let mut stop = pin!(stop);
        loop {
            let stream = tokio::select! {
                () = &mut stop => return here,
                Some(_) = here.tasks.join_next() => continue,
                stream = accepted(&listener, &mut healthy) => stream,
            };
            // Those that have ended hold no place.
            while here.tasks.try_join_next().is_some() {}
            if here.tasks.len() >= limits.number {
                // A client that is hung up on tries elsewhere; one that is kept waiting does not.
                ended(Cause::Limit);
                continue;
            }
            let (handshake, endpoint, stopping) =
                (Arc::clone(&handshake), Arc::clone(&endpoint), here.stopping.subscribe());
            here.tasks.spawn(async move {
                let _here = Here::new(&endpoint);
                ended(live(async move { handshake.shake(stream).await }, &endpoint, limits.age, stopping).await);
            });
        }
    }

    /// Asks all to end, and waits until they have.
    pub(super) async fn drain(&mut self) {
        self.stopping.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Counts a connection for as long as it is there.
struct Here<'a>(&'a Endpoint);

impl<'a> Here<'a> {
    fn new(endpoint: &'a Endpoint) -> Self {
        endpoint.metrics.connections.increment(1);
        Self(endpoint)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.decrement(1);
    }
}

fn ended(cause: Cause) {
    debug!(cause = cause.as_str(), "connection ended");
    metrics::connection_ended(cause.as_str());
}

/// The next connection. What fails for one fails for it alone; what fails for all, such as too many open files, is waited out, and said
/// once.
async fn accepted(listener: &TcpListener, healthy: &mut bool) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                *healthy = true;
                // Small messages are not held back for more. A connection that refuses this is already gone.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                if std::mem::take(healthy) {
                    warn!(%error, "no connection can be accepted; trying on");
                }
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// The life of a connection, from its handshake to its end.
async fn live<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    handshake: impl Future<Output = io::Result<(Io, Peer)>>,
    endpoint: &Arc<Endpoint>,
    age: Duration,
    mut stopping: watch::Receiver<bool>,
) -> Cause {
    let begin = async {
        let (io, peer) = handshake.await.map_err(|_| Cause::Handshake)?;
        let io = preface::expect(io).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Cause::Protocol,
            _ => Cause::Peer,
        })?;
        Ok((io, peer))
    };
    let begun = tokio::select! {
        begun = timeout(limits::HANDSHAKE, begin) => begun.unwrap_or(Err(Cause::Slow)),
        _ = stopping.wait_for(|stopping| *stopping) => Err(Cause::Drain),
    };
    match begun {
        Ok((io, peer)) => serve(io, peer, endpoint, age, stopping).await,
        Err(cause) => cause,
    }
}

/// Serves a connection until it has to end, and then what is under way on it.
async fn serve<Io: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    io: Io,
    mut peer: Peer,
    endpoint: &Arc<Endpoint>,
    age: Duration,
    mut stopping: watch::Receiver<bool>,
) -> Cause {
    let calls = Arc::new(Calls::default());
    let (phase, watched) = watch::channel(Phase::Open);
    let service = ConnectionService::new(Arc::clone(endpoint), peer.caller.take(), Arc::clone(&calls), watched);
    if service.is_one_too_many() {
        return Cause::Limit;
    }
    let mut connection = pin!(http2().serve_connection(TokioIo::new(io), service));
    let mut looks = interval_at(Instant::now() + limits::LOOK, limits::LOOK);
    let mut old = pin!(sleep(jittered(age, limits::AGE_JITTER)));
    let cause = loop {
        tokio::select! {
            ended = &mut connection => return if ended.is_ok() { Cause::Peer } else { Cause::Broken },
            _ = stopping.wait_for(|stopping| *stopping) => break Cause::Drain,
            () = &mut peer.until => break Cause::Disowned,
            () = &mut old => break Cause::Age,
            _ = looks.tick() => match calls.look() {
                Look::Busy => {}
                Look::Idle => break Cause::Idle,
                Look::Stalled => return Cause::Stalled,
            },
        }
    };
    phase.send_replace(if cause == Cause::Disowned { Phase::Disowned } else { Phase::Ending });
    // GOAWAY, in two steps, so that no call that is on its way is lost.
    connection.as_mut().graceful_shutdown();
    // What is still under way then belongs to a caller that does not take its answer.
    let _ = timeout(limits::GRACE, async {
        if cause != Cause::Disowned {
            tokio::select! {
                _ = &mut connection => return,
                () = &mut peer.until => { phase.send_replace(Phase::Disowned); }
            }
        }
        let _ = connection.await;
    })
    .await;
    cause
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::MAX_STREAMS)
        .max_header_list_size(limits::MAX_HEADER_OCTETS)
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_local_error_reset_streams(limits::MAX_ERROR_RESETS)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buf_size(limits::MAX_SEND_OCTETS)
        .keep_alive_interval(limits::PING)
        .keep_alive_timeout(limits::PING_TIMEOUT);
    builder
}

#[cfg(test)]
mod tests;
