//! What a CDN is told of purges, so that it forgets what the inner tiers have forgotten before it.
//!
//! Best effort: no promise of `docs/coherence.md` rests on it, and whatever is not told lives at the edge for its `edge_ttl`.
//! `docs/decisions/edge-purges.md` has the reasons.

pub mod cloudfront;
mod credentials;
pub mod paths;
pub mod pending;
pub mod tags;

use parking_lot::Mutex;

use crate::config::ConfigError;
use crate::config::edge::EdgeSettings;
use cloudfront::CloudFront;
use pending::Pending;

/// What has yet to be told, and whom.
pub struct Outlet {
    /// The tags that were purged. Every instance of a fleet collects them, and one of them tells.
    pub pending: Mutex<Pending>,
    /// Who is told.
    pub cloudfront: CloudFront,
}

impl Outlet {
    /// The outlet that is configured, if one is.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(settings: &EdgeSettings) -> Result<Option<Self>, ConfigError> {
        if !settings.is_set() {
            return Ok(None);
        }
        Ok(Some(Self { pending: Mutex::default(), cloudfront: CloudFront::new(settings)? }))
    }
}
