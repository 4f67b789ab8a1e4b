//! One Postgres: its pool, how it is measured, and what the sampler knows of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

use super::connect::Connector;
use super::lag::Sampled;
use super::pools::Pool;
use super::read::{Role, Served};
use super::session::Looked;
use crate::nodes::node::Node as Measured;
use crate::position::Position;

/// A node.
pub struct Node {
    /// Who answers, as `Served` says it.
    pub served: Served,
    /// Connections for reads.
    pub pool: Pool,
    /// Connections for writes; the primary alone has them.
    pub writers: Option<Pool>,
    /// Connections for probes.
    pub probe: Connector,
    /// What the sampler knows; nothing before its first probe.
    pub sampled: ArcSwapOption<Sampled>,
    /// How far it said that it is, after that.
    pub looked: ArcSwapOption<Looked>,
    /// Held by whoever asks it that; when it may be asked again.
    pub looking: Mutex<Option<Instant>>,
    /// Its breaker, its latency, its history.
    pub measured: Arc<Measured>,
    /// Reads that it cancelled: recovery conflicts, deadlocks. Since the start.
    pub conflicts: AtomicU64,
}

impl Node {
    /// A node that nothing is known of.
    pub fn new(served: Served, pool: Pool, writers: Option<Pool>, probe: Connector, measured: Measured) -> Self {
        Self {
            served,
            pool,
            writers,
            probe,
            sampled: ArcSwapOption::empty(),
            looked: ArcSwapOption::empty(),
            looking: Mutex::default(),
            measured: Arc::new(measured),
            conflicts: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.served.node
    }

    /// Connections opened before now are not used again: the node has become another.
    pub fn new_epoch(&self) {
        self.pools().for_each(Pool::new_epoch);
    }

    /// Hands out no connection any more.
    pub fn close(&self) {
        self.pools().for_each(Pool::close);
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        [Some(&self.pool), self.writers.as_ref()].into_iter().flatten()
    }

    /// Whether it is the configured primary.
    pub fn is_primary(&self) -> bool {
        self.served.role == Role::Primary
    }

    /// A standby: how far it is at least.
    pub fn known_position(&self) -> Option<Position> {
        self.known_position_if(|_| true)
    }

    /// The same, for a connection that was opened at a time: what was said before that may have been said by another server.
    pub fn known_position_since(&self, opened_at: Instant) -> Option<Position> {
        self.known_position_if(|asked_at| opened_at <= asked_at)
    }

    fn known_position_if(&self, counts: impl Fn(Instant) -> bool) -> Option<Position> {
        let sampled = self.sampled.load_full().filter(|sampled| sampled.up && counts(sampled.asked_at));
        let sampled = sampled.and_then(|sampled| sampled.reading.filter(|reading| reading.in_recovery)?.position());
        let looked = self.looked.load_full().filter(|looked| counts(looked.asked_at)).map(|looked| looked.position);
        match (sampled, looked) {
            (Some(sampled), Some(looked)) => Some(sampled.later(looked)),
            (sampled, looked) => sampled.or(looked),
        }
    }

    /// Whether its last probes were answered. A node that has not been asked yet may be.
    pub fn may_be_up(&self) -> bool {
        self.sampled.load().as_ref().is_none_or(|sampled| sampled.up)
    }
}
