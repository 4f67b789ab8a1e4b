//! Hard purges that an instance did not hear itself: whether there may be any, where it learns of them, and what it can tell those
//! who will have to learn of them from it.

use super::super::tag::{EVERYTHING, Tag};
use super::{Fence, Ledger, Mark, later};
use crate::position::{Lsn, Position, SystemId, Timeline};

/// Tags whose hard purges are told on. What is older stands as a purge of everything.
const TOLD_MAX: usize = 10_000;

/// A place on nobody's clock: every stamp lacks what was purged there.
const NOBODYS: Position = Position { system: SystemId(u64::MAX), timeline: Timeline(0), lsn: Lsn(0) };

/// What is known of hard purges that were not heard.
#[derive(Clone, Debug)]
pub(super) struct Knowledge {
    /// Whether any may have been missed that are still to be looked up.
    is_unknown: bool,
    /// They came before this position, or at it.
    missed: Option<Position>,
    /// Whether the look-up was given up, so that what is known is not all.
    is_given_up: bool,
}

impl Default for Knowledge {
    /// Whoever begins has heard nothing.
    fn default() -> Self {
        Self { is_unknown: true, missed: None, is_given_up: false }
    }
}

impl Knowledge {
    pub(super) fn miss(&mut self, through: Position) {
        self.is_unknown = true;
        self.missed = later(self.missed, Some(through));
    }

    pub(super) fn give_up(&mut self) {
        (self.is_unknown, self.is_given_up) = (false, true);
    }

    fn learn(&mut self) {
        (self.is_unknown, self.is_given_up) = (false, false);
    }
}

/// All hard purges that were told through some position, as one instance tells them to another. Tags are told by their hashes,
/// by which fences go anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardPurges {
    /// None is missing that was told at this position or before it.
    pub through: Position,
    /// What was told before this is not served, whatever its tags.
    pub all: Option<Position>,
    /// The fence of each tag, the newest first.
    pub tags: Vec<(u64, Position)>,
}

impl Ledger {
    /// Hard purges of the past, as far as they are still kept: tags and their fences. With them it is known again which
    /// entries must not be served, unless more was missed since they were asked for: `gaps` is the count from before that.
    pub fn learn_hard(&mut self, purges: impl IntoIterator<Item = (Tag, Position)>, gaps: u64) {
        for (tag, at) in purges {
            // No entry carries the tag of everything, which is how a flush is kept.
            let fence = match tag.name() {
                EVERYTHING => &mut self.all,
                _ => self.tags.entry(tag.hash()).or_default(),
            };
            fence.raise(Mark { at: Some(at), reads: None }, true);
        }
        if gaps == self.gaps {
            self.hard.learn();
        }
        self.bound();
    }

    /// The hard purges that another instance has told on. They are all that matter where they reach as far as what was missed
    /// of the stream itself.
    pub fn recall_hard(&mut self, purges: &HardPurges) {
        if self.told.is_none() {
            // Without a clock their positions would mean nothing once there is one.
            self.turn_to(purges.through.system, purges.through.timeline);
        }
        let told = self.told.unwrap_or(purges.through);
        // On another clock, all that is older than the clock is older than they are.
        let start = Position::start_of(told.system, told.timeline);
        let mark = |at: Position| Mark { at: Some(if at.system == told.system { at } else { start }), reads: None };
        for (hash, at) in &purges.tags {
            self.tags.entry(*hash).or_default().raise(mark(*at), true);
        }
        if let Some(at) = purges.all {
            self.all.raise(mark(at), true);
        }
        if self.hard.missed.is_some_and(|missed| purges.through >= missed) {
            self.hard.learn();
        }
        self.bound();
    }

