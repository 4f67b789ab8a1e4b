//! What an instance says of itself to those who watch it.

mod alerts;
mod expressions;
pub mod metrics;
