use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;

const CALLER: &str = "spiffe://datasert.com/realtask";

fn naming(allow_dns_names: bool) -> Naming {
    Naming { trust_domain: TrustDomain::parse("datasert.com").unwrap(), allow_dns_names }
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A leaf for clients with these names, and one more change. Who signed it does not matter here.
fn certificate_with(names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "spiffe://datasert.com/common-name");
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn certificate(names: Vec<SanType>) -> Vec<u8> {
    certificate_with(names, |_| {})
}

fn name_of(certificate: &[u8]) -> Result<String, Nobody> {
    naming(false).caller(certificate).map(|caller| caller.as_str().to_owned())
}

fn dns_name_of(certificate: &[u8]) -> Result<String, Nobody> {
    naming(true).caller(certificate).map(|caller| caller.as_str().to_owned())
}

#[test]
fn the_only_uri_is_the_caller_whatever_stands_beside_it() {
    assert_eq!(name_of(&certificate(vec![uri(CALLER)])).unwrap(), CALLER);
    let beside = vec![dns("a.example"), uri(CALLER), dns("b.example"), SanType::IpAddress([10, 0, 0, 1].into())];
    for name in [name_of, dns_name_of] {
        assert_eq!(name(&certificate(beside.clone())).unwrap(), CALLER);
    }
    let several = vec![uri(CALLER), uri("spiffe://datasert.com/other")];
    assert_eq!(name_of(&certificate(several)), Err(Nobody::SeveralUris));
    assert_eq!(name_of(&certificate(vec![uri(CALLER), uri(CALLER)])), Err(Nobody::SeveralUris));
    assert_eq!(name_of(&certificate(vec![uri(CALLER), uri("https://a.example")])), Err(Nobody::SeveralUris));
    assert_eq!(name_of(&certificate(vec![])), Err(Nobody::NoUri), "a common name is no name");
}

#[test]
fn a_uri_that_is_no_text_is_not_passed_over() {
    // GeneralNames { [6] "spiffe://datasert.com/realtask", [6] 0xff }
    let content = [&[0x30, CALLER.len() as u8 + 5, 0x86, CALLER.len() as u8][..], CALLER.as_bytes(), &[0x86, 1, 0xff]];
    let with = |content: Vec<u8>| {
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], content);
        certificate_with(vec![], |params| params.custom_extensions = vec![extension])
    };
    assert_eq!(name_of(&with(content.concat())), Err(Nobody::Unreadable));
    // The same by hand with the one name, so that the above is refused for the other.
    let content = [&[0x30, CALLER.len() as u8 + 2, 0x86, CALLER.len() as u8][..], CALLER.as_bytes()].concat();
    assert_eq!(name_of(&with(content.clone())).unwrap(), CALLER);
    // An extension that is there twice.
    let twice = certificate_with(vec![uri(CALLER)], |params| {
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
    });
    assert_eq!(name_of(&twice), Err(Nobody::Unreadable));
}

#[test]
fn spiffe_ids_are_taken_as_the_specification_writes_them() {
    let of = |id: &str| naming(false).spiffe_caller(id);
    let longest = format!("{CALLER}/{}", "a".repeat(MAX_SPIFFE_ID_OCTETS - CALLER.len() - 1));
    for good in [
        CALLER,
        "spiffe://datasert.com/ns/products/sa/RealTask_2.0-b",
        "spiffe://datasert.com/...",
        "spiffe://datasert.com/.a",
        longest.as_str(),
    ] {
        assert_eq!(of(good).unwrap().as_str(), good);
    }
    let too_long = format!("{longest}a");
    for bad in [
        "",
        "realtask",
        "spiffe:",
        "spiffe://",
        "spiffe:///realtask",
        "spiffe://datasert.com",
        "spiffe://datasert.com/",
        "spiffe://datasert.com//realtask",
        "spiffe://datasert.com/realtask/",
        "spiffe://datasert.com/realtask//a",
        "spiffe://datasert.com/./realtask",
        "spiffe://datasert.com/../realtask",
        "spiffe://datasert.com/realtask/..",
        "spiffe://datasert.com/real%74ask",
        "spiffe://datasert.com/realtask?a=b",
        "spiffe://datasert.com/realtask#a",
        "spiffe://datasert.com/realtask ",
        " spiffe://datasert.com/realtask",
        "spiffe://datasert.com/realtask\n",
        "spiffe://datasert.com/realtask\0",
        "spiffe://datasert.com/äpfel",
        "spiffe://datasert.com/a*",
        "spiffe://datasert.com/a:b",
        "spiffe://datasert.com\\realtask",
        "spiffe://datasert.com:443/realtask",
        "spiffe://datasert.com:/realtask",
        "spiffe://root@datasert.com/realtask",
        "spiffe://datasert%2ecom/realtask",
        "spiffe://Datasert.com/realtask",
        "SPIFFE://datasert.com/realtask",
        "Spiffe://datasert.com/realtask",
        "spiffe:/datasert.com/realtask",
        "spiffe:datasert.com/realtask",
        "https://datasert.com/realtask",
        "spiffe://[::1]/realtask",
        too_long.as_str(),
    ] {
        assert_eq!(of(bad), Err(Nobody::NoSpiffeId), "{bad:?}");
    }
    for other in [
        "spiffe://datasert.com.example.org/realtask",
        "spiffe://example.org/datasert.com/realtask",
        "spiffe://www.datasert.com/realtask",
        "spiffe://datasert.co/realtask",
        "spiffe://datasert_com/realtask",
        "spiffe://datasert.com./realtask",
    ] {
        assert_eq!(of(other), Err(Nobody::OtherTrustDomain), "{other:?}");
    }
}

