//! Up to which position all commits have been brought: the one thing that a position by itself does not prove.
//!
//! A commit is on the log a moment before it is visible, and with synchronous replication long before. A snapshot taken after a
//! fence may lack a commit below that fence. But whoever commits a row of the feed holds a lock from before the log until
//! after it is visible; so once none is left of those who held it when the fence had been taken, the next snapshot has all
//! commits below.

use std::collections::BTreeSet;

use crate::position::Position;

/// A fence, and those who held the lock after it was taken.
#[derive(Debug)]
struct Pending {
    fence: Position,
    holders: BTreeSet<String>,
}

/// Fences that are still to be proven: the oldest one that waits, and the newest one, which takes its place.
#[derive(Debug, Default)]
pub(super) struct Through {
    candidate: Option<Pending>,
    newest: Option<Pending>,
}

impl Through {
    /// A fence was taken, and after it these held the lock.
    pub(super) fn note(&mut self, fence: Position, holders: BTreeSet<String>) {
        let slot = if self.candidate.is_none() { &mut self.candidate } else { &mut self.newest };
        *slot = Some(Pending { fence, holders });
    }

    /// Whether it takes a look at who holds the lock to get on.
    pub(super) fn waits(&self) -> bool {
        self.candidate.iter().chain(&self.newest).any(|pending| !pending.holders.is_empty())
    }

    /// The newest fence of which no holder is left among those who hold the lock now. Whoever takes a snapshot from now on sees all commits below it.
    pub(super) fn resolve(&mut self, holders: &BTreeSet<String>) -> Option<Position> {
        let is_free = |pending: &Pending| pending.holders.is_disjoint(holders);
        let candidate = self.candidate.take_if(|pending| is_free(pending))?;
        let newest = self.newest.take_if(|pending| is_free(pending));
        self.candidate = self.newest.take();
        Some(newest.map_or(candidate.fence, |newest| newest.fence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Lsn, SystemId, Timeline};

    fn at(lsn: u64) -> Position {
        Position { system: SystemId(7), timeline: Timeline(1), lsn: Lsn(lsn) }
    }

    fn holders(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fence_is_proven_once_all_are_gone_who_held_the_lock_when_it_was_taken() {
        let mut through = Through::default();
        assert_eq!(through.resolve(&holders(&[])), None, "nothing was taken");
        through.note(at(10), holders(&["3/1", "4/1"]));
        assert!(through.waits());
        assert_eq!(through.resolve(&holders(&["4/1", "5/1"])), None);
        through.note(at(20), holders(&["4/1", "5/1"]));
        through.note(at(30), holders(&["5/1"]));
        assert_eq!(through.resolve(&holders(&["5/1", "6/1"])), Some(at(10)), "who came later does not count");
        assert!(through.waits());
        assert_eq!(through.resolve(&holders(&["6/1"])), Some(at(30)), "the newest took its place");
        through.note(at(40), holders(&[]));
        assert!(!through.waits());
        through.note(at(50), holders(&[]));
        assert_eq!(through.resolve(&holders(&["7/1"])), Some(at(50)));
        assert_eq!(through.resolve(&holders(&[])), None, "each is told once");
        through.note(at(60), holders(&[]));
        through.note(at(70), holders(&["8/1"]));
        assert!(through.waits(), "the newest must not pass for free because the oldest is");
    }
}
