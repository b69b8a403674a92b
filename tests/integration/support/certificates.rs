//! Certificates for tests: authorities, what they sign, and what they revoke. The unit tests of `grpc/tls.rs` use it, too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// Far more than a test takes.
const HOUR: i64 = 3600;

/// A CA.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate and its key, as files have them.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
    serial: SerialNumber,
}

impl Authority {
    /// A CA that nobody signed.
    pub(crate) fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    /// The same by its name, with another key.
    pub(crate) fn with_key(name: &str, key: KeyPair) -> Self {
        let params = authority_params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A CA under this one.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (authority_params(name), KeyPair::generate().unwrap());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Whatever `change` makes of a leaf that is good for an hour.
    pub(crate) fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a leaf");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let serial = SerialNumber::from(u64::from_be_bytes(random()) >> 1);
        params.serial_number = Some(serial.clone());
        good_between(&mut params, -HOUR, HOUR);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), serial }
    }

    /// For a server on this machine.
    pub(crate) fn server(&self) -> Pair {
        self.issue(|params| {
            let names = [SanType::DnsName("localhost".try_into().unwrap()), SanType::IpAddress([127, 0, 0, 1].into())];
            params.subject_alt_names = names.to_vec();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// For a client with these names.
    pub(crate) fn client_with(&self, names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue(|params| {
            params.subject_alt_names = names;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    /// For the client with this SPIFFE id.
    pub(crate) fn client(&self, id: &str) -> Pair {
        self.client_with(vec![uri(id)], |_| {})
    }

    /// A revocation list that is good until so many seconds from now.
    pub(crate) fn revocation_list(&self, revoked: &[&Pair], until: i64) -> String {
        self.numbered_list(1, revoked, until)
    }

    /// The same, of which there have been so many.
    pub(crate) fn numbered_list(&self, number: u64, revoked: &[&Pair], until: i64) -> String {
        let mut times = CertificateParams::default();
        good_between(&mut times, -2 * HOUR, until);
        let revoked = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: times.not_before,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: times.not_before,
            next_update: times.not_after,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    good_between(&mut params, -HOUR, HOUR);
    params
}

/// In seconds from now.
pub(crate) fn good_between(params: &mut CertificateParams, from: i64, until: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = |seconds: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs((now + seconds) as u64);
    (params.not_before, params.not_after) = (at(from), at(until));
}

pub(crate) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn random() -> [u8; 8] {
    let mut octets = [0; 8];
    getrandom::fill(&mut octets).unwrap();
    octets
}
