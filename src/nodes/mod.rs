//! What replicas and upstreams have in common: a measured latency, a breaker, a history, and the choice among several.
//!
//! Pure: time is passed in, nothing is spawned, nothing is known of databases or of HTTP.

pub mod breaker;
pub mod latency;
pub mod minutes;
pub mod node;
pub mod report;
pub mod select;

#[cfg(test)]
mod testing;
