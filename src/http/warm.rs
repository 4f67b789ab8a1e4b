//! Asking for what no client asks for yet: the way of a request, without one.

use std::sync::Arc;

use super::fill::Fill;
use super::pipeline::Pipeline;
use super::resolve::Resolved;
use crate::error::{Code, Error};

/// How a target came to be in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmed {
    /// The status that the next request for it gets.
    pub status: u16,
    /// Whether it was there and fresh already.
    pub was_fresh: bool,
    /// Whether it is kept.
    pub stored: bool,
}

impl Pipeline {
    /// Sees to it that the cache has a fresh answer: what is fresh is left alone, for the rest a fill is joined or led.
    ///
    /// # Errors
    /// Those of the source.
    pub async fn warm(self: &Arc<Self>, target: Resolved) -> Result<Warmed, Error> {
        let Resolved { endpoint, params, key, canonical } = target;
        let kept = self.cache.memory.peek(key, &canonical, &endpoint.route.fingerprint);
        if let Some(entry) = kept.filter(|entry| self.is_fresh(entry)) {
            return Ok(Warmed { status: entry.status, was_fresh: true, stored: true });
        }
        let Some((wait, _)) = self.join(Fill::new(&endpoint, params, key, &canonical)) else {
            return Err(Error::new(Code::Overloaded, "as many sources as may are running"));
        };
        let late = |_| Err(Error::new(Code::SourceTimeout, "the source did not answer in time"));
        let outcome = actix_rt::time::timeout(self.settings.limits.request_timeout.0, wait.outcome()).await;
        let filled = outcome.unwrap_or_else(late)?;
        Ok(Warmed { status: filled.entry.status, was_fresh: false, stored: filled.stored })
    }
}
