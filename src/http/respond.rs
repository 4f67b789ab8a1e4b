//! From an entry, an answer or an error to a response: the headers of the cache stand here and nowhere else.

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Duration;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_http::{Response, StatusCode};
use bytes::Bytes;

use super::headers::{self, Asked, SecondsValues};
use super::problem;
use super::surface::Endpoint;
use crate::cache::entry::Entry;
use crate::cache::tag::Tag;
use crate::cache::variants::Encoding;
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::upstream::headers::is_of_one_hop;
use crate::telemetry::metrics::Outcome;

/// Tags that CloudFront takes with one answer; what comes after them it ignores.
const EDGE_TAGS_MAX: usize = 50;

/// How the cache took part in an answer: the `Cache-Status` header (RFC 9211).
#[derive(Clone, Copy, Debug)]
pub enum CacheStatus {
    /// Answered from L1; so much freshness is left.
    Hit(Duration),
    /// Answered from L1 although it expired so long ago, and refreshed behind.
    Stale(Duration),
    /// Answered from the shared cache; so much freshness is left. A follower waited for another request's lookup.
    SharedHit {
        /// The freshness that is left.
        left: Duration,
        /// Whether another request asked.
        collapsed: bool,
    },
    /// Answered although it expired so long ago, because the source failed.
    StaleIfError {
        /// How long ago it expired.
        past: Duration,
        /// What the failure would have been answered with.
        status: u16,
        /// Which cache had it.
        layer: &'static str,
    },
    /// The source was asked; a follower waited for another request's fill.
    Forwarded {
        /// Whether something stale was there.
        had_stale: bool,
        /// Whether the answer is kept.
        stored: bool,
        /// Whether another request asked.
        collapsed: bool,
    },
    /// A failover origin issues anew what it has.
    Reissued {
        /// The freshness that is left; negative where it is stale, or may be.
        ttl_secs: i64,
        /// Whether another request asked.
        collapsed: bool,
    },
    /// The cache was not consulted.
    Bypass,
}

thread_local! {
    static HIT: RefCell<SecondsValues> =
        const { RefCell::new(SecondsValues::new(|left| headers::value(format!("mainstay; hit; ttl={left}; detail=L1")))) };
    static AGE: RefCell<SecondsValues> = const { RefCell::new(SecondsValues::new(HeaderValue::from)) };
}

impl CacheStatus {
    fn header(self, detail: &str) -> HeaderValue {
        let text = match self {
            Self::Hit(left) => return HIT.with_borrow_mut(|values| values.get(left.as_secs())),
            Self::Stale(past) => format!("mainstay; hit; ttl=-{}; detail=L1", past.as_secs().max(1)),
            Self::SharedHit { left, collapsed } => {
                let collapsed = if collapsed { "; collapsed" } else { "" };
                format!("mainstay; hit; ttl={}{collapsed}; detail=L2", left.as_secs())
            }
            Self::StaleIfError { past, status, layer } => {
                format!("mainstay; hit; ttl=-{}; fwd-status={status}; detail={layer}", past.as_secs().max(1))
            }
            Self::Forwarded { had_stale, stored, collapsed } => {
                let forward = if had_stale { "fwd=stale" } else { "fwd=miss" };
                let stored = if stored { "; stored" } else { "" };
                let collapsed = if collapsed { "; collapsed" } else { "" };
                format!("mainstay; {forward}{stored}{collapsed}; detail={detail}")
            }
            Self::Reissued { ttl_secs, collapsed } => {
                let collapsed = if collapsed { "; collapsed" } else { "" };
                format!("mainstay; hit; ttl={ttl_secs}{collapsed}; detail=failover")
            }
            Self::Bypass if detail.is_empty() => "mainstay; fwd=bypass".to_owned(),
            Self::Bypass => format!("mainstay; fwd=bypass; detail={detail}"),
        };
        headers::value(text)
    }

    const fn is_hit(self) -> bool {
        matches!(self, Self::Hit(_) | Self::Stale(_) | Self::SharedHit { .. } | Self::StaleIfError { .. })
    }
}

/// What became of a request, by what its response says: metrics count what clients are told.
pub fn outcome(status: StatusCode, head: &HeaderMap) -> Outcome {
    let said = head.get(headers::CACHE_STATUS).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if status.is_server_error() {
        Outcome::Error
    } else if said.starts_with("mainstay; hit; ttl=-") {
        Outcome::Stale
    } else if said.starts_with("mainstay; hit") {
        Outcome::Hit
    } else if said.starts_with("mainstay; fwd=miss") || said.starts_with("mainstay; fwd=stale") {
        Outcome::Miss
    } else if status.is_client_error() {
        Outcome::Refused
    } else if said.starts_with("mainstay; fwd=bypass") {
        Outcome::Bypass
    } else {
        Outcome::Own
    }
}

