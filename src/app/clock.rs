//! The clock of a fleet without a database: a generation in Redis, and the ids of its stream.
//!
//! Redis may lose what it had, or come back with what it had long ago, and no database knows better. So a generation ends
//! with the Redis server that it was begun on, and as soon as the stream is found to end before what was heard of it. Nothing
//! that was filled under one generation is current under the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::hear::{Ear, Trouble};
use super::lead::LEASE_TIME;
use crate::cache::bus::{Bus, Published};
use crate::cache::fence::{Ledger, Message};
use crate::cache::shared::commands::Unavailable;
use crate::cache::tag::Tag;
use crate::position::{Position, SystemId, Timeline};

/// How often a message is numbered anew, because another one took its number.
const ATTEMPTS_MAX: usize = 20;

/// What a message of this clock tells of.
#[derive(Default)]
pub(super) struct News {
    pub(super) soft: Vec<Tag>,
    pub(super) hard: Vec<Tag>,
    pub(super) purges: Vec<i64>,
}

impl Ear {
    /// Keeps the clock going where there is no database, for as long as the instance lives: one of the fleet tells all others
    /// that nothing is missing.
    pub(super) async fn keep_clock(self: Arc<Self>) {
        let (Some(bus), None) = (&self.bus, &self.database) else { return };
        let mut trouble = Trouble::new("the clock of this fleet stands still");
        loop {
            match self.tick(bus).await {
                Ok(()) => trouble.is_over(),
                Err(failure) => trouble.rest(&failure).await,
            }
            sleep(self.settings.changes.heartbeat_interval.0).await;
        }
    }

    async fn tick(&self, bus: &Bus) -> Result<(), Unavailable> {
        // Who has a database leads those who have none.
        let leads = bus.system().await?.is_none() && bus.lead(LEASE_TIME).await?;
        self.is_leading.store(leads, Ordering::Relaxed);
        if leads {
            self.publish_next(bus, News::default()).await?;
        }
        // What the stream does not tell of purges for good, nobody does.
        let fences = &self.pipeline.cache.fences;
        if fences.read(|ledger| ledger.hard_unknown() && ledger.is_caught_up()) {
            fences.change(Ledger::give_up_hard);
        }
        Ok(())
    }

    /// Publishes at the next place of the stream. `None` where others were always faster.
    pub(super) async fn publish_next(&self, bus: &Bus, news: News) -> Result<Option<Message>, Unavailable> {
        for _ in 0..ATTEMPTS_MAX {
            let system = bus.generation(None).await?;
            let start = Position::start_of(system, Timeline(0));
            let last = bus.last(system).await?;
            let end = last.as_ref().map_or(start, |last| last.at);
            if self.pipeline.cache.fences.read(|ledger| ledger.through().is_some_and(|through| through > end)) {
                log::warn!("the stream ends before what was heard of it: all that was filled before counts as purged");
                bus.generation(Some(system)).await?;
                continue;
            }
            let prev = last.and_then(|last| if last.has_tags() { Some(last.at) } else { last.prev });
            let at = end.next();
            let News { soft, hard, purges } = &news;
            let message = Message {
                at,
                reads: Some(at),
                prev: Some(prev.unwrap_or(start)),
                through: at,
                cursor: String::new(),
                soft: soft.clone(),
                hard: hard.clone(),
                purges: purges.clone(),
            };
            if bus.publish(&message).await? == Published::Done {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The clock that an instance without a database goes by: that of one that others publish for, else the fleet's own.
    pub(super) async fn clock(&self, bus: &Bus) -> Result<SystemId, Unavailable> {
        if let Some(system) = bus.system().await? {
            return Ok(system);
        }
        let system = bus.generation(None).await?;
        let told = self.pipeline.cache.fences.read(Ledger::told);
        if told.is_none_or(|told| told.system != system) {
            let last = bus.last(system).await?;
            self.begin(last.map_or(Position::start_of(system, Timeline(0)), |last| last.at));
        }
        Ok(system)
    }
}
