//! What became of the requests of a route.

use super::line::Logged;
use super::world::{Answered, Outcome};
use crate::config::manifest::Route;

/// Requests of a route, or of all, by how they were answered.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub name: String,
    /// Among all routes.
    pub position: usize,
    pub is_cached: bool,
    pub requests: u64,
    /// Those for a cached answer.
    pub cacheable: u64,
    pub fresh: u64,
    pub stale: u64,
    pub waited: u64,
    pub shared: u64,
    /// Answered by the source.
    pub source: u64,
    pub stale_if_error: u64,
    /// Refused for a parameter, before any source is asked.
    pub refused: u64,
    /// How often the source runs.
    pub runs: Peak,
    /// How often it runs where nothing is kept.
    pub runs_uncached: Peak,
    pub bodies: Bodies,
}

/// A count, and the most within one second.
#[derive(Debug, Default)]
pub(super) struct Peak {
    pub count: u64,
    pub per_s_max: u64,
    second: i64,
    in_second: u64,
}

impl Peak {
    fn add(&mut self, now_ms: i64) {
        let second = now_ms.div_euclid(1000);
        if second != self.second {
            (self.second, self.in_second) = (second, 0);
        }
        self.count += 1;
        self.in_second += 1;
        self.per_s_max = self.per_s_max.max(self.in_second);
    }
}

/// How large the bodies of a route are.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    bytes: u64,
    known: u64,
    pub unknown: u64,
}

impl Bodies {
    /// The size of what a request would be answered with: what the log says where it was answered with a body, else what others of
    /// the route had on average, else what is taken to be usual.
    pub(super) fn of(&mut self, logged: &Logged, usual_bytes: usize) -> usize {
        let is_whole = logged.method == "GET" && matches!(logged.status, Some(200) | None);
        let bytes = match logged.body_bytes.filter(|bytes| is_whole && *bytes > 0) {
            Some(bytes) => {
                self.bytes = self.bytes.saturating_add(bytes);
                self.known += 1;
                Some(bytes)
            }
            None => {
                self.unknown += 1;
                self.bytes.checked_div(self.known)
            }
        };
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usual_bytes)
    }
}

impl Tally {
    pub(super) fn of(route: &Route) -> Self {
        Self {
            name: format!("{} {}", route.methods.join(","), route.path),
            is_cached: route.is_cacheable(),
            ..Self::default()
        }
    }

    /// A request that goes to the source whatever is kept.
    pub(super) fn pass(&mut self, now_ms: i64) {
        self.source += 1;
        self.runs.add(now_ms);
        self.runs_uncached.add(now_ms);
    }

    /// A request for a cached answer.
    pub(super) fn take(&mut self, now_ms: i64, outcome: Outcome) {
        self.cacheable += 1;
        *match outcome.answered {
            Answered::Fresh => &mut self.fresh,
            Answered::Stale => &mut self.stale,
            Answered::Waited => &mut self.waited,
            Answered::Shared => &mut self.shared,
            Answered::Source => &mut self.source,
            Answered::StaleIfError => &mut self.stale_if_error,
        } += 1;
        self.runs_uncached.add(now_ms);
        if outcome.ran {
            self.runs.add(now_ms);
        }
    }

    /// Of all requests, how many were answered from L1 at once.
    pub(super) fn hits(&self) -> u64 {
        self.fresh + self.stale
    }

    /// Runs of the source that were spared.
    pub(super) fn saved(&self) -> u64 {
        self.runs_uncached.count.saturating_sub(self.runs.count)
    }
}

/// How many hundredths one number is of another.
pub(super) fn percent(part: u64, whole: u64) -> Option<f64> {
    let tenths = part.saturating_mul(1000).saturating_add(whole / 2).checked_div(whole)?;
    u32::try_from(tenths).ok().map(|tenths| f64::from(tenths) / 10.0)
}
