//! Postgres: pools to the primary and each replica, measured lag, and the routing of reads.
//!
//! [`read`] is the way in: it asks [`lag`] which replicas are eligible and [`crate::nodes`] which of them is the fastest, and
//! makes attempts on one node after another. An attempt takes a connection from [`pools`], which opens it by [`connect`],
//! the only place that knows URLs ([`target`]), TLS ([`tls`]) and session settings. A failure means what [`classify`] says,
//! by the SQLSTATE that [`wire`] has seen. How far a node has read is said by `proof` before it is asked.
//!
//! What is known of the nodes comes from [`sampler`] alone and stands in [`status`]; [`health`] judges it. Neither of them
//! asks a server anything while somebody waits. [`mod@write`] is for what changes data, on the primary alone. [`changes`] tells what has changed. [`maintenance`] is for work that is no request.

mod attempt;
pub mod changes;
pub mod classify;
pub mod connect;
pub mod describe;
pub mod health;
pub mod json_type;
pub mod lag;
pub mod maintenance;
pub mod node;
pub mod pools;
pub mod proof;
pub mod read;
pub mod row_settings;
pub mod sampler;
pub mod served;
pub mod session;
pub mod status;
pub mod steps;
pub mod stream;
pub mod target;
pub mod tls;
pub mod wire;
pub mod write;
