//! Latency as a peak-sensitive moving average: a slow answer counts at once, a fast one little by little.

use std::time::{Duration, Instant};

/// How long a peak takes to fade to a third.
const DECAY_TIME: Duration = Duration::from_secs(10);

/// The average of one node.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    average: Option<(f64, Instant)>,
}

impl Latency {
    /// Takes a measurement in.
    pub fn record(&mut self, now: Instant, took: Duration) {
        let took = took.as_secs_f64();
        let average = match self.average {
            Some((average, at)) if took < average => {
                let weight = (-now.saturating_duration_since(at).as_secs_f64() / DECAY_TIME.as_secs_f64()).exp();
                average * weight + took * (1.0 - weight)
            }
            _ => took,
        };
        self.average = Some((average, now));
    }

    /// The average, once there is a measurement.
    pub fn get(&self) -> Option<Duration> {
        self.average.and_then(|(average, _)| Duration::try_from_secs_f64(average).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        assert_eq!(latency.get(), None);
        latency.record(now, Duration::from_millis(2));
        latency.record(now, Duration::from_millis(80));
        assert_eq!(latency.get(), Some(Duration::from_millis(80)));
        now += Duration::from_millis(100);
        latency.record(now, Duration::from_millis(2));
        assert!(latency.get() > Some(Duration::from_millis(75)));
        for _ in 0..600 {
            now += Duration::from_millis(100);
            latency.record(now, Duration::from_millis(2));
        }
        assert!(latency.get() < Some(Duration::from_millis(3)));
    }
}
