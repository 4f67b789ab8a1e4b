//! The value types that settings and manifest share: times, and secrets that never print.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A time span written as `"250ms"`, `"5m"`, `"1d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Span).map_err(|error| {
            de::Error::custom(format!("{text:?} is not a time like \"250ms\", \"5m\" or \"1d\" ({error})"))
        })
    }
}

/// A value that may be a credential: its `Debug` form shows whether it is set, never what it is.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Callers never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing was configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members of a comma list, trimmed, empty ones left out.
    pub fn list(&self) -> Vec<Self> {
        self.0.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Self::new).collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(not set)" } else { "(hidden)" })
    }
}

/// Appends a part to bytes that will be hashed, with its length before it, so that no two lists of parts look alike.
pub fn fingerprint_part(out: &mut Vec<u8>, part: &str) {
    out.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
    out.extend_from_slice(part.as_bytes());
}
