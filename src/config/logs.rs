//! What is written down of what happens, and in which form.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::settings::DatabaseUrl;
use super::units::Span;

/// A smaller buffer would lose lines whenever many threads speak at once.
const BUFFER_BYTES_MIN: usize = 64 * 1024;

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
    /// Every request, or a sample of them.
    All,
    /// Those answered with a 5xx, and slow ones.
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
    pub buffer_bytes: usize,
    pub access: AccessLog,
    pub access_sample: f64,
    pub access_slow: Span,
    pub access_per_second_max: u32,
    pub access_client: bool,
    pub amqp: AmqpSettings,
}

/// `[log.amqp]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct AmqpSettings {
    pub url: DatabaseUrl,
    pub exchange: String,
    pub routing_key: String,
    pub tls_ca_file: String,
    pub connect_timeout: Span,
    pub confirm_timeout: Span,
    pub buffer_bytes: usize,
}

impl LogSettings {
    /// What no single key rules out.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if !(0.0..=1.0).contains(&self.access_sample) {
            return fail("log.access_sample: a part of all requests, from 0 to 1");
        }
        if self.buffer_bytes < BUFFER_BYTES_MIN {
            return fail("log.buffer_bytes: must be at least 65536");
        }
        self.amqp.check()
    }
}

impl AmqpSettings {
    fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        let (url, schemes) = (self.url.current(), ["amqp://", "amqps://"]);
        if !url.is_empty() && !schemes.iter().any(|scheme| url.expose().starts_with(scheme)) {
            return fail("log.amqp.url: is no URL like amqps://user:password@host/vhost");
        }
        if !url.is_empty() && self.exchange.is_empty() && self.routing_key.is_empty() {
            return fail("log.amqp.routing_key: without an exchange it names the queue, and must not be empty");
        }
        if self.buffer_bytes < BUFFER_BYTES_MIN {
            return fail("log.amqp.buffer_bytes: must be at least 65536");
        }
        if self.connect_timeout.0.is_zero() || self.confirm_timeout.0.is_zero() {
            return fail("log.amqp.connect_timeout and log.amqp.confirm_timeout: must be longer than zero");
        }
        Ok(())
    }
}
