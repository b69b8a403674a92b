//! Where the service is, and how it is reached. It decides whether an endpoint may be used at all; what the service
//! answers is for others.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use clap::Args;
use http::Uri;
use http::uri::Scheme;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;

use crate::failure::Failure;

/// A connection that takes longer to make is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to reach the service.
#[derive(Args)]
pub(crate) struct Connect {
    /// Where the service is: http://HOST:PORT of this machine
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "TRISEAL_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:7443"
    )]
    endpoint: String,

    /// How long each call may take
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    timeout: u64,
}

/// The service, as it is reached from here. No connection is made before the first call.
pub(crate) struct Service {
    channel: Channel,
    timeout: Duration,
}

impl Service {
    /// Must be called within the runtime.
    pub(crate) fn new(connect: &Connect) -> Result<Self, Failure> {
        let endpoint = parse_endpoint(&connect.endpoint).map_err(|error| {
            let hint = match error {
                EndpointError::NoUri | EndpointError::NotHostAndPort => "such as --endpoint http://127.0.0.1:7443",
                EndpointError::NotLoopback => "run the command on the service's machine, or forward a local port to it",
                EndpointError::NoTls => {
                    "use http://127.0.0.1:PORT on the service's machine, or forward a local port to it"
                }
            };
            Failure::usage(format!("the endpoint {error}")).with_hint(hint)
        })?;
        let channel = Endpoint::from(endpoint).connect_timeout(CONNECT_TIMEOUT).connect_lazy();
        Ok(Self { channel, timeout: Duration::from_secs(connect.timeout) })
    }

    pub(crate) fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel.clone())
    }

    pub(crate) fn customers(&self) -> CustomerServiceClient<Channel> {
        CustomerServiceClient::new(self.channel.clone())
    }

    pub(crate) fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    /// The message with the deadline.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// Why an endpoint is not used. The endpoint itself is not repeated: a URL may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum EndpointError {
    #[error("is not a URL")]
    NoUri,
    #[error("must be http://HOST:PORT and nothing else")]
    NotHostAndPort,
    #[error("is not on this machine: over plain http, secrets would cross the network in the clear")]
    NotLoopback,
    #[error("is https, which this release does not speak yet")]
    NoTls,
}

fn parse_endpoint(text: &str) -> Result<Uri, EndpointError> {
    let uri: Uri = text.parse().map_err(|_| EndpointError::NoUri)?;
    let plain = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => true,
        Some(scheme) if *scheme == Scheme::HTTPS => false,
        Some(_) | None => return Err(EndpointError::NotHostAndPort),
    };
    let authority = uri.authority().ok_or(EndpointError::NotHostAndPort)?;
    if authority.port_u16().is_none() || authority.as_str().contains('@') || uri.path() != "/" || uri.query().is_some()
    {
        return Err(EndpointError::NotHostAndPort);
    }
    if !plain {
        return Err(EndpointError::NoTls);
    }
    if is_loopback(authority.host()) { Ok(uri) } else { Err(EndpointError::NotLoopback) }
}

/// Whether what is sent to the host stays on this machine. Of names only `localhost` does.
fn is_loopback(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for good in ["http://127.0.0.1:7443", "http://127.9.9.9:1/", "http://[::1]:7443", "http://LocalHost:7443"] {
            assert!(parse_endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "http://10.0.0.1:7443",
            "http://triseal.internal:7443",
            "http://127.0.0.1.example.com:7443",
            "http://localhost.example.com:7443",
            "http://0.0.0.0:7443",
            "http://127.1:7443",
            "http://[::]:7443",
            "http://[::ffff:127.0.0.1]:7443",
        ] {
            assert_eq!(parse_endpoint(bad), Err(EndpointError::NotLoopback), "{bad}");
        }
    }

    #[test]
    fn https_is_said_not_to_be_there_yet() {
        assert_eq!(parse_endpoint("https://triseal.internal:7443"), Err(EndpointError::NoTls));
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for bad in [
            "127.0.0.1:7443",
            "/var/run/triseal",
            "unix:///run/triseal",
            "ftp://127.0.0.1:21",
            "http://127.0.0.1",
            "http://user:word@127.0.0.1:7443",
            "http://127.0.0.1:7443/path",
            "http://127.0.0.1:7443/?query",
        ] {
            assert!(matches!(parse_endpoint(bad), Err(EndpointError::NotHostAndPort | EndpointError::NoUri)), "{bad}");
        }
        assert_eq!(parse_endpoint(""), Err(EndpointError::NoUri));
    }

    #[tokio::test]
    async fn a_refused_endpoint_is_a_usage_error_that_does_not_repeat_it() {
        let connect = Connect { endpoint: "http://marker@127.0.0.1:7443".to_owned(), timeout: 1 };
        let Err(failure) = Service::new(&connect) else { panic!("taken") };
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(!format!("{failure:?}").contains("marker"));
    }
}
