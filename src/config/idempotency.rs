//! For how long a request that moves money may be repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::Span;

/// What clients rely on.
const RETENTION_MIN: Duration = Duration::from_secs(24 * 60 * 60);

/// `[idempotency]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct IdempotencySettings {
    pub retention: Span,
}

impl IdempotencySettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.retention.0 {
            retention if retention < RETENTION_MIN => {
                Err(ConfigError::new("idempotency.retention: at least 24h, for as long clients may repeat a request"))
            }
            _ => Ok(()),
        }
    }
}
