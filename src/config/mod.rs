//! Configuration: `settings` (how the server runs) and `manifest` (what it serves).
//!
//! Both are read in two steps: what the files say, with unknown keys refused, then the validated form that the rest of the
//! program uses. A [`ConfigError`] names the key, and the command line turns it into exit code 64.

pub mod auth;
pub mod edge;
pub mod failover;
pub mod forward;
pub mod idempotency;
pub mod logs;
pub mod manifest;
pub mod orders;
pub mod overload;
pub mod param;
pub mod settings;
pub mod statistics;
pub mod traces;
pub mod units;
pub mod webhooks;

/// A configuration that cannot be run with: one sentence that names the file or key, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    /// A configuration error with its sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}
