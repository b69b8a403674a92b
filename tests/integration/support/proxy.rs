//! Stands between a service and one of its dependencies: passes on, counts, and does what networks and AWS do on bad days.
//!
//! It speaks just enough HTTP/1.1: one request for each connection, and the answer as it comes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Nobody listens.
    Refused,
    /// Connections are made, and nothing comes back.
    BlackHole,
    /// An answer takes so long.
    Slow(Duration),
    /// The request is carried out, and the connection is reset in the middle of its answer.
    ResetMidAnswer,
    /// The same, for what writes; what reads is answered.
    ResetMidAnswerOfWrites,
    /// What writes gets no answer and is not carried out; what reads is answered.
    BlackHoleOfWrites,
    /// The date of the answer is so many seconds off.
    Dated(i64),
    /// An error of the service itself: status and code.
    Answers(u16, &'static str),
    /// The first so many requests since the proxy was made are answered; the next is carried out or not, and nobody hears of it; and so are
    /// none after it.
    StopsAfter { requests: usize, carried_out: bool },
}

/// One dependency's proxy. It ends when this is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    calls: Arc<Mutex<Vec<String>>>,
    stopped: watch::Receiver<bool>,
}

impl Proxy {
    /// Before `HOST:PORT`.
    pub(crate) async fn before(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (fault, faults) = watch::channel(Fault::None);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (stops, stopped) = watch::channel(false);
        let served = Served { upstream: upstream.to_owned(), calls: Arc::clone(&calls), stops };
        tokio::spawn(listen(listener, faults, Arc::new(served)));
        Self { address, fault, calls, stopped }
    }

    /// Waits until [`Fault::StopsAfter`] has stopped a request.
    pub(crate) async fn stopped(&mut self) {
        self.stopped.wait_for(|stopped| *stopped).await.expect("the proxy lives");
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next request on.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// The operations that were asked for since this was last called, such as `Decrypt`; of DynamoDB with the last word of the table's name,
    /// such as `GetItem credentials`.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().expect("no panic"))
    }
}

/// What all connections of a proxy share.
struct Served {
    upstream: String,
    calls: Arc<Mutex<Vec<String>>>,
    stops: watch::Sender<bool>,
}

async fn listen(listener: TcpListener, mut faults: watch::Receiver<Fault>, served: Arc<Served>) {
    let address = listener.local_addr().expect("an address");
    let mut listener = Some(listener);
    loop {
        // Dropped, so that the system itself refuses.
        if *faults.borrow_and_update() == Fault::Refused {
            listener = None;
        } else if listener.is_none() {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("an option");
            socket.bind(address).expect("the same port");
            listener = Some(socket.listen(64).expect("a listener"));
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            Ok((connection, _)) = accepted => {
                tokio::spawn(serve(connection, faults.clone(), Arc::clone(&served)));
            }
        }
    }
}

