//! A server on loopback that answers as AWS does when it does not do what it is asked to. For tests.

use std::sync::{Arc, Mutex};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::Credentials;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What stands in every error's message, and may be repeated nowhere.
pub(crate) const MARK: &str = "User: arn:aws:sts::000000000000:assumed-role/MARKED is not authorized";

/// What AWS answers to credentials that are not good.
pub(crate) fn credential_codes() -> [&'static str; 5] {
    [
        "ExpiredTokenException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationToken",
    ]
}

/// How it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// With an error, by status and code.
    Error(u16, &'static str),
    /// With these octets of JSON, under a status.
    Told(u16, &'static str),
    /// With these octets of JSON, as if all were well.
    Fine(&'static str),
    /// With half of an answer; then the connection ends.
    Half,
    /// By ending the connection.
    Nothing,
    /// Not at all.
    Hangs,
}

/// The server. It ends with the test's runtime.
pub(crate) struct Stub {
    answers: Arc<Mutex<Vec<Answer>>>,
    calls: Arc<Mutex<Vec<String>>>,
    endpoint: String,
}

impl Stub {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (answers, calls) = (Arc::new(Mutex::new(Vec::new())), Arc::default());
        let (told, called) = (Arc::clone(&answers), Arc::clone(&calls));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&told), Arc::clone(&called)));
            }
        });
        Self { answers, calls, endpoint }
    }

    /// Answers the next calls in this order, and all after them as the last. What was called before is forgotten.
    pub(crate) fn answer(&self, answers: &[Answer]) {
        *self.answers.lock().expect("no panic") = answers.iter().rev().copied().collect();
        self.calls.lock().expect("no panic").clear();
    }

    /// The names of the operations that were called.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }

    pub(crate) async fn config(&self) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-central-1"))
            .endpoint_url(&self.endpoint)
            .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
            .load()
            .await
    }
}

async fn serve(mut connection: TcpStream, answers: Arc<Mutex<Vec<Answer>>>, calls: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !is_whole(&request) {
        if connection.read_buf(&mut request).await.unwrap_or_default() == 0 {
            return;
        }
    }
    let target = header(&request, "x-amz-target").unwrap_or_default();
    calls.lock().expect("no panic").push(target.rsplit('.').next().unwrap_or_default().to_owned());
    let answer = {
        let mut answers = answers.lock().expect("no panic");
        if answers.len() > 1 { answers.pop() } else { answers.last().copied() }
    };
    let (status, body) = match answer.expect("an answer") {
        Answer::Error(status, code) => {
            (status, format!(r#"{{"__type":"com.amazon.coral.service#{code}","message":"{MARK}"}}"#))
        }
        Answer::Told(status, body) => (status, body.to_owned()),
        Answer::Fine(body) => (200, body.to_owned()),
        Answer::Half => {
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"").await;
            return;
        }
        Answer::Nothing => return,
        Answer::Hangs => return std::future::pending().await,
    };
    let head = format!(
        "HTTP/1.1 {status} Told\r\ncontent-type: application/x-amz-json-1.0\r\nx-amzn-requestid: REQUEST-1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
}

fn is_whole(request: &[u8]) -> bool {
    let Some(head) = request.windows(4).position(|octets| octets == b"\r\n\r\n") else { return false };
    let length = header(request, "content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or_default();
    request.len() >= head + 4 + length
}

fn header(request: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let fields = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(": "));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}
