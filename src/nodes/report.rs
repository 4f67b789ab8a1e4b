//! What others are told of nodes, so that they can choose for themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::BreakerState;
use super::node::Node;

/// Whether a node can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It can.
    Online,
    /// It does not answer, or is let alone for its failures, or is not what it should be.
    Offline,
    /// A replica that answers, and is too far behind, or nobody can say how far.
    Lagging,
}

impl Status {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "Online",
            Self::Offline => "Offline",
            Self::Lagging => "Lagging",
        }
    }
}

/// A node, and how it is.
#[derive(Clone, Debug)]
pub struct NodeReport {
    /// The node.
    pub node: Arc<Node>,
    /// Whether it can be used.
    pub status: Status,
    /// How far it is behind, where that is known and means something.
    pub lag: Option<Duration>,
}

impl NodeReport {
    /// Of a node whose breaker alone says how it is. Until a use has gone well after its rest, it is not said to be back.
    pub fn by_breaker(node: &Arc<Node>, now: Instant) -> Self {
        let status = if node.breaker_state(now) == BreakerState::Closed { Status::Online } else { Status::Offline };
        Self { node: Arc::clone(node), status, lag: None }
    }
}
