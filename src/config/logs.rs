//! What is written down of what happens, and in which form.

use serde::{Deserialize, Serialize};

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Pretty,
    /// Pretty on a terminal, else JSON.
    Auto,
}

/// Which requests get an access log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// Every request.
    All,
    /// Those answered with a 5xx.
    Errors,
    /// None.
    Off,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct LogSettings {
    pub format: LogFormat,
    pub level: String,
    pub access: AccessLog,
}
