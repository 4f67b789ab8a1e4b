//! The lookout: looks at this instance once a second, so that whoever asks how it is learns since when, and sees where it comes from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::Serialize;

use super::Desk;
use super::degraded::{Degraded, Level, export};
use super::found::{Seen, find};
use super::journal::{Event, Kind};
use super::memory::Memory;
use super::status::millis;
use super::traffic::{Figures, Traffic, keep_point, rate, ratio};
use crate::config::manifest::Route;
use crate::config::manifest::access::AuthMethod;
use crate::database::health::Verdict;
use crate::database::read::Role;
use crate::database::status::NodeStatus;
use crate::nodes::node::Kind as NodeKind;
use crate::telemetry::by_route::RouteTotals;
use crate::telemetry::totals::Totals;

/// How often it looks.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Counts by route that are kept: those of a minute.
const ROUTE_SAMPLES_MAX: usize = 12;

/// For so long somebody waits for a connection whenever it is looked at, before that is said: a crowd of a moment is none.
const WAIT_MIN: Duration = Duration::from_secs(5);

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
    waits: Waits,
    health: Option<&'static str>,
}

/// Since when somebody has been waiting for a connection, by pool.
#[derive(Default)]
struct Waits(BTreeMap<String, Instant>);

impl Waits {
    /// Takes in which pools are waited for now, and says which of them have been for a while.
    fn look(&mut self, waited_for: &[String], now: Instant) -> Vec<String> {
        self.0.retain(|pool, _| waited_for.contains(pool));
        for pool in waited_for {
            self.0.entry(pool.clone()).or_insert(now);
        }
        let is_long = |since: &Instant| now.saturating_duration_since(*since) >= WAIT_MIN;
        self.0.iter().filter(|(_, since)| is_long(since)).map(|(pool, _)| pool.clone()).collect()
    }
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
        drop(state);
        self.degraded();
    }

    /// What is not as it should be, and since when; what was answered counts as of the last look. The metrics are told the same.
    pub(super) fn degraded(&self) -> Vec<Degraded> {
        let mut state = self.lookout.state.lock();
        let seen = self.seen(&mut state);
        self.note_health(&mut state, &seen.verdict);
        let degraded = state.memory.look(find(&seen), (Instant::now(), Utc::now()), &self.parts.journal);
        export(&degraded, &seen.verdict, &self.parts.pipeline.metrics);
        degraded
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

    fn seen(&self, state: &mut State) -> Seen {
        let (pipeline, health, now) = (&self.parts.pipeline, &self.parts.health, Instant::now());
        let upstreams = pipeline.nodes.reports().into_iter().filter_map(|report| {
            let identity = report.node.identity();
            let is_one = identity.kind == NodeKind::Upstream;
            is_one.then(|| (identity.id.to_string(), report.node.breaker_state(now)))
        });
        let nodes = pipeline.database.as_ref().map(|database| database.status().nodes).unwrap_or_default();
        Seen {
            pools_waited_for: state.waits.look(&waited_for(&nodes), now),
            recent: state.traffic.recent(now),
            audit_wrong: pipeline.metrics.audit_unacknowledged(),
            routes_without_database: self.routes_without_database(),
            verdict: health.verdict(),
            step: health.step(),
            is_draining: health.is_draining(),
            endpoints: upstreams.collect(),
            nodes,
            is_silent: pipeline.cache.fences.silence(now).is_some(),
            has_redis: pipeline.cache.shared.as_ref().map(|shared| shared.commands().is_in_use()),
            tables_unwatched: pipeline.metrics.tables_unwatched(),
            upstreams_out: pipeline.metrics.upstreams_out(),
            peers: (self.parts.peers)(),
        }
    }

    /// Takes note that somebody knows of the wrong answers so far, of those that he has seen where that is said, and says of which. Those
    /// that come after it are news again.
    pub(super) fn acknowledge_audit(&self, seen: Option<&BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
        let metrics = &self.parts.pipeline.metrics;
        // Two at once would both take the same ones away.
        let _state = self.lookout.state.lock();
        let mut known = metrics.audit_unacknowledged();
        if let Some(seen) = seen {
            known.retain(|route, wrong| {
                *wrong = seen.get(route).map_or(0, |seen| (*wrong).min(*seen));
                *wrong > 0
            });
        }
        for (route, wrong) in &known {
            let gauge = metrics.audit_unacknowledged.with_label_values(&[route.as_str()]);
            gauge.sub(i64::try_from(*wrong).unwrap_or(i64::MAX));
        }
        known
    }

    /// Whoever has lost DATABASE_URL on the way to a deploy is well by all that is measured, for there is nothing to measure.
    fn routes_without_database(&self) -> usize {
        let pipeline = &self.parts.pipeline;
        if pipeline.database.is_some() || !pipeline.capabilities.tells {
            return 0;
        }
        let needs_one = |route: &Route| {
            let has_keys = route.access.as_ref().is_some_and(|access| access.method == AuthMethod::Key);
            has_keys || (self.parts.asks_database)(&route.source)
        };
        self.parts.surface.load().endpoints().filter(|endpoint| needs_one(&endpoint.route)).count()
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
        let fences = &pipeline.cache.fences;
        let (heard_ago, is_caught_up) = (fences.heard_ago(Instant::now()), fences.read(|ledger| ledger.is_caught_up()));
        if !pipeline.capabilities.tells {
            let pulled_ago = || {
                let ages = (self.parts.peers)().into_iter().filter_map(|peer| peer.complete_ago_ms);
                ages.min().map(Duration::from_millis)
            };
            return heard_ago.filter(|_| is_caught_up).or_else(pulled_ago);
        }
        let status = pipeline.database.as_ref()?.status();
        let lags = status.replicas().filter(|node| node.is_eligible()).filter_map(|node| node.lag);
        let lag = match status.replicas().next() {
            Some(_) => lags.max(),
            None => status.primary().filter(|primary| primary.writable).map(|_| Duration::ZERO),
        };
        age(heard_ago, is_caught_up, lag)
    }

    /// The sentence.
    pub(super) fn summary(&self, degraded: &[Degraded]) -> Summary {
        let level = degraded.iter().map(|one| one.level).max().unwrap_or(Level::Ok);
        let is_standing_in = self.parts.pipeline.capabilities.issues_anew;
        let sentence = match degraded {
            [] if is_standing_in => "This failover origin has what it serves from.".to_owned(),
            [] if self.parts.pipeline.database.is_none() => "All is well, with no database configured.".to_owned(),
            [] => "All is well.".to_owned(),
            [only] => only.sentence(),
            [worst, others @ ..] => format!("{} And {} more.", worst.sentence(), others.len()),
        };
        Summary { level, sentence }
    }
}

