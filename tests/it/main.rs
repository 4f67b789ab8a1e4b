//! Tests of the application in process, against real servers; the modules mirror `src/`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod database;
mod docs;
mod ramp;
mod rooms;
mod support;
