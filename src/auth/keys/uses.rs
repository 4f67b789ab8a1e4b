//! Which keys were used, noted in memory and written down now and then.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::check::Check;

/// The keys that were used since they were last written down.
pub(super) struct Uses {
    /// Goes up with each time that they are written down. A key whose check has this number stands in the set already, so that
    /// a use costs two loads.
    round: AtomicU64,
    used: Mutex<HashSet<Arc<str>>>,
    used_max: usize,
}

impl Uses {
    /// Notes the uses of at most so many keys.
    pub(super) fn new(used_max: usize) -> Self {
        Self { round: AtomicU64::new(1), used: Mutex::default(), used_max }
    }

    /// A key was used.
    pub(super) fn note(&self, check: &Check) {
        let round = self.round.load(Ordering::Relaxed);
        if check.used_in.load(Ordering::Relaxed) == round {
            return;
        }
        check.used_in.store(round, Ordering::Relaxed);
        let mut used = self.used.lock();
        if used.len() < self.used_max {
            used.insert(Arc::clone(&check.prefix));
        }
    }

    /// The prefixes of those that were used since this was last asked.
    pub(super) fn take(&self) -> Vec<Arc<str>> {
        let used = mem::take(&mut *self.used.lock());
        // Whoever is noted between the two is noted once more.
        self.round.fetch_add(1, Ordering::Relaxed);
        used.into_iter().collect()
    }

    /// They could not be written down.
    pub(super) fn put_back(&self, prefixes: Vec<Arc<str>>) {
        let mut used = self.used.lock();
        let room = self.used_max.saturating_sub(used.len());
        used.extend(prefixes.into_iter().take(room));
    }
}
