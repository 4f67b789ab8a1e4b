//! What an instance answers: rates, percentiles and hit ratios of the last minute, and a point for each few seconds of the last
//! quarter of an hour. Computed from totals that somebody else counts, with times passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::telemetry::totals::{Lookups, Totals};

/// What figures are about.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// How far points are apart.
pub(super) const POINT_INTERVAL: Duration = Duration::from_secs(5);
/// Points that are kept: a quarter of an hour.
const POINTS_MAX: usize = 180;
/// Samples that are kept, one a second: the window, and the one that it begins at.
const SAMPLES_MAX: usize = 61;

/// The figures of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    /// What the figures are about; shorter right after the start.
    pub(super) window_s: f64,
    pub(super) requests_per_s: f64,
    /// Those that were answered with 500 or above.
    pub(super) errors_per_s: f64,
    pub(super) latency_ms: Latency,
    pub(super) hit_ratio: HitRatio,
    pub(super) stale_per_s: f64,
    /// Sources that were not run since too many ran.
    pub(super) shed_per_s: f64,
}

/// As far as buckets of time tell. Nothing where nothing was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) p50: Option<f64>,
    pub(super) p95: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// Parts of what was looked for, from 0 to 1. Nothing where nothing was looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct HitRatio {
    /// Of what may be cached, what a cache answered.
    pub(super) total: Option<f64>,
    pub(super) l1: Option<f64>,
    pub(super) l2: Option<f64>,
}

/// What was counted within the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recent {
    pub(super) requests: u64,
    /// Those of them that were answered with 500 or above.
    pub(super) errors: u64,
    /// Sources that were not run since too many ran.
    pub(super) shed: u64,
}

/// The recent past.
#[derive(Default)]
pub(super) struct Traffic {
    /// The newest last.
    samples: VecDeque<(Instant, Totals)>,
    /// What the next point begins at.
    point_from: Option<(Instant, Totals)>,
}

impl Traffic {
    /// Takes a sample in, and makes a point where one is due.
    pub(super) fn sample(&mut self, now: Instant, totals: Totals) -> Option<Figures> {
        let since_point = self.point_from.as_ref().map(|(at, _)| now.saturating_duration_since(*at));
        let point = match &self.point_from {
            Some(from) if since_point >= Some(POINT_INTERVAL) => Some(between(from, now, &totals)),
            _ => None,
        };
        if point.is_some() || self.point_from.is_none() {
            self.point_from = Some((now, totals.clone()));
        }
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, totals));
        point
    }

    /// The figures of the last minute, up to these totals.
    pub(super) fn figures(&self, now: Instant, totals: &Totals) -> Figures {
        self.from(now).map(|from| between(from, now, totals)).unwrap_or_default()
    }

    /// What was counted within the last minute, up to the newest sample.
    pub(super) fn recent(&self, now: Instant) -> Recent {
        let Some(((_, from), (_, to))) = self.from(now).zip(self.samples.back()) else { return Recent::default() };
        Recent {
            requests: to.requests.saturating_sub(from.requests),
            errors: to.errors.saturating_sub(from.errors),
            shed: to.shed.saturating_sub(from.shed),
        }
    }

    /// The sample that the last minute begins at.
    fn from(&self, now: Instant) -> Option<&(Instant, Totals)> {
        let is_inside = |(at, _): &&(Instant, Totals)| now.saturating_duration_since(*at) <= WINDOW;
        self.samples.iter().find(is_inside)
    }
}

/// Keeps as many of the newest as belong to the last quarter of an hour.
pub(super) fn keep_point<T>(points: &mut VecDeque<T>, point: T) {
    if points.len() >= POINTS_MAX {
        points.pop_front();
    }
    points.push_back(point);
}

fn between((from_at, from): &(Instant, Totals), now: Instant, to: &Totals) -> Figures {
    // What came in a few milliseconds says nothing of a second.
    let seconds = now.saturating_duration_since(*from_at).as_secs_f64().max(1.0);
    let per_s = |from: u64, to: u64| rate(to.saturating_sub(from), seconds);
    let lookups = |pick: fn(&Totals) -> Lookups| {
        let (from, to) = (pick(from), pick(to));
        Lookups { all: to.all.saturating_sub(from.all), served: to.served.saturating_sub(from.served) }
    };
    let (l1, l2) = (lookups(|totals| totals.l1), lookups(|totals| totals.l2));
    Figures {
        window_s: rounded(seconds),
        requests_per_s: per_s(from.requests, to.requests),
        errors_per_s: per_s(from.errors, to.errors),
        latency_ms: latency(&from.latency, &to.latency),
        hit_ratio: HitRatio {
            // Whatever may be cached is looked for in L1, and only there by each request once.
            total: ratio(to.from_cache.saturating_sub(from.from_cache), l1.all),
            l1: ratio(l1.served, l1.all),
            l2: ratio(l2.served, l2.all),
        },
        stale_per_s: per_s(from.stale, to.stale),
        shed_per_s: per_s(from.shed, to.shed),
    }
}

