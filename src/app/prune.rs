//! Forgetting what the reference application need not know any longer, in the background.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use super::Core;
use crate::database::maintenance::MaintenancePool;
use crate::ramp;

/// How often keys are pruned. An hour more or less says nothing to anybody who relies on a day.
const INTERVAL: Duration = Duration::from_secs(10 * 60);

impl Core {
    /// Prunes idempotency keys and events of providers as long as routes use handlers of the reference application. Runs until the system ends.
    pub(super) async fn prune(self: Arc<Self>) {
        let (keys, events) = {
            let settings = &self.pipeline.settings;
            (settings.idempotency.retention.0, settings.webhooks.retention.0)
        };
        let mut pool = None;
        loop {
            // All instances of a fleet prune, and not all at the same time.
            actix_rt::time::sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
            if !self.moves_money() {
                continue;
            }
            let (settings, kept) = (Arc::clone(&self.pipeline.settings), pool.take());
            let work = move || -> Result<(MaintenancePool, [i64; 2]), Box<dyn Error + Send + Sync>> {
                let pool = match kept {
                    Some(pool) => pool,
                    None => MaintenancePool::open(&settings.database)?,
                };
                let mut conn = pool.get()?;
                let pruned = [ramp::idempotency::prune(&mut conn, keys)?, ramp::webhooks::prune(&mut conn, events)?];
                drop(conn);
                Ok((pool, pruned))
            };
            match actix_rt::task::spawn_blocking(work).await {
                Ok(Ok((used, [keys, events]))) => {
                    log::debug!("{keys} idempotency keys and {events} events are forgotten");
                    pool = Some(used);
                }
                Ok(Err(error)) => log::warn!("idempotency keys and events are not pruned: {error}"),
                Err(panic) => log::error!("the pruning of idempotency keys and events ended: {panic}"),
            }
        }
    }

    pub(super) fn moves_money(&self) -> bool {
        let surface = self.surface.load();
        surface.endpoints().any(|endpoint| ramp::moves_money(&endpoint.route.source))
    }
}
