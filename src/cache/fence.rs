//! What this instance has been told of changes, and what that means for an entry: the rules that keep a cached answer from
//! ever being wrong. The argument for them stands in `docs/coherence.md`.
//!
//! [`Ledger`] holds the rules and nothing else: no clock, no lock, no channel; tests and models drive it by hand. [`Fences`]
//! puts a ledger behind a lock, with the two numbers that let a hit skip it.

mod hard;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

pub use hard::HardPurges;

use super::key::HashIsKey;
use super::tag::{EVERYTHING, Tag};
use crate::position::{Position, SystemId, Timeline};

/// What is told to every instance, in one order: tags to purge, or only that there was nothing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the order, and the fence of its tags: what was told before may lack what it tells of.
    pub at: Position,
    /// What a fill must have read to reflect it: `at`, unless the clock is not the database's.
    pub reads: Option<Position>,
    /// The last message before it that had tags: who has not heard that one has missed something. None where an instance
    /// tells itself what it read in the change feed, from where the last message that it heard had left off.
    pub prev: Option<Position>,
    /// Every commit at or below is told of by this message and those before it.
    pub through: Position,
    /// What was visible to whoever read the change feed for it, in Postgres' form; empty without a feed.
    pub cursor: String,
    /// Tags to purge softly.
    pub soft: Vec<Tag>,
    /// Tags to purge for good.
    pub hard: Vec<Tag>,
    /// The operators' purges in it, which are confirmed once it is applied.
    pub purges: Vec<i64>,
}

impl Message {
    /// Whether it tells of any change, and is no mere heartbeat.
    pub fn has_tags(&self) -> bool {
        !self.soft.is_empty() || !self.hard.is_empty()
    }
}

/// What applying a message came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Messages before it were missed: all that was filled before them counts as purged softly.
    pub gap: bool,
    /// It is of a timeline that is over, and was ignored.
    pub foreign: bool,
    /// Whether any entry may have become invalid.
    pub purged: bool,
}

/// What a fill notes before it asks its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The stamp of the entry that it makes; none while nothing has been told at all.
    pub told: Option<Position>,
    /// The source must have read at least this far.
    pub reads: Option<Position>,
    /// Whether the stamp means something here alone, so that the entry is not for other instances: purges that came out of
    /// order have moved it past what was heard.
    pub is_local: bool,
}

/// What an entry is good for, as far as changes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All that was told since it was filled left it alone.
    Current,
    /// It may have been purged by what was not heard: not claimed to be fresh.
    Unknown,
    /// Purged softly: for when the source fails.
    Purged,
    /// Purged for good.
    Forbidden,
}

impl Standing {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Unknown => "unknown",
            Self::Purged => "purged",
            Self::Forbidden => "forbidden",
        }
    }
}

/// What an answer must reflect: it was told as much when it was asked for, and its source had read as far.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: Option<Position>,
    reads: Option<Position>,
}

impl Mark {
    fn raise(&mut self, other: Self) {
        self.at = later(self.at, other.at);
        self.reads = later(self.reads, other.reads);
    }

    /// Whether an entry may lack it. Who filled it may have been told of later positions and not of this one (out of order, or
    /// not at all, where the log was damaged): so what is known of its source has to agree. A primary needs no such proof: the
    /// position that was told lies on its log, so all before it was visible when the source was asked.
    fn is_lacked_by(&self, told: Option<Position>, as_of: Option<Position>) -> bool {
        self.at.is_some_and(|at| !told.is_some_and(|told| told >= at)) || is_short(as_of, self.reads)
    }
}

/// The fences of one tag, or of all.
#[derive(Clone, Copy, Debug, Default)]
struct Fence {
    soft: Mark,
    hard: Mark,
}

impl Fence {
    fn raise(&mut self, mark: Mark, is_hard: bool) {
        self.soft.raise(mark);
        if is_hard {
            self.hard.raise(mark);
        }
    }
}

