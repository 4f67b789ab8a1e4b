//! The choice among nodes: the fastest, kept for a while, and kept on as long as none is clearly faster.

use std::time::{Duration, Instant};

use crate::config::settings::NodeSettings;

/// A node that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which node: the caller's number for it.
    pub node: usize,
    /// Its latency; a node that has not been measured yet comes last.
    pub latency: Option<Duration>,
}

/// The choice so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pick {
    kept: Option<(usize, Instant)>,
}

impl Pick {
    /// Chooses among the candidates: the node picked before while its time runs, or while none is faster by the margin.
    pub fn choose(&mut self, now: Instant, candidates: &[Candidate], settings: &NodeSettings) -> Option<usize> {
        let fastest = candidates.iter().min_by_key(|candidate| candidate.latency.unwrap_or(Duration::MAX))?;
        let before = self.kept.and_then(|(node, since)| {
            let candidate = candidates.iter().find(|candidate| candidate.node == node)?;
            Some((candidate, since))
        });
        match before {
            Some((candidate, since)) if now.saturating_duration_since(since) < settings.pick_ttl.0 => Some(candidate.node),
            Some((candidate, _)) if !clearly_slower(candidate, fastest, settings.pick_margin) => {
                self.kept = Some((candidate.node, now));
                Some(candidate.node)
            }
            _ => {
                self.kept = Some((fastest.node, now));
                Some(fastest.node)
            }
        }
    }

    /// The node failed: the next choice is made afresh.
    pub fn forget(&mut self, node: usize) {
        if self.kept.is_some_and(|(kept, _)| kept == node) {
            self.kept = None;
        }
    }
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
    use crate::config::units::Span;

    fn settings() -> NodeSettings {
        let span = |seconds| Span(Duration::from_secs(seconds));
        NodeSettings { failures_to_open: 3, open_time: span(2), open_time_max: span(30), pick_ttl: span(60), pick_margin: 1.25 }
    }

    fn nodes(latencies_ms: &[u64]) -> Vec<Candidate> {
        let candidate = |(node, ms): (usize, &u64)| Candidate { node, latency: Some(Duration::from_millis(*ms)) };
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
        assert_eq!(pick.choose(now + Duration::from_secs(90), &nodes(&[20, 10]), &settings), Some(0), "its time runs anew");
        assert_eq!(pick.choose(now + Duration::from_secs(120), &nodes(&[13, 10]), &settings), Some(1));
    }

    #[test]
    fn a_failed_or_missing_node_loses_the_pick_at_once() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        assert_eq!(pick.choose(now, &nodes(&[10, 20]), &settings), Some(0));
        let without_first: Vec<_> = nodes(&[10, 20]).into_iter().skip(1).collect();
        assert_eq!(pick.choose(now, &without_first, &settings), Some(1));
        pick.forget(1);
        assert_eq!(pick.choose(now, &nodes(&[10, 20]), &settings), Some(0));
    }

    #[test]
    fn a_node_without_a_measurement_comes_last() {
        let (mut pick, now, settings) = (Pick::default(), Instant::now(), settings());
        let unknown = Candidate { node: 7, latency: None };
        assert_eq!(pick.choose(now, &[unknown], &settings), Some(7));
        let later = now + Duration::from_secs(61);
        assert_eq!(pick.choose(later, &[unknown, Candidate { node: 1, latency: Some(Duration::from_secs(1)) }], &settings), Some(1));
    }
}
