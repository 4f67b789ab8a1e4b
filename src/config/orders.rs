//! For how long customers may rely on what they were quoted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::Span;

/// Nobody pays in less.
const QUOTE_TTL_MIN: Duration = Duration::from_secs(10);
/// For so long a rate may move against whoever has quoted it.
const QUOTE_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// For so long what an order holds may stay held after its time.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// `[orders]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct OrderSettings {
    pub quote_ttl: Span,
    pub sweep_interval: Span,
}

impl OrderSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if !(QUOTE_TTL_MIN..=QUOTE_TTL_MAX).contains(&self.quote_ttl.0) {
            return fail(
                "orders.quote_ttl: from 10s, which is less than anybody pays in, to 1d, for as long a rate may move",
            );
        }
        if self.sweep_interval.0.is_zero() || self.sweep_interval.0 > SWEEP_INTERVAL_MAX {
            return fail(
                "orders.sweep_interval: longer than zero and at most 1h, for as long what an order holds may stay held",
            );
        }
        Ok(())
    }
}
