//! What was counted of all requests together, read back from the metrics: whoever shows figures to people adds nothing to the
//! way of a request.

use std::collections::BTreeMap;

use prometheus::IntGaugeVec;
use prometheus::proto::{Metric, MetricFamily};

use super::by_route::each;
use super::latency::LatencyVec;
use super::metrics::declare::Labelled;
use super::metrics::{LookupResult, Metrics};

/// What was counted since the process began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Answered requests of routes.
    pub requests: u64,
    /// Those of them that were answered with 500 or above.
    pub errors: u64,
    /// Those of them that were answered out of a cache, fresh or stale.
    pub from_cache: u64,
    /// Lookups in L1, and those of them that were served from.
    pub l1: Lookups,
    /// The same of L2.
    pub l2: Lookups,
    /// Answers that were served stale.
    pub stale: u64,
    /// Sources that were not run since too many ran.
    pub shed: u64,
    /// How long requests took: upper bounds in seconds, and how many took no longer.
    pub latency: Vec<(f64, u64)>,
    /// Answers that were compared with the primary.
    pub audit_checked: u64,
    /// Those of them that were wrong.
    pub audit_wrong: u64,
}

/// Lookups in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// All of them.
    pub all: u64,
    /// Those that were served from.
    pub served: u64,
}

impl Metrics {
    /// What was counted. That of hits in L1 has to be [exported](crate::telemetry::striped) before.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        each(&self.requests, ["route", "status"], |[route, status], count| {
            // What matched no route, and the health pages, are nobody's.
            let count = if route.starts_with('/') { count } else { 0 };
            totals.requests += count;
            totals.errors += if status.starts_with('5') { count } else { 0 };
        });
        each(&self.lookups, ["layer", "result"], |[layer, result], count| {
            let is_stale = result == LookupResult::Stale.as_str();
            let lookups = if layer == "L1" { &mut totals.l1 } else { &mut totals.l2 };
            lookups.all += count;
            lookups.served += if is_stale || result == LookupResult::Hit.as_str() { count } else { 0 };
        });
        each(&self.cache_hits, ["route"], |_, count| totals.from_cache += count);
        each(&self.stale_served, ["reason"], |_, count| totals.stale += count);
        each(&self.overload_refused, ["kind", "priority"], |_, count| totals.shed += count);
        each(&self.audit_checked, ["route"], |_, count| totals.audit_checked += count);
        each(&self.audit_wrong, ["route"], |_, count| totals.audit_wrong += count);
        totals.latency = latency(&self.request_seconds);
        totals
    }

    /// The wrong answers that nobody has acknowledged, by route.
    pub fn audit_unacknowledged(&self) -> BTreeMap<String, u64> {
        let families = self.audit_unacknowledged.collect();
        let series = families.iter().flat_map(MetricFamily::get_metric);
        let counted = series.filter_map(|metric| {
            let route = label(metric, "route").to_owned();
            let wrong = u64::try_from(self.audit_unacknowledged.with_label_values(&[route.as_str()]).get()).ok()?;
            (wrong > 0).then_some((route, wrong))
        });
        counted.collect()
    }

    /// The tables whose changes go unnoticed.
    pub fn tables_unwatched(&self) -> Vec<String> {
        set(&self.watch_broken, "table")
    }

    /// The upstreams whose endpoints have all failed.
    pub fn upstreams_out(&self) -> Vec<String> {
        set(&self.upstream_out, "upstream")
    }
}

/// The values of a label for which the gauge is 1.
fn set(gauges: &Labelled<IntGaugeVec, 1>, name: &str) -> Vec<String> {
    let families = gauges.collect();
    let series = families.iter().flat_map(MetricFamily::get_metric);
    let mut found: Vec<String> = series
        .filter(|metric| metric.get_gauge().get_value() > 0.5)
        .map(|metric| label(metric, name).to_owned())
        .collect();
    found.sort_unstable();
    found
}

/// The buckets of all series of routes together. What matched no route is nobody's.
fn latency(histograms: &Labelled<LatencyVec, 2>) -> Vec<(f64, u64)> {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    let mut measured = 0;
    let families = histograms.collect();
    let series = families.iter().flat_map(MetricFamily::get_metric);
    for metric in series.filter(|metric| label(metric, "route").starts_with('/')) {
        let histogram = metric.get_histogram();
        measured += histogram.get_sample_count();
        for (index, bucket) in histogram.get_bucket().iter().enumerate() {
            match buckets.get_mut(index) {
                Some((_, count)) => *count += bucket.cumulative_count(),
                None => buckets.push((bucket.upper_bound(), bucket.cumulative_count())),
            }
        }
    }
    buckets.push((f64::INFINITY, measured));
    buckets
}

fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_counted_by_route_is_added_up() {
        let metrics = Metrics::new().unwrap();
        for (status, count) in [("200", 6), ("503", 3), ("404", 1)] {
            metrics.requests.with_label_values(&["/a", status]).inc_by(count);
        }
        for (layer, result, count) in
            [("L1", "hit", 5), ("L1", "stale", 1), ("L1", "miss", 4), ("L2", "hit", 1), ("L2", "miss", 3)]
        {
            metrics.lookups.with_label_values(&[layer, result]).inc_by(count);
        }
        metrics.requests.with_label_values(&["none", "503"]).inc_by(100);
        metrics.cache_hits.with_label_values(&["/a"]).inc_by(7);
        metrics.overload_refused.with_label_values(&["fill", "request"]).inc_by(2);
        metrics.stale_served.with_label_values(&["expired"]).inc();
        metrics.request_seconds.with_label_values(&["none", "own"]).observe(Duration::from_millis(1));
        metrics.request_seconds.with_label_values(&["/a", "miss"]).observe(Duration::from_millis(3));
        metrics.request_seconds.with_label_values(&["/b", "error"]).observe(Duration::from_secs(60));
        let totals = metrics.totals();
        assert_eq!((totals.requests, totals.errors, totals.from_cache), (10, 3, 7));
        assert_eq!((totals.l1, totals.l2), (Lookups { all: 10, served: 6 }, Lookups { all: 4, served: 1 }));
        assert_eq!((totals.stale, totals.shed), (1, 2));
        let within = |bound: f64| totals.latency.iter().find(|(upper, _)| *upper == bound).map(|(_, count)| *count);
        assert_eq!(
            [within(0.0025), within(0.005), within(10.0), within(f64::INFINITY)],
            [Some(0), Some(1), Some(1), Some(2)]
        );
    }

    #[test]
    fn what_is_broken_is_named() {
        let metrics = Metrics::new().unwrap();
        for (table, broken) in [("b", 1), ("c", 0), ("a", 1)] {
            metrics.watch_broken.with_label_values(&[table]).set(broken);
        }
        assert_eq!(metrics.tables_unwatched(), ["a", "b"]);
        assert!(metrics.upstreams_out().is_empty());
    }
}
