//! The HTTP side, over real sockets.

mod conditional;
mod cors;
mod encodings;
mod front;
mod health;
mod hot_rows;
mod limits;
mod malformed;
mod overload;
mod problem;
mod rate_limit;
mod replicas;
mod strong;
mod tls;
