//! Walks through the entries of this process, for other origins that take them over page by page: all of them first, the most
//! asked for at the beginning, and from then on what was put there since.
//!
//! Nothing is held for a walk but the keys that are still to come. What was evicted meanwhile is left out, what was replaced is
//! handed out as it is now, and once more by the next walk. A cursor that leads nowhere (another process, a walk that was
//! forgotten) begins anew, and the page says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::entry::Entry;
use super::fence::{Fences, Ledger};
use super::key::Key;
use super::memory::Memory;
use super::page::{Cursor, PageWriter, Tail};
use super::shared::codec::Codec;
use super::snapshot::is_worth_keeping;

/// Walks that are remembered. Further ones take the place of the one that was idle for longest, which then begins anew.
const WALKS_MAX: usize = 8;
/// How long the keys of a walk are remembered for who does not come for them.
const IDLE_TIME_MAX: Duration = Duration::from_secs(300);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Where the page before ended; none: from the beginning.
    pub after: Option<Cursor>,
    /// Whether something was named that may be no cursor: then it counts as one that leads nowhere.
    pub goes_on: bool,
    /// Bytes of the page. One entry is handed out whatever its length.
    pub bytes_max: usize,
    /// Bytes that whoever asks can keep: a walk that begins leaves out those that are asked for least.
    pub keep_bytes_max: u64,
}

/// The walks under way.
pub struct Walks {
    epoch: u64,
    walks: Mutex<Vec<Walk>>,
}

struct Walk {
    id: u64,
    steps: Arc<Steps>,
    used: Instant,
}

/// What a walk comes to, in this order, and the store's number from before it was looked through.
struct Steps {
    since: u64,
    until: u64,
    keys: Vec<Key>,
}

impl Walks {
    /// No walks yet, in a process of its own.
    pub fn new() -> Self {
        Self { epoch: fastrand::u64(..), walks: Mutex::default() }
    }

