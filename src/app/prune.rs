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
    /// Prunes idempotency keys as long as routes use handlers of the reference application. Runs until the system ends.
    pub(super) async fn prune(self: Arc<Self>) {
        let retention = self.pipeline.settings.idempotency.retention.0;
        let mut pool = None;
        loop {
            // All instances of a fleet prune, and not all at the same time.
            actix_rt::time::sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
            if !self.moves_money() {
                continue;
            }
            let (settings, kept) = (Arc::clone(&self.pipeline.settings), pool.take());
            let work = move || -> Result<(MaintenancePool, i64), Box<dyn Error + Send + Sync>> {
                let pool = match kept {
                    Some(pool) => pool,
                    None => MaintenancePool::open(&settings.database)?,
                };
                let pruned = ramp::idempotency::prune(&mut *pool.get()?, retention)?;
                Ok((pool, pruned))
            };
            match actix_rt::task::spawn_blocking(work).await {
                Ok(Ok((used, pruned))) => {
                    log::debug!("{pruned} idempotency keys are forgotten");
                    pool = Some(used);
                }
                Ok(Err(error)) => log::warn!("idempotency keys are not pruned: {error}"),
                Err(panic) => log::error!("the pruning of idempotency keys ended: {panic}"),
            }
        }
    }

    fn moves_money(&self) -> bool {
        let surface = self.surface.load();
        surface.endpoints().any(|endpoint| ramp::moves_money(&endpoint.route.source))
    }
}