/// The response of an entry: 200 in the encoding that the client takes, 304 where it has the body already, or the 404 that
/// the entry stands for.
pub fn from_entry(
    entry: &Entry,
    endpoint: &Endpoint,
    asked: &Asked<'_>,
    request_id: &HeaderValue,
    status: CacheStatus,
    age: Duration,
) -> Response<Bytes> {
    let mut response = match &entry.absence {
        Some(sentence) => {
            let mut response = problem::response(&Error::new(Code::NotFound, sentence.clone()), request_id, None);
            // It says that nobody keeps it; what follows knows better.
            response.headers_mut().remove(header::CACHE_CONTROL);
            response
        }
        None => body_or_304(entry, asked),
    };
    let head = response.headers_mut();
    let cache_control = cache_control(entry, endpoint, status, age);
    // None of these is there yet, and to append costs a hit half of what it costs to insert, which hands out what was there before.
    if let Some(name) = endpoint.tag_header.as_ref().filter(|_| cache_control.as_bytes().starts_with(b"public")) {
        head.append(name.clone(), edge_tags(&entry.tags));
    }
    head.append(header::CACHE_CONTROL, cache_control);
    head.append(header::VARY, vary(endpoint));
    head.append(headers::CACHE_STATUS, status.header(entry.detail));
    if status.is_hit() {
        head.append(header::AGE, AGE.with_borrow_mut(|values| values.get(age.as_secs())));
    }
    response
}

/// How long others may keep the answer of an entry.
fn cache_control(entry: &Entry, endpoint: &Endpoint, status: CacheStatus, age: Duration) -> HeaderValue {
    match status {
        CacheStatus::Bypass | CacheStatus::Forwarded { stored: false, .. } => uncached(endpoint),
        // What is not there may come at any time.
        CacheStatus::Reissued { .. } if entry.absence.is_some() => uncached(endpoint),
        // What was purged, or may have been, is not old by its age: caches outside must not take it for fresh.
        CacheStatus::Stale(_) | CacheStatus::StaleIfError { .. } if age < entry.limits.fresh => {
            HeaderValue::from_static(if endpoint.route.private { "private, max-age=0" } else { "public, max-age=0" })
        }
        _ if entry.absence.is_some() => {
            headers::value(format!("{}, max-age={}", endpoint.route.audience(), entry.limits.fresh.as_secs()))
        }
        // What is issued anew has no age, and is good for as long as the route's header says here.
        _ => endpoint.cache_control.clone(),
    }
}

/// The tags of an answer for a CDN. Those of its route and of itself come first.
fn edge_tags(tags: &[Tag]) -> HeaderValue {
    let names: Vec<String> = tags.iter().take(EDGE_TAGS_MAX).map(Tag::edge_name).collect();
    headers::value(names.join(","))
}

