//! The `cors` middleware: which other origins may read answers (Fetch standard, "CORS protocol").
//!
//! It is applied after the cache lookup, so that an answer is stored without any origin in it.

use actix_http::header::{self, HeaderMap, HeaderValue};

use super::headers;
use crate::config::settings::CorsSettings;

/// The name in the manifest.
pub const NAME: &str = crate::config::manifest::CORS;

/// Headers that scripts may read beside the safelisted ones.
const EXPOSED: &str = "age, cache-status, etag, ratelimit, ratelimit-policy, retry-after, server-timing, www-authenticate, x-consistency-token, x-region, x-request-id, x-route-primary";
/// Headers that scripts may send.
const ALLOWED: &str = "authorization, content-type, if-none-match, x-consistency, x-consistency-token, x-request-id";

/// The origins that are answered.
pub struct Cors {
    origins: Vec<String>,
    any: bool,
    max_age: HeaderValue,
}

impl Cors {
    /// From the settings.
    pub fn new(settings: &CorsSettings) -> Self {
        Self {
            any: settings.origins.iter().any(|origin| origin == "*"),
            origins: settings.origins.clone(),
            max_age: headers::value(settings.max_age.0.as_secs().to_string()),
        }
    }

    /// What `Access-Control-Allow-Origin` says. Where any origin may read, it says so to requests without one, too: the
    /// answer does not vary, and a cache on the way gives it to browsers.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = origin?;
        self.origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Adds what a cross-origin request needs to read the answer.
    pub fn apply(&self, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
        // Where no origin is listed the answer is the same for all, and caches are better off without the header.
        if !self.any && !self.origins.is_empty() {
            response.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = self.allowed(origin) {
            response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            response.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }

    /// Adds the answer to a preflight request.
    pub fn preflight(&self, request: &HeaderMap, allow: &HeaderValue, response: &mut HeaderMap) {
        if request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            && self.allowed(request.get(header::ORIGIN)).is_some()
        {
            response.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allow.clone());
            response.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED));
            response.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
    }
}
