//! One call, around its handler: its id, whether it is admitted, when it ends, and what it counts as.
//!
//! # What ends with a call, and what goes on
//!
//! A call ends with its answer, at its deadline, or when its caller or its connection is gone. Then its future is dropped, and with it
//! every wait in it: for the rest of the request, for the store, for a pause before another attempt. Three things go on, on purpose, and
//! each is bounded:
//!
//! - a look-up that others may have joined (`keyring::single_flight`): by the time in which a dependency must answer
//!   (`telemetry::dependency`)
//! - a write that the store has taken (`store::embedded`, the group commit): by the writes that wait before it. One that nobody waits for
//!   is left out if its turn has not come. So the error at a deadline says that a change may have happened
//! - the octets of an answer that the connection has taken: by its buffer (`limits::MAX_SEND_OCTETS`)

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::admission::{Admission, Admitted, Calls, Load, Share, Shed, UnderWay};
use super::limits::{self, DEFAULT_DEADLINE, MAX_CONNECTIONS_EACH, MAX_OTHERS, PIECE_OCTETS};
use super::status;
use crate::ids::{Caller, RequestId, TraceId};
use crate::telemetry;
use crate::telemetry::metrics::{self, Rpc};

/// Taken from the caller, and answered.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A call with more headers than this gives up all that nobody looks at: in memory they take many times their length.
const MANY_HEADERS: usize = 16;
/// What tonic looks at.
const LOOKED_AT: [HeaderName; 4] = [
    http::header::CONTENT_TYPE,
    http::header::TE,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// What is served, on every connection.
pub(super) struct Endpoint {
    routes: Routes,
    /// The protocol's methods by their paths. All others are health, reflection, or nothing.
    rpcs: HashMap<String, Arc<Rpc>>,
    admission: Arc<Admission>,
    pub(super) metrics: Arc<metrics::Server>,
}

impl Endpoint {
    /// Serves `routes`, where the paths of the protocol's methods are `rpcs`; at most `limit` calls of these at a time, counted in `load`.
    pub(super) fn new(routes: Routes, rpcs: HashMap<String, Arc<Rpc>>, limit: usize, load: Load) -> Self {
        let metrics = Arc::new(metrics::Server::new());
        Self { routes, rpcs, admission: Admission::new(limit, load, Arc::clone(&metrics)), metrics }
    }
}

/// What becomes of a connection, as far as its calls have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Calls are served.
    Open,
    /// It is about to end: no new streams, and the old ones end.
    Ending,
    /// Whoever is at its other end is no longer who they were: they are served as nobody.
    Disowned,
}

/// When a call ends, for a handler that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// The time that a handler needs after it has waited.
    const MARGIN: Duration = Duration::from_millis(500);

    /// Until when a handler may wait that would wait for so long.
    pub(super) fn wait_until<T>(request: &tonic::Request<T>, wait: Duration) -> Instant {
        let until = Instant::now() + wait;
        match request.extensions().get::<Self>() {
            Some(Self(end)) => until.min(end.checked_sub(Self::MARGIN).unwrap_or(*end)),
            None => until,
        }
    }
}

/// Whether the caller is still who it was when the connection was made, for a handler that has waited: for the rest of its message, or
/// for something else.
#[derive(Clone)]
pub(super) struct Standing(watch::Receiver<Phase>);

impl Standing {
    /// Whether the caller of a request has lost it. One that did not come over a connection has nothing to lose.
    pub(super) fn is_lost_by<T>(request: &tonic::Request<T>) -> bool {
        request.extensions().get::<Self>().is_some_and(Self::is_lost)
    }

    /// Waits until it has.
    pub(super) fn lost_by<T>(request: &tonic::Request<T>) -> impl Future<Output = ()> + Send + use<T> {
        let standing = request.extensions().get::<Self>().cloned();
        async move {
            match standing {
                // Without its sender the connection is gone, and nobody waits.
                Some(Self(mut phase)) => drop(phase.wait_for(|phase| *phase == Phase::Disowned).await),
                None => std::future::pending().await,
            }
        }
    }

    /// Whether nothing may be done for it any more.
    fn is_lost(&self) -> bool {
        *self.0.borrow() == Phase::Disowned
    }
}

/// The places of a call, for a handler that waits.
#[derive(Clone)]
pub(super) struct Places(Arc<Admitted>);