/// The older of the two. Who has not heard all from before it began knows nothing of what it has missed, however lately it began.
fn age(heard_ago: Option<Duration>, is_caught_up: bool, lag: Option<Duration>) -> Option<Duration> {
    let is_known = heard_ago.is_none() || is_caught_up;
    heard_ago.into_iter().chain(lag).max().filter(|_| is_known)
}

/// The pools for whose connections somebody waits.
fn waited_for(nodes: &[NodeStatus]) -> Vec<String> {
    let pools = nodes.iter().flat_map(|node| {
        let writers = node.writers.as_ref().map(|pool| (node, "write", pool));
        [(node, "read", &node.pool)].into_iter().chain(writers)
    });
    let waited_for = pools.filter(|(_, _, pool)| pool.waiting > 0);
    waited_for.map(|(node, what, _)| format!("{} ({what})", node.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::pools::PoolUsage;
    use crate::database::status::testing::node;

    #[test]
    fn how_old_data_is_that_nobody_has_told_of_is_not_known() {
        let [short, long] = [1, 58].map(|seconds| Some(Duration::from_secs(seconds)));
        assert_eq!(age(long, false, short), None, "it is the time since the start");
        assert_eq!((age(long, true, short), age(short, true, long)), (long, long));
        assert_eq!((age(None, false, short), age(None, false, None)), (short, None), "nobody is to tell");
    }

    #[test]
    fn a_pool_is_exhausted_where_somebody_has_waited_at_each_look_for_a_while() {
        let (mut waits, start) = (Waits::default(), Instant::now());
        let crowded = PoolUsage { open: 4, idle: 0, waiting: 1, size_max: 4 };
        let nodes = [NodeStatus { pool: crowded, writers: Some(PoolUsage::default()), ..node(Role::Primary) }];
        let name = format!("{} (read)", nodes[0].name);
        assert_eq!(waited_for(&nodes), std::slice::from_ref(&name));
        let mut look = |second, is_waited_for: bool| {
            let waited_for = if is_waited_for { waited_for(&nodes) } else { Vec::new() };
            waits.look(&waited_for, start + Duration::from_secs(second))
        };
        for second in 0..5 {
            assert!(look(second, true).is_empty(), "{second}");
        }
        assert_eq!(look(5, true), [name]);
        assert!(look(6, false).is_empty());
        assert!(look(7, true).is_empty(), "it begins anew");
    }
}
