//! The access log: a line of a request once its response is there.
//!
//! What is in it is what cannot be a secret: of a query the parameters that the manifest declares on routes whose answers are kept for
//! all, since those are in the key of what everybody gets; of headers none; of a caller the public part of an API key. The path is
//! whole: credentials travel in headers here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_http::body::{BodySize, MessageBody};
use actix_http::header::HeaderMap;
use actix_http::{Method, Request, Response, StatusCode};
use prometheus::IntCounter;

use super::{Front, Way};
use crate::config::logs::{AccessLog, LogSettings};
use crate::config::param::Place;
use crate::http::client::Client;
use crate::http::headers;
use crate::http::per_second::PerSecond;
use crate::http::respond;
use crate::http::surface::Endpoint;
use crate::telemetry::metrics::{LogDropped, Metrics, Outcome};

/// Which requests get a line.
pub(super) struct Access {
    requests: AccessLog,
    /// The part of those without error that does.
    sample: f64,
    slow: Duration,
    has_client: bool,
    per_second: PerSecond,
    /// Of answers with 5xx and of slow ones there are as many again: what is asked for a thousand times a second must not crowd them
    /// out.
    notable_per_second: PerSecond,
    /// Lines that there were too many of since the last one.
    left_out: AtomicU64,
    over_rate: IntCounter,
}

/// What a line says of a request.
pub(super) struct Line {
    method: Method,
    path: String,
    query: Option<String>,
    client: Option<Client>,
    key_id: Option<Arc<str>>,
}

impl Access {
    pub(super) fn new(settings: &LogSettings, metrics: &Metrics) -> Self {
        Self {
            requests: settings.access,
            sample: settings.access_sample,
            slow: settings.access_slow.0,
            has_client: settings.access_client,
            per_second: PerSecond::new(settings.access_per_second_max),
            notable_per_second: PerSecond::new(settings.access_per_second_max),
            left_out: AtomicU64::new(0),
            over_rate: metrics.log_lines_dropped.with_label_values(&["access", LogDropped::OverRate.as_str()]),
        }
    }

    /// Whether a request that goes on into the application may get a line, and what it says has to be kept.
    fn may_want(&self) -> bool {
        self.requests != AccessLog::Off
    }

    /// Whether a request failed, or took long: of those each is worth a line.
    fn is_notable(&self, status: StatusCode, took: Duration) -> bool {
        status.is_server_error() || (!self.slow.is_zero() && took >= self.slow)
    }

    fn wants(&self, status: StatusCode, has_route: bool, took: Duration) -> bool {
        match self.requests {
            AccessLog::Off => false,
            // A 503 of the health pages is asked for every few seconds from many places; the log says its reasons once.
            AccessLog::Errors => has_route && self.is_notable(status, took),
            AccessLog::All => self.sample >= 1.0 || self.is_notable(status, took) || fastrand::f64() < self.sample,
        }
    }

    /// Whether there is room for a line in this second, and then how many were left out before it.
    fn admit(&self, is_notable: bool) -> Option<Option<u64>> {
        let per_second = if is_notable { &self.notable_per_second } else { &self.per_second };
        if per_second.takes(Instant::now()) {
            return Some(Some(self.left_out.swap(0, Ordering::Relaxed)).filter(|left_out| *left_out > 0));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        self.over_rate.inc();
        None
    }
}

impl Front {
    /// What is kept of a request that goes on into the application, where it may get a line.
    pub(super) fn kept_line(&self, way: &Way<'_>) -> Option<Box<Line>> {
        self.access.may_want().then(|| Box::new(self.line(way)))
    }

    /// What a line says of a request.
    pub(super) fn line(&self, way: &Way<'_>) -> Line {
        let (request, uri) = (way.request, way.request.uri());
        Line {
            method: request.method().clone(),
            path: uri.path().to_owned(),
            query: way.endpoint.zip(uri.query()).and_then(|(endpoint, query)| public_part(endpoint, query)),
            client: self.access.has_client.then(|| self.client(request)).flatten(),
            key_id: way.identity.as_ref().and_then(|identity| identity.key.as_ref()).map(|key| Arc::clone(&key.prefix)),
        }
    }

    fn client(&self, request: &Request) -> Option<Client> {
        self.pipeline.rates.address(request)
    }

    /// Writes the line of a request, where it gets one. What it says is asked for only then; what became of it, where that is not
    /// known yet, the response says.
    pub(super) fn log_access<B: MessageBody>(
        &self,
        response: &Response<B>,
        endpoint: Option<&Arc<Endpoint>>,
        took: Duration,
        outcome: Option<Outcome>,
        line: impl FnOnce() -> Option<Line>,
    ) {
        let status = response.status();
        if !self.access.wants(status, endpoint.is_some(), took) {
            return;
        }
        let Some(left_out) = self.access.admit(self.access.is_notable(status, took)) else { return };
        let Some(Line { method, path, query, client, key_id }) = line() else { return };
        let cache_status = text(response.headers(), &headers::CACHE_STATUS);
        let bytes = match response.body().size() {
            BodySize::Sized(bytes) => Some(bytes),
            BodySize::None => Some(0),
            BodySize::Stream => None,
        };
        log::info!(
            target: "mainstay::access",
            method = method.as_str(),
            path = path.as_str(),
            query = query.as_deref(),
            route = endpoint.map(|endpoint| endpoint.route.path.as_str()),
            status = status.as_u16(),
            bytes,
            duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            outcome = outcome.unwrap_or_else(|| respond::outcome(status, response.headers())).as_str(),
            cache_detail = cache_status.and_then(|status| member(status, "detail=")),
            cache_status,
            request_id = text(response.headers(), &headers::X_REQUEST_ID),
            client = client.map(|client| client.to_string()).as_deref(),
            key_id = key_id.as_deref(),
            left_out;
            "{method} {path} {}", status.as_u16()
        );
    }
}

fn text<'a>(head: &'a HeaderMap, name: &actix_http::header::HeaderName) -> Option<&'a str> {
    head.get(name).and_then(|value| value.to_str().ok())
}

