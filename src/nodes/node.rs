//! A node as its users and its probes find it: how fast it is, whether it is let alone, and what happened on it.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::breaker::{Breaker, BreakerState};
use super::latency::Latency;
use super::minutes::{Calendar, MinuteRow, Minutes, Percentiles};
use crate::config::settings::NodeSettings;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The writable Postgres.
    Primary,
    /// A streaming read-only Postgres.
    Replica,
    /// An HTTP endpoint.
    Upstream,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Primary, Self::Replica, Self::Upstream];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Upstream => "upstream",
        }
    }

    /// Whether uses say how fast a node is beside others.
    ///
    /// Statements differ by orders of magnitude, and only the replica that was picked runs them: by its uses it would always look
    /// slower than one far away that is only probed. So databases are compared by the round trip of their probes, like with like.
    /// Endpoints of an upstream have nothing else that all of them answer.
    const fn is_compared_by_uses(self) -> bool {
        matches!(self, Self::Upstream)
    }
}

/// Which node it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `primary`, `replica-1`, …; unique in an instance.
    pub id: Arc<str>,
    /// What it is.
    pub kind: Kind,
    /// `host:port`, never with credentials.
    pub endpoint: String,
    /// Where it is, if that was said.
    pub region: Option<String>,
}

/// What happened on a node since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Uses that went well, errors of their own included.
    pub served: u64,
    /// Uses that failed because of the node.
    pub failed: u64,
}

/// A measured node. Its lock is held for moments only, never across an await.
#[derive(Debug)]
pub struct Node {
    identity: Identity,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    latency: Latency,
    minutes: Minutes,
    totals: Totals,
    /// The last failure, until a use goes well.
    failed_at: Option<Instant>,
}

impl Node {
    /// A node that nothing is known of.
    pub fn new(identity: Identity, settings: &NodeSettings, calendar: Calendar) -> Self {
        let NodeSettings { failures_to_open, open_time, open_time_max, .. } = *settings;
        let state = State {
            breaker: Breaker::new(failures_to_open, open_time.0, open_time_max.0),
            latency: Latency::default(),
            minutes: Minutes::new(calendar),
            totals: Totals::default(),
            failed_at: None,
        };
        Self { identity, state: Mutex::new(state) }
    }

    /// Which node it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the breaker would let a use pass.
    pub fn would_admit(&self, now: Instant) -> bool {
        self.state.lock().breaker.would_admit(now)
    }

    /// Whether the breaker lets this use pass. Who was let in tells [`Node::succeeded`] or [`Node::failed`] of it, and, where it ends with
    /// neither, gives it [back](Node::give_back). A trial that is cancelled says nothing, and the next comes after a rest.
    pub fn admit(&self, now: Instant) -> bool {
        self.state.lock().breaker.admit(now)
    }

    /// Who was let in at `began` has found out nothing: if it was the trial, the next use may try.
    pub fn give_back(&self, began: Instant, now: Instant) {
        self.state.lock().breaker.give_back(began, now);
    }

    /// Whether the breaker has waited for a use to try it for so long that none seems to come.
    pub fn is_unasked(&self, now: Instant) -> bool {
        self.state.lock().breaker.is_unasked(now)
    }

    /// The breaker's state.
    pub fn breaker_state(&self, now: Instant) -> BreakerState {
        self.state.lock().breaker.state(now)
    }

    /// When the breaker lets a use pass again; nothing while it lets all pass.
    pub fn rests_until(&self) -> Option<Instant> {
        self.state.lock().breaker.rests_until()
    }

    /// A use went well, and took so long.
    pub fn succeeded(&self, now: Instant, took: Duration) {
        {
            let mut state = self.state.lock();
            state.totals.served += 1;
            state.minutes.succeeded(now, took);
            if self.identity.kind.is_compared_by_uses() {
                state.latency.record(now, took);
            }
        }
        self.answered(now);
    }

    /// It answered what is no use that others compare with, such as a look at a statement's columns.
    pub fn answered(&self, now: Instant) {
        let was_closed = {
            let mut state = self.state.lock();
            state.failed_at = None;
            let was_closed = state.breaker.state(now) == BreakerState::Closed;
            state.breaker.succeeded();
            was_closed
        };
        if !was_closed {
            let id = &*self.identity.id;
            log::info!(node = id; "{id} is used again");
        }
    }

    /// A use failed because of the node. The reason is for the log, which hears of it when the node is let alone for it.
    pub fn failed(&self, now: Instant, reason: &dyn Display) {
        let (before, after) = {
            let mut state = self.state.lock();
            state.totals.failed += 1;
            state.minutes.failed(now);
            state.failed_at = Some(now);
            let before = state.breaker.state(now);
            state.breaker.failed(now, fastrand::f64());
            (before, state.breaker.state(now))
        };
        let id = &*self.identity.id;
        if (before, after) == (BreakerState::Closed, BreakerState::Open) {
            log::warn!(node = id; "{id} is left alone for a while: {reason}");
        } else {
            log::debug!(node = id; "{id} failed: {reason}");
        }
    }

