//! What produces responses.

mod handler;
mod schema;
mod sql;
pub mod upstream;
mod writes;
