//! Ending orders of the reference application whose time is over, in the background.

use std::sync::Arc;
use std::time::Instant;

use super::Core;
use super::upkeep::Upkeep;
use crate::ramp;
use crate::telemetry::sparing::Sparing;

/// Orders that one sweep ends. What is left waits for the next.
const ORDERS_MAX: usize = 1_000;

impl Core {
    /// Expires orders as long as routes use handlers of the reference application. Runs until the system ends.
    pub(super) async fn expire_orders(self: Arc<Self>) {
        let settings = &self.pipeline.settings;
        let (interval, mut upkeep) = (settings.orders.sweep_interval.0, Upkeep::new(settings));
        let said = Sparing::default();
        loop {
            // All instances of a fleet sweep, and not all at the same time.
            actix_rt::time::sleep(interval.mul_f64(0.5 + fastrand::f64())).await;
            if !self.moves_money() {
                continue;
            }
            match upkeep.run(|conn| ramp::orders::expire(conn, ORDERS_MAX)).await {
                Ok(0) => {}
                Ok(expired) => log::debug!("{expired} orders have expired"),
                Err(error) => {
                    if said.may_say(Instant::now(), ()).is_some() {
                        log::warn!("orders do not expire: {error}");
                    }
                }
            }
        }
    }
}
