//! Mainstay: a regional API origin that stays up.

pub mod cache;
pub mod config;
pub mod database;
pub mod error;
pub mod http;
pub mod local;
pub mod mode;
pub mod nodes;
pub mod source;
pub mod telemetry;
