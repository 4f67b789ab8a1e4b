//! Keys whose answers are for one caller alone.
//!
//! Those who wait on a fill that comes to nothing shareable have waited in vain. So it is remembered for a while, and who comes
//! after goes by himself at once: an answer that cannot be cached is not asked for one after another.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::key::Key;

/// How long a key is remembered; then one request finds out whether it still is so.
const MEMORY_TIME: Duration = Duration::from_secs(10);
/// Keys that are remembered. Beyond that they are found out about one by one.
const KEYS_MAX: usize = 10_000;

/// The keys.
#[derive(Default)]
pub struct Alone(Mutex<HashMap<Key, Instant>>);

impl Alone {
    /// Notes that a fill came to an answer for one caller alone.
    pub fn note(&self, key: Key, now: Instant) {
        let mut keys = self.0.lock();
        if keys.len() >= KEYS_MAX {
            keys.retain(|_, until| now < *until);
        }
        if keys.len() < KEYS_MAX {
            keys.insert(key, now + MEMORY_TIME);
        }
    }

    /// Whether requests for a key go by themselves.
    pub fn has(&self, key: Key, now: Instant) -> bool {
        self.0.lock().get(&key).is_some_and(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_forgotten_in_time_and_bounded() {
        let (alone, now) = (Alone::default(), Instant::now());
        (0..20_000).for_each(|key| alone.note(Key(key), now));
        assert!(alone.has(Key(0), now) && alone.has(Key(9_999), now + MEMORY_TIME / 2) && !alone.has(Key(10_000), now));
        assert!(!alone.has(Key(0), now + MEMORY_TIME));
        alone.note(Key(10_000), now + MEMORY_TIME);
        assert!(alone.has(Key(10_000), now + MEMORY_TIME) && alone.0.lock().len() == 1);
    }
}
