//! A cached response: immutable once made, shared by reference, never copied to be served.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::fence::{Fences, Standing};
use super::policy::{Freshness, Limits};
use super::tag::Tag;
use super::variants::Variants;
use crate::position::{Lsn, Position, SystemId, Timeline};

/// Time between two attempts to refresh the same entry: a source that fails at once is not asked by every request.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// What an entry costs beyond its bytes: itself, its place in the map and in the eviction queues (measured by `tests/memory` and `make bench`).
const OVERHEAD_BYTES: usize = 600;

/// A response that can be served again.
#[derive(Debug)]
pub struct Entry {
    /// The canonical request that the entry answers, compared on every hit.
    pub canonical: Box<[u8]>,
    /// What it has in common with most entries of its route, and shares with them.
    common: Arc<Common>,
    /// The body in each encoding that is kept.
    pub body: Variants,
    /// Surrogate keys.
    pub tags: Box<[Tag]>,
    told: Packed,
    as_of: Packed,
    seen: Packed,
    cost_us: u32,
    /// Whether the position told means something in this process alone.
    pub is_local: bool,
    /// Where this process has it from.
    pub origin: Origin,
    /// When the source was asked: time spent waiting for it counts toward the age.
    pub made: Instant,
    /// When the last refresh began, in milliseconds after `made`; 0: none has.
    refresh_began_ms: AtomicU64,
    /// When the source failed last, in milliseconds after `made`, and in the low 16 bits with which status; 0: it has not.
    failed: AtomicU64,
    /// The generation of fences under which it was found current last.
    noted: AtomicU64,
    /// Whether it was found purged.
    is_purged: AtomicBool,
    /// Hits, as far as they were counted: see `Memory::with`.
    hits: AtomicU64,
    /// The store's number from when it was put there; greater than all while it is only about to be.
    put: AtomicU64,
}

/// What entries of a route have in common. There may be a million of them, so they share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Common {
    /// The meaning of the route that made it.
    pub fingerprint: [u8; 16],
    /// HTTP status. Only 200 and absences are kept; what a handler answers otherwise is for those who waited.
    pub status: u16,
    /// Media type.
    pub content_type: &'static str,
    /// Whether a change leaves it good for stale-while-revalidate.
    pub outlives_change: bool,
    /// For how long it is good for what.
    pub limits: Limits,
    /// Who produced it: `replica`, `primary` or `handler`.
    pub detail: &'static str,
    /// Where the entry says that there is nothing: the sentence for the caller. It has no body then.
    pub absence: Option<Cow<'static, str>>,
}

/// What is shared by now. It keeps nothing alive.
static COMMON: LazyLock<Mutex<HashMap<Common, Weak<Common>>>> = LazyLock::new(Mutex::default);
/// Past so many, those are looked for that nobody has any more; past twice as many, entries have theirs alone.
const COMMON_MAX: usize = 4096;

impl Common {
    /// The one that others have, where they have one.
    fn share(self) -> Arc<Self> {
        let mut shared = COMMON.lock();
        if let Some(common) = shared.get(&self).and_then(Weak::upgrade) {
            return common;
        }
        if shared.len() >= COMMON_MAX {
            shared.retain(|_, common| common.strong_count() > 0);
        }
        let common = Arc::new(self);
        if shared.len() < COMMON_MAX {
            shared.insert((*common).clone(), Arc::downgrade(&common));
        }
        common
    }
}

/// A position, or none, in 20 bytes in place of 32.
#[derive(Clone, Copy, Debug)]
struct Packed([u32; 5]);

impl Packed {
    /// No timeline has this number.
    const NONE: u32 = u32::MAX;

    fn new(position: Option<Position>) -> Self {
        let Some(Position { system, timeline, lsn }) = position else { return Self([Self::NONE; 5]) };
        let halves = |number: u64| {
            let low = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
            (u32::try_from(number >> 32).unwrap_or(0), low)
        };
        let ((system_high, system_low), (lsn_high, lsn_low)) = (halves(system.0), halves(lsn.0));
        Self([timeline.0, system_high, system_low, lsn_high, lsn_low])
    }

    fn get(self) -> Option<Position> {
        let [timeline, system_high, system_low, lsn_high, lsn_low] = self.0;
        let whole = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        (timeline != Self::NONE).then(|| Position {
            system: SystemId(whole(system_high, system_low)),
            timeline: Timeline(timeline),
            lsn: Lsn(whole(lsn_high, lsn_low)),
        })
    }
}

