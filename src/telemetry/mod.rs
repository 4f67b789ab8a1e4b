//! Metrics and logs.

pub mod by_route;
pub mod latency;
pub mod logs;
pub mod metrics;
pub mod sparing;
pub mod striped;
