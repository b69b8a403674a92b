//! Times that differ a little, so that what began together does not keep step: replicas, connections, waiters, retries.

use std::time::Duration;

/// `time`, give or take this share of it at random.
pub fn jittered(time: Duration, share: f64) -> Duration {
    // Without a generator there is no jitter, and nothing else to fear.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    time.mul_f64(1.0 - share + 2.0 * share * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_differ_and_stay_within_their_share() {
        let time = Duration::from_secs(1_000);
        let mut times: Vec<_> = (0..100).map(|_| jittered(time, 0.2)).collect();
        assert!(times.iter().all(|time| (799..=1_201).contains(&time.as_secs())), "{times:?}");
        times.dedup();
        assert!(times.len() > 1);
    }
}
