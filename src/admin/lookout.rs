//! The lookout: looks at this instance once a second, so that whoever asks how it is learns since when, and sees where it comes from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::Serialize;

use super::Desk;
use super::degraded::{Degraded, Level, Memory, Seen, find};
use super::journal::{Event, Kind};
use super::status::millis;
use super::traffic::{Figures, Traffic, keep_point, rate, ratio};
use crate::database::health::Verdict;
use crate::database::read::Role;
use crate::nodes::node::Kind as NodeKind;
use crate::telemetry::by_route::RouteTotals;
use crate::telemetry::totals::Totals;

/// How often it looks.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Counts by route that are kept: those of a minute.
const ROUTE_SAMPLES_MAX: usize = 12;

/// What the lookout remembers.
pub(super) struct Lookout {
    pub(super) started: Instant,
    pub(super) started_at: DateTime<Utc>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    traffic: Traffic,
    points: VecDeque<Point>,
    /// What was counted by route when each of the last points was made.
    routes: VecDeque<(Instant, BTreeMap<String, RouteTotals>)>,
    memory: Memory,
    health: Option<&'static str>,
}

/// A moment of the last quarter of an hour.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Point {
    /// In seconds of Unix time.
    pub(super) at: i64,
    #[serde(flatten)]
    figures: Figures,
    /// By replica; null where it was unknown.
    lag_ms: BTreeMap<Arc<str>, Option<u64>>,
}

/// The whole in one sentence, for whoever has ten seconds.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    level: Level,
    sentence: String,
}

/// What is asked of a route.
#[derive(Debug, Serialize)]
pub(super) struct RouteFigures {
    route: String,
    requests_per_s: f64,
    errors_per_s: f64,
    /// What a cache answered, from 0 to 1.
    hit_ratio: f64,
}

impl Lookout {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), started_at: Utc::now(), state: Mutex::default() }
    }

    /// The last quarter of an hour, the oldest first.
    pub(super) fn points(&self) -> Vec<Point> {
        self.state.lock().points.iter().cloned().collect()
    }

    /// The newest point.
    pub(super) fn newest_point(&self) -> Option<Point> {
        self.state.lock().points.back().cloned()
    }
}

impl Desk {
    /// Takes a look: writes down what has changed, and how much was asked.
    pub(super) fn look(&self) {
        let (now, at) = (Instant::now(), Utc::now());
        self.degraded();
        let totals = self.totals();
        let mut state = self.lookout.state.lock();
        let point = state.traffic.sample(now, totals);
        // The first look counts as well: what is asked right after the start has something to be compared with.
        if point.is_some() || state.routes.is_empty() {
            if state.routes.len() >= ROUTE_SAMPLES_MAX {
                state.routes.pop_front();
            }
            state.routes.push_back((now, self.parts.pipeline.metrics.by_route()));
        }
        if let Some(figures) = point {
            keep_point(&mut state.points, Point { at: at.timestamp(), figures, lag_ms: self.lags() });
        }
    }

    /// What is not as it should be, and since when.
    pub(super) fn degraded(&self) -> Vec<Degraded> {
        let seen = self.seen();
        let found = find(&seen);
        let mut state = self.lookout.state.lock();
        self.note_health(&mut state, &seen.verdict);
        state.memory.look(found, (Instant::now(), Utc::now()), &self.parts.journal)
    }

    /// The figures of the last minute.
    pub(super) fn traffic(&self, totals: &Totals) -> Figures {
        self.lookout.state.lock().traffic.figures(Instant::now(), totals)
    }

    /// The routes that were asked for most within the last minute.
    pub(super) fn routes(&self, max: usize) -> Vec<RouteFigures> {
        let counted = self.parts.pipeline.metrics.by_route();
        let state = self.lookout.state.lock();
        let Some((at, before)) = state.routes.front() else { return Vec::new() };
        let seconds = at.elapsed().as_secs_f64();
        let asked = counted.into_iter().filter(|(route, _)| route.starts_with('/')).filter_map(|(route, totals)| {
            let since = totals.since(before.get(&route).copied().unwrap_or_default());
            (since.requests > 0).then_some((route, since))
        });
        let mut asked: Vec<(String, RouteTotals)> = asked.collect();
        asked.sort_by_key(|(_, since)| std::cmp::Reverse(since.requests));
        let shown = asked.into_iter().take(max).map(|(route, since)| RouteFigures {
            route,
            requests_per_s: rate(since.requests, seconds),
            errors_per_s: rate(since.errors, seconds),
            hit_ratio: ratio(since.hits, since.requests).unwrap_or_default(),
        });
        shown.collect()
    }

