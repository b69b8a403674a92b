use std::collections::VecDeque;

use http_body_util::BodyExt;
use tokio::sync::{Notify, Semaphore};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;

use super::super::admission::Look;
use super::*;

/// A service whose methods do what their names say.
#[derive(Clone)]
pub(in crate::grpc) struct Playground {
    /// A call of `Hold` ends when it gets one.
    pub(in crate::grpc) release: Arc<Semaphore>,
    /// There is one.
    pub(in crate::grpc) held: Arc<Notify>,
}

impl NamedService for Playground {
    const NAME: &'static str = "triseal.v1.Playground";
}

const METHODS: [&str; 6] = ["Hold", "Panic", "Big", "Fail", "Unreadable", "Who"];
/// The octets of a `Big` answer.
pub(in crate::grpc) const BIG: usize = 1 << 20;

impl Playground {
    pub(in crate::grpc) fn new() -> Self {
        Self { release: Arc::new(Semaphore::new(0)), held: Arc::new(Notify::new()) }
    }

    /// Serves it, at most so many calls at a time, and a stream without an end beside it.
    pub(in crate::grpc) fn endpoint(&self, limit: usize) -> Endpoint {
        let paths = METHODS.map(path).into_iter().chain([limits::RETIREMENT.to_owned()]);
        let named = |path: String| {
            let name = path.rsplit('/').next().unwrap().to_owned();
            (path, Arc::new(Rpc::new(name)))
        };
        let rpcs = paths.map(named).collect();
        let mut routes = RoutesBuilder::default();
        routes.add_service(self.clone()).add_service(Retiring(self.clone()));
        Endpoint::new(routes.routes().prepare(), rpcs, limit, Load::default())
    }
}

/// The same under the name of the service whose call may take long.
#[derive(Clone)]
struct Retiring(Playground);

impl NamedService for Retiring {
    const NAME: &'static str = "triseal.v1.KeyService";
}

impl Service<Request<Body>> for Retiring {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

pub(in crate::grpc) fn path(method: &str) -> String {
    format!("/{}/{method}", Playground::NAME)
}

impl Service<Request<Body>> for Playground {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (release, held) = (Arc::clone(&self.release), Arc::clone(&self.held));
        Box::pin(async move {
            let data = |octets: usize| Ok(Frame::data(Bytes::from(vec![7; octets])));
            Ok(match request.uri().path().rsplit('/').next().unwrap() {
                "Hold" | "RetireCustomerKeyVersion" => {
                    held.notify_one();
                    release.acquire().await.unwrap().forget();
                    answer([data(1)])
                }
                "Panic" => panic!("planted"),
                "Big" => answer([data(BIG)]),
                "Fail" => Status::not_found("planted").into_http(),
                "Unreadable" => Status::internal("the decoder's own text").into_http(),
                "Who" => {
                    answer([Ok(Frame::data(request.extensions().get::<Caller>().unwrap().as_str().to_owned().into()))])
                }
                // One message, and then no end.
                "Watch" => {
                    let first = answer::<1>([data(1)]).into_body().into_data_stream();
                    let never = futures_util::stream::pending::<Result<Bytes, Status>>();
                    let frames = futures_util::StreamExt::chain(first, never);
                    Response::new(Body::new(http_body_util::StreamBody::new(futures_util::StreamExt::map(
                        frames,
                        |data| data.map(Frame::data),
                    ))))
                }
                _ => Status::unimplemented("").into_http(),
            })
        })
    }
}

