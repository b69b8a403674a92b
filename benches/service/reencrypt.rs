//! Re-encryption of many credentials by a job, against redb alone that rewrites the same rows in the same file; and what the job takes of
//! memory, which must not grow with the number of records.

use std::path::Path;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable};
use tonic::transport::Channel;
use triseal::grpc::v1;
use triseal::grpc::v1::credential_service_client::CredentialServiceClient;
use triseal::grpc::v1::key_service_client::KeyServiceClient;

use crate::load::{self, Caller, Until};
use crate::process::Process;
use crate::rows::{CREDENTIALS as TABLE, SETTLING};
use crate::service::{CONNECTIONS, Changes, Configuration, Data, salesforce};
use crate::table::{Goal, Quantity, Row};

/// Unless an argument says how many.
pub const CREDENTIALS: usize = 1_000_000;
/// Of one customer. Each customer's root is unwrapped once under its old key, and once under its new one.
const OF_A_CUSTOMER: usize = 100;
/// Calls in flight while the store is filled: as many as one commit takes.
const FILLING: usize = 256;
/// As many as one commit of the service takes at most. Smaller batches are slower.
const BATCH: usize = 256;
/// How often job and memory are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// All customers' keys are rotated, and every credential is below the target.
pub async fn measure(credentials: usize) -> Vec<Row> {
    let data = filled(credentials).await;
    let credentials = data.customers * OF_A_CUSTOMER;
    let service = Configuration::Dev.start(&data.path());
    println!("start to ready, with every page checked: {:.1} s", service.ready_after.as_secs_f64());
    let mut keys = KeyServiceClient::new(Configuration::Dev.connect(service.address, 1).await.remove(0));
    tokio::time::sleep(SETTLING).await;
    let before = service.resident();
    let request = v1::StartReencryptionRequest::default();
    let job = keys.start_reencryption(request).await.expect("it starts").into_inner().job;
    let job = Followed::to_its_end(&mut keys, &service, job).await;
    assert!(
        job.last.changed == credentials as u64 && job.last.failed == 0,
        "not all were re-encrypted: {:?}",
        job.last
    );
    let rate = credentials as f64 / job.changed_all.as_secs_f64();
    let (resident, largest) = (Quantity::Octets(before), Quantity::Octets(job.largest));
    println!(
        "re-encryption: all rewritten after {:.1} s, done after {:.1} s",
        job.changed_all.as_secs_f64(),
        job.done.as_secs_f64()
    );
    println!("resident: {resident} before it, at most {largest} while it ran");

    let request = v1::StartReencryptionRequest { dry_run: true, ..Default::default() };
    let count = keys.start_reencryption(request).await.expect("it starts").into_inner().job;
    let count = Followed::to_its_end(&mut keys, &service, count).await;
    println!("key usage: {:.1} s", count.done.as_secs_f64());
    let customer = v1::Factor::Customer as i32;
    let counts: Vec<_> = count.last.counts.iter().filter(|count| count.factor == customer).collect();
    assert!(
        matches!(counts[..], [only] if (only.version, only.records) == (2, credentials as u64)),
        "a record is left under an old version: {counts:?}"
    );
    assert!(service.stop().success(), "the service stops");

    let (alone, octets) = redb_alone(&data.store());
    let file = std::fs::metadata(data.store()).expect("the store").len() as f64;
    println!("rows: {octets:.0} octets each; the file: {}", Quantity::Octets(file));
    vec![
        Row {
            what: format!("Re-encryption of {credentials} credentials (--dev), durable"),
            measured: Quantity::Rate(rate),
            limit: Some((Quantity::Rate(alone), "redb alone, in batches of 256")),
            ratio: Some(rate / alone),
            goal: Goal::AtLeastTimes(0.25),
        },
        Row {
            what: "Re-encryption: largest resident, above what it was before".to_owned(),
            measured: Quantity::Octets(job.largest - before),
            limit: None,
            ratio: None,
            goal: Goal::AtMost(Quantity::Octets(64.0 * 1024.0 * 1024.0)),
        },
    ]
}

