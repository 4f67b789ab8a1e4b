//! How this instance is, on one page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::degraded::Degraded;
use super::journal;
use super::lookout::Summary;
use super::stats::{Figures, figures};
use super::{Desk, document, traffic};
use crate::config::settings::Settings;
use crate::database::read::Role;
use crate::database::status::NodeStatus;
use crate::database::steps::Step;
use crate::error::Error;
use crate::nodes::node::{Node as Measured, Totals};

/// Tells of the peers as of now.
pub type Peers = Arc<dyn Fn() -> Vec<PeerStatus> + Send + Sync>;

/// An origin whose snapshot is pulled.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// Host and port.
    pub peer: String,
    /// `waiting`: nothing was asked for yet; `pulling`: there is more to come; `complete`: all there was is here; `failing`.
    pub state: &'static str,
    /// Why the last attempt failed.
    pub failure: Option<String>,
    /// How long ago nothing more was left to pull.
    pub complete_ago_ms: Option<u64>,
    /// Where the next page begins, in the peer's own terms.
    pub cursor: Option<String>,
    /// Entries that were taken over since the start.
    pub entries: u64,
    /// Bytes of pages since the start.
    pub bytes: u64,
}

/// How this instance is.
#[derive(Serialize)]
pub(super) struct Status<'a> {
    mode: &'static str,
    /// An instance has its mode from its start.
    mode_since: String,
    summary: Summary,
    /// Everything that is configured and not in use, the worst first.
    degraded: Vec<Degraded>,
    /// How old what is served as fresh may be at worst.
    data_age_ms: Option<u64>,
    /// Of the last minute.
    traffic: traffic::Figures,
    audit: Audit,
    region: &'a str,
    version: &'static str,
    uptime_s: u64,
    health: Health,
    nodes: Vec<Node>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<PeerStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_origin: Option<PrimaryOrigin>,
    /// Endpoints of upstreams.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    upstreams: Vec<Upstream>,
    routes: usize,
    cache: Figures,
    bus: Bus,
    settings: Chosen<'a>,
}

/// Cached answers that were compared with the primary, since the start.
#[derive(Serialize)]
struct Audit {
    checked: u64,
    wrong: u64,
    /// Those of the wrong ones that nobody has acknowledged, by route.
    unacknowledged: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    reasons: Vec<&'static str>,
    replication_lag_ms: Option<u64>,
    /// How far eventual reads have stepped back.
    step: Option<&'static str>,
}

#[derive(Serialize)]
struct Node {
    name: String,
    role: &'static str,
    up: bool,
    writable: bool,
    /// A replica: whether it serves reads, and if not, why.
    eligible: Option<bool>,
    ineligible: Option<&'static str>,
    lag_ms: Option<u64>,
    timeline: Option<u32>,
    lsn: Option<String>,
    breaker: &'static str,
    latency_ms: Option<f64>,
    reads_served: u64,
    reads_failed: u64,
    connections: usize,
    connections_idle: usize,
}

/// Where strong requests are sent.
#[derive(Serialize)]
struct PrimaryOrigin {
    endpoint: String,
    breaker: &'static str,
    latency_ms: Option<f64>,
    answered: u64,
    failed: u64,
}

/// An endpoint of an upstream.
#[derive(Serialize)]
struct Upstream {
    id: String,
    endpoint: String,
    breaker: &'static str,
    latency_ms: Option<f64>,
    answered: u64,
    failed: u64,
}

/// What this instance has been told of changes.
#[derive(Serialize)]
struct Bus {
    told: Option<String>,
    through: Option<String>,
    /// Whether that covers all from before it began.
    caught_up: bool,
    heard_ago_ms: Option<u64>,
    silent: bool,
}

/// The settings that one looks for first. None of them is a secret, or has one in it.
#[derive(Serialize)]
struct Chosen<'a> {
    bind_addr: String,
    namespace: &'a str,
    has_redis: bool,
    request_timeout_ms: u64,
    lag_max_ms: u64,
    max_silence_ms: u64,
    snapshot_file: &'a str,
}

/// `GET /admin/status`
pub(super) fn status(desk: &Desk) -> Result<Vec<u8>, Error> {
    document(&status_of(desk))
}

