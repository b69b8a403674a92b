//! The limit of every call: a bare echo on tonic's default server, in a process of its own, with messages of the same sizes. It decodes a
//! request of one field and answers with octets that it has ready.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::client;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::load::Caller;
use crate::process::Process;
use crate::service::Wire;
use crate::tls;

/// The argument that makes this program the echo; after it stand the octets of a reply.
pub const ARGUMENT: &str = "--echo";

/// A message of one field of octets, as prost has it for `google.protobuf.BytesValue`.
type Octets = Vec<u8>;
type Codec = ProstCodec<Octets, Octets>;

/// Starts an echo whose encoded replies have so many octets.
pub fn start(wire: Wire, reply_octets: usize) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args([ARGUMENT, wire.name(), &reply_octets.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
    Process::start(command, |child| child.stdout.take(), |line| line.strip_prefix("serving ")?.parse().ok())
}

/// The echo itself.
pub async fn serve(wire: Wire, reply_octets: usize) {
    let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let incoming = TcpIncoming::bind(address).expect("a port").with_nodelay(Some(true));
    println!("serving {}", incoming.local_addr().expect("an address"));
    let echo = Echo { reply: octets_encoding_to(reply_octets) };
    let router = Server::builder().add_service(echo);
    let served = match wire {
        Wire::Plaintext => router.serve_with_incoming(incoming).await,
        Wire::Mtls => {
            let acceptor = tls::acceptor();
            let accept = move |socket: io::Result<TcpStream>| {
                let acceptor = acceptor.clone();
                async move { Ok::<_, io::Error>(tls::Accepted(acceptor.accept(socket?).await?)) }
            };
            router.serve_with_incoming(incoming.then(accept)).await
        }
    };
    served.expect("it serves");
}

/// A message that has so many octets when encoded: tag and length take two or three.
fn octets_encoding_to(encoded: usize) -> Octets {
    let length = (0..=encoded).rev().find(|length| vec![7_u8; *length].encoded_len() <= encoded);
    vec![7; length.expect("an empty message has none")]
}

#[derive(Clone)]
struct Echo {
    reply: Octets,
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Octets> for Echo {
    type Response = Octets;
    type Future = std::future::Ready<Result<Response<Octets>, Status>>;

    fn call(&mut self, _: Request<Octets>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.reply.clone())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(Grpc::new(Codec::default()).unary(echo, request).await) })
    }
}

/// Calls the echo.
pub struct EchoCaller {
    client: client::Grpc<Channel>,
    request: Octets,
}

impl EchoCaller {
    /// With encoded requests of so many octets.
    pub fn new(channel: Channel, request_octets: usize) -> Self {
        Self { client: client::Grpc::new(channel), request: octets_encoding_to(request_octets) }
    }
}

impl Caller for EchoCaller {
    async fn call(&mut self) {
        self.client.ready().await.expect("the echo is there");
        let path = PathAndQuery::from_static("/bench.Echo/Echo");
        let answer = self.client.unary(Request::new(self.request.clone()), path, Codec::default()).await;
        answer.expect("the echo answers");
    }
}
