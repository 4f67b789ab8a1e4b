//! How an instance hears of changes: from the fleet's stream, or by following the change feed itself while the stream is
//! silent or there is none. `docs/coherence.md` says why it may go from the one to the other and back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::admin::journal::Journal;
use crate::cache::bus::{Bus, Delivery, READ_MAX};
use crate::cache::fence::{Applied, Ledger, Message};
use crate::cache::shared::commands::Unavailable;
use crate::cache::tag::Tag;
use crate::config::settings::{PastHardPurgeSilence, Settings};
use crate::database::changes::feed::{Batch, Cursor, Feed, FeedError, Reader};
use crate::database::read::Database;
use crate::edge::Outlet;
use crate::http::pipeline::Pipeline;
use crate::position::{Position, SystemId, Timeline};

use super::snapshots::Snapshots;

/// How long a source of messages that failed is left alone at most.
const BACKOFF_TIME_MAX: Duration = Duration::from_secs(1);
/// How often an instance whose database has no change feed looks whether it has one now.
const MIGRATION_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked which cluster's stream is to be read, until that is known.
const SYSTEM_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is looked whether hard purges may have been missed.
const HARD_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long an instance that leaves waits until it is forgotten.
const LEAVING_TIME_MAX: Duration = Duration::from_millis(300);
/// Operators' purges that are remembered as applied.
const PURGES_MAX: usize = 1000;

/// The ear of an instance.
pub struct Ear {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) database: Option<Arc<Database>>,
    pub(super) bus: Option<Bus>,
    pub(super) settings: Arc<Settings>,
    pub(super) snapshots: Option<Arc<Snapshots>>,
    pub(super) outlet: Option<Outlet>,
    journal: Arc<Journal>,
    pub(super) instance: String,
    pub(super) is_leading: AtomicBool,
    /// Whether the stream has more than was read of it.
    is_behind: AtomicBool,
    is_leaving: AtomicBool,
    has_left: Notify,
    heard: Mutex<Heard>,
}

/// What was heard last.
#[derive(Default)]
struct Heard {
    /// Whether any message was heard: what came before the first one was missed by all who begin.
    anything: bool,
    /// When the stream last said anything, and what.
    stream_at: Option<Instant>,
    stream: Option<Position>,
    /// The last message that carried a cursor: from there this instance can go on by itself.
    cursor: Option<(Position, Cursor)>,
    /// The last message of the stream that had tags.
    tagged: Option<Position>,
    /// From where whoever leads next can go on.
    end: Option<StreamEnd>,
    purges: VecDeque<i64>,
}

/// What the stream has told so far, by its last message: all that the cursor shows was told by `prev` and those before it. What
/// an instance has told itself is not in it, since nobody else was told of that.
#[derive(Clone, Debug)]
pub(super) struct StreamEnd {
    /// The message that carried the cursor.
    pub(super) at: Position,
    /// What a message with the rows that the cursor does not show follows on.
    pub(super) prev: Position,
    pub(super) cursor: Cursor,
}

/// The kind of a message, as metrics say it.
fn kind_of(message: &Message) -> &'static str {
    if message.has_tags() { "change" } else { "heartbeat" }
}

impl StreamEnd {
    /// The end after one more message.
    fn after(end: Option<Self>, message: &Message) -> Option<Self> {
        let prev = if message.has_tags() { message.at } else { message.prev? };
        if message.cursor.is_empty() {
            // A purge that is in no feed: the rows are where they were, if it knew of all that was told of them.
            return end.filter(|end| message.prev == Some(end.prev)).map(|end| Self { prev, ..end });
        }
        Some(Self { at: message.at, prev, cursor: Cursor::new(message.cursor.clone()) })
    }
}

/// A source of messages that does not answer, said once until it does.
pub(super) struct Trouble {
    what: &'static str,
    is_said: bool,
    backoff: Duration,
}

