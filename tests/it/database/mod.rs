//! Databases.

mod at_least;
mod lag;
mod maintenance;
mod pgbouncer;
mod read;
mod tls;
