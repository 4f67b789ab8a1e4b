//! Every metric, declared once: name, labels, help. Label values are route patterns, statuses, node names and closed enums,
//! never raw paths, so that their number is bounded.

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::config::manifest::access::AuthMethod;

/// Upper bounds of latency buckets, in seconds: L1 hits in the first, deadlines in the last.
const LATENCY_SECONDS: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// All metrics of an instance.
pub struct Metrics {
    registry: Registry,
    /// Answered requests.
    pub requests: IntCounterVec,
    /// Time from the request's header to its response, of requests that were not answered from L1.
    pub request_seconds: HistogramVec,
    /// Lookups in a cache layer.
    pub lookups: IntCounterVec,
    /// Requests that were answered out of a cache.
    pub cache_hits: IntCounterVec,
    /// Commands that Redis did not answer, or not well.
    pub redis_failures: IntCounterVec,
    /// Sources that were run for the cache.
    pub fills: IntCounterVec,
    /// Requests that waited for another's fill.
    pub fill_waiters: IntCounterVec,
    /// Sources that were not run, since too many ran already.
    pub overload_refused: IntCounterVec,
    /// How many sources may run at once.
    pub overload_limit: IntGaugeVec,
    /// How many sources run.
    pub overload_running: IntGaugeVec,
    /// How many sources wait for a place.
    pub overload_waiting: IntGaugeVec,
    /// Requests that came more often than they may.
    pub rate_limited: IntCounterVec,
    /// Tokens of sessions that requests showed.
    pub session_tokens: IntCounterVec,
    /// Requests to upstreams' endpoints.
    pub upstream_tries: IntCounterVec,
    /// Requests to upstreams that were worth repeating.
    pub upstream_retries: IntCounterVec,
    /// 1 while every endpoint of an upstream has failed.
    pub upstream_out: IntGaugeVec,
    /// Strong requests that were to be sent to the primary's region.
    pub forwarded: IntCounterVec,
    /// Credentials that were looked at.
    pub auth_checks: IntCounterVec,
    /// Answers of upstreams that were compared with the query which is to take their place.
    pub shadow_compared: IntCounterVec,
    /// Answers that were compared with the primary.
    pub audit_checked: IntCounterVec,
    /// Those of them that were wrong.
    pub audit_wrong: IntCounterVec,
    /// Messages that were heard.
    pub bus_messages: IntCounterVec,
    /// Times at which messages were missed.
    pub bus_gaps: IntCounterVec,
    /// 1 while nothing is heard for too long.
    pub bus_silent: IntGauge,
    /// 1 while this instance publishes for its fleet.
    pub bus_leading: IntGauge,
    /// Calls that told the edge of purges.
    pub edge_calls: IntCounterVec,
    /// Paths that the edge was to forget.
    pub edge_paths: IntCounterVec,
    /// Entries of L1.
    pub cache_entries: IntGauge,
    /// Bytes of L1.
    pub cache_bytes: IntGauge,
    /// Snapshot files that were written, and those that could not be.
    pub snapshots: IntCounterVec,
    /// How far a replica is behind; absent where unknown.
    pub replication_lag_seconds: GaugeVec,
    /// Whether a node answers its probes.
    pub node_up: IntGaugeVec,
    /// 0 closed, 1 half-open, 2 open.
    pub node_breaker_state: IntGaugeVec,
    /// Reads that a node served, and those that failed on it.
    pub node_reads: IntCounterVec,
    /// 1 while no breaker of a kind of nodes is closed.
    pub nodes_all_open: IntGaugeVec,
    /// How far eventual reads have stepped back.
    pub degradation_step: IntGauge,
    /// Connections of a node's pool.
    pub pool_connections: IntGaugeVec,
    /// Whether changes of a watched table go unnoticed.
    pub watch_broken: IntGaugeVec,
    /// Entries that were pulled from a peer.
    pub peer_entries: IntCounterVec,
    /// Their pages' bytes.
    pub peer_bytes: IntCounterVec,
    /// Pages that were not had.
    pub peer_failures: IntCounterVec,
    /// Time since nothing was left to pull from a peer; absent until then.
    pub peer_pull_age_seconds: GaugeVec,
    /// Deliveries of payment providers.
    pub webhook_events: IntCounterVec,
    /// Events that were stored and are still to be applied.
    pub webhook_events_waiting: IntGauge,
    /// Times at which the key set of tokens was read.
    pub jwks_fetches: IntCounterVec,
    /// Log lines that got out.
    pub log_lines: IntCounterVec,
    /// Log lines that did not.
    pub log_lines_dropped: IntCounterVec,
    /// Bytes of log lines that wait.
    pub log_buffer_bytes: IntGaugeVec,
    /// 1 while RabbitMQ takes log lines.
    pub log_amqp_up: IntGauge,
    /// 1 while something that is configured is not in use.
    pub degraded: IntGauge,
}

