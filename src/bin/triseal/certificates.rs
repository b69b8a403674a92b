//! `triseal keygen certificates`: a CA, and certificates of it for the service and for callers, to try TLS with. It needs no
//! service. What is there already is kept, so that a second run adds a caller; a real deployment has a CA of its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use triseal::factors::local;
use triseal::grpc::tls::pem;
use triseal::ids::{CustomerId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::output::{Format, Output, printable};

/// Clocks differ: what is made now is good everywhere.
const EARLIER: Duration = Duration::from_mins(5);
const LEAF: Duration = Duration::from_hours(24 * 90);
const AUTHORITY: Duration = Duration::from_hours(24 * 365);

/// The service's pair, and the CA's.
const SERVER: &str = "server";
const CA: &str = "ca";
const LIST: &str = "ca.crl";

/// What is asked for.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A directory for them, made if it is not there. What is in it is kept
    directory: PathBuf,
    /// The trust domain of the callers' SPIFFE ids
    #[arg(long, value_name = "NAME", default_value = "datasert.com", value_parser = TrustDomain::parse)]
    trust_domain: TrustDomain,
    /// A host under which the service is reached; may be repeated
    #[arg(long, value_name = "HOST", default_values = ["localhost", "127.0.0.1", "::1"], value_parser = host)]
    server_name: Vec<SanType>,
    /// A caller, spiffe://TRUST-DOMAIN/NAME; may be repeated
    #[arg(long, value_name = "NAME", default_values = ["realtask"], value_parser = caller)]
    caller: Vec<String>,
    /// Put this caller's certificate on the CA's revocation list, and make nothing
    #[arg(long, value_name = "NAME", conflicts_with_all = ["server_name", "caller", "trust_domain"], value_parser = caller)]
    revoke: Option<String>,
}

fn host(text: &str) -> Result<SanType, rcgen::Error> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(text.try_into()?)),
    }
}

/// One segment of a path, and the name of two files.
fn caller(text: &str) -> Result<String, String> {
    let name = CustomerId::parse(text).map_err(|error| error.to_string())?;
    match name.as_str() {
        CA | SERVER => Err("is the name of another file there".to_owned()),
        name => Ok(name.to_owned()),
    }
}

#[derive(Default, Serialize)]
struct Made {
    made: Vec<String>,
    kept: Vec<String>,
}

#[derive(Serialize)]
struct Revoked<'a> {
    revoked: &'a str,
    list: &'a str,
}

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<(), Failure> {
    let directory = Directory(&arguments.directory);
    if let Some(name) = &arguments.revoke {
        directory.revoke(name, Timestamp::now())?;
        let list = directory.shown(LIST);
        return match output.format() {
            Format::Json => output.json(&Revoked { revoked: name, list: &list }),
            Format::Text => output.fields(&[("revoked", name.clone()), ("list", list)]),
        };
    }
    let made = directory.fill(arguments, Timestamp::now())?;
    if output.format() == Format::Json {
        return output.json(&made);
    }
    let Made { made, kept } = made;
    output.fields(&[("made", made.join(", ")), ("kept", kept.join(", "))])?;
    output.octets(next(&directory, arguments).as_bytes())
}

fn next(directory: &Directory<'_>, arguments: &Arguments) -> String {
    let file = |name: &str| directory.shown(name);
    let (trust_domain, caller) = (arguments.trust_domain.as_str(), arguments.caller.first().map_or("", String::as_str));
    format!(
        "next: they are for trying it, for 90 days: in production let your own CA issue them, and keep its key elsewhere\n\
         \x20     the service's settings, without insecure.plaintext:\n\
         [tls]\n\
         certificate = {:?}\n\
         private_key = {:?}\n\
         client_ca = {ca:?}\n\
         client_crl = {:?}\n\
         trust_domain = {trust_domain:?}\n\
         \x20     a caller's environment:\n\
         export TRISEAL_ENDPOINT=https://localhost:7443 TRISEAL_CA={ca:?}\n\
         export TRISEAL_CERT={:?} TRISEAL_KEY={:?}\n",
        file("server.pem"),
        file("server.key"),
        file(LIST),
        file(&format!("{caller}.pem")),
        file(&format!("{caller}.key")),
        ca = file("ca.pem"),
    )
}

/// Where the files stand: NAME.pem and NAME.key of each, and the CA's revocation list.
struct Directory<'a>(&'a Path);