#[test]
fn a_dns_name_is_a_caller_only_where_that_is_allowed_and_there_is_no_uri() {
    let one = certificate(vec![dns("realtask.internal")]);
    assert_eq!(name_of(&one), Err(Nobody::NoUri));
    assert_eq!(dns_name_of(&one).unwrap(), "dns:realtask.internal");
    let beside = certificate(vec![dns("a"), SanType::IpAddress([10, 0, 0, 1].into())]);
    assert_eq!(dns_name_of(&beside).unwrap(), "dns:a");
    // What has a URI is judged by it.
    let foreign = certificate(vec![dns("realtask.internal"), uri("spiffe://example.org/realtask")]);
    assert_eq!(dns_name_of(&foreign), Err(Nobody::OtherTrustDomain));
    for names in [vec![], vec![dns("a"), dns("b")], vec![SanType::IpAddress([10, 0, 0, 1].into())]] {
        assert_eq!(dns_name_of(&certificate(names)), Err(Nobody::NoDnsName));
    }
    for bad in ["*.internal", "RealTask.internal", "realtask.internal.", "", "a..b", "a b", "10.0.0.1", "a/b", "-a"] {
        assert_eq!(dns_name_of(&certificate(vec![dns(bad)])), Err(Nobody::NoDnsName), "{bad:?}");
    }
}

#[test]
fn only_a_leaf_that_is_for_clients_names_a_caller() {
    let of = |change: fn(&mut CertificateParams)| name_of(&certificate_with(vec![uri(CALLER)], change));
    assert_eq!(of(|params| params.is_ca = IsCa::NoCa).unwrap(), CALLER, "no constraints mean no CA");
    assert_eq!(of(|params| params.key_usages = vec![]).unwrap(), CALLER);
    let both = of(|params| params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth));
    assert_eq!(both.unwrap(), CALLER);

    assert_eq!(of(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err(Nobody::Authority));
    assert_eq!(of(|params| params.extended_key_usages = vec![]), Err(Nobody::NotForClients));
    for other in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any] {
        let only = certificate_with(vec![uri(CALLER)], |params| params.extended_key_usages = vec![other]);
        assert_eq!(name_of(&only), Err(Nobody::NotForClients));
    }
    for usages in [
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
    ] {
        let wrong = certificate_with(vec![uri(CALLER)], |params| params.key_usages = usages);
        assert_eq!(name_of(&wrong), Err(Nobody::KeyUsage));
    }
}

#[test]
fn what_is_no_certificate_names_nobody() {
    let good = certificate(vec![uri(CALLER)]);
    assert_eq!(name_of(&[]), Err(Nobody::Unreadable));
    assert_eq!(name_of(b"spiffe://datasert.com/realtask"), Err(Nobody::Unreadable));
    assert_eq!(name_of(&[good.as_slice(), &[0]].concat()), Err(Nobody::Unreadable));
    for length in 0..good.len() {
        assert_eq!(name_of(&good[..length]), Err(Nobody::Unreadable), "cut to {length}");
    }
}

#[test]
fn a_request_of_nobody_is_unauthenticated() {
    let mut request = Request::new(());
    let refused = caller(&request).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    assert_eq!(refused.metadata().get(status::REASON_TRAILER).unwrap(), "NO_CLIENT_CERTIFICATE");
    request.extensions_mut().insert(Caller::new(CALLER));
    assert_eq!(caller(&request).unwrap().as_str(), CALLER);
}

/// Whatever the certificate, a caller that comes out of it is written as one can be.
fn assert_canonical(caller: &Caller) {
    let text = caller.as_str();
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b".-_/".contains(&octet);
    let rest =
        text.strip_prefix("spiffe://datasert.com/").or_else(|| text.strip_prefix("dns:")).expect("its beginning");
    assert!(!rest.is_empty() && text.len() <= MAX_SPIFFE_ID_OCTETS && rest.bytes().all(plain), "{text:?}");
}

proptest! {
    #[test]
    fn any_octets_are_survived(octets in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(naming(true).caller(&octets).is_err());
    }

    #[test]
    fn a_damaged_certificate_is_survived(damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut octets = certificate(vec![dns("a.example"), uri(CALLER)]);
        for (place, octet) in damages {
            let place = place.index(octets.len());
            octets[place] = octet;
        }
        // Its signature does not hold any more, which is for others to see; here it must not panic.
        if let Ok(caller) = naming(true).caller(&octets) {
            assert_canonical(&caller);
        }
    }

    #[test]
    fn ids_of_the_grammar_are_taken_and_one_foreign_octet_spoils_them(
        segments in prop::collection::vec("[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}", 1..6),
        place in any::<prop::sample::Index>(),
        foreign in "[^a-zA-Z0-9._/-]",
    ) {
        let id = format!("spiffe://datasert.com/{}", segments.join("/"));
        let taken = naming(false).spiffe_caller(&id);
        prop_assert_eq!(taken.as_ref().map(Caller::as_str), Ok(id.as_str()));
        let place = place.index(id.len() + 1);
        let spoilt = format!("{}{foreign}{}", &id[..place], &id[place..]);
        prop_assert!(naming(false).spiffe_caller(&spoilt).is_err(), "{spoilt:?}");
    }

    #[test]
    fn any_text_as_an_id_gives_a_canonical_caller_or_none(id in "(spiffe://datasert.com/)?.{0,40}") {
        if let Ok(caller) = naming(false).spiffe_caller(&id) {
            assert_canonical(&caller);
        }
        if let Ok(caller) = dns_caller(&id) {
            assert_canonical(&caller);
        }
    }
}
