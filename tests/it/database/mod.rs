//! Databases.

mod lag;
mod maintenance;
mod pgbouncer;
mod read;
mod tls;
