//! What a failover origin issues, and where it has it from.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::{Secret, Span, list};
use crate::mode::FailoverSource;

/// `failover.max_age` must be longer, in seconds: what a failover origin issues has to outlast the freshness of what it stands in
/// for, or the CDN would be back for it at once.
const FAILOVER_MAX_AGE_SECS_MIN: u64 = 300;

/// `[failover]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct FailoverSettings {
    pub source: FailoverSource,
    pub max_age: Span,
    #[serde(deserialize_with = "list")]
    pub peers: Vec<String>,
    pub peer_token: Secret,
    pub peer_ca_file: String,
    pub peer_timeout: Span,
    pub pull_interval: Span,
    pub pull_bytes_max: u64,
}

impl FailoverSettings {
    /// Whether a failover origin can be run with these.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if self.max_age.0.as_secs() <= FAILOVER_MAX_AGE_SECS_MIN {
            return fail(
                "failover.max_age: must be longer than 300s, which is for how long regional origins let caches keep answers",
            );
        }
        if !self.peers.is_empty() && self.peer_token.list().is_empty() {
            return fail(
                "failover.peer_token: peers hand out nothing without one of their ADMIN_TOKEN; set FAILOVER_PEER_TOKEN",
            );
        }
        if self.pull_bytes_max == 0 {
            return fail("failover.pull_bytes_max: must be at least 1");
        }
        let spans = [("failover.peer_timeout", self.peer_timeout), ("failover.pull_interval", self.pull_interval)];
        match spans.into_iter().find(|(_, span)| span.0.is_zero()) {
            Some((key, _)) => Err(ConfigError::new(format!("{key}: must be longer than zero"))),
            None => Ok(()),
        }
    }
}