    /// A connection that had served before broke in the middle of a use. Whether the node is well, a new one will tell.
    pub fn lost_connection(&self, now: Instant, reason: &dyn Display) {
        {
            let mut state = self.state.lock();
            state.totals.failed += 1;
            state.minutes.failed(now);
        }
        let id = &*self.identity.id;
        log::debug!(node = id; "{id} lost a connection: {reason}");
    }

    /// A probe was answered, and took so long. It counts as a measurement, not as a use.
    pub fn probed(&self, now: Instant, took: Duration) {
        let mut state = self.state.lock();
        state.latency.record(now, took);
        state.minutes.probed(now, took);
    }

    /// It was down and answers probes again: the next use may try it.
    pub fn is_back(&self, now: Instant) {
        self.state.lock().breaker.hasten(now);
    }

    /// The latency that nodes are compared by: a peak counts at once and fades.
    pub fn latency(&self) -> Option<Duration> {
        self.state.lock().latency.get()
    }

    /// Whether its last use failed, less than so long ago.
    pub fn has_failed_within(&self, now: Instant, span: Duration) -> bool {
        self.state.lock().failed_at.is_some_and(|at| now.saturating_duration_since(at) < span)
    }

    /// The percentiles of the last five minutes, of what nodes are compared by.
    pub fn recent(&self, now: Instant) -> Option<Percentiles> {
        self.state.lock().minutes.recent(now, self.identity.kind.is_compared_by_uses())
    }

    /// The last hour, the oldest minute first.
    pub fn minutes(&self, now: Instant) -> Vec<MinuteRow> {
        self.state.lock().minutes.rows(now)
    }

    /// What happened since the start.
    pub fn totals(&self) -> Totals {
        self.state.lock().totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::testing::{node, settings};

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn uses_and_failures_are_counted_and_move_the_breaker() {
        let (node, now) = (node(Kind::Replica), Instant::now());
        node.succeeded(now, MILLI * 4);
        (0..3).for_each(|_| node.failed(now, &"gone"));
        assert_eq!(node.breaker_state(now), BreakerState::Open);
        assert!(!node.admit(now) && node.rests_until() > Some(now));
        assert_eq!(node.totals(), Totals { served: 1, failed: 3 });
        let row = node.minutes(now)[0];
        assert_eq!((row.ops, row.errors), (4, 3));
    }

    #[test]
    fn a_broken_connection_is_an_error_and_no_word_on_the_node() {
        let (node, now) = (node(Kind::Replica), Instant::now());
        (0..9).for_each(|_| node.lost_connection(now, &"reset"));
        assert_eq!(node.breaker_state(now), BreakerState::Closed);
        assert!(!node.has_failed_within(now, MILLI));
        assert_eq!(node.minutes(now)[0].errors, 9);
    }

    #[test]
    fn databases_are_compared_by_probes_and_upstreams_by_uses_as_well() {
        let now = Instant::now();
        let (replica, upstream) = (node(Kind::Replica), node(Kind::Upstream));
        for node in [&replica, &upstream] {
            node.probed(now, MILLI);
            node.succeeded(now, MILLI * 500);
        }
        assert_eq!(replica.latency(), Some(MILLI));
        assert_eq!(upstream.latency(), Some(MILLI * 500));
        assert!(replica.recent(now).unwrap().p95 < MILLI * 2);
        assert!(upstream.recent(now).unwrap().p95 > MILLI * 400);
    }

    #[test]
    fn a_failure_is_remembered_until_a_use_goes_well() {
        let (node, now) = (node(Kind::Replica), Instant::now());
        let ttl = settings().pick_ttl.0;
        node.failed(now, &"reset");
        assert!(node.has_failed_within(now + ttl / 2, ttl));
        assert!(!node.has_failed_within(now + ttl, ttl));
        node.succeeded(now, MILLI);
        assert!(!node.has_failed_within(now, ttl));
    }

    #[test]
    fn of_many_at_once_one_is_the_trial() {
        let (node, mut now) = (node(Kind::Replica), Instant::now());
        (0..3).for_each(|_| node.failed(now, &"gone"));
        for _ in 0..4 {
            now += Duration::from_secs(60);
            let admitted = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| node.admit(now))).collect();
                threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum::<usize>()
            });
            assert_eq!(admitted, 1);
            // What was under way before says nothing that would let the others in.
            (0..8).for_each(|_| node.failed(now, &"still gone"));
            assert!(!node.admit(now));
        }
        now += Duration::from_secs(60);
        assert!(node.admit(now));
        node.succeeded(now, MILLI);
        assert!((0..8).all(|_| node.admit(now)));
    }
}
