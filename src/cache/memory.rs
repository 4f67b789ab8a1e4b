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
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::sync::Cache;

use super::entry::Entry;
use super::key::{HashIsKey, Key};
use super::shown::Shown;
use crate::position::Position;

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
    shown: Shown,
    /// Entries that had to leave for others.
    evicted: Arc<AtomicU64>,
}

/// What vouches for an answer that is about to be shown.
pub struct Proof<'a> {
    /// Whether it has all that an answer may have shown which was as new as this.
    pub covers: &'a dyn Fn(Position) -> bool,
    /// What this instance was told of every commit of, so that a current answer has it: this much of what was shown needs no
    /// other proof.
    pub through: Option<Position>,
    /// Whether an entry would be served as fresh.
    pub is_fresh: &'a dyn Fn(&Entry) -> bool,
}

/// What became of an answer that was about to be shown.
#[derive(Debug)]
pub enum Settled {
    /// It may be shown, and is kept if it was to be.
    Shown,
    /// A newer one is kept and served, so that this one must not be shown beside it.
    Overtaken(Arc<Entry>),
    /// It may be older than what was shown before.
    Behind,
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
        let evicted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&evicted);
        let cache = Cache::builder()
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .max_capacity(bytes_max)
            .weigher(|_: &Key, entry: &Arc<Entry>| u32::try_from(entry.weight_bytes()).unwrap_or(u32::MAX))
            .expire_after(retention)
            .build_with_hasher(BuildHasherDefault::default());
        Self { cache, version: AtomicU64::new(next_version()), retention, shown: Shown::default(), evicted }
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

    /// How far a source must have read for an answer that is not older than what was shown of a key.
    pub fn shown(&self, key: Key) -> Option<Position> {
        self.shown.of(key)
    }

    /// An answer is about to be shown, and kept if `keeps` says so. Whether it may be is decided in one step with keeping it: of
    /// two fills of a key that run at once, the one that ends later has to cover what the other has shown.
    pub fn settle(&self, key: Key, entry: &Arc<Entry>, keeps: bool, proof: &Proof<'_>) -> Settled {
        let (mut settled, mut is_put) = (Settled::Shown, false);
        self.cache.entry(key).and_compute_with(|kept| {
            let kept = kept.map(moka::Entry::into_value);
            let newer = kept.as_ref().filter(|kept| kept.is_newer_than(entry));
            if let Some(newer) = newer.filter(|newer| entry.seen().is_some() && (proof.is_fresh)(newer)) {
                settled = Settled::Overtaken(Arc::clone(newer));
                return Op::Nop;
            }
            let is_told = |shown| proof.through.is_some_and(|through| through >= shown);
            let covers_shown = self.shown.of(key).is_none_or(|shown| is_told(shown) || (proof.covers)(shown));
            // Changes that nobody is told of are not covered by what was told.
            let covers_kept = kept.as_ref().and_then(|kept| kept.seen()).is_none_or(|seen| {
                let is_comparable = self.shown.of(key).is_some_and(|shown| shown.reaches(&seen));
                !is_comparable || (proof.covers)(seen)
            });
            if !covers_shown || !covers_kept {
                settled = Settled::Behind;
                return Op::Nop;
            }
            if let Some(seen) = entry.seen() {
                self.shown.raise(key, seen);
            }
            if !keeps || newer.is_some() {
                return Op::Nop;
            }
            is_put = true;
            put_over(kept.as_ref(), entry)
        });
        self.note_put(entry, is_put);
        settled
    }

    /// Keeps an entry, unless a newer one is there: a fill that was overtaken must not bring back what it read.
    pub fn put(&self, key: Key, entry: Arc<Entry>) {
        if let Some(seen) = entry.seen() {
            self.shown.raise(key, seen);
        }
        self.cache.entry(key).and_compute_with(|kept| match kept.map(moka::Entry::into_value) {
            Some(kept) if kept.is_newer_than(&entry) => Op::Nop,
            kept => put_over(kept.as_ref(), &entry),
        });
        self.note_put(&entry, true);
    }

    /// Noted once it is there: who looks through the store finds all that has a number up to the one that he read before.
    fn note_put(&self, entry: &Entry, is_put: bool) {
        let version = next_version();
        if is_put {
            entry.note_put(version);
        }
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
        let evicted = self.evicted.load(Ordering::Relaxed);
        Usage { entries: self.cache.entry_count(), bytes: self.cache.weighted_size(), evicted }
    }
}

/// What was hot before is taken to be hot still, less and less.
fn put_over(kept: Option<&Arc<Entry>>, entry: &Arc<Entry>) -> Op<Arc<Entry>> {
    if let Some(kept) = kept {
        entry.count_hits(kept.hits() / 2);
    }
    Op::Put(Arc::clone(entry))
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
    /// Entries that had to leave for others since the start.
    pub evicted: u64,
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
