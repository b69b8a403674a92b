//! TLS 1.3 with client certificates, over real sockets: who is refused and how, who is served meanwhile, and what happens when
//! certificates change, are revoked and expire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::SanType;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::certificates::{Authority, Pair, good_between, uri};
use crate::support::tls::{CALLER, HOUR, Secured, client_hello};
use crate::support::{PATIENCE, Random, reason, until};

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[tokio::test]
async fn whoever_has_no_good_certificate_is_told_why_and_others_are_served() {
    let secured = Secured::start().await;
    let authority = &secured.authority;
    let mut good = secured.calls(secured.client(&authority.client(CALLER)));
    good.call().await.unwrap();

    let dated = |from, until| authority.client_with(vec![uri(CALLER)], |params| good_between(params, from, until));
    let pair = |pair: Pair| secured.client(&pair);
    let alpn = |protocol: &[u8]| {
        let mut client = pair(authority.client(CALLER));
        client.alpn_protocols = vec![protocol.to_vec()];
        client
    };
    let middle = Authority::new("another CA").intermediate("a CA");
    use AlertDescription as A;
    for (client, alert, reason) in [
        (secured.client_of(None, &[&TLS13]), A::CertificateRequired, "no_certificate"),
        (secured.client_of(Some(&authority.client(CALLER)), &[&TLS12]), A::ProtocolVersion, "incompatible"),
        (pair(Authority::new("another CA").client(CALLER)), A::UnknownCA, "unknown_ca"),
        (pair(Authority::new("a CA").client(CALLER)), A::DecryptError, "unknown_ca"),
        (pair(middle.client(CALLER)), A::DecryptError, "unknown_ca"),
        (pair(dated(-2 * HOUR, -1)), A::CertificateExpired, "expired"),
        (pair(dated(HOUR, 2 * HOUR)), A::CertificateExpired, "not_valid_yet"),
        (pair(authority.server()), A::UnsupportedCertificate, "not_for_clients"),
        (alpn(b"http/1.1"), A::NoApplicationProtocol, "no_h2"),
    ] {
        let series = format!("triseal_tls_handshakes_refused_total{{reason=\"{reason}\"}}");
        let before = secured.service.metric(&series).await;
        assert_eq!(secured.refusal(client).await, alert, "{reason}");
        until(reason, async || secured.service.metric(&series).await == before + 1.0).await;
        good.call().await.unwrap();
    }
    // Without ALPN there is no alert to send, and no HTTP/1.1 either.
    let mut silent = pair(authority.client(CALLER));
    silent.alpn_protocols.clear();
    let mut stream = secured.dial(silent).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");

    good.call().await.unwrap();
    assert_eq!(good.dialed(), 1, "the good client never lost its connection");
}

#[tokio::test]
async fn a_good_certificate_that_names_no_caller_is_nobodys() {
    let secured = Secured::start().await;
    let authority = &secured.authority;
    secured.calls(secured.client(&authority.client(CALLER))).call().await.unwrap();
    let named = |names| authority.client_with(names, |_| {});
    for (nobody, why) in [
        (named(vec![uri(CALLER), uri("spiffe://datasert.com/security")]), "two ids"),
        (named(vec![]), "no name"),
        (named(vec![uri("spiffe://example.org/realtask")]), "another trust domain"),
        (named(vec![uri("https://datasert.com/realtask")]), "no id"),
        (named(vec![uri("spiffe://datasert.com")]), "no path"),
        (named(vec![dns("realtask.internal")]), "a DNS name"),
        (authority.issue(|params| params.subject_alt_names = vec![uri(CALLER)]), "no extended key usage"),
    ] {
        let refused = secured.calls(secured.client(&nobody)).call().await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "NO_CLIENT_CERTIFICATE"), "{why}");
    }
}

#[tokio::test]
async fn a_dns_name_is_a_caller_where_the_settings_allow_it() {
    let secured = Secured::with(&[("TRISEAL__TLS__ALLOW_DNS_NAMES", "true")]).await;
    let named = |names| secured.client(&secured.authority.client_with(names, |_| {}));
    secured.calls(named(vec![dns("realtask.internal")])).call().await.unwrap();
    secured.calls(named(vec![uri(CALLER), dns("realtask.internal")])).call().await.unwrap();
    for names in [
        vec![dns("a.internal"), dns("b.internal")],
        vec![dns("*.internal")],
        vec![dns("realtask.internal"), uri("spiffe://example.org/realtask")],
    ] {
        let refused = secured.calls(named(names)).call().await.unwrap_err();
        assert_eq!(reason(&refused), "NO_CLIENT_CERTIFICATE");
    }
}

