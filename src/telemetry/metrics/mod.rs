//! The metrics of an instance, as `/metrics` shows them. [`table`] declares them.

pub mod declare;
pub mod labels;
pub mod stale;
pub mod table;
pub mod values;

use prometheus::{Encoder, IntCounter, TextEncoder};

use crate::config::manifest::access::AuthMethod;

pub use table::Metrics;
pub use values::{AuthResult, LogDropped, LookupResult, Outcome, StaleReason, TraceDropped};

impl Metrics {
    /// All metrics, registered.
    ///
    /// # Errors
    /// Where a declaration in the table is wrong, which a test would have shown.
    pub fn new() -> prometheus::Result<Self> {
        let metrics = Self::declared()?;
        #[cfg(target_os = "linux")]
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// All values in the text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            log::error!("the metrics could not be written: {error}");
        }
        out
    }

    /// Forgets the series of routes that are not to be kept. What is still counted for one of `former`, the routes until now, by a
    /// request that was under way, is shown nowhere.
    pub fn retain_routes<'a>(&self, former: impl Iterator<Item = &'a str>, keep: impl Fn(&str) -> bool) {
        self.gone.add(former.filter(|route| !keep(route)).map(str::to_owned));
        self.retain(labels::ROUTE.name, keep);
    }

    /// A route is there from now on: its series are made where they are asked for.
    pub fn expect_route(&self, route: &str) {
        self.gone.forget(route);
    }

    /// The checks of one method that came to this.
    pub fn auth_check(&self, method: AuthMethod, result: AuthResult) -> IntCounter {
        self.auth_checks.with_label_values(&[method.as_str(), result.as_str()])
    }
}
