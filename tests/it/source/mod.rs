//! What produces responses.

mod handler;
mod schema;
mod sql;
mod upstream;
mod writes;
