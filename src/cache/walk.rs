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
            if page.bytes() >= ask.bytes_max {
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