impl Trouble {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, is_said: false, backoff: Duration::from_millis(50) }
    }

    /// Says why, the first time, and rests.
    pub(super) async fn rest(&mut self, reason: &dyn std::fmt::Display) {
        if !self.is_said {
            log::warn!("{}: {reason}", self.what);
            self.is_said = true;
        }
        sleep(self.backoff.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_TIME_MAX);
    }

    pub(super) fn is_over(&mut self) {
        if self.is_said {
            log::info!("{}: that is over", self.what);
        }
        *self = Self::new(self.what);
    }
}

impl Ear {
    pub(super) fn new(
        pipeline: Arc<Pipeline>,
        bus: Option<Bus>,
        snapshots: Option<Arc<Snapshots>>,
        outlet: Option<Outlet>,
        journal: Arc<Journal>,
        instance: String,
    ) -> Self {
        let (database, settings) = (pipeline.database.clone(), Arc::clone(&pipeline.settings));
        Self {
            pipeline,
            database,
            bus,
            settings,
            snapshots,
            outlet,
            journal,
            instance,
            is_leading: AtomicBool::new(false),
            is_behind: AtomicBool::new(true),
            is_leaving: AtomicBool::new(false),
            has_left: Notify::new(),
            heard: Mutex::default(),
        }
    }

    /// Where nobody is to tell this instance anything, it has a clock of its own. Where somebody is to, it has none until he
    /// does: then nothing that it fills is claimed to be fresh for longer than a moment.
    pub(super) fn begin_alone(&self) {
        let has_clock = self.pipeline.cache.fences.read(|ledger| ledger.told().is_some());
        if self.bus.is_none() && !has_clock {
            let at = Position::start_of(SystemId(fastrand::u64(..)), Timeline(0));
            self.pipeline.cache.fences.change(|ledger| ledger.begin_alone(at));
        }
    }

    /// Takes a message to account that the stream brought.
    fn apply(&self, message: &Message) {
        let now = Instant::now();
        let applied = self.pipeline.cache.fences.apply(message, now);
        {
            let mut heard = self.heard.lock();
            heard.stream = Some(message.at);
            // A publisher that was left behind on an older timeline says nothing that counts here: whoever knows better
            // follows the feed himself, in place of falling silent for as long as that one has the lease.
            if !applied.foreign {
                heard.stream_at = Some(now);
                heard.end = StreamEnd::after(heard.end.take(), message);
            }
        }
        self.note(message, applied, "stream");
    }

    /// Takes a message to account that this instance made for itself.
    fn apply_own(&self, message: &Message) {
        let applied = self.pipeline.cache.fences.apply(message, Instant::now());
        self.note(message, applied, "feed");
    }

    fn note(&self, message: &Message, applied: Applied, source: &str) {
        if applied.foreign {
            return;
        }
        if let Some(database) = self.database.as_ref().filter(|_| self.tells()) {
            database.see(message.at.system, message.at.timeline);
        }
        let metrics = &self.pipeline.metrics;
        metrics.bus_messages.with_label_values(&[source, kind_of(message)]).inc();
        for (kind, tags) in [("soft", &message.soft), ("hard", &message.hard)] {
            if !tags.is_empty() {
                metrics.purges.with_label_values(&[kind]).inc();
            }
        }
        if message.has_tags() {
            self.pipeline.refresh_hottest();
            self.collect_for_edge(message);
            self.journal.heard(message, Utc::now());
        }
        if let Some(snapshots) = self.snapshots.as_ref().filter(|_| !message.hard.is_empty()) {
            snapshots.forget();
        }
        let is_first = !std::mem::replace(&mut self.heard.lock().anything, true);
        if applied.gap && !is_first {
            metrics.bus_gaps.with_label_values(&[source]).inc();
            log::warn!("messages before {} were missed: what was filled before counts as purged", message.at);
        }
        let mut heard = self.heard.lock();
        if !message.cursor.is_empty() {
            heard.cursor = Some((message.at, Cursor::new(message.cursor.clone())));
        }
        if message.has_tags() && message.prev.is_some() {
            heard.tagged = Some(message.at);
        }
        heard.purges.extend(&message.purges);
        while heard.purges.len() > PURGES_MAX {
            heard.purges.pop_front();
        }
    }