/// The rules.
#[derive(Debug, Clone)]
pub struct Ledger {
    tags_max: usize,
    tags: HashMap<u64, Fence, BuildHasherDefault<HashIsKey>>,
    /// The fence of every entry there is: what was evicted or missed, and purges of everything.
    all: Fence,
    /// The position through which this instance has been told.
    told: Option<Position>,
    /// The last position that was heard, which `told` is past where a purge came out of order.
    heard: Option<Position>,
    /// Where it began to be told, where it knows that: everything older it has by hearsay alone.
    start: Option<Position>,
    /// Every commit at or below has been told.
    through: Option<Position>,
    /// The last message of the log that had tags.
    last: Option<Position>,
    /// Every fill reads past it.
    floor: Option<Position>,
    /// What is known of hard purges that were not heard.
    hard: hard::Knowledge,
    gaps: u64,
    losses: u64,
    /// Whether nobody is to tell this instance anything.
    is_alone: bool,
    /// Whether it is still to learn where it begins.
    awaits_start: bool,
}

impl Ledger {
    /// A ledger that has been told nothing, and keeps the fences of at most so many tags.
    pub fn new(tags_max: usize) -> Self {
        Self {
            tags_max,
            tags: HashMap::default(),
            all: Fence::default(),
            told: None,
            heard: None,
            start: None,
            through: None,
            last: None,
            floor: None,
            hard: hard::Knowledge::default(),
            gaps: 0,
            losses: 0,
            is_alone: false,
            awaits_start: false,
        }
    }

    /// The instance will learn where it begins. Until then nothing that others have filled is known to be current: what it is
    /// told may end long before.
    pub fn await_start(&mut self) {
        self.awaits_start = true;
    }

    /// The instance begins at a position of its clock, and the primary's position is `floor`: what it fills from now on
    /// reads past that.
    pub fn begin(&mut self, at: Position, floor: Option<Position>) {
        self.turn_to(at.system, at.timeline);
        self.told = later(self.told, Some(at));
        self.heard = later(self.heard, Some(at));
        self.start = Some(at);
        self.awaits_start = false;
        self.floor = later(self.floor, floor);
    }

    /// The instance begins at a position of a clock of its own: nobody is to tell it anything.
    pub fn begin_alone(&mut self, at: Position) {
        self.turn_to(at.system, at.timeline);
        (self.told, self.heard, self.start) = (Some(at), Some(at), Some(at));
        self.all.soft = Mark::default();
        self.is_alone = true;
        self.hard.give_up();
    }

    /// The primary is on this timeline of this cluster, or on a later one. Says whether that is news: then all is purged
    /// softly, and fills read that timeline. A standby may be on it by name and still replay what came before it, so until the
    /// first message tells a position there, fills read as far as was told on the old one.
    pub fn enter(&mut self, system: SystemId, timeline: Timeline) -> bool {
        let was_told = self.told.filter(|told| told.system == system);
        let is_news = self.turn_to(system, timeline);
        if is_news {
            let start = Position::start_of(system, timeline);
            self.floor = Some(was_told.map_or(start, |told| Position { lsn: told.lsn, ..start }));
        }
        is_news
    }

    /// The clock goes on with this timeline, or with a later one that it is on already.
    fn turn_to(&mut self, system: SystemId, timeline: Timeline) -> bool {
        let is_known = self.told.is_some_and(|told| told.system == system && told.timeline >= timeline);
        if !is_known {
            self.lose();
            let start = Some(Position::start_of(system, timeline));
            // On another clock the position of a hard purge means nothing. All that is older than the clock is older than it.
            let kept = |hard: Mark| match hard.at {
                Some(at) if at.system != system => Mark { at: start, reads: None },
                _ => hard,
            };
            self.tags.retain(|_, fence| {
                *fence = Fence { soft: Mark::default(), hard: kept(fence.hard) };
                fence.hard.at.is_some()
            });
            self.all = Fence { soft: Mark { at: start, reads: None }, hard: kept(self.all.hard) };
            (self.told, self.heard) = (start, start);
            (self.start, self.through, self.last, self.floor) = (None, None, None, None);
            self.is_alone = false;
        }
        !is_known
    }

