//! Mainstay.
pub mod error;
pub mod config;
pub mod mode;
pub mod database;
pub mod source;
pub mod nodes;