    /// What was counted until now.
    pub(super) fn totals(&self) -> Totals {
        self.parts.surface.load().endpoints().for_each(|endpoint| endpoint.counters.export());
        self.parts.pipeline.stale_served.export();
        self.parts.pipeline.metrics.totals()
    }

    fn seen(&self) -> Seen {
        let (pipeline, health, now) = (&self.parts.pipeline, &self.parts.health, Instant::now());
        let upstreams = pipeline.nodes.reports().into_iter().filter_map(|report| {
            let identity = report.node.identity();
            let is_one = identity.kind == NodeKind::Upstream;
            is_one.then(|| (identity.id.to_string(), report.node.breaker_state(now)))
        });
        Seen {
            verdict: health.verdict(),
            step: health.step(),
            is_draining: health.is_draining(),
            endpoints: upstreams.collect(),
            nodes: pipeline.database.as_ref().map(|database| database.status().nodes).unwrap_or_default(),
            is_silent: pipeline.cache.fences.silence(now).is_some(),
            has_redis: pipeline.cache.shared.as_ref().map(|shared| shared.commands().is_in_use()),
            tables_unwatched: pipeline.metrics.tables_unwatched(),
            upstreams_out: pipeline.metrics.upstreams_out(),
            peers: (self.parts.peers)(),
        }
    }

    fn note_health(&self, state: &mut State, verdict: &Verdict) {
        let status = verdict.status.as_str();
        if verdict.is_first_look() || state.health.replace(status) == Some(status) {
            return;
        }
        let reasons: Vec<&str> = verdict.reasons.iter().map(|reason| reason.as_str()).collect();
        let (by, what) = ("this instance".to_owned(), format!("/health/edge says {status}"));
        let (at, result) = (Utc::now(), reasons.join(", "));
        self.parts.journal.note(Event { at, kind: Kind::Health, by, what, result, id: None });
    }

    fn lags(&self) -> BTreeMap<Arc<str>, Option<u64>> {
        let nodes = self.parts.pipeline.database.as_ref().map(|database| database.status().nodes).unwrap_or_default();
        let replicas = nodes.into_iter().filter(|node| node.role == Role::Replica);
        replicas.map(|node| (node.name, node.lag.map(millis))).collect()
    }

    /// How old what is served as fresh may be at worst: the time since all changes up to then were heard of, or how far the replica is
    /// behind that is behind most of those that are read. Nothing where nobody can say. What only its `ttl` bounds is not in it.
    pub(super) fn data_age(&self) -> Option<Duration> {
        let pipeline = &self.parts.pipeline;
        let heard_ago = pipeline.cache.fences.heard_ago(Instant::now());
        if !pipeline.capabilities.tells {
            let pulled_ago = || {
                let ages = (self.parts.peers)().into_iter().filter_map(|peer| peer.complete_ago_ms);
                ages.min().map(Duration::from_millis)
            };
            return heard_ago.or_else(pulled_ago);
        }
        let status = pipeline.database.as_ref()?.status();
        let lags = status.replicas().filter(|node| node.is_eligible()).filter_map(|node| node.lag);
        let lag = match status.replicas().next() {
            Some(_) => lags.max(),
            None => status.primary().filter(|primary| primary.writable).map(|_| Duration::ZERO),
        };
        heard_ago.into_iter().chain(lag).max()
    }

    /// The sentence.
    pub(super) fn summary(&self, degraded: &[Degraded]) -> Summary {
        let level = degraded.iter().map(|one| one.level).max().unwrap_or(Level::Ok);
        let is_standing_in = self.parts.pipeline.capabilities.issues_anew;
        let sentence = match degraded {
            [] if is_standing_in => "This failover origin has what it serves from.".to_owned(),
            [] => "All is well.".to_owned(),
            [only] => only.detail.clone(),
            [worst, others @ ..] => format!("{} And {} more.", worst.detail, others.len()),
        };
        Summary { level, sentence }
    }
}
