//! The measurements: each with its limit, taken in turn in the same run.

use std::path::Path;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::echo::{self, EchoCaller};
use crate::load::{self, Caller, Load, Until, median};
use crate::process::Process;
use crate::service::{
    BatchCaller, CONNECTIONS, Changes, Configuration, Data, DecryptCaller, EncryptCaller, IN_FLIGHT, Sizes, Wire,
};
use crate::table::{Goal, Quantity, Row};

/// Turns of each measurement and its limit.
const REPETITIONS: usize = 9;
/// How long one turn lasts.
const TURN: Duration = Duration::from_millis(1_500);
const STARTS: usize = 15;
/// Memory is looked at when so much time has passed without a call.
pub const SETTLING: Duration = Duration::from_secs(1);
const CUSTOMERS: usize = 1_000;
const BATCH: usize = 100;
const MANY_CUSTOMERS: usize = 100_000;

/// DecryptCredential of warm customers, against a bare echo of the same sizes.
pub async fn decrypt(configuration: Configuration) -> Vec<Row> {
    let data = Data::prepare(CUSTOMERS, Changes::AsManyAsAreRemembered).await;
    let service = configuration.start(&data.path());
    let channels = configuration.connect(service.address, CONNECTIONS).await;
    let mut one = data.callers(&channels, 1, DecryptCaller::new);
    let sizes = one[0].sizes().await;
    let many = data.callers(&channels, IN_FLIGHT, DecryptCaller::new);
    let mut many = load::run(many, Until::Calls(CUSTOMERS.div_ceil(IN_FLIGHT))).await.1;

    let echo = echo::start(configuration.wire(), sizes.reply);
    let echo_channels = configuration.connect(echo.address, CONNECTIONS).await;
    let echo_caller = |number: usize| EchoCaller::new(echo_channels[number % CONNECTIONS].clone(), sizes.request);
    let mut echo_one = vec![echo_caller(0)];
    let mut echo_many: Vec<_> = (0..IN_FLIGHT).map(echo_caller).collect();

    let (mut cpu, mut slowest, mut alone) = (Pairs::default(), Pairs::default(), Pairs::default());
    for _ in 0..REPETITIONS {
        let (load, seconds) = turn(&service, &mut many).await;
        let (echo_load, echo_seconds) = turn(&echo, &mut echo_many).await;
        cpu.push(seconds, echo_seconds);
        slowest.push(load.percentile(99.0), echo_load.percentile(99.0));
        let (load, _) = turn(&service, &mut one).await;
        let (echo_load, _) = turn(&echo, &mut echo_one).await;
        alone.push(load.percentile(50.0), echo_load.percentile(50.0));
    }
    let row = |what: &str, pairs: Pairs, times| {
        let what = format!("DecryptCredential ({}): {what}", configuration.name());
        pairs.row(what, configuration.wire().echo(), Quantity::Seconds, Goal::AtMostTimes(times))
    };
    let cpu_goal = match configuration {
        Configuration::Unaudited => 1.5,
        Configuration::Dev | Configuration::Mtls => 2.0,
    };
    vec![
        row("CPU time a call, 64 in flight", cpu, cpu_goal),
        row("p50, one in flight", alone, 1.3),
        row("p99, 64 in flight", slowest, 2.0),
    ]
}

/// Lets the callers call for a turn. The load, and the server's CPU seconds a call.
async fn turn<C: Caller>(server: &Process, callers: &mut Vec<C>) -> (Load, f64) {
    let before = server.cpu();
    let (load, back) = load::run(std::mem::take(callers), Until::Time(TURN)).await;
    *callers = back;
    let seconds = (server.cpu() - before) / load.calls as f64;
    (load, seconds)
}

