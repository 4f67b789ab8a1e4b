//! The one mapping from [`Error`] to HTTP: RFC 9457 problem documents.

use actix_http::header::{self, HeaderName, HeaderValue};
use actix_http::{Response, StatusCode};
use bytes::Bytes;
use serde::Serialize;

use super::headers;
use crate::error::{Code, Error};
use crate::telemetry::traces;

/// Seconds after which a retry makes sense: breakers and samplers have looked again by then.
const RETRY_AFTER_SECS: &str = "2";

/// Those whom a crowd kept out do not all come back in the same second.
fn retry_after(code: Code) -> &'static str {
    const SPREAD: [&str; 4] = ["1", "2", "3", "4"];
    match code {
        Code::Overloaded => fastrand::choice(SPREAD).unwrap_or(RETRY_AFTER_SECS),
        _ => RETRY_AFTER_SECS,
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<&'a [String]>,
}

/// What is asked for where the credential was the matter (RFC 6750, section 3), or a signature, of which its error says all. Of an error speaks only what a credential was
/// shown to; the scopes are those that would do.
pub fn challenge(error: &Error, scopes: &[String]) -> Option<HeaderValue> {
    const REALM: &str = "Bearer realm=\"mainstay\"";
    // What may stand between quotes as it is (RFC 6750, section 3); details are sentences of this program, and quote others.
    let is_plain = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    let said = || error.detail.chars().filter(is_plain).collect::<String>();
    let text = match error.code {
        Code::Unauthorized => REALM.to_owned(),
        Code::SignatureInvalid => "Signature realm=\"mainstay\"".to_owned(),
        Code::CredentialsInvalid | Code::CredentialsExpired => {
            format!("{REALM}, error=\"invalid_token\", error_description=\"{}\"", said())
        }
        Code::ScopeMissing => format!("{REALM}, error=\"insufficient_scope\", scope=\"{}\"", scopes.join(" ")),
        _ => return None,
    };
    Some(headers::value(text))
}

/// The response of an error; `routes` are the public routes, for an unknown path.
pub fn response(error: &Error, request_id: &HeaderValue, routes: Option<&[String]>) -> Response<Bytes> {
    let info = error.code.info();
    let problem = Problem {
        r#type: format!("urn:mainstay:problem:{}", info.name),
        title: info.title,
        status: info.status,
        code: info.name,
        detail: &error.detail,
        request_id: request_id.to_str().unwrap_or_default(),
        trace_id: traces::current_id(),
        routes: routes.filter(|_| error.code == Code::RouteNotFound),
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let status = StatusCode::from_u16(info.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::with_body(status, Bytes::from(body));
    let headers = response.headers_mut();
    for (name, value) in &error.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(challenge) = challenge(error, &[]) {
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if matches!(info.status, 429 | 503) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(retry_after(error.code)));
    }
    response
}