/// Credentials that callers stored, under customers' keys that were rotated since.
async fn filled(credentials: usize) -> Data {
    let began = Instant::now();
    let data = Data::prepare(credentials.div_ceil(OF_A_CUSTOMER), Changes::One).await;
    let service = Configuration::Dev.start(&data.path());
    let channels = Configuration::Dev.connect(service.address, CONNECTIONS).await;
    let callers = FILLING.min(data.customers);
    let filling = data.callers(&channels, callers, FillCaller::new);
    // One of each customer's is there.
    load::run(filling, Until::Calls((OF_A_CUSTOMER - 1) * data.customers.div_ceil(callers))).await;
    println!("filling: {:.1} s", began.elapsed().as_secs_f64());
    let mut keys = KeyServiceClient::new(channels[0].clone());
    let request = v1::StartCustomerKeyRotationRequest::default();
    let job = keys.start_customer_key_rotation(request).await.expect("it starts").into_inner().job;
    let job = Followed::to_its_end(&mut keys, &service, job).await;
    // And that of the self-check.
    assert!(job.last.changed > data.customers as u64, "a key was not rotated: {:?}", job.last);
    println!("rotation of {} customers' keys: {:.1} s", data.customers, job.done.as_secs_f64());
    assert!(service.stop().success(), "the service stops");
    data
}

/// Stores all but the first of its customers' credentials, one after another.
struct FillCaller {
    client: CredentialServiceClient<Channel>,
    customers: Vec<String>,
    next: usize,
}

impl FillCaller {
    fn new(channel: Channel, customers: Vec<String>) -> Self {
        Self { client: CredentialServiceClient::new(channel), customers, next: 0 }
    }
}

impl Caller for FillCaller {
    async fn call(&mut self) {
        let (round, of_round) = (self.next / self.customers.len(), self.next % self.customers.len());
        self.next += 1;
        let request = v1::EncryptCredentialRequest {
            customer_id: self.customers[of_round].clone(),
            // Shares differ by one: the smaller ones begin again.
            credential_id: format!("realtask.connection-{:02}", 1 + round % (OF_A_CUSTOMER - 1)),
            secret: Some(salesforce()),
            if_revision: None,
            idempotency_key: String::new(),
        };
        self.client.encrypt_credential(request).await.expect("it is stored");
    }
}

/// A job, looked at until it ended.
struct Followed {
    last: v1::Job,
    /// From its start until it had changed all that it changed.
    changed_all: Duration,
    /// From its start to its end.
    done: Duration,
    /// Resident memory of the service meanwhile, in octets.
    largest: f64,
}

impl Followed {
    async fn to_its_end(keys: &mut KeyServiceClient<Channel>, service: &Process, started: Option<v1::Job>) -> Self {
        let (began, started) = (Instant::now(), started.expect("a job"));
        let job_id = started.job_id.clone();
        let mut followed = Self { last: started, changed_all: Duration::ZERO, done: Duration::ZERO, largest: 0.0 };
        while followed.last.state() == v1::JobState::Running {
            tokio::time::sleep(LOOK).await;
            let request = v1::GetJobRequest { job_id: job_id.clone() };
            let present = keys.get_job(request).await.expect("it is there").into_inner().job.expect("a job");
            followed.done = began.elapsed();
            if present.changed > followed.last.changed {
                followed.changed_all = followed.done;
            }
            followed.largest = followed.largest.max(service.resident());
            followed.last = present;
        }
        assert!(followed.last.state() == v1::JobState::Done, "it ended otherwise: {:?}", followed.last);
        followed
    }
}

/// Every row written anew by one thread, in the order in which the job walks them: rows a second, and octets of a row.
fn redb_alone(store: &Path) -> (f64, f64) {
    let db = Database::builder().set_cache_size(8 << 20).open(store).expect("the service has stopped");
    let mut rows = Vec::new();
    let table = db.begin_read().map(|txn| txn.open_table(TABLE).expect("it is there")).expect("a transaction");
    for entry in table.iter().expect("entries") {
        let (key, value) = entry.expect("an entry");
        rows.push((key.value().to_vec(), value.value().len()));
    }
    drop(table);
    let content = vec![7; rows.iter().map(|row| row.1).max().expect("a row")];
    let began = Instant::now();
    for batch in rows.chunks(BATCH) {
        let mut txn = db.begin_write().expect("a transaction");
        // As the service's own: see src/store/embedded.rs.
        txn.set_two_phase_commit(true);
        {
            let mut table = txn.open_table(TABLE).expect("a table");
            for (key, octets) in batch {
                table.insert(key.as_slice(), &content[..*octets]).expect("an entry");
            }
        }
        txn.commit().expect("a commit");
    }
    let octets: usize = rows.iter().map(|row| row.1).sum();
    (rows.len() as f64 / began.elapsed().as_secs_f64(), octets as f64 / rows.len() as f64)
}
