//! One Postgres: its pool, its breaker, and what the sampler knows of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::connect::Connector;
use super::lag::Sampled;
use super::pools::Pool;
use super::read::{Role, Served};
use crate::nodes::breaker::{Breaker, BreakerState};
use crate::nodes::latency::Latency;

/// A node.
pub struct Node {
    /// Who answers, as `Served` says it.
    pub served: Served,
    /// Connections for reads.
    pub pool: Pool,
    /// Connections for probes.
    pub probe: Connector,
    /// What the sampler knows; nothing before its first probe.
    pub sampled: ArcSwapOption<Sampled>,
    /// What happened here, for metrics.
    pub counts: Counts,
    breaker: Mutex<Breaker>,
    latency: Mutex<Latency>,
}

/// What happened on a node since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads that were answered, errors of their own included.
    pub served: AtomicU64,
    /// Reads that failed because of the node.
    pub failed: AtomicU64,
    /// Reads that the node cancelled: recovery conflicts, deadlocks.
    pub conflicts: AtomicU64,
    /// Times its breaker opened.
    pub opened: AtomicU64,
}

impl Node {
    /// A node that nothing is known of.
    pub fn new(served: Served, pool: Pool, probe: Connector, breaker: Breaker) -> Self {
        Self {
            served,
            pool,
            probe,
            sampled: ArcSwapOption::empty(),
            counts: Counts::default(),
            breaker: Mutex::new(breaker),
            latency: Mutex::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.served.node
    }

    /// Whether it is the configured primary.
    pub fn is_primary(&self) -> bool {
        self.served.role == Role::Primary
    }

    /// Whether its last probes were answered. A node that has not been asked yet may be.
    pub fn may_be_up(&self) -> bool {
        self.sampled.load().as_ref().is_none_or(|sampled| sampled.up)
    }

    /// Whether the breaker would let a request pass.
    pub fn would_admit(&self, now: Instant) -> bool {
        self.breaker.lock().would_admit(now)
    }

    /// Whether the breaker lets this request pass.
    pub fn admit(&self, now: Instant) -> bool {
        self.breaker.lock().admit(now)
    }

    /// The breaker's state.
    pub fn breaker_state(&self, now: Instant) -> BreakerState {
        self.breaker.lock().state(now)
    }

    /// A read was answered here.
    pub fn succeeded(&self) {
        self.counts.served.fetch_add(1, Ordering::Relaxed);
        self.breaker.lock().succeeded();
    }

    /// A read failed because of the node.
    pub fn failed(&self, now: Instant, reason: &dyn std::fmt::Display) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let opened = {
            let mut breaker = self.breaker.lock();
            let before = breaker.state(now);
            breaker.failed(now, fastrand::f64());
            before != BreakerState::Open && breaker.state(now) == BreakerState::Open
        };
        if opened {
            self.counts.opened.fetch_add(1, Ordering::Relaxed);
            log::warn!(node = self.name().as_ref(); "{} is left alone for a while: {reason}", self.name());
        } else {
            log::debug!(node = self.name().as_ref(); "{} failed: {reason}", self.name());
        }
    }

    /// A connection that had served before broke in the middle of a read. Whether the node is well, a new one will tell.
    pub fn lost_connection(&self, reason: &dyn std::fmt::Display) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        log::debug!(node = self.name().as_ref(); "{} lost a connection: {reason}", self.name());
    }

    /// It was down and answers probes again.
    pub fn is_back(&self, now: Instant) {
        self.breaker.lock().hasten(now);
    }

    /// The measured latency.
    pub fn latency(&self) -> Option<Duration> {
        self.latency.lock().get()
    }

    /// A probe took this long.
    pub fn record_latency(&self, now: Instant, took: Duration) {
        self.latency.lock().record(now, took);
    }
}
