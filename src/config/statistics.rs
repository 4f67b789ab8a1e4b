//! How often what is counted is rolled up by day.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::Span;

/// More often would purge what shows them all the time.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// What an instance loses when it is killed.
const INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// `[statistics]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct StatisticsSettings {
    pub interval: Span,
}

impl StatisticsSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self.interval.0 {
            interval if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) => Err(ConfigError::new(
                "statistics.interval: from 1s to 1h, which is what an instance loses when it is killed",
            )),
            _ => Ok(()),
        }
    }
}
