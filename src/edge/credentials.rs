//! Whom CloudFront takes this instance for: keys of the environment, or the role of an ECS task.
//!
//! Not read are profiles, instance metadata (IMDS), web identities, SSO, and the authorization tokens of EKS.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use reqwest::Client;
use serde::Deserialize;

use super::cloudfront::{Refused, read};
use crate::config::edge::EdgeSettings;

/// Where ECS answers for a task's role; the path is the task's own.
const ECS: &str = "http://169.254.170.2";
/// Keys that are good for less than this are asked for anew: ECS renews them well before.
const LIFE_MIN: Duration = Duration::from_secs(5 * 60);
/// Bytes of the answer.
const BYTES_MAX: usize = 64 * 1024;

/// Where keys come from.
pub(super) enum Source {
    /// Keys that do not change while the process lives.
    Fixed(Credentials),
    /// A URL that hands out temporary ones.
    Container {
        /// The URL.
        url: String,
        /// The last ones.
        kept: Mutex<Option<Credentials>>,
    },
}

/// What the container's endpoint answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Handed {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<DateTime<Utc>>,
}

impl Source {
    /// Keys come first, as in AWS's own tools.
    pub(super) fn new(settings: &EdgeSettings) -> Self {
        let EdgeSettings { access_key_id, secret_access_key, session_token, .. } = settings;
        if !access_key_id.is_empty() {
            let token = Some(session_token.expose().to_owned()).filter(|token| !token.is_empty());
            return Self::Fixed(Credentials::new(access_key_id, secret_access_key.expose(), token, None, "settings"));
        }
        let url = match settings.container_credentials_path.as_str() {
            "" => settings.container_credentials_url.clone(),
            path => format!("{ECS}{path}"),
        };
        Self::Container { url, kept: Mutex::new(None) }
    }

    /// Keys that are good for now.
    pub(super) async fn current(&self, client: &Client) -> Result<Credentials, Refused> {
        let (url, kept) = match self {
            Self::Fixed(credentials) => return Ok(credentials.clone()),
            Self::Container { url, kept } => (url, kept),
        };
        let is_good =
            |credentials: &Credentials| credentials.expiry().is_none_or(|until| until > SystemTime::now() + LIFE_MIN);
        if let Some(credentials) = kept.lock().clone().filter(is_good) {
            return Ok(credentials);
        }
        let (status, body) = read(client.get(url.as_str()), BYTES_MAX).await?;
        let handed = serde_json::from_slice::<Handed>(&body).ok().filter(|_| status == 200);
        // What is in the answer may be a secret, so that nothing of it is said.
        let handed =
            handed.ok_or_else(|| Refused::passing(format!("no credentials from the container: HTTP {status}")))?;
        let Handed { access_key_id, secret_access_key, token, expiration } = handed;
        let fresh =
            Credentials::new(access_key_id, secret_access_key, token, expiration.map(SystemTime::from), "container");
        *kept.lock() = Some(fresh.clone());
        Ok(fresh)
    }
}