/// The value of a member of `Cache-Status`.
fn member<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.split("; ").find_map(|member| member.strip_prefix(name))
}

/// The parameters of a query that are in the key of an answer for all. What a route does not declare, or keeps for one caller, may be
/// anything, a token that somebody put there included.
fn public_part(endpoint: &Endpoint, query: &str) -> Option<String> {
    if !endpoint.route.is_cacheable() {
        return None;
    }
    let is_declared =
        |name: &str| endpoint.route.params.iter().any(|param| param.place == Place::Query && param.name == name);
    let pairs = query.split('&').filter(|pair| is_declared(pair.split('=').next().unwrap_or_default()));
    let pairs: Vec<&str> = pairs.collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(requests: AccessLog, sample: f64, per_second_max: u32) -> Access {
        Access {
            requests,
            sample,
            slow: Duration::from_secs(1),
            has_client: false,
            per_second: PerSecond::new(per_second_max),
            notable_per_second: PerSecond::new(per_second_max),
            left_out: AtomicU64::new(0),
            over_rate: Metrics::new()
                .unwrap()
                .log_lines_dropped
                .with_label_values(&["access", LogDropped::OverRate.as_str()]),
        }
    }

    #[test]
    fn errors_and_slow_requests_always_get_a_line() {
        let (quick, slow) = (Duration::from_millis(999), Duration::from_secs(1));
        for sample in [0.0, 0.5, 1.0] {
            let all = access(AccessLog::All, sample, 1);
            assert!(all.wants(StatusCode::SERVICE_UNAVAILABLE, false, quick) && all.wants(StatusCode::OK, true, slow));
            let wanted = (0..10_000).map(|_| u32::from(all.wants(StatusCode::NOT_FOUND, true, quick)));
            let written = f64::from(wanted.sum::<u32>());
            assert!((written - sample * 10_000.0).abs() <= 500.0, "{written} at {sample}");
        }
        let errors = access(AccessLog::Errors, 1.0, 1);
        assert!(errors.wants(StatusCode::BAD_GATEWAY, true, quick) && errors.wants(StatusCode::OK, true, slow));
        assert!(!errors.wants(StatusCode::OK, true, quick));
        assert!(!errors.wants(StatusCode::SERVICE_UNAVAILABLE, false, slow), "health pages are no requests");
        assert!(!access(AccessLog::Off, 1.0, 1).wants(StatusCode::BAD_GATEWAY, true, slow));
        let mut never_slow = access(AccessLog::Errors, 1.0, 1);
        never_slow.slow = Duration::ZERO;
        assert!(!never_slow.wants(StatusCode::OK, true, slow));
    }

    #[test]
    fn what_is_left_out_is_counted_and_said_with_the_next_line() {
        let none = access(AccessLog::All, 1.0, 0);
        (0..7).for_each(|_| assert_eq!(none.admit(false), None));
        assert_eq!((none.over_rate.get(), none.left_out.load(Ordering::Relaxed)), (7, 7));
        let some = Access { left_out: none.left_out, ..access(AccessLog::All, 1.0, 1000) };
        assert_eq!((some.admit(false), some.admit(false)), (Some(Some(7)), Some(None)));
    }

    #[test]
    fn a_flood_of_other_lines_leaves_room_for_errors_and_slow_ones() {
        let mut access = access(AccessLog::All, 1.0, 10);
        // The first second of both lasts as long as the test does.
        let later = Instant::now() + Duration::from_secs(3600);
        (access.per_second.started, access.notable_per_second.started) = (later, later);
        let written = |status, took| {
            let is_notable = access.is_notable(status, took);
            (0..1000).filter(|_| access.admit(is_notable).is_some()).count()
        };
        let (quick, slow) = (Duration::ZERO, Duration::from_secs(1));
        assert_eq!((written(StatusCode::OK, quick), written(StatusCode::UNAUTHORIZED, quick)), (10, 0));
        assert_eq!((written(StatusCode::SERVICE_UNAVAILABLE, quick), written(StatusCode::OK, slow)), (10, 0));
        assert_eq!(access.over_rate.get(), 990 + 1000 + 990 + 1000);
    }

    #[test]
    fn who_answered_is_told_by_the_header() {
        let cases = [
            ("mainstay; hit; ttl=287; detail=L1", Some("L1")),
            ("mainstay; fwd=miss; stored; detail=replica", Some("replica")),
            ("mainstay; fwd=bypass", None),
            ("", None),
        ];
        for (status, expected) in cases {
            assert_eq!(member(status, "detail="), expected, "{status}");
        }
    }
}
