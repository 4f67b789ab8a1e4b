//! What this instance has been told of changes, and what that means for an entry: the rules that keep a cached answer from
//! ever being wrong. The argument for them stands in `docs/coherence.md`.
//!
//! [`Ledger`] holds the rules and nothing else: no clock, no lock, no channel; tests and models drive it by hand. [`Fences`]
//! puts a ledger behind a lock, with the two numbers that let a hit skip it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

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
    /// The last message before it that had tags. Who has not heard that one has missed something.
    pub prev: Position,
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

/// The fences of one tag.
#[derive(Clone, Copy, Debug, Default)]
struct Fence {
    soft: Option<Position>,
    hard: Option<Position>,
    reads: Option<Position>,
}

/// The rules.
#[derive(Debug, Clone)]
pub struct Ledger {
    tags_max: usize,
    tags: HashMap<u64, Fence, BuildHasherDefault<HashIsKey>>,
    /// The position through which this instance has been told.
    told: Option<Position>,
    /// Where it began to be told, where it knows that: everything older it has by hearsay alone.
    start: Option<Position>,
    /// Every commit at or below has been told.
    through: Option<Position>,
    /// The last message that is known to follow on those before it.
    complete: Option<Position>,
    /// Every fill reads past it.
    floor: Option<Position>,
    /// What was filled before counts as purged softly.
    base: Option<Position>,
    /// What was filled before counts as purged for good.
    hard_base: Option<Position>,
    /// Whether hard purges may have been missed that are still to be looked up.
    hard_unknown: bool,
    /// Whether nobody is to tell this instance anything.
    is_alone: bool,
}

impl Ledger {
    /// A ledger that has been told nothing, and keeps the fences of at most so many tags.
    pub fn new(tags_max: usize) -> Self {
        Self {
            tags_max,
            tags: HashMap::default(),
            told: None,
            start: None,
            through: None,
            complete: None,
            floor: None,
            base: None,
            hard_base: None,
            hard_unknown: true,
            is_alone: false,
        }
    }

    /// The instance begins at a position of its clock, and the primary's position is `floor`: what it fills from now on
    /// reads past that.
    pub fn begin(&mut self, at: Position, floor: Option<Position>) {
        self.turn_to(at.system, at.timeline);
        self.told = later(self.told, Some(at));
        self.start = Some(at);
        self.floor = later(self.floor, floor);
    }

    /// The instance begins at a position of a clock of its own: nobody is to tell it anything.
    pub fn begin_alone(&mut self, at: Position) {
        self.turn_to(at.system, at.timeline);
        (self.told, self.start, self.base) = (Some(at), Some(at), None);
        (self.is_alone, self.hard_unknown) = (true, false);
    }

    /// The primary is on this timeline of this cluster, or on a later one. Says whether that is news: then all is purged
    /// softly, and fills read that timeline.
    pub fn enter(&mut self, system: SystemId, timeline: Timeline) -> bool {
        let is_news = self.turn_to(system, timeline);
        if is_news {
            self.floor = Some(Position::start_of(system, timeline));
        }
        is_news
    }