    /// The page that is asked for, and how many entries are in it. Looks at every entry where a walk begins; blocks.
    pub fn page(&self, memory: &Memory, fences: &Fences, codec: &Codec, ask: Ask) -> (Vec<u8>, u64) {
        let now = Instant::now();
        let known = ask.after.filter(|cursor| cursor.epoch == self.epoch);
        let since = known.map_or(0, |cursor| cursor.since);
        let under_way = known.and_then(|cursor| Some((cursor, self.resume(cursor, now)?)));
        let is_resumed = under_way.is_some() || known.is_some_and(|cursor| cursor.walk == 0);
        let (mut id, steps, index) = match under_way {
            Some((cursor, steps)) => (cursor.walk, steps, cursor.index),
            None => (0, Arc::new(Steps::new(memory, since, ask.keep_bytes_max)), 0),
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let mut page = PageWriter::new();
        let (mut looked_at, mut entries) = (index, 0_u64);
        for key in steps.keys.iter().skip(index) {
            if entries > 0 && page.bytes() >= ask.bytes_max {
                break;
            }
            let entry = memory.entry(*key).filter(|entry| is_worth_keeping(entry, fences, now));
            let value = entry.map(|entry| codec.encode(*key, &entry, now, Duration::ZERO));
            let fits = value.map(|value| page.add(*key, &value));
            // Alone on a page it may fit; and what is too long even then is left out.
            if fits == Some(false) && entries > 0 {
                break;
            }
            looked_at += 1;
            entries += u64::from(fits == Some(true));
        }
        let is_last = looked_at >= steps.keys.len();
        let cursor = if is_last {
            Cursor { epoch: self.epoch, since: steps.until, walk: 0, index: 0 }
        } else {
            if id == 0 {
                id = self.remember(&steps, now);
            }
            let index = u64::try_from(looked_at).unwrap_or(u64::MAX);
            Cursor { epoch: self.epoch, since: steps.since, walk: id, index }
        };
        // After the entries: what is purged for good meanwhile is among the purges, though an entry of it may be in the page.
        let (purges, all) = fences.read(|ledger: &Ledger| (ledger.known_hard_purges(), ledger.knows_hard()));
        let began_anew = ask.goes_on && !is_resumed;
        let tail = Tail { cursor: cursor.to_string(), is_last, began_anew, purges, are_all_purges: all };
        (page.finish(&tail, codec), entries)
    }

    fn resume(&self, cursor: Cursor, now: Instant) -> Option<Arc<Steps>> {
        let mut walks = self.walks.lock();
        walks.retain(|walk| now.saturating_duration_since(walk.used) < IDLE_TIME_MAX);
        let walk = walks.iter_mut().find(|walk| walk.id == cursor.walk)?;
        walk.used = now;
        Some(Arc::clone(&walk.steps))
    }

    fn remember(&self, steps: &Arc<Steps>, now: Instant) -> u64 {
        let mut walks = self.walks.lock();
        if walks.len() >= WALKS_MAX {
            let idle = walks.iter().enumerate().min_by_key(|(_, walk)| walk.used).map(|(index, _)| index);
            idle.map(|index| walks.swap_remove(index));
        }
        // Not 0, which stands for none.
        let id = fastrand::u64(1..);
        walks.push(Walk { id, steps: Arc::clone(steps), used: now });
        id
    }
}

impl Default for Walks {
    fn default() -> Self {
        Self::new()
    }
}

impl Steps {
    /// What was put into the store after a number, the most asked for first, as far as there is room for it.
    fn new(memory: &Memory, since: u64, keep_bytes_max: u64) -> Self {
        let until = memory.version();
        if until == since {
            return Self { since, until, keys: Vec::new() };
        }
        let put_since = |(_, entry): &(Key, Arc<Entry>)| entry.was_put_after(since) && entry.is_shareable();
        let shown = |(key, entry): (Key, Arc<Entry>)| (entry.hits(), entry.weight_bytes(), key);
        let mut found: Vec<(u64, usize, Key)> = memory.entries().filter(put_since).map(shown).collect();
        found.sort_unstable_by_key(|(hits, _, key)| (std::cmp::Reverse(*hits), key.0));
        let mut room = keep_bytes_max;
        let fits = |(_, weight, _): &(u64, usize, Key)| {
            let left = u64::try_from(*weight).ok().and_then(|weight| room.checked_sub(weight));
            room = left.unwrap_or(0);
            left.is_some()
        };
        Self { since, until, keys: found.into_iter().take_while(fits).map(|(.., key)| key).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Entry, Parts};
    use super::super::fence::SilenceLimits;
    use super::super::page::Page;
    use super::super::tag::Tag;
    use super::super::testing::{HOUR, parts};
    use super::*;
    use crate::position::{Position, SystemId, Timeline};

    /// An origin, and one who pulls from it.
    struct Bench {
        memory: Memory,
        fences: Fences,
        codec: Codec,
        walks: Walks,
        cursor: Option<String>,
    }

    impl Bench {
        fn new() -> Self {
            let fences = Fences::new(100, SilenceLimits { max: HOUR, hard_max: None });
            fences.change(|ledger| ledger.begin_alone(clock()));
            let codec = Codec::new("test", 1024 * 1024);
            Self { memory: Memory::new(1 << 24), fences, codec, walks: Walks::new(), cursor: None }
        }

        /// Puts an entry there that has so many hits.
        fn put(&self, number: u8, hits: u64) {
            let entry = entry(number, Some(clock()));
            entry.count_hits(hits);
            self.memory.put(Key(number.into()), Arc::new(entry));
        }

        fn ask(&self, bytes_max: usize, keep_bytes_max: u64) -> (Vec<u8>, Tail) {
            let after = self.cursor.as_deref().and_then(Cursor::parse);
            let ask = Ask { after, goes_on: self.cursor.is_some(), bytes_max, keep_bytes_max };
            let (page, entries) = self.walks.page(&self.memory, &self.fences, &self.codec, ask);
            let page = Page::read(&page, &self.codec).unwrap();
            assert_eq!(u64::try_from(page.values.len()).unwrap(), entries);
            (page.values.iter().map(|(key, _)| u8::try_from(key.0).unwrap()).collect(), page.tail)
        }

        /// The entries of the next page.
        fn pull(&mut self, bytes_max: usize) -> (Vec<u8>, Tail) {
            let (keys, tail) = self.ask(bytes_max, u64::MAX);
            self.cursor = Some(tail.cursor.clone());
            (keys, tail)
        }

        /// The entries of all pages until none is left.
        fn pull_all(&mut self, bytes_max: usize) -> Vec<u8> {
            let mut all = Vec::new();
            loop {
                let (keys, tail) = self.pull(bytes_max);
                assert!(!tail.began_anew);
                all.extend(keys);
                if tail.is_last {
                    return all;
                }
            }
        }
    }

    fn clock() -> Position {
        Position::start_of(SystemId(7), Timeline(0))
    }

    fn entry(number: u8, told: Option<Position>) -> Entry {
        let parts = Parts { tags: vec![Tag::new(format!("tag:{number}"))], told, ..parts(number) };
        Entry::new(&[number], [1; 16], parts)
    }

    #[test]
    fn all_come_first_the_most_asked_for_at_the_beginning_and_then_what_is_new() {
        let mut bench = Bench::new();
        (1..=9).for_each(|number| bench.put(number, u64::from(number % 5) * 10));
        assert_eq!(bench.pull_all(1), [4, 9, 3, 8, 2, 7, 1, 6, 5], "one a page");
        assert_eq!(bench.pull_all(1), [0; 0]);
        bench.put(3, 0);
        bench.put(20, 1000);
        assert_eq!(bench.pull_all(usize::MAX), [20, 3]);
        assert_eq!(bench.pull_all(1), [0; 0]);
    }

    #[test]
    fn a_page_that_was_lost_is_had_again() {
        let mut bench = Bench::new();
        (1..=4).for_each(|number| bench.put(number, u64::from(number)));
        assert_eq!(bench.pull(1).0, [4]);
        assert_eq!(bench.ask(1, u64::MAX).0, [3]);
        assert_eq!(bench.ask(1, u64::MAX).0, [3]);
        assert_eq!(bench.pull_all(1), [3, 2, 1]);
    }

    #[test]
    fn what_goes_or_changes_during_a_walk_is_not_missed_and_not_made_up() {
        let mut bench = Bench::new();
        (1..=5).for_each(|number| bench.put(number, u64::from(number)));
        assert_eq!(bench.pull(1).0, [5]);
        bench.fences.change(|ledger| ledger.purge_here(&[Tag::new("tag:4")], None, true));
        bench.put(2, 0);
        bench.put(9, 0);
        assert_eq!(bench.pull_all(1), [3, 2, 1], "what was purged for good is left out");
        let mut news = bench.pull_all(1);
        news.sort_unstable();
        assert_eq!(news, [2, 9]);
    }

    #[test]
    fn a_page_tells_of_the_hard_purges_that_forbid_what_it_had_before() {
        let mut bench = Bench::new();
        bench.put(1, 0);
        assert_eq!(bench.pull(1).1.purges.unwrap().tags, []);
        bench.fences.change(|ledger| ledger.purge_here(&[Tag::new("tag:1")], None, true));
        let tail = bench.pull(1).1;
        assert_eq!(tail.purges.unwrap().tags, [(Tag::new("tag:1").hash(), clock().next())]);
        assert!(!tail.are_all_purges, "whoever has a clock of his own asks nobody what came before");
    }

    #[test]
    fn a_cursor_that_leads_nowhere_begins_anew_and_says_so() {
        let mut bench = Bench::new();
        (1..=3).for_each(|number| bench.put(number, u64::from(number)));
        assert_eq!(bench.pull(1).0, [3]);
        let cursor = bench.cursor.clone();
        for lost in ["", "no cursor", "1-2-0-0"] {
            bench.cursor = Some(lost.to_owned());
            let (keys, tail) = bench.ask(usize::MAX, u64::MAX);
            assert_eq!((keys.len(), tail.began_anew), (3, true), "{lost}");
        }
        // A walk that was forgotten begins where it began; what was told before it is not told again.
        bench.cursor = cursor;
        bench.pull_all(1);
        (4..=6).for_each(|number| bench.put(number, u64::from(number)));
        assert_eq!(bench.pull(1).0, [6]);
        bench.walks.walks.lock().clear();
        let (keys, tail) = bench.pull(usize::MAX);
        assert_eq!((keys.as_slice(), tail.began_anew), ([6, 5, 4].as_slice(), true));
    }

    #[test]
    fn a_walk_leaves_out_what_its_puller_has_no_room_for() {
        let bench = Bench::new();
        (1..=9).for_each(|number| bench.put(number, u64::from(number)));
        let weight = u64::try_from(entry(1, None).weight_bytes()).unwrap();
        assert_eq!(bench.ask(usize::MAX, weight * 3 + weight / 2).0, [9, 8, 7]);
    }

    #[test]
    fn what_means_something_here_alone_stays_here() {
        let mut bench = Bench::new();
        bench.memory.put(Key(1), Arc::new(entry(1, None)));
        bench.put(2, 0);
        assert_eq!(bench.pull_all(1), [2]);
    }

    #[test]
    fn walks_without_end_cost_no_memory_without_end() {
        let bench = Bench::new();
        (1..=3).for_each(|number| bench.put(number, 0));
        (0..100).for_each(|_| drop(bench.ask(1, u64::MAX)));
        assert_eq!(bench.walks.walks.lock().len(), WALKS_MAX);
    }
}