impl Places {
    /// Leaves those of a request to others, as soon as it only waits.
    pub(super) fn left_by<T>(request: &tonic::Request<T>) -> impl Fn() + Send + Sync + use<T> {
        let places = request.extensions().get::<Self>().cloned();
        move || {
            if let Some(Self(admitted)) = &places {
                admitted.only_waits();
            }
        }
    }
}

/// Serves the calls of one connection.
pub(super) struct ConnectionService {
    endpoint: Arc<Endpoint>,
    caller: Option<Caller>,
    share: Arc<Share>,
    calls: Arc<Calls>,
    phase: watch::Receiver<Phase>,
}

impl ConnectionService {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        caller: Option<Caller>,
        calls: Arc<Calls>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let share = endpoint.admission.share(caller.clone());
        Self { endpoint, caller, share, calls, phase }
    }

    /// Whether its caller has more connections than one may have.
    pub(super) fn is_one_too_many(&self) -> bool {
        self.share.connections() > MAX_CONNECTIONS_EACH
    }

    /// Serves one of the protocol's methods.
    fn rpc<B>(&self, rpc: &Arc<Rpc>, mut request: Request<B>) -> BoxFuture<'static, Response<CallBody>>
    where
        B: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
    {
        let longest = limits::max_deadline(request.uri().path());
        // One that may take longer than that is no sign of a caller that takes no answers.
        let mut call = Call::begin(rpc, self.calls.begin(longest > limits::LOOK));
        match self.admit(limits::places(request.uri().path())) {
            Ok(admitted) => {
                let admitted = Arc::new(admitted);
                request.extensions_mut().insert(Places(Arc::clone(&admitted)));
                call.admitted = Some(admitted);
            }
            Err(refused) => return Box::pin(std::future::ready(call.answer(refused.into_http()))),
        }
        let deadline = deadline(request.headers(), longest);
        let standing = Standing(self.phase.clone());
        request.extensions_mut().insert(Deadline(Instant::now() + deadline));
        request.extensions_mut().insert(standing.clone());
        drop_headers(request.headers_mut());
        let handled = AssertUnwindSafe(self.endpoint.routes.clone().call(request)).catch_unwind();
        Box::pin(async move {
            let answer = match timeout(deadline, handled).await {
                Ok(Ok(Ok(answer))) => status::with_reason(answer),
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(_panic)) => status::panicked().into_http(),
                Err(_elapsed) => status::deadline_exceeded().into_http(),
            };
            // What was begun is ended, and has its entry in the audit log; whoever asked for it is told nothing of it.
            let answer = if standing.is_lost() { status::no_client_certificate().into_http() } else { answer };
            call.answer(answer)
        })
    }

    fn admit(&self, places: usize) -> Result<Admitted, Status> {
        if self.caller.is_none() || Standing(self.phase.clone()).is_lost() {
            return Err(status::no_client_certificate());
        }
        self.share.admit(places).map_err(|shed| match shed {
            Shed::Overloaded => status::overloaded(),
            Shed::RateLimited => status::rate_limited(),
        })
    }

    /// Serves anything else: it counts for the connection alone, and ends with it.
    fn other<B>(&self, mut request: Request<B>) -> BoxFuture<'static, Response<CallBody>>
    where
        B: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
    {
        let (under_way, mut phase) = (self.calls.begin(true), self.phase.clone());
        if self.calls.streams() > MAX_OTHERS {
            let refused = status::too_many_others().into_http();
            return Box::pin(std::future::ready(refused.map(|body| CallBody::stream(body, under_way, None))));
        }
        drop_headers(request.headers_mut());
        let handled = self.endpoint.routes.clone().call(request);
        Box::pin(async move {
            let answer = match timeout(DEFAULT_DEADLINE, handled).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(_elapsed) => status::deadline_exceeded().into_http(),
            };
            // Its sender is gone when the connection is.
            let ending = async move {
                let _ = phase.wait_for(|phase| *phase != Phase::Open).await;
            };
            answer.map(|body| CallBody::stream(body, under_way, Some(Box::pin(ending))))
        })
    }

    fn serve<B>(&self, mut request: Request<B>) -> BoxFuture<'static, Result<Response<CallBody>, Infallible>>
    where
        B: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
    {
        let (id, trace) = (request_id(request.headers()), trace_id(request.headers()));
        if let Some(caller) = &self.caller {
            request.extensions_mut().insert(caller.clone());
        }
        let answer = match self.endpoint.rpcs.get(request.uri().path()) {
            Some(rpc) => self.rpc(rpc, request),
            None => self.other(request),
        };
        let answered = id.as_str().parse::<HeaderValue>();
        Box::pin(telemetry::within(id, trace, async move {
            let mut answer = answer.await;
            if let Ok(mut id) = answered {
                // Each answer has another one, so no connection's table of headers is to keep it: it would push out those that recur.
                id.set_sensitive(true);
                answer.headers_mut().insert(REQUEST_ID, id);
            }
            Ok(answer)
        }))
    }
}