    /// The clock goes on with this timeline, or with a later one that it is on already.
    fn turn_to(&mut self, system: SystemId, timeline: Timeline) -> bool {
        let is_known = self.told.is_some_and(|told| told.system == system && told.timeline >= timeline);
        if !is_known {
            let start = Position::start_of(system, timeline);
            self.tags.retain(|_, fence| {
                *fence = Fence { hard: fence.hard, ..Fence::default() };
                fence.hard.is_some()
            });
            self.told = Some(start);
            (self.start, self.through, self.complete) = (None, None, None);
            (self.floor, self.base) = (None, Some(start));
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
        let gap = self.complete.is_none_or(|complete| message.prev > complete);
        if gap {
            self.hard_unknown = true;
            self.base = later(self.base, Some(message.prev));
            // A clock that is not the database's says nothing of what to read: then the caller raises the floor.
            self.floor = later(self.floor, Some(message.prev).filter(|_| is_database_clock));
        }
        // Late: what was filled since `told` may lack what this message tells of. It is taken as told now. Not so what was
        // told before this instance began: all that it has filled since then has read past that.
        let is_late =
            message.has_tags() && self.told.is_some_and(|told| told >= at) && self.start.is_none_or(|start| at > start);
        let stamp = if is_late { self.told.map_or(at, Position::next) } else { at };
        for (tags, is_hard) in [(&message.soft, false), (&message.hard, true)] {
            tags.iter().for_each(|tag| self.raise(tag, stamp, message.reads, is_hard));
        }
        self.told = later(self.told, Some(stamp));
        self.through = later(self.through, Some(message.through));
        self.complete = later(self.complete, Some(at));
        self.bound();
        Applied { gap, foreign: false, purged: news || gap || message.has_tags() }
    }

    fn raise(&mut self, tag: &Tag, at: Position, reads: Option<Position>, is_hard: bool) {
        if tag.name() == EVERYTHING {
            self.base = later(self.base, Some(at));
            self.floor = later(self.floor, reads);
            self.hard_base = later(self.hard_base, Some(at).filter(|_| is_hard));
            return;
        }
        let fence = self.tags.entry(tag.hash()).or_default();
        fence.soft = later(fence.soft, Some(at));
        fence.reads = later(fence.reads, reads);
        if is_hard {
            fence.hard = later(fence.hard, Some(at));
        }
    }

    /// Fills read past this from now on.
    pub fn raise_floor(&mut self, floor: Position) {
        self.floor = later(self.floor, Some(floor));
    }

    /// Purges here alone, while the log cannot be written: what was told so far is fenced off.
    pub fn purge_here(&mut self, tags: &[Tag], reads: Option<Position>, is_hard: bool) {
        let Some(told) = self.told else { return };
        let at = told.next();
        tags.iter().for_each(|tag| self.raise(tag, at, reads, is_hard));
        self.told = Some(at);
        self.bound();
    }

    /// Hard purges of the past, as far as they are still kept: tags and their fences. With them it is known again which
    /// entries must not be served.
    pub fn learn_hard(&mut self, purges: impl IntoIterator<Item = (Tag, Position)>) {
        for (tag, at) in purges {
            let fence = self.tags.entry(tag.hash()).or_default();
            fence.hard = later(fence.hard, Some(at));
            fence.soft = later(fence.soft, Some(at));
        }
        self.hard_unknown = false;
        self.bound();
    }

    /// The hard purges of the past cannot be learnt, and what they may cover is served all the same.
    pub fn give_up_hard(&mut self) {
        self.hard_unknown = false;
    }

    /// Whether hard purges may have been missed; see [`Ledger::learn_hard`].
    pub fn hard_unknown(&self) -> bool {
        self.hard_unknown
    }

    /// Keeps memory bounded: the older half of the fences go, and all that they stood for counts as purged.
    fn bound(&mut self) {
        if self.tags.len() <= self.tags_max {
            return;
        }
        let age = |fence: &Fence| fence.soft.or(fence.hard);
        let mut ages: Vec<Position> = self.tags.values().filter_map(age).collect();
        let middle = ages.len() / 2;
        let order = |one: &Position, other: &Position| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal);
        let cut = *ages.select_nth_unstable_by(middle, order).1;
        let (base, floor, hard_base) = (&mut self.base, &mut self.floor, &mut self.hard_base);
        self.tags.retain(|_, fence| {
            let stays = age(fence).is_some_and(|age| age > cut);
            if !stays {
                *base = later(*base, fence.soft);
                *floor = later(*floor, fence.reads);
                *hard_base = later(*hard_base, fence.hard);
            }
            stays
        });
    }

    /// What a fill of these tags notes before it asks its source.
    pub fn ticket(&self, tags: &[Tag]) -> Ticket {
        Ticket { told: self.told, reads: self.required(tags) }
    }

    /// How far a source must have read for an answer with these tags.
    pub fn required(&self, tags: &[Tag]) -> Option<Position> {
        let fences = tags.iter().filter_map(|tag| self.tags.get(&tag.hash()));
        fences.fold(self.floor, |required, fence| later(required, fence.reads))
    }

    /// What an entry with this stamp and these tags is good for.
    pub fn standing(&self, told: Option<Position>, tags: &[Tag]) -> Standing {
        let fences = || tags.iter().filter_map(|tag| self.tags.get(&tag.hash()));
        let lacks = |fence: Option<Position>| fence.is_some_and(|fence| !told.is_some_and(|told| told >= fence));
        if lacks(self.hard_base) || fences().any(|fence| lacks(fence.hard)) {
            return Standing::Forbidden;
        }
        let is_own = match told {
            Some(told) => self.start.is_some_and(|start| told >= start),
            None => self.is_alone,
        };
        // What others filled before this instance began is judged by what was told since then, once all of that was heard.
        let is_heard = || told.is_some() && self.complete.is_some() && self.is_caught_up();
        let is_purged = lacks(self.base) || fences().any(|fence| lacks(fence.soft));
        let is_doubtful = lacks(self.base) || (told.is_some() && !is_own && !is_heard());
        if is_doubtful && self.hard_unknown {
            Standing::Forbidden
        } else if is_purged {
            Standing::Purged
        } else if is_own || is_heard() {
            Standing::Current
        } else {
            Standing::Unknown
        }
    }

