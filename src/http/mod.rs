//! HTTP: the listener, the way of a request as one readable list, problem documents, middlewares.
pub mod audit;
pub mod connections;
pub mod cors;
pub mod failover;
mod fill;
pub mod front;
pub mod headers;
pub mod health;
pub mod hot;
pub mod middleware;
pub mod pipeline;
pub mod problem;
pub mod resolve;
pub mod respond;
pub mod server;
pub mod surface;
pub mod target;
pub mod warm;
