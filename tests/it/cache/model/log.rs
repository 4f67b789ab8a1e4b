//! The way of changes: a reader of the change feed, a publisher, and the stream in Redis.

use mainstay::cache::fence::Message;
use mainstay::cache::tag::{EVERYTHING, Tag};
use mainstay::position::Position;

use super::instance::{Entry, KEYS};
use super::mutant::Mutant;
use super::postgres::{Kind, Postgres, Primary, Set, Stored, at, members};

/// A message, and what it really carries.
#[derive(Clone, Debug)]
pub struct Logged {
    pub message: Message,
    pub carries: Set,
    pub snapshot: Set,
}

/// What the stream has told by its last message, as an instance has heard it.
#[derive(Clone, Copy, Debug)]
pub struct StreamEnd {
    pub at: Position,
    pub prev: Position,
    pub cursor: Set,
}

impl StreamEnd {
    pub fn of(logged: &Logged) -> Option<Self> {
        let message = &logged.message;
        let prev = if message.has_tags() { message.at } else { message.prev? };
        Some(Self { at: message.at, prev, cursor: logged.snapshot })
    }
}

/// Redis: a stream that refuses ids which do not grow, and the shared cache.
#[derive(Clone, Debug, Default)]
pub struct Redis {
    pub stream: Vec<Logged>,
    pub top: Option<Position>,
    pub entries: [Option<Entry>; KEYS],
}

impl Redis {
    pub fn add(&mut self, logged: &Logged) -> bool {
        let is_next = self.top.is_none_or(|top| logged.message.at > top);
        if is_next {
            self.top = Some(logged.message.at);
            self.stream.push(logged.clone());
            return true;
        }
        false
    }

    /// Another instance's copy takes over, which had not got the end yet.
    pub fn lose_tail(&mut self, count: usize) -> bool {
        let left = self.stream.len().saturating_sub(count);
        self.stream.truncate(left);
        self.top = self.stream.last().map(|logged| logged.message.at);
        count > 0
    }
}

/// What one look at the feed brought.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub rows: Set,
    pub snapshot: Set,
    pub is_lost: bool,
}

/// Who follows the feed, with a snapshot as the cursor.
#[derive(Clone, Debug)]
pub struct Reader {
    pub primary: usize,
    pub cursor: Set,
    pub through: u64,
    /// A fence whose commits are waited for, and who held the commit lock after it was emitted.
    candidate: Option<(u64, Option<Set>)>,
}

impl Reader {
    pub fn new(primary: usize, cursor: Set) -> Self {
        Self { primary, cursor, through: 0, candidate: None }
    }

    pub fn poll(&mut self, postgres: &Postgres) -> Batch {
        let primary = &postgres.primaries[self.primary];
        if let Some((fence, Some(holders))) = self.candidate
            && holders & primary.committing == 0
        {
            (self.through, self.candidate) = (fence, None);
        }
        let snapshot = primary.visible;
        let rows = snapshot & !self.cursor;
        Batch { rows: rows & !primary.pruned, snapshot, is_lost: rows & primary.pruned != 0 }
    }

    /// A position after the rows were seen.
    pub fn fence(&mut self, postgres: &mut Postgres, mutant: Option<Mutant>) -> Position {
        let primary = &mut postgres.primaries[self.primary];
        let fence = match mutant {
            // What a writer that does not wait for its flush has made visible lies past that.
            Some(Mutant::FenceIsFlushPosition) if primary.inserted > primary.flushed + 1 => {
                primary.flushed += 1;
                at(primary.timeline, primary.flushed)
            }
            _ => primary.emit(),
        };
        if self.candidate.is_none() {
            self.candidate = Some((fence.lsn.0, None));
        }
        fence
    }

    pub fn look_for_holders(&mut self, postgres: &Postgres) {
        if let Some((_, holders @ None)) = &mut self.candidate {
            *holders = Some(postgres.primaries[self.primary].committing);
        }
    }
}

/// The message of a batch.
pub fn message(postgres: &Postgres, batch: Batch, fence: Position, prev: Option<Position>, through: u64) -> Logged {
    let (mut soft, mut hard) = (Vec::new(), Vec::new());
    for commit in members(batch.rows).map(|commit| &postgres.commits[commit]) {
        let (tags, everything) = match commit.kind {
            Kind::Soft => (&mut soft, false),
            Kind::Hard => (&mut hard, false),
            Kind::Everything => (&mut soft, true),
        };
        if everything {
            tags.push(Tag::new(EVERYTHING));
        } else {
            tags.extend((0..2).filter(|row| commit.rows & (1 << row) != 0).map(tag));
        }
    }
    let through = at(fence.timeline.0, through);
    let (cursor, purges) = (String::new(), Vec::new());
    let message = Message { at: fence, reads: Some(fence), prev, through, cursor, soft, hard, purges };
    Logged { message, carries: batch.rows, snapshot: batch.snapshot }
}

