//! Where the service is, and how it is reached. It decides whether an endpoint may be used at all; what the service
//! answers is for others.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Uri;
use http::uri::Scheme;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::customer_service_client::CustomerServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;

use crate::duration;
use crate::failure::Failure;
use crate::status::{self, Subject};
use crate::tls::{Connector, Files};

/// Of a service on this machine that was not told another.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7443";
/// A connection that takes longer to make is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a call, where nobody says otherwise: the longest deadline that the service takes.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same of the one call that the service walks a customer's records for.
const LONG_TIMEOUT: Duration = Duration::from_mins(5);

/// How to reach the service.
#[derive(Args)]
pub(crate) struct Connect {
    /// Where the service is: https://HOST:PORT, or http://HOST:PORT of this machine
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "TRISEAL_ENDPOINT",
        hide_env_values = true,
        value_name = "URL",
        default_value = DEFAULT_ENDPOINT
    )]
    endpoint: String,

    /// The CA of the service's certificate, for https: a PEM file
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "TRISEAL_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    ca: Option<PathBuf>,

    /// The client certificate, for https: a PEM file, with intermediates if there are any
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "TRISEAL_CERT",
        hide_env_values = true,
        value_name = "FILE"
    )]
    cert: Option<PathBuf>,

    /// The private key of the client certificate, for https: a PEM file that others can't read
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        env = "TRISEAL_KEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    key: Option<PathBuf>,

    /// How long each call may take: 10s if it is not given, and 5m for `key retire customer`, which the service walks records for; the service
    /// itself takes no longer either
    #[arg(
        long,
        global = true,
        help_heading = "Global options",
        value_name = "TIME",
        value_parser = duration::parse_some
    )]
    timeout: Option<Duration>,
}

impl Connect {
    /// Whether nobody said where the service is.
    pub(crate) fn is_default(&self) -> bool {
        self.endpoint == DEFAULT_ENDPOINT
    }

    /// Those of TLS, which are all needed.
    fn files(&self) -> Result<Files<'_>, Failure> {
        match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(certificate), Some(key)) => Ok(Files { ca, certificate, key }),
            (ca, certificate, key) => {
                let options = [("--ca", ca), ("--cert", certificate), ("--key", key)];
                let missing: Vec<_> =
                    options.iter().filter(|(_, file)| file.is_none()).map(|(option, _)| *option).collect();
                Err(Failure::usage(format!("https needs {} too", missing.join(" and ")))
                    .with_hint("or TRISEAL_CA, TRISEAL_CERT and TRISEAL_KEY in the environment"))
            }
        }
    }
}

/// The service, as it is reached from here. No connection is made before the first call.
pub(crate) struct Service {
    channel: Channel,
    timeout: Option<Duration>,
}

impl Service {
    /// Must be called within the runtime.
    pub(crate) fn new(connect: &Connect) -> Result<Self, Failure> {
        let endpoint = parse_endpoint(&connect.endpoint).map_err(|error| {
            let hint = match error {
                EndpointError::NoUri | EndpointError::NotHostAndPort => {
                    "such as --endpoint https://triseal.internal:7443"
                }
                EndpointError::NotLoopback => "use https:// with --ca, --cert and --key",
            };
            Failure::usage(format!("the endpoint {error}")).with_hint(hint)
        })?;
        let reach = |uri| Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT);
        let channel = match endpoint {
            Address::Plain(uri) => reach(uri).connect_lazy(),
            Address::Tls { uri, host, port } => {
                reach(uri).connect_with_connector_lazy(Connector::new(&connect.files()?, &host, port)?)
            }
        };
        Ok(Self { channel, timeout: connect.timeout })
    }

    pub(crate) fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel.clone())
    }

    pub(crate) fn customers(&self) -> CustomerServiceClient<Channel> {
        CustomerServiceClient::new(self.channel.clone())
    }

    /// Whether anything answers at the endpoint.
    pub(crate) async fn reach(&self) -> Result<(), Failure> {
        let asked = self.request(HealthCheckRequest::default());
        match HealthClient::new(self.channel.clone()).check(asked).await {
            Err(status) if status::is_unreached(&status) => Err(Failure::from_status(&status, Subject::default())),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(crate) fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone())
    }

    /// The message with the deadline.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        self.request_within(TIMEOUT, message)
    }

    /// The message with the deadline of a call that takes long.
    pub(crate) fn long_request<M>(&self, message: M) -> Request<M> {
        self.request_within(LONG_TIMEOUT, message)
    }

    fn request_within<M>(&self, usual: Duration, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout.unwrap_or(usual));
        request
    }
}

