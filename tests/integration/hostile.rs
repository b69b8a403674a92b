//! A service with mTLS under attack, over real sockets: by those who have no certificate, and by a caller of its own, with a good one, that
//! turned against it. Meanwhile another caller is served, on the connection that it has and on new ones, and the service's memory
//! stays below a limit that is documented.
//!
//! `tls.rs` shows what each single peer is told, and `limits.rs` each limit; here they come in numbers. Each attack is bounded in
//! connections, octets and time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use triseal::grpc::v1;

use crate::support::certificates::{Authority, good_between, uri};
use crate::support::http2::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, PRIORITY,
    RST_STREAM, SETTINGS, Spoken, WINDOW_UPDATE, frame, header, headers, message, speak, speak_with, stream,
};
use crate::support::tls::{CALLER, HOUR, Secured, client_hello};
use crate::support::{PATIENCE, encrypt, opaque, until};

/// docs/OPERATING.md promises it: the memory that the service takes at most, under each of these attacks, in MiB.
const MEMORY: u64 = 512;
/// Of the one who is served meanwhile.
const BYSTANDER: &str = "spiffe://datasert.com/security";
/// Connections of an attack; of those that each hold little, more.
const FEW: usize = 16;
const MANY: usize = 200;
/// As many calls as a connection may have at a time.
const STREAMS: u32 = 256;
/// And as many batches as a caller in company may have under way.
const BATCHES: usize = 32;
/// Those whom nothing ends at once go on for so long.
const SIEGE: Duration = Duration::from_secs(2);

const DECRYPT: &str = "/triseal.v1.CredentialService/DecryptCredential";
const BATCH: &str = "/triseal.v1.CredentialService/BatchDecryptCredentials";
const ENCRYPT: &str = "/triseal.v1.CredentialService/EncryptCredential";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Attacks, while a bystander calls without a pause and is answered each time.
async fn besieged<T>(secured: &Secured, attack: impl Future<Output = T>) -> T {
    let pair = secured.authority.client(BYSTANDER);
    let mut bystander = secured.calls(secured.client(&pair));
    bystander.call().await.expect("it is served before");
    let ended = AtomicBool::new(false);
    let attacking = async {
        let attacked = attack.await;
        ended.store(true, Ordering::Relaxed);
        attacked
    };
    let calling = async {
        let (mut calls, mut on_new) = (0, 0);
        while !ended.load(Ordering::Relaxed) || calls < 10 {
            bystander.call().await.unwrap_or_else(|status| panic!("a bystander was hit after {calls} calls: {status}"));
            calls += 1;
            if calls % 10 == 0 {
                secured.calls(secured.client(&pair)).call().await.expect("a newcomer is served");
                on_new += 1;
            }
            sleep(Duration::from_millis(5)).await;
        }
        (calls, on_new)
    };
    let (attacked, (calls, on_new)) = join(attacking, calling).await;
    bystander.call().await.expect("it is served afterwards");
    assert_eq!(bystander.dialed(), 1, "it kept its connection");
    let peak = peak(secured);
    println!("{calls} calls of a bystander and {on_new} of newcomers answered meanwhile; at most {peak} MiB of memory");
    assert!(peak < MEMORY, "{peak} MiB of memory");
    attacked
}

/// The most that the service has had in memory so far, in MiB.
fn peak(secured: &Secured) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", secured.service.process())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim_end_matches("kB").trim().parse::<u64>().expect("a number") >> 10
}

/// A caller of the service that turns against it.
fn traitor(secured: &Secured) -> ClientConfig {
    secured.client(&secured.authority.client(CALLER))
}

/// So many connections of the traitor, all of which write the same.
async fn speak_all(secured: &Secured, number: usize, octets: &[Vec<u8>]) -> Vec<Spoken<TlsStream<TcpStream>>> {
    let traitor = traitor(secured);
    join_all((0..number).map(|_| async {
        let stream = secured.dial(traitor.clone()).await.expect("it is a caller");
        speak(stream, octets.iter().cloned())
    }))
    .await
}

/// Waits until the connections of the attack have ended.
async fn gone(secured: &Secured) {
    // The bystander's newcomers go, too.
    until("rid of them", async || secured.service.metric("triseal_connections").await <= 1.0).await;
    until("rid of their calls", async || secured.service.metric("triseal_requests_in_flight").await == 0.0).await;
}

