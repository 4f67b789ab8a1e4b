//! The reference application.

use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::units::Span;

/// What clients rely on.
const IDEMPOTENCY_RETENTION_MIN: Duration = Duration::from_secs(24 * 60 * 60);

/// `[ramp]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct RampSettings {
    pub idempotency_retention: Span,
}

impl RampSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.idempotency_retention.0 {
            retention if retention < IDEMPOTENCY_RETENTION_MIN => Err(ConfigError::new(
                "ramp.idempotency_retention: at least 24h, for as long clients may repeat a request",
            )),
            _ => Ok(()),
        }
    }
}
