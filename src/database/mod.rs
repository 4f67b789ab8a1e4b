//! Postgres: pools to the primary and each replica, measured lag, and the routing of reads.

pub mod read;