/// The tag of a row.
pub fn tag(row: usize) -> Tag {
    Tag::new(["a", "b"][row])
}

/// Where a publisher is in its round. It can be stopped between any two steps for as long as one likes.
#[derive(Clone, Debug)]
enum Phase {
    Off,
    /// It has a fresh snapshot for a cursor, where none was stored.
    Registering(Reader),
    Idle(Reader, Position),
    Polled(Reader, Position, Batch, Option<Position>),
    Fenced(Reader, Position, Logged),
    Published(Reader, Position, Logged),
}

#[derive(Clone, Debug)]
pub struct Publisher(Phase);

impl Publisher {
    pub fn new() -> Self {
        Self(Phase::Off)
    }

    /// Its process dies.
    pub fn stop(&mut self) -> bool {
        let was_on = !matches!(self.0, Phase::Off);
        self.0 = Phase::Off;
        was_on
    }

    /// Takes the next step; says whether there was anything to do. Its instance has heard the stream to this end.
    pub fn step(
        &mut self,
        postgres: &mut Postgres,
        redis: &mut Redis,
        primary: usize,
        end: Option<StreamEnd>,
        mutant: Option<Mutant>,
    ) -> bool {
        self.0 = match std::mem::replace(&mut self.0, Phase::Off) {
            Phase::Off => {
                let Primary { visible, timeline, stored, .. } = &mut postgres.primaries[primary];
                let Stored { cursor, last } = *stored.get_or_insert(Stored { cursor: *visible, last: None });
                match (last, end.filter(|end| end.at.timeline.0 == *timeline)) {
                    (last, Some(end)) if last.is_none_or(|last| end.prev > last) => {
                        Phase::Idle(Reader::new(primary, end.cursor), end.prev)
                    }
                    (Some(last), _) => Phase::Idle(Reader::new(primary, cursor), last),
                    (None, _) => Phase::Registering(Reader::new(primary, cursor)),
                }
            }
            Phase::Registering(mut reader) => {
                let cursor = reader.cursor;
                let last = reader.fence(postgres, None);
                postgres.primaries[reader.primary].stored = Some(Stored { cursor, last: Some(last) });
                Phase::Idle(reader, last)
            }
            Phase::Idle(mut reader, last) => {
                let early = (mutant == Some(Mutant::FenceBeforeRows)).then(|| reader.fence(postgres, None));
                let batch = match early {
                    // The rows are looked for later, then.
                    Some(_) => Batch { rows: 0, snapshot: reader.cursor, is_lost: false },
                    None => reader.poll(postgres),
                };
                Phase::Polled(reader, last, batch, early)
            }
            Phase::Polled(mut reader, last, batch, early) => {
                let (fence, batch) = match early {
                    Some(fence) => (fence, reader.poll(postgres)),
                    None => (reader.fence(postgres, mutant), batch),
                };
                let is_lost = batch.is_lost && mutant != Some(Mutant::LossOfRowsUnnoticed);
                let prev = if is_lost { fence } else { last };
                let through = if mutant == Some(Mutant::ThroughIsTheFence) { fence.lsn.0 } else { reader.through };
                Phase::Fenced(reader, last, message(postgres, batch, fence, Some(prev), through))
            }
            Phase::Fenced(mut reader, last, logged) => {
                reader.look_for_holders(postgres);
                if mutant == Some(Mutant::AdvanceBeforePublish) {
                    postgres.primaries[reader.primary].stored =
                        Some(Stored { cursor: logged.snapshot, last: Some(last) });
                }
                match redis.add(&logged) {
                    true => Phase::Published(reader, last, logged),
                    false => Phase::Off,
                }
            }
            Phase::Published(mut reader, last, logged) => {
                // Where another has gone on meanwhile this takes the database back, and rows are published twice.
                let last = if logged.message.has_tags() { logged.message.at } else { last };
                reader.cursor = logged.snapshot;
                postgres.primaries[reader.primary].stored = Some(Stored { cursor: logged.snapshot, last: Some(last) });
                Phase::Idle(reader, last)
            }
        };
        true
    }
}
