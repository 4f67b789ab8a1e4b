//! What was counted of each route, read back from the metrics: whoever rolls them up adds nothing to the way of a request.

use std::collections::BTreeMap;

use prometheus::IntCounterVec;
use prometheus::proto::{LabelPair, MetricFamily};

use super::metrics::Metrics;
use super::metrics::declare::Labelled;

/// What was counted of a route since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTotals {
    /// Answered requests.
    pub requests: u64,
    /// Those of them that were answered with 500 or above.
    pub errors: u64,
    /// Those of them that were answered out of a cache.
    pub hits: u64,
}

impl RouteTotals {
    /// What came since then.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            hits: self.hits.saturating_sub(before.hits),
        }
    }
}

impl Metrics {
    /// What was counted, by the patterns of routes. That of hits in L1 has to be [exported](crate::telemetry::striped) before.
    pub fn by_route(&self) -> BTreeMap<String, RouteTotals> {
        let mut routes: BTreeMap<String, RouteTotals> = BTreeMap::new();
        each(&self.requests, ["route", "status"], |[route, status], count| {
            let totals = routes.entry(route.to_owned()).or_default();
            totals.requests += count;
            if status.starts_with('5') {
                totals.errors += count;
            }
        });
        each(&self.cache_hits, ["route"], |[route], count| routes.entry(route.to_owned()).or_default().hits += count);
        routes
    }
}

/// The labels of each series of these names, and its count.
pub(super) fn each<const N: usize>(
    counters: &Labelled<IntCounterVec, N>,
    names: [&str; N],
    mut visit: impl FnMut([&str; N], u64),
) {
    for series in counters.collect().iter().flat_map(MetricFamily::get_metric) {
        let label = |name| series.get_label().iter().find(|label| label.name() == name);
        let labels = names.map(|name| label(name).map(LabelPair::value).unwrap_or_default());
        visit(labels, counters.with_label_values(&labels).get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_a_route_are_added_up() {
        let metrics = Metrics::new().unwrap();
        for (route, status, count) in [("/a", "200", 5), ("/a", "503", 2), ("/a", "404", 1), ("/b", "200", 7)] {
            metrics.requests.with_label_values(&[route, status]).inc_by(count);
        }
        metrics.cache_hits.with_label_values(&["/a"]).inc_by(4);
        let expected = [
            ("/a".to_owned(), RouteTotals { requests: 8, errors: 2, hits: 4 }),
            ("/b".to_owned(), RouteTotals { requests: 7, errors: 0, hits: 0 }),
        ];
        assert_eq!(metrics.by_route(), BTreeMap::from(expected));
    }
}
