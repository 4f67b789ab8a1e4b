//! What an instance says of itself to those who watch it.

pub mod metrics;
