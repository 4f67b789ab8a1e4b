//! Seeing to what providers have told, and nobody was left to apply.

use std::sync::Arc;

use super::Core;
use crate::ramp;

impl Core {
    /// Applies events that were stored and not applied, as long as routes use handlers of the reference application. Runs until the
    /// system ends.
    pub(super) async fn settle_events(self: Arc<Self>) {
        let interval = self.pipeline.settings.webhooks.sweep_interval.0;
        let metrics = &self.pipeline.metrics;
        loop {
            // All instances of a fleet look, and not all at the same time.
            actix_rt::time::sleep(interval.mul_f64(0.5 + fastrand::f64())).await;
            let Some(database) = self.pipeline.database.as_ref().filter(|_| self.moves_money()) else { continue };
            match ramp::webhooks::sweep(database, metrics, interval).await {
                Ok(waiting) => metrics.webhook_events_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX)),
                Err(error) => log::debug!("nobody can say which events are still to be applied: {error}"),
            }
        }
    }
}