fn call(path: &str, call: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(call), &headers(path))
}

#[test]
fn the_documents_promise_what_is_shown_here() {
    assert!(include_str!("../../docs/OPERATING.md").contains(&format!("less than {MEMORY} MiB")));
}

// --- those who are nobody ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_without_a_good_certificate_come_in_numbers_and_others_are_served() {
    let secured = Secured::start().await;
    let authority = &secured.authority;
    let revoked = authority.client(CALLER);
    secured.replace("clients.crl", &authority.revocation_list(&[&revoked], HOUR));
    until("revoked", async || refused(&secured, secured.client(&revoked)).await).await;
    let expired = authority.client_with(vec![uri(CALLER)], |params| good_between(params, -2 * HOUR, -1));
    let refused_ones = [
        ("no certificate", secured.client_of(None, &[&TLS13])),
        ("TLS 1.2", secured.client_of(Some(&authority.client(CALLER)), &[&TLS12])),
        ("another CA", secured.client(&Authority::new("another CA").client(CALLER))),
        ("expired", secured.client(&expired)),
        ("revoked", secured.client(&revoked)),
    ];
    let two_ids = authority.client_with(vec![uri(CALLER), uri(BYSTANDER)], |_| {});
    besieged(&secured, async {
        for (name, config) in &refused_ones {
            let dialed = join_all((0..MANY / 2).map(|_| refused(&secured, config.clone()))).await;
            assert!(dialed.into_iter().all(|refused| refused), "{name}");
        }
        // These have a connection, and no call.
        for _ in 0..MANY / 10 {
            let status = secured.calls(secured.client(&two_ids)).call().await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
        }
    })
    .await;
    gone(&secured).await;
}

/// Whether a client gets no octet of HTTP/2.
async fn refused(secured: &Secured, config: ClientConfig) -> bool {
    let read: io::Result<u8> = async {
        let mut stream = secured.dial(config).await?;
        stream.write_all(&[crate::support::http2::PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
        stream.read_u8().await
    }
    .await;
    read.is_err()
}

/// Without TLS: HTTP/2 and HTTP/1.1 in the clear, noise, and hands that are never shaken. All at a time, as many as are let in beside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_speak_no_tls_or_never_finish_it_hold_little_and_others_are_served() {
    let secured = Secured::start().await;
    let hello = client_hello(traitor(&secured));
    let said = [
        Vec::new(),
        vec![22],
        hello[..hello.len() / 2].to_vec(),
        hello,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        [crate::support::http2::PREFACE, &frame(SETTINGS, 0, 0, &[]), &call(DECRYPT, 0)].concat(),
        vec![0xa5; 1 << 20],
        // A handshake message that says that it has 16 MiB, in records of the greatest length.
        [&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &vec![3; (1 << 14) - 4]].concat().repeat(64),
    ];
    besieged(&secured, async {
        let mut open = Vec::new();
        for number in 0..4 * MANY {
            let mut socket = TcpStream::connect(secured.service.address()).await.unwrap();
            // It may be hung up on before it has said everything.
            let _ =
                timeout(SIEGE, socket.write_all(&said[number % said.len()])).await.expect("it is read or hung up on");
            open.push(socket);
        }
        for socket in &mut open {
            let ended = timeout(PATIENCE, socket.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "it waits for ever");
        }
    })
    .await;
    gone(&secured).await;
}

// --- a caller that turned against the service ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_connections_and_hit_nobody_else() {
    let secured = Secured::start().await;
    let resets = |path: &'static str| {
        (0..5_000)
            .flat_map(move |number| [call(path, number), frame(RST_STREAM, 0, stream(number), &CANCEL.to_be_bytes())])
    };
    // The service resets these itself, since no window may grow so far (CVE-2025-8671).
    let beyond = (u32::MAX >> 1).to_be_bytes();
    let provoked =
        (0..5_000).flat_map(|number| [call(DECRYPT, number), frame(WINDOW_UPDATE, 0, stream(number), &beyond)]);
    let endless = (0..2_000).map(|part| match part {
        0 => frame(HEADERS, 0, 1, &headers(DECRYPT)),
        _ => frame(CONTINUATION, 0, 1, &header("x", &"x".repeat(100)).repeat(150)),
    });
    let empty_parts = (0..100_000).map(|part| match part {
        0 => frame(HEADERS, 0, 1, &headers(DECRYPT)),
        _ => frame(CONTINUATION, 0, 1, &[]),
    });
    let empty = (0..100_000).map(|part| if part == 0 { call(DECRYPT, 0) } else { frame(DATA, 0, 1, &[]) });
    // CVE-2023-44487, also where no call is counted; then CONTINUATION floods, and frames that say nothing.
    let floods: [(&str, Vec<Vec<u8>>); 6] = [
        ("calls that are begun and reset", resets(DECRYPT).collect()),
        ("health checks that are begun and reset", resets(HEALTH_CHECK).collect()),
        ("calls that the service is made to reset", provoked.collect()),
        ("headers without an end", endless.collect()),
        ("headers without an end or content", empty_parts.collect()),
        ("data without content", empty.collect()),
    ];
    besieged(&secured, async {
        for (name, octets) in floods {
            let mut flooding = speak_all(&secured, FEW, &octets).await;
            let told = join_all(flooding.iter_mut().map(Spoken::hung_up)).await;
            // Octets that it did not read may take its last words back.
            assert!(told.iter().all(|told| told.is_none_or(|told| told == ENHANCE_YOUR_CALM)), "{name}: {told:?}");
        }
    })
    .await;
    gone(&secured).await;
}

