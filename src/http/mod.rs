//! HTTP: the listener, the way of a request as one readable list, problem documents, middlewares.
pub mod target;
