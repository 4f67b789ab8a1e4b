//! What replicas and upstreams have in common: a measured latency, a breaker, and the choice among several.
//!
//! Pure: time is passed in, nothing is spawned, nothing is known of databases.

pub mod breaker;
pub mod latency;
pub mod select;
