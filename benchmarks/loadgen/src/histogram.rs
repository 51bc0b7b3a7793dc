//! A histogram of latencies. To record one allocates nothing, and percentiles are right to 1 %.

/// Each value below `2 * HALF` has a bucket of its own. Above, each power of two is divided into `HALF` buckets.
const HALF: usize = 64;
const BUCKETS: usize = HALF * 59;

/// Counts of nanosecond values.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest recorded value that `percent` per cent of the values do not exceed; 0 without values.
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = ((percent / 100.0 * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        0
    }
}

fn bucket(nanos: u64) -> usize {
    let bits = (nanos | (2 * HALF as u64 - 1)).ilog2();
    let shift = (bits - HALF.ilog2()) as usize;
    shift * HALF + (nanos >> shift) as usize
}

fn middle(bucket: usize) -> u64 {
    let shift = (bucket / HALF).saturating_sub(1);
    (((bucket - shift * HALF) as u64) << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_continuous_and_precise() {
        let mut last = 0;
        for nanos in 0..1_000_000 {
            let index = bucket(nanos);
            assert!(index == last || index == last + 1, "{nanos}");
            assert!(middle(index).abs_diff(nanos) * 100 <= nanos, "{nanos}");
            last = index;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn nothing_recorded() {
        let empty = Histogram::default();
        assert_eq!((empty.total(), empty.max(), empty.percentile(50.0)), (0, 0, 0));
    }

    #[test]
    fn one_value_is_every_percentile() {
        let mut one = Histogram::default();
        one.record(77);
        for percent in [0.0, 50.0, 99.0, 100.0] {
            assert_eq!(one.percentile(percent), 77);
        }
    }

    #[test]
    fn percentiles_of_a_ramp() {
        let mut ramp = Histogram::default();
        for micros in 1..=1000 {
            ramp.record(micros * 1000);
        }
        assert_eq!((ramp.total(), ramp.max()), (1000, 1_000_000));
        for (percent, expected) in [(50.0, 500_000u64), (99.0, 990_000), (100.0, 1_000_000)] {
            assert!(ramp.percentile(percent).abs_diff(expected) * 100 <= expected, "{percent}");
        }
    }

    #[test]
    fn percentile_never_exceeds_the_maximum() {
        let mut two = Histogram::default();
        two.record(1);
        two.record(1_000_000_000);
        assert_eq!(two.percentile(50.0), 1);
        assert!(two.percentile(99.0) <= two.max());
    }
}