/// These frames, and an OK.
fn answer<const N: usize>(frames: [Result<Frame<Bytes>, Status>; N]) -> Response<Body> {
    struct Frames(VecDeque<Result<Frame<Bytes>, Status>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = frames.into_iter().chain([Ok(Frame::trailers(trailers))]);
    Response::new(Body::new(Frames(frames.collect())))
}

#[test]
fn of_many_headers_those_stay_that_somebody_looks_at() {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    headers.insert("x-few", HeaderValue::from_static("x"));
    let few = headers.clone();
    drop_headers(&mut headers);
    assert_eq!(headers, few);
    for number in 0..MANY_HEADERS {
        headers
            .insert(HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap(), HeaderValue::from_static("x"));
    }
    drop_headers(&mut headers);
    assert_eq!(headers.len(), 2);
    assert!(headers["content-type"] == "application/grpc" && headers["grpc-encoding"] == "gzip");
}

/// A connection to a playground.
struct Client {
    service: ConnectionService,
    calls: Arc<Calls>,
    phase: watch::Sender<Phase>,
}

impl Client {
    fn of(endpoint: &Arc<Endpoint>, caller: Option<&str>) -> Self {
        let (calls, (phase, watched)) = (Arc::new(Calls::default()), watch::channel(Phase::Open));
        let caller = caller.map(Caller::new);
        let service = ConnectionService::new(Arc::clone(endpoint), caller, Arc::clone(&calls), watched);
        Self { service, calls, phase }
    }

    fn start(&self, method: &str, headers: &[(&'static str, &str)]) -> BoxFuture<'static, Response<CallBody>> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path(method).parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let answer = self.service.serve(request);
        Box::pin(async { answer.await.unwrap() })
    }

    async fn call(&self, method: &str, headers: &[(&'static str, &str)]) -> Response<CallBody> {
        self.start(method, headers).await
    }
}

fn playground(limit: usize) -> (Playground, Client) {
    let playground = Playground::new();
    let endpoint = Arc::new(playground.endpoint(limit));
    let client = Client::of(&endpoint, Some("realtask"));
    (playground, client)
}

/// Code and reason of an answer.
async fn outcome(answer: Response<CallBody>) -> (&'static str, &'static str) {
    let (parts, body) = answer.into_parts();
    let told = status::outcome(&parts.headers);
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    told.or(status::outcome(&trailers)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline_or_by_ours() {
    let (playground, client) = playground(10);
    for (named, wanted) in [(None, 5_000), (Some("250m"), 250), (Some("1H"), 10_000), (Some("no time"), 5_000)] {
        let begun = Instant::now();
        let headers: Vec<_> = named.iter().map(|named| ("grpc-timeout", *named)).collect();
        let answer = client.call("Hold", &headers).await;
        assert_eq!(outcome(answer).await, ("DEADLINE_EXCEEDED", ""));
        assert_eq!(begun.elapsed(), Duration::from_millis(wanted));
    }
    // And what it waited for is not waited for any more.
    playground.release.add_permits(1);
    tokio::task::yield_now().await;
    assert_eq!(playground.release.available_permits(), 1);
}

#[tokio::test]
async fn above_the_limit_calls_are_refused_at_once_and_the_admitted_are_served() {
    let (playground, client) = playground(2);
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(client.start("Hold", &[]))).collect();
    for _ in 0..3 {
        assert_eq!(outcome(client.call("Who", &[]).await).await, ("RESOURCE_EXHAUSTED", "OVERLOADED"));
    }
    // What is no load is answered all the same.
    assert_eq!(outcome(client.call("Unknown", &[]).await).await, ("UNIMPLEMENTED", ""));
    playground.release.add_permits(2);
    for held in held {
        assert_eq!(outcome(held.await.unwrap()).await, ("OK", ""));
    }
    assert_eq!(outcome(client.call("Who", &[]).await).await, ("OK", ""));
}

#[tokio::test]
async fn a_connection_has_so_many_watches_and_one_that_ends_makes_room() {
    let (_playground, client) = playground(1);
    let mut watches = Vec::new();
    for _ in 0..MAX_OTHERS {
        watches.push(client.call("Watch", &[]).await);
    }
    assert_eq!(outcome(client.call("Watch", &[]).await).await, ("RESOURCE_EXHAUSTED", "RATE_LIMITED"));
    assert_eq!(outcome(client.call("Who", &[]).await).await, ("OK", ""), "calls are another matter");
    watches.pop();
    assert_eq!(outcome(client.call("Unknown", &[]).await).await, ("UNIMPLEMENTED", ""));
}

#[tokio::test]
async fn a_caller_in_company_is_limited_to_its_share() {
    let playground = Playground::new();
    let endpoint = Arc::new(playground.endpoint(4));
    let (greedy, modest) = (Client::of(&endpoint, Some("greedy")), Client::of(&endpoint, Some("modest")));
    let held: Vec<_> = (0..2).map(|_| tokio::spawn(greedy.start("Hold", &[]))).collect();
    assert_eq!(outcome(greedy.call("Who", &[]).await).await, ("RESOURCE_EXHAUSTED", "RATE_LIMITED"));
    assert_eq!(outcome(modest.call("Who", &[]).await).await, ("OK", ""));
    playground.release.add_permits(2);
    for held in held {
        assert_eq!(outcome(held.await.unwrap()).await, ("OK", ""));
    }
}

#[tokio::test]
async fn a_call_is_under_way_until_its_answer_is_taken_or_dropped() {
    let (_playground, client) = playground(1);
    for take in [true, false] {
        let mut answer = client.call("Big", &[]).await;
        assert_eq!(outcome(client.call("Who", &[]).await).await.1, "OVERLOADED");
        let (mut octets, mut pieces) = (0, 0);
        while let Some(frame) = answer.body_mut().frame().await {
            assert_eq!(outcome(client.call("Who", &[]).await).await.1, "OVERLOADED");
            match frame.unwrap().into_data() {
                Ok(data) => {
                    assert!(data.len() <= PIECE_OCTETS && data.iter().all(|octet| *octet == 7));
                    (octets, pieces) = (octets + data.len(), pieces + 1);
                }
                Err(frame) => assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0"),
            }
            if !take {
                break;
            }
        }
        assert!(!take || (octets, pieces) == (BIG, BIG / PIECE_OCTETS));
        drop(answer);
        assert_eq!(outcome(client.call("Who", &[]).await).await, ("OK", ""));
    }
    // One that is given up before it is answered makes room, too.
    drop(client.start("Hold", &[]));
    assert_eq!(outcome(client.call("Who", &[]).await).await, ("OK", ""));
}

#[tokio::test]
async fn a_caller_is_who_the_connection_says_and_nobody_is_served_nothing() {
    let playground = Playground::new();
    let endpoint = Arc::new(playground.endpoint(4));
    let client = Client::of(&endpoint, Some("realtask"));
    let body = client.call("Who", &[]).await.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "realtask");

    let nobody = Client::of(&endpoint, None);
    assert_eq!(outcome(nobody.call("Who", &[]).await).await, ("UNAUTHENTICATED", "NO_CLIENT_CERTIFICATE"));
    client.phase.send_replace(Phase::Disowned);
    assert_eq!(outcome(client.call("Who", &[]).await).await, ("UNAUTHENTICATED", "NO_CLIENT_CERTIFICATE"));
}

#[tokio::test]
async fn nobody_has_health_and_reflection_and_no_call() {
    let playground = Playground::new();
    let endpoint = Arc::new(playground.endpoint(4));
    let disowned = Client::of(&endpoint, Some("realtask"));
    disowned.phase.send_replace(Phase::Disowned);
    for client in [Client::of(&endpoint, None), disowned] {
        // What is no method of the protocol.
        let mut other = client.call("Watch", &[]).await;
        assert!(other.body_mut().frame().await.unwrap().is_ok());
        assert_eq!(outcome(client.call("Who", &[]).await).await, ("UNAUTHENTICATED", "NO_CLIENT_CERTIFICATE"));
    }
}

#[tokio::test]
async fn whoever_is_disowned_while_a_call_is_under_way_is_told_nothing_and_what_was_begun_is_ended() {
    let (playground, client) = playground(4);
    for (phase, wanted) in
        [(Phase::Ending, ("OK", "")), (Phase::Disowned, ("UNAUTHENTICATED", "NO_CLIENT_CERTIFICATE"))]
    {
        let held = tokio::spawn(client.start("Hold", &[]));
        playground.held.notified().await;
        client.phase.send_replace(phase);
        playground.release.add_permits(1);
        assert_eq!(outcome(held.await.unwrap()).await, wanted, "{phase:?}");
        assert_eq!(playground.release.available_permits(), 0, "its handler went on to the end");
    }
}

#[tokio::test]
async fn a_request_id_is_taken_if_it_is_one_and_answered_in_any_case() {
    let (_playground, client) = playground(4);
    let id = |answer: &Response<CallBody>| answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    for method in ["Who", "Fail", "Panic", "Unknown"] {
        let [one, other] = [(); 2].map(|()| client.call(method, &[("x-request-id", "given-1")]));
        let (one, other) = (id(&one.await), id(&other.await));
        assert!(one.starts_with("given-1~") && other.starts_with("given-1~"), "{method}: {one} {other}");
        assert_ne!(one, other, "each call has a name of its own");
    }
    let too_long = "x".repeat(129);
    let mut made = Vec::new();
    for bad in ["two words", "\u{e4}", too_long.as_str()] {
        made.push(id(&client.call("Who", &[("x-request-id", bad)]).await));
    }
    made.push(id(&client.call("Who", &[]).await));
    assert!(made.iter().all(|id| id.len() == 32 && RequestId::parse(id).is_ok()), "{made:?}");
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 4);
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_call_alone() {
    let (_playground, client) = playground(1);
    assert_eq!(outcome(client.call("Panic", &[]).await).await, ("INTERNAL", "INTERNAL"));
    assert_eq!(outcome(client.call("Who", &[]).await).await, ("OK", ""));
    assert_eq!(outcome(client.call("Unreadable", &[]).await).await, ("INVALID_ARGUMENT", "BAD_FIELD"));
    assert_eq!(outcome(client.call("Fail", &[]).await).await, ("NOT_FOUND", ""));
}

#[tokio::test]
async fn a_stream_without_an_end_ends_with_its_connection() {
    let (_playground, client) = playground(1);
    let mut watch = client.call("Watch", &[]).await;
    assert!(watch.body_mut().frame().await.unwrap().unwrap().is_data());
    assert!(watch.body_mut().frame().now_or_never().is_none(), "it goes on");
    for _ in 0..20 {
        assert_eq!(client.calls.look(), Look::Busy, "it is neither idle nor stalled");
    }
    assert_eq!(outcome(client.call("Who", &[]).await).await, ("OK", ""), "and takes nobody's place");
    let ended = tokio::spawn(async move { watch.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap() });
    tokio::task::yield_now().await;
    client.phase.send_replace(Phase::Ending);
    assert_eq!(status::outcome(&ended.await.unwrap()), Some(("UNAVAILABLE", "")));
}

#[test]
fn every_call_is_counted_once_by_how_it_ended() {
    let text = metrics::counted(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (playground, client) = playground(1);
            playground.release.add_permits(1);
            for method in ["Who", "Fail", "Panic", "Unreadable", "Hold", "Unknown", "Big"] {
                outcome(client.call(method, &[]).await).await;
            }
            // Given up by its caller, while another one is refused.
            let held = client.start("Hold", &[]);
            assert_eq!(outcome(client.call("Who", &[]).await).await.1, "OVERLOADED");
            drop(held);
        });
    });
    for line in [
        "triseal_requests_total{rpc=\"Who\",code=\"OK\",reason=\"\"} 1",
        "triseal_requests_total{rpc=\"Who\",code=\"RESOURCE_EXHAUSTED\",reason=\"OVERLOADED\"} 1",
        "triseal_requests_total{rpc=\"Fail\",code=\"NOT_FOUND\",reason=\"\"} 1",
        "triseal_requests_total{rpc=\"Panic\",code=\"INTERNAL\",reason=\"INTERNAL\"} 1",
        "triseal_requests_total{rpc=\"Unreadable\",code=\"INVALID_ARGUMENT\",reason=\"BAD_FIELD\"} 1",
        "triseal_requests_total{rpc=\"Hold\",code=\"OK\",reason=\"\"} 1",
        "triseal_requests_total{rpc=\"Hold\",code=\"CANCELLED\",reason=\"\"} 1",
        "triseal_requests_total{rpc=\"Big\",code=\"OK\",reason=\"\"} 1",
        "triseal_request_seconds_count{rpc=\"Hold\"} 2",
        "triseal_requests_shed_total{reason=\"OVERLOADED\"} 1",
        "triseal_requests_shed_total{reason=\"RATE_LIMITED\"} 0",
        "triseal_requests_in_flight 0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("Unknown"), "a path that is no method is no label");
}

#[test]
fn a_retirement_may_take_longer_than_any_other_call() {
    let rpcs = crate::grpc::server::rpcs(crate::grpc::v1::DESCRIPTORS).unwrap();
    assert!(rpcs.contains_key(limits::RETIREMENT));
    for path in rpcs.keys() {
        let longest = limits::max_deadline(path);
        let wanted = if path == limits::RETIREMENT { Duration::from_mins(5) } else { Duration::from_secs(10) };
        let named = |timeout: &'static str| {
            deadline(
                &[("grpc-timeout".parse().unwrap(), HeaderValue::from_static(timeout))].into_iter().collect(),
                longest,
            )
        };
        assert_eq!((named("1H"), named("7S")), (wanted, Duration::from_secs(7)), "{path}");
        assert_eq!(deadline(&HeaderMap::new(), longest), Duration::from_secs(5), "{path}");
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