/// What the rules permit in any number: it costs the service as long as it costs the one who sends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_that_the_rules_permit_are_read_no_faster_than_they_are_answered() {
    let secured = Secured::start().await;
    let priority = [0, 0, 0, 0, 16];
    let floods: [(&str, Vec<u8>); 4] = [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("priorities", frame(PRIORITY, 0, 1_001, &priority)),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
    ];
    besieged(&secured, async {
        for (_, octets) in floods {
            // Nobody reads the answers.
            let flooding = speak_all(&secured, FEW, &[octets.repeat(100_000)]).await;
            sleep(SIEGE).await;
            drop(flooding);
        }
    })
    .await;
    gone(&secured).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_unpack_to_more_are_refused_and_full_ones_are_held_for_no_longer_than_a_call() {
    let secured = Secured::start().await;
    // 4,000 octets go into the connection's table once, and are named a thousand times by one octet each.
    let packed = {
        let value = "x".repeat(3_900);
        let mut block = headers(DECRYPT);
        block.extend([0x40, 1, b'b', 0x7f]);
        // The length in seven bits, and the rest: RFC 7541, section 5.1.
        let rest = value.len() - 127;
        block.extend([u8::try_from(rest % 128).unwrap() | 0x80, u8::try_from(rest / 128).unwrap()]);
        block.extend(value.bytes());
        block.extend([0xbe; 1_000]);
        block
    };
    let unpacked = (0..STREAMS).map(|number| frame(HEADERS, END_HEADERS, stream(number), &packed)).collect::<Vec<_>>();
    // As many as a call may have, as short as they can be: what they take in memory is a multiple of their length.
    let full = |path: &str| {
        let short = (0..360).flat_map(|number| header(&format!("a{number}"), "b"));
        let block: Vec<_> = headers(path).into_iter().chain(short).collect();
        (0..STREAMS).map(move |number| frame(HEADERS, END_HEADERS, stream(number), &block)).collect::<Vec<_>>()
    };
    besieged(&secured, async {
        let _bombs = speak_all(&secured, FEW, &unpacked).await;
        for path in [DECRYPT, HEALTH_CHECK, HEALTH_WATCH] {
            let flooding = speak_all(&secured, FEW, &full(path)).await;
            sleep(SIEGE).await;
            drop(flooding);
        }
    })
    .await;
    gone(&secured).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_gibibyte_is_refused_by_its_first_five_octets() {
    let secured = Secured::start().await;
    let claims = |number| [call(DECRYPT, number), frame(DATA, 0, stream(number), &message(1 << 30, b"and so on"))];
    let octets: Vec<_> = (0..STREAMS).flat_map(claims).collect();
    besieged(&secured, async {
        let mut claiming = speak_all(&secured, FEW, &octets).await;
        for connection in &mut claiming {
            let mut answered = 0;
            while answered < STREAMS {
                let received = connection.receive().await.expect("its connection goes on");
                assert_ne!(received.kind, GOAWAY);
                answered += u32::from(received.kind == HEADERS && received.flags & END_STREAM != 0);
            }
        }
    })
    .await;
    gone(&secured).await;
}

/// All but the end of the largest message there is, in as many calls as a caller may have under way; and of a larger one, which is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_never_finished_take_what_their_fields_may_have() {
    const LONGEST: usize = 96 << 10;
    // Of one connection: a caller in company may have as many calls under way as two of them have.
    const CALLS: u32 = STREAMS / 2;
    let secured = Secured::start().await;
    let endless = |length: usize| {
        let begun = move |number: u32| {
            let octets = message(u32::try_from(length).unwrap(), &[7; 8 << 10]);
            [call(ENCRYPT, number), frame(DATA, 0, stream(number), &octets)]
        };
        let pieces = move |_| (0..CALLS).map(|number| frame(DATA, 0, stream(number), &[7; 8 << 10]));
        (0..CALLS).flat_map(begun).chain((1..LONGEST / (8 << 10) - 1).flat_map(pieces)).collect::<Vec<_>>()
    };
    let bad = "triseal_requests_total{rpc=\"EncryptCredential\",code=\"INVALID_ARGUMENT\",reason=\"BAD_FIELD\"}";
    let late = "triseal_requests_total{rpc=\"EncryptCredential\",code=\"DEADLINE_EXCEEDED\",reason=\"\"}";
    besieged(&secured, async {
        let traitor = traitor(&secured);
        for (length, told, at_least) in [(1 << 20, bad, 2.0), (LONGEST, late, f64::from(CALLS))] {
            let mut open = Vec::new();
            for _ in 0..2 {
                let stream = secured.dial(traitor.clone()).await.expect("it is a caller");
                open.push(pour(stream, endless(length)));
            }
            until(told, async || secured.service.metric(told).await >= at_least).await;
            open.iter().for_each(|(reading, writing)| {
                reading.abort();
                writing.abort();
            });
        }
    })
    .await;
    gone(&secured).await;
}

