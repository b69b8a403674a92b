use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::body::Body;

use super::super::call::tests::{BIG, Playground, path};
use super::*;

/// Of a connection in these tests. Longer than the idle time.
const AGE: Duration = Duration::from_hours(1);

/// A connection that is served, over a pipe in memory.
struct Served {
    playground: Playground,
    client: DuplexStream,
    stopping: watch::Sender<bool>,
    disown: oneshot::Sender<()>,
    ended: JoinHandle<Cause>,
}

fn served(age: Duration) -> Served {
    let playground = Playground::new();
    let endpoint = Arc::new(playground.endpoint(100));
    let (client, server) = duplex(1 << 16);
    let (stopping, stopped) = watch::channel(false);
    let (disown, disowned) = oneshot::channel::<()>();
    let until = async {
        // Whoever drops the sender disowns nobody.
        if disowned.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let peer = Peer { caller: Some(Caller::new("realtask")), until: Box::pin(until) };
    let ended = tokio::spawn(async move { live(async { Ok((server, peer)) }, &endpoint, age, stopped).await });
    Served { playground, client, stopping, disown, ended }
}

/// Speaks HTTP/2 over it.
async fn speak(client: DuplexStream) -> SendRequest<Body> {
    let (send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn call(send: &mut SendRequest<Body>, method: &str) -> hyper::Result<Response<Incoming>> {
    let request = Request::post(format!("http://server{}", path(method))).body(Body::empty()).unwrap();
    send.send_request(request).await
}

async fn status(answer: Response<Incoming>) -> String {
    assert_eq!(answer.status(), StatusCode::OK);
    let told = answer.headers().get("grpc-status").cloned();
    let trailers = answer.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
    told.or(trailers.get("grpc-status").cloned()).unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_handshake_or_preface_that_takes_too_long_is_ended() {
    // Nothing, and an octet now and then.
    for octets in [&b""[..], b"PRI * HT"] {
        let mut served = served(AGE);
        let begun = Instant::now();
        for octet in octets {
            served.client.write_u8(*octet).await.unwrap();
            sleep(limits::HANDSHAKE / 10).await;
        }
        assert_eq!(served.ended.await.unwrap(), Cause::Slow);
        assert_eq!(begun.elapsed(), limits::HANDSHAKE);
    }
    let (endpoint, begun) = (Arc::new(Playground::new().endpoint(1)), Instant::now());
    let never = std::future::pending::<io::Result<(DuplexStream, Peer)>>();
    let (_stopping, stopped) = watch::channel(false);
    assert_eq!(live(never, &endpoint, AGE, stopped).await, Cause::Slow);
    assert_eq!(begun.elapsed(), limits::HANDSHAKE);
}

#[tokio::test]
async fn what_is_no_http2_is_refused() {
    let mut served = served(AGE);
    served.client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
    served.client.shutdown().await.unwrap();
    let mut answer = String::new();
    served.client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert_eq!(served.ended.await.unwrap(), Cause::Protocol);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_is_ended_and_one_with_calls_is_not() {
    let served = served(AGE);
    let mut send = speak(served.client).await;
    let (begun, idle) = (Instant::now(), limits::LOOK * (limits::IDLE_LOOKS + 1));
    for _ in 0..3 {
        sleep(idle - limits::LOOK).await;
        assert_eq!(status(call(&mut send, "Who").await.unwrap()).await, "0");
    }
    assert_eq!(served.ended.await.unwrap(), Cause::Idle);
    assert!(begun.elapsed() >= 3 * (idle - limits::LOOK) + idle - limits::LOOK);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_other_end_answers_no_ping_is_closed() {
    let mut served = served(AGE);
    let begun = Instant::now();
    // A preface and empty SETTINGS; then nothing, not even an answer to a ping.
    let octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    served.client.write_all(octets).await.unwrap();
    assert_eq!(served.ended.await.unwrap(), Cause::Broken);
    assert!(begun.elapsed() >= limits::PING && begun.elapsed() < 2 * limits::PING);
}

#[tokio::test(start_paused = true)]
async fn at_its_age_a_connection_serves_what_is_under_way_and_ends() {
    let age = Duration::from_secs(10);
    let served = served(age);
    let mut send = speak(served.client).await;
    let begun = Instant::now();
    assert_eq!(status(call(&mut send, "Who").await.unwrap()).await, "0");
    sleep(age.mul_f64(0.85)).await;
    let mut again = send.clone();
    let held = tokio::spawn(async move { status(call(&mut again, "Hold").await.unwrap()).await });
    sleep(age.mul_f64(0.3)).await;
    // It was told to go, and still waits for its answer.
    assert!(call(&mut send, "Who").await.is_err());
    assert!(!served.ended.is_finished() && !held.is_finished());
    served.playground.release.add_permits(1);
    assert_eq!(held.await.unwrap(), "0");
    assert_eq!(served.ended.await.unwrap(), Cause::Age);
    assert!(begun.elapsed() < age.mul_f64(1.15) + limits::GRACE / 2);
}

/// Speaks HTTP/2, and takes no more of an answer than must be taken.
async fn sip(client: DuplexStream) -> SendRequest<Body> {
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let (send, connection) = builder.handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    send
}

#[tokio::test(start_paused = true)]
async fn a_retirement_may_take_longer_than_any_other_call() {
    let served = served(AGE);
    let mut send = speak(served.client).await;
    let request = Request::post(format!("http://server{}", limits::RETIREMENT)).header("grpc-timeout", "5M");
    let answer = tokio::spawn(send.send_request(request.body(Body::empty()).unwrap()));
    sleep(4 * limits::LOOK).await;
    assert!(!answer.is_finished() && !served.ended.is_finished());
    served.playground.release.add_permits(1);
    assert_eq!(status(answer.await.unwrap().unwrap()).await, "0");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_no_answers_loses_its_connection() {
    let served = served(AGE);
    let mut send = sip(served.client).await;
    let begun = Instant::now();
    let answer = call(&mut send, "Big").await.unwrap();
    assert_eq!(served.ended.await.unwrap(), Cause::Stalled);
    assert!(begun.elapsed() > limits::MAX_DEADLINE && begun.elapsed() <= 2 * limits::LOOK);
    assert!(answer.into_body().collect().await.is_err(), "the answer broke off");

    // One that takes it slowly is served.
    let served = self::served(AGE);
    let mut send = sip(served.client).await;
    let mut body = call(&mut send, "Big").await.unwrap().into_body();
    let mut taken = 0;
    while let Some(frame) = body.frame().await {
        taken += frame.unwrap().into_data().map_or(0, |data| data.len());
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(taken, BIG);
    assert!(!served.ended.is_finished());
}

#[tokio::test(start_paused = true)]
async fn after_its_grace_an_old_connection_is_closed_whatever_is_under_way() {
    let age = Duration::from_secs(10);
    let served = served(age);
    let mut send = sip(served.client).await;
    let begun = Instant::now();
    let _answer = call(&mut send, "Big").await.unwrap();
    assert_eq!(served.ended.await.unwrap(), Cause::Age);
    assert!(begun.elapsed() >= age.mul_f64(0.9) + limits::GRACE);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_certificate_ends_or_whose_service_stops_ends_what_is_under_way() {
    // Served, or told nothing.
    for (cause, told) in [(Cause::Disowned, "16"), (Cause::Drain, "0")] {
        let served = served(AGE);
        let mut send = speak(served.client).await;
        let mut again = send.clone();
        let held = tokio::spawn(async move { status(call(&mut again, "Hold").await.unwrap()).await });
        sleep(Duration::from_secs(1)).await;
        match cause {
            Cause::Disowned => served.disown.send(()).unwrap(),
            _ => drop(served.stopping.send_replace(true)),
        }
        sleep(Duration::from_secs(1)).await;
        assert!(call(&mut send, "Who").await.is_err(), "{cause:?}");
        served.playground.release.add_permits(1);
        assert_eq!(held.await.unwrap(), told, "{cause:?}");
        assert_eq!(served.ended.await.unwrap(), cause);
    }
}

/// Accepts connections on a port that nobody has, until `stop`; then drains.
async fn accepting(number: usize) -> (std::net::SocketAddr, Playground, oneshot::Sender<()>, JoinHandle<()>) {
    let playground = Playground::new();
    let endpoint = playground.endpoint(100);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let drained = tokio::spawn(async move {
        let limits = ConnectionLimits { number, age: AGE };
        let stop = async { drop(stopped.await) };
        Connections::accept(listener, Plaintext, endpoint, limits, stop).await.drain().await;
    });
    (address, playground, stop, drained)
}

async fn connect(address: std::net::SocketAddr) -> hyper::Result<SendRequest<Body>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(send)
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_the_others_are_served() {
    let (address, _playground, _stop, _drained) = accepting(2).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut first = connect(address).await.unwrap();
    assert_eq!(status(call(&mut first, "Who").await.unwrap()).await, "0");
    for _ in 0..3 {
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap(), 0, "it is closed, and nothing said");
    }
    assert_eq!(status(call(&mut first, "Who").await.unwrap()).await, "0");
    // One that ends makes room.
    silent.shutdown().await.unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    let served = loop {
        match connect(address).await {
            Ok(mut second) => match call(&mut second, "Who").await {
                Ok(answer) => break status(answer).await,
                // Its task may be counted for a moment longer.
                Err(_) => tokio::task::yield_now().await,
            },
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(served, "0");
}

#[tokio::test]
async fn a_stop_closes_the_port_and_waits_for_what_is_under_way() {
    let (address, playground, stop, drained) = accepting(10).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut send = connect(address).await.unwrap();
    assert_eq!(status(call(&mut send, "Who").await.unwrap()).await, "0");
    let held = tokio::spawn(async move { status(call(&mut send, "Hold").await.unwrap()).await });
    playground.held.notified().await;
    stop.send(()).unwrap();
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0, "a connection without a call is closed");
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    assert!(!drained.is_finished());
    playground.release.add_permits(1);
    assert_eq!(held.await.unwrap(), "0");
    drained.await.unwrap();
}