/// What one more item of a batch costs, against what it costs an echo to carry it.
pub async fn batch() -> Vec<Row> {
    let data = Data::prepare(CUSTOMERS, Changes::AsManyAsAreRemembered).await;
    let mut rows = Vec::new();
    for configuration in [Configuration::Dev, Configuration::Mtls] {
        let service = configuration.start(&data.path());
        let channels = configuration.connect(service.address, CONNECTIONS).await;
        // Each has 125 customers, so the items of a batch are of different ones.
        let callers = |items| {
            data.callers(&channels, CONNECTIONS, |channel, customers| BatchCaller::new(channel, customers, items))
        };
        let (mut ones, mut hundreds) = (callers(1), callers(BATCH));
        let (one, hundred) = (ones[0].sizes().await, hundreds[0].sizes().await);
        let wire = configuration.wire();
        let (echo_one, echo_hundred) = (echo::start(wire, one.reply), echo::start(wire, hundred.reply));
        let mut echo_ones = echo_callers(wire, &echo_one, &one).await;
        let mut echo_hundreds = echo_callers(wire, &echo_hundred, &hundred).await;
        let mut pairs = Pairs::default();
        for _ in 0..REPETITIONS {
            let fixed = turn(&service, &mut ones).await.1;
            let whole = turn(&service, &mut hundreds).await.1;
            let echo_fixed = turn(&echo_one, &mut echo_ones).await.1;
            let echo_whole = turn(&echo_hundred, &mut echo_hundreds).await.1;
            let further = (BATCH - 1) as f64;
            pairs.push((whole - fixed) / further, (echo_whole - echo_fixed) / further);
        }
        let what =
            format!("BatchDecryptCredentials ({}): CPU time an item beyond the first, of 100", configuration.name());
        let goal = Goal::AtMost(Quantity::Seconds(5e-6));
        rows.push(pairs.row(what, configuration.wire().echo(), Quantity::Seconds, goal));
    }
    rows
}

/// One on each connection.
async fn echo_callers(wire: Wire, echo: &Process, sizes: &Sizes) -> Vec<EchoCaller> {
    let channels = wire.connect(echo.address, CONNECTIONS).await;
    channels.into_iter().map(|channel| EchoCaller::new(channel, sizes.request)).collect()
}

/// EncryptCredential, durable, against redb alone: one writer, in batches of as many records of the same size.
pub async fn encrypt() -> Vec<Row> {
    let data = Data::prepare(CUSTOMERS, Changes::AsManyAsAreRemembered).await;
    let mut bare = Bare::like(&data.store());
    let mut rows = Vec::new();
    for configuration in [Configuration::Dev, Configuration::Mtls] {
        let service = configuration.start(&data.path());
        let channels = configuration.connect(service.address, CONNECTIONS).await;
        let mut callers = data.callers(&channels, IN_FLIGHT, EncryptCaller::new);
        let (mut rates, mut cpu) = (Pairs::default(), Vec::new());
        for _ in 0..REPETITIONS {
            let (load, seconds) = turn(&service, &mut callers).await;
            rates.push(load.calls_a_second(), bare.records_a_second(TURN));
            cpu.push(seconds);
        }
        println!("EncryptCredential ({}): {} of CPU time a call", configuration.name(), Quantity::Seconds(median(cpu)));
        let what = format!("EncryptCredential ({}): durable, 64 in flight", configuration.name());
        rows.push(rates.row(what, "redb alone, in batches of 64", Quantity::Rate, Goal::AtLeastTimes(0.5)));
        assert!(service.stop().success(), "the service stops");
    }
    rows
}

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;
/// The service's own table.
pub const CREDENTIALS: Table = Table::new("credentials");

/// redb as the service uses it, without the service.
struct Bare {
    db: Database,
    keys: Vec<Vec<u8>>,
    value: Vec<u8>,
    next: usize,
    _folder: tempfile::TempDir,
}

impl Bare {
    /// With records of the same keys and sizes as this store's, on the same file system.
    fn like(store: &Path) -> Self {
        let (mut keys, mut octets) = (Vec::new(), 0);
        {
            let db = Database::open(store).expect("the service has stopped");
            let table = db.begin_read().map(|txn| txn.open_table(CREDENTIALS).expect("it is there"));
            for entry in table.expect("a transaction").iter().expect("entries") {
                let (key, value) = entry.expect("an entry");
                keys.push(key.value().to_vec());
                octets += value.value().len();
            }
        }
        let value = vec![7; octets / keys.len()];
        let folder = crate::service::folder();
        let db = Database::builder().set_cache_size(8 << 20).create(folder.path().join("bare.redb")).expect("a file");
        let mut bare = Self { db, keys, value, next: 0, _folder: folder };
        for _ in 0..bare.keys.len().div_ceil(IN_FLIGHT) {
            bare.commit();
        }
        bare
    }

    fn records_a_second(&mut self, lasting: Duration) -> f64 {
        let (began, mut batches) = (Instant::now(), 0);
        while began.elapsed() < lasting {
            self.commit();
            batches += 1;
        }
        (batches * IN_FLIGHT) as f64 / began.elapsed().as_secs_f64()
    }

