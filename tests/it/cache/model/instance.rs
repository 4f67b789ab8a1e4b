//! An instance: the real [`Ledger`] with entries, fills and requests around it, as the server has them.

mod answers;

use answers::Fill;
use mainstay::cache::fence::{Ledger, Message};
use mainstay::cache::tag::Tag;
use mainstay::position::{Position, SystemId, Timeline};

use super::log::{Logged, Reader, Redis, StreamEnd, message, tag};
use super::mutant::Mutant;
use super::postgres::{Commit, Kind, Postgres, Set, at, timeline_of};

/// Two rows are read one by one, and a third key reads both, with the tag of the second found in the result.
pub const KEYS: usize = 3;
/// The rows that a key reads, one bit each.
pub fn rows(key: usize) -> u8 {
    [0b01, 0b10, 0b11][key]
}

/// What was read, with what the server stamps it with.
#[derive(Clone, Debug)]
pub struct Entry {
    pub value: Set,
    pub told: Option<Position>,
    pub as_of: Option<Position>,
    pub tags: Vec<Tag>,
    pub is_local: bool,
    /// The timeline that it was read on: what was lost before that is no more.
    branch: u32,
    /// Who filled it, and after how many of his purges; for the oracle.
    filler: usize,
    life: usize,
    began: usize,
}

/// What an instance does by itself with the feed, while the stream is silent.
#[derive(Clone, Debug)]
enum Follows {
    No,
    From(Reader, Chain),
    Polled(Reader, super::log::Batch, Chain),
}

/// How what it tells itself joins up with what it has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chain {
    GoesOn,
    BeginsAnew,
}

#[derive(Clone, Debug)]
enum Life {
    /// It has looked, and has no fence yet.
    Starting(usize, Set),
    /// As it should not: the fence first.
    Fenced(usize, Position),
    Begun,
}

#[derive(Clone, Debug)]
pub struct Instance {
    pub ledger: Ledger,
    number: usize,
    life: Life,
    lives: usize,
    kept: [Option<Entry>; KEYS],
    fills: Vec<Fill>,
    to_share: Vec<(usize, Entry)>,
    /// The last message of the stream that was read.
    after: Option<Position>,
    /// From where it can follow the feed by itself.
    cursor: Option<(u32, Set)>,
    /// From where it can lead.
    pub end: Option<StreamEnd>,
    follows: Follows,
    learning: Option<(u64, Vec<(Tag, Position)>)>,
    /// The last message that was applied, whatever it said of those before it.
    complete: Option<Position>,
    /// What it has been told, for the oracle.
    pub told: Set,
    heard_timeline: u32,
    /// How many purges it has applied, and when each row was last purged out of its own mouth or the stream's.
    applied: usize,
    purged: [usize; 2],
    tags_max: usize,
    tags_seen: Vec<u64>,
}

pub type Checked = Result<(), String>;

impl Instance {
    pub fn new(number: usize, tags_max: usize, postgres: &Postgres, primary: usize, mutant: Option<Mutant>) -> Self {
        let limit = if mutant == Some(Mutant::EvictedFencesForgotten) { usize::MAX } else { tags_max };
        Self {
            ledger: Ledger::new(limit),
            number,
            life: Life::Starting(primary, postgres.primaries[primary].visible),
            lives: 0,
            kept: Default::default(),
            fills: Vec::new(),
            to_share: Vec::new(),
            after: None,
            cursor: None,
            end: None,
            follows: Follows::No,
            learning: None,
            complete: None,
            told: 0,
            heard_timeline: 0,
            applied: 0,
            purged: [0; 2],
            tags_max,
            tags_seen: Vec::new(),
        }
    }

    /// It stops, and starts again. What it kept it may have written to a snapshot file before.
    pub fn restart(&mut self, postgres: &Postgres, primary: usize, has_snapshot: bool, mutant: Option<Mutant>) {
        let lives = self.lives + 1;
        let kept = std::mem::take(&mut self.kept);
        *self = Self { lives, ..Self::new(self.number, self.tags_max, postgres, primary, mutant) };
        if has_snapshot {
            let may_be_kept = |entry: &Entry| !entry.is_local || mutant == Some(Mutant::LocalStampsShared);
            self.kept = kept.map(|entry| entry.filter(may_be_kept));
        }
    }

