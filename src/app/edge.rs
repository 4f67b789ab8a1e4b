//! Telling the edge: the leader of a fleet does, once every inner tier has heard, and for no more than the budget.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::time::sleep;

use super::hear::Ear;
use crate::cache::fence::{Ledger, Message};
use crate::cache::shared::commands::Unavailable;
use crate::cache::tag::EVERYTHING;
use crate::config::edge::OverBudget;
use crate::config::manifest::Route;
use crate::edge::cloudfront::PATHS_MAX;
use crate::edge::{Outlet, paths, tags};
use crate::telemetry::traces;

/// How long the first repetition of a call waits, and the last.
const REST_TIME: Duration = Duration::from_secs(1);
const REST_TIME_MAX: Duration = Duration::from_secs(60);

/// What one process has spent where no fleet counts.
#[derive(Default)]
pub(super) struct Purse {
    month: String,
    paths: u64,
}

impl Purse {
    /// Counts paths of a month, and takes them back where that makes too many.
    fn spend(&mut self, month: &str, paths: u64, paths_max: u64) -> bool {
        if self.month != month {
            *self = Self { month: month.to_owned(), paths: 0 };
        }
        let is_within = self.paths.saturating_add(paths) <= paths_max;
        self.paths += if is_within { paths } else { 0 };
        is_within
    }
}

/// What has been lost of all that was to be told, as far as the edge is to hear of it.
#[derive(Default)]
struct Losses {
    collected: u64,
    collected_at: Option<Instant>,
}

impl Losses {
    /// Whether the whole edge is to be told now. What comes too soon after the last time waits: each time all that the edge has is
    /// fetched anew from here, and losses may come in a row.
    fn are_due(&mut self, losses: u64, interval: Duration, now: Instant) -> bool {
        let has_rested = self.collected_at.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        let are_due = losses > self.collected && has_rested && !interval.is_zero();
        if are_due {
            *self = Self { collected: losses, collected_at: Some(now) };
        }
        are_due
    }
}

impl Ear {
    /// Collects what a message purges. Every instance does, so that whoever leads next knows what the last one may not have told.
    pub(super) fn collect_for_edge(&self, message: &Message) {
        let tags = message.soft.iter().chain(&message.hard).map(|tag| tag.name());
        self.collect(tags.filter(|name| !name.is_empty()));
    }