fn body_or_304(entry: &Entry, asked: &Asked<'_>) -> Response<Bytes> {
    let body = &entry.body;
    let (encoding, variant) = if body.is_encoded() {
        body.choose(|encoding| asked.takes_encoding(encoding))
    } else {
        (Encoding::Identity, body.identity())
    };
    // Only what would be a 200 can be a 304 (RFC 9110, section 13.2.1): a handler may have answered with another status.
    // The tag is that of what would be sent: a cache on the way may hold other encodings, and takes a 304 as leave to answer
    // from the one it names.
    if entry.status == 200
        && !asked.if_none_match.is_empty()
        && let Some(etag) = headers::matching_etag(&asked.if_none_match, &variant.etag)
    {
        let mut response = Response::with_body(StatusCode::NOT_MODIFIED, Bytes::new());
        response.headers_mut().append(header::ETAG, etag);
        return response;
    }
    let mut response = Response::with_body(status_of(entry.status), variant.bytes.clone());
    let head = response.headers_mut();
    head.append(header::CONTENT_TYPE, kept_type(entry.content_type));
    head.append(header::ETAG, headers::value(variant.etag.clone()));
    if let Some(name) = encoding.name() {
        head.append(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    response
}

/// The media type of an entry. That of nearly all is a constant, which is not looked at byte by byte.
fn kept_type(text: &'static str) -> HeaderValue {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    if text == "application/json" { JSON } else { HeaderValue::from_static(text) }
}

/// The status that a handler answered with.
fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The response of an answer that is not shared.
pub fn from_answer(answer: &Answer, endpoint: &Endpoint, encoded: (Encoding, Bytes), detail: &str) -> Response<Bytes> {
    let (encoding, body) = encoded;
    let mut response = Response::with_body(status_of(answer.status), body);
    let head = response.headers_mut();
    // First, so that none of them takes the place of what follows.
    append_own(&answer.headers, head);
    head.insert(header::CONTENT_TYPE, media_type(answer));
    if let Some(name) = encoding.name() {
        head.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    head.insert(header::VARY, vary(endpoint));
    forbid_keeping(head, endpoint);
    head.insert(headers::CACHE_STATUS, CacheStatus::Bypass.header(detail));
    response
}

/// Says that nobody keeps an answer, and takes back what else says that somebody may: headers for CDNs alone (RFC 9213) count for
/// more with them than `Cache-Control`.
pub fn forbid_keeping(head: &mut HeaderMap, endpoint: &Endpoint) {
    let says_more = |name: &str| {
        name.ends_with("-cache-control") || matches!(name, "surrogate-control" | "expires" | "x-accel-expires")
    };
    let others: Vec<HeaderName> = head.keys().filter(|name| says_more(name.as_str())).cloned().collect();
    for name in others {
        head.remove(name);
    }
    head.insert(header::CACHE_CONTROL, uncached(endpoint));
}

/// Adds a handler's own headers, but for those that are the connection's.
fn append_own(own: &[(&'static str, String)], head: &mut HeaderMap) {
    for (name, value) in own {
        let (parsed, value) = (HeaderName::try_from(*name), HeaderValue::try_from(value));
        let is_framing = matches!(*name, "content-length") || is_of_one_hop(name, std::iter::empty());
        match (parsed, value) {
            (Ok(parsed), Ok(value)) if !is_framing => head.append(parsed, value),
            _ => log::error!("a handler's header {name:?} is left out: it cannot stand in an answer"),
        }
    }
}

/// The media type of an answer; one that cannot stand in a header is none.
fn media_type(answer: &Answer) -> HeaderValue {
    match &answer.content_type {
        Cow::Borrowed(text) => HeaderValue::from_static(text),
        Cow::Owned(text) => headers::value(text.clone()),
    }
}

/// Says of an upstream's answer that the cache had no part in it, and how long others may keep it: as the upstream says, and
/// where that says nothing, or the route is one whose answers this server keeps or that are one caller's, not at all.
pub fn mark_forwarded<B>(response: &mut Response<B>, endpoint: &Endpoint) {
    let head = response.headers_mut();
    if endpoint.route.private || endpoint.route.is_cacheable() || !head.contains_key(header::CACHE_CONTROL) {
        forbid_keeping(head, endpoint);
    }
    head.insert(headers::CACHE_STATUS, CacheStatus::Bypass.header(endpoint.producer.detail()));
}

/// Says of the answer of the primary's region who has passed it on, and that nobody keeps it. What its own cache had to do with
/// it, it has said itself.
pub fn mark_strong_forwarded<B>(response: &mut Response<B>, endpoint: &Endpoint, via: HeaderValue) {
    let head = response.headers_mut();
    forbid_keeping(head, endpoint);
    head.append(header::VIA, via);
    if !head.contains_key(headers::CACHE_STATUS) {
        head.insert(headers::CACHE_STATUS, CacheStatus::Bypass.header(""));
    }
}

/// The response of an error on a known route.
pub fn from_error(
    error: &Error,
    endpoint: &Endpoint,
    request_id: &HeaderValue,
    status: CacheStatus,
) -> Response<Bytes> {
    let mut response = problem::response(error, request_id, None);
    let head = response.headers_mut();
    head.insert(header::CACHE_CONTROL, uncached(endpoint));
    let status = match status {
        CacheStatus::Forwarded { had_stale: true, .. } => HeaderValue::from_static("mainstay; fwd=stale"),
        CacheStatus::Forwarded { .. } => HeaderValue::from_static("mainstay; fwd=miss"),
        other => other.header(""),
    };
    head.insert(headers::CACHE_STATUS, status);
    let scopes = endpoint.route.access.as_ref().map_or(&[][..], |access| &access.scopes);
    if let Some(challenge) = problem::challenge(error, scopes) {
        head.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// What an answer depends on, of all that a request says: the encoding, and on a route with `auth` who asks, although all who
/// are let in may get the same.
fn vary(endpoint: &Endpoint) -> HeaderValue {
    // Constants: a text that is chosen as it runs is looked at byte by byte, for each answer anew.
    const BY_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");
    const BY_ENCODING_AND_CALLER: HeaderValue = HeaderValue::from_static("Accept-Encoding, Authorization");
    if endpoint.route.access.is_some() { BY_ENCODING_AND_CALLER } else { BY_ENCODING }
}

/// `Cache-Control` of what must not be kept: strong reads of public routes, errors, and all of a private route.
fn uncached(endpoint: &Endpoint) -> HeaderValue {
    HeaderValue::from_static(if endpoint.route.private { "no-store, private" } else { "no-store" })
}

/// Adds where the time went.
pub fn add_timing<B>(response: &mut Response<B>, source: Option<Duration>, total: Duration) {
    let text = match source {
        Some(source) => format!("source;dur={:.1}, total;dur={:.1}", ms(source), ms(total)),
        None => format!("total;dur={:.1}", ms(total)),
    };
    response.headers_mut().append(headers::SERVER_TIMING, headers::value(text));
}

/// Adds how long the primary's region was waited for, by the region that did. Where the time went there, it has said itself.
pub fn add_forward_timing<B>(response: &mut Response<B>, region: &str, waited: Duration, total: Duration) {
    // A quoted string of HTTP escapes what one of Rust does, in printable ASCII, which a region's name is.
    let text = format!("forward;desc={region:?};dur={:.1}, total;dur={:.1}", ms(waited), ms(total));
    response.headers_mut().append(headers::SERVER_TIMING, headers::value(text));
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
