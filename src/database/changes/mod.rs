//! stub
pub mod feed;
