//! L1: the entries of this process, bounded by bytes, in a Moka cache.
//!
//! The `sync` cache is used on purpose: a read takes no lock that is held across an await, and eviction runs inside
//! ordinary calls instead of a task that can starve.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync::Cache;

use super::entry::Entry;
use super::key::Key;

/// The entries of this process.
pub struct Memory(Cache<Key, Arc<Entry>, BuildHasherDefault<KeyIsHash>>);

impl Memory {
    /// An empty store that keeps at most this many bytes, bookkeeping included.
    pub fn new(bytes_max: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_: &Key, entry: &Arc<Entry>| u32::try_from(entry.weight_bytes()).unwrap_or(u32::MAX))
            .expire_after(Retention)
            .build_with_hasher(BuildHasherDefault::default());
        Self(cache)
    }

    /// The entry of a key, if it answers exactly this request.
    pub fn get(&self, key: Key, canonical: &[u8], fingerprint: &[u8; 16]) -> Option<Arc<Entry>> {
        self.0.get(&key).filter(|entry| entry.answers(canonical, fingerprint))
    }

    /// Keeps an entry in the place of an older one.
    pub fn put(&self, key: Key, entry: Arc<Entry>) {
        self.0.insert(key, entry);
    }

    /// Entries kept and their bytes. Counts what is pending first, so it is for those who watch, not for requests.
    pub fn usage(&self) -> Usage {
        self.0.run_pending_tasks();
        Usage { entries: self.0.entry_count(), bytes: self.0.weighted_size() }
    }
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
struct Retention;

impl Expiry<Key, Arc<Entry>> for Retention {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.limits.retention().saturating_sub(entry.made.elapsed()))
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

/// A key is a keyed hash already, so that hashing it again would only cost time.
#[derive(Default)]
struct KeyIsHash(u64);

impl Hasher for KeyIsHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (8 * (index % 8));
        }
    }

    fn write_u128(&mut self, key: u128) {
        let (high, low) = (key >> 64, key & u128::from(u64::MAX));
        self.0 = u64::try_from(high).unwrap_or(0) ^ u64::try_from(low).unwrap_or(0);
    }
}
