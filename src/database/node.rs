//! One Postgres: its pool, how it is measured, and what the sampler knows of it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwapOption;

use super::connect::Connector;
use super::lag::Sampled;
use super::pools::Pool;
use super::read::{Role, Served};
use crate::nodes::node::Node as Measured;

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

    /// Whether its last probes were answered. A node that has not been asked yet may be.
    pub fn may_be_up(&self) -> bool {
        self.sampled.load().as_ref().is_none_or(|sampled| sampled.up)
    }
}
