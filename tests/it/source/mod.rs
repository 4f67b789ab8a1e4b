//! What produces responses.

mod handler;
mod schema;
pub mod sql;
mod upstream;
mod writes;
