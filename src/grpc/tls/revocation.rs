//! Revocation lists against those in force: none is exchanged for an older one, and a newer one is taken out of a set that is refused
//! as a whole, since a mistake about one CA must not hold up what another one revokes. It knows no files.

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// The CAs in force and their lists.
pub(super) struct InForce<'a> {
    pub(super) bundle: &'a [CertificateDer<'static>],
    pub(super) lists: &'a [CertificateRevocationListDer<'static>],
}

impl InForce<'_> {
    /// The first of these lists, from 0, that is older than the one of the same CA in force. Lists of intermediate CAs, whose keys are not
    /// known here, go by the name.
    pub(super) fn older_one(
        &self,
        lists: &[CertificateRevocationListDer<'_>],
        is_signed_by: impl Fn(&CertificateRevocationList<'_>, &X509Certificate<'_>) -> bool,
    ) -> Option<usize> {
        lists.iter().position(|der| {
            let Some(list) = parsed(der) else { return false };
            // A CA that has the name of another one begins to count anew.
            let is_of_another = self.authority(&list).is_some_and(|authority| !is_signed_by(&list, &authority));
            !is_of_another && self.rival(&list).is_some_and(|(_, rival)| is_newer(&rival, &list))
        })
    }

    /// The lists in force, with this one in its place among them, if a CA in force signed it and it is newer.
    pub(super) fn with_newer(
        &self,
        der: &CertificateRevocationListDer<'static>,
        is_signed_by: impl Fn(&CertificateRevocationList<'_>, &X509Certificate<'_>) -> bool,
    ) -> Option<Vec<CertificateRevocationListDer<'static>>> {
        let list = parsed(der)?;
        let authority = self.authority(&list)?;
        let (place, rival) = self.rival(&list)?;
        if !is_newer(&list, &rival) || !is_signed_by(&list, &authority) {
            return None;
        }
        let mut lists = self.lists.to_vec();
        lists.get_mut(place)?.clone_from(der);
        Some(lists)
    }

    fn authority(&self, list: &CertificateRevocationList<'_>) -> Option<X509Certificate<'_>> {
        let mut parsed = self.bundle.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
        parsed.find(|certificate| certificate.subject().as_raw() == list.issuer().as_raw())
    }

    /// The list in force of the same issuer, and its place.
    fn rival(&self, list: &CertificateRevocationList<'_>) -> Option<(usize, CertificateRevocationList<'_>)> {
        let mut parsed = self.lists.iter().enumerate().filter_map(|(place, der)| Some((place, parsed(der)?)));
        parsed.find(|(_, other)| other.issuer().as_raw() == list.issuer().as_raw())
    }
}

fn parsed<'a>(der: &'a CertificateRevocationListDer<'_>) -> Option<CertificateRevocationList<'a>> {
    CertificateRevocationList::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, list)| list)
}

/// By their numbers, which grow (RFC 5280, 5.2.3); where those are the same, or one has none, by the time of their making.
fn is_newer(one: &CertificateRevocationList<'_>, other: &CertificateRevocationList<'_>) -> bool {
    match (one.crl_number(), other.crl_number()) {
        (Some(one), Some(other)) if one != other => one > other,
        _ => one.last_update() > other.last_update(),
    }
}
