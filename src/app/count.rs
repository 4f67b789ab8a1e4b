//! The clock of a fleet without a database: a generation, and a count in it. Purges are all that is told then.
//!
//! Nothing outside Redis remembers the count, so a Redis that lost its memory takes it back. Whoever remembers more than Redis
//! does begins a new generation, which purges everything; and who has just come leaves the others time to notice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::time::sleep;

use super::hear::{Ear, Trouble};
use crate::cache::bus::Bus;
use crate::cache::fence::Message;
use crate::cache::shared::commands::Unavailable;
use crate::position::{Position, SystemId, Timeline};

impl Ear {
    /// Counts, for as long as the instance lives, where no database has a clock.
    pub(super) async fn count(self: Arc<Self>) {
        let Some(bus) = self.bus.as_ref().filter(|_| self.database.is_none()) else { return };
        let mut trouble = Trouble::new("the fleet cannot be told anything");
        let mut known: Option<(SystemId, Instant)> = None;
        while !self.is_leaving() {
            match self.count_once(bus, &mut known).await {
                Ok(()) => trouble.is_over(),
                Err(failure) => trouble.rest(&failure).await,
            }
            sleep(self.settings.changes.heartbeat_interval.0).await;
        }
    }

    async fn count_once(&self, bus: &Bus, known: &mut Option<(SystemId, Instant)>) -> Result<(), Unavailable> {
        // Before Redis is asked: what is heard while it answers may be newer than its answer, and nothing is lost then.
        let heard = self.last_of_stream();
        let generation = bus.generation().await?;
        let top = bus.top(generation).await?;
        let start = Position::start_of(generation, Timeline(0));
        if known.is_none_or(|(system, _)| system != generation) {
            *known = Some((generation, Instant::now()));
            let at = top.unwrap_or(start);
            self.pipeline.cache.fences.change(|ledger| ledger.begin(at, None));
            self.pipeline.cache.fences.expect_messages();
        }
        let heard = heard.filter(|heard| heard.system == generation);
        if heard.is_some_and(|heard| top.is_none_or(|top| top < heard)) {
            log::warn!("Redis has lost messages: all that was filled before counts as purged");
            return bus.begin_generation(generation).await;
        }
        let patience = self.settings.changes.heartbeat_interval.0 * 2;
        let is_settled = known.is_some_and(|(_, since)| since.elapsed() > patience);
        let leads = is_settled && bus.lead(self.lease_time()).await?;
        self.is_leading.store(leads, Ordering::Relaxed);
        if leads {
            let at = top.unwrap_or(start).next();
            let prev = self.tagged().filter(|tagged| tagged.system == generation).unwrap_or(start);
            let _another_may_have_counted_on = bus.publish(&counted(at, prev)).await?;
        }
        Ok(())
    }
}

/// A message that tells nothing but that there was nothing to tell.
fn counted(at: Position, prev: Position) -> Message {
    Message {
        at,
        reads: None,
        prev: Some(prev),
        through: at,
        cursor: String::new(),
        soft: Vec::new(),
        hard: Vec::new(),
        purges: Vec::new(),
    }
}
