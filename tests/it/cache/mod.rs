//! The response cache, through the server that uses it.

mod coalescing;
mod fence;
mod key;
mod memory;
mod model;
mod negative;
mod reload;
mod shared;
mod stale;