/// Why an endpoint is not used. The endpoint itself is not repeated: a URL may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum EndpointError {
    #[error("is not a URL")]
    NoUri,
    #[error("must be https://HOST:PORT, or http://HOST:PORT of this machine, and nothing else")]
    NotHostAndPort,
    #[error("is not on this machine: over plain http, secrets would cross the network in the clear")]
    NotLoopback,
}

/// An endpoint that may be used.
#[derive(Debug, PartialEq, Eq)]
enum Address {
    /// On this machine.
    Plain(Uri),
    Tls {
        uri: Uri,
        host: String,
        port: u16,
    },
}

fn parse_endpoint(text: &str) -> Result<Address, EndpointError> {
    let uri: Uri = text.parse().map_err(|_| EndpointError::NoUri)?;
    let plain = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => true,
        Some(scheme) if *scheme == Scheme::HTTPS => false,
        Some(_) | None => return Err(EndpointError::NotHostAndPort),
    };
    let authority = uri.authority().ok_or(EndpointError::NotHostAndPort)?;
    let port = authority.port_u16().ok_or(EndpointError::NotHostAndPort)?;
    if authority.as_str().contains('@') || uri.path() != "/" || uri.query().is_some() {
        return Err(EndpointError::NotHostAndPort);
    }
    if plain {
        return if is_loopback(authority.host()) { Ok(Address::Plain(uri)) } else { Err(EndpointError::NotLoopback) };
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).to_owned();
    Ok(Address::Tls { host, port, uri })
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
    fn https_goes_anywhere() {
        for (good, host, port) in [
            ("https://triseal.internal:7443", "triseal.internal", 7443),
            ("https://10.0.0.1:1/", "10.0.0.1", 1),
            ("https://[2001:db8::1]:7443", "2001:db8::1", 7443),
        ] {
            let Ok(Address::Tls { host: found, port: at, .. }) = parse_endpoint(good) else { panic!("{good}") };
            assert_eq!((found.as_str(), at), (host, port));
        }
    }

    #[tokio::test]
    async fn https_says_which_files_it_lacks() {
        let file = |given: bool| given.then(|| "file.pem".into());
        for (given, told) in [
            ([false, false, false], "https needs --ca and --cert and --key too"),
            ([true, false, true], "https needs --cert too"),
            ([true, true, false], "https needs --key too"),
        ] {
            let [ca, cert, key] = given.map(file);
            let timeout = Some(CONNECT_TIMEOUT);
            let connect = Connect { endpoint: "https://127.0.0.1:7443".to_owned(), ca, cert, key, timeout };
            let Err(failure) = Service::new(&connect) else { panic!("taken") };
            assert_eq!((failure.exit, failure.message.as_str()), (crate::failure::Exit::Usage, told));
        }
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
            "https://triseal.internal",
            "https://user@triseal.internal:7443",
            "https://triseal.internal:7443/path",
        ] {
            assert!(matches!(parse_endpoint(bad), Err(EndpointError::NotHostAndPort | EndpointError::NoUri)), "{bad}");
        }
        assert_eq!(parse_endpoint(""), Err(EndpointError::NoUri));
    }

    #[tokio::test]
    async fn a_refused_endpoint_is_a_usage_error_that_does_not_repeat_it() {
        let connect = Connect {
            endpoint: "http://marker@127.0.0.1:7443".to_owned(),
            ca: None,
            cert: None,
            key: None,
            timeout: Some(CONNECT_TIMEOUT),
        };
        let Err(failure) = Service::new(&connect) else { panic!("taken") };
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(!format!("{failure:?}").contains("marker"));
    }
}
