//! Tests of the application in process, against real servers; the modules mirror `src/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod admin;
mod auth;
mod cache;
mod coherence;
mod config;
mod database;
mod docs;
mod edge;
mod failover;
mod failures;
mod forward;
mod http;
mod instance;
mod nodes;
mod openapi;
mod ramp;
mod rooms;
mod scale;
mod session;
mod source;
mod support;
mod telemetry;
mod traces;
