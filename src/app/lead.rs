//! The leader of a fleet: follows the change feed for all, and publishes what it brings to the stream.
//!
//! Publish, then advance the stored cursor: who dies in between is followed by one who publishes it again. That a leader may
//! be paused anywhere, and come back when another leads, is the reason for the order of the stream and for the chain in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::hear::{ChangesPace, Ear, Trouble, message};
use crate::cache::bus::{Bus, Published};
use crate::cache::fence::Message;
use crate::cache::shared::commands::Unavailable;
use crate::config::manifest::Watch;
use crate::database::changes::feed::{Cursor, Feed, FeedError, Reader, Started};
use crate::position::Position;

/// How long a leader may be silent until another one takes over, at least.
const LEASE_TIME_MIN: Duration = Duration::from_millis(1500);
/// How often those who do not lead ask whether they may.
const CANDIDACY_INTERVAL: Duration = Duration::from_millis(300);

/// Why somebody cannot lead.
struct Failed(String);

impl From<FeedError> for Failed {
    fn from(error: FeedError) -> Self {
        Self(error.to_string())
    }
}

impl From<Unavailable> for Failed {
    fn from(failure: Unavailable) -> Self {
        Self(failure.to_string())
    }
}

impl Ear {
    /// Leads whenever nobody else does, for as long as the instance lives.
    pub(super) async fn lead(self: Arc<Self>) {
        let (Some(bus), Some(database)) = (&self.bus, &self.database) else { return };
        let name = format!("fleet {} of {}", self.settings.cache.namespace, self.settings.region);
        let mut feed = database.feed(Reader { name, region: self.settings.region.clone() });
        let mut trouble = Trouble::new("this instance cannot publish changes for its fleet");
        while !self.is_leaving() {
            let may_lead = bus.lead(self.lease_time()).await;
            match may_lead {
                Ok(true) => {
                    let ended = self.publish(bus, &mut feed, &mut trouble).await;
                    self.is_leading.store(false, Ordering::Relaxed);
                    if let Err(Failed(reason)) = ended {
                        // Another instance may reach what this one cannot.
                        let _may_be_out_of_reach = bus.follow().await;
                        trouble.rest(&reason).await;
                    }
                }
                // Connections to the primary are few.
                Ok(false) => feed.close(),
                Err(failure) => trouble.rest(&failure).await,
            }
            sleep(CANDIDACY_INTERVAL.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        }
    }

    /// The lease is renewed with each heartbeat, and has to outlive one that comes late.
    pub(super) fn lease_time(&self) -> Duration {
        LEASE_TIME_MIN.max(self.pace().beat.saturating_mul(3))
    }

    /// Publishes until another instance leads.
    async fn publish(&self, bus: &Bus, feed: &mut Feed, trouble: &mut Trouble) -> Result<(), Failed> {
        let ChangesPace { poll, beat } = self.pace();
        let started = feed.start().await?;
        if started.denied {
            // Others may follow it: whoever leads blindly would tell them that nothing has changed.
            return Err(FeedError::Denied.into());
        }
        bus.announce(started.position.system).await?;
        let (mut cursor, mut prev) = self.go_on(feed, &started).await?;
        let (mut beat_at, mut led_until, mut through) = (None::<Instant>, Instant::now(), None);
        while !self.is_leaving() {
            let is_due = beat_at.is_none_or(|at| at.elapsed() >= beat);
            if is_due {
                led_until = Instant::now() + self.lease_time();
                if !bus.lead(self.lease_time()).await? {
                    return Ok(());
                }
            }
            let message = if started.migrated {
                let batch = feed.poll(&cursor, is_due).await?;
                cursor = batch.cursor.clone();
                through = batch.through.or(through);
                // What the feed has lost is a gap for all who hear this.
                let is_lost = batch.lost;
                batch.fence.map(|fence| message(batch, fence, Some(if is_lost { fence } else { prev }), through))
            } else if is_due {
                let prev = self.tagged().filter(|at| is_same_branch(*at, started.position)).unwrap_or(prev);
                Some(heartbeat(feed.fence().await?, prev))
            } else {
                None
            };
            if let Some(message) = message {
                // Whoever was held up since then may have been replaced, and breaks the chain of the one who leads now. Who is held
                // up after this look is refused: his fence is too old.
                if Instant::now() > led_until && !bus.lead(self.lease_time()).await? {
                    return Ok(());
                }
                if bus.publish(&message).await? == Published::Overtaken {
                    return Ok(());
                }
                // Whatever was told meanwhile: with the heartbeat goes the lease, and without it another one would lead as well.
                beat_at = if is_due { Some(Instant::now()) } else { beat_at };
                self.is_leading.store(true, Ordering::Relaxed);
                trouble.is_over();
                if message.has_tags() {
                    prev = message.at;
                    if !feed.advance(&cursor, message.at).await? {
                        return Err(Failed("the fleet's cursor had expired".to_owned()));
                    }
                }
            }
            sleep(poll).await;
        }
        Ok(())
    }

    /// From where a leader goes on, and what its first message follows on: what the database remembers of it, or the end of the
    /// stream as it was heard here, if that is later. It is where leaders of other regions have led, since each region has a
    /// cursor of its own, and where the cursor has expired. Whoever has neither does not know what was told, and begins
    /// anew: then all that was filled before counts as purged.
    async fn go_on(&self, feed: &mut Feed, started: &Started) -> Result<(Cursor, Position), Failed> {
        let is_here = |at: Position| is_same_branch(at, started.position);
        let heard = self.end_of_stream().filter(|end| is_here(end.at));
        let tagged = self.tagged().filter(|at| is_here(*at));
        Ok(match (started.last, heard) {
            (stored, Some(end)) if stored.is_none_or(|stored| end.prev > stored) => (end.cursor, end.prev),
            (Some(stored), _) => (started.cursor.clone(), tagged.map_or(stored, |tagged| stored.later(tagged))),
            (None, _) if started.migrated => {
                feed.advance(&started.cursor, started.position).await?;
                (started.cursor.clone(), started.position)
            }
            (None, _) => (started.cursor.clone(), tagged.unwrap_or(started.position)),
        })
    }

    /// Looks after the triggers of watched tables, where this instance is the one to do so.
    pub(super) async fn guard(self: Arc<Self>, watches: impl Fn() -> Vec<Watch>) {
        let Some(database) = &self.database else { return };
        let reader = Reader { name: format!("guard {}", self.instance), region: self.settings.region.clone() };
        let mut feed = database.feed(reader);
        let mut is_said = false;
        loop {
            sleep(self.settings.changes.watch_interval.0).await;
            let is_mine = match &self.bus {
                Some(bus) => bus.leads().await.unwrap_or(true),
                None => true,
            };
            let gauges = &self.pipeline.metrics.watch_broken;
            if !is_mine {
                // Whoever does look says what he sees.
                gauges.reset();
                feed.close();
                continue;
            }
            let watches = watches();
            match feed.guard(&watches).await {
                Ok(findings) => {
                    let is_watched = |table: &str| watches.iter().any(|watch| watch.table == table);
                    self.pipeline.metrics.retain("table", is_watched);
                    for watch in &watches {
                        let is_broken = findings.iter().any(|finding| finding.table == watch.table);
                        gauges.with_label_values(&[&watch.table]).set(i64::from(is_broken));
                    }
                }
                Err(FeedError::NotMigrated) => {
                    if !watches.is_empty() && !std::mem::replace(&mut is_said, true) {
                        log::warn!(
                            "the manifest watches tables, and the database has no change feed: answers live by time; \
                             run `mainstay migrate`"
                        );
                    }
                }
                Err(error) => log::debug!("the watched tables could not be looked at: {error}"),
            }
        }
    }
}

fn is_same_branch(one: Position, other: Position) -> bool {
    one.system == other.system && one.timeline == other.timeline
}

/// Tells that nothing was to be told, where no feed says more than that.
fn heartbeat(fence: Position, prev: Position) -> Message {
    Message {
        at: fence,
        reads: Some(fence),
        prev: Some(prev),
        through: fence,
        cursor: String::new(),
        soft: Vec::new(),
        hard: Vec::new(),
        purges: Vec::new(),
    }
}
