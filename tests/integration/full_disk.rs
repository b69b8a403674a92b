//! A store that can't be written any more: the service says why, ends with a failure, and loses nothing that it acknowledged.
//!
//! The disk is full for this one process: the system lets its files grow no further (`ulimit -f`).

use triseal::grpc::v1;

use crate::support::{Service, data, decrypt, dev, encrypt, opaque, opaque_data, program};

/// How far the store's file may grow, in octets: a few dozen of the writes below.
const ROOM: u64 = 1 << 20;
/// More writes than there is room for.
const WRITES: usize = 1_000;

#[tokio::test]
async fn a_full_disk_is_told_and_what_was_acknowledged_stays() {
    let (_folder, data) = data();
    assert!(Service::dev(&data).await.terminate().await.success());
    let size = data.join("store.redb").metadata().unwrap().len();

    // 512 octets each. Without the signal, writing fails with an error, as on a disk that is full.
    let blocks = ((size + ROOM) / 512).to_string();
    let inner = dev(&data);
    let inner = inner.as_std();
    let limit = "trap '' XFSZ; ulimit -f \"$0\" && exec \"$@\"";
    let mut limited = program("sh", &["-c", limit, &blocks]);
    limited.arg(inner.get_program()).args(inner.get_args());
    let mut service = Service::start(limited).await;
    let mut credentials = service.credentials();
    let mut acknowledged = Vec::new();
    let secret = |number: usize| vec![number as u8; 32_000];
    for number in 0..WRITES {
        let request = encrypt("demo", &format!("number-{number}"), opaque(secret(number)));
        match credentials.encrypt_credential(request).await {
            Ok(_) => acknowledged.push(number),
            Err(_) => break,
        }
    }
    assert!(!acknowledged.is_empty() && acknowledged.len() < WRITES, "{}", acknowledged.len());

    let ended = service.ended().await;
    let said = service.last_words().await;
    assert_eq!(ended.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    for part in
        ["triseald: ", "store.redb", "can't be written", "File too large", "nothing that was acknowledged is lost"]
    {
        assert!(last.contains(part), "{part:?} is not in {said}");
    }
    assert!(said.contains("a commit failed"), "{said}");

    let service = Service::dev(&data).await;
    let mut credentials = service.credentials();
    for number in acknowledged {
        let request = decrypt("demo", &format!("number-{number}"), v1::View::Full);
        let opened = credentials.decrypt_credential(request).await.unwrap().into_inner();
        assert!(opaque_data(opened.secret) == secret(number), "{number}");
    }
    credentials.encrypt_credential(encrypt("demo", "afterwards", opaque(b"x"))).await.unwrap();
}
