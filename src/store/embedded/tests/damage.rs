//! Store files that were damaged by others: each is refused, or reads as it was written. None loses a row silently, and none makes
//! us panic.

use super::*;

/// A small store's rows, and its file: closed, and as a crash right after the last commit would leave it.
struct Sample {
    credentials: Vec<CredentialRow>,
    customer: CustomerRow,
    closed: Vec<u8>,
    crashed: Vec<u8>,
}

async fn sample() -> Sample {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = open(&path).unwrap();
    let credentials: Vec<_> = (0..40).map(|number| living("acme", &format!("credential-{number}"))).collect();
    let port = EmbeddedCredentials(Arc::clone(&store));
    for half in credentials.chunks(20) {
        join_all(half.iter().map(|row| port.replace(None, row.clone()))).await;
    }
    let customer = customer("acme");
    let write = CustomerWrite::of(customer.clone());
    EmbeddedCustomers(Arc::clone(&store)).replace(None, write).await.unwrap();
    let crashed = std::fs::read(&path).unwrap();
    drop((port, store));
    let closed = std::fs::read(&path).unwrap();
    Sample { credentials, customer, closed, crashed }
}

impl Sample {
    /// Opens a file of these octets, and tells whether that was refused. Panics if it reads otherwise than it was written.
    async fn is_refused(&self, octets: &[u8], what: &str) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        std::fs::write(&path, octets).unwrap();
        let store = match open(&path) {
            Ok(store) => store,
            Err(OpenError::Damaged(..) | OpenError::UnknownFormat(_)) => {
                let length = path.metadata().unwrap().len();
                assert_eq!(length, octets.len() as u64, "{what}: nothing is cut off or added");
                return true;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        let credentials = EmbeddedCredentials(Arc::clone(&store));
        let may_fail = |error: StoreError| assert!(matches!(error, StoreError::Corrupt(_)), "{what}: {error}");
        match credentials.query(None, None, 1_000).await {
            Ok(page) => assert_eq!(page.rows.len(), self.credentials.len(), "{what}: rows are missing"),
            Err(error) => may_fail(error),
        }
        for row in &self.credentials {
            match credentials.get(&row.id).await {
                Ok(read) => assert_eq!(read.as_ref(), Some(row), "{what}: a row reads otherwise"),
                Err(error) => may_fail(error),
            }
        }
        match EmbeddedCustomers(store).get(&self.customer.id).await {
            Ok(read) => assert_eq!(read.as_ref(), Some(&self.customer), "{what}: a row reads otherwise"),
            Err(error) => may_fail(error),
        }
        false
    }

    fn images(&self) -> [(&'static str, &Vec<u8>); 2] {
        [("closed", &self.closed), ("crashed", &self.crashed)]
    }
}

#[tokio::test]
async fn an_undamaged_file_opens_also_after_a_crash() {
    let sample = sample().await;
    for (name, octets) in sample.images() {
        assert!(!sample.is_refused(octets, name).await, "{name}");
    }
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_refused_unless_nothing_stood_there() {
    let sample = sample().await;
    for (name, octets) in sample.images() {
        let near = [0, 1, 63, 64, 320, 4_096, 8_192, octets.len() - 4_096, octets.len() - 1];
        for length in near.into_iter().chain((0..octets.len()).step_by(2_039)) {
            let what = format!("{name}, cut to {length}");
            let refused = sample.is_refused(&octets[..length], &what).await;
            assert!(refused || length > octets.len() / 2, "{what}");
        }
    }
}

#[tokio::test]
async fn a_file_with_one_octet_changed_is_refused_or_reads_as_before() {
    // redb's header has 320 octets; everything after it is pages.
    const HEADER: usize = 320;
    // One octet of it are flags. Which of two commits is the present one is a single bit there, and after a crash the former one
    // may be right: nobody can tell.
    const FLAGS: usize = 9;
    const PRESENT_COMMIT: (usize, u8) = (FLAGS, 0);
    let sample = sample().await;
    for (name, octets) in sample.images() {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: usize| {
            // xorshift64: the same places every time.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).unwrap()
        };
        let flags = (0..8).map(|bit| (FLAGS, bit));
        let header = flags.chain((0..HEADER).step_by(5).map(|at| (at, (at % 8) as u8)));
        let pages: Vec<_> = (0..60).map(|_| (HEADER + next(octets.len() - HEADER), next(8) as u8)).collect();
        let mut refused = 0;
        for (at, bit) in header.chain(pages) {
            if name == "crashed" && (at, bit) == PRESENT_COMMIT {
                continue;
            }
            let mut changed = octets.clone();
            changed[at] ^= 1 << bit;
            refused += u32::from(sample.is_refused(&changed, &format!("{name}, bit {bit} of octet {at}")).await);
        }
        assert!(refused > 30, "{name}: {refused} refused");
    }
}