    /// The hard purges that an origin knows whose entries are taken over from now on, and whether they are all that matter. They
    /// are kept as they are, whatever the clock is here: what is stamped by another clock than a purge of its tags is not
    /// served, since nobody can say which came first.
    pub fn learn_hard_of_peer(&mut self, purges: &HardPurges, are_all: bool) {
        // Of two purges on two clocks neither stands for the other.
        let told = |fence: &mut Fence, at: Position| {
            let is_other = fence.hard.at.is_some_and(|known| known.partial_cmp(&at).is_none());
            fence.raise(Mark { at: Some(if is_other { NOBODYS } else { at }), reads: None }, true);
        };
        for (hash, at) in &purges.tags {
            told(self.tags.entry(*hash).or_default(), *at);
        }
        if let Some(at) = purges.all {
            told(&mut self.all, at);
        }
        // Who has heard the stream asks there what he missed of it.
        if are_all && self.hard.missed.is_none() {
            self.hard.learn();
        }
        self.bound();
    }

    /// All hard purges that matter, to be told on; none while some may be missing.
    pub fn hard_purges(&self) -> Option<HardPurges> {
        self.known_hard_purges().filter(|_| self.knows_hard())
    }

    /// The hard purges that are known here, to be told on; none where nothing was told.
    pub fn known_hard_purges(&self) -> Option<HardPurges> {
        let through = self.heard?;
        let fence = |(hash, fence): (&u64, &Fence)| Some((*hash, fence.hard.at?));
        let mut tags: Vec<(u64, Position)> = self.tags.iter().filter_map(fence).collect();
        tags.sort_unstable_by_key(|(hash, at)| (std::cmp::Reverse((at.timeline, at.lsn)), *hash));
        // The newest of those that are left out has all of them below it.
        let all = later(self.all.hard.at, tags.get(TOLD_MAX).map(|(_, at)| *at));
        tags.truncate(TOLD_MAX);
        Some(HardPurges { through, all, tags })
    }

    /// The hard purges of the past cannot be learnt, and what they may cover is served all the same.
    pub fn give_up_hard(&mut self) {
        self.hard.give_up();
    }

    /// Whether this instance knows of all hard purges that matter.
    pub fn knows_hard(&self) -> bool {
        !self.hard.is_unknown && !self.hard.is_given_up
    }

