//! HTTP/2 in octets, for those who know the protocol and break it: frames as they are written, and what the service says to them. It
//! compresses nothing and obeys nothing.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// Before the first SETTINGS.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A SETTINGS frame.
pub(crate) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let pairs = settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &pairs.collect::<Vec<_>>())
}

/// The stream of a client's call, from 0.
pub(crate) fn stream(call: u32) -> u32 {
    2 * call + 1
}

/// The headers of a call, without compression.
pub(crate) fn headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in
        [(":path", path), (":authority", "x"), ("content-type", "application/grpc"), ("te", "trailers")]
    {
        block.extend(header(name, value));
    }
    block
}

/// One more header, of less than 127 octets each, which no table keeps.
pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("short"));
        block.extend_from_slice(text.as_bytes());
    }
    block
}

/// A message as gRPC frames it, which says that it has `length` octets.
pub(crate) fn message(length: u32, octets: &[u8]) -> Vec<u8> {
    [&[0][..], &length.to_be_bytes(), octets].concat()
}

/// A frame, as the service sends it.
pub(crate) struct Received {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The service's side of a connection, and what goes on writing to it.
pub(crate) struct Spoken<S> {
    reading: tokio::io::ReadHalf<S>,
    writing: JoinHandle<()>,
}

impl<S> Drop for Spoken<S> {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

/// Opens a connection of HTTP/2 and writes these octets, while the service's are read or not.
pub(crate) fn speak<S>(stream: S, octets: impl IntoIterator<Item = Vec<u8>>) -> Spoken<S>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    speak_with(stream, &[], octets)
}

/// The same, with settings of one's own.
pub(crate) fn speak_with<S>(stream: S, own: &[(u16, u32)], octets: impl IntoIterator<Item = Vec<u8>>) -> Spoken<S>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reading, mut writing) = tokio::io::split(stream);
    let all: Vec<u8> = [PREFACE.to_vec(), settings(own)].into_iter().chain(octets).flatten().collect();
    let writing = tokio::spawn(async move {
        // It may hang up before it has read all of it.
        if writing.write_all(&all).await.is_ok() {
            let _ = writing.flush().await;
        }
        // Whoever hangs up first must not be us.
        std::future::pending::<()>().await;
    });
    Spoken { reading, writing }
}

impl<S: AsyncRead> Spoken<S> {
    /// The next frame. `None`: it hung up.
    pub(crate) async fn receive(&mut self) -> Option<Received> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.reading.read_exact(&mut head)).await.expect("it answers or hangs up").ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.reading.read_exact(&mut payload).await.ok()?;
        Some(Received { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    /// Waits until the service hangs up: the code of its GOAWAY, if it said why.
    pub(crate) async fn hung_up(&mut self) -> Option<u32> {
        let mut told = None;
        while let Some(received) = self.receive().await {
            if received.kind == GOAWAY {
                told = Some(u32::from_be_bytes(received.payload[4..8].try_into().unwrap()));
            }
        }
        told
    }
}
