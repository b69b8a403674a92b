//! What one connection, one caller and all together may take, and why so much. Who counts and refuses is `admission`, `call` and
//! `connection`.

use std::time::Duration;

/// Of a request of any method. What is under way is in memory, as often as calls are, so each method takes what its fields may have
/// together, and no more.
const MAX_REQUEST_OCTETS: usize = 1 << 20;
/// Of one with a secret: two tokens of 16 KiB, a hundred scopes, three URLs and ids come to 65 KiB. Of 512 under way 48 MiB.
pub(super) const MAX_SECRET_REQUEST_OCTETS: usize = 96 << 10;
/// Of a batch: a hundred times two ids, 28 KiB. What is no batch is a list of empty items, at most 16,384 of 72 octets in memory.
pub(super) const MAX_BATCH_REQUEST_OCTETS: usize = 32 << 10;
/// Of any other: ids and short texts, 1 KiB. With room for one that is too long to be named.
pub(super) const MAX_SHORT_REQUEST_OCTETS: usize = 16 << 10;
const _: () = assert!(MAX_SECRET_REQUEST_OCTETS <= MAX_REQUEST_OCTETS);
/// Of an answer: a page of 1,000, or a batch of 100 secrets of an ordinary length. Items that a batch has no room for are refused, each
/// for itself.
pub(super) const MAX_REPLY_OCTETS: usize = 4 << 20;
/// Of a request to health or reflection: the name of a service or a symbol.
pub(super) const MAX_NAME_OCTETS: usize = 4 << 10;

/// Connections, at most: below the common limit of 1,024 open files, with room for the store and the ops listener. One more is closed
/// at once.
pub(super) const MAX_CONNECTIONS: usize = 900;
/// Of one caller. The rest is for others, and for hands that are being shaken.
pub(super) const MAX_CONNECTIONS_EACH: usize = 600;
/// From accepting a connection to the end of its HTTP/2 preface, TLS included. Three round trips; the rest is for a busy client.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection is looked at so often: who takes no answers, who makes no calls.
pub(super) const LOOK: Duration = Duration::from_secs(30);
/// A connection without a call is ended after so many looks: 5 minutes, before a network load balancer forgets it (350 s).
pub(super) const IDLE_LOOKS: u32 = 10;
/// A connection may grow so much older or less old than it is set to, so that connections do not end in step.
pub(super) const AGE_JITTER: f64 = 0.1;
/// After GOAWAY a connection has so long: the longest deadline of a call, and time to send its answer. The one call that may take longer, a
/// retirement, is cut off then, and is safe to repeat.
pub(super) const GRACE: Duration = Duration::from_secs(15);
/// A connection whose other end answers no ping for [`PING_TIMEOUT`] is closed; one is sent so often.
pub(super) const PING: Duration = Duration::from_secs(60);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Calls of one connection at a time: half of the default of `server.max_concurrent_requests`, which is a caller's share.
pub(super) const MAX_STREAMS: u32 = 256;
/// Of these, health checks, their watches and reflection: a client has one watch and a check now and then.
pub(super) const MAX_OTHERS: u32 = 16;
/// The call that answers up to [`MAX_REPLY_OCTETS`], which are in memory until they are taken, and opens up to 100 secrets: it counts as
/// so many. With the default of `server.max_concurrent_requests` 64 of them are under way at most, and 256 MiB of their answers.
pub(super) const BATCH: &str = "/triseal.v1.CredentialService/BatchDecryptCredentials";
pub(super) const BATCH_PLACES: usize = 8;
/// The calls that bring a secret.
pub(super) const WITH_SECRET: [&str; 2] =
    ["/triseal.v1.CredentialService/EncryptCredential", "/triseal.v1.CredentialService/CompleteRefresh"];
/// Octets of a call's headers, unpacked: deadline, user agent, ids and trace context, with room for a proxy's.
pub(super) const MAX_HEADER_OCTETS: u32 = 16 << 10;
/// Calls that were reset before they were looked at. h2's own default; above it the connection is closed (CVE-2023-44487).
pub(super) const MAX_PENDING_RESETS: usize = 20;
/// Streams that were reset because the other end broke the protocol. Above it the connection is closed (RUSTSEC-2024-0003).
pub(super) const MAX_ERROR_RESETS: usize = 64;
/// What may be sent to us and not yet be read: by one call, and by all calls of a connection. Requests are small; the larger window is
/// what 900 hostile connections would make us keep, times 900: 225 MiB.
pub(super) const STREAM_WINDOW: u32 = 64 << 10;
pub(super) const CONNECTION_WINDOW: u32 = 256 << 10;
/// What is kept of one answer for the connection to send. The rest stays with its call, which counts as under way until it is sent.
pub(super) const MAX_SEND_OCTETS: usize = 64 << 10;
/// An answer is handed to the connection in pieces: HTTP/2's default size of a frame.
pub(super) const PIECE_OCTETS: usize = 16 << 10;

/// Of a call whose caller named no deadline.
pub(super) const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Of a call whose caller named a later one.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(10);
/// The call that walks all records of a customer, and that only security teams make. It seals nothing, so nobody waits until it has ended.
pub(super) const RETIREMENT: &str = "/triseal.v1.KeyService/RetireCustomerKeyVersion";
/// Of that one: at 20 ms for a page of 500 it walks some millions of records.
pub(super) const MAX_RETIREMENT: Duration = Duration::from_mins(5);

/// The longest deadline of a call of a method.
pub(super) fn max_deadline(path: &str) -> Duration {
    if path == RETIREMENT { MAX_RETIREMENT } else { MAX_DEADLINE }
}

/// Calls that wait for somebody else's refresh leave their places to others: so many for each place. Theirs is a message, a task and a
/// stream, about 13 KiB, and no work until all of them are answered: 2,048 by default, the credentials of a few customers that all
/// products use. One more waits in its place.
pub(super) const WAITING_FOR_EACH_PLACE: usize = 4;

/// How many places the call of a method takes.
pub(super) fn places(path: &str) -> usize {
    if path == BATCH { BATCH_PLACES } else { 1 }
}

/// How long the message of a method may be.
pub(super) fn request_octets(path: &str) -> usize {
    match path {
        BATCH => MAX_BATCH_REQUEST_OCTETS,
        path if WITH_SECRET.contains(&path) => MAX_SECRET_REQUEST_OCTETS,
        _ => MAX_SHORT_REQUEST_OCTETS,
    }
}
