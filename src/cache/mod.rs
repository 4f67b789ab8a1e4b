//! The response cache of this process.
//!
//! [`Cache`] is what the request pipeline talks to: a [`memory::Memory`] of [`entry::Entry`]s under [`key::Key`]s, and the
//! [`fill::Fills`] that are under way. It knows nothing of HTTP or Postgres: entries are bytes with limits in time.

pub mod bus;
pub mod entry;
pub mod fence;
pub mod fill;
pub mod flight;
pub mod key;
pub mod memory;
pub mod page;
pub mod policy;
pub mod shared;
pub mod shown;
pub mod snapshot;
pub mod tag;
#[cfg(test)]
mod testing;
pub mod variants;
pub mod walk;

use std::sync::Arc;
use std::time::Duration;

use crate::config::settings::{CacheSettings, PastHardPurgeSilence};
use crate::mode::Capabilities;

/// The cache: what is kept, what is being made, and what is known of changes.
pub struct Cache {
    /// What this instance has been told.
    pub fences: Arc<fence::Fences>,
    /// L1.
    pub memory: memory::Memory,
    /// L2, where there is one.
    pub shared: Option<Arc<shared::Shared>>,
    /// Sources that run now, one for a key.
    pub fills: fill::Fills,
}

impl Cache {
    /// A cache as it is set.
    pub fn new(
        settings: &CacheSettings,
        capabilities: Capabilities,
        fills_max: usize,
        shared: Option<Arc<shared::Shared>>,
    ) -> Self {
        let at_least = if capabilities.issues_anew { settings.retention.0 } else { Duration::ZERO };
        let refuses = settings.past_hard_purge_max_silence == PastHardPurgeSilence::Refuse;
        let limits = fence::SilenceLimits {
            max: settings.max_silence.0,
            hard_max: refuses.then_some(settings.hard_purge_max_silence.0),
        };
        Self {
            fences: Arc::new(fence::Fences::new(settings.tags_max, limits)),
            memory: memory::Memory::keeping(settings.memory_bytes_max, at_least),
            shared,
            fills: fill::Fills::new(fills_max),
        }
    }
}
