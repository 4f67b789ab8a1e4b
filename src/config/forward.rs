//! Where requests are sent that need the primary, by an origin that is far from it.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::manifest::upstream::{IDLE_TIMEOUT, PRIMARY_ORIGIN, Upstream, base_url, is_own_machine};
use super::settings::LimitSettings;
use super::units::Span;

/// How much longer than its own deadline the other origin is waited for: it has the same, began later, and its word on how a
/// request ended is worth more than that it was not waited for.
const GRACE: Duration = Duration::from_secs(1);

/// `[forward]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ForwardSettings {
    pub primary_origin: String,
    pub connect_timeout: Span,
    pub keep_alive: Span,
    pub tls_ca_file: String,
}

impl ForwardSettings {
    /// The origin in the primary's region, as one more upstream; none where strong requests are answered here.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn upstream(&self, limits: &LimitSettings) -> Result<Option<Upstream>, ConfigError> {
        if self.primary_origin.is_empty() {
            return Ok(None);
        }
        let wrong = |reason: String| ConfigError::new(format!("forward.primary_origin: {reason}"));
        if self.primary_origin.contains(',') {
            return Err(wrong("one URL; a name may stand for several addresses".to_owned()));
        }
        Ok(Some(Upstream {
            name: PRIMARY_ORIGIN.to_owned(),
            endpoints: vec![base_url(&self.primary_origin).map_err(wrong)?],
            connect_timeout: self.connect_timeout.0,
            try_timeout: limits.request_timeout.0 + GRACE,
            idle_timeout: IDLE_TIMEOUT,
            retries: 1,
            retry_budget: 0.2,
            keep_alive: self.keep_alive.0,
            forward_host: false,
            response_bytes_max: None,
            tls_ca_file: (!self.tls_ca_file.is_empty()).then(|| PathBuf::from(&self.tls_ca_file)),
            line: 0,
        }))
    }

    /// What is not wrong, and yet better otherwise, in a sentence that names the setting.
    pub fn warning(&self) -> Option<&'static str> {
        let is_readable = |url: Url| url.scheme() == "http" && !is_own_machine(&url);
        base_url(&self.primary_origin).is_ok_and(is_readable).then_some(
            "forward.primary_origin: http:// sends what callers prove themselves with, and ORIGIN_SECRET, to another machine where \
             anybody on the way can read it; https:// does not",
        )
    }

    pub(super) fn check(&self, limits: &LimitSettings) -> Result<(), ConfigError> {
        if self.connect_timeout.0.is_zero() {
            return Err(ConfigError::new("forward.connect_timeout: must be longer than zero"));
        }
        self.upstream(limits).map(drop)
    }
}