    /// Whether all that was told before this instance began has been heard.
    pub fn is_caught_up(&self) -> bool {
        self.through
            .is_some_and(|through| self.start.is_none_or(|start| through >= start) && covers(through, self.floor))
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

    /// The last message that follows on those before it.
    pub fn complete(&self) -> Option<Position> {
        self.complete
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

    /// Since when nothing has been heard, where that is too long.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        let silent_from = Duration::from_millis(self.silent_from_ms.load(Ordering::Acquire));
        let since = now.saturating_duration_since(self.epoch).checked_sub(silent_from)?;
        Some(since + self.limits.max)
    }

    /// How long ago something was heard; none while nobody is to tell anything.
    pub fn heard_ago(&self, now: Instant) -> Option<Duration> {
        let silent_from_ms =
            Some(self.silent_from_ms.load(Ordering::Acquire)).filter(|from_ms| *from_ms != u64::MAX)?;
        let heard = Duration::from_millis(silent_from_ms).saturating_sub(self.limits.max);
        Some(now.saturating_duration_since(self.epoch).saturating_sub(heard))
    }

    /// What an entry of this age is good for. `noted` is the generation under which it was found current before; the one to
    /// note now comes back beside it.
    pub fn standing(
        &self,
        told: Option<Position>,
        tags: &[Tag],
        noted: u64,
        age: Duration,
        now: Instant,
    ) -> (Standing, u64) {
        let generation = self.generation();
        let mut standing = Standing::Current;
        if noted != generation {
            standing = self.ledger.read().standing(told, tags);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Lsn;

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(7), Timeline(1)) }
    }

    fn message(lsn: u64, prev: u64, soft: &[&str]) -> Message {
        Message {
            at: at(lsn),
            reads: Some(at(lsn)),
            prev: at(prev),
            through: at(lsn - 1),
            cursor: String::new(),
            soft: soft.iter().map(|tag| Tag::new(*tag)).collect(),
            hard: Vec::new(),
            purges: Vec::new(),
        }
    }