    pub(super) fn collect<'a>(&self, tags: impl Iterator<Item = &'a str>) {
        if let Some(outlet) = &self.outlet {
            outlet.pending.lock().add(tags, Instant::now());
        }
    }

    /// Tells the edge every `edge.batch_interval`, for as long as the instance lives.
    pub(super) async fn tell_edge(self: Arc<Self>, routes: impl Fn() -> Vec<Arc<Route>>) {
        let Some(outlet) = &self.outlet else { return };
        let interval = self.settings.edge.batch_interval.0;
        // By then whoever hears nothing of a change claims nothing to be fresh, and no CDN keeps his answers.
        let settle_time = self.settings.cache.max_silence.0;
        let (mut purse, mut losses) = (Purse::default(), Losses::default());
        while !self.is_leaving() {
            self.pause(interval).await;
            let now = Instant::now();
            // Nobody knows which tags were purged in what was missed, nor which changes a promotion has undone.
            if losses.are_due(self.pipeline.cache.fences.read(Ledger::losses), self.settings.edge.loss_interval.0, now)
            {
                self.collect(std::iter::once(EVERYTHING));
            }
            let fallen = if self.tells_edge() {
                outlet.pending.lock().take(settle_time, now)
            } else {
                // By then the leader has told it, or another one leads and still has it.
                let told = now.checked_sub(interval * 2 + settle_time + self.lease_time());
                told.into_iter().for_each(|at| outlet.pending.lock().forget_before(at));
                Vec::new()
            };
            let routes = routes();
            let routes = routes.iter().map(|route| &**route);
            let paths = match self.settings.edge.sends_tags() {
                true => tags::of(routes, &fallen),
                false => paths::of(routes, &fallen),
            };
            if paths.is_empty() && !fallen.is_empty() {
                log::debug!("nothing at the edge shows any of {}", fallen.join(" "));
            }
            for batch in paths.chunks(PATHS_MAX) {
                self.tell_batch(outlet, &mut purse, batch).await;
            }
        }
    }

    /// Whether this instance is the one to speak: the leader; without Redis it is a fleet of its own.
    fn tells_edge(&self) -> bool {
        self.bus.is_none() || self.is_leading.load(Ordering::Relaxed)
    }

    async fn tell_batch(&self, outlet: &Outlet, purse: &mut Purse, batch: &[String]) {
        match self.spend(purse, batch.len()).await {
            Ok(true) => {}
            Ok(false) if self.settings.edge.over_budget == OverBudget::Warn => {
                log::warn!("the edge is told of more paths than edge.paths_per_month_max; they are paid for");
            }
            Ok(false) => {
                log::warn!("the edge is not told to forget {} paths: edge.paths_per_month_max is reached", batch.len());
                return self.count_paths("suppressed", batch);
            }
            Err(failure) => {
                log::warn!("the edge is not told to forget {} paths: nobody counts them: {failure}", batch.len());
                return self.count_paths("failed", batch);
            }
        }
        let reference = format!("{}-{:016x}", self.settings.cache.namespace, fastrand::u64(..));
        let mut rest = REST_TIME;
        for attempt in 1..=self.settings.edge.attempts_max {
            let mut span = traces::call(self.pipeline.traces.as_ref(), "edge call");
            span.set("mainstay.paths", batch.len());
            span.set("http.request.resend_count", i64::from(attempt) - 1);
            let outcome = outlet.cloudfront.invalidate(&reference, batch).await;
            if let Err(refused) = &outcome {
                span.fail(if refused.is_passing { "refused_for_now" } else { "refused" });
                span.keep();
            }
            drop(span);
            match outcome {
                Ok(()) => {
                    log::info!("the edge forgets {}", batch.join(" "));
                    self.count_call("sent");
                    return self.count_paths("sent", batch);
                }
                Err(refused) if refused.is_passing && attempt < self.settings.edge.attempts_max => {
                    log::debug!("the edge was not told, attempt {attempt}: {refused}");
                    self.count_call("retried");
                }
                Err(refused) => {
                    log::error!("the edge is not told to forget {}: {refused}", batch.join(" "));
                    self.count_call("failed");
                    return self.count_paths("failed", batch);
                }
            }
            sleep(rest.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
            rest = (rest * 2).min(REST_TIME_MAX);
        }
    }

    /// Takes paths from the budget of the month, before they are sent: whoever fails in between has counted too many. Calls that fail
    /// are not given back, for what CloudFront made of them is not known.
    async fn spend(&self, purse: &mut Purse, paths: usize) -> Result<bool, Unavailable> {
        let month = Utc::now().format("%Y-%m").to_string();
        let (paths, paths_max) = (u64::try_from(paths).unwrap_or(u64::MAX), self.settings.edge.paths_per_month_max);
        match &self.bus {
            Some(bus) => bus.spend(&format!("edge:{month}"), paths, paths_max).await,
            None => Ok(purse.spend(&month, paths, paths_max)),
        }
    }

    fn count_call(&self, outcome: &str) {
        self.pipeline.metrics.edge_calls.with_label_values(&[outcome]).inc();
    }

    fn count_paths(&self, outcome: &str, paths: &[String]) {
        let counter = self.pipeline.metrics.edge_paths.with_label_values(&[outcome]);
        counter.inc_by(u64::try_from(paths.len()).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_a_row_are_told_once_and_none_is_forgotten() {
        let (start, interval) = (Instant::now(), Duration::from_secs(600));
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut losses = Losses::default();
        assert!(!losses.are_due(0, interval, at(0)));
        assert!(losses.are_due(1, interval, at(1)));
        assert!(!losses.are_due(1, interval, at(700)), "it is told");
        assert!(losses.are_due(2, interval, at(701)));
        assert!(!losses.are_due(4, interval, at(1_300)), "too soon");
        assert!(losses.are_due(4, interval, at(1_301)), "but not forgotten");
        assert!(!losses.are_due(5, Duration::ZERO, at(9_000)), "where that is not wanted");
    }

    #[test]
    fn a_month_has_its_own_budget_and_what_is_too_much_is_not_taken() {
        let mut purse = Purse::default();
        assert!(purse.spend("2026-11", 900, 1000));
        assert!(!purse.spend("2026-11", 101, 1000), "a batch goes whole, or not");
        assert!(purse.spend("2026-11", 100, 1000));
        assert!(!purse.spend("2026-11", 1, 1000));
        assert!(purse.spend("2026-12", 1000, 1000));
    }
}