/// Writes no faster than the window of the connection permits, and reads what else it is told.
fn pour(stream: TlsStream<TcpStream>, frames: Vec<Vec<u8>>) -> (JoinHandle<()>, JoinHandle<()>) {
    const WINDOW: usize = 65_535;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let credit = Arc::new(Semaphore::new(WINDOW));
    let given = Arc::clone(&credit);
    let read = async move {
        let mut head = [0; 9];
        while reading.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if reading.read_exact(&mut payload).await.is_err() {
                return;
            }
            if head[3] == WINDOW_UPDATE && head[5..] == [0; 4] {
                given.add_permits(u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize);
            }
        }
    };
    let write = async move {
        let opening = [crate::support::http2::PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let mut written = writing.write_all(&opening).await;
        for octets in frames {
            if octets[3] == DATA {
                credit.acquire_many(u32::try_from(octets.len() - 9).unwrap()).await.unwrap().forget();
            }
            written = written.and(writing.write_all(&octets).await);
            if written.is_err() {
                return;
            }
        }
        let _ = writing.flush().await;
        std::future::pending::<()>().await;
    };
    (tokio::spawn(read), tokio::spawn(write))
}

/// Two octets each on the wire, and many times that in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_empty_items_is_refused_by_its_length() {
    let secured = Secured::start().await;
    let batch = |items: usize| message(u32::try_from(2 * items).unwrap(), &[0x0a, 0x00].repeat(items));
    let bad = "triseal_requests_total{rpc=\"BatchDecryptCredentials\",code=\"INVALID_ARGUMENT\",reason=\"BAD_FIELD\"}";
    besieged(&secured, async {
        let traitor = traitor(&secured);
        let mut told = 0.0;
        // As many as have room, and as many as had it once.
        for items in [16 << 10, (1 << 19) - 1] {
            for _ in 0..FEW {
                let octets = batch(items);
                let frames = std::iter::once(call(BATCH, 0))
                    .chain(octets.chunks(8 << 10).map(|piece| frame(DATA, 0, stream(0), piece)))
                    .chain([frame(DATA, END_STREAM, stream(0), &[])]);
                let stream = secured.dial(traitor.clone()).await.expect("it is a caller");
                let (reading, writing) = pour(stream, frames.collect());
                told += 1.0;
                until("refused", async || secured.service.metric(bad).await >= told).await;
                reading.abort();
                writing.abort();
            }
        }
    })
    .await;
    gone(&secured).await;
}

