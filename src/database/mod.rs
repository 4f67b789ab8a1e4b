//! Postgres: pools to the primary and each replica, measured lag, and the routing of reads.

pub mod classify;
pub mod connect;
pub mod lag;
pub mod lsn;
pub mod maintenance;
pub mod node;
pub mod pools;
pub mod read;
pub mod sampler;
pub mod status;
pub mod stream;
pub mod target;
pub mod tls;
pub mod wire;
