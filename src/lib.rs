//! Mainstay.
pub mod error;
pub mod config;
pub mod mode;
pub mod cache;
pub mod database;
pub mod http;
pub mod source;
pub mod nodes;
pub mod telemetry;
