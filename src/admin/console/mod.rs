//! The console: a page for whoever is on call. Its files are compiled in, it asks nobody but this listener, and without a session it
//! shows nothing but a form for the token.

mod live;
mod sessions;
mod viewers;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(super) use self::sessions::{SessionKey, Sessions, Shown};
pub(super) use self::viewers::Viewers;
use super::{Desk, Refusal, document, read_body};
use crate::error::{Code, Error};
use crate::http::headers::{self, matching_etag};

/// Where a browser signs in and out, and learns whether it is.
pub(super) const SESSION: &str = "/console/session";
/// What an open page hears.
pub(super) const EVENTS: &str = "/console/events";

/// The page loads its own files and talks to its own listener; nothing else works, should a text ever become markup.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A file of the page.
pub(super) struct Asset {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const ASSETS: [Asset; 9] = [
    Asset { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("assets/index.html") },
    Asset {
        path: "/console/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("assets/style.css"),
    },
    Asset { path: "/console/app.js", content_type: JAVASCRIPT, text: include_str!("assets/app.js") },
    Asset { path: "/console/charts.js", content_type: JAVASCRIPT, text: include_str!("assets/charts.js") },
    Asset { path: "/console/dom.js", content_type: JAVASCRIPT, text: include_str!("assets/dom.js") },
    Asset { path: "/console/forms.js", content_type: JAVASCRIPT, text: include_str!("assets/forms.js") },
    Asset { path: "/console/stream.js", content_type: JAVASCRIPT, text: include_str!("assets/stream.js") },
    Asset { path: "/console/worker.js", content_type: JAVASCRIPT, text: include_str!("assets/worker.js") },
    Asset { path: "/console/icon.svg", content_type: "image/svg+xml", text: include_str!("assets/icon.svg") },
];
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The file that a path names. They hold nothing that anybody may not see.
pub(super) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    pub(super) fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let digest = Sha256::digest(self.text);
        let etag: String =
            digest.iter().take(8).fold(String::from("\""), |text, byte| format!("{text}{byte:02x}")) + "\"";
        let asked: Vec<&HeaderValue> = request.headers().get_all(header::IF_NONE_MATCH).collect();
        let is_known = matching_etag(&asked, &Bytes::from(etag.clone())).is_some();
        let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        answer
            .insert_header((header::ETAG, headers::value(etag)))
            // Another version of the program has other files: each is asked for anew, and is mostly not sent anew.
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-cache")))
            .insert_header((header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
            .insert_header((header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")))
            .insert_header((header::CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin")))
            .insert_header((header::CONTENT_TYPE, HeaderValue::from_static(self.content_type)));
        if is_known { answer.finish() } else { answer.body(self.text) }
    }
}

/// Refuses what the page of another origin sends: it could only be up to no good. Browsers say so by themselves to addresses that
/// they trust, which are https and loopback; elsewhere `Origin` must be who is asked. Clients that are no browsers send neither.
pub(super) fn check_site(request_headers: &HeaderMap) -> Result<(), Error> {
    let text = |name: &HeaderName| request_headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_ours = match (text(&SEC_FETCH_SITE), text(&header::ORIGIN)) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            host.is_some() && host == text(&header::HOST)
        }
        (None, None) => true,
    };
    let detail = "this listener answers no pages of other sites";
    if is_ours { Ok(()) } else { Err(Error::new(Code::CrossSite, detail)) }
}

/// What a page is told of its session.
#[derive(Serialize)]
struct State<'a> {
    signed_in: bool,
    /// What must come with whatever changes something. It is told once, to who has just shown a token: a cookie goes to every port of
    /// its host, and whoever listens at another one must not get more out of it than what can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    csrf: Option<&'a str>,
    /// Whether that came with this request.
    may_change: bool,
    /// Who signed in: `token` and its fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_s: Option<u64>,
}

impl<'a> State<'a> {
    const OUT: Self = Self { signed_in: false, csrf: None, may_change: false, by: None, left_s: None };

    fn of(session: &'a Shown, may_change: bool) -> Self {
        let by = Some(format!("token {}", session.token));
        Self { signed_in: true, csrf: None, may_change, by, left_s: Some(session.left.as_secs()) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: String,
}

/// `GET`, `POST` and `DELETE /console/session`: who am I, sign in, sign out.
pub(super) async fn session(
    desk: &Desk,
    request: &HttpRequest,
    payload: web::Payload,
    peer: IpAddr,
) -> Result<HttpResponse, Refusal> {
    let (now, own) = (Instant::now(), desk.sessions.of(request.headers(), Instant::now()));
    match *request.method() {
        // Whoever is not signed in has done nothing wrong: only tokens are counted.
        Method::GET => {
            let state = |session| State::of(session, session.has_sent(request.headers()));
            answer(&own.as_ref().map_or(State::OUT, state), None)
        }
        Method::POST => {
            let body = desk.body(request, payload).await?;
            let SignIn { token } = read_body(&body)?;
            let caller = desk.gate.admit_token(peer, token.trim().as_bytes(), now)?;
            let (session, cookie) = desk.sessions.begin(caller.token(), is_tls(request), now)?;
            caller.audit("sign_in", "-", "-", Ok("-"));
            answer(&State { csrf: Some(&session.csrf), ..State::of(&session, true) }, Some(cookie))
        }
        Method::DELETE => {
            let Some(session) = own else { return answer(&State::OUT, None) };
            if !session.has_sent(request.headers()) {
                return Err(not_from_the_page().into());
            }
            answer(&State::OUT, Some(desk.sessions.end(session.key, is_tls(request))?))
        }
        _ => Err(Refusal {
            error: Error::new(Code::MethodNotAllowed, "this path answers GET, POST and DELETE"),
            header: Some((header::ALLOW, HeaderValue::from_static("GET, POST, DELETE"))),
        }),
    }
}

/// What is said to a request that has a session's cookie and nothing that only its page knows.
pub(super) fn not_from_the_page() -> Error {
    Error::new(Code::CrossSite, "a request with a session's cookie that changes something needs X-CSRF-Token, too")
}

/// Whether what stands before this listener speaks TLS. Whoever claims so wrongly locks himself out alone.
fn is_tls(request: &HttpRequest) -> bool {
    let proto = request.headers().get(header::X_FORWARDED_PROTO);
    proto.is_some_and(|proto| proto.as_bytes().trim_ascii().eq_ignore_ascii_case(b"https"))
}

fn answer(state: &State<'_>, cookie: Option<HeaderValue>) -> Result<HttpResponse, Refusal> {
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/json");
    answer.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")));
    if let Some(cookie) = cookie {
        answer.insert_header((header::SET_COOKIE, cookie));
    }
    Ok(answer.body(document(state)?))
}

/// `GET /console/events`: what the page shows, once a second.
pub(super) async fn events(
    desk: &Arc<Desk>,
    request: &HttpRequest,
    session: Option<SessionKey>,
) -> Result<HttpResponse, Refusal> {
    let stream = live::stream(desk, request, session).await?;
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        // nginx would keep events until it has a page full of them.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(stream))
}
