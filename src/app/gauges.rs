//! What is looked at when somebody asks for the metrics: what others count by themselves, and how things stand.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prometheus::{GaugeVec, IntCounter};

use super::Core;
use crate::config::manifest::upstream::PRIMARY_ORIGIN;
use crate::database::pools::PoolUsage;
use crate::database::status::{DatabaseStatus, NodeStatus};
use crate::http::admission::KIND_OF_UPSTREAM;
use crate::http::front::NO_ROUTE;
use crate::http::pipeline::Pipeline;
use crate::http::surface::Surface;
use crate::mode::Mode;
use crate::nodes::node::{Node, Totals};
use crate::telemetry::logs;
use crate::telemetry::metrics::declare::Labelled;
use crate::telemetry::metrics::{Metrics, Outcome};

impl Core {
    /// All metrics as they are now, in the text format of Prometheus.
    pub(super) fn render_metrics(&self) -> Vec<u8> {
        let Pipeline { cache, database, metrics, upstreams, .. } = &*self.pipeline;
        self.surface.load().endpoints().for_each(|endpoint| endpoint.counters.export());
        if let Some(peers) = &self.peers {
            peers.export();
        }
        self.pipeline.auth.export();
        logs::export(metrics);
        self.pipeline.stale_served.export();
        self.pipeline.admission.export(metrics);
        let now = Instant::now();
        metrics.bus_silent.set(i64::from(cache.fences.silence(now).is_some()));
        set_or_remove(&metrics.bus_silence_seconds, &[], cache.fences.heard_ago(now));
        metrics.bus_leading.set(i64::from(self.ear.is_leading.load(Ordering::Relaxed)));
        let usage = cache.memory.usage();
        metrics.cache_entries.set(signed(usage.entries));
        metrics.cache_bytes.set(signed(usage.bytes));
        raise_to(&metrics.cache_evictions, usage.evicted);
        if let Some(database) = database {
            set_nodes(metrics, &database.status());
        }
        upstreams.nodes().iter().for_each(|node| set_endpoint(metrics, node, now));
        metrics.render()
    }

    /// What stays as it is at the start.
    pub(super) fn set_constants(&self) {
        let Pipeline { metrics, settings, .. } = &*self.pipeline;
        metrics.build_info.with_label_values(&[self.parts.version()]).set(1);
        for mode in [Mode::Regional, Mode::Failover] {
            metrics.mode.with_label_values(&[mode.as_str()]).set(i64::from(mode == settings.mode));
        }
        metrics.cache_bytes_max.set(signed(settings.cache.memory_bytes_max));
        // Those of routes are there once there is something in them. Who looks for the metric finds it from the start.
        let _empty = metrics.request_seconds.with_label_values(&[NO_ROUTE, Outcome::Own.as_str()]);
    }

    /// Forgets the series of routes, upstreams and their endpoints that the manifest has no more, or they would pile up from one
    /// reload to the next. `former` is what the manifest was until now.
    pub(super) fn forget_series(&self, former: &Surface) {
        self.look_at_statistics();
        let Pipeline { admission, metrics, upstreams, .. } = &*self.pipeline;
        let surface = self.surface.load();
        let paths: HashSet<&str> = surface.endpoints().map(|endpoint| endpoint.route.path.as_str()).collect();
        let former = former.endpoints().map(|endpoint| endpoint.route.path.as_str());
        metrics.retain_routes(former, |path| path == NO_ROUTE || paths.contains(path));
        admission.retain(|name| upstreams.has(name));
        metrics.retain("kind", |kind| kind.strip_prefix(KIND_OF_UPSTREAM).is_none_or(|name| upstreams.has(name)));
        // The primary's origin is none of the manifest's.
        metrics.retain("upstream", |name| name == PRIMARY_ORIGIN || upstreams.has(name));
        let endpoints = upstreams.nodes();
        // Of an endpoint the name has the upstream's before a slash; databases and Redis have none, and stay.
        metrics.retain("node", |name| !name.contains('/') || endpoints.iter().any(|node| *node.identity().id == *name));
    }
}

fn set_endpoint(metrics: &Metrics, node: &Node, now: Instant) {
    let name: &str = &node.identity().id;
    metrics.node_breaker_state.with_label_values(&[name]).set(node.breaker_state(now).as_number());
    set_or_remove(&metrics.node_latency_seconds, &[name], node.latency());
    let Totals { served, failed } = node.totals();
    for (outcome, count) in [("served", served), ("failed", failed)] {
        raise_to(&metrics.node_reads.with_label_values(&[name, outcome]), count);
    }
}

fn set_nodes(metrics: &Metrics, status: &DatabaseStatus) {
    for node in &status.nodes {
        set_node(metrics, node);
    }
    for replica in status.replicas() {
        let name: &str = &replica.name;
        match status.primary().and_then(|primary| bytes_behind(primary, replica)) {
            Some(bytes) => metrics.replication_lag_bytes.with_label_values(&[name]).set(signed(bytes)),
            None => metrics.replication_lag_bytes.remove_label_values(&[name]),
        }
    }
}

/// Positions of one history can be compared. The two were sampled a moment apart.
fn bytes_behind(primary: &NodeStatus, replica: &NodeStatus) -> Option<u64> {
    let is_comparable = primary.up && replica.up && primary.timeline.is_some() && primary.timeline == replica.timeline;
    let (flushed, replayed) = primary.lsn.zip(replica.lsn).filter(|_| is_comparable)?;
    Some(flushed.0.saturating_sub(replayed.0))
}

fn set_node(metrics: &Metrics, node: &NodeStatus) {
    let name: &str = &node.name;
    metrics.node_up.with_label_values(&[name]).set(i64::from(node.up));
    metrics.node_breaker_state.with_label_values(&[name]).set(node.breaker.as_number());
    set_or_remove(&metrics.node_latency_seconds, &[name], node.latency);
    // An unknown lag is no lag of zero.
    set_or_remove(&metrics.replication_lag_seconds, &[name], node.lag);
    let reads = [("served", node.counts.served), ("failed", node.counts.failed), ("conflict", node.counts.conflicts)];
    for (outcome, count) in reads {
        raise_to(&metrics.node_reads.with_label_values(&[name, outcome]), count);
    }
    set_pool(metrics, name, "read", &node.pool);
    if let Some(writers) = &node.writers {
        set_pool(metrics, name, "write", writers);
    }
}

fn set_pool(metrics: &Metrics, node: &str, pool: &str, usage: &PoolUsage) {
    let PoolUsage { open, idle, waiting, size_max } = *usage;
    for (state, count) in [("in_use", open.saturating_sub(idle)), ("idle", idle)] {
        metrics.pool_connections.with_label_values(&[node, pool, state]).set(signed(count));
    }
    metrics.pool_connections_max.with_label_values(&[node, pool]).set(signed(size_max));
    metrics.pool_waiting.with_label_values(&[node, pool]).set(signed(waiting));
}

/// What is not known has no value: the series goes away until there is one again.
fn set_or_remove<const N: usize>(gauges: &Labelled<GaugeVec, N>, labels: &[&str; N], time: Option<Duration>) {
    match time {
        Some(time) => gauges.with_label_values(labels).set(time.as_secs_f64()),
        None => gauges.remove_label_values(labels),
    }
}

/// The count is kept elsewhere, and only goes up.
fn raise_to(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

fn signed(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