    /// Begins to be told: a snapshot first, then a fence that is past all that was visible in it.
    pub fn begin(&mut self, postgres: &mut Postgres, mutant: Option<Mutant>) -> bool {
        match self.life {
            Life::Starting(primary, _) if mutant == Some(Mutant::StartFenceBeforeSnapshot) => {
                self.life = Life::Fenced(primary, postgres.primaries[primary].emit());
            }
            Life::Starting(primary, cursor) => {
                let fence = postgres.primaries[primary].emit();
                self.begun(fence, primary, cursor);
            }
            Life::Fenced(primary, fence) => {
                let cursor = postgres.primaries[primary].visible;
                self.begun(fence, primary, cursor);
            }
            Life::Begun => return false,
        }
        true
    }

    fn begun(&mut self, fence: Position, primary: usize, cursor: Set) {
        self.ledger.begin(fence, Some(fence));
        self.life = Life::Begun;
        self.cursor = Some((timeline_of(primary), cursor));
        self.told = cursor;
    }

    fn is_begun(&self) -> bool {
        matches!(self.life, Life::Begun)
    }

    fn timeline(&self) -> u32 {
        self.ledger.told().map_or(0, |told| told.timeline.0)
    }

    /// The newest timeline that it was told of, for the oracle.
    fn newest(&self) -> u32 {
        self.timeline().max(self.heard_timeline)
    }

    /// The sampler shows the newest timeline.
    pub fn sample(&mut self, postgres: &Postgres, mutant: Option<Mutant>) -> bool {
        if !self.is_begun() || mutant == Some(Mutant::LsnsAlone) {
            return false;
        }
        let newest = timeline_of(postgres.highest());
        let is_news = self.ledger.enter(SystemId(1), Timeline(newest));
        if is_news {
            self.told &= postgres.survivors(newest);
        }
        is_news
    }

    /// The next message of the stream.
    pub fn hear(&mut self, postgres: &Postgres, redis: &Redis, mutant: Option<Mutant>) -> bool {
        let next = redis.stream.iter().find(|logged| self.after.is_none_or(|after| logged.message.at > after));
        let Some(logged) = next.filter(|_| self.is_begun()) else { return false };
        self.after = Some(logged.message.at);
        if self.apply(postgres, logged, mutant) {
            self.end = StreamEnd::of(logged);
        }
        true
    }

    /// Follows the feed by itself for a step.
    pub fn follow(&mut self, postgres: &mut Postgres, primary: usize, is_anew: bool, mutant: Option<Mutant>) -> bool {
        let timeline = timeline_of(primary);
        if !self.is_begun() {
            return false;
        }
        self.follows = match std::mem::replace(&mut self.follows, Follows::No) {
            // What is not writable and on the newest timeline that is known is no primary.
            Follows::No if timeline < self.timeline() => return false,
            Follows::No => match self.cursor.filter(|(at, _)| *at == timeline && !is_anew) {
                Some((_, cursor)) => Follows::From(Reader::new(primary, cursor), Chain::GoesOn),
                None => {
                    let reader = Reader::new(primary, postgres.primaries[primary].visible);
                    Follows::From(reader, Chain::BeginsAnew)
                }
            },
            Follows::From(mut reader, chain) => {
                let batch = reader.poll(postgres);
                Follows::Polled(reader, batch, chain)
            }
            Follows::Polled(mut reader, batch, chain) => {
                let fence = reader.fence(postgres, mutant);
                reader.look_for_holders(postgres);
                let is_lost = batch.is_lost && mutant != Some(Mutant::LossOfRowsUnnoticed);
                let is_new = chain == Chain::BeginsAnew && mutant != Some(Mutant::FreshCursorUnnoticed);
                let through = match mutant {
                    Some(Mutant::ThroughIsTheFence) => fence.lsn.0,
                    _ => reader.through,
                };
                let prev = (is_lost || is_new).then_some(fence);
                let logged = message(postgres, batch, fence, prev, through);
                self.apply(postgres, &logged, mutant);
                if mutant == Some(Mutant::OwnFeedHandedOn) {
                    self.end = self.end.map(|end| StreamEnd { cursor: batch.snapshot, ..end });
                }
                reader.cursor = batch.snapshot;
                Follows::From(reader, Chain::GoesOn)
            }
        };
        true
    }

    /// The stream speaks again.
    pub fn stop_following(&mut self) -> bool {
        let did = !matches!(self.follows, Follows::No);
        self.follows = Follows::No;
        did
    }