impl Directory<'_> {
    /// Makes what is not there.
    fn fill(&self, arguments: &Arguments, now: Timestamp) -> Result<Made, Failure> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.0).map_err(|error| self.unwritten(&error))?;
        let mut made = Made::default();
        if self.is_new(CA, &mut made)? {
            let (params, key) = (authority(now), new_key()?);
            self.create_pair(CA, &params.self_signed(&key).map_err(unmade)?.pem(), &key)?;
        }
        let issuer = self.issuer()?;
        if self.path(LIST).symlink_metadata().is_err() {
            self.create(LIST, list(&issuer, Vec::new(), now)?.as_bytes())?;
            made.made.push(LIST.to_owned());
        }
        if self.is_new(SERVER, &mut made)? {
            let names = arguments.server_name.clone();
            self.issue(&issuer, SERVER, names, ExtendedKeyUsagePurpose::ServerAuth, now)?;
        }
        for caller in &arguments.caller {
            if self.is_new(caller, &mut made)? {
                let id = format!("spiffe://{}/{caller}", arguments.trust_domain.as_str());
                let name = SanType::URI(id.try_into().map_err(unmade)?);
                self.issue(&issuer, caller, vec![name], ExtendedKeyUsagePurpose::ClientAuth, now)?;
            }
        }
        Ok(made)
    }

    /// Whether neither file of a pair is there. One without the other is no pair, and is not made one.
    fn is_new(&self, name: &str, made: &mut Made) -> Result<bool, Failure> {
        let there = |extension: &str| self.path(&format!("{name}.{extension}")).symlink_metadata().is_ok();
        match (there("pem"), there("key")) {
            (false, false) => {
                made.made.push(name.to_owned());
                Ok(true)
            }
            (true, true) => {
                made.kept.push(name.to_owned());
                Ok(false)
            }
            (true, false) | (false, true) => {
                let message = format!("of {name}.pem and {name}.key only one is there, and nothing is written over");
                Err(Failure::refused(message).with_hint("put the other one back, or remove this one"))
            }
        }
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Failure> {
        let certificate = self.certificate(CA)?;
        let key = pem::private_key(&self.path("ca.key")).map_err(|error| Failure::failed(error.to_string()))?;
        let key = KeyPair::try_from(&key).map_err(unmade)?;
        Issuer::from_ca_cert_der(&certificate, key).map_err(unmade)
    }

    fn certificate(&self, name: &str) -> Result<rustls::pki_types::CertificateDer<'static>, Failure> {
        let path = self.path(&format!("{name}.pem"));
        let chain = pem::certificates(&path).map_err(|error| Failure::failed(error.to_string()))?;
        chain.into_iter().next().ok_or_else(|| Failure::failed(format!("{} is empty", path.display())))
    }

    fn issue(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        name: &str,
        names: Vec<SanType>,
        purpose: ExtendedKeyUsagePurpose,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        good_for(&mut params, now, LEAF);
        let key = new_key()?;
        let certificate = params.signed_by(&key, issuer).map_err(unmade)?;
        self.create_pair(name, &certificate.pem(), &key)
    }

    /// The revocation list anew, with one certificate more.
    fn revoke(&self, name: &str, now: Timestamp) -> Result<(), Failure> {
        let damaged = || Failure::failed(format!("{} can't be read", self.shown(LIST)));
        let old = fs::read(self.path(LIST)).map_err(|_| damaged())?;
        let old = CertificateRevocationListDer::from_pem_slice(&old).map_err(|_| damaged())?;
        let (_, old) = CertificateRevocationList::from_der(&old).map_err(|_| damaged())?;
        let certificate = self.certificate(name)?;
        let (_, certificate) = X509Certificate::from_der(&certificate)
            .map_err(|_| Failure::failed(format!("{} can't be read", self.shown(&format!("{name}.pem")))))?;

        let mut revoked: Vec<_> = old
            .iter_revoked_certificates()
            .map(|entry| revoked_at(entry.raw_serial(), entry.revocation_date.to_datetime().unix_timestamp()))
            .collect();
        if old.iter_revoked_certificates().all(|entry| entry.raw_serial() != certificate.raw_serial()) {
            revoked.push(revoked_at(certificate.raw_serial(), now.as_second()));
        }
        // In its place at once, and never half: the service may read it at any moment.
        let (new, path) = (format!("{LIST}.{}", now.as_nanosecond()), self.path(LIST));
        self.create(&new, list(&self.issuer()?, revoked, now)?.as_bytes())?;
        fs::rename(self.path(&new), path).map_err(|error| self.unwritten(&error))
    }

    fn create_pair(&self, name: &str, certificate: &str, key: &KeyPair) -> Result<(), Failure> {
        self.create(&format!("{name}.key"), Zeroizing::new(key.serialize_pem()).as_bytes())?;
        self.create(&format!("{name}.pem"), certificate.as_bytes())
    }

    fn create(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        local::create(&self.path(name), content).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::refused(format!("{} is there already, and is not written over", self.shown(name)))
            }
            _ => self.unwritten(&error),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn shown(&self, name: &str) -> String {
        let path = self.path(name);
        printable(&std::path::absolute(&path).unwrap_or(path).to_string_lossy())
    }

    fn unwritten(&self, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot write to {}: {error}", printable(&self.0.to_string_lossy())))
    }
}

fn authority(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "triseal trial CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_for(&mut params, now, AUTHORITY);
    params
}

fn good_for(params: &mut CertificateParams, now: Timestamp, time: Duration) {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_second().unsigned_abs());
    (params.not_before, params.not_after) = (now - EARLIER, now + time);
}

fn list(
    issuer: &Issuer<'_, impl rcgen::SigningKey>,
    revoked_certs: Vec<RevokedCertParams>,
    now: Timestamp,
) -> Result<String, Failure> {
    let mut times = CertificateParams::default();
    good_for(&mut times, now, AUTHORITY);
    let list = CertificateRevocationListParams {
        this_update: times.not_before,
        next_update: times.not_after,
        crl_number: SerialNumber::from(now.as_second().unsigned_abs()),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).and_then(|list| list.pem()).map_err(unmade)
}

fn revoked_at(serial: &[u8], second: i64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: date_time_ymd(1970, 1, 1) + Duration::from_secs(second.unsigned_abs()),
        reason_code: None,
        invalidity_date: None,
    }
}

fn new_key() -> Result<KeyPair, Failure> {
    KeyPair::generate().map_err(unmade)
}

fn unmade(error: rcgen::Error) -> Failure {
    Failure::failed(format!("cannot make the certificate: {error}"))
}