/// One octet at a time, of the preface, of headers and of bodies. What has a deadline ends by it, and the rest holds a place and nothing
/// else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_writers_hold_their_own_connections_up_and_nobody_elses() {
    let secured = Secured::start().await;
    let opening = [crate::support::http2::PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let long = frame(DATA, 0, 1, &[&message(1 << 20, b"")[..], &[7; 10_000]].concat());
    let slowly = [
        // Where each begins to be slow.
        (0, opening.clone()),
        (opening.len(), [&opening[..], &call(DECRYPT, 0)].concat()),
        (opening.len() + call(DECRYPT, 0).len(), [&opening[..], &call(DECRYPT, 0), &long].concat()),
    ];
    let traitor = traitor(&secured);
    besieged(&secured, async {
        let writing = (0..MANY).map(|number| {
            let (at_once, octets) = &slowly[number % slowly.len()];
            let (secured, traitor) = (&secured, traitor.clone());
            async move {
                let mut stream = secured.dial(traitor).await.expect("it is a caller");
                stream.write_all(&octets[..*at_once]).await.expect("it reads");
                for octet in octets[*at_once..].chunks(1).take(60) {
                    // Its call or its connection may have ended.
                    if stream.write_all(octet).await.is_err() {
                        return stream;
                    }
                    let _ = stream.flush().await;
                    sleep(Duration::from_millis(100)).await;
                }
                stream
            }
        });
        let slow = join_all(writing).await;
        // Slow bodies end by the deadline, whatever goes on dripping in.
        let late = "triseal_requests_total{rpc=\"DecryptCredential\",code=\"DEADLINE_EXCEEDED\",reason=\"\"}";
        until("late", async || secured.service.metric(late).await >= (MANY / slowly.len()) as f64).await;
        drop(slow);
    })
    .await;
    gone(&secured).await;
}

/// The largest answers there are, many more than a caller may ask for at a time, and nobody takes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_cost_no_more_memory_than_there_is() {
    let secured = Secured::start().await;
    let mut client = secured.credentials(traitor(&secured));
    for number in 0..100 {
        let secret = opaque(vec![u8::try_from(number).unwrap(); 32 << 10]);
        client.encrypt_credential(encrypt("demo", &format!("c{number}"), secret)).await.unwrap();
    }
    let requests = (0..100).map(|number| v1::DecryptCredentialRequest {
        customer_id: "demo".to_owned(),
        credential_id: format!("c{number}"),
        view: v1::View::Full.into(),
        if_revision: None,
    });
    let batch = prost::Message::encode_to_vec(&v1::BatchDecryptCredentialsRequest { requests: requests.collect() });
    let batch = message(u32::try_from(batch.len()).unwrap(), &batch);
    // Few enough for the window that a connection begins with.
    let calls: Vec<_> =
        (0..24).flat_map(|number| [call(BATCH, number), frame(DATA, END_STREAM, stream(number), &batch)]).collect();
    const INITIAL_WINDOW: u16 = 4;
    besieged(&secured, async {
        let traitor = traitor(&secured);
        let mut reading = Vec::new();
        for number in 0..2 * FEW {
            let stream = secured.dial(traitor.clone()).await.expect("it is a caller");
            // Some permit not one octet, and others permit all and read none.
            let window = if number % 2 == 0 { 0 } else { (1 << 31) - 1 };
            reading.push(speak_with(stream, &[(INITIAL_WINDOW, window)], calls.iter().cloned()));
        }
        // All that were admitted hold their answers, until the kernel has taken one.
        let shed = "triseal_requests_shed_total{reason=\"RATE_LIMITED\"}";
        until("full", async || secured.service.metric(shed).await >= (10 * BATCHES) as f64).await;
        sleep(SIEGE).await;
        drop(reading);
    })
    .await;
    gone(&secured).await;
}