    /// Takes a message to account.
    pub fn apply(&mut self, message: &Message) -> Applied {
        let (at, told) = (message.at, self.told);
        if told.is_some_and(|told| told.system != at.system || told.timeline > at.timeline) {
            return Applied { foreign: true, ..Applied::default() };
        }
        let is_database_clock = message.reads.is_some_and(|reads| reads.system == at.system);
        let news = match is_database_clock {
            true => self.enter(at.system, at.timeline),
            false => self.turn_to(at.system, at.timeline),
        };
        let told = self.told;
        let missed = self.missed(message);
        if let Some(missed) = missed {
            self.lose();
            self.hard.miss(missed);
            self.gaps += 1;
            // All before it counts as purged, so the chain goes on from there.
            self.last = message.prev;
            // A clock that is not the database's says nothing of what to read: then the caller raises the floor.
            let reads = Some(missed).filter(|_| is_database_clock);
            if self.through.is_none() && self.start.is_none() {
                self.floor = reads;
            }
            self.raise_all(Mark { at: Some(self.fenced(missed, told)), reads }, false);
        }
        let mark =
            Mark { at: Some(self.fenced(at, told)).filter(|_| message.has_tags()).or(Some(at)), reads: message.reads };
        for (tags, is_hard) in [(&message.soft, false), (&message.hard, true)] {
            tags.iter().for_each(|tag| self.raise(tag, mark, is_hard));
        }
        self.told = later(self.told, mark.at);
        self.heard = later(self.heard, Some(at));
        self.through = later(self.through, Some(message.through));
        if message.prev.is_some() && message.has_tags() {
            self.last = Some(at);
        }
        self.bound();
        Applied { gap: missed.is_some(), foreign: false, purged: news || missed.is_some() || message.has_tags() }
    }

    /// Through where there may be messages that were not heard. That a later position was heard proves nothing, since a log
    /// that lost its end takes messages again from before it.
    fn missed(&self, message: &Message) -> Option<Position> {
        let Some(prev) = message.prev else {
            // The first that it tells itself. Others may have been told of more before it began.
            return Some(self.start.unwrap_or(message.at)).filter(|_| self.through.is_none());
        };
        let is_heard = self.last == Some(prev) || self.through.is_some_and(|through| through >= prev);
        Some(prev).filter(|_| !is_heard)
    }

    /// Where the fence of what is known to have happened at a position stands. Late: what was filled since `told` may lack it,
    /// and so it is taken as told now. Not so what was told before this instance began: all that it has filled since then
    /// has read past that.
    fn fenced(&self, at: Position, told: Option<Position>) -> Position {
        let is_late = self.start.is_none_or(|start| at > start);
        told.filter(|told| is_late && *told >= at).map_or(at, Position::next)
    }

    fn raise(&mut self, tag: &Tag, mark: Mark, is_hard: bool) {
        if tag.name() == EVERYTHING {
            self.raise_all(mark, is_hard);
        } else {
            self.tags.entry(tag.hash()).or_default().raise(mark, is_hard);
        }
    }

    fn raise_all(&mut self, mark: Mark, is_hard: bool) {
        self.all.raise(mark, is_hard);
        self.told = later(self.told, mark.at);
        self.floor = later(self.floor, mark.reads);
    }

    /// Fills read past this from now on.
    pub fn raise_floor(&mut self, floor: Position) {
        self.floor = later(self.floor, Some(floor));
    }

    /// Purges here alone, while the log cannot be written: what was told so far is fenced off.
    pub fn purge_here(&mut self, tags: &[Tag], reads: Option<Position>, is_hard: bool) {
        // Before anything was told, all that was filled has no stamp, and lacks every fence.
        let at = self.told.map_or(Position::start_of(SystemId(0), Timeline(0)), Position::next);
        tags.iter().for_each(|tag| self.raise(tag, Mark { at: Some(at), reads }, is_hard));
        self.told = self.told.map(|_| at);
        self.bound();
    }

    /// How often something was missed.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    /// How often it could not go on from what it had been told: something was missed since, or the clock is another one.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// What was lost before this instance had caught up is no loss of its own: others were there.
    fn lose(&mut self) {
        self.losses += u64::from(self.is_caught_up());
    }

    /// Keeps memory bounded: the older half of the fences go, and all that they stood for counts as purged.
    fn bound(&mut self) {
        if self.tags.len() <= self.tags_max {
            return;
        }
        let age = |fence: &Fence| fence.soft.at.or(fence.hard.at);
        let mut ages: Vec<Position> = self.tags.values().filter_map(age).collect();
        let middle = ages.len() / 2;
        let cut = *ages.select_nth_unstable_by_key(middle, |at| (at.system.0, at.timeline, at.lsn)).1;
        let (all, floor) = (&mut self.all, &mut self.floor);
        self.tags.retain(|_, fence| {
            let stays = age(fence).is_some_and(|age| age > cut);
            if !stays {
                all.soft.raise(fence.soft);
                all.hard.raise(fence.hard);
                *floor = later(*floor, fence.soft.reads);
            }
            stays
        });
    }

