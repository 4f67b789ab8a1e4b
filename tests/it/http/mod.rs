//! The HTTP side, over real sockets.

mod conditional;
mod cors;
mod encodings;
mod front;
mod limits;
mod malformed;
mod problem;
