//! What replicas and upstreams have in common: a measured latency, a breaker, a history, and the choice among several; and how
//! many sources may run at once, and who waits for a place.
//!
//! Pure: time is passed in, nothing is spawned, nothing is known of databases or of HTTP.

pub mod breaker;
pub mod latency;
pub mod limit;
pub mod minutes;
pub mod node;
pub mod queue;
pub mod report;
pub mod select;

#[cfg(test)]
mod testing;
