//! Mainstay.
pub mod error;
pub mod local;
