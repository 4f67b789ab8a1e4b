//! The mode of an instance, turned into capabilities once at start: code asks for a capability, never for the mode.

use serde::{Deserialize, Serialize};

/// How this instance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The normal origin of a region.
    Regional,
    /// The CDN's secondary origin.
    Failover,
}

/// What a failover origin answers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverSource {
    /// What regional origins have stored, and nothing else.
    CacheOnly,
    /// Where they have stored nothing, replicas or another database that is kept in step.
    ReadOnly,
}

/// What an instance does. Everything that differs between modes stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Runs the sources of cached routes.
    pub fills: bool,
    /// Runs sources for one request alone: writes, strong reads, and routes that are not cached.
    pub answers_alone: bool,
    /// Follows the log of changes, tells others of them, and keeps what others may rely on: entries, leases and messages in
    /// Redis, cursors in the database, the snapshot file.
    pub tells: bool,
    /// Serves what it has, fresh or stale, as if it had been made now.
    pub issues_anew: bool,
}

impl Mode {
    /// As the setting writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regional => "regional",
            Self::Failover => "failover",
        }
    }

    /// What an instance of this mode does; the source counts in failover mode alone.
    pub const fn capabilities(self, source: FailoverSource) -> Capabilities {
        match self {
            Self::Regional => Capabilities { fills: true, answers_alone: true, tells: true, issues_anew: false },
            Self::Failover => Capabilities {
                fills: matches!(source, FailoverSource::ReadOnly),
                answers_alone: false,
                tells: false,
                issues_anew: true,
            },
        }
    }
}

impl FailoverSource {
    /// As the setting writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CacheOnly => "cache-only",
            Self::ReadOnly => "read-only",
        }
    }
}
