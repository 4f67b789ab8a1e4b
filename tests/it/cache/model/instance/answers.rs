//! What an instance answers with: what it keeps, what others have shared, and fills.

use mainstay::cache::fence::{Standing, Ticket};
use mainstay::cache::tag::Tag;
use mainstay::position::Position;

use super::super::log::{Redis, tag};
use super::super::mutant::Mutant;
use super::super::postgres::{Kind, Postgres, Set, at, bit};
use super::{Checked, Entry, Instance, rows};

/// How often a fill asks again before it gives up.
const READS_MAX: u8 = 3;

#[derive(Clone, Debug)]
pub(super) struct Read {
    value: Set,
    /// None: the primary.
    as_of: Option<Position>,
    branch: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Fill {
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

fn known_tags(key: usize) -> Vec<Tag> {
    vec![tag([0, 1, 0][key])]
}

fn all_tags(key: usize) -> Vec<Tag> {
    (0..2).filter(|row| rows(key) & (1 << row) != 0).map(tag).collect()
}

impl Instance {
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
        let hard = hard.fold(0, |set, (index, _)| set | bit(index));
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