/// One whom nothing is permitted asks for a hundred credentials in each of its batches: each refusal would be an entry of 500 octets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_without_an_end_are_not_written_down_without_an_end() {
    const BATCHES: usize = 25;
    let secured = Secured::start().await;
    let stranger = secured.authority.client("spiffe://datasert.com/stranger");
    let requests = (0..100).map(|number| v1::DecryptCredentialRequest {
        customer_id: "demo".to_owned(),
        credential_id: format!("c{number}"),
        view: v1::View::Full.into(),
        if_revision: None,
    });
    let batch = v1::BatchDecryptCredentialsRequest { requests: requests.collect() };
    let begun = Instant::now();
    besieged(&secured, async {
        let mut client = secured.credentials(secured.client(&stranger));
        for _ in 0..BATCHES {
            client.batch_decrypt_credentials(batch.clone()).await.expect("each item has its own refusal");
        }
    })
    .await;
    let most = 1_000 + 50 * (begun.elapsed().as_secs() + 1);
    let log = std::fs::read_to_string(secured.path("data/audit.jsonl")).unwrap();
    let entries: Vec<_> = log.lines().filter(|line| line.contains("/stranger\"")).collect();
    assert!(entries.iter().all(|line| line.contains("\"view\":\"full\"") && line.contains("NOT_PERMITTED")));
    assert!((1_000..=most).contains(&(entries.len() as u64)), "{} entries", entries.len());
    let unwritten = secured.service.metric("triseal_policy_refusals_unwritten_total").await;
    assert_eq!(unwritten, (100 * BATCHES - entries.len()) as f64);
}

/// A call is admitted by its headers; its body comes when the certificate has been revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_after_the_revocation_opens_nothing() {
    const SECRET: &[u8] = b"the secret of c";
    let secured = Secured::start().await;
    let pair = secured.authority.client(CALLER);
    let mut client = secured.credentials(secured.client(&pair));
    client.encrypt_credential(encrypt("demo", "c", opaque(SECRET))).await.unwrap();
    let request = crate::support::decrypt("demo", "c", v1::View::Full).into_inner();
    let body = prost::Message::encode_to_vec(&request);
    let body = message(u32::try_from(body.len()).unwrap(), &body);
    let (mut reading, mut writing) = tokio::io::split(secured.dial(secured.client(&pair)).await.unwrap());
    writing.write_all(&[crate::support::http2::PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut told = Vec::new();
    let times_told = |told: &[u8]| told.windows(SECRET.len()).filter(|octets| *octets == SECRET).count();

    // The same call tells it to whoever is still a caller.
    writing.write_all(&[call(DECRYPT, 0), frame(DATA, END_STREAM, stream(0), &body)].concat()).await.unwrap();
    while times_told(&told) == 0 {
        assert_ne!(timeout(PATIENCE, reading.read_buf(&mut told)).await.expect("it answers").unwrap(), 0);
    }

    secured.replace("clients.crl", &secured.authority.revocation_list(&[&pair], HOUR));
    // Calls that wait for their bodies, one of which is young enough when the revocation is in force.
    let mut calls = 0;
    while !refused(&secured, secured.client(&pair)).await {
        calls += 1;
        let _ = writing.write_all(&call(DECRYPT, calls)).await;
        sleep(Duration::from_millis(100)).await;
    }
    assert!(calls > 0);
    while !kinds(&told).contains(&GOAWAY) {
        assert_ne!(timeout(PATIENCE, reading.read_buf(&mut told)).await.expect("it says so").unwrap(), 0);
    }
    let disowned =
        "triseal_requests_total{rpc=\"DecryptCredential\",code=\"UNAUTHENTICATED\",reason=\"NO_CLIENT_CERTIFICATE\"}";
    for number in 1..=calls {
        let _ = writing.write_all(&frame(DATA, END_STREAM, stream(number), &body)).await;
    }
    until("refused", async || secured.service.metric(disowned).await > 0.0).await;
    drop(writing);
    let _ = timeout(SIEGE, reading.read_to_end(&mut told)).await;
    assert_eq!(times_told(&told), 1, "opened for a caller that had been revoked");
}

/// Of the whole frames in these octets.
fn kinds(mut octets: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *octets {
        let Some(rest) = octets.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..) else { break };
        kinds.push(kind);
        octets = rest;
    }
    kinds
}

/// What the attacks are written with is understood where it keeps to the rules.
#[tokio::test]
async fn frames_that_are_written_here_are_read_and_answered() {
    let secured = Secured::start().await;
    let mut connections = speak_all(&secured, 1, &[frame(PING, 0, 0, &[7; 8])]).await;
    loop {
        let received = connections[0].receive().await.expect("it goes on");
        if received.kind == PING {
            assert_eq!((received.flags, received.stream, received.payload), (ACK, 0, vec![7; 8]));
            return;
        }
    }
}
