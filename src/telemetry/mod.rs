//! Metrics, logs and traces.

pub mod by_route;
pub mod latency;
pub mod logs;
pub mod metrics;
pub mod sparing;
pub mod striped;
pub mod totals;
pub mod traces;
