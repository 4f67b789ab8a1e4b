//! A circuit breaker: after some failures in a row a node is left alone, then tried again by one request at a time.
//!
//! A state machine over times that are passed in. The chance in its resting times is passed in, too.

use std::time::{Duration, Instant};

/// The states, as metrics and health show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Nothing passes.
    Open,
    /// One request may try.
    HalfOpen,
}

impl BreakerState {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// The value in metrics.
    pub const fn as_number(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// The breaker of one node.
#[derive(Clone, Debug)]
pub struct Breaker {
    failures_to_open: u32,
    open_time: Duration,
    open_time_max: Duration,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        rest: Duration,
        until: Instant,
    },
    /// One request tries. It is waited for no longer than `until`, so that a trial whose outcome is never told does not
    /// shut the node out for ever.
    Trial {
        rest: Duration,
        until: Instant,
    },
}

impl Breaker {
    /// A closed breaker, which opens after so many failures in a row and rests for so long, and at most for so long.
    pub fn new(failures_to_open: u32, open_time: Duration, open_time_max: Duration) -> Self {
        Self {
            failures_to_open: failures_to_open.max(1),
            open_time,
            open_time_max: open_time_max.max(open_time),
            state: State::Closed { failures: 0 },
        }
    }

    /// The state at a time.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until, .. } if now < until => BreakerState::Open,
            State::Open { .. } | State::Trial { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether [`Breaker::admit`] would let a request pass.
    pub fn would_admit(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until, .. } | State::Trial { until, .. } => now >= until,
        }
    }

    /// When a request may pass again; nothing while all may.
    pub fn rests_until(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } | State::Trial { until, .. } => Some(until),
        }
    }

    /// Whether no request has come to try, for as long as the rest was before. Those that come tell most about a node, so that they
    /// are waited for first; where there are none, nobody would ever know that it is well.
    pub fn is_unasked(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { rest, until } | State::Trial { rest, until } => now >= until + rest,
        }
    }

    /// Whether a request may pass. In the half-open state it is the trial, and the next ones are turned away until its
    /// outcome is known.
    pub fn admit(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { rest, until } | State::Trial { rest, until } if now >= until => {
                self.state = State::Trial { rest, until: now + rest };
                true
            }
            State::Open { .. } | State::Trial { .. } => false,
        }
    }

    /// The request that was let in at `began` has found out nothing. Where it was the trial the next one may try, without waiting for
    /// its outcome; any other leaves the trial to whoever has it.
    pub fn give_back(&mut self, began: Instant, now: Instant) {
        match self.state {
            State::Trial { rest, until } if until == began + rest => self.state = State::Open { rest, until: now },
            _ => {}
        }
    }

    /// The node is known to be back: the next request is the trial, without waiting for the end of the rest.
    pub fn hasten(&mut self, now: Instant) {
        if let State::Open { rest, .. } = self.state {
            self.state = State::Open { rest, until: now };
        }
    }

    /// A request went well.
    pub fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// A request failed for a reason of the node. `chance` in 0..1 spreads the trials of several instances.
    pub fn failed(&mut self, now: Instant, chance: f64) {
        let rest = match self.state {
            State::Closed { failures } if failures + 1 < self.failures_to_open => {
                self.state = State::Closed { failures: failures + 1 };
                return;
            }
            State::Closed { .. } => self.open_time,
            // Requests that were under way when the breaker opened say nothing new. One that ends so late that it falls into
            // the trial counts for it: the rest grows by one step more, at most once a rest.
            State::Open { .. } => return,
            State::Trial { rest, .. } => rest.saturating_mul(2).min(self.open_time_max),
        };
        let jittered = rest.mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0));
        self.state = State::Open { rest, until: now + jittered };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(3, Duration::from_secs(2), Duration::from_secs(5))
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let (mut breaker, now) = (breaker(), Instant::now());
        for _ in 0..10 {
            breaker.failed(now, 0.5);
            breaker.failed(now, 0.5);
            breaker.succeeded();
        }
        assert_eq!(breaker.state(now), BreakerState::Closed);
        (0..3).for_each(|_| breaker.failed(now, 0.5));
        assert_eq!(breaker.state(now), BreakerState::Open);
        assert!(!breaker.admit(now) && !breaker.would_admit(now));
    }

    #[test]
    fn one_request_tries_and_its_outcome_decides() {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        (0..3).for_each(|_| breaker.failed(now, 0.5));
        now += Duration::from_secs(2);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        assert!(breaker.admit(now));
        assert!(!breaker.admit(now), "the second one is turned away");
        breaker.failed(now, 0.5);
        now += Duration::from_secs(3);
        assert!(!breaker.admit(now), "the rest has doubled");
        now += Duration::from_secs(1);
        assert!(breaker.admit(now));
        breaker.succeeded();
        assert!(breaker.admit(now) && breaker.admit(now));
    }

    #[test]
    fn rests_grow_to_their_bound_with_jitter() {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        (0..3).for_each(|_| breaker.failed(now, 0.5));
        for _ in 0..20 {
            now += Duration::from_secs(7);
            assert!(breaker.admit(now));
            breaker.failed(now, 1.0);
            assert!(!breaker.would_admit(now + Duration::from_millis(2400)));
            assert!(breaker.would_admit(now + Duration::from_millis(6250)));
        }
    }

    #[test]
    fn a_node_that_is_back_is_tried_at_once() {
        let (mut breaker, now) = (breaker(), Instant::now());
        breaker.hasten(now);
        (0..3).for_each(|_| breaker.failed(now, 0.5));
        breaker.hasten(now);
        assert!(breaker.admit(now));
        assert!(!breaker.admit(now), "by one request");
    }

    #[test]
    fn a_node_that_nobody_asks_is_known_after_another_rest() {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(!breaker.is_unasked(now + 1000 * second), "it is not let alone at all");
        (0..3).for_each(|_| breaker.failed(now, 0.5));
        now += 4 * second;
        assert!(!breaker.is_unasked(now - Duration::from_millis(1)));
        assert!(breaker.is_unasked(now));
        assert!(breaker.admit(now));
        assert!(!breaker.is_unasked(now + 3 * second), "one tries");
        breaker.failed(now, 0.5);
        assert!(!breaker.is_unasked(now + 7 * second), "the rest has doubled");
        assert!(breaker.is_unasked(now + 8 * second));
        breaker.succeeded();
        assert!(!breaker.is_unasked(now + 8 * second));
    }

    #[test]
    fn a_trial_that_is_given_back_is_the_next_requests() {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        let second = Duration::from_secs(1);
        breaker.give_back(now, now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        (0..3).for_each(|_| breaker.failed(now, 0.5));
        breaker.give_back(now, now);
        assert!(!breaker.would_admit(now), "there was no trial: it rests");
        let before = now;
        now += 4 * second;
        assert!(breaker.admit(now) && !breaker.would_admit(now));
        breaker.give_back(before, now);
        assert!(!breaker.would_admit(now), "the trial is another request's");
        breaker.give_back(now, now);
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        assert!(!breaker.is_unasked(now + second), "requests come first again");
        assert!(breaker.is_unasked(now + 2 * second), "the rest has not grown");
        assert!(breaker.admit(now) && !breaker.admit(now), "one request is the trial");
    }

    #[test]
    fn a_trial_that_never_ends_does_not_shut_the_node_out() {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        (0..3).for_each(|_| breaker.failed(now, 0.0));
        now += Duration::from_secs(3);
        assert!(breaker.admit(now));
        now += Duration::from_secs(2);
        assert!(breaker.admit(now), "the lost trial is forgotten after a rest");
    }
}
