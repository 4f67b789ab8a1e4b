//! The roll-up of what is counted here into what is counted by day, in the background and once more at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

use super::Core;
use super::upkeep::Upkeep;
use crate::database::maintenance::MaintenanceConnection;
use crate::ramp::statistics::tally::{Counts, Tally, next_look};
use crate::ramp::statistics::{self, are_shown_by};
use crate::telemetry::by_route::RouteTotals;

/// What does not come back within this is left behind, and done again by the next round.
const ROUND_TIME_MAX: Duration = Duration::from_secs(60);

/// What this instance has counted and not rolled up yet.
pub(super) struct Statistics(Mutex<Tally>);

impl Default for Statistics {
    fn default() -> Self {
        Self(Mutex::new(Tally::new(Uuid::new_v4(), Utc::now())))
    }
}

impl Core {
    /// Rolls up what is counted as long as the manifest has a route that shows it, and the money that its handlers have moved. Runs
    /// until the system ends.
    pub(super) async fn keep_statistics(self: Arc<Self>) {
        let interval = self.pipeline.settings.statistics.interval.0;
        let mut upkeep = Upkeep::new(&self.pipeline.settings);
        let mut is_said = false;
        loop {
            actix_rt::time::sleep(next_look(Utc::now(), interval)).await;
            let round = timeout(ROUND_TIME_MAX, self.roll_up(&mut upkeep)).await;
            match round.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                Ok(()) => is_said = false,
                Err(error) if std::mem::replace(&mut is_said, true) => {
                    log::debug!("statistics are not rolled up: {error}")
                }
                Err(error) => log::warn!("statistics are not rolled up, until they are: {error}"),
            }
        }
    }

    /// Rolls up what is left to roll up, by a deadline.
    pub(super) async fn leave_statistics(&self, deadline: Instant) {
        if self.pipeline.database.is_none() || !self.are_statistics_shown() {
            return;
        }
        let mut upkeep = Upkeep::new(&self.pipeline.settings);
        match timeout_at(deadline, self.roll_up(&mut upkeep)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::warn!("the last statistics are lost: {error}"),
            Err(_) => log::warn!("the last statistics are lost: the database did not answer in time"),
        }
    }

    /// Rolls up what was counted since the last time.
    ///
    /// # Errors
    /// Why that was not done. It is still to be done then.
    async fn roll_up(&self, upkeep: &mut Upkeep) -> Result<(), String> {
        let (is_shown, moves_money) = (self.are_statistics_shown(), self.moves_money());
        self.look_at_statistics();
        let batch = self.statistics.0.lock().batch();
        if batch.is_none() && !is_shown && !moves_money {
            return Ok(());
        }
        let sent = batch.clone();
        let work = move |conn: &mut MaintenanceConnection| {
            if let Some(batch) = &sent {
                statistics::add(conn, batch)?;
            }
            statistics::count_money(conn)
        };
        let counted = upkeep.run(work).await?;
        if let Some(batch) = batch {
            self.statistics.0.lock().is_added(&batch);
        }
        log::debug!("statistics are rolled up, with {counted} transactions");
        Ok(())
    }

    /// Gathers what was counted since the last look.
    pub(super) fn look_at_statistics(&self) {
        let look = if self.are_statistics_shown() { Tally::look } else { Tally::skip };
        let totals = self.totals();
        look(&mut self.statistics.0.lock(), totals, Utc::now());
    }

    /// What was counted of the routes since the process began.
    fn totals(&self) -> BTreeMap<String, Counts> {
        let surface = self.surface.load();
        surface.endpoints().for_each(|endpoint| endpoint.counters.export());
        let mut counted = self.pipeline.metrics.by_route();
        // What matched no route, and the health pages, are nobody's.
        counted.retain(|route, _| route.starts_with('/'));
        let counts = |(route, totals): (String, RouteTotals)| {
            (route, Counts { requests: totals.requests, errors: totals.errors, hits: totals.hits })
        };
        counted.into_iter().map(counts).collect()
    }

    fn are_statistics_shown(&self) -> bool {
        let surface = self.surface.load();
        surface.endpoints().any(|endpoint| are_shown_by(&endpoint.route.source))
    }
}