/// How many a second.
pub(super) fn rate(counted: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count(counted) / seconds) } else { 0.0 }
}

/// A part of a whole, from 0 to 1.
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| ((count(part) / count(whole)).min(1.0) * 10_000.0).round() / 10_000.0)
}

fn latency(from: &[(f64, u64)], to: &[(f64, u64)]) -> Latency {
    let counted = to.iter().enumerate().map(|(index, (bound, count))| {
        let before = from.get(index).map_or(0, |(_, count)| *count);
        (*bound, count.saturating_sub(before))
    });
    let buckets: Vec<(f64, u64)> = counted.collect();
    let at = |quantile| percentile(&buckets, quantile).map(|seconds| rounded(seconds * 1000.0));
    Latency { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
}

/// The time that so large a part took no longer than; inside a bucket as if its values were spread evenly. What lies in the last
/// one took at least as long as the bound before it.
fn percentile(buckets: &[(f64, u64)], quantile: f64) -> Option<f64> {
    let (_, all) = buckets.last().filter(|(_, all)| *all > 0)?;
    let rank = quantile * count(*all);
    let (mut lower, mut below) = (0.0, 0);
    for (upper, upto) in buckets {
        if count(*upto) >= rank {
            let inside = count(upto.saturating_sub(below));
            let part = if inside > 0.0 { (rank - count(below)) / inside } else { 0.0 };
            return Some(if upper.is_finite() { lower + (upper - lower) * part } else { lower });
        }
        (lower, below) = (*upper, *upto);
    }
    None
}

/// A count that is divided by another: what floats cannot tell apart makes no difference.
fn count(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// To three digits after the point, which is more than anybody reads.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn totals(requests: u64) -> Totals {
        Totals {
            requests,
            errors: requests / 10,
            from_cache: requests / 2,
            l1: Lookups { all: requests, served: requests / 4 },
            latency: vec![(0.001, requests / 2), (0.01, requests), (f64::INFINITY, requests)],
            ..Totals::default()
        }
    }

    #[test]
    fn figures_are_those_of_the_last_minute() {
        let (mut traffic, start) = (Traffic::default(), Instant::now());
        assert_eq!(traffic.figures(start, &totals(0)), Figures::default());
        for second in 0..200 {
            let before_the_window = if second < 140 { 7 } else { 0 };
            traffic.sample(start + SECOND * second, totals(u64::from(second) * 100 + before_the_window));
        }
        let figures = traffic.figures(start + SECOND * 200, &totals(20_000));
        assert_eq!((figures.window_s, figures.requests_per_s, figures.errors_per_s), (60.0, 100.0, 10.0));
        assert_eq!(figures.hit_ratio, HitRatio { total: Some(0.5), l1: Some(0.25), l2: None });
        assert_eq!(figures.latency_ms.p50, Some(1.0));
        assert_eq!(figures.latency_ms.p95, Some(9.1));
        assert!(traffic.samples.len() <= SAMPLES_MAX);
        let recent = traffic.recent(start + SECOND * 200);
        assert_eq!(recent, Recent { requests: 5_900, errors: 590, shed: 0 });
        assert_eq!(traffic.recent(start + SECOND * 1000), Recent::default(), "what is older is nobody's");
    }

    #[test]
    fn a_point_is_made_each_few_seconds_and_old_ones_go() {
        let (mut traffic, start, mut points) = (Traffic::default(), Instant::now(), VecDeque::new());
        for second in 0..2000 {
            if let Some(point) = traffic.sample(start + SECOND * second, totals(u64::from(second) * 20)) {
                assert_eq!((point.window_s, point.requests_per_s), (5.0, 20.0));
                keep_point(&mut points, point);
            }
        }
        assert_eq!(points.len(), POINTS_MAX);
    }

    #[test]
    fn where_nothing_is_asked_nothing_is_claimed() {
        let (mut traffic, start) = (Traffic::default(), Instant::now());
        traffic.sample(start, totals(50));
        let figures = traffic.figures(start + SECOND, &totals(50));
        assert_eq!((figures.latency_ms, figures.hit_ratio), (Latency::default(), HitRatio::default()));
        assert_eq!(traffic.figures(start, &totals(50)).requests_per_s, 0.0, "no time has passed");
    }

    #[test]
    fn what_took_longer_than_all_buckets_took_at_least_the_last_one() {
        assert_eq!(percentile(&[(0.1, 0), (f64::INFINITY, 3)], 0.5), Some(0.1));
        assert_eq!(percentile(&[(0.1, 0), (f64::INFINITY, 0)], 0.5), None);
        assert_eq!(percentile(&[], 0.5), None);
    }
}