    /// What a fill of these tags notes before it asks its source.
    pub fn ticket(&self, tags: &[Tag]) -> Ticket {
        // A clock of one's own is nobody else's, so that its positions can be taken for no others.
        let is_local = !self.is_alone && self.told > self.heard;
        Ticket { told: self.told, reads: self.required(tags), is_local }
    }

    /// How far a source must have read for an answer with these tags.
    pub fn required(&self, tags: &[Tag]) -> Option<Position> {
        let fences = tags.iter().filter_map(|tag| self.tags.get(&tag.hash()));
        fences.fold(self.floor, |required, fence| later(required, fence.soft.reads))
    }

    /// What an entry with this stamp and these tags is good for, whose source had read as far as is said, where that is known.
    pub fn standing(&self, told: Option<Position>, as_of: Option<Position>, tags: &[Tag]) -> Standing {
        let fences = || iter::once(&self.all).chain(tags.iter().filter_map(|tag| self.tags.get(&tag.hash())));
        if fences().any(|fence| fence.hard.is_lacked_by(told, as_of)) {
            return Standing::Forbidden;
        }
        // Who is on a later timeline knows of changes that count there, and not of those that still count here.
        let is_ahead = told.zip(self.told).is_some_and(|(told, own)| told.timeline > own.timeline);
        let is_own = match told {
            Some(told) => self.start.is_some_and(|start| told >= start) && !is_short(as_of, self.floor),
            None => self.is_alone,
        };
        // What others filled before this instance began is judged by what was told since then, once all of that was heard.
        let is_known = !is_ahead && (is_own || (told.is_some() && self.is_caught_up()));
        let is_missed = self.all.soft.is_lacked_by(told, as_of);
        if self.hard_unknown() && (is_missed || (told.is_some() && !is_known)) {
            Standing::Forbidden
        } else if fences().any(|fence| fence.soft.is_lacked_by(told, as_of)) {
            Standing::Purged
        } else if is_known {
            Standing::Current
        } else {
            Standing::Unknown
        }
    }

    /// Whether all that was told before this instance began has been heard.
    pub fn is_caught_up(&self) -> bool {
        let is_past =
            |through: Position| self.start.is_none_or(|start| through >= start) && covers(through, self.floor);
        !self.awaits_start && self.through.is_some_and(is_past)
    }

    /// The position through which this instance has been told.
    pub fn told(&self) -> Option<Position> {
        self.told
    }

    /// Where it began to be told, where it knows that.
    pub fn start(&self) -> Option<Position> {
        self.start
    }

    /// Every commit at or below this position has been told.
    pub fn through(&self) -> Option<Position> {
        self.through
    }

    /// Every fill reads past this.
    pub fn floor(&self) -> Option<Position> {
        self.floor
    }

    /// Tags whose fences are kept.
    pub fn tags(&self) -> usize {
        self.tags.len()
    }
}

/// Whether a position is not before a floor. A floor on another clock is none on this one.
fn covers(position: Position, floor: Option<Position>) -> bool {
    floor.is_none_or(|floor| floor.system != position.system || position >= floor)
}

/// Whether a source is known not to have read as far as this.
fn is_short(as_of: Option<Position>, reads: Option<Position>) -> bool {
    as_of.zip(reads).is_some_and(|(as_of, reads)| as_of < reads)
}

fn later(one: Option<Position>, other: Option<Position>) -> Option<Position> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.later(other)),
        (one, other) => one.or(other),
    }
}

/// A ledger for all threads of an instance, and for how long what it says may be relied on.
pub struct Fences {
    ledger: RwLock<Ledger>,
    /// Moves whenever an entry may have become invalid: what was found current under the same number still is.
    generation: AtomicU64,
    /// Silence begins so many milliseconds after `epoch`.
    silent_from_ms: AtomicU64,
    epoch: Instant,
    limits: SilenceLimits,
}

