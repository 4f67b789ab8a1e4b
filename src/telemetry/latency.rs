//! Histograms of times that cost a cache hit next to nothing: a bucket is found among integers, and each thread counts in cells of
//! its own, as in [`striped`](super::striped).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::core::{Desc, Describer, Metric, MetricVec, MetricVecBuilder};
use prometheus::proto;
use prometheus::{Error, Opts};

use super::metrics::declare::Labelled;
use super::striped::Stripes;

/// Upper bounds of the buckets, in nanoseconds: hits in the first ones, deadlines in the last. With the times above all of them and the
/// sum, what a thread counts fills just two cache lines.
const BOUNDS_NS: [u64; 14] = [
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    2_000_000_000,
    10_000_000_000,
];

/// Histograms of times, told apart by labels.
pub type LatencyVec = MetricVec<Builder>;

/// Times as they are counted.
#[derive(Default)]
struct Counts {
    within: [AtomicU64; BOUNDS_NS.len()],
    above: AtomicU64,
    sum_ns: AtomicU64,
}

impl Counts {
    fn observe(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NS.iter().zip(&self.within).find(|(bound, _)| ns <= **bound);
        bucket.map_or(&self.above, |(_, bucket)| bucket).fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Moves what was counted to others, and says how many times that were.
    fn drain_into(&self, other: &Self) -> u64 {
        let mut moved = 0;
        for (from, to) in self.all().zip(other.all()) {
            let count = from.swap(0, Ordering::Relaxed);
            to.fetch_add(count, Ordering::Relaxed);
            moved += count;
        }
        other.sum_ns.fetch_add(self.sum_ns.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        moved
    }

    fn count(&self) -> u64 {
        self.all().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Whether there is nothing to move. A time is counted before it is summed up: its sum may be left when its count has gone.
    fn is_empty(&self) -> bool {
        self.count() == 0 && self.sum_ns.load(Ordering::Relaxed) == 0
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        self.within.iter().chain([&self.above])
    }
}

/// A histogram of times, as it is exported.
#[derive(Clone)]
pub struct Latency {
    counts: Arc<Counts>,
    labels: Arc<[proto::LabelPair]>,
}

impl Latency {
    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        self.counts.observe(time);
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.count()
    }
}

impl Metric for Latency {
    fn metric(&self) -> proto::Metric {
        let (mut buckets, mut through) = (Vec::with_capacity(BOUNDS_NS.len()), 0);
        for (bound_ns, within) in BOUNDS_NS.iter().zip(&self.counts.within) {
            through += within.load(Ordering::Relaxed);
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(Duration::from_nanos(*bound_ns).as_secs_f64());
            bucket.set_cumulative_count(through);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(through + self.counts.above.load(Ordering::Relaxed));
        histogram.set_sample_sum(Duration::from_nanos(self.counts.sum_ns.load(Ordering::Relaxed)).as_secs_f64());
        let mut metric = proto::Metric::from_label(self.labels.to_vec());
        metric.set_histogram(histogram);
        metric
    }
}

/// Makes the histogram of a set of labels.
#[derive(Clone)]
pub struct Builder;

impl MetricVecBuilder for Builder {
    type M = Latency;
    type P = Opts;

    fn build<V: AsRef<str>>(&self, opts: &Opts, values: &[V]) -> Result<Latency, Error> {
        let Desc { variable_labels, .. } = opts.describe()?;
        let pair = |(name, value): (&String, &V)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value.as_ref().to_owned());
            pair
        };
        let mut labels: Vec<proto::LabelPair> = variable_labels.iter().zip(values).map(pair).collect();
        labels.sort();
        Ok(Latency { counts: Arc::default(), labels: labels.into() })
    }
}

/// A histogram for the hit path, in front of the one that is exported, which is made once there is something in it: it has more
/// lines in `/metrics` than all else of a route.
pub struct StripedLatency {
    stripes: Stripes<Counts>,
    exported: OnceLock<Latency>,
    make: Box<dyn Fn() -> Latency + Send + Sync>,
}

impl StripedLatency {
    /// A histogram that is exported as that of these labels.
    pub fn new<const N: usize>(family: &Labelled<LatencyVec, N>, labels: [&str; N]) -> Self {
        let (family, labels) = (family.clone(), labels.map(str::to_owned));
        let make = move || family.with_label_values(&labels.each_ref().map(String::as_str));
        Self { stripes: Stripes::default(), exported: OnceLock::new(), make: Box::new(make) }
    }

    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        if let Some(own) = self.stripes.own() {
            own.observe(time);
        }
    }

