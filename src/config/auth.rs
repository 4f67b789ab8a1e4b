//! How callers prove who they are, and what their session has seen.

use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::manifest::upstream::is_own_machine;
use super::units::{Secret, Span, list};

/// `[auth]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct AuthSettings {
    pub check_ttl: Span,
    pub stale_if_error: Span,
    pub checked_max: u64,
    pub last_use_interval: Span,
    pub jwks_url: String,
    pub jwks_file: String,
    pub jwks_ca_file: String,
    pub jwks_refresh: Span,
    pub jwks_timeout: Span,
    pub leeway: Span,
    pub issuer: String,
    #[serde(deserialize_with = "list")]
    pub audience: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub claims_settings: Vec<ClaimSetting>,
}

/// A setting of Postgres that says something of the caller, written `"app.account_id=sub"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct ClaimSetting {
    /// The setting.
    pub name: String,
    /// The claim that is its value.
    pub claim: String,
}

impl TryFrom<String> for ClaimSetting {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        // Postgres has no setting of its own with a dot; with these before it, extensions and procedural languages have.
        let is_own =
            |class: &str| !class.starts_with("pg_") && !matches!(class, "plpgsql" | "auto_explain" | "mainstay");
        let split = text
            .split_once('=')
            .and_then(|(name, claim)| Some((name.trim(), name.trim().split_once('.')?, claim.trim())));
        match split {
            Some((name, (class, word), claim))
                if is_word(class) && is_own(class) && is_word(word) && !claim.is_empty() =>
            {
                Ok(Self { name: name.to_owned(), claim: claim.to_owned() })
            }
            _ => Err(format!(
                "{text:?} is not like \"app.account_id=sub\": a setting of your own, in lower case and with one dot, and a claim"
            )),
        }
    }
}

/// The most that clocks may differ by. With more, `exp` would mean little.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

impl AuthSettings {
    /// Whether tokens can be checked.
    pub fn has_key_set(&self) -> bool {
        !self.jwks_file.is_empty() || !self.jwks_url.is_empty()
    }

    pub(super) fn check_tokens(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if !self.jwks_file.is_empty() && !self.jwks_url.is_empty() {
            return fail("auth.jwks_file and auth.jwks_url: the key set is in one of both; set one");
        }
        if !self.has_key_set() {
            return Ok(());
        }
        if self.issuer.is_empty() {
            return fail("auth.issuer: it is needed with a key set, as the iss of its tokens");
        }
        if self.audience.is_empty() || self.audience.iter().any(String::is_empty) {
            return fail("auth.audience: it is needed with a key set, or tokens for other APIs would be taken");
        }
        if self.leeway.0 > LEEWAY_MAX {
            return fail("auth.leeway: at most 5m; clocks that differ by more want to be set");
        }
        if self.jwks_refresh.0.is_zero() || self.jwks_timeout.0.is_zero() {
            return fail("auth.jwks_refresh and auth.jwks_timeout: must be longer than zero");
        }
        if self.jwks_url.is_empty() { Ok(()) } else { self.key_set_url().map(drop) }
    }

    /// `auth.jwks_url`. Whoever can change what comes from there can make tokens, so it comes over TLS, or from this machine.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn key_set_url(&self) -> Result<Url, ConfigError> {
        let fail = |why: &str| ConfigError::new(format!("auth.jwks_url: {why}"));
        let url = Url::parse(&self.jwks_url).map_err(|error| fail(&error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fail("it has no place for a password, which would stand in logs"));
        }
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_own_machine(&url) => Ok(url),
            _ => Err(fail("it begins with https://, or with http:// and an address of this machine")),
        }
    }
}

/// Who may send `X-Consistency: strong`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountReads {
    /// The primary.
    Strong,
    /// A replica that has seen what the session has.
    Session,
}

/// `[consistency]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct ConsistencySettings {
    pub strong_header: StrongHeader,
    pub account_reads: AccountReads,
    pub token_secret: Secret,
    pub token_ttl: Span,
    pub token_cookie: bool,
    pub session_wait: Span,
}

/// A shorter secret can be guessed by whoever has one token.
const TOKEN_SECRET_BYTES_MIN: usize = 16;
/// How far the clocks of the instances that share a secret may be apart.
pub const TOKEN_SKEW_MAX: Duration = Duration::from_secs(10);

impl ConsistencySettings {
    /// Whether a secret is short enough to be guessed.
    pub fn has_weak_secret(&self) -> bool {
        self.token_secret.list().iter().any(|secret| secret.expose().len() < TOKEN_SECRET_BYTES_MIN)
    }

    /// `freshness` is how old what a replica shows may be that is eligible.
    pub(super) fn check(&self, freshness: Duration, request_timeout: Duration) -> Result<(), ConfigError> {
        if self.token_secret.is_empty() {
            return Ok(());
        }
        if self.token_ttl.0 <= freshness + TOKEN_SKEW_MAX {
            return Err(ConfigError::new(
                "consistency.token_ttl: must be longer than replication.lag_max, two samples and the 10s that clocks may differ, or \
                 a token could end before what it stands for is everywhere",
            ));
        }
        if self.session_wait.0 >= request_timeout {
            return Err(ConfigError::new(
                "consistency.session_wait: must be shorter than limits.request_timeout, or no time is left for the primary",
            ));
        }
        Ok(())
    }
}

/// `[openapi]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct OpenApiSettings {
    pub enabled: bool,
    pub title: String,
    pub version: String,
}