impl<B> hyper::service::Service<Request<B>> for ConnectionService
where
    B: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
{
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<CallBody>, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        self.serve(request)
    }
}

/// A call of one of the protocol's methods, from its headers until its answer is sent or nobody wants it any more.
struct Call {
    rpc: Arc<Rpc>,
    begun: Instant,
    /// Code and reason. Without an answer, the caller has gone.
    outcome: (&'static str, &'static str),
    admitted: Option<Arc<Admitted>>,
    _under_way: UnderWay,
}

impl Call {
    fn begin(rpc: &Arc<Rpc>, under_way: UnderWay) -> Self {
        let outcome = (status::code_name(tonic::Code::Cancelled), "");
        Self { rpc: Arc::clone(rpc), begun: Instant::now(), outcome, admitted: None, _under_way: under_way }
    }

    /// An error stands in the headers; the outcome of all others follows their message.
    fn answer(mut self, answer: Response<Body>) -> Response<CallBody> {
        self.note(answer.headers());
        answer.map(|body| CallBody { body, pieces: Bytes::new(), ending: None, held: Held::Call(self) })
    }

    fn note(&mut self, headers: &HeaderMap) {
        if let Some(outcome) = status::outcome(headers) {
            self.outcome = outcome;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (code, reason) = self.outcome;
        self.rpc.ended(code, reason, self.begun.elapsed());
    }
}

/// What is under way until the answer is sent.
enum Held {
    Call(Call),
    Stream(#[expect(dead_code, reason = "it counts until it is dropped")] UnderWay),
}

/// The answer to a call. It comes in pieces, so that the connection takes no more of it than it can send, and its call stays under way
/// until the last is taken.
pub(super) struct CallBody {
    body: Body,
    /// What is left of a longer one.
    pieces: Bytes,
    /// When a stream ends that has no end of its own.
    ending: Option<BoxFuture<'static, ()>>,
    held: Held,
}

impl CallBody {
    fn stream(body: Body, under_way: UnderWay, ending: Option<BoxFuture<'static, ()>>) -> Self {
        Self { body, pieces: Bytes::new(), ending, held: Held::Stream(under_way) }
    }
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.pieces.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.pieces = data,
                    Err(frame) => {
                        if let (Some(trailers), Held::Call(call)) = (frame.trailers_ref(), &mut self.held) {
                            call.note(trailers);
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    let Some(ending) = &mut self.ending else { return Poll::Pending };
                    ready!(ending.as_mut().poll(context));
                    self.ending = None;
                    self.body = Body::empty();
                    return Poll::Ready(Some(Ok(Frame::trailers(status::stream_ends()))));
                }
            }
        }
        let next = PIECE_OCTETS.min(self.pieces.len());
        Poll::Ready(Some(Ok(Frame::data(self.pieces.split_to(next)))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.body.is_end_stream()
    }
}

/// Takes away what nobody looks at, if there is much of it.
fn drop_headers(headers: &mut HeaderMap) {
    if headers.len() <= MANY_HEADERS {
        return;
    }
    let all = std::mem::take(headers);
    headers.extend(LOOKED_AT.into_iter().filter_map(|name| Some((name.clone(), all.get(name)?.clone()))));
}

/// Begins with the caller's, if it is one; else a new one. Either way no other call has it.
fn request_id(headers: &HeaderMap) -> RequestId {
    let given = headers.get(REQUEST_ID).and_then(|id| RequestId::parse(id.to_str().ok()?).ok());
    given.map_or_else(RequestId::random, |given| RequestId::of_call(&given))
}

/// The caller's, if it names one.
fn trace_id(headers: &HeaderMap) -> Option<TraceId> {
    TraceId::from_traceparent(headers.get("traceparent")?.to_str().ok()?)
}

/// The caller's, at most the `longest`, or [`DEFAULT_DEADLINE`].
fn deadline(headers: &HeaderMap, longest: Duration) -> Duration {
    let named = headers.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    named.map_or(DEFAULT_DEADLINE, |named| named.min(longest))
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
pub(super) mod tests;
