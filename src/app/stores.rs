//! What a failover origin has to serve from, looked at once a sample.

use crate::database::health::Verdict;
use crate::http::failover::Stores;
use crate::http::pipeline::Pipeline;

/// A look at the stores, and how often Redis has not answered in a row.
#[derive(Default)]
pub(super) struct StoreWatch {
    failures: u32,
}

impl StoreWatch {
    /// Looks once, and takes no longer than `redis.timeout`. One answer that is late does not make Redis count as down.
    pub(super) async fn look(&mut self, pipeline: &Pipeline) -> Verdict {
        let shared = match &pipeline.cache.shared {
            Some(shared) => {
                self.failures = if shared.is_reachable().await { 0 } else { self.failures.saturating_add(1) };
                Some(self.failures < pipeline.settings.health.failures_to_unhealthy.max(1))
            }
            None => None,
        };
        let nodes = pipeline.database.as_ref().map(|database| database.status().nodes);
        let stores = Stores {
            shared,
            databases: nodes.map(|nodes| nodes.iter().any(|node| node.up)),
            has_entries: pipeline.cache.memory.usage().entries > 0,
            is_loading: pipeline.starting.is_loading(),
            knows_hard: pipeline.cache.fences.read(|ledger| ledger.knows_hard()),
        };
        stores.verdict()
    }
}
