//! Databases.

mod at_least;
mod changes;
mod lag;
mod maintenance;
pub mod pgbouncer;
mod read;
mod seen;
mod tls;
mod trial;
mod write;