#[tokio::test]
async fn the_key_exchange_is_hybrid_if_the_client_can_and_no_session_is_resumed() {
    let secured = Secured::start().await;
    let client = secured.client(&secured.authority.client(CALLER));
    for _ in 0..3 {
        // The same client each time, which would resume a session if it had a ticket.
        let mut stream = secured.dial(client.clone()).await.unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.read_u8().await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    }
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519);
    let classic = secured.client_with_provider(provider, &secured.authority.client(CALLER));
    let stream = secured.dial(classic).await.unwrap();
    assert_eq!(stream.get_ref().1.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
}

#[tokio::test]
async fn noise_in_place_of_a_handshake_ends_the_connection_and_nothing_else() {
    let secured = Secured::start().await;
    let mut good = secured.calls(secured.client(&secured.authority.client(CALLER)));
    good.call().await.unwrap();
    let hello = client_hello(secured.client(&secured.authority.client(CALLER)));
    let mut random = Random::printed();
    let mut noises = vec![
        [PREFACE, b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"].concat(),
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        vec![0; 70_000],
        // A record of the greatest length that is none, and an alert.
        [&[22, 3, 1, 0xff, 0xff][..], &[1; 1000]].concat(),
        vec![21, 3, 3, 0, 2, 2, 40],
    ];
    noises.extend((0..40).map(|_| (0..random.below(2_000)).map(|_| random.next() as u8).collect()));
    noises.extend((0..40).map(|_| {
        let mut damaged = hello.clone();
        for _ in 0..=random.below(4) {
            let place = random.below(damaged.len());
            damaged[place] = random.next() as u8;
        }
        damaged
    }));
    for noise in noises {
        let mut socket = TcpStream::connect(secured.service.address()).await.unwrap();
        // It may be hung up on before it has said everything.
        let _ = socket.write_all(&noise).await;
        let _ = socket.shutdown().await;
        let rest = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
        assert!(rest.is_ok(), "it hangs on {noise:?}");
        good.call().await.unwrap();
    }
    assert_eq!(good.dialed(), 1);
}

#[tokio::test]
async fn handshakes_that_are_never_finished_end_and_hold_up_nobody() {
    const EACH: usize = 40;
    let secured = Secured::start().await;
    let mut good = secured.calls(secured.client(&secured.authority.client(CALLER)));
    good.call().await.unwrap();
    let hello = client_hello(secured.client(&secured.authority.client(CALLER)));
    let mut open = Vec::new();
    for said in [&[][..], &hello[..hello.len() / 2], &hello] {
        for _ in 0..EACH {
            let mut socket = TcpStream::connect(secured.service.address()).await.unwrap();
            socket.write_all(said).await.unwrap();
            open.push(socket);
        }
    }
    // On its own connection, and on a new one.
    good.call().await.unwrap();
    secured.calls(secured.client(&secured.authority.client(CALLER))).call().await.unwrap();
    for mut socket in open {
        let ended = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "it waits for ever");
    }
    good.call().await.unwrap();
    assert_eq!(good.dialed(), 1);
}

#[tokio::test]
async fn the_servers_certificate_is_exchanged_under_living_connections() {
    let secured = Secured::start().await;
    let client = secured.client(&secured.authority.client(CALLER));
    let mut living = secured.calls(client.clone());
    living.call().await.unwrap();
    let shown = async || {
        let stream = secured.dial(client.clone()).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;

    // Each half alone, and what is damaged, is refused, counted once, and changes nothing.
    let next = secured.authority.server();
    let refused = async || secured.service.metric(REFUSED_CERTIFICATE).await;
    for (number, key) in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n", &next.key].into_iter().enumerate() {
        secured.replace("server.key", key);
        until("refused", async || refused().await == number as f64 + 1.0).await;
        assert_eq!(shown().await, first);
    }
    assert!(secured.service.stderr().contains("the last good ones stay"));
    secured.replace("server.pem", &next.certificate);
    until("exchanged", async || shown().await != first).await;

    living.call().await.unwrap();
    assert_eq!(living.dialed(), 1);
    assert_eq!(
        secured.service.metric("triseal_tls_reads_total{files=\"certificate\",outcome=\"accepted\"}").await,
        1.0
    );
}

const REFUSED_CERTIFICATE: &str = "triseal_tls_reads_total{files=\"certificate\",outcome=\"refused\"}";

