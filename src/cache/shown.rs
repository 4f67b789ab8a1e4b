//! How far the data had got that an instance has shown, so that it does not show less afterwards: one replica may be ahead of
//! what the instance was told, and the next one that is asked behind it.
//!
//! Positions are kept by the hash of the key, in a table that never grows and forgets nothing. Keys that share a place cost
//! each other a read that goes further than it had to, and nothing else.

use parking_lot::Mutex;

use super::key::Key;
use crate::position::{Lsn, Position, SystemId, Timeline};

/// Places. Half a megabyte, of which the system gives what is written to.
const PLACES: usize = 1 << 16;

/// What was shown of each key.
pub struct Shown(Mutex<Table>);

struct Table {
    /// All positions are on this branch: no other one's can be compared with them.
    branch: Option<(SystemId, Timeline)>,
    places: Box<[u64]>,
}

impl Default for Shown {
    fn default() -> Self {
        Self(Mutex::new(Table { branch: None, places: vec![0; PLACES].into() }))
    }
}

impl Shown {
    /// What was shown of a key may have been as new as this.
    pub fn raise(&self, key: Key, seen: Position) {
        let branch = Some((seen.system, seen.timeline));
        let mut table = self.0.lock();
        if table.branch != branch {
            let is_over =
                table.branch.is_some_and(|(system, timeline)| system == seen.system && timeline > seen.timeline);
            if is_over {
                return;
            }
            table.branch = branch;
            table.places.fill(0);
        }
        if let Some(place) = table.places.get_mut(index(key)) {
            *place = seen.lsn.0.max(*place);
        }
    }

    /// How far a source must have read for an answer that is not older than what was shown of a key.
    pub fn of(&self, key: Key) -> Option<Position> {
        let table = self.0.lock();
        let (system, timeline) = table.branch?;
        let lsn = table.places.get(index(key)).copied().filter(|lsn| *lsn > 0)?;
        Some(Position { system, timeline, lsn: Lsn(lsn) })
    }
}

fn index(key: Key) -> usize {
    usize::try_from(key.0 >> 64).unwrap_or(0) % PLACES
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::entry::{Entry, Parts};
    use super::super::memory::{Memory, Proof, Settled};
    use super::super::testing::parts;
    use super::*;

    fn at(system: u64, timeline: u32, lsn: u64) -> Position {
        Position { system: SystemId(system), timeline: Timeline(timeline), lsn: Lsn(lsn) }
    }

    #[test]
    fn what_was_shown_of_a_key_only_grows_on_a_branch() {
        let (shown, key, other) = (Shown::default(), Key(1 << 64), Key(2 << 64));
        assert_eq!(shown.of(key), None);
        shown.raise(key, at(7, 1, 50));
        shown.raise(key, at(7, 1, 40));
        assert_eq!((shown.of(key), shown.of(other)), (Some(at(7, 1, 50)), None));
        shown.raise(other, at(7, 2, 10));
        assert_eq!((shown.of(key), shown.of(other)), (None, Some(at(7, 2, 10))), "another branch proves nothing");
        shown.raise(key, at(7, 1, 60));
        assert_eq!(shown.of(key), None, "a branch that is over asks for nothing");
        shown.raise(key, at(8, 1, 5));
        assert_eq!((shown.of(key), shown.of(other)), (Some(at(8, 1, 5)), None));
    }

    /// What was told and read so far, and has nothing newer than this.
    fn entry(told: u64, as_of: u64, seen: u64) -> Arc<Entry> {
        let at = |lsn| Some(at(7, 1, lsn));
        let parts = Parts { told: at(told), as_of: at(as_of), seen: at(seen), detail: "replica", ..parts(b'1') };
        Arc::new(Entry::new(b"/", [0; 16], parts))
    }

    #[test]
    fn of_two_fills_the_later_one_covers_what_the_other_has_shown() {
        let (memory, key) = (Memory::new(1 << 20), Key(1));
        let settle = |entry: &Arc<Entry>, keeps, through: u64| {
            let covers = |seen| entry.covers(seen);
            let through = Some(at(7, 1, through));
            memory.settle(key, entry, keeps, &Proof { covers: &covers, through, is_fresh: &|_| true })
        };
        let kept = || memory.peek(key, b"/", &[0; 16]).map(|entry| entry.told());
        // Purged while it was made: for those who waited, and not kept. It showed more than was told.
        assert!(matches!(settle(&entry(100, 110, 150), false, 0), Settled::Shown));
        assert!(matches!(settle(&entry(120, 125, 130), true, 0), Settled::Behind), "another replica has less");
        assert_eq!(kept(), None);
        assert!(matches!(settle(&entry(120, 150, 160), true, 0), Settled::Shown));
        assert_eq!(kept(), Some(Some(at(7, 1, 120))));
        let Settled::Overtaken(newer) = settle(&entry(100, 170, 180), true, 0) else { panic!("it was told less") };
        assert_eq!((newer.told(), memory.shown(key)), (Some(at(7, 1, 120)), Some(at(7, 1, 160))), "so it is not shown");
        // What was told needs no other proof than that it is current, but for what is kept, of which nobody may be told.
        assert!(matches!(settle(&entry(200, 155, 190), true, 300), Settled::Behind));
        assert!(matches!(settle(&entry(200, 161, 190), true, 0), Settled::Shown));
        assert!(matches!(settle(&entry(210, 0, 190), true, 0), Settled::Shown), "it is what was shown, or as new");
    }
}
