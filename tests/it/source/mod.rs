//! What produces responses.

mod handler;
mod schema;
pub mod sql;
pub mod upstream;
mod writes;
