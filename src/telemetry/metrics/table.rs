//! Every metric, declared once. To add one, add its lines here: that makes the field of [`Metrics`], registers it,
//! and puts it into `docs/metrics.md`, which a test writes (`tests/it/telemetry/metrics.rs`).

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::declare::{self, table};
use super::labels::{
    KIND, LAYER, Label, METHOD, NODE, OUTCOME_OF_SOURCE, PEER, POOL, PRIORITY, PROVIDER, ROUTE, STATUS, TABLE,
    UPSTREAM, VERSION, listed,
};
use super::values::{AuthResult, LogDropped, LookupResult, Outcome, StaleReason, TraceDropped};
use crate::telemetry::latency::LatencyVec;

table! {
    "Requests" {
        /// Requests, by the status of their answer; 499 stands for none, since the client went away before it.
        requests: IntCounterVec = "mainstay_http_requests_total", "requests", [ROUTE, STATUS];
        /// Time from the header of a request to that of its response, or until its client went away.
        request_seconds: LatencyVec = "mainstay_http_request_duration_seconds", "seconds",
            [ROUTE, listed("outcome", Outcome::NAMES)];
        /// Requests that may write, by what became of them; of `outcome_unknown` nobody knows whether it was committed.
        writes: IntCounterVec = "mainstay_writes_total", "requests", [ROUTE, OUTCOME_OF_SOURCE];
        /// Requests that came more often than they may, refused with 429.
        rate_limited: IntCounterVec = "mainstay_rate_limited_total", "requests", [ROUTE];
        /// Credentials that were looked at.
        auth_checks: IntCounterVec = "mainstay_auth_checks_total", "credentials", [METHOD, listed("result", AuthResult::NAMES)];
        /// Times at which the key set of tokens was read.
        jwks_fetches: IntCounterVec = "mainstay_jwks_fetches_total", "reads",
            [listed("result", &["ok", "unreachable", "timeout", "status", "invalid"])];
        /// Tokens that reads of sessions showed.
        session_tokens: IntCounterVec = "mainstay_session_tokens_total", "tokens",
            [listed("result", &["valid", "malformed", "version", "forged", "foreign", "expired", "future"])];
        /// Strong requests for the primary's region, by what became of them.
        forwarded: IntCounterVec = "mainstay_forwarded_total", "requests",
            [listed("outcome", &["answered", "run_here", "failed"])];
    }
    "The cache" {
        /// Lookups in a cache layer.
        lookups: IntCounterVec = "mainstay_cache_lookups_total", "lookups", [LAYER, listed("result", LookupResult::NAMES)];
        /// Requests that were answered out of a cache, fresh or stale.
        cache_hits: IntCounterVec = "mainstay_cache_hits_total", "requests", [ROUTE];
        /// Answers out of a cache that were not fresh, by why they were served all the same.
        stale_served: IntCounterVec = "mainstay_stale_served_total", "requests", [listed("reason", StaleReason::NAMES)];
        /// Entries that left L1 because it was full.
        cache_evictions: IntCounter = "mainstay_cache_evictions_total", "entries", [];
        /// Entries of L1, approximately.
        cache_entries: IntGauge = "mainstay_cache_entries", "entries", [];
        /// Bytes of L1 with bookkeeping, approximately.
        cache_bytes: IntGauge = "mainstay_cache_bytes", "bytes", [];
        /// Bytes that L1 may have: cache.memory_bytes_max.
        cache_bytes_max: IntGauge = "mainstay_cache_max_bytes", "bytes", [];
        /// Waves of commands that Redis did not answer, or not well.
        redis_failures: IntCounterVec = "mainstay_redis_failures_total", "waves", [listed("reason", &[
            "timeout", "connection", "full", "read_only", "loading", "cluster_down", "unauthorized", "refused",
        ])];
        /// Snapshot files that were written, and those that could not be.
        snapshots: IntCounterVec = "mainstay_snapshots_total", "files", [listed("outcome", &["ok", "failed"])];
    }
    "Sources" {
        /// Sources that were run for the cache.
        fills: IntCounterVec = "mainstay_fills_total", "fills", [ROUTE, OUTCOME_OF_SOURCE];
        /// Time that a source took for the cache, without the wait for its place.
        fill_seconds: LatencyVec = "mainstay_fill_duration_seconds", "seconds", [ROUTE];
        /// Requests that waited for another request's fill.
        fill_waiters: IntCounterVec = "mainstay_fill_waiters_total", "requests", [ROUTE];
        /// Sources that were not run, since too many ran already.
        overload_refused: IntCounterVec = "mainstay_overload_refused_total", "sources", [KIND, PRIORITY];
        /// How many sources may run at once.
        overload_limit: IntGaugeVec = "mainstay_overload_limit", "sources", [KIND];
        /// How many sources run.
        overload_running: IntGaugeVec = "mainstay_overload_running", "sources", [KIND];
        /// How many sources wait for a place.
        overload_waiting: IntGaugeVec = "mainstay_overload_waiting", "sources", [KIND];
        /// Requests to endpoints of upstreams.
        upstream_tries: IntCounterVec = "mainstay_upstream_tries_total", "requests",
            [UPSTREAM, listed("outcome", &["ok", "connect", "broken", "timeout", "status", "own"])];
        /// Requests to upstreams that were worth repeating elsewhere.
        upstream_retries: IntCounterVec = "mainstay_upstream_retries_total", "requests",
            [UPSTREAM, listed("outcome", &["sent", "over_budget"])];
        /// 1 while every endpoint of the upstream has failed.
        upstream_out: IntGaugeVec = "mainstay_upstream_out", "0 or 1", [UPSTREAM];
        /// Answers of upstreams that were compared with the query which is to take their place.
        shadow_compared: IntCounterVec = "mainstay_shadow_compared_total", "answers",
            [ROUTE, listed("outcome", &["equal", "different", "failed"])];
    }
    "Changes and purges" {
        /// Messages of changes that were heard, by where from and whether they had tags.
        bus_messages: IntCounterVec = "mainstay_bus_messages_total", "messages",
            [SOURCE_OF_MESSAGES, KIND_OF_MESSAGE];
        /// From telling a message of changes to applying it, of those that the bus brought: by the clocks of two machines.
        bus_delay: LatencyVec = "mainstay_bus_delay_seconds", "seconds", [KIND_OF_MESSAGE];
        /// Messages that purged something, softly or for good; one that does both counts as both.
        purges: IntCounterVec = "mainstay_purges_total", "messages", [listed("kind", &["soft", "hard"])];
        /// Times at which messages were missed.
        bus_gaps: IntCounterVec = "mainstay_bus_gaps_total", "gaps", [SOURCE_OF_MESSAGES];
        /// Since when nothing was heard; absent while nobody is to tell anything.
        bus_silence_seconds: GaugeVec = "mainstay_bus_silence_seconds", "seconds", [];
        /// 1 while nothing is heard for longer than cache.max_silence.
        bus_silent: IntGauge = "mainstay_bus_silent", "0 or 1", [];
        /// 1 while this instance publishes changes for its fleet.
        bus_leading: IntGauge = "mainstay_bus_leading", "0 or 1", [];
        /// 1 while changes of a watched table go unnoticed; mainstay migrate mends it.
        watch_broken: IntGaugeVec = "mainstay_watch_broken", "0 or 1", [TABLE];
        /// Cached answers that were compared with the primary.
        audit_checked: IntCounterVec = "mainstay_audit_checked_total", "answers", [ROUTE];
        /// Cached answers that were wrong.
        audit_wrong: IntCounterVec = "mainstay_audit_wrong_total", "answers", [ROUTE];
        /// Those of them that nobody has acknowledged yet; mainstay audit acknowledges them.
        audit_unacknowledged: IntGaugeVec = "mainstay_audit_unacknowledged", "answers", [ROUTE];
        /// Calls that told the edge of purges.
        edge_calls: IntCounterVec = "mainstay_edge_calls_total", "calls",
            [listed("outcome", &["sent", "retried", "failed"])];
        /// Paths that the edge was to forget; suppressed are those beyond edge.paths_per_month_max.
        edge_paths: IntCounterVec = "mainstay_edge_paths_total", "paths",
            [listed("outcome", &["sent", "failed", "suppressed"])];
    }
    "Nodes" {
        /// How far the replica is behind the primary, measured; absent where unknown.
        replication_lag_seconds: GaugeVec = "mainstay_replication_lag_seconds", "seconds", [NODE];
        /// WAL that the primary has flushed and the replica has not replayed; absent where they have no history in common.
        replication_lag_bytes: IntGaugeVec = "mainstay_replication_lag_bytes", "bytes", [NODE];
        /// How long the node takes for a small question, as measured; absent where unknown.
        node_latency_seconds: GaugeVec = "mainstay_node_latency_seconds", "seconds", [NODE];
        /// 1 while the node answers its probes.
        node_up: IntGaugeVec = "mainstay_node_up", "0 or 1", [NODE];
        /// The node's breaker: 0 closed, 1 half-open, 2 open.
        node_breaker_state: IntGaugeVec = "mainstay_node_breaker_state", "state", [NODE];
        /// Reads that a node served, those that failed on it, and those that a replica cancelled for a recovery conflict.
        node_reads: IntCounterVec = "mainstay_node_reads_total", "reads",
            [NODE, listed("outcome", &["served", "failed", "conflict"])];
        /// 1 while every node of the kind is let alone for its failures.
        nodes_all_open: IntGaugeVec = "mainstay_nodes_all_open", "0 or 1",
            [listed("kind", &["primary", "replica", "upstream"])];
        /// Connections of the node's pool.
        pool_connections: IntGaugeVec = "mainstay_pool_connections", "connections",
            [NODE, POOL, listed("state", &["in_use", "idle"])];
        /// Connections that the node's pool may have.
        pool_connections_max: IntGaugeVec = "mainstay_pool_connections_max", "connections", [NODE, POOL];
        /// Requests that wait for a connection of the node's pool.
        pool_waiting: IntGaugeVec = "mainstay_pool_waiting", "requests", [NODE, POOL];
    }
    "Peers" {
        /// Entries that were pulled from the peer.
        peer_entries: IntCounterVec = "mainstay_peer_entries_total", "entries", [PEER];
        /// Bytes of the pages that were pulled from the peer.
        peer_bytes: IntCounterVec = "mainstay_peer_bytes_total", "bytes", [PEER];
        /// Pages of the peer's snapshot that were not had.
        peer_failures: IntCounterVec = "mainstay_peer_failures_total", "pages",
            [PEER, listed("reason", &["unreachable", "timeout", "refused", "status", "page"])];
        /// Since when all that a peer had is here; absent before that.
        peer_pull_age_seconds: GaugeVec = "mainstay_peer_pull_age_seconds", "seconds", [PEER];
    }
    "Webhooks" {
        /// Deliveries of payment providers, by what became of the event or why it changed nothing.
        webhook_events: IntCounterVec = "mainstay_webhook_events_total", "deliveries", [PROVIDER, listed("outcome", &[
            "moved", "duplicate", "refused", "unknown_order", "unknown_kind", "amount_invalid", "currency_invalid",
            "not_allowed",
        ])];
        /// Events that were stored and not applied after webhooks.sweep_interval, up to 100.
        webhook_events_waiting: IntGauge = "mainstay_webhook_events_waiting", "events", [];
    }
    "The instance" {
        /// 1, with the version of the program.
        build_info: IntGaugeVec = "mainstay_build_info", "1", [VERSION];
        /// 1 for the mode in which the instance runs, 0 for the others.
        mode: IntGaugeVec = "mainstay_mode", "0 or 1", [listed("mode", &["regional", "failover"])];
        /// Times at which the manifest was read again; one that was refused changed nothing.
        manifest_reloads: IntCounterVec = "mainstay_manifest_reloads_total", "reloads",
            [listed("outcome", &["ok", "refused"])];
        /// Traces that the collector has taken.
        traces_exported: IntCounter = "mainstay_traces_exported_total", "traces", [];
        /// Traces that were to be kept, and are lost.
        traces_dropped: IntCounterVec = "mainstay_traces_dropped_total", "traces",
            [listed("reason", TraceDropped::NAMES)];
        /// Log lines that got out.
        log_lines: IntCounterVec = "mainstay_log_lines_total", "lines", [listed("sink", &["stdout", "amqp"])];
        /// Log lines that did not get out, by why; those of the access log that were too many never came to a sink.
        log_lines_dropped: IntCounterVec = "mainstay_log_lines_dropped_total", "lines",
            [listed("sink", &["stdout", "amqp", "access"]), listed("reason", LogDropped::NAMES)];
        /// Bytes of log lines that wait.
        log_buffer_bytes: IntGaugeVec = "mainstay_log_buffer_bytes", "bytes", [listed("sink", &["stdout", "amqp"])];
        /// 1 while RabbitMQ takes log lines; 0 where none is named, too.
        log_amqp_up: IntGauge = "mainstay_log_amqp_up", "0 or 1", [];
        /// 1 while something is not as it should be, as /admin/status says; always 1 of a failover origin, which is one on purpose.
        degraded: IntGauge = "mainstay_degraded", "0 or 1", [];
        /// 1 for each reason why the instance is degraded, as /admin/status names them; failover_mode, which is no fault, here alone.
        degraded_reason: IntGaugeVec = "mainstay_degraded_reason", "0 or 1", [listed("reason", &[
            "out_of_rotation", "nothing_to_serve", "reads_unavailable", "reads_from_cache", "primary_down",
            "primary_read_only", "database_down", "database_missing", "upstream_out", "audit_wrong", "errors", "overloaded", "pool_exhausted", "reads_on_primary",
            "replica_diverged", "replica_down", "replication_broken", "replication_lag", "replication_lag_unknown",
            "reads_on_other_replica", "bus_silent", "watch_broken", "shared_cache_down", "breaker_open", "peer_failing",
            "hard_purges_unknown", "snapshot_loading", "no_data_yet", "recovering", "draining", "failover_mode",
        ])];
        /// How far eventual reads have stepped back: 0 preferred, 1 other_replica, 2 primary, 3 stale, 4 unavailable.
        degradation_step: IntGauge = "mainstay_degradation_step", "step", [];
    }
}

/// Whether a message tells of changes, or only that there are none.
const KIND_OF_MESSAGE: Label = listed("kind", &["change", "heartbeat"]);
/// The bus, or the change feed where the instance reads it itself.
const SOURCE_OF_MESSAGES: Label = listed("source", &["stream", "feed"]);
