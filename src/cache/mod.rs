//! The response cache of this process.
//!
//! [`Cache`] is what the request pipeline talks to: a [`memory::Memory`] of [`entry::Entry`]s under [`key::Key`]s, and the
//! [`fill::Fills`] that are under way. It knows nothing of HTTP or Postgres: entries are bytes with limits in time.

pub mod entry;
pub mod fill;
pub mod key;
pub mod memory;
pub mod policy;
pub mod variants;

/// The cache: what is kept, and what is being made.
pub struct Cache {
    /// L1.
    pub memory: memory::Memory,
    /// Sources that run now, one for a key.
    pub fills: fill::Fills,
}

impl Cache {
    /// A cache bounded by the bytes it keeps and the sources it runs at once.
    pub fn new(memory_bytes_max: u64, fills_max: usize) -> Self {
        Self { memory: memory::Memory::new(memory_bytes_max), fills: fill::Fills::new(fills_max) }
    }
}
