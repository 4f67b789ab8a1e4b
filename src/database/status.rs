//! What is known of the databases, as sampled: for health, metrics and people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lag::Ineligible;
use super::pools::PoolUsage;
use super::read::Role;
use crate::nodes::breaker::BreakerState;
use crate::position::{Lsn, Timeline};

/// The sampled state of one node.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// `primary`, `replica-1`, …
    pub name: Arc<str>,
    /// Its part, as configured.
    pub role: Role,
    /// Whether it has been asked at all.
    pub sampled: bool,
    /// Whether it answers.
    pub up: bool,
    /// Whether it answers and is writable, on the newest timeline that anyone has seen.
    pub writable: bool,
    /// A replica: why it does not serve reads, if so.
    pub ineligible: Option<Ineligible>,
    /// A replica: how stale it is.
    pub lag: Option<Duration>,
    /// A replica: whether a WAL receiver is connected and replay is not paused.
    pub flowing: bool,
    /// Its timeline, where it may be seen.
    pub timeline: Option<Timeline>,
    /// Flushed, or replayed, up to here.
    pub lsn: Option<Lsn>,
    /// Its breaker.
    pub breaker: BreakerState,
    /// The measured latency of probes.
    pub latency: Option<Duration>,
    /// Its pool for reads.
    pub pool: PoolUsage,
    /// The primary: its pool for writes.
    pub writers: Option<PoolUsage>,
    /// Reads since the start.
    pub counts: NodeCounts,
}

/// Reads of one node since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Answered.
    pub served: u64,
    /// Failed because of the node.
    pub failed: u64,
    /// Cancelled by the node.
    pub conflicts: u64,
}

impl NodeStatus {
    /// Whether it is a replica that serves reads.
    pub fn is_eligible(&self) -> bool {
        self.role == Role::Replica && self.ineligible.is_none()
    }
}

/// The sampled state of all nodes.
#[derive(Clone, Debug)]
pub struct DatabaseStatus {
    /// As of when.
    pub at: Instant,
    /// The primary first.
    pub nodes: Vec<NodeStatus>,
}

impl DatabaseStatus {
    /// The primary.
    pub fn primary(&self) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.role == Role::Primary)
    }

    /// The replicas.
    pub fn replicas(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter(|node| node.role == Role::Replica)
    }

    /// The staleness of the best standby that answers on the primary's timeline; unknown where nothing proves one.
    pub fn best_replica_lag(&self) -> Option<Duration> {
        let counts = |node: &&NodeStatus| {
            node.up && matches!(node.ineligible, None | Some(Ineligible::Lagging | Ineligible::LagUnknown))
        };
        self.replicas().filter(counts).filter_map(|node| node.lag).min()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A node that is well.
    pub(crate) fn node(role: Role) -> NodeStatus {
        NodeStatus {
            name: "node".into(),
            role,
            sampled: true,
            up: true,
            writable: role == Role::Primary,
            ineligible: None,
            lag: (role == Role::Replica).then_some(Duration::from_millis(900)),
            flowing: role == Role::Replica,
            timeline: None,
            lsn: None,
            breaker: BreakerState::Closed,
            latency: None,
            pool: PoolUsage::default(),
            writers: None,
            counts: NodeCounts::default(),
        }
    }
}
