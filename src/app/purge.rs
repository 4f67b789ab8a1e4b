//! Operators' purges: into the log, so that every instance of every region hears them, and then the count of who has.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::hear::Ear;
use crate::admin::purge::{Order, Purger, Report};
use crate::cache::bus::Published;
use crate::cache::fence::Message;
use crate::cache::tag::Tag;
use crate::database::changes::feed::{Feed, FeedError, Reader};
use crate::error::Error;
use crate::position::Position;

/// How long a purge waits for others to confirm it.
const CONFIRMATION_TIME: Duration = Duration::from_secs(2);
const CONFIRMATION_INTERVAL: Duration = Duration::from_millis(10);
/// How often a purge is put at the end of a stream that has gone on meanwhile.
const PUBLICATIONS_MAX: usize = 5;
/// A reader of another region that was not heard of for so long is no region that there is.
const READER_TIME_MAX: Duration = Duration::from_secs(25);

impl Purger for Ear {
    fn purge(&self, order: Order) -> BoxFuture<'_, Result<Report, Error>> {
        async move {
            if !self.pipeline.capabilities.tells {
                let others = vec!["all others: this is a failover origin, which tells nobody".to_owned()];
                return Ok(self.purge_here(&order, fastrand::i64(1 << 60..i64::MAX), None, others));
            }
            match &self.database {
                Some(database) => {
                    let reader = Reader { name: "operator".to_owned(), region: self.settings.region.clone() };
                    let mut feed = database.feed(reader);
                    match feed.purge(&order.tags, order.hard).await {
                        Ok(purge) => Ok(self.confirmations(&mut feed, purge.id, purge.fence).await),
                        Err(error) => Ok(self.purge_without_log(&order, feed.fence().await.ok(), &error).await),
                    }
                }
                None => Ok(self.purge_without_log(&order, None, &FeedError::NotMigrated).await),
            }
        }
        .boxed()
    }
}

impl Ear {
    /// Waits until all who are known have applied a purge, or for as long as that may take.
    async fn confirmations(&self, feed: &mut Feed, id: i64, fence: Position) -> Report {
        let deadline = Instant::now() + CONFIRMATION_TIME;
        loop {
            let (known, confirmed) = self.instances(id).await;
            let readers = feed.readers_past(id).await.unwrap_or_default();
            let (mut reached, mut unreached) = (BTreeSet::new(), BTreeSet::new());
            for reader in readers.into_iter().filter(|reader| reader.seen_ago < READER_TIME_MAX) {
                if reader.is_past {
                    reached.insert(reader.region)
                } else {
                    unreached.insert(reader.region)
                };
            }
            // A region is reached when all of it is.
            reached.retain(|region| !unreached.contains(region));
            let is_done = confirmed >= known && unreached.is_empty();
            if is_done || Instant::now() > deadline {
                let (reached, unreached) = (reached.into_iter().collect(), unreached.into_iter().collect());
                return Report { id: id.to_string(), fence: Some(fence), known, confirmed, reached, unreached };
            }
            sleep(CONFIRMATION_INTERVAL).await;
        }
    }

    /// Instances of this fleet that are there, and those of them that have applied a purge.
    async fn instances(&self, id: i64) -> (usize, usize) {
        let own = usize::from(self.has_applied(id));
        let Some(bus) = &self.bus else { return (1, own) };
        match (bus.be_present().await, bus.confirmed(id).await) {
            (Ok(known), Ok(confirmed)) => (known.max(confirmed).max(1), confirmed.max(own)),
            _ => (1, own),
        }
    }

    /// A purge that the log does not take, since there is none, or none that can be written now: it goes to the fleet's
    /// stream, else it holds here alone.
    async fn purge_without_log(&self, order: &Order, fence: Option<Position>, why: &FeedError) -> Report {
        let tags: Vec<Tag> = order.tags.iter().map(|tag| Tag::new(tag.as_str())).collect();
        let own_region = || vec![self.settings.region.clone()];
        let unheard = match why {
            FeedError::NotMigrated => Vec::new(),
            error => {
                log::warn!("a purge did not reach the log: {error}");
                vec!["all others: repeat the purge once the primary can be reached".to_owned()]
            }
        };
        let id = fastrand::i64(1 << 60..i64::MAX);
        if let Some(mut message) = self.message_of(order, id, fence, &tags)
            && self.publish_alone(&mut message).await
        {
            let deadline = Instant::now() + CONFIRMATION_TIME;
            loop {
                let (known, confirmed) = self.instances(id).await;
                if confirmed >= known || Instant::now() > deadline {
                    let fence = Some(message.at);
                    let id = id.to_string();
                    return Report { id, fence, known, confirmed, reached: own_region(), unreached: unheard };
                }
                sleep(CONFIRMATION_INTERVAL).await;
            }
        }
        self.purge_here(order, id, fence, unheard)
    }

    /// Purges on this instance alone.
    fn purge_here(&self, order: &Order, id: i64, fence: Option<Position>, unheard: Vec<String>) -> Report {
        let tags: Vec<Tag> = order.tags.iter().map(|tag| Tag::new(tag.as_str())).collect();
        let told = self.pipeline.cache.fences.change(|ledger| {
            ledger.purge_here(&tags, fence, order.hard);
            ledger.told()
        });
        let kind = if order.hard { "hard" } else { "soft" };
        self.pipeline.metrics.purges.with_label_values(&[kind]).inc();
        if let Some(snapshots) = self.snapshots.as_ref().filter(|_| order.hard) {
            snapshots.forget();
        }
        self.pipeline.refresh_hottest();
        self.collect(order.tags.iter().map(String::as_str));
        let reached = vec![self.settings.region.clone()];
        Report { id: id.to_string(), fence: fence.or(told), known: 1, confirmed: 1, reached, unreached: unheard }
    }

    /// The message of a purge that follows on all that was heard. Without a fence of the primary, which then writes nothing
    /// either, what was told last is what a fill must have read.
    fn message_of(&self, order: &Order, id: i64, fence: Option<Position>, tags: &[Tag]) -> Option<Message> {
        let told = self.pipeline.cache.fences.read(|ledger| ledger.told())?;
        self.bus.as_ref()?;
        let (soft, hard) = if order.hard { (Vec::new(), tags.to_vec()) } else { (tags.to_vec(), Vec::new()) };
        Some(Message {
            at: fence.unwrap_or(told.next()),
            reads: self.database.as_ref().map(|_| fence.unwrap_or(told)),
            prev: Some(self.tagged().unwrap_or(Position::start_of(told.system, told.timeline))),
            through: Position::start_of(told.system, told.timeline),
            cursor: String::new(),
            soft,
            hard,
            purges: vec![id],
        })
    }

    /// Puts a purge behind whatever is last by then.
    async fn publish_alone(&self, message: &mut Message) -> bool {
        let Some(bus) = &self.bus else { return false };
        for _ in 0..PUBLICATIONS_MAX {
            let outcome = match bus.publish(message).await {
                Ok(Published::Done) => return true,
                Ok(Published::Overtaken) => bus.top(message.at.system).await,
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(top) => message.at = top.unwrap_or(message.at).next(),
                Err(failure) => {
                    log::warn!("a purge did not reach the fleet: {failure}");
                    return false;
                }
            }
        }
        false
    }
}
