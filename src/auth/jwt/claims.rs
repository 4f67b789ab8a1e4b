//! What a token must say, once it is known who signed it (RFC 7519, section 4.1).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{invalid, json};
use crate::config::auth::AuthSettings;
use crate::error::{Code, Error};
use crate::identity::Identity;

/// The last second of the year 9999. What lies beyond is not a time: most often it is one in milliseconds, which would count as
/// thousands of years.
const SECONDS_MAX: f64 = 253_402_300_799.0;
/// How long a `sub` may be (OpenID Connect says 255 characters).
const SUBJECT_BYTES_MAX: usize = 255;

/// What is asked of every token.
#[derive(Clone, Debug)]
pub struct Rules {
    issuer: String,
    audience: Vec<String>,
    leeway: Duration,
}

impl Rules {
    /// The rules that are set.
    pub fn new(settings: &AuthSettings) -> Self {
        let AuthSettings { issuer, audience, leeway, .. } = settings;
        Self { issuer: issuer.clone(), audience: audience.clone(), leeway: leeway.0 }
    }

    /// Whose token it is, and for how long it counts from `now`, the time since 1970: until `exp`, and `auth.leeway` longer.
    ///
    /// # Errors
    /// `credentials_expired` where nothing else is wrong; `credentials_invalid`.
    pub fn check(&self, payload: &[u8], now: Duration) -> Result<(Identity, Duration), Error> {
        let claims = json::object(payload).map_err(|_| invalid("the token's claims are not a JSON object"))?;
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(invalid("the token's iss is not this API's issuer"));
        }
        if !claims.get("aud").is_some_and(|aud| self.is_meant(aud)) {
            return Err(invalid("the token's aud is not for this API"));
        }
        let sub = claims.get("sub").and_then(Value::as_str).filter(|sub| is_subject(sub));
        let sub =
            sub.ok_or_else(|| invalid("the token's sub is missing, or not a text of 1 to 255 plain characters"))?;
        let subject: Arc<str> = format!("jwt:{}|{sub}", self.issuer).into();
        let scopes = scopes(&claims)?;
        let left = self.time_left(&claims, now)?;
        Ok((Identity { subject, key: None, scopes, claims }, left))
    }

    /// Whether one of the audiences is this API: `aud` is a text, or an array of texts.
    fn is_meant(&self, aud: &Value) -> bool {
        let is_ours = |aud: &str| self.audience.iter().any(|ours| ours == aud);
        match aud {
            Value::String(aud) => is_ours(aud),
            Value::Array(all) => all.iter().all(Value::is_string) && all.iter().filter_map(Value::as_str).any(is_ours),
            _ => false,
        }
    }

    fn time_left(&self, claims: &Map<String, Value>, now: Duration) -> Result<Duration, Error> {
        let (exp, nbf, iat) = (time(claims, "exp")?, time(claims, "nbf")?, time(claims, "iat")?);
        let exp = exp.ok_or_else(|| invalid("the token has no exp"))?;
        if nbf.is_some_and(|nbf| nbf > now.saturating_add(self.leeway)) {
            return Err(invalid("the token does not count yet (nbf)"));
        }
        if iat.is_some_and(|iat| iat > now.saturating_add(self.leeway)) {
            return Err(invalid("the token was issued in the future (iat)"));
        }
        let left = exp.saturating_add(self.leeway).saturating_sub(now);
        if left.is_zero() {
            return Err(Error::new(Code::CredentialsExpired, "the token has expired"));
        }
        Ok(left)
    }
}

/// A subject goes into logs and into settings of database sessions, where control characters have no place.
fn is_subject(text: &str) -> bool {
    !text.is_empty() && text.len() <= SUBJECT_BYTES_MAX && !text.chars().any(char::is_control)
}

/// A time: seconds since 1970, which may have a fraction.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Duration>, Error> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.map(Some).ok_or_else(|| invalid(format!("the token's {name} is not a time in seconds since 1970")))
}

/// What the caller may do: `scope` and `scp` together, each a text with spaces (RFC 8693) or an array of texts.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<Box<str>>, Error> {
    let mut scopes: Vec<Box<str>> = Vec::new();
    for name in ["scope", "scp"] {
        let Some(claim) = claims.get(name) else { continue };
        let texts = match claim {
            Value::String(text) => Some(vec![text.as_str()]),
            Value::Array(items) => items.iter().map(Value::as_str).collect(),
            _ => None,
        };
        let wrong = || invalid(format!("the token's {name} is neither a text nor an array of texts"));
        for scope in texts.ok_or_else(wrong)?.into_iter().flat_map(|text| text.split(' ')) {
            if !scope.is_empty() && !scopes.iter().any(|known| **known == *scope) {
                scopes.push(scope.into());
            }
        }
    }
    Ok(scopes)
}