    /// Begun at 100, and told once, at 110, that all is well.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(4);
        ledger.begin(at(100), Some(at(100)));
        ledger.apply(&message(110, 90, &[]));
        ledger.learn_hard([]);
        ledger
    }

    fn standing(ledger: &Ledger, told: u64, tag: &str) -> Standing {
        ledger.standing(Some(at(told)), &[Tag::new(tag)])
    }

    #[test]
    fn what_was_told_before_a_purge_falls_and_what_was_told_after_it_stands() {
        let mut ledger = ledger();
        let before = ledger.ticket(&[Tag::new("a")]);
        assert_eq!(before, Ticket { told: Some(at(110)), reads: Some(at(100)) });
        assert!(ledger.apply(&message(120, 90, &["a"])).purged);
        assert_eq!(standing(&ledger, 110, "a"), Standing::Purged);
        assert_eq!(standing(&ledger, 110, "b"), Standing::Current);
        assert_eq!(standing(&ledger, 120, "a"), Standing::Current);
        assert_eq!(ledger.ticket(&[Tag::new("a")]).reads, Some(at(120)), "whoever fills reads past the fence");
        assert_eq!(ledger.ticket(&[Tag::new("b")]).reads, Some(at(100)));
    }

    #[test]
    fn a_message_that_was_missed_is_noticed_by_the_next_one() {
        let mut ledger = ledger();
        let applied = ledger.apply(&message(140, 130, &[]));
        assert!(applied.gap && applied.purged);
        assert_eq!(standing(&ledger, 110, "a"), Standing::Forbidden, "it may have been purged for good");
        ledger.learn_hard([]);
        assert_eq!(standing(&ledger, 110, "a"), Standing::Purged);
        assert_eq!(standing(&ledger, 130, "a"), Standing::Current, "another instance had heard it");
        assert_eq!(ledger.floor(), Some(at(130)));
        assert!(!ledger.apply(&message(150, 130, &[])).gap);
    }

    #[test]
    fn a_message_that_comes_late_is_taken_as_told_now() {
        let mut ledger = ledger();
        ledger.apply(&message(130, 90, &[]));
        let ticket = ledger.ticket(&[Tag::new("a")]);
        assert!(ledger.apply(&message(120, 90, &["a"])).purged);
        assert_eq!(ledger.standing(ticket.told, &[Tag::new("a")]), Standing::Purged);
        assert_eq!(ledger.ticket(&[Tag::new("a")]).reads, Some(at(120)));
        assert_eq!(ledger.standing(ledger.told(), &[Tag::new("a")]), Standing::Current);
    }

    #[test]
    fn a_new_timeline_purges_all_and_an_old_one_is_not_listened_to() {
        let mut ledger = ledger();
        ledger.apply(&Message { hard: vec![Tag::new("h")], ..message(115, 90, &[]) });
        assert!(ledger.enter(SystemId(7), Timeline(2)));
        assert!(!ledger.enter(SystemId(7), Timeline(1)));
        assert_eq!(standing(&ledger, 115, "a"), Standing::Purged);
        assert_eq!(standing(&ledger, 110, "h"), Standing::Forbidden, "for good");
        assert!(ledger.apply(&message(500, 90, &["a"])).foreign);
        assert_eq!(ledger.floor(), Some(Position::start_of(SystemId(7), Timeline(2))));
    }

    #[test]
    fn what_others_filled_counts_once_all_before_the_start_was_heard() {
        let mut ledger = Ledger::new(4);
        ledger.begin(at(100), Some(at(100)));
        assert_eq!(standing(&ledger, 95, "a"), Standing::Forbidden, "it may have been purged for good");
        ledger.learn_hard([(Tag::new("h"), at(96))]);
        assert_eq!(standing(&ledger, 95, "h"), Standing::Forbidden);
        assert_eq!(standing(&ledger, 95, "a"), Standing::Unknown);
        ledger.apply(&message(92, 90, &["a"]));
        ledger.learn_hard([]);
        assert_eq!(standing(&ledger, 95, "a"), Standing::Unknown);
        ledger.apply(&message(97, 92, &["b"]));
        assert_eq!(standing(&ledger, 95, "b"), Standing::Purged);
        ledger.apply(&message(102, 97, &[]));
        assert_eq!(standing(&ledger, 95, "a"), Standing::Current);
        assert_eq!(standing(&ledger, 91, "a"), Standing::Purged);
        assert_eq!(standing(&ledger, 89, "c"), Standing::Purged, "what came before the backlog is not known");
    }

    #[test]
    fn the_fences_of_too_many_tags_become_one() {
        let mut ledger = ledger();
        for (index, tag) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
            let lsn = 120 + 10 * u64::try_from(index).unwrap();
            ledger.apply(&message(lsn, lsn.saturating_sub(10).max(110), &[tag]));
        }
        assert!(ledger.tags() <= 4, "{}", ledger.tags());
        assert_eq!(standing(&ledger, 119, "a"), Standing::Purged);
        assert_eq!(standing(&ledger, 119, "z"), Standing::Purged, "nobody knows any more");
        assert_eq!(standing(&ledger, 160, "a"), Standing::Current);
    }

    #[test]
    fn silence_claims_nothing() {
        let fences =
            Fences::new(4, SilenceLimits { max: Duration::from_secs(2), hard_max: Some(Duration::from_secs(60)) });
        fences.change(|ledger| ledger.begin(at(100), None));
        fences.change(Ledger::give_up_hard);
        let (start, secs) = (Instant::now(), Duration::from_secs);
        let standing = |age, after| fences.standing(Some(at(100)), &[], 0, secs(age), start + secs(after)).0;
        assert_eq!(standing(500, 500), Standing::Current, "nobody is to tell anything");
        fences.apply(&message(110, 90, &[]), start);
        assert_eq!(standing(9, 1), Standing::Current);
        assert_eq!(standing(9, 3), Standing::Unknown);
        assert_eq!(standing(1, 3), Standing::Current, "it was read a moment ago");
        assert_eq!(standing(90, 90), Standing::Forbidden);
        fences.apply(&message(120, 90, &[]), start + secs(90));
        assert_eq!(standing(90, 91), Standing::Current);
    }
}
