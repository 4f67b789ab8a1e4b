//! The mode of an instance, turned into capabilities once at start: code asks for a capability, never for the mode.

use serde::Deserialize;

/// How this instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The normal origin of a region.
    Regional,
    /// The CDN's secondary origin.
    Failover,
}

impl Mode {
    /// As the setting writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regional => "regional",
            Self::Failover => "failover",
        }
    }
}
