//! How callers prove who they are, what their session has seen, and where what needs the primary is sent.

use serde::Deserialize;

use super::units::{Secret, Span, list};

/// `[auth]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct AuthSettings {
    pub check_ttl: Span,
    pub stale_if_error: Span,
    pub checked_max: u64,
    pub last_use_interval: Span,
    pub jwks_url: String,
    pub jwks_file: String,
    pub issuer: String,
    #[serde(deserialize_with = "list")]
    pub audience: Vec<String>,
}

/// Who may send `X-Consistency: strong`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StrongHeader {
    /// Every caller.
    Anyone,
    /// Callers on routes with authentication.
    Authenticated,
    /// Nobody: the header is ignored.
    Off,
}

/// The consistency of reads of `/account/*` and `/api/v1/transaction*` that say nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountReads {
    /// The primary.
    Strong,
    /// A replica that has seen what the session has.
    Session,
}

/// `[consistency]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ConsistencySettings {
    pub strong_header: StrongHeader,
    pub account_reads: AccountReads,
    pub token_secret: Secret,
    pub token_ttl: Span,
    pub session_wait: Span,
}

/// `[forward]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ForwardSettings {
    pub primary_origin: String,
}

/// `[openapi]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct OpenApiSettings {
    pub enabled: bool,
    pub title: String,
    pub version: String,
}
