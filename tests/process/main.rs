//! Tests of real processes: the launcher of throwaway servers, and the `mainstay` binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs
)]

mod check;
mod choose_node;
mod commands;
mod completions;
mod configuration;
mod data;
mod degradation;
mod deploy;
mod dev;
mod edge;
mod failover;
mod failures;
mod flows;
mod foreign;
mod health;
mod keys;
mod load;
mod local;
mod log_broker;
mod logs;
mod money;
mod openapi;
mod operators;
mod own_handlers;
mod probe;
mod readme;
mod serve;
mod shadow;
mod simulate;
mod snapshot;
mod statistics;
mod status;
mod stored;
mod support;
mod tokens;
mod traces;
mod webhooks;