pub(super) fn status_of(desk: &Desk) -> Status<'_> {
    let pipeline = &desk.parts.pipeline;
    let (settings, fences, now) = (&pipeline.settings, &pipeline.cache.fences, Instant::now());
    let (told, through, caught_up) = fences.read(|ledger| (ledger.told(), ledger.through(), ledger.is_caught_up()));
    let verdict = desk.parts.health.verdict();
    let nodes = pipeline.database.as_ref().map(|database| database.status().nodes).unwrap_or_default();
    let (degraded, totals) = (desk.degraded(), desk.totals());
    Status {
        mode: settings.mode.as_str(),
        mode_since: journal::shown(&desk.lookout.started_at),
        summary: desk.summary(&degraded),
        degraded,
        data_age_ms: desk.data_age().map(millis),
        traffic: desk.traffic(&totals),
        audit: Audit {
            checked: totals.audit_checked,
            wrong: totals.audit_wrong,
            unacknowledged: pipeline.metrics.audit_unacknowledged(),
        },
        region: &settings.region,
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: desk.lookout.started.elapsed().as_secs(),
        health: Health {
            status: verdict.status.as_str(),
            reasons: verdict.reasons.iter().map(|reason| reason.as_str()).collect(),
            replication_lag_ms: verdict.lag.map(millis),
            step: desk.parts.health.step().map(Step::as_str),
        },
        nodes: nodes.iter().map(node).collect(),
        peers: (desk.parts.peers)(),
        primary_origin: pipeline
            .upstreams
            .primary_origin()
            .and_then(|group| group.nodes().next())
            .map(|node| primary_origin(node, now)),
        upstreams: pipeline.upstreams.nodes().iter().map(|node| upstream(node, now)).collect(),
        routes: desk.parts.surface.load().endpoints().count(),
        cache: figures(desk),
        bus: Bus {
            told: told.map(|told| told.to_string()),
            through: through.map(|through| through.to_string()),
            caught_up,
            heard_ago_ms: fences.heard_ago(now).map(millis),
            silent: fences.silence(now).is_some(),
        },
        settings: chosen(settings),
    }
}

fn node(node: &NodeStatus) -> Node {
    let is_replica = node.role == Role::Replica;
    Node {
        name: node.name.to_string(),
        role: if is_replica { "replica" } else { "primary" },
        up: node.up,
        writable: node.writable,
        eligible: is_replica.then_some(node.ineligible.is_none()),
        ineligible: node.ineligible.map(|reason| reason.as_str()),
        lag_ms: node.lag.map(millis),
        timeline: node.timeline.map(|timeline| timeline.0),
        lsn: node.lsn.map(|lsn| lsn.to_string()),
        breaker: node.breaker.as_str(),
        latency_ms: node.latency.map(|latency| latency.as_secs_f64() * 1000.0),
        reads_served: node.counts.served,
        reads_failed: node.counts.failed,
        connections: node.pool.open,
        connections_idle: node.pool.idle,
    }
}

fn primary_origin(node: &Measured, now: Instant) -> PrimaryOrigin {
    let Totals { served, failed } = node.totals();
    PrimaryOrigin {
        endpoint: node.identity().endpoint.clone(),
        breaker: node.breaker_state(now).as_str(),
        latency_ms: node.latency().map(|latency| latency.as_secs_f64() * 1000.0),
        answered: served,
        failed,
    }
}

fn upstream(node: &Measured, now: Instant) -> Upstream {
    let PrimaryOrigin { endpoint, breaker, latency_ms, answered, failed } = primary_origin(node, now);
    Upstream { id: node.identity().id.to_string(), endpoint, breaker, latency_ms, answered, failed }
}

fn chosen(settings: &Settings) -> Chosen<'_> {
    Chosen {
        bind_addr: settings.server.bind_addr.to_string(),
        namespace: &settings.cache.namespace,
        has_redis: !settings.redis.url.is_empty(),
        request_timeout_ms: millis(settings.limits.request_timeout.0),
        lag_max_ms: millis(settings.replication.lag_max.0),
        max_silence_ms: millis(settings.cache.max_silence.0),
        snapshot_file: &settings.cache.snapshot_file,
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
