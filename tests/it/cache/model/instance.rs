//! An instance: the real [`Ledger`] with entries, fills and requests around it, as the server has them.

use mainstay::cache::fence::{Ledger, Message, Standing, Ticket};
use mainstay::cache::tag::Tag;
use mainstay::position::{Position, SystemId, Timeline};

use super::log::{Logged, Reader, Redis, StreamEnd, message, tag};
use super::mutant::Mutant;
use super::postgres::{Commit, Kind, Postgres, Set, at, timeline_of};

/// Two rows are read one by one, and a third key reads both, with the tag of the second found in the result.
pub const KEYS: usize = 3;
/// How often a fill asks again before it gives up.
const READS_MAX: u8 = 3;

/// The rows that a key reads, one bit each.
pub fn rows(key: usize) -> u8 {
    [0b01, 0b10, 0b11][key]
}

fn known_tags(key: usize) -> Vec<Tag> {
    vec![tag([0, 1, 0][key])]
}

fn all_tags(key: usize) -> Vec<Tag> {
    (0..2).filter(|row| rows(key) & (1 << row) != 0).map(tag).collect()
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

#[derive(Clone, Debug)]
struct Read {
    value: Set,
    /// None: the primary.
    as_of: Option<Position>,
    branch: u32,
}

#[derive(Clone, Debug)]
struct Fill {
    key: usize,
    /// What was noted when it was joined first, and before the last read.
    joined: Ticket,
    ticket: Ticket,
    began: usize,
    reads: u8,
    read: Option<Read>,
    /// What each who waits has been told.
    waiting: Vec<Set>,
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

    fn standing(
        &self,
        told: Option<Position>,
        as_of: Option<Position>,
        tags: &[Tag],
        mutant: Option<Mutant>,
    ) -> Standing {
        let as_of = as_of.filter(|_| mutant != Some(Mutant::StampVouchesForReads));
        let standing = self.ledger.standing(told, as_of, tags);
        let is_own = told.zip(self.ledger.start()).is_some_and(|(told, start)| told >= start);
        match mutant {
            Some(Mutant::SharedBeforeCaughtUp) if standing == Standing::Unknown && !is_own => Standing::Current,
            Some(Mutant::OwnByStampAlone) if standing == Standing::Unknown && is_own => Standing::Current,
            _ => standing,
        }
    }

    fn stands(&self, entry: &Entry, mutant: Option<Mutant>) -> Standing {
        self.standing(entry.told, entry.as_of, &entry.tags, mutant)
    }

    fn need(&self, postgres: &Postgres, key: usize) -> Set {
        self.told & postgres.touching(rows(key))
    }

    /// A request: from what is kept, from the shared cache, or by a fill that it joins or leads.
    pub fn request(
        &mut self,
        postgres: &Postgres,
        redis: Option<&Redis>,
        key: usize,
        mutant: Option<Mutant>,
    ) -> Checked {
        if !self.is_begun() {
            return Ok(());
        }
        let need = self.need(postgres, key);
        if let Some(entry) = &self.kept[key]
            && self.stands(entry, mutant) == Standing::Current
        {
            return self.check(postgres, entry, key, need);
        }
        if let Some(entry) = redis.and_then(|redis| redis.entries[key].clone())
            && self.stands(&entry, mutant) == Standing::Current
        {
            let checked = self.check(postgres, &entry, key, need);
            return checked.and(self.keep(key, entry, mutant));
        }
        let tags = known_tags(key);
        let running = self.fills.iter().rposition(|fill| fill.key == key);
        let is_overtaken = |fill: &Fill| {
            let standing = self.ledger.standing(fill.joined.told, None, &tags);
            matches!(standing, Standing::Purged | Standing::Forbidden) && mutant != Some(Mutant::OvertakenFillJoined)
        };
        match running.filter(|index| !is_overtaken(&self.fills[*index])) {
            Some(index) => self.fills[index].waiting.push(need),
            None if self.fills.len() < 3 => {
                let ticket = self.ledger.ticket(&tags);
                let (began, waiting) = (self.applied, vec![need]);
                self.fills.push(Fill { key, joined: ticket, ticket, began, reads: 0, read: None, waiting });
            }
            None => {}
        }
        Ok(())
    }

    /// What is there is served because the source fails: anything but what was purged for good.
    pub fn request_stale(&self, postgres: &Postgres, redis: &Redis, key: usize, mutant: Option<Mutant>) -> Checked {
        let entries = [&self.kept[key], &redis.entries[key]].into_iter().flatten();
        let hard = postgres.commits.iter().enumerate().filter(|(_, commit)| commit.kind == Kind::Hard);
        let hard = hard.fold(0, |set, (index, _)| set | super::postgres::bit(index));
        for entry in entries.filter(|entry| self.stands(entry, mutant) != Standing::Forbidden) {
            let missing = self.need(postgres, key) & hard & !entry.value;
            let missing = missing & postgres.survivors(entry.branch.max(self.newest()));
            if missing != 0 && self.is_begun() {
                return Err(format!(
                    "instance {} serves {entry:?} of key {key}, purged for good by {missing:b}",
                    self.number
                ));
            }
        }
        Ok(())
    }

    fn check_value(&self, postgres: &Postgres, entry: &Entry, key: usize, need: Set) -> Checked {
        match need & !entry.value & postgres.survivors(entry.branch.max(self.newest())) {
            0 => Ok(()),
            missing => Err(format!("instance {} serves {entry:?} of key {key}, which lacks {missing:b}", self.number)),
        }
    }

    fn check(&self, postgres: &Postgres, entry: &Entry, key: usize, need: Set) -> Checked {
        self.check_value(postgres, entry, key, need)?;
        let purged = (0..2).filter(|row| rows(key) & (1 << row) != 0).map(|row| self.purged[row]).max();
        if entry.filler == self.number && entry.life == self.lives && purged.is_some_and(|purged| purged > entry.began)
        {
            return Err(format!("instance {} serves {entry:?} of key {key}, from before a purge", self.number));
        }
        Ok(())
    }

    fn keep(&mut self, key: usize, entry: Entry, mutant: Option<Mutant>) -> Checked {
        let place = &mut self.kept[key];
        let is_older = place.as_ref().is_some_and(|kept| kept.told > entry.told);
        if is_older && mutant == Some(Mutant::OldFillReplacesNewer) {
            return Err("what is kept goes back".to_owned());
        }
        if !is_older {
            *place = Some(entry);
        }
        Ok(())
    }

    /// A fill's source reads: a replica that has replayed enough, or the primary.
    pub fn read(&mut self, postgres: &Postgres, fill: usize, source: usize, mutant: Option<Mutant>) -> bool {
        let newest_known = self.timeline();
        let Some(fill) = self.fills.get_mut(fill).filter(|fill| fill.read.is_none()) else { return false };
        let mut asked = fill.ticket.reads;
        if mutant == Some(Mutant::StandbyBelievedByName) && self.ledger.through().is_none() {
            asked = asked.map(|asked| at(asked.timeline.0, 0));
        }
        let wanted = postgres.touching(rows(fill.key));
        let read = match postgres.replicas.get(source) {
            Some(replica) => {
                let position = at(replica.timeline, replica.replayed);
                let reaches = |asked: Position| match mutant {
                    Some(Mutant::LsnsAlone) => position.lsn >= asked.lsn,
                    _ => position.reaches(&asked),
                };
                if !asked.is_none_or(reaches) && mutant != Some(Mutant::ReadAnywhere) {
                    return false;
                }
                Read {
                    value: postgres.log(replica.timeline, replica.replayed) & wanted,
                    as_of: Some(position),
                    branch: replica.timeline,
                }
            }
            None => {
                let primary = &postgres.primaries[(source - postgres.replicas.len()) % postgres.primaries.len()];
                let is_primary = primary.timeline >= newest_known || mutant == Some(Mutant::OldPrimaryRead);
                if !is_primary && mutant != Some(Mutant::LsnsAlone) {
                    return false;
                }
                Read { value: primary.visible & wanted, as_of: None, branch: primary.timeline }
            }
        };
        fill.read = Some(read);
        true
    }

    /// A fill ends: it asks again where its answer may lack what was told of tags that only the answer shows.
    pub fn end_fill(&mut self, postgres: &Postgres, index: usize, mutant: Option<Mutant>) -> Checked {
        let Some(read) = self.fills.get_mut(index).and_then(|fill| fill.read.take()) else { return Ok(()) };
        let fill = self.fills[index].clone();
        let tags = all_tags(fill.key);
        let is_short = |asked: Position| read.as_of.is_some_and(|as_of| !as_of.reaches(&asked));
        // Those who joined were only asked for the tags that were known then.
        let late = &tags[known_tags(fill.key).len()..];
        let is_purged = |standing| matches!(standing, Standing::Purged | Standing::Forbidden);
        let is_overtaken = !late.is_empty() && is_purged(self.ledger.standing(fill.ticket.told, read.as_of, late));
        let asks_again = match mutant {
            Some(Mutant::LateTagsUnchecked | Mutant::LateTagsDropped | Mutant::ReadAnywhere | Mutant::LsnsAlone) => {
                false
            }
            Some(Mutant::StandbyBelievedByName) if self.ledger.through().is_none() => false,
            Some(Mutant::LateTagsByReadsAlone) => self.ledger.required(&tags).is_some_and(is_short),
            _ => self.ledger.required(&tags).is_some_and(is_short) || is_overtaken,
        };
        if asks_again {
            let fill = &mut self.fills[index];
            fill.reads += 1;
            if fill.reads == READS_MAX {
                self.fills.remove(index);
                return Ok(());
            }
            fill.ticket = self.ledger.ticket(&tags);
            fill.began = self.applied;
            return Ok(());
        }
        self.fills.remove(index);
        let (now, key) = (self.ledger.ticket(&tags), fill.key);
        let entry = Entry {
            value: read.value,
            told: if mutant == Some(Mutant::StampAtTheEnd) { now.told } else { fill.ticket.told },
            as_of: read.as_of,
            branch: read.branch,
            tags: if mutant == Some(Mutant::LateTagsDropped) { known_tags(key) } else { tags },
            is_local: fill.ticket.is_local,
            filler: self.number,
            life: self.lives,
            began: fill.began,
        };
        for need in &fill.waiting {
            self.check_value(postgres, &entry, key, *need)?;
        }
        if !is_purged(self.stands(&entry, mutant)) {
            if !entry.is_local || mutant == Some(Mutant::LocalStampsShared) {
                self.to_share.push((key, entry.clone()));
            }
            return self.keep(key, entry, mutant);
        }
        Ok(())
    }

    /// What was filled gets to Redis, at some time.
    pub fn share(&mut self, redis: &mut Redis) -> bool {
        let Some((key, entry)) = self.to_share.pop() else { return false };
        let place = &mut redis.entries[key];
        if place.as_ref().is_none_or(|kept| kept.told <= entry.told) {
            *place = Some(entry);
        }
        true
    }

    /// How many fills run.
    pub fn fills(&self) -> usize {
        self.fills.len()
    }

    /// Whether what it keeps of a key is fresh.
    pub fn is_fresh(&self, key: usize) -> bool {
        self.kept[key].as_ref().is_some_and(|entry| self.stands(entry, None) == Standing::Current)
    }
}

fn later(one: Option<Position>, other: Position) -> Option<Position> {
    Some(one.map_or(other, |one| one.later(other)))
}

fn flat(position: Position) -> Position {
    at(1, position.lsn.0)
}
