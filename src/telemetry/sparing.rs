//! Log lines that the same trouble would write for every request: said at once, then now and then.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long nothing more is said of the same trouble.
const INTERVAL: Duration = Duration::from_secs(60);
/// Troubles that are told apart. Beyond it the one that was said longest ago is forgotten, so that it may be said again.
const TROUBLES_MAX: usize = 64;

/// Says which lines are worth writing. `K` tells troubles apart.
#[derive(Debug)]
pub struct Sparing<K> {
    said: Mutex<Vec<Said<K>>>,
}

#[derive(Debug)]
struct Said<K> {
    trouble: K,
    at: Instant,
    kept_back: u64,
}

impl<K> Default for Sparing<K> {
    fn default() -> Self {
        Self { said: Mutex::new(Vec::new()) }
    }
}

impl<K: PartialEq> Sparing<K> {
    /// Whether a line is to be written now, and how many of its kind were not since the last one.
    pub fn may_say(&self, now: Instant, trouble: K) -> Option<u64> {
        let mut said = self.said.lock();
        if let Some(known) = said.iter_mut().find(|known| known.trouble == trouble) {
            if now.saturating_duration_since(known.at) < INTERVAL {
                known.kept_back += 1;
                return None;
            }
            known.at = now;
            return Some(std::mem::take(&mut known.kept_back));
        }
        if said.len() >= TROUBLES_MAX {
            let oldest = said.iter().enumerate().min_by_key(|(_, known)| known.at).map(|(index, _)| index);
            oldest.map(|index| said.swap_remove(index));
        }
        said.push(Said { trouble, at: now, kept_back: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_said_now_and_then_with_what_was_kept_back() {
        let (sparing, now) = (Sparing::default(), Instant::now());
        assert_eq!(sparing.may_say(now, "a"), Some(0));
        assert_eq!((0..7).filter_map(|_| sparing.may_say(now, "a")).count(), 0);
        assert_eq!(sparing.may_say(now, "b"), Some(0), "another one does not wait");
        assert_eq!(sparing.may_say(now + INTERVAL, "a"), Some(7));
        assert_eq!(sparing.may_say(now + INTERVAL * 2, "a"), Some(0));
    }

    #[test]
    fn it_remembers_a_bounded_number_of_troubles() {
        let (sparing, now) = (Sparing::default(), Instant::now());
        (0..10_000).for_each(|trouble| assert!(sparing.may_say(now + INTERVAL * trouble, trouble).is_some()));
        assert_eq!(sparing.said.lock().len(), TROUBLES_MAX);
    }
}