    fn commit(&mut self) {
        let mut txn = self.db.begin_write().expect("a transaction");
        // As the service's own: see src/store/embedded.rs.
        txn.set_two_phase_commit(true);
        {
            let mut table = txn.open_table(CREDENTIALS).expect("a table");
            for _ in 0..IN_FLIGHT {
                let key = &self.keys[self.next % self.keys.len()];
                table.insert(key.as_slice(), self.value.as_slice()).expect("an entry");
                self.next += 1;
            }
        }
        txn.commit().expect("a commit");
    }
}

/// Start to ready, and memory at rest.
pub async fn start() -> Vec<Row> {
    let data = Data::prepare(CUSTOMERS, Changes::AsManyAsAreRemembered).await;
    let mut rows = Vec::new();
    for configuration in [Configuration::Dev, Configuration::Mtls] {
        let (mut ready, mut idle) = (Pairs::default(), Pairs::default());
        for number in 0..STARTS {
            let service = configuration.start(&data.path());
            let echo = echo::start(configuration.wire(), 0);
            ready.push(service.ready_after.as_secs_f64(), echo.ready_after.as_secs_f64());
            // The first few do for memory.
            if number < 3 {
                tokio::time::sleep(SETTLING).await;
                idle.push(service.resident(), echo.resident());
            }
            assert!(service.stop().success(), "the service stops");
        }
        let name = configuration.name();
        let (start, memory) = (Quantity::Seconds(0.1), Quantity::Octets(25.0 * 1024.0 * 1024.0));
        let what = format!("Start to ready ({name}), 1,000 customers");
        rows.push(ready.row(what, configuration.wire().echo(), Quantity::Seconds, Goal::AtMost(start)));
        rows.push(idle.row(
            format!("Idle ({name}): resident"),
            configuration.wire().echo(),
            Quantity::Octets,
            Goal::AtMost(memory),
        ));
    }
    rows
}

/// What 100,000 customers take once each was used.
pub async fn memory() -> Vec<Row> {
    let configuration = Configuration::Dev;
    let few = Data::prepare(CUSTOMERS, Changes::One).await;
    let data = Data::prepare(MANY_CUSTOMERS, Changes::One).await;
    let mut grown = Vec::new();
    for _ in 0..3 {
        let service = configuration.start(&few.path());
        tokio::time::sleep(SETTLING).await;
        let idle = service.resident();
        assert!(service.stop().success(), "the service stops");

        let service = configuration.start(&data.path());
        tokio::time::sleep(SETTLING).await;
        let started = service.resident();
        let channels = configuration.connect(service.address, CONNECTIONS).await;
        let callers = data.callers(&channels, IN_FLIGHT, DecryptCaller::new);
        load::run(callers, Until::Calls(MANY_CUSTOMERS.div_ceil(IN_FLIGHT))).await;
        tokio::time::sleep(SETTLING).await;
        grown.push(service.resident() - idle);
        let [idle, started, used] = [idle, started, service.resident()].map(Quantity::Octets);
        println!("resident: {idle} with few customers, {started} after the start with 100,000, {used} after their use");
    }
    // A key of 36 octets and a version of each factor, and a root.
    let content = MANY_CUSTOMERS as f64 * (36.0 + 12.0 + 32.0);
    let what = "100,000 cached customers: resident, above idle".to_owned();
    vec![Row {
        what,
        measured: Quantity::Octets(median(grown.clone())),
        limit: Some((Quantity::Octets(content), "ids, versions and roots alone")),
        ratio: Some(median(grown) / content),
        goal: Goal::AtMost(Quantity::Octets(64.0 * 1024.0 * 1024.0)),
    }]
}

/// Measurements and their limits, turn by turn.
#[derive(Default)]
struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    fn push(&mut self, measured: f64, limit: f64) {
        self.0.push((measured, limit));
    }

    /// The ratio is the median of the turns' own: a busy machine disturbs both of a turn.
    fn row(self, what: String, limit: &'static str, unit: fn(f64) -> Quantity, goal: Goal) -> Row {
        let middle = |value: fn(&(f64, f64)) -> f64| median(self.0.iter().map(value).collect());
        Row {
            what,
            measured: unit(middle(|pair| pair.0)),
            limit: Some((unit(middle(|pair| pair.1)), limit)),
            ratio: Some(middle(|pair| pair.0 / pair.1)),
            goal,
        }
    }
}
