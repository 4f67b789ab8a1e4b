//! What holds too much work off: the limits of running sources, and the rates of clients.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::ConfigError;
use super::units::Span;

/// `[overload]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct OverloadSettings {
    pub concurrency_min: usize,
    pub concurrency_max: usize,
    pub slowdown_max: f64,
    pub slack: Span,
    pub queue_max: usize,
    pub queue_timeout: Span,
    pub stale_timeout: Span,
    pub waiters_max: usize,
    pub bodies_bytes_max: usize,
}

/// `[rate_limit]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct RateLimitSettings {
    #[serde(deserialize_with = "rate_or_none")]
    pub per_client: Option<Rate>,
    #[serde(deserialize_with = "rate_or_none")]
    pub per_key: Option<Rate>,
    pub clients_max: usize,
    pub client_header: String,
}

/// So many requests in a span of time, written `"100/s"`, `"6000/m"` or `"1000/h"`: as many at once, and as many again
/// within the span, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long: a second, a minute or an hour.
    pub window: Duration,
}

/// The rates of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRates {
    /// Of each client by itself.
    pub per_client: Option<Rate>,
    /// Of each API key by itself.
    pub per_key: Option<Rate>,
    /// Of all clients together.
    pub total: Option<Rate>,
}

impl OverloadSettings {
    /// Combinations that single keys cannot rule out.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = if self.concurrency_min == 0 {
            "overload.concurrency_min: must be at least 1"
        } else if self.concurrency_max < self.concurrency_min {
            "overload.concurrency_max: must not be less than overload.concurrency_min"
        } else if !(1.0..=100.0).contains(&self.slowdown_max) {
            "overload.slowdown_max: a number from 1 to 100"
        } else if self.waiters_max == 0 {
            "overload.waiters_max: must be at least 1"
        } else {
            return Ok(());
        };
        Err(ConfigError::new(wrong))
    }
}

impl RateLimitSettings {
    /// Values that the types do not rule out.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if self.clients_max == 0 {
            return Err(ConfigError::new("rate_limit.clients_max: must be at least 1"));
        }
        if self.client_header.is_empty() || !self.client_header.chars().all(is_name) {
            return Err(ConfigError::new("rate_limit.client_header: the name of a header"));
        }
        Ok(())
    }
}

impl Rate {
    /// Reads `100/s`.
    fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        let count = count.trim().parse().ok()?;
        Some(Self { count, window: Duration::from_secs(seconds) })
    }

    /// How long it takes until one more may come.
    pub fn interval(&self) -> Duration {
        (self.window / self.count.get()).max(Duration::from_nanos(1))
    }
}

impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Self, NotARate> {
        Self::parse(text).ok_or(NotARate)
    }
}

/// Text that is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a rate like \"100/s\", \"6000/m\" or \"1000/h\"")]
pub struct NotARate;

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.window.as_secs() {
            60 => "m",
            3600 => "h",
            _ => "s",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{text:?} is {error}")))
    }
}

/// A rate, or `""` for none.
fn rate_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rate>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    Rate::deserialize(de::value::StringDeserializer::new(text)).map(Some)
}

impl<'de> Deserialize<'de> for RouteRates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Each {
            per_client: Option<Rate>,
            per_key: Option<Rate>,
            total: Option<Rate>,
        }

        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a rate like \"10/s\", or { per_client = \"10/s\", per_key = \"100/s\", total = \"1000/s\" }"
        )]
        enum Written {
            PerClient(Rate),
            Each(Each),
        }

        Ok(match Written::deserialize(deserializer)? {
            Written::PerClient(rate) => Self { per_client: Some(rate), ..Self::default() },
            Written::Each(Each { per_client, per_key, total }) => Self { per_client, per_key, total },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_count_and_a_unit() {
        let rate = Rate::parse("100/s").unwrap();
        assert_eq!(
            (rate.count.get(), rate.window, rate.interval()),
            (100, Duration::from_secs(1), Duration::from_millis(10))
        );
        assert_eq!(Rate::parse(" 6000 / m").unwrap().interval(), Duration::from_millis(10));
        assert_eq!(Rate::parse("4294967295/s").unwrap().interval(), Duration::from_nanos(1), "never no time at all");
        for text in ["100/s", "6000/m", "1000/h"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "100", "0/s", "-1/s", "1.5/s", "100/d", "100/", "/s", "4294967296/s", "a/s"] {
            assert_eq!(Rate::parse(wrong), None, "{wrong:?}");
        }
    }
}
