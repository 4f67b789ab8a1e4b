//! How far eventual reads have stepped back: the picked replica ► another one ► the primary ► what is kept ► nothing.
//!
//! Found from what the samplers and the breakers say, once a look, and kept nowhere else: no request writes to it. It is for people
//! and their alarms; a request finds its way by itself.

use std::fmt::Write;

use super::read::Role;
use super::status::{DatabaseStatus, NodeStatus};
use crate::nodes::breaker::BreakerState;

/// Where eventual reads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Where they should be: on a replica, with all of them to choose from; without replicas, on the primary.
    Preferred,
    /// A replica is out, another one answers.
    OtherReplica,
    /// No replica answers: the primary does, for a few at a time.
    Primary,
    /// Nobody answers: what is kept is served for as long as its routes allow, and what is not kept is a 503.
    Stale,
    /// Nobody answers, and nothing is kept.
    Unavailable,
}

impl Step {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::OtherReplica => "other_replica",
            Self::Primary => "primary",
            Self::Stale => "stale",
            Self::Unavailable => "unavailable",
        }
    }

    /// The value in metrics.
    pub const fn as_number(self) -> i64 {
        match self {
            Self::Preferred => 0,
            Self::OtherReplica => 1,
            Self::Primary => 2,
            Self::Stale => 3,
            Self::Unavailable => 4,
        }
    }

    /// Finds the step in sampled state; nothing before every node was asked once.
    pub fn find(status: &DatabaseStatus, has_kept: bool) -> Option<Self> {
        if status.nodes.iter().any(|node| !node.sampled) {
            return None;
        }
        let replicas = status.replicas().count();
        let answering = status.replicas().filter(|replica| obstacle(replica).is_none()).count();
        let primary_answers = status.primary().is_some_and(|primary| obstacle(primary).is_none());
        Some(match (answering, primary_answers) {
            (0, true) if replicas > 0 => Self::Primary,
            (0, false) if has_kept => Self::Stale,
            (0, false) => Self::Unavailable,
            (answering, _) if answering < replicas => Self::OtherReplica,
            _ => Self::Preferred,
        })
    }
}

/// What keeps a node from answering eventual reads.
fn obstacle(node: &NodeStatus) -> Option<&'static str> {
    match (node.role, node.ineligible) {
        (Role::Replica, Some(reason)) => Some(reason.as_str()),
        (Role::Primary, _) if !node.up => Some("down"),
        (Role::Primary, _) if !node.writable => Some("read_only"),
        _ => (node.breaker == BreakerState::Open).then_some("breaker_open"),
    }
}

/// Which nodes do not answer, and why: `replica-1 is down, primary is breaker_open`.
pub fn obstacles(status: &DatabaseStatus) -> String {
    let mut text = String::new();
    for (node, reason) in status.nodes.iter().filter_map(|node| Some((node, obstacle(node)?))) {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{}: {reason}", node.name);
    }
    text
}

/// Looks in a row that must find less than the preferred step right after the start: nobody can say how stale a replica is before
/// both it and the primary have been asked twice.
const LOOKS_AT_START: u32 = 5;

/// The step in force. It gets worse at once, since what is sampled and what breakers say has been weighed already, and better
/// after some looks in a row: a breaker that lets one read try has not proven anything yet.
#[derive(Debug, Default)]
pub struct Steps {
    in_force: Option<Step>,
    /// Looks in a row that found another step.
    others: u32,
}

impl Steps {
    /// The step in force, once there is one.
    pub fn in_force(&self) -> Option<Step> {
        self.in_force
    }

    /// Takes one more look in, and says from where to where it changed.
    pub fn tick(&mut self, found: Step, looks_to_better: u32) -> Option<(Step, Step)> {
        let before = self.in_force.unwrap_or(Step::Preferred);
        if found == before {
            (self.in_force, self.others) = (Some(found), 0);
            return None;
        }
        self.others = self.others.saturating_add(1);
        let needed = match self.in_force {
            None => LOOKS_AT_START,
            Some(_) if found > before => 1,
            Some(_) => looks_to_better,
        };
        if self.others < needed {
            return None;
        }
        (self.in_force, self.others) = (Some(found), 0);
        Some((before, found))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::database::lag::Ineligible;
    use crate::database::status::testing::node;

    fn down(role: Role) -> NodeStatus {
        let ineligible = (role == Role::Replica).then_some(Ineligible::Down);
        NodeStatus { up: false, writable: false, ineligible, ..node(role) }
    }

    fn open(role: Role) -> NodeStatus {
        NodeStatus { breaker: BreakerState::Open, ..node(role) }
    }

    fn found(nodes: impl IntoIterator<Item = NodeStatus>, has_kept: bool) -> Option<Step> {
        Step::find(&DatabaseStatus { at: Instant::now(), nodes: nodes.into_iter().collect() }, has_kept)
    }

    #[test]
    fn each_step_is_what_is_left() {
        use Role::{Primary, Replica};
        for (nodes, step) in [
            (vec![node(Primary)], Step::Preferred),
            (vec![node(Primary), node(Replica)], Step::Preferred),
            (vec![down(Primary), node(Replica)], Step::Preferred),
            (vec![node(Primary), node(Replica), down(Replica)], Step::OtherReplica),
            (vec![down(Primary), open(Replica), node(Replica)], Step::OtherReplica),
            (vec![node(Primary), down(Replica), open(Replica)], Step::Primary),
            (vec![down(Primary), down(Replica)], Step::Stale),
            (vec![open(Primary)], Step::Stale),
        ] {
            assert_eq!(found(nodes, true), Some(step));
        }
        assert_eq!(found([down(Primary), down(Replica)], false), Some(Step::Unavailable));
        let unsampled = NodeStatus { sampled: false, ..node(Replica) };
        assert_eq!(found([node(Primary), unsampled], true), None);
    }

    #[test]
    fn every_obstacle_is_named() {
        let standby = NodeStatus { writable: false, ..node(Role::Primary) };
        let nodes = vec![standby, node(Role::Replica), down(Role::Replica), open(Role::Replica)];
        let text = obstacles(&DatabaseStatus { at: Instant::now(), nodes });
        assert_eq!(text, "node: read_only, node: down, node: breaker_open");
    }

    #[test]
    fn it_gets_worse_at_once_and_better_after_looks_in_a_row() {
        let mut steps = Steps::default();
        assert_eq!(steps.tick(Step::Preferred, 2), None);
        assert_eq!(steps.tick(Step::Primary, 2), Some((Step::Preferred, Step::Primary)));
        for _ in 0..3 {
            assert_eq!(steps.tick(Step::OtherReplica, 2), None);
            assert_eq!(steps.tick(Step::Primary, 2), None);
        }
        assert_eq!(steps.tick(Step::OtherReplica, 2), None);
        assert_eq!(steps.tick(Step::Preferred, 2), Some((Step::Primary, Step::Preferred)));
        assert_eq!(steps.in_force(), Some(Step::Preferred));
        assert_eq!(steps.tick(Step::Stale, 2), Some((Step::Preferred, Step::Stale)));
    }

    #[test]
    fn at_the_start_nothing_is_said_too_early() {
        let (mut well, mut ill) = (Steps::default(), Steps::default());
        for _ in 1..LOOKS_AT_START {
            assert_eq!((well.tick(Step::Primary, 2), ill.tick(Step::Primary, 2)), (None, None));
            assert_eq!(ill.in_force(), None);
        }
        assert_eq!(well.tick(Step::Preferred, 2), None);
        assert_eq!(ill.tick(Step::Primary, 2), Some((Step::Preferred, Step::Primary)));
    }
}
