//! Why what was stale was served, counted on the hit path.

use super::values::StaleReason;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::striped::Striped;

/// Counters of answers that were served though they were not fresh.
pub struct StaleServed {
    expired: Striped,
    changed: Striped,
    unknown: Striped,
    source_failed: Striped,
    failover: Striped,
}

impl StaleServed {
    /// Counters that are exported with these metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let counter = |reason: StaleReason| Striped::new(metrics.stale_served.with_label_values(&[reason.as_str()]));
        Self {
            expired: counter(StaleReason::Expired),
            changed: counter(StaleReason::Changed),
            unknown: counter(StaleReason::Unknown),
            source_failed: counter(StaleReason::SourceFailed),
            failover: counter(StaleReason::Failover),
        }
    }

    /// Counts one.
    pub fn inc(&self, reason: StaleReason) {
        match reason {
            StaleReason::Expired => self.expired.inc(),
            StaleReason::Changed => self.changed.inc(),
            StaleReason::Unknown => self.unknown.inc(),
            StaleReason::SourceFailed => self.source_failed.inc(),
            StaleReason::Failover => self.failover.inc(),
        }
    }

    /// Moves what was counted into the exported metrics.
    pub fn export(&self) {
        let all = [&self.expired, &self.changed, &self.unknown, &self.source_failed, &self.failover];
        for counter in all {
            counter.export();
        }
    }
}