#[tokio::test]
async fn a_revoked_certificate_ends_its_connection_and_no_other() {
    let secured = Secured::start().await;
    let (stolen, other) = (secured.authority.client(CALLER), secured.authority.client(CALLER));
    let mut thief = secured.calls(secured.client(&stolen));
    let mut good = secured.calls(secured.client(&other));
    thief.call().await.unwrap();
    good.call().await.unwrap();

    secured.replace("clients.crl", &secured.authority.revocation_list(&[&stolen], HOUR));
    until("refused", async || thief.call().await.is_err()).await;
    assert_eq!(secured.refusal(secured.client(&stolen)).await, AlertDescription::CertificateRevoked);
    assert!(thief.call().await.is_err());
    good.call().await.unwrap();
    assert_eq!(good.dialed(), 1);
    assert_eq!(secured.service.metric("triseal_connections_ended_total{cause=\"disowned\"}").await, 1.0);

    // A list that is damaged takes nothing back; one that has expired tells nothing, and so nobody is let in by it.
    secured.replace("clients.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    until("refused", async || secured.service.metric(REFUSED_CLIENTS).await == 1.0).await;
    assert_eq!(secured.refusal(secured.client(&stolen)).await, AlertDescription::CertificateRevoked);
    good.call().await.unwrap();
    assert_eq!(good.dialed(), 1);
    secured.replace("clients.crl", &secured.authority.revocation_list(&[], -1));
    until("refused", async || good.call().await.is_err()).await;
    assert_eq!(secured.refusal(secured.client(&other)).await, AlertDescription::UnknownCA);
    secured.replace("clients.crl", &secured.authority.revocation_list(&[&stolen], HOUR));
    until("served", async || good.call().await.is_ok()).await;
}

const REFUSED_CLIENTS: &str = "triseal_tls_reads_total{files=\"clients\",outcome=\"refused\"}";

#[tokio::test]
async fn a_ca_that_leaves_the_bundle_takes_its_connections_along() {
    let secured = Secured::start().await;
    let (old, new) = (&secured.authority, Authority::new("the new CA"));
    let (mut before, mut after) =
        (secured.calls(secured.client(&old.client(CALLER))), secured.calls(secured.client(&new.client(CALLER))));
    before.call().await.unwrap();
    after.call().await.unwrap_err();

    // Both, each with its list: the order of the two edits does not matter.
    secured.replace("clients.pem", &(old.pem() + &new.pem()));
    secured.replace("clients.crl", &(old.revocation_list(&[], HOUR) + &new.revocation_list(&[], HOUR)));
    until("served", async || after.call().await.is_ok()).await;
    before.call().await.unwrap();
    assert_eq!(before.dialed(), 1);

    let dialed = after.dialed();
    secured.replace("clients.pem", &new.pem());
    until("refused", async || before.call().await.is_err()).await;
    assert_eq!(secured.refusal(secured.client(&old.client(CALLER))).await, AlertDescription::UnknownCA);
    after.call().await.unwrap();
    assert_eq!(after.dialed(), dialed);
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let secured = Secured::start().await;
    let mut good = secured.calls(secured.client(&secured.authority.client(CALLER)));
    good.call().await.unwrap();
    let mut ended = None;
    // As short as it may be, so that it is good until both connections are there.
    for seconds in [3, 6, 12, 24] {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds;
        let brief = secured.authority.client_with(vec![uri(CALLER)], |params| {
            good_between(params, -HOUR, seconds as i64);
        });
        let mut calls = secured.calls(secured.client(&brief));
        let Ok(()) = calls.call().await else { continue };
        let Ok(mut stream) = secured.dial(secured.client(&brief)).await else { continue };
        let frames = tokio::time::timeout(PATIENCE, frames_until_the_end(&mut stream)).await.expect("it ends");
        if frames.is_empty() {
            continue;
        }
        assert!(frames.contains(&GOAWAY), "{frames:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(now > Duration::from_secs(expires), "it ended too early");
        ended = Some((brief, calls));
        break;
    }
    let (brief, mut calls) = ended.expect("a certificate was good for long enough");
    until("refused", async || calls.call().await.is_err()).await;
    assert_eq!(secured.refusal(secured.client(&brief)).await, AlertDescription::CertificateExpired);
    good.call().await.unwrap();
    assert_eq!(good.dialed(), 1);
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A client of HTTP/2 that only listens, and answers pings. The types of the frames that it is sent.
async fn frames_until_the_end(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> Vec<u8> {
    let mut frames = Vec::new();
    if stream.write_all(PREFACE).await.is_err() {
        return frames;
    }
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        frames.push(head[3]);
        if head[3] == PING && head[4] & 1 == 0 {
            head[4] |= 1;
            // It may have gone by now.
            let _ = stream.write_all(&[&head[..], &payload].concat()).await;
        }
    }
    frames
}