impl Deref for Entry {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

/// Where a process has an entry from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It ran the source itself.
    Filled,
    /// The shared cache had it.
    Shared,
    /// A snapshot had it: a file, or another origin's.
    Snapshot,
}

/// What an entry is made of, beside the request that it answers.
pub struct Parts {
    /// See [`Common::status`].
    pub status: u16,
    /// See [`Common::content_type`].
    pub content_type: &'static str,
    /// See [`Entry::body`].
    pub body: Variants,
    /// See [`Entry::tags`].
    pub tags: Vec<Tag>,
    /// See [`Entry::told`].
    pub told: Option<Position>,
    /// See [`Entry::is_local`].
    pub is_local: bool,
    /// See [`Entry::as_of`].
    pub as_of: Option<Position>,
    /// See [`Entry::seen`].
    pub seen: Option<Position>,
    /// See [`Common::outlives_change`].
    pub outlives_change: bool,
    /// See [`Entry::origin`].
    pub origin: Origin,
    /// See [`Entry::made`].
    pub made: Instant,
    /// See [`Entry::cost`].
    pub cost: Duration,
    /// See [`Common::limits`].
    pub limits: Limits,
    /// See [`Common::detail`].
    pub detail: &'static str,
    /// See [`Common::absence`].
    pub absence: Option<Cow<'static, str>>,
}

impl Entry {
    /// An entry that answers a canonical request for a route's meaning.
    pub fn new(canonical: &[u8], fingerprint: [u8; 16], parts: Parts) -> Self {
        let common = Common {
            fingerprint,
            status: parts.status,
            content_type: parts.content_type,
            outlives_change: parts.outlives_change,
            limits: parts.limits,
            detail: parts.detail,
            absence: parts.absence,
        };
        Self {
            canonical: canonical.into(),
            common: common.share(),
            body: parts.body,
            tags: parts.tags.into(),
            told: Packed::new(parts.told),
            as_of: Packed::new(parts.as_of),
            seen: Packed::new(parts.seen),
            cost_us: u32::try_from(parts.cost.as_micros()).unwrap_or(u32::MAX),
            is_local: parts.is_local,
            origin: parts.origin,
            made: parts.made,
            refresh_began_ms: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            noted: AtomicU64::new(0),
            is_purged: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            put: AtomicU64::new(u64::MAX),
        }
    }

    /// The position through which the instance that filled it had been told of all changes when it began.
    pub fn told(&self) -> Option<Position> {
        self.told.get()
    }

    /// A position that its source had read past at least, where one is known.
    pub fn as_of(&self) -> Option<Position> {
        self.as_of.get()
    }

    /// A position that nothing in it is newer than, where one is known.
    pub fn seen(&self) -> Option<Position> {
        self.seen.get()
    }

    /// How long the source took, which says how early a refresh has to begin.
    pub fn cost(&self) -> Duration {
        Duration::from_micros(self.cost_us.into())
    }

    /// What the entry is good for, as far as changes go.
    pub fn standing(&self, fences: &Fences, age: Duration, now: Instant) -> Standing {
        let noted = self.noted.load(Ordering::Relaxed);
        let (standing, generation) = fences.standing(|| (self.told(), self.as_of()), &self.tags, noted, age, now);
        if generation != noted {
            self.noted.store(generation, Ordering::Relaxed);
        }
        // That the source failed before the purge is no reason to serve what was purged: it is asked once more.
        if standing == Standing::Purged && !self.is_purged.swap(true, Ordering::Relaxed) {
            self.failed.store(0, Ordering::Relaxed);
        }
        standing
    }