    /// Whether an operator's purge is applied here.
    pub(super) fn has_applied(&self, purge: i64) -> bool {
        self.heard.lock().purges.contains(&purge)
    }

    /// The last message of the stream that had tags.
    pub(super) fn tagged(&self) -> Option<Position> {
        self.heard.lock().tagged
    }

    /// From where whoever leads next can go on.
    pub(super) fn end_of_stream(&self) -> Option<StreamEnd> {
        self.heard.lock().end.clone()
    }

    /// The last message of the stream.
    pub(super) fn last_of_stream(&self) -> Option<Position> {
        self.heard.lock().stream
    }

    /// Whether the stream has said something lately, so that nobody need follow the feed himself.
    fn stream_speaks(&self) -> bool {
        let patience = self.settings.changes.heartbeat_interval.0 * 5 / 2;
        self.bus.is_some() && self.heard.lock().stream_at.is_some_and(|at| at.elapsed() < patience)
    }

    /// Tells the fences of a new timeline as soon as any node shows one.
    pub(super) async fn watch_timeline(self: Arc<Self>) {
        if self.database.is_none() {
            return;
        }
        loop {
            let fences = &self.pipeline.cache.fences;
            let is_news = fences.read(|ledger| self.newer_timeline(ledger).is_some());
            if is_news && fences.change(|ledger| self.follow_timeline(ledger)) {
                log::warn!("the primary is on another timeline now: all that was filled before counts as purged");
            }
            sleep(self.settings.replication.sample_interval.0).await;
        }
    }

    /// A later timeline of the ledger's cluster than it knows of. Until its clock is the database's there is none to be on.
    fn newer_timeline(&self, ledger: &Ledger) -> Option<(SystemId, Timeline)> {
        let is_news = |(system, timeline): &(SystemId, Timeline)| {
            ledger.told().is_some_and(|told| told.system == *system && told.timeline < *timeline)
        };
        self.database.as_ref()?.highest().filter(is_news)
    }

    fn follow_timeline(&self, ledger: &mut Ledger) -> bool {
        self.newer_timeline(ledger).is_some_and(|(system, timeline)| ledger.enter(system, timeline))
    }

    /// Reads the stream for as long as the instance lives.
    pub(super) async fn hear_stream(self: Arc<Self>) {
        let Some(bus) = &self.bus else { return };
        let mut trouble = Trouble::new("the stream cannot be read");
        let mut after: Option<Position> = None;
        loop {
            match self.hear_stream_once(bus, &mut after, &mut trouble).await {
                Ok(()) => {}
                Err(failure) => trouble.rest(&failure).await,
            }
        }
    }

