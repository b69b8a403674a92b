//! Load without pauses: each caller has one call in flight. The same for the service and for its limits.

use std::future::Future;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

/// One who calls again and again.
pub trait Caller: Send + 'static {
    /// The next call. It panics where it is not answered as it should be.
    fn call(&mut self) -> impl Future<Output = ()> + Send;
}

/// What became of a load.
pub struct Load {
    pub calls: u64,
    pub seconds: f64,
    /// In nanoseconds.
    latencies: Histogram<u64>,
}

impl Load {
    /// The time in which so many of 100 calls were answered, in seconds.
    pub fn percentile(&self, of_100: f64) -> f64 {
        self.latencies.value_at_percentile(of_100) as f64 / 1e9
    }

    pub fn calls_a_second(&self) -> f64 {
        self.calls as f64 / self.seconds
    }
}

/// When callers stop.
#[derive(Clone, Copy)]
pub enum Until {
    /// Each has made so many calls.
    Calls(usize),
    /// This time has passed.
    Time(Duration),
}

/// Lets all callers call at the same time, and gives them back.
pub async fn run<C: Caller>(callers: Vec<C>, until: Until) -> (Load, Vec<C>) {
    let began = Instant::now();
    let mut running = JoinSet::new();
    let count = callers.len();
    for mut caller in callers {
        running.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3).expect("three digits");
            let goes_on = |made: u64| match until {
                Until::Calls(calls) => made < calls as u64,
                Until::Time(time) => began.elapsed() < time,
            };
            while goes_on(latencies.len()) {
                let called = Instant::now();
                caller.call().await;
                latencies += called.elapsed().as_nanos() as u64;
            }
            (latencies, caller)
        });
    }
    let mut latencies = Histogram::<u64>::new(3).expect("three digits");
    let mut callers = Vec::with_capacity(count);
    while let Some(ended) = running.join_next().await {
        let (own, caller) = ended.expect("no caller panics");
        latencies += own;
        callers.push(caller);
    }
    (Load { calls: latencies.len(), seconds: began.elapsed().as_secs_f64(), latencies }, callers)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
