//! What is asked of providers' deliveries, and for how long they are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::{Secret, Span};

/// Whoever has seen one delivery can try secrets shorter than this until one fits.
const SECRET_BYTES_MIN: usize = 16;
/// What a provider signs and sends at once; a minute more is for clocks and for tries that take long.
const TOLERANCE_MIN: Duration = Duration::from_secs(1);
/// For so long a delivery that somebody has seen could be sent once more.
const TOLERANCE_MAX: Duration = Duration::from_secs(60 * 60);
/// For how long providers deliver again what was not answered.
const RETENTION_MIN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// `[webhooks]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct WebhookSettings {
    pub sandbox_secret: Secret,
    pub tolerance: Span,
    pub sweep_interval: Span,
    pub retention: Span,
}

impl WebhookSettings {
    /// Whether a secret is short enough to be guessed.
    pub fn has_weak_secret(&self) -> bool {
        self.sandbox_secret.list().iter().any(|secret| secret.expose().len() < SECRET_BYTES_MIN)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if !(TOLERANCE_MIN..=TOLERANCE_MAX).contains(&self.tolerance.0) {
            return fail(
                "webhooks.tolerance: from 1s to 1h, for as long a delivery that was overheard can be sent again",
            );
        }
        if self.sweep_interval.0.is_zero() {
            return fail("webhooks.sweep_interval: must be longer than zero");
        }
        if self.retention.0 < RETENTION_MIN {
            return fail(
                "webhooks.retention: at least 7d, for providers deliver again, and what was forgotten would be new",
            );
        }
        Ok(())
    }
}
