//! What the source would have made of a request, as far as a log tells.

use super::Change;
use super::line::Logged;
use super::world::{Made, Source};
use crate::cache::entry::weight_bytes;
use crate::cache::key::Key;
use crate::cache::policy::Limits;
use crate::cache::variants::ETAG_BYTES;
use crate::config::manifest::{CachePolicy, OnChange};
use crate::config::settings::CacheSettings;
use crate::http::surface::Endpoint;
use crate::http::target::Arguments;

/// A request for a cached answer, with all that decides what is kept of the answer.
pub(super) struct Request<'a, 'v> {
    pub endpoint: &'a Endpoint,
    pub policy: &'a CachePolicy,
    pub arguments: &'a Arguments<'v>,
    pub canonical: &'a [u8],
    pub key: Key,
    pub logged: &'a Logged,
    pub body_bytes: usize,
}

impl Request<'_, '_> {
    /// What is kept of the answer.
    pub(super) fn made(&self, settings: &CacheSettings, changes: &[Change]) -> Made {
        let is_absence = is_absence(self.logged.status);
        let path = self.canonical.split(|byte| *byte == b'?').next().unwrap_or_default();
        let params = self.arguments.clone().into_params(&self.endpoint.route);
        let tags = self.endpoint.tags.of(self.key, &String::from_utf8_lossy(path), &params);
        let purged_by =
            |change: &Change| tags.iter().any(|tag| [&change.name, &change.any].iter().any(|name| tag.name() == *name));
        let bits = changes.iter().zip(0_u32..).filter(|(change, _)| purged_by(change));
        let body_bytes = match self.body_bytes {
            _ if is_absence => ETAG_BYTES,
            short if short < settings.compress_bytes_min => short.saturating_add(ETAG_BYTES),
            // Kept packed in two ways as well, which is about a half of it.
            long => long.saturating_add(long / 2).saturating_add(3 * ETAG_BYTES),
        };
        Made {
            limits: self.limits(is_absence, settings),
            bytes: u64::try_from(weight_bytes(self.canonical, &tags, body_bytes)).unwrap_or(u64::MAX),
            outlives_change: self.policy.on_change == OnChange::Stale && !is_absence,
            changes: bits.fold(0, |bits, (_, bit)| bits | 1_u32.wrapping_shl(bit)),
        }
    }

    fn limits(&self, is_absence: bool, settings: &CacheSettings) -> Limits {
        if is_absence {
            let none = std::time::Duration::ZERO;
            return Limits { fresh: settings.not_found_ttl.0, stale_while_revalidate: none, stale_if_error: none };
        }
        Limits {
            fresh: self.policy.ttl,
            stale_while_revalidate: self.policy.stale_while_revalidate,
            stale_if_error: self.policy.stale_if_error,
        }
    }
}

/// A 404 is kept, for a short time.
fn is_absence(status: Option<u16>) -> bool {
    matches!(status, Some(404 | 410))
}

/// What the source would have said, by what was answered then. A log that does not say is taken to be one of successes; so is a
/// client that went away (499), for whom the fill would have gone on.
pub(super) fn source(status: Option<u16>) -> Source {
    match status {
        Some(status) if status >= 500 => Source::Fails,
        Some(404 | 410 | 499) | None => Source::Answers,
        Some(status) if status >= 400 => Source::Refuses,
        Some(_) => Source::Answers,
    }
}
