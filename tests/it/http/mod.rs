//! The HTTP side, over real sockets.

mod conditional;
mod cors;
mod encodings;
mod front;
mod health;
mod limits;
mod malformed;
mod problem;
mod replicas;
mod strong;
mod tls;
