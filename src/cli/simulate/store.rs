//! What a cache of so many bytes holds: a stand-in for L1, and for Redis.
//!
//! Where all fits, a cache is a cache. Where it does not, this one leaves out what was asked for the longest time ago, while L1
//! prefers what is asked often (TinyLFU), which commonly hits a little more: what is told from here is told on the safe side. It is
//! not L1's own crate because that one lives by the clock of the machine, and this one by that of a log.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Entries by key, bounded by bytes, each until its end.
pub(super) struct Store<T> {
    bytes_max: u64,
    bytes: u64,
    entries: HashMap<u128, Slot<T>>,
    /// Those that were used the longest time ago come first.
    by_use: BTreeMap<u64, u128>,
    by_end: BTreeSet<(i64, u128)>,
    uses: u64,
    held: Vec<Held>,
    whole: Held,
    /// Entries that made room for others.
    pub evicted: u64,
}

struct Slot<T> {
    value: T,
    group: usize,
    bytes: u64,
    used: u64,
    ends_ms: i64,
}

/// What is held of a group, and the most that ever was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub entries: u64,
    pub bytes: u64,
    pub entries_max: u64,
    pub bytes_max: u64,
}

impl Held {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
        self.entries_max = self.entries_max.max(self.entries);
        self.bytes_max = self.bytes_max.max(self.bytes);
    }

    fn remove(&mut self, bytes: u64) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl<T> Store<T> {
    /// An empty store for entries of so many groups.
    pub(super) fn new(bytes_max: u64, groups: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            by_end: BTreeSet::new(),
            uses: 0,
            held: vec![Held::default(); groups],
            whole: Held::default(),
            evicted: 0,
        }
    }

    /// Drops what has come to its end by now.
    pub(super) fn expire(&mut self, now_ms: i64) {
        while let Some((_, key)) = self.by_end.first().copied().filter(|(ends_ms, _)| *ends_ms <= now_ms) {
            self.remove(key);
        }
    }

    /// The entry of a key, which is used by that.
    pub(super) fn get(&mut self, key: u128) -> Option<&mut T> {
        let slot = self.entries.get_mut(&key)?;
        self.by_use.remove(&slot.used);
        self.uses += 1;
        slot.used = self.uses;
        self.by_use.insert(slot.used, key);
        Some(&mut slot.value)
    }

    /// Keeps an entry in the place of the one before, and leaves out others to make room. One that is greater than all the room
    /// is not kept.
    pub(super) fn put(&mut self, key: u128, group: usize, value: T, bytes: u64, ends_ms: i64) {
        self.remove(key);
        if bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max {
            let Some((_, oldest)) = self.by_use.first_key_value() else { return };
            self.remove(*oldest);
            self.evicted += 1;
        }
        self.uses += 1;
        self.bytes += bytes;
        self.by_use.insert(self.uses, key);
        self.by_end.insert((ends_ms, key));
        self.entries.insert(key, Slot { value, group, bytes, used: self.uses, ends_ms });
        self.whole.add(bytes);
        self.held.iter_mut().skip(group).take(1).for_each(|held| held.add(bytes));
    }

    /// Forgets everything, but for what was counted.
    pub(super) fn clear(&mut self) {
        let keys: Vec<u128> = self.entries.keys().copied().collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }

    fn remove(&mut self, key: u128) {
        let Some(slot) = self.entries.remove(&key) else { return };
        self.by_use.remove(&slot.used);
        self.by_end.remove(&(slot.ends_ms, key));
        self.bytes -= slot.bytes;
        self.whole.remove(slot.bytes);
        self.held.iter_mut().skip(slot.group).take(1).for_each(|held| held.remove(slot.bytes));
    }

    /// What is held of a group.
    pub(super) fn held(&self, group: usize) -> Held {
        self.held.get(group).copied().unwrap_or_default()
    }

    /// What is held of all.
    pub(super) fn whole(&self) -> Held {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_the_longest_time_ago_makes_room() {
        let mut store = Store::new(10, 2);
        store.put(1, 0, 'a', 4, 100);
        store.put(2, 1, 'b', 4, 100);
        assert_eq!(store.get(1), Some(&mut 'a'));
        store.put(3, 0, 'c', 4, 100);
        assert_eq!((store.get(1).copied(), store.get(2).copied(), store.get(3).copied()), (Some('a'), None, Some('c')));
        assert_eq!(store.evicted, 1);
        assert_eq!(store.held(0), Held { entries: 2, bytes: 8, entries_max: 2, bytes_max: 8 });
        assert_eq!(store.held(1), Held { entries: 0, bytes: 0, entries_max: 1, bytes_max: 4 });
        store.put(4, 0, 'd', 11, 100);
        assert_eq!(store.get(4), None, "greater than all the room");
        assert_eq!(store.whole().entries, 2, "nothing makes room for it");
    }

    #[test]
    fn entries_go_at_their_end_and_a_newer_one_has_an_end_of_its_own() {
        let mut store = Store::new(100, 1);
        store.put(1, 0, 'a', 4, 100);
        store.put(2, 0, 'b', 4, 200);
        store.put(1, 0, 'c', 5, 300);
        store.expire(200);
        assert_eq!((store.get(1).copied(), store.get(2).copied()), (Some('c'), None));
        assert_eq!(store.whole().bytes, 5);
        store.clear();
        assert_eq!((store.get(1).copied(), store.whole().entries), (None, 0));
    }
}
