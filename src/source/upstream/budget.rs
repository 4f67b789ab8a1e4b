//! The retry budget: an upstream in trouble gets a fifth more requests, not twice as many.

use std::time::Instant;

/// Retries that are always allowed, so that a quiet route has some.
const RETRIES_PER_SECOND: f64 = 1.0;
/// What a quiet time may save up.
const SAVED_MAX: f64 = 20.0;

/// A bucket of retries, filled by requests. Time is passed in.
#[derive(Debug)]
pub(super) struct Budget {
    share: f64,
    saved: f64,
    at: Instant,
}

impl Budget {
    /// A budget of such a share of all requests.
    pub(super) fn new(share: f64, now: Instant) -> Self {
        Self { share, saved: if share > 0.0 { RETRIES_PER_SECOND } else { 0.0 }, at: now }
    }

    /// A request came.
    pub(super) fn deposit(&mut self, now: Instant) {
        if self.share > 0.0 {
            let quiet = now.saturating_duration_since(self.at).as_secs_f64() * RETRIES_PER_SECOND;
            self.saved = (self.saved + self.share + quiet).min(SAVED_MAX);
            self.at = now;
        }
    }

    /// Whether there is a retry left; it is spent.
    pub(super) fn withdraw(&mut self) -> bool {
        let has_one = self.saved >= 1.0;
        if has_one {
            self.saved -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retries_are_a_share_of_requests() {
        let now = Instant::now();
        let mut budget = Budget::new(0.2, now);
        let retries = (0..1000).filter(|_| {
            budget.deposit(now);
            budget.withdraw()
        });
        assert_eq!(retries.count(), 201);
    }

    #[test]
    fn a_quiet_time_saves_a_few_up() {
        let now = Instant::now();
        let mut budget = Budget::new(0.2, now);
        budget.deposit(now + Duration::from_secs(3600));
        assert_eq!((0..100).filter(|_| budget.withdraw()).count(), 20);
    }

    #[test]
    fn no_share_is_no_retry() {
        let now = Instant::now();
        let mut budget = Budget::new(0.0, now);
        budget.deposit(now + Duration::from_secs(3600));
        assert!(!budget.withdraw());
    }
}
