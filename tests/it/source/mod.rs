//! What produces responses.

mod handler;
mod schema;
mod sql;
mod writes;