    /// Whether this entry was told more than another one; of two that were told alike, or by different clocks, whether it is
    /// younger.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        match (self.told(), other.told()) {
            (Some(own), Some(other)) if own != other && own.system == other.system => own > other,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            _ => self.made > other.made,
        }
    }

    /// Notes that the store has it, since this number.
    pub(super) fn note_put(&self, number: u64) {
        self.put.store(number, Ordering::Release);
    }

    /// Whether the store may have it since a later number than this one.
    pub(super) fn was_put_after(&self, number: u64) -> bool {
        self.put.load(Ordering::Acquire) > number
    }

    /// Whether it shows all that another answer may have shown, which was as new as this. What the primary was asked for after a
    /// position was told has all that anyone had seen of it by then.
    pub fn covers(&self, seen: Position) -> bool {
        self.seen() == Some(seen) || self.as_of().or(self.told()).is_some_and(|as_of| as_of.reaches(&seen))
    }

    /// Whether it says to other processes what it says here.
    pub fn is_shareable(&self) -> bool {
        self.told().is_some() && !self.is_local
    }

    /// Counts hits.
    pub fn count_hits(&self, hits: u64) {
        self.hits.fetch_add(hits, Ordering::Relaxed);
    }

    /// Hits that were counted.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Whether the entry answers this request. A hash alone would let two requests that collide share an answer.
    pub fn answers(&self, canonical: &[u8], fingerprint: &[u8; 16]) -> bool {
        *self.canonical == *canonical && self.fingerprint == *fingerprint
    }

    /// How old the entry is.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.made)
    }

    /// What the entry may be used for at this age.
    pub fn freshness(&self, age: Duration) -> Freshness {
        self.limits.at(age)
    }

    /// Whether the caller is the one who refreshes at this age: true at most once a pause.
    pub fn claim_refresh(&self, age: Duration) -> bool {
        let now_ms = millis(age).max(1);
        let began_ms = self.refresh_began_ms.load(Ordering::Relaxed);
        let is_due = began_ms == 0 || now_ms.saturating_sub(began_ms) >= millis(REFRESH_PAUSE);
        let claim = || self.refresh_began_ms.compare_exchange(began_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        is_due && claim().is_ok()
    }

    /// Notes that the source failed to renew the entry at this age; 0: that it did not.
    pub fn note_failure(&self, age: Duration, status: u16) {
        self.failed.store(millis(age) << 16 | u64::from(status), Ordering::Relaxed);
    }

    /// The status with which the source failed, where that was within so long before this age.
    pub fn recent_failure(&self, age: Duration, within: Duration) -> Option<u16> {
        let failed = self.failed.load(Ordering::Relaxed);
        let is_recent = millis(age).saturating_sub(failed >> 16) <= millis(within);
        u16::try_from(failed & u64::from(u16::MAX)).ok().filter(|status| *status != 0 && is_recent)
    }

    /// What the entry weighs against the byte bound.
    pub fn weight_bytes(&self) -> usize {
        weight_bytes(&self.canonical, &self.tags, self.body.bytes_kept())
    }
}

/// What an entry of a canonical request with these tags and so many bytes of bodies weighs.
pub fn weight_bytes(canonical: &[u8], tags: &[Tag], body_bytes: usize) -> usize {
    let tags: usize = tags.iter().map(|tag| tag.name().len() + size_of::<Tag>()).sum();
    OVERHEAD_BYTES + canonical.len() + tags + body_bytes
}

/// Whole milliseconds, which fit into 48 bits for any age that a process sees.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX >> 16)
}

#[cfg(test)]
mod tests {
    use super::super::testing::parts;
    use super::*;
    use crate::position::{Lsn, SystemId, Timeline};

    #[test]
    fn who_was_told_more_is_newer_and_of_different_clocks_who_is_younger() {
        let now = Instant::now();
        let entry = |told: Option<(u64, u64)>, age_s: u64| {
            let at = |(system, lsn)| Position { lsn: Lsn(lsn), ..Position::start_of(SystemId(system), Timeline(1)) };
            let made = now + Duration::from_secs(100 - age_s);
            let parts = Parts { told: told.map(at), made, ..parts(b'1') };
            Entry::new(&[], [0; 16], parts)
        };
        for (newer, older) in [
            (entry(Some((1, 8)), 9), entry(Some((1, 7)), 5)),
            (entry(Some((1, 7)), 5), entry(Some((1, 7)), 9)),
            (entry(Some((1, 7)), 9), entry(None, 5)),
            (entry(None, 5), entry(None, 9)),
            (entry(Some((1, 7)), 5), entry(Some((2, 8)), 9)),
            (entry(Some((2, 8)), 5), entry(Some((1, 7)), 9)),
        ] {
            assert!(newer.is_newer_than(&older) && !older.is_newer_than(&newer), "{newer:?} {older:?}");
        }
    }
}