/// How long an instance may go without being told.
#[derive(Clone, Copy, Debug)]
pub struct SilenceLimits {
    /// After so long without a message nothing filled before is claimed to be fresh.
    pub max: Duration,
    /// After so long, where given, nothing filled before is served at all: it may have been purged for good.
    pub hard_max: Option<Duration>,
}

impl Fences {
    /// Fences that nothing has been told to yet. While nobody is to tell anything, silence means nothing.
    pub fn new(tags_max: usize, limits: SilenceLimits) -> Self {
        Self {
            ledger: RwLock::new(Ledger::new(tags_max)),
            generation: AtomicU64::new(1),
            silent_from_ms: AtomicU64::new(u64::MAX),
            epoch: Instant::now(),
            limits,
        }
    }

    /// From now on messages are to be heard.
    pub fn expect_messages(&self) {
        self.heard(Instant::now());
    }

    /// Changes the ledger. What may make an entry invalid says so by its result.
    pub fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.ledger.write();
        let result = change(&mut ledger);
        // Inside the lock: whoever sees the new number finds the new fences behind it.
        self.generation.fetch_add(1, Ordering::Release);
        result
    }

    /// Takes a message to account, heard at this time.
    pub fn apply(&self, message: &Message, now: Instant) -> Applied {
        let mut ledger = self.ledger.write();
        let applied = ledger.apply(message);
        if applied.purged {
            self.generation.fetch_add(1, Ordering::Release);
        }
        drop(ledger);
        if !applied.foreign {
            self.heard(now);
        }
        applied
    }

    fn heard(&self, now: Instant) {
        let until = now.saturating_duration_since(self.epoch) + self.limits.max;
        self.silent_from_ms.store(millis(until), Ordering::Release);
    }

    /// Reads the ledger.
    pub fn read<T>(&self, read: impl FnOnce(&Ledger) -> T) -> T {
        read(&self.ledger.read())
    }

    /// The number under which what is found current now may be noted.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn silent_from_ms(&self) -> u64 {
        self.silent_from_ms.load(Ordering::Acquire)
    }

    /// Since when nothing has been heard, where that is too long.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        let silent_from = Duration::from_millis(self.silent_from_ms());
        let since = now.saturating_duration_since(self.epoch).checked_sub(silent_from)?;
        Some(since + self.limits.max)
    }

    /// How long ago something was heard; none while nobody is to tell anything.
    pub fn heard_ago(&self, now: Instant) -> Option<Duration> {
        let silent_from_ms = Some(self.silent_from_ms()).filter(|from_ms| *from_ms != u64::MAX)?;
        let heard = Duration::from_millis(silent_from_ms).saturating_sub(self.limits.max);
        Some(now.saturating_duration_since(self.epoch).saturating_sub(heard))
    }

    /// What an entry of this age is good for. `noted` is the generation under which it was found current before; the one to
    /// note now comes back beside it. `stamp` is what it was told, and what its source had read; a hit seldom needs it.
    pub fn standing(
        &self,
        stamp: impl FnOnce() -> (Option<Position>, Option<Position>),
        tags: &[Tag],
        noted: u64,
        age: Duration,
        now: Instant,
    ) -> (Standing, u64) {
        let generation = self.generation();
        // Nearly all hits end here.
        if noted == generation && millis(now.saturating_duration_since(self.epoch)) < self.silent_from_ms() {
            return (Standing::Current, noted);
        }
        let (told, as_of) = stamp();
        let mut standing = Standing::Current;
        if noted != generation {
            standing = self.ledger.read().standing(told, as_of, tags);
        }
        let noted = if standing == Standing::Current { generation } else { noted };
        // What was filled a moment ago is as good as what a message could say of it.
        let is_young = age <= self.limits.max;
        match (standing, self.silence(now)) {
            (_, Some(silence)) if self.limits.hard_max.is_some_and(|max| silence > max) && !is_young => {
                (Standing::Forbidden, noted)
            }
            (Standing::Current, Some(_)) if !is_young => (Standing::Unknown, noted),
            // Nothing was ever told, and so it was filled here: for that moment it is claimed.
            (Standing::Unknown, _) if told.is_none() && is_young => (Standing::Current, noted),
            _ => (standing, noted),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
