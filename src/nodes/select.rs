//! The choice among nodes: the fastest, kept for a while, and kept on as long as none is clearly faster.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::node::Node;
use crate::config::settings::NodeSettings;

/// A node that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which node: the caller's number for it.
    pub node: usize,
    /// Its latency; a node that has not been measured yet comes last.
    pub latency: Option<Duration>,
    /// Its last use failed, not long ago: it comes after all others, and loses the pick.
    pub shaken: bool,
}

impl Candidate {
    /// A node as it is now.
    pub fn of(number: usize, node: &Node, now: Instant, settings: &NodeSettings) -> Self {
        let shaken = node.has_failed_within(now, settings.pick_ttl.0);
        Self { node: number, latency: node.latency(), shaken }
    }

    fn rank(&self) -> (bool, Duration) {
        (self.shaken, self.latency.unwrap_or(Duration::MAX))
    }
}

/// Numbers of nodes, in the order in which they are asked.
pub type Order = SmallVec<[usize; 4]>;

/// The choice so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pick {
    kept: Option<(usize, Instant)>,
}

impl Pick {
    /// The candidates in the order in which they are asked: the picked one, then the others from the fastest on.
    pub fn order(&mut self, now: Instant, candidates: &[Candidate], settings: &NodeSettings) -> Order {
        let picked = self.choose(now, candidates, settings);
        let mut order: SmallVec<[&Candidate; 4]> = candidates.iter().collect();
        order.sort_by_key(|one| (Some(one.node) != picked, one.rank()));
        order.into_iter().map(|candidate| candidate.node).collect()
    }

    /// Chooses among the candidates: the node picked before while its time runs, or while none is faster by the margin. One
    /// that has failed meanwhile is not kept.
    pub fn choose(&mut self, now: Instant, candidates: &[Candidate], settings: &NodeSettings) -> Option<usize> {
        let best = candidates.iter().min_by_key(|candidate| candidate.rank())?;
        let before = self.kept.and_then(|(node, since)| {
            let candidate = candidates.iter().find(|candidate| candidate.node == node)?;
            (candidate.shaken <= best.shaken).then_some((candidate, since))
        });
        match before {
            Some((candidate, since)) if now.saturating_duration_since(since) < settings.pick_ttl.0 => {
                Some(candidate.node)
            }
            Some((candidate, _)) if !clearly_slower(candidate, best, settings.pick_margin) => {
                self.kept = Some((candidate.node, now));
                Some(candidate.node)
            }
            _ => {
                self.kept = Some((best.node, now));
                Some(best.node)
            }
        }
    }
}

/// Every breaker is open: the nodes to try all the same, from the least bad on, which is the one that would be tried first anyway.
/// Refusing would be the only other thing to do.
pub fn least_bad_first<'a>(nodes: impl IntoIterator<Item = (usize, &'a Node)>) -> Order {
    let mut nodes: SmallVec<[_; 4]> = nodes.into_iter().map(|(number, node)| (node.rests_until(), number)).collect();
    nodes.sort_unstable();
    nodes.into_iter().map(|(_, number)| number).collect()
}

fn clearly_slower(candidate: &Candidate, fastest: &Candidate, margin: f64) -> bool {
    match (candidate.latency, fastest.latency) {
        (Some(latency), Some(best)) => latency.as_secs_f64() > best.as_secs_f64() * margin.max(1.0),
        (None, Some(_)) => true,
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::node::Kind;
    use crate::nodes::testing::{node, settings};

    fn nodes(latencies_ms: &[u64]) -> Vec<Candidate> {
        let candidate =
            |(node, ms): (usize, &u64)| Candidate { node, latency: Some(Duration::from_millis(*ms)), shaken: false };
        latencies_ms.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn the_fastest_is_picked_and_kept_for_its_time() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        assert_eq!(pick.choose(now, &[], &settings), None);
        assert_eq!(pick.choose(now, &nodes(&[30, 10, 20]), &settings), Some(1));
        assert_eq!(pick.choose(now + Duration::from_secs(59), &nodes(&[30, 100, 20]), &settings), Some(1));
        assert_eq!(pick.choose(now + Duration::from_secs(60), &nodes(&[30, 100, 20]), &settings), Some(2));
    }

    #[test]
    fn a_node_that_is_hardly_slower_keeps_the_pick() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        assert_eq!(pick.choose(now, &nodes(&[10, 11]), &settings), Some(0));
        assert_eq!(pick.choose(now + Duration::from_secs(60), &nodes(&[12, 10]), &settings), Some(0));
        assert_eq!(
            pick.choose(now + Duration::from_secs(90), &nodes(&[20, 10]), &settings),
            Some(0),
            "its time runs anew"
        );
        assert_eq!(pick.choose(now + Duration::from_secs(120), &nodes(&[13, 10]), &settings), Some(1));
    }

    #[test]
    fn a_failed_or_missing_node_loses_the_pick_at_once() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        assert_eq!(pick.choose(now, &nodes(&[10, 20]), &settings), Some(0));
        let without_first: Vec<_> = nodes(&[10, 20]).into_iter().skip(1).collect();
        assert_eq!(pick.choose(now, &without_first, &settings), Some(1));
        let mut failed = nodes(&[10, 20, 15]);
        failed[1].shaken = true;
        assert_eq!(pick.order(now, &failed, &settings).as_slice(), [0, 2, 1]);
        failed[0].shaken = true;
        assert_eq!(pick.order(now, &failed, &settings).as_slice(), [2, 0, 1]);
        failed[2].shaken = true;
        assert_eq!(pick.choose(now, &failed, &settings), Some(2), "where all have failed, the pick stays");
    }

    #[test]
    fn a_failure_reported_by_a_use_picks_anew_and_is_forgotten_in_time() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        let nodes = [node(Kind::Replica), node(Kind::Replica)];
        let mut choose = |now| {
            let candidates: Vec<_> =
                nodes.iter().enumerate().map(|(index, node)| Candidate::of(index, node, now, &settings)).collect();
            pick.choose(now, &candidates, &settings)
        };
        nodes[0].probed(now, Duration::from_millis(1));
        nodes[1].probed(now, Duration::from_millis(50));
        assert_eq!(choose(now), Some(0));
        nodes[0].failed(now, &"reset");
        assert_eq!(choose(now), Some(1), "long before its breaker opens");
        assert_eq!(choose(now + Duration::from_secs(59)), Some(1));
        assert_eq!(choose(now + Duration::from_secs(60)), Some(0));
    }

    #[test]
    fn the_least_bad_is_the_one_whose_rest_ends_first() {
        let now = Instant::now();
        let nodes = [node(Kind::Replica), node(Kind::Replica), node(Kind::Replica)];
        for (index, node) in nodes.iter().enumerate() {
            let at = now + Duration::from_secs([9, 1, 5][index]);
            (0..3).for_each(|_| node.failed(at, &"gone"));
        }
        assert_eq!(least_bad_first(nodes.iter().enumerate()).as_slice(), [1, 2, 0]);
        assert!(least_bad_first([]).is_empty());
    }

    #[test]
    fn a_node_without_a_measurement_comes_last() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        let unknown = Candidate { node: 7, latency: None, shaken: false };
        assert_eq!(pick.choose(now, &[unknown], &settings), Some(7));
        let later = now + Duration::from_secs(61);
        assert_eq!(
            pick.choose(
                later,
                &[unknown, Candidate { node: 1, latency: Some(Duration::from_secs(1)), shaken: false }],
                &settings
            ),
            Some(1)
        );
    }
}