impl Metrics {
    /// All metrics, registered.
    ///
    /// # Errors
    /// Where a declaration above is wrong, which a test would have shown.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(format!("mainstay_{name}"), help);
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let metric = IntCounterVec::new(opts(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntGaugeVec> {
            let metric = IntGaugeVec::new(opts(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let metric = IntGauge::with_opts(opts(name, help))?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let latency = HistogramOpts::new(
            "mainstay_http_request_duration_seconds",
            "Time to answer a request that was not an L1 hit, by route and outcome.",
        );
        let request_seconds = HistogramVec::new(latency.buckets(LATENCY_SECONDS.to_vec()), &["route", "outcome"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let lag = opts(
            "replication_lag_seconds",
            "How far the replica is behind the primary, measured; absent where unknown.",
        );
        let replication_lag_seconds = GaugeVec::new(lag, &["node"])?;
        registry.register(Box::new(replication_lag_seconds.clone()))?;
        let pull_age = opts("peer_pull_age_seconds", "Since when all that a peer had is here; absent before that.");
        let peer_pull_age_seconds = GaugeVec::new(pull_age, &["peer"])?;
        registry.register(Box::new(peer_pull_age_seconds.clone()))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            requests: counters("http_requests_total", "Answered requests by route and status.", &["route", "status"])?,
            request_seconds,
            lookups: counters("cache_lookups_total", "Cache lookups by layer and result.", &["layer", "result"])?,
            cache_hits: counters(
                "cache_hits_total",
                "Requests answered out of a cache, fresh or stale, by route.",
                &["route"],
            )?,
            redis_failures: counters("redis_failures_total", "Waves of commands that failed, by reason.", &["reason"])?,
            fills: counters("fills_total", "Sources run for the cache, by route and outcome.", &["route", "outcome"])?,
            fill_waiters: counters(
                "fill_waiters_total",
                "Requests that waited for another request's fill.",
                &["route"],
            )?,
            overload_refused: counters(
                "overload_refused_total",
                "Sources not run because too many ran, by kind and how urgent they were.",
                &["kind", "priority"],
            )?,
            overload_limit: gauges("overload_limit", "How many sources may run at once, by kind.", &["kind"])?,
            overload_running: gauges("overload_running", "How many sources run, by kind.", &["kind"])?,
            overload_waiting: gauges("overload_waiting", "How many sources wait for a place, by kind.", &["kind"])?,
            rate_limited: counters("rate_limited_total", "Requests refused with 429, by route.", &["route"])?,
            session_tokens: counters(
                "session_tokens_total",
                "Tokens shown by reads of sessions: valid, malformed, version, forged, foreign, expired, future.",
                &["result"],
            )?,
            upstream_tries: counters(
                "upstream_tries_total",
                "Requests to endpoints of upstreams, by outcome: ok, connect, broken, timeout, status, own.",
                &["upstream", "outcome"],
            )?,
            upstream_retries: counters(
                "upstream_retries_total",
                "Requests worth repeating elsewhere: sent, or over_budget.",
                &["upstream", "outcome"],
            )?,
            upstream_out: gauges("upstream_out", "1 while every endpoint of the upstream has failed.", &["upstream"])?,
            forwarded: counters(
                "forwarded_total",
                "Strong requests for the primary's region, by what became of them: answered, run_here, failed.",
                &["outcome"],
            )?,
            auth_checks: counters(
                "auth_checks_total",
                "Credentials looked at, by result: remembered, accepted, refused, stale, unavailable.",
                &["method", "result"],
            )?,
            shadow_compared: counters(
                "shadow_compared_total",
                "Upstream routes compared with their shadow: equal, different, failed.",
                &["route", "outcome"],
            )?,
            audit_checked: counters("audit_checked_total", "Cached answers compared with the primary.", &["route"])?,
            audit_wrong: counters("audit_wrong_total", "Cached answers that were wrong.", &["route"])?,
            bus_messages: counters(
                "bus_messages_total",
                "Messages of changes that were heard, by where from and whether they had tags.",
                &["source", "kind"],
            )?,
            bus_gaps: counters("bus_gaps_total", "Times at which messages were missed, by where from.", &["source"])?,
            bus_silent: gauge("bus_silent", "1 while nothing is heard for longer than cache.max_silence.")?,
            bus_leading: gauge("bus_leading", "1 while this instance publishes changes for its fleet.")?,
            edge_calls: counters(
                "edge_calls_total",
                "Calls that told the edge of purges: sent, retried, failed.",
                &["outcome"],
            )?,
            edge_paths: counters(
                "edge_paths_total",
                "Paths that the edge was to forget: sent, failed, suppressed (by edge.paths_per_month_max).",
                &["outcome"],
            )?,
            cache_entries: gauge("cache_entries", "Entries in L1, approximately.")?,
            cache_bytes: gauge("cache_bytes", "Bytes in L1 with bookkeeping, approximately.")?,
            snapshots: counters("snapshots_total", "Snapshot files written, by outcome.", &["outcome"])?,
            replication_lag_seconds,
            node_up: gauges("node_up", "Whether the node answers its probes.", &["node"])?,
            node_breaker_state: gauges("node_breaker_state", "Breaker: 0 closed, 1 half-open, 2 open.", &["node"])?,
            node_reads: counters("node_reads_total", "Reads by node and outcome.", &["node", "outcome"])?,
            nodes_all_open: gauges(
                "nodes_all_open",
                "1 while every node of the kind is let alone for its failures.",
                &["kind"],
            )?,
            degradation_step: gauge(
                "degradation_step",
                "Eventual reads: 0 preferred, 1 other_replica, 2 primary, 3 stale, 4 unavailable.",
            )?,
            pool_connections: gauges(
                "pool_connections",
                "Connections of the node's pool by state.",
                &["node", "state"],
            )?,
            watch_broken: gauges(
                "watch_broken",
                "1 while changes of a watched table go unnoticed; mainstay migrate mends it.",
                &["table"],
            )?,
            peer_entries: counters("peer_entries_total", "Entries that were pulled from the peer.", &["peer"])?,
            peer_bytes: counters("peer_bytes_total", "Bytes that were pulled from the peer.", &["peer"])?,
            peer_failures: counters(
                "peer_failures_total",
                "Pages of the peer's snapshot that were not had, by reason.",
                &["peer", "reason"],
            )?,
            peer_pull_age_seconds,
            webhook_events: counters(
                "webhook_events_total",
                "Deliveries of payment providers: moved, duplicate, refused, or why an event changed nothing, as unknown_order.",
                &["provider", "outcome"],
            )?,
            webhook_events_waiting: gauge(
                "webhook_events_waiting",
                "Events stored and not applied after webhooks.sweep_interval, up to 100.",
            )?,
            jwks_fetches: counters(
                "jwks_fetches_total",
                "Times the key set of tokens was read, by result.",
                &["result"],
            )?,
            log_lines: counters("log_lines_total", "Log lines that got out, by sink: stdout, amqp.", &["sink"])?,
            log_lines_dropped: counters(
                "log_lines_dropped_total",
                "Log lines that did not: buffer_full, write_failed, unroutable, shutdown; of the access log over_rate.",
                &["sink", "reason"],
            )?,
            log_buffer_bytes: gauges("log_buffer_bytes", "Bytes of log lines that wait, by sink.", &["sink"])?,
            log_amqp_up: gauge("log_amqp_up", "1 while RabbitMQ takes log lines.")?,
            degraded: gauge("degraded", "1 while something that is configured is not in use.")?,
            registry,
        })
    }

    /// All values in the text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            log::error!("the metrics could not be written: {error}");
        }
        out
    }
}

impl Metrics {
    /// The checks of one method that came to this.
    pub fn auth_check(&self, method: AuthMethod, result: AuthResult) -> IntCounter {
        self.auth_checks.with_label_values(&[method.as_str(), result.as_str()])
    }
}

/// What a look at a credential came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthResult {
    /// It was checked lately, and nobody was asked.
    Remembered,
    /// It is right.
    Accepted,
    /// It is not, or it has expired.
    Refused,
    /// Nobody could be asked, and an earlier check counted.
    Stale,
    /// Nobody could be asked.
    Unavailable,
}

impl AuthResult {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Remembered => "remembered",
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Stale => "stale",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What a lookup in a cache layer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupResult {
    /// A fresh entry.
    Hit,
    /// A stale one that is served while it is refreshed.
    Stale,
    /// One that is too old to serve before the source was asked.
    Expired,
    /// Nothing.
    Miss,
    /// Something that is damaged, or was not written by this fleet: as good as nothing.
    Corrupt,
    /// The layer did not answer in time, or was not asked at all.
    Unavailable,
}

impl LookupResult {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Expired => "expired",
            Self::Miss => "miss",
            Self::Corrupt => "corrupt",
            Self::Unavailable => "unavailable",
        }
    }
}
