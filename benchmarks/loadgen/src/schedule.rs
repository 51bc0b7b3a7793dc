//! The times at which requests arrive: a Poisson process, which is computed before the load begins. This file uses no
//! clock and no sockets.

use std::time::Duration;

/// A small generator of pseudo-random numbers (splitmix64): the same seed gives the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From 0 up to, but not including, 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The arrivals in a time of `length`, counted from its start. There are `rate` of them a second on average. They are
/// independent of each other, so the gaps between them have an exponential distribution.
pub fn poisson(rate: f64, length: Duration, seed: u64) -> Vec<Duration> {
    let mut random = Random(seed);
    let mut arrivals = Vec::with_capacity((rate * length.as_secs_f64() * 1.2) as usize);
    let mut seconds = 0.0;
    loop {
        // 1 - fraction is never 0, so the logarithm is finite.
        seconds -= (1.0 - random.fraction()).ln() / rate;
        if seconds >= length.as_secs_f64() {
            return arrivals;
        }
        arrivals.push(Duration::from_secs_f64(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn gaps(arrivals: &[Duration]) -> Vec<f64> {
        arrivals.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_arrivals_again_and_another_seed_others() {
        let first = poisson(1000.0, MINUTE, 1);
        assert_eq!(first, poisson(1000.0, MINUTE, 1));
        assert_ne!(first, poisson(1000.0, MINUTE, 2));
    }

    #[test]
    fn arrivals_are_in_order_and_within_the_length() {
        let arrivals = poisson(5000.0, Duration::from_secs(2), 3);
        assert!(arrivals.is_sorted());
        assert!(arrivals.iter().all(|&arrival| arrival < Duration::from_secs(2)));
        assert!(poisson(5000.0, Duration::ZERO, 3).is_empty());
    }

    #[test]
    fn the_rate_is_as_asked() {
        for (rate, seed) in [(10.0, 1), (1000.0, 2), (20_000.0, 3)] {
            let expected = rate * 60.0;
            let count = poisson(rate, MINUTE, seed).len() as f64;
            // The count has the standard deviation sqrt(expected).
            assert!((count - expected).abs() < 4.0 * f64::sqrt(expected), "{rate}: {count}");
        }
    }

    #[test]
    fn gaps_are_exponential() {
        let gaps = gaps(&poisson(1000.0, MINUTE, 4));
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        // An exponential distribution's standard deviation is its mean, and exp(-n) of it is above n means.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{mean} {variance}");
        for means in [0.5, 1.0, 2.0, 3.0] {
            let above = gaps.iter().filter(|&&gap| gap > means * mean).count() as f64 / count;
            assert!((above - f64::exp(-means)).abs() < 0.01, "{means}: {above}");
        }
    }

    #[test]
    fn gaps_do_not_depend_on_the_gap_before() {
        let gaps = gaps(&poisson(1000.0, MINUTE, 5));
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let products = gaps.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean));
        let covariance = products.sum::<f64>() / (gaps.len() - 1) as f64;
        assert!(covariance.abs() < 0.03 * mean * mean, "{covariance}");
    }
}
