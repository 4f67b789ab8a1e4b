//! What is counted of a route on the way of a hit, and what `/metrics` says of it before anything was.

use prometheus::IntCounter;

use crate::config::manifest::{Route, Source};
use crate::config::settings::Settings;
use crate::telemetry::latency::StripedLatency;
use crate::telemetry::metrics::{LookupResult, Metrics, Outcome};
use crate::telemetry::striped::Striped;

/// Statuses of failures that a route answers with. They are counted from zero on: Prometheus sees no increase in a counter that
/// appears with its first count, so that a burst between two scrapes would ring nowhere.
const FAILURES: [&str; 2] = ["500", "503"];
/// Those that a write is answered with as well where it is sent on to the primary's region, by what stands before the origin there.
const FAILURES_OF_GATEWAYS: [&str; 2] = ["502", "504"];
/// That which an upstream's route answers with besides, where requests go in circles.
const FAILURE_OF_UPSTREAMS: &str = "508";

/// Counters of a route, resolved beforehand.
pub struct Counters {
    /// Answers with 200.
    pub ok: Striped,
    /// Those of answers out of a cache, where the route has any.
    pub cached: Option<Box<Cached>>,
}

/// Counters of a route's answers out of a cache.
pub struct Cached {
    /// Answers with 304.
    pub not_modified: Striped,
    /// Fresh answers from L1, and how long they took.
    pub hit: StripedLatency,
    /// Stale answers from L1, and how long they took.
    pub stale: StripedLatency,
    hit_lookups: IntCounter,
    stale_lookups: IntCounter,
    /// Answers out of L2, and those of the two above that were exported.
    answered: IntCounter,
}

impl Counters {
    /// Those of a route, with the series that rules and alerts read.
    pub fn new(metrics: &Metrics, route: &Route, settings: &Settings) -> Self {
        let path = route.path.as_str();
        // It may have gone with an earlier manifest.
        metrics.expect_route(path);
        for status in failures(route, settings) {
            let _counted_elsewhere = metrics.requests.with_label_values(&[path, status]);
        }
        Self {
            ok: Striped::new(metrics.requests.with_label_values(&[path, "200"])),
            cached: route.is_cacheable().then(|| Box::new(Cached::new(metrics, path))),
        }
    }

    /// Counts an answer out of L2, or one that stands in for a failure.
    pub fn answered(&self) {
        if let Some(cached) = &self.cached {
            cached.answered.inc();
        }
    }

    /// Moves what was counted into the exported metrics.
    pub fn export(&self) {
        self.ok.export();
        if let Some(cached) = &self.cached {
            cached.export();
        }
    }
}

fn failures(route: &Route, settings: &Settings) -> impl Iterator<Item = &'static str> {
    let is_upstreams = matches!(route.source, Source::Upstream { .. });
    let is_sent_on = !settings.forward.primary_origin.is_empty() && route.methods.iter().any(|method| method != "GET");
    let of_gateways = FAILURES_OF_GATEWAYS.into_iter().filter(move |_| is_upstreams || is_sent_on);
    FAILURES.into_iter().chain(of_gateways).chain(is_upstreams.then_some(FAILURE_OF_UPSTREAMS))
}

impl Cached {
    fn new(metrics: &Metrics, path: &str) -> Self {
        let lookups = |result: LookupResult| metrics.lookups.with_label_values(&["L1", result.as_str()]);
        // There from the start: who looks for them finds a zero, and the first count of each is an increase.
        let _counted_elsewhere = metrics.fills.with_label_values(&[path, "ok"]);
        let _counted_elsewhere = [LookupResult::Expired, LookupResult::Miss].map(lookups);
        // No rule reads these, and each has as many lines as buckets: they are there once there is something in them.
        let times = |outcome: Outcome| StripedLatency::new(&metrics.request_seconds, [path, outcome.as_str()]);
        Self {
            not_modified: Striped::new(metrics.requests.with_label_values(&[path, "304"])),
            hit: times(Outcome::Hit),
            stale: times(Outcome::Stale),
            hit_lookups: lookups(LookupResult::Hit),
            stale_lookups: lookups(LookupResult::Stale),
            answered: metrics.cache_hits.with_label_values(&[path]),
        }
    }

    fn export(&self) {
        self.not_modified.export();
        self.count(self.hit.export(), self.stale.export());
    }

    /// Counts what the two have in common.
    fn count(&self, hits: u64, stale: u64) {
        self.hit_lookups.inc_by(hits);
        self.stale_lookups.inc_by(stale);
        self.answered.inc_by(hits + stale);
    }
}

impl Drop for Cached {
    /// What was counted since the last look is not lost when a reload drops its route.
    fn drop(&mut self) {
        self.count(self.hit.end(), self.stale.end());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_counted_since_the_last_look_is_not_lost_with_its_route() {
        let metrics = Metrics::new().unwrap();
        let cached = Cached::new(&metrics, "/a");
        cached.hit.observe(Duration::ZERO);
        cached.export();
        cached.hit.observe(Duration::ZERO);
        cached.stale.observe(Duration::ZERO);
        drop(cached);
        let lookups = |result| metrics.lookups.with_label_values(&["L1", result]).get();
        assert_eq!((lookups("hit"), lookups("stale")), (2, 1));
        assert_eq!(metrics.cache_hits.with_label_values(&["/a"]).get(), 3);
    }
}