async fn serve(mut connection: TcpStream, mut faults: watch::Receiver<Fault>, served: Arc<Served>) {
    let Served { upstream, calls, stops } = served.as_ref();
    let mut request = Vec::new();
    while body_length(&request).is_none_or(|(head, body)| request.len() < head + body) {
        if connection.read_buf(&mut request).await.unwrap_or_default() == 0 {
            return;
        }
    }
    let operation = operation(&request);
    let writes = ["PutItem", "TransactWriteItems"].contains(&operation.as_str());
    let fault = match *faults.borrow_and_update() {
        Fault::ResetMidAnswerOfWrites if writes => Fault::ResetMidAnswer,
        Fault::BlackHoleOfWrites if writes => Fault::BlackHole,
        Fault::ResetMidAnswerOfWrites | Fault::BlackHoleOfWrites => Fault::None,
        fault => fault,
    };
    let before = {
        let mut calls = calls.lock().expect("no panic");
        calls.push(match table(&request) {
            Some(table) => format!("{operation} {table}"),
            None => operation,
        });
        calls.len() - 1
    };
    let fault = match fault {
        Fault::StopsAfter { requests, .. } if before < requests => Fault::None,
        fault => fault,
    };
    let answered = async {
        match fault {
            Fault::None => {
                let answer = ask(upstream, &request).await;
                let _ = connection.write_all(&answer).await;
            }
            Fault::Slow(pause) => {
                let answer = ask(upstream, &request).await;
                tokio::time::sleep(pause).await;
                let _ = connection.write_all(&answer).await;
            }
            Fault::Dated(seconds) => {
                let answer = ask(upstream, &request).await;
                let _ = connection.write_all(&dated(&answer, seconds)).await;
            }
            Fault::ResetMidAnswer | Fault::ResetMidAnswerOfWrites => {
                let answer = ask(upstream, &request).await;
                let _ = connection.write_all(&answer[..answer.len() / 2]).await;
                let _ = connection.set_zero_linger();
            }
            Fault::Answers(status, code) => {
                let body = format!(r#"{{"__type":"x#{code}","message":"by the proxy"}}"#);
                let head = format!(
                    "HTTP/1.1 {status} Told\r\ncontent-type: application/x-amz-json-1.0\r\nx-amzn-requestid: PROXY-1\r\n\
                     content-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
            }
            Fault::Refused => {
                let _ = connection.set_zero_linger();
            }
            Fault::BlackHole | Fault::BlackHoleOfWrites => std::future::pending().await,
            Fault::StopsAfter { requests, carried_out } => {
                if carried_out && before == requests {
                    ask(upstream, &request).await;
                }
                stops.send_replace(true);
                std::future::pending().await
            }
        }
    };
    // A connection into a black hole stays there: whoever waits must give it up.
    tokio::select! {
        () = answered => {}
        _ = closed(faults) => {}
    }
}

/// Ends with the proxy.
async fn closed(mut faults: watch::Receiver<Fault>) {
    while faults.changed().await.is_ok() {}
}

/// Sends a request on, and reads the answer to its end.
async fn ask(upstream: &str, request: &[u8]) -> Vec<u8> {
    let line = request.windows(2).position(|octets| octets == b"\r\n").expect("a request line") + 2;
    let mut connection = TcpStream::connect(upstream).await.expect("the emulator runs");
    let closing = [&request[..line], b"Connection: close\r\n", &request[line..]].concat();
    let mut answer = Vec::new();
    connection.write_all(&closing).await.expect("the emulator reads");
    // A client that has gone may end this.
    let _ = connection.read_to_end(&mut answer).await;
    answer
}

/// The answer with a date that is so many seconds from now.
fn dated(answer: &[u8], seconds: i64) -> Vec<u8> {
    let date = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
    let date = date.strftime("Date: %a, %d %b %Y %H:%M:%S GMT").to_string();
    let head = answer.windows(4).position(|octets| octets == b"\r\n\r\n").expect("a head");
    let lines = std::str::from_utf8(&answer[..head]).expect("text").split("\r\n");
    let is_date = |line: &&str| line.to_ascii_lowercase().starts_with("date:");
    let lines = lines.filter(|line| !is_date(line)).chain([date.as_str()]).collect::<Vec<_>>().join("\r\n");
    [lines.as_bytes(), &answer[head..]].concat()
}

/// The octets of head and body. `None`: the head has not come yet.
fn body_length(request: &[u8]) -> Option<(usize, usize)> {
    let head = request.windows(4).position(|octets| octets == b"\r\n\r\n")? + 4;
    let length = field(&request[..head], "content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    Some((head, length))
}

fn operation(request: &[u8]) -> String {
    let target = field(request, "x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

/// Of the table that is named first.
fn table(request: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let (name, _) = text.split_once("\"TableName\":\"")?.1.split_once('"')?;
    name.rsplit('-').next().map(str::to_owned)
}

fn field(request: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let mut fields = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}
