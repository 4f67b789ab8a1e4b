//! Mainstay.
pub mod error;