    async fn hear_stream_once(
        &self,
        bus: &Bus,
        after: &mut Option<Position>,
        trouble: &mut Trouble,
    ) -> Result<(), Unavailable> {
        let mut link = bus.dedicated().await?;
        let mut present_at: Option<Instant> = None;
        loop {
            let Some(system) = self.system(bus).await? else {
                // Where there is no stream, all of it has been read.
                self.is_behind.store(false, Ordering::Relaxed);
                sleep(SYSTEM_LOOK_INTERVAL).await;
                continue;
            };
            if after.is_some_and(|after| after.system != system) {
                *after = None;
            }
            if self.tells() && present_at.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                bus.be_present().await?;
                present_at = Some(Instant::now());
            }
            // Until its end was seen, nobody waits for what comes after it.
            let wait = if self.is_behind() { Duration::ZERO } else { self.settings.changes.heartbeat_interval.0 };
            let messages = bus.read(&mut link, system, *after, wait).await?;
            trouble.is_over();
            let is_behind = messages.len() == READ_MAX;
            // What stood in the stream before this instance came to its end was not late.
            let is_catching_up = self.is_behind();
            for Delivery { at, message, delay } in messages {
                *after = Some(at);
                let Some(message) = message else { continue };
                self.apply(&message);
                if let Some(delay) = delay.filter(|_| !is_catching_up) {
                    self.pipeline.metrics.bus_delay.with_label_values(&[kind_of(&message)]).observe(delay);
                }
                for purge in message.purges.iter().filter(|_| self.tells()) {
                    bus.confirm(*purge).await?;
                }
            }
            self.is_behind.store(is_behind, Ordering::Relaxed);
        }
    }

    /// Whether the stream has more than was read of it, or nothing was read yet.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }

    fn tells(&self) -> bool {
        self.pipeline.capabilities.tells
    }

    /// The cluster whose stream is read: that of the own database, or the one that others publish for. Who only listens has
    /// nothing of his own to go by.
    async fn system(&self, bus: &Bus) -> Result<Option<SystemId>, Unavailable> {
        match self.database.as_ref().filter(|_| self.tells()).and_then(|database| database.highest()) {
            Some((system, _)) => Ok(Some(system)),
            None => bus.system().await,
        }
    }

    /// Follows the change feed itself: always where there is no stream, else for as long as the stream is silent.
    pub(super) async fn hear_feed(self: Arc<Self>) {
        let Some(database) = &self.database else { return };
        let reader = Reader { name: self.instance.clone(), region: self.settings.region.clone() };
        let mut feed = database.feed(reader);
        let mut trouble = Trouble::new("the change feed cannot be read");
        while !self.is_leaving() {
            let outcome = if self.bus.is_some() && !self.has_begun() {
                // Where it begins it asks the primary itself: the stream may be one that Redis has loaded from long ago.
                feed.fence().await.map(|position| {
                    self.begin(position);
                })
            } else if self.stream_speaks() {
                feed.close();
                sleep(self.settings.changes.heartbeat_interval.0 / 2).await;
                continue;
            } else {
                self.hear_feed_once(&mut feed, &mut trouble).await
            };
            match outcome {
                Ok(()) => {}
                Err(FeedError::NotMigrated) => {
                    self.begin_alone();
                    self.pause(MIGRATION_LOOK_INTERVAL).await;
                }
                Err(error @ FeedError::Denied) => {
                    self.begin_alone();
                    trouble.rest(&error).await;
                }
                Err(error) => trouble.rest(&error).await,
            }
        }
        self.has_left.notify_one();
    }

    /// Learns which purges for good may have been missed, whenever that may be.
    pub(super) async fn learn_hard_purges(self: Arc<Self>) {
        let Some(database) = &self.database else { return };
        let fences = &self.pipeline.cache.fences;
        let patience = self.settings.cache.max_silence.0;
        let serves = self.settings.cache.past_hard_purge_max_silence == PastHardPurgeSilence::Serve;
        let reader = Reader { name: "hard purges".to_owned(), region: self.settings.region.clone() };
        let mut feed = database.feed(reader);
        let mut failing_since: Option<Instant> = None;
        loop {
            if fences.read(Ledger::hard_unknown) {
                let since = *failing_since.get_or_insert_with(Instant::now);
                let gaps = fences.read(Ledger::gaps);
                match feed.hard_purges().await {
                    Ok(purges) => {
                        let purges = purges.into_iter().map(|(tag, at)| (Tag::new(tag), at));
                        fences.change(|ledger| {
                            // The fences are of the timeline that the database is on.
                            self.follow_timeline(ledger);
                            ledger.learn_hard(purges, gaps);
                        });
                        feed.close();
                    }
                    // Nothing was ever written down, or it cannot be read and what is there is better than nothing.
                    Err(FeedError::NotMigrated | FeedError::Denied) => fences.change(Ledger::give_up_hard),
                    Err(_) if serves && since.elapsed() > patience => fences.change(Ledger::give_up_hard),
                    Err(error) => log::debug!("hard purges of the past are not known: {error}"),
                }
            } else {
                failing_since = None;
            }
            sleep(HARD_LOOK_INTERVAL).await;
        }
    }

    /// Rests, unless the instance leaves meanwhile.
    pub(super) async fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_leaving() {
            sleep(HARD_LOOK_INTERVAL).await;
        }
    }

    fn has_begun(&self) -> bool {
        self.pipeline.cache.fences.read(|ledger| ledger.start().is_some())
    }

    async fn hear_feed_once(&self, feed: &mut Feed, trouble: &mut Trouble) -> Result<(), FeedError> {
        let started = feed.start().await?;
        if !started.migrated {
            return Err(if started.denied { FeedError::Denied } else { FeedError::NotMigrated });
        }
        trouble.is_over();
        let begins = self.begin(started.position);
        let branch = |position: &Position| (position.system, position.timeline);
        let is_here = |(at, _): &(Position, Cursor)| branch(at) == branch(&started.position);
        let heard = self.heard.lock().cursor.clone().filter(is_here).map(|(_, cursor)| cursor);
        // Who began before this cursor, and was told by nobody since, has missed what lies between.
        let mut is_lost = heard.is_none() && !begins;
        let mut cursor = heard.unwrap_or(started.cursor);
        let (mut beat_at, mut through) = (None::<Instant>, None);
        let ChangesPace { poll, beat } = self.pace();
        while !self.stream_speaks() && !self.is_leaving() {
            let is_due = beat_at.is_none_or(|at| at.elapsed() >= beat);
            let batch = feed.poll(&cursor, is_due).await?;
            cursor = batch.cursor.clone();
            through = batch.through.or(through);
            is_lost |= batch.lost;
            if let Some(fence) = batch.fence {
                beat_at = Some(Instant::now());
                let prev = std::mem::take(&mut is_lost).then_some(fence);
                let message = message(batch, fence, prev, through);
                self.apply_own(&message);
                if message.has_tags() && !feed.advance(&cursor, fence).await? {
                    log::warn!("this instance's cursor had expired: it starts anew");
                    self.heard.lock().cursor = None;
                    return Ok(());
                }
            }
            sleep(poll).await;
        }
        // It keeps nothing from being pruned any more, and nobody waits for it.
        feed.detach().await
    }

    /// From here on the clock is the database's, and messages are to be heard; unless that is so already.
    pub(super) fn begin(&self, position: Position) -> bool {
        let fences = &self.pipeline.cache.fences;
        let begins = fences.change(|ledger| {
            let is_here = |start: Position| start.system == position.system && start.timeline == position.timeline;
            let begins = !ledger.start().is_some_and(is_here);
            if begins {
                ledger.begin(position, Some(position));
            }
            begins
        });
        if begins {
            fences.expect_messages();
        }
        begins
    }

    /// Leaves: another instance leads at once, and nothing is kept for this one. Waits for that for a moment.
    pub(super) async fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        if !self.tells() {
            return;
        }
        if let Some(bus) = &self.bus
            && let Err(failure) = bus.leave().await
        {
            log::debug!("the fleet was not told that this instance leaves: {failure}");
        }
        if self.database.is_some() {
            let _gone_or_not = timeout(LEAVING_TIME_MAX, self.has_left.notified()).await;
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    pub(super) fn pace(&self) -> ChangesPace {
        let changes = &self.settings.changes;
        ChangesPace { poll: changes.poll_interval.0, beat: changes.heartbeat_interval.0 }
    }
}

/// How often the feed is asked, and how often that all is well is said.
pub(super) struct ChangesPace {
    pub(super) poll: Duration,
    pub(super) beat: Duration,
}

/// The message of a batch. Without a message that it follows on, it is this instance's own.
pub(super) fn message(batch: Batch, fence: Position, prev: Option<Position>, through: Option<Position>) -> Message {
    let tags = |names: Vec<String>| names.into_iter().map(Tag::new).collect();
    Message {
        at: fence,
        reads: Some(fence),
        prev,
        through: through.unwrap_or(Position::start_of(fence.system, fence.timeline)),
        cursor: batch.cursor.to_string(),
        soft: tags(batch.soft),
        hard: tags(batch.hard),
        purges: batch.purges,
    }
}