    /// Takes a message to account; says whether it counts here.
    fn apply(&mut self, postgres: &Postgres, logged: &Logged, mutant: Option<Mutant>) -> bool {
        let before = self.newest();
        self.heard_timeline = before.max(logged.message.at.timeline.0);
        let message = self.mutated(&logged.message, mutant);
        let is_hearsay = self.ledger.start().is_some_and(|start| message.at <= start);
        if self.ledger.apply(&message).foreign {
            return false;
        }
        self.complete = later(self.complete, message.at);
        let at = logged.message.at;
        if self.newest() != before {
            self.told &= postgres.survivors(self.newest());
        }
        self.told |= logged.carries & postgres.survivors(at.timeline.0);
        self.told |= postgres.log(at.timeline.0, logged.message.through.lsn.0);
        self.cursor = Some((at.timeline.0, logged.snapshot));
        self.applied += 1;
        // What came before it began binds it no more than what it has read since.
        if !is_hearsay {
            let touched = super::postgres::members(logged.carries).fold(0, |rows, c| rows | postgres.commits[c].rows);
            (0..2).filter(|row| touched & (1 << row) != 0).for_each(|row| self.purged[row] = self.applied);
        }
        true
    }

    /// What a broken rule makes of a message.
    fn mutated(&mut self, message: &Message, mutant: Option<Mutant>) -> Message {
        let mut message = message.clone();
        match mutant {
            Some(Mutant::ChainUnchecked) => message.prev = None,
            Some(Mutant::ChainByOrder) => {
                message.prev = message.prev.filter(|prev| self.complete.is_none_or(|complete| *prev > complete));
            }
            Some(Mutant::HardTakenForSoft) => message.soft.append(&mut message.hard),
            Some(Mutant::LateMessageIgnored) if self.ledger.told().is_some_and(|told| told >= message.at) => {
                (message.soft, message.hard) = (Vec::new(), Vec::new());
            }
            Some(Mutant::LsnsAlone) => {
                message.at = flat(message.at);
                message.reads = message.reads.map(flat);
                message.prev = message.prev.map(flat);
                message.through = flat(message.through);
            }
            Some(Mutant::EvictedFencesForgotten) => {
                for tag in message.soft.iter().chain(&message.hard) {
                    if !self.tags_seen.contains(&tag.hash()) {
                        self.tags_seen.push(tag.hash());
                    }
                }
                let forgotten = self.tags_seen.split_off(self.tags_seen.len().min(self.tags_max));
                message.soft.retain(|tag| !forgotten.contains(&tag.hash()));
                message.hard.retain(|tag| !forgotten.contains(&tag.hash()));
            }
            _ => {}
        }
        message
    }

    /// Looks up the purges for good that it may have missed, and a step later takes them in.
    pub fn learn(&mut self, postgres: &mut Postgres, mutant: Option<Mutant>) -> bool {
        match self.learning.take() {
            Some((gaps, purges)) => {
                let gaps = if mutant == Some(Mutant::LearntTooEarly) { self.ledger.gaps() } else { gaps };
                self.ledger.learn_hard(purges, gaps);
            }
            None if !self.ledger.hard_unknown() || !self.is_begun() => return false,
            None => {
                // The database that is asked shows its timeline, too: what it has lost is no more.
                self.sample(postgres, mutant);
                let (gaps, highest) = (self.ledger.gaps(), postgres.highest());
                let commits = super::postgres::members(postgres.primaries[highest].visible);
                let hard: Vec<Commit> = commits.map(|commit| postgres.commits[commit].clone()).collect();
                let hard = hard.into_iter().filter(|commit| commit.kind == Kind::Hard);
                // Who purged may have gone before he could write down the fence: then it is now.
                let fence = postgres.primaries[highest].emit();
                let purges = hard.map(|commit| match mutant {
                    Some(Mutant::PurgeWithoutFenceForgotten) => (commit.rows, commit.fence),
                    _ => (commit.rows, commit.fence.or(Some(fence))),
                });
                let purges = purges.filter_map(|(rows, fence)| fence.map(|fence| (rows, fence)));
                let tags = |(rows, fence)| {
                    let rows = (0..2).filter(move |row| rows & (1 << row) != 0);
                    rows.map(move |row| (tag(row), fence))
                };
                self.learning = Some((gaps, purges.flat_map(tags).collect()));
            }
        }
        true
    }

    /// A purge that cannot be written down, because the primary is away.
    pub fn purge_here(&mut self, row: usize) -> bool {
        if !self.is_begun() {
            return false;
        }
        self.ledger.purge_here(&[tag(row)], None, false);
        self.applied += 1;
        self.purged[row] = self.applied;
        true
    }
}

fn later(one: Option<Position>, other: Position) -> Option<Position> {
    Some(one.map_or(other, |one| one.later(other)))
}

fn flat(position: Position) -> Position {
    at(1, position.lsn.0)
}
