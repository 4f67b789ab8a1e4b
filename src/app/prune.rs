//! Forgetting what the reference application need not know any longer, in the background.

use std::sync::Arc;
use std::time::Duration;

use super::Core;
use super::upkeep::Upkeep;
use crate::database::maintenance::MaintenanceConnection;
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
        let mut upkeep = Upkeep::new(&self.pipeline.settings);
        loop {
            // All instances of a fleet prune, and not all at the same time.
            actix_rt::time::sleep(INTERVAL.mul_f64(0.5 + fastrand::f64())).await;
            if !self.moves_money() {
                continue;
            }
            let work = move |conn: &mut MaintenanceConnection| {
                Ok([ramp::idempotency::prune(conn, keys)?, ramp::webhooks::prune(conn, events)?])
            };
            match upkeep.run(work).await {
                Ok([keys, events]) => log::debug!("{keys} idempotency keys and {events} events are forgotten"),
                Err(error) => log::warn!("idempotency keys and events are not pruned: {error}"),
            }
        }
    }

    pub(super) fn moves_money(&self) -> bool {
        let surface = self.surface.load();
        surface.endpoints().any(|endpoint| ramp::moves_money(&endpoint.route.source))
    }
}
