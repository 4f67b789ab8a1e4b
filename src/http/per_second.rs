//! So many a second, and no more: for what may happen with any request and must not with every one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counts what happens in the running second.
#[derive(Debug)]
pub struct PerSecond {
    max: u64,
    pub(super) started: Instant,
    /// The second that is counted, and in the low 32 bits how much it has had.
    counted: AtomicU64,
}

impl PerSecond {
    /// At most so many a second.
    pub fn new(max: u32) -> Self {
        Self { max: max.into(), started: Instant::now(), counted: AtomicU64::new(0) }
    }

    /// Whether one more may be.
    pub fn takes(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.started).as_secs() << 32;
        let count = |counted: u64| {
            let before = if counted >> 32 << 32 == second { counted } else { second };
            ((before & u64::from(u32::MAX)) < self.max).then_some(before + 1)
        };
        self.counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_second_has_more_than_allowed() {
        for (max, expected) in [(0, 0), (3, 30), (10_000, 10_000)] {
            let per_second = PerSecond::new(max);
            let at = |number: u32| per_second.started + Duration::from_millis(number.into());
            assert_eq!((0..10_000).filter(|number| per_second.takes(at(*number))).count(), expected, "{max}");
        }
    }
}
