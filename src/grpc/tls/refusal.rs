//! Why there is no connection, or no longer: rustls's many errors as the few reasons that logs and metrics name.

use std::io;

use rustls::CertificateError;

/// What is wrong with a handshake, or with the certificate of a living connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The network's: the other end closed the connection, or it broke.
    Gone,
    /// Its first octets are no TLS.
    NoTls,
    /// Not TLS 1.3, or no algorithm in common.
    Incompatible,
    /// It did not offer HTTP/2.
    NoH2,
    /// It has no certificate.
    NoCertificate,
    Expired,
    NotValidYet,
    Revoked,
    /// None of the CAs signed it.
    UnknownCa,
    /// Its CA has no revocation list, or an expired one.
    RevocationUnknown,
    /// Its extended key usage is another.
    NotForClients,
    BadCertificate,
    /// It refuses the server's certificate, or anything else.
    ByClient,
    Other,
}

impl Refusal {
    /// Of a handshake: what is not TLS's own error is the network's.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        let error = error.get_ref().and_then(|error| error.downcast_ref());
        error.map_or(Self::Gone, Self::of)
    }

    pub(super) fn of(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidMessage(_) | E::InappropriateMessage { .. } | E::InappropriateHandshakeMessage { .. } => {
                Self::NoTls
            }
            E::PeerIncompatible(_) => Self::Incompatible,
            E::NoApplicationProtocol => Self::NoH2,
            E::NoCertificatesPresented => Self::NoCertificate,
            E::InvalidCertificate(error) => Self::of_certificate(error),
            E::InvalidCertRevocationList(_) => Self::RevocationUnknown,
            E::AlertReceived(_) => Self::ByClient,
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotValidYet,
            E::Revoked => Self::Revoked,
            E::UnknownIssuer | E::BadSignature => Self::UnknownCa,
            E::UnknownRevocationStatus | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => {
                Self::RevocationUnknown
            }
            E::InvalidPurpose | E::InvalidPurposeContext { .. } => Self::NotForClients,
            _ => Self::BadCertificate,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::NoTls => "no_tls",
            Self::Incompatible => "incompatible",
            Self::NoH2 => "no_h2",
            Self::NoCertificate => "no_certificate",
            Self::Expired => "expired",
            Self::NotValidYet => "not_valid_yet",
            Self::Revoked => "revoked",
            Self::UnknownCa => "unknown_ca",
            Self::RevocationUnknown => "revocation_unknown",
            Self::NotForClients => "not_for_clients",
            Self::BadCertificate => "bad_certificate",
            Self::ByClient => "refused_by_client",
            Self::Other => "other",
        }
    }

    /// Whether someone should know: a certificate was shown, and somebody expects it to be good. The rest is what every port meets.
    pub(super) fn is_of_a_certificate(self) -> bool {
        match self {
            Self::Expired
            | Self::NotValidYet
            | Self::Revoked
            | Self::UnknownCa
            | Self::RevocationUnknown
            | Self::NotForClients
            | Self::BadCertificate => true,
            Self::Gone
            | Self::NoTls
            | Self::Incompatible
            | Self::NoH2
            | Self::NoCertificate
            | Self::ByClient
            | Self::Other => false,
        }
    }
}