    /// Moves what was counted into the exported histogram, and says how many times that were.
    pub fn export(&self) -> u64 {
        if self.stripes.all().all(Counts::is_empty) {
            return 0;
        }
        self.drain_into(&self.exported.get_or_init(&self.make).counts)
    }

    /// As [`StripedLatency::export`], for the last time. It makes no histogram that is not there: a reload has forgotten the series of
    /// routes that are gone, and whoever still held an old one would bring it back.
    pub fn end(&self) -> u64 {
        let nowhere = Counts::default();
        self.drain_into(self.exported.get().map_or(&nowhere, |exported| &exported.counts))
    }

    fn drain_into(&self, counts: &Counts) -> u64 {
        self.stripes.all().map(|stripe| stripe.drain_into(counts)).sum()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector;
    use prometheus::proto::MetricType;
    use prometheus::{Encoder, TextEncoder};

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn family() -> LatencyVec {
        let opts = Opts::new("times", "help").variable_labels(vec!["route".to_owned(), "outcome".to_owned()]);
        LatencyVec::create(MetricType::HISTOGRAM, Builder, opts).unwrap()
    }

    fn text(family: &LatencyVec) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(&family.collect(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it_and_in_all_above() {
        let family = family();
        let latency = family.with_label_values(&["/a", "hit"]);
        for ns in [0, 10_000, 10_001, 2_000_000_000, 11_000_000_000] {
            latency.observe(Duration::from_nanos(ns));
        }
        let text = text(&family);
        for (bound, count) in [("0.00001", 2), ("0.00005", 3), ("0.5", 3), ("2", 4), ("10", 4), ("+Inf", 5)] {
            let line = format!("times_bucket{{outcome=\"hit\",route=\"/a\",le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains("times_count{outcome=\"hit\",route=\"/a\"} 5\n"), "{text}");
        assert!(text.contains("times_sum{outcome=\"hit\",route=\"/a\"} 13.000020001\n"), "{text}");
    }

    #[test]
    fn threads_count_together_and_nothing_is_lost() {
        let metrics = Metrics::new().unwrap();
        let striped = StripedLatency::new(&metrics.request_seconds, ["/a", "hit"]);
        assert_eq!(striped.export(), 0);
        assert!(metrics.request_seconds.collect()[0].get_metric().is_empty(), "there is nothing to show");
        std::thread::scope(|scope| {
            for thread in 0..40 {
                let striped = &striped;
                scope.spawn(move || (0..1000).for_each(|n| striped.observe(Duration::from_micros(thread * n))));
            }
        });
        assert_eq!(striped.export(), 40_000);
        let exported = metrics.request_seconds.with_label_values(&["/a", "hit"]);
        assert_eq!((striped.export(), exported.count()), (0, 40_000));
        striped.observe(Duration::MAX);
        assert_eq!((striped.end(), exported.count()), (1, 40_001));
    }

    #[test]
    fn a_sum_that_comes_after_its_count_has_gone_is_exported_as_well() {
        let metrics = Metrics::new().unwrap();
        let striped = StripedLatency::new(&metrics.request_seconds, ["/a", "hit"]);
        let own = striped.stripes.own().unwrap();
        own.above.fetch_add(1, Ordering::Relaxed);
        assert_eq!(striped.export(), 1);
        own.sum_ns.fetch_add(7, Ordering::Relaxed);
        assert_eq!(striped.export(), 0);
        let exported = metrics.request_seconds.with_label_values(&["/a", "hit"]);
        assert_eq!((exported.count(), exported.counts.sum_ns.load(Ordering::Relaxed)), (1, 7));
    }

    #[test]
    fn what_ends_makes_no_series() {
        let metrics = Metrics::new().unwrap();
        let striped = StripedLatency::new(&metrics.request_seconds, ["/a", "hit"]);
        striped.observe(Duration::from_secs(1));
        assert_eq!(striped.end(), 1);
        assert!(metrics.request_seconds.collect()[0].get_metric().is_empty());
    }
}
