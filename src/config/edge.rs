//! Which CDN is told of purges, how often, and for how much.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::{Secret, Span};

/// What is done with paths beyond the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OverBudget {
    /// They are not sent: the edge keeps what it has for as long as it may.
    Stop,
    /// They are sent, and it is said.
    Warn,
}

/// `[edge]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct EdgeSettings {
    pub cloudfront_distribution_id: String,
    pub tag_header: String,
    pub endpoint: String,
    pub signing_region: String,
    pub batch_interval: Span,
    pub loss_interval: Span,
    pub timeout: Span,
    pub attempts_max: u32,
    pub paths_per_month_max: u64,
    pub over_budget: OverBudget,
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub session_token: Secret,
    pub container_credentials_path: String,
    pub container_credentials_url: String,
}

impl EdgeSettings {
    /// Whether any CDN is told.
    pub fn is_set(&self) -> bool {
        !self.cloudfront_distribution_id.is_empty()
    }

    /// Whether answers name their tags.
    pub fn sends_tags(&self) -> bool {
        !self.tag_header.is_empty()
    }

    /// Whether purges can be told with these.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        // What it would take the place of means something to viewers.
        let is_free =
            |name: &str| name.to_ascii_lowercase().split('-').any(|word| matches!(word, "tag" | "tags" | "key"));
        if self.sends_tags() && !(is_plain(&self.tag_header) && is_free(&self.tag_header)) {
            return fail("edge.tag_header: a header for tags and nothing else, like \"cache-tag\"");
        }
        if !self.is_set() {
            return Ok(());
        }
        if !self.cloudfront_distribution_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return fail("edge.cloudfront_distribution_id: letters and digits, like \"E2QWRUHEXAMPLE\"");
        }
        let is_http = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        if !is_http(&self.endpoint) || self.endpoint.ends_with('/') {
            return fail("edge.endpoint: a URL without a path, like \"https://cloudfront.amazonaws.com\"");
        }
        if self.access_key_id.is_empty() != self.secret_access_key.is_empty() {
            return fail("edge.access_key_id and edge.secret_access_key: set both, or none");
        }
        let has_container = !self.container_credentials_path.is_empty() || !self.container_credentials_url.is_empty();
        if self.access_key_id.is_empty() && !has_container {
            return fail(
                "edge.cloudfront_distribution_id: to tell it takes credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                 or run as an ECS task with a role",
            );
        }
        if !self.container_credentials_url.is_empty() && !is_http(&self.container_credentials_url) {
            return fail("edge.container_credentials_url: a URL");
        }
        if !self.container_credentials_path.is_empty() && !self.container_credentials_path.starts_with('/') {
            return fail("edge.container_credentials_path: begins with /");
        }
        if self.attempts_max == 0 {
            return fail("edge.attempts_max: must be at least 1");
        }
        let spans = [("edge.batch_interval", self.batch_interval), ("edge.timeout", self.timeout)];
        match spans.into_iter().find(|(_, span)| span.0.is_zero()) {
            Some((key, _)) => Err(ConfigError::new(format!("{key}: must be longer than zero"))),
            None => Ok(()),
        }
    }
}
