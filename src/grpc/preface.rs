//! The first octets of a connection. Everyone who speaks HTTP/2 sends the same 24; whoever sends others is told so in the language that
//! they probably speak. Read here and not by hyper, so that the time for them has a limit.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const REFUSAL: &[u8] = b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: 50\r\n\
    connection: close\r\n\r\nThis port speaks gRPC over HTTP/2 and no HTTP/1.1\n";
/// Read and thrown away of a request that is refused: closing a connection with unread octets would take the refusal back.
const MAX_IGNORED: u64 = 16 << 10;

/// A connection that speaks HTTP/2, as it was before its preface was read.
pub(super) struct Prefaced<Io> {
    io: Io,
    /// Of the preface.
    unread: &'static [u8],
}

/// Reads the preface.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for anything else; HTTP/1 has been answered then. Others are the connection's.
pub(super) async fn expect<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io) -> io::Result<Prefaced<Io>> {
    let mut octets = [0; PREFACE.len()];
    let mut read = 0;
    while read < octets.len() {
        match io.read(&mut octets[read..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
        if !PREFACE.starts_with(&octets[..read]) {
            // A method; a TLS record begins with no letter.
            if octets[0].is_ascii_uppercase() {
                io.write_all(REFUSAL).await?;
                io.shutdown().await?;
                tokio::io::copy(&mut io.take(MAX_IGNORED), &mut tokio::io::sink()).await?;
            }
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(Prefaced { io, unread: PREFACE })
}

impl<Io: AsyncRead + Unpin> AsyncRead for Prefaced<Io> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, into);
        }
        let (now, later) = self.unread.split_at(self.unread.len().min(into.remaining()));
        into.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Prefaced<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn the_preface_is_read_and_still_there_however_it_comes() {
        for piece in [1, 7, 24, 100] {
            let (mut client, server) = duplex(200);
            let sent = [PREFACE.as_slice(), b"and what follows"].concat();
            let expected = tokio::spawn(expect(server));
            for part in sent.chunks(piece) {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut prefaced = expected.await.unwrap().unwrap();
            client.shutdown().await.unwrap();
            let mut read = Vec::new();
            prefaced.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
            // In the smallest pieces, too.
            let (mut client, server) = duplex(200);
            client.write_all(&sent).await.unwrap();
            let mut prefaced = expect(server).await.unwrap();
            for octet in &sent {
                assert_eq!(prefaced.read_u8().await.unwrap(), *octet);
            }
            prefaced.write_all(b"answer").await.unwrap();
            prefaced.flush().await.unwrap();
            let mut answer = [0; 6];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"answer");
        }
    }

    #[tokio::test]
    async fn another_protocol_is_refused_in_words_if_it_is_http() {
        let requests: [(&[u8], bool); 5] = [
            (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", true),
            (b"POST /triseal.v1.CredentialService/GetCredential HTTP/1.1\r\n\r\n", true),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", true),
            (b"\x16\x03\x01\x02\x00\x01\x00", false),
            (b"", false),
        ];
        for (request, answered) in requests {
            let (mut client, server) = duplex(200);
            client.write_all(request).await.unwrap();
            let kind = if request.is_empty() { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData };
            let mut answer = Vec::new();
            let (refused, ()) = tokio::join!(expect(server), async {
                client.shutdown().await.unwrap();
                client.read_to_end(&mut answer).await.unwrap();
            });
            assert_eq!(refused.err().map(|error| error.kind()), Some(kind));
            assert_eq!(answer, if answered { REFUSAL } else { b"" });
        }
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
    }
}