    /// Whether hard purges may have been missed; see [`Ledger::learn_hard`].
    pub fn hard_unknown(&self) -> bool {
        self.hard.is_unknown
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fence::{Message, Standing};
    use super::*;
    use crate::position::{Lsn, SystemId, Timeline};

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(7), Timeline(1)) }
    }

    fn message(prev: u64, lsn: u64, hard: &[&str]) -> Message {
        Message {
            at: at(lsn),
            reads: Some(at(lsn)),
            prev: Some(at(prev)),
            through: at(lsn),
            cursor: String::new(),
            soft: Vec::new(),
            hard: hard.iter().map(|name| Tag::new(*name)).collect(),
            purges: Vec::new(),
        }
    }

    fn standing(ledger: &Ledger, told: u64, tag: &str) -> Standing {
        ledger.standing(Some(at(told)), None, &[Tag::new(tag)])
    }

    /// Who was told of all through 20, and of a purge of `a` for good at 10.
    fn told_on() -> HardPurges {
        let mut leader = Ledger::new(100);
        leader.begin(at(1), Some(at(1)));
        leader.apply(&message(0, 10, &["a"]));
        assert_eq!(leader.hard_purges(), None, "what came before the first message is not known yet");
        leader.learn_hard([], leader.gaps());
        leader.apply(&message(10, 20, &[]));
        leader.hard_purges().unwrap()
    }

    #[test]
    fn what_is_told_on_forbids_what_was_told_before_it_and_nothing_else() {
        let list = told_on();
        assert_eq!(
            (list.through, list.all, list.tags.as_slice()),
            (at(20), None, [(Tag::new("a").hash(), at(10))].as_slice())
        );
        let mut ledger = Ledger::new(100);
        ledger.recall_hard(&list);
        assert!(ledger.hard_unknown(), "nothing was heard yet that it could reach");
        ledger.apply(&message(15, 21, &[]));
        assert!(ledger.hard_unknown());
        ledger.recall_hard(&list);
        assert!(!ledger.hard_unknown());
        assert_eq!(standing(&ledger, 9, "a"), Standing::Forbidden);
        assert_eq!(standing(&ledger, 9, "b"), Standing::Purged, "it may have been missed, and was not purged for good");
        assert_eq!(standing(&ledger, 16, "a"), Standing::Current);
    }

    #[test]
    fn a_list_that_ends_before_what_was_missed_does_not_do() {
        let mut ledger = Ledger::new(100);
        ledger.apply(&message(21, 22, &[]));
        ledger.recall_hard(&told_on());
        assert!(ledger.hard_unknown());
        assert_eq!(standing(&ledger, 9, "b"), Standing::Forbidden);
        ledger.give_up_hard();
        assert_eq!(standing(&ledger, 9, "b"), Standing::Purged);
        assert_eq!(standing(&ledger, 9, "a"), Standing::Forbidden, "what is known of holds all the same");
        assert_eq!(ledger.hard_purges(), None, "who gave up tells nobody that he knows all");
    }

    #[test]
    fn a_list_of_another_clock_forbids_what_is_older_than_this_one() {
        let mut ledger = Ledger::new(100);
        let list = told_on();
        let other = Position { system: SystemId(8), ..at(5) };
        ledger.apply(&Message {
            at: other,
            reads: Some(other),
            prev: Some(other),
            through: other,
            ..message(0, 0, &[])
        });
        ledger.recall_hard(&list);
        ledger.give_up_hard();
        assert_eq!(standing(&ledger, 9, "a"), Standing::Forbidden);
        assert_eq!(ledger.standing(Some(other), None, &[Tag::new("a")]), Standing::Current);
    }

    #[test]
    fn what_a_peer_tells_of_is_kept_as_it_is_whatever_the_clock() {
        let mut ledger = Ledger::new(100);
        ledger.learn_hard_of_peer(&told_on(), false);
        assert!(ledger.hard_unknown(), "he may not know all");
        ledger.learn_hard_of_peer(&told_on(), true);
        assert!(ledger.knows_hard());
        let check = |ledger: &Ledger| {
            assert_eq!(standing(ledger, 9, "a"), Standing::Forbidden);
            assert_ne!(standing(ledger, 11, "a"), Standing::Forbidden);
            assert_ne!(standing(ledger, 9, "b"), Standing::Forbidden);
        };
        check(&ledger);
        let other = Position { system: SystemId(8), ..at(50) };
        let stamped = |ledger: &Ledger| ledger.standing(Some(other), None, &[Tag::new("a")]);
        assert_eq!(stamped(&ledger), Standing::Forbidden, "nobody can say which came first");
        // The clock comes later, and is that of the peer: his purges hold as they are.
        ledger.turn_to(SystemId(7), Timeline(1));
        check(&ledger);
        // He restarts, with another clock: what was purged on either is not served.
        ledger.learn_hard_of_peer(
            &HardPurges { through: other, all: None, tags: vec![(Tag::new("a").hash(), other)] },
            true,
        );
        assert_eq!(standing(&ledger, 9, "a"), Standing::Forbidden);
        assert_eq!(stamped(&ledger), Standing::Forbidden, "nor what was filled since: it may lack the other one");
        ledger.learn_hard_of_peer(&told_on(), true);
        assert_eq!(standing(&ledger, 11, "a"), Standing::Forbidden, "whoever is heard last does not bring it back");
    }

    #[test]
    fn of_too_many_the_oldest_become_one_of_everything() {
        let mut ledger = Ledger::new(1_000_000);
        ledger.begin(at(1), None);
        let count = u64::try_from(TOLD_MAX).unwrap() + 5;
        ledger.learn_hard((1..=count).map(|number| (Tag::new(format!("t{number}")), at(number))), 0);
        let list = ledger.hard_purges().unwrap();
        assert_eq!((list.tags.len(), list.all), (TOLD_MAX, Some(at(5))));
        assert_eq!(list.tags[0], (Tag::new(format!("t{count}")).hash(), at(count)));
    }
}
