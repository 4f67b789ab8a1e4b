//! How far the instance has stepped back, and which nodes are let alone: looked at once a sample, and said once a change.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::database::steps::{Step, Steps, obstacles};
use crate::http::pipeline::Pipeline;
use crate::nodes::breaker::BreakerState;
use crate::nodes::node::Kind;

/// What was found at the last look.
#[derive(Default)]
pub(super) struct Outlook {
    steps: Steps,
    all_open: BTreeSet<&'static str>,
}

impl Outlook {
    /// Takes a look, and returns the step in force.
    pub(super) fn look(&mut self, pipeline: &Pipeline) -> Option<Step> {
        let (reports, now) = (pipeline.nodes.reports(), Instant::now());
        for kind in Kind::ALL {
            let of_kind = reports.iter().filter(|report| report.node.identity().kind == kind);
            let states: Vec<_> = of_kind.map(|report| report.node.breaker_state(now)).collect();
            if !states.is_empty() {
                self.look_at_breakers(pipeline, kind, &states);
            }
        }
        let status = pipeline.database.as_ref()?.status();
        let found = Step::find(&status, has_kept(pipeline))?;
        if let Some((from, to)) = self.steps.tick(found, pipeline.settings.health.successes_to_healthy) {
            let (from_name, to_name) = (from.as_str(), to.as_str());
            if to > from {
                let why = obstacles(&status);
                log::warn!(from = from_name, to = to_name; "eventual reads step back from {from_name} to {to_name}: {why}");
            } else {
                log::info!(from = from_name, to = to_name; "eventual reads are back from {from_name} at {to_name}");
            }
        }
        pipeline.metrics.degradation_step.set(self.steps.in_force().map_or(0, Step::as_number));
        self.steps.in_force()
    }

    /// Where no breaker of a kind is closed, whoever is asked is asked as a trial.
    fn look_at_breakers(&mut self, pipeline: &Pipeline, kind: Kind, states: &[BreakerState]) {
        let name = kind.as_str();
        let are_all_open = states.iter().all(|state| *state != BreakerState::Closed);
        pipeline.metrics.nodes_all_open.with_label_values(&[name]).set(i64::from(are_all_open));
        if are_all_open && self.all_open.insert(name) {
            log::warn!(kind = name; "every {name} is let alone for its failures: where nobody else answers, the least bad is tried");
        } else if !are_all_open && self.all_open.remove(name) {
            log::info!(kind = name; "not every {name} is let alone any more");
        }
    }
}

/// Whether there is anything to serve while nobody can be read: some of it may be too old, which only a request finds out.
fn has_kept(pipeline: &Pipeline) -> bool {
    let is_shared = || pipeline.cache.shared.as_ref().is_some_and(|shared| shared.commands().is_in_use());
    pipeline.cache.memory.usage().entries > 0 || is_shared()
}
