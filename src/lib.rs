//! Mainstay.
pub mod cli;
pub mod config;
pub mod database;
pub mod error;
pub mod local;
pub mod mode;
pub mod ramp;
pub mod source;
pub mod nodes;
