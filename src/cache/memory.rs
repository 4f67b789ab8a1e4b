//! L1: the entries of this process, bounded by bytes, in a Moka cache.
//!
//! The `sync` cache is used on purpose: a read takes no lock that is held across an await, and eviction runs inside
//! ordinary calls instead of a task that can starve.

use std::cell::RefCell;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::entry::Entry;
use super::key::{HashIsKey, Key};

/// Hits that a worker answers from its own notes before it asks the store again, so that the store keeps knowing what is hot.
const NOTED_HITS: u8 = 32;
/// Entries that a worker notes.
const NOTES: usize = 64;
/// Heavier entries are not noted: a note keeps its entry alive beyond the store's bound.
const NOTED_BYTES_MAX: usize = 32 * 1024;

/// The entries of this process.
pub struct Memory {
    cache: Cache<Key, Arc<Entry>, BuildHasherDefault<HashIsKey>>,
    /// Moves with every change of any entry, and is unique among the stores of a process: what a worker noted under another
    /// number is void.
    version: AtomicU64,
    retention: Retention,
}

/// Versions of all stores, handed out in order.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

/// What a worker remembers of the store. Reading the store moves shared cache lines (its read log, the entry's count of
/// owners); for the hottest keys that costs more than all else on the hit path, and a note costs none of it.
struct Note {
    key: Key,
    version: u64,
    hits_left: u8,
    entry: Arc<Entry>,
}

thread_local! {
    static NOTED: RefCell<[Option<Note>; NOTES]> = const { RefCell::new([const { None }; NOTES]) };
}

impl Memory {
    /// An empty store that keeps at most this many bytes, bookkeeping included, and each entry for as long as it is of use.
    pub fn new(bytes_max: u64) -> Self {
        Self::keeping(bytes_max, Duration::ZERO)
    }

    /// As [`Memory::new`], for who serves entries past their use: it keeps each until it is so old, and what says that there is
    /// nothing no longer than that is of use.
    pub fn keeping(bytes_max: u64, at_least: Duration) -> Self {
        let retention = Retention { at_least };
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_: &Key, entry: &Arc<Entry>| u32::try_from(entry.weight_bytes()).unwrap_or(u32::MAX))
            .expire_after(retention)
            .build_with_hasher(BuildHasherDefault::default());
        Self { cache, version: AtomicU64::new(next_version()), retention }
    }

    /// Shows the entry of a key, if there is one that answers exactly this request.
    pub fn with<T>(
        &self,
        key: Key,
        canonical: &[u8],
        fingerprint: &[u8; 16],
        see: impl FnOnce(Option<&Arc<Entry>>) -> T,
    ) -> T {
        // Read before the store is: an entry that is replaced in between is noted under a number that is void by then.
        let version = self.version.load(Ordering::Acquire);
        NOTED.with_borrow_mut(|notes| {
            let mut aside = None;
            let index = usize::try_from(key.0 % 64).unwrap_or(0);
            let Some(place) = notes.get_mut(index) else { return see(None) };
            let note = match place {
                Some(note) if note.key == key && note.version == version && note.hits_left > 0 => note,
                place => {
                    let Some(entry) = self.cache.get(&key) else { return see(None) };
                    let is_light = entry.weight_bytes() <= NOTED_BYTES_MAX;
                    // The hits that the note will answer are counted beforehand.
                    entry.count_hits(if is_light { u64::from(NOTED_HITS) } else { 1 });
                    let note = Note { key, version, hits_left: NOTED_HITS, entry };
                    if is_light { place.insert(note) } else { aside.insert(note) }
                }
            };
            note.hits_left -= 1;
            see(Some(&note.entry).filter(|entry| entry.answers(canonical, fingerprint)))
        })
    }

    /// The entry that answers exactly this request, for those who look at it without asking for it: no hit is counted.
    pub fn peek(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16]) -> Option<Arc<Entry>> {
        self.cache.get(&key).filter(|entry| entry.answers(canonical, fingerprint))
    }

    /// Keeps an entry, unless a newer one is there: a fill that was overtaken must not bring back what it read.
    pub fn put(&self, key: Key, entry: Arc<Entry>) {
        self.cache.entry(key).and_compute_with(|kept| match kept {
            Some(kept) if kept.value().is_newer_than(&entry) => Op::Nop,
            Some(kept) => {
                // What was hot before is taken to be hot still, less and less.
                entry.count_hits(kept.value().hits() / 2);
                Op::Put(Arc::clone(&entry))
            }
            None => Op::Put(Arc::clone(&entry)),
        });
        // Noted once it is there: who looks through the store finds all that has a number up to the one that he read before.
        let version = next_version();
        entry.note_put(version);
        self.version.store(version, Ordering::Release);
    }

    /// Moves with every change of any entry.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The entry of a key, for those who look through the store: no hit is counted.
    pub fn entry(&self, key: Key) -> Option<Arc<Entry>> {
        self.cache.get(&key)
    }

    /// Until which age an entry is kept here.
    pub fn retention(&self, entry: &Entry) -> Duration {
        self.retention.of(entry)
    }

    /// Entries in no order, for those who look at them one by one.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Arc<Entry>)> + '_ {
        self.cache.iter().map(|(key, entry)| (*key, entry))
    }

    /// Entries kept and their bytes. Counts what is pending first, so it is for those who watch, not for requests.
    pub fn usage(&self) -> Usage {
        self.cache.run_pending_tasks();
        Usage { entries: self.cache.entry_count(), bytes: self.cache.weighted_size() }
    }
}

fn next_version() -> u64 {
    NEXT_VERSION.fetch_add(1, Ordering::Relaxed)
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Entries.
    pub entries: u64,
    /// Their bytes, bookkeeping included.
    pub bytes: u64,
}

/// An entry leaves the store when it can be of no use any more, not when it stops being fresh.
#[derive(Clone, Copy)]
struct Retention {
    /// Until this age it is of use here, whatever its own limits.
    at_least: Duration,
}

impl Retention {
    fn of(self, entry: &Entry) -> Duration {
        let own = entry.limits.retention();
        if entry.absence.is_some() { own } else { own.max(self.at_least) }
    }
}

impl Expiry<Key, Arc<Entry>> for Retention {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(self.of(entry).saturating_sub(entry.made.elapsed()))
    }

    fn expire_after_update(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, entry, now)
    }
}
