//! The health endpoints, answered from sampled state: what they say is rendered when it changes, not when it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_http::header::{self, HeaderValue};
use actix_http::{Response, StatusCode};
use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::Serialize;

use crate::database::health::{Reason, Verdict};
use crate::database::steps::Step;

/// The health answers of this instance.
pub struct HealthPages {
    region: String,
    edge: ArcSwap<Page>,
    settled: AtomicBool,
    draining: AtomicBool,
    closing: AtomicBool,
}

struct Page {
    verdict: Verdict,
    step: Option<Step>,
    status: StatusCode,
    body: Bytes,
}

/// What `/health/edge` says.
#[derive(Serialize)]
struct EdgeDocument<'a> {
    status: &'static str,
    region: &'a str,
    replication_lag_secs: Option<u64>,
    reasons: Vec<&'static str>,
    /// Said only while eventual reads are not where they should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'static str>,
}

impl HealthPages {
    /// Pages that say unhealthy until the first verdict.
    pub fn new(region: &str) -> Self {
        let edge = ArcSwap::from_pointee(page(region, &Verdict::default(), None));
        Self {
            region: region.to_owned(),
            edge,
            settled: AtomicBool::default(),
            draining: AtomicBool::default(),
            closing: AtomicBool::default(),
        }
    }

    /// Says from now on what a verdict came to, and how far eventual reads have stepped back.
    pub fn publish(&self, verdict: &Verdict, step: Option<Step>) {
        self.edge.store(Arc::new(page(&self.region, verdict, step)));
    }

    /// The verdict in force.
    pub fn verdict(&self) -> Verdict {
        self.edge.load().verdict.clone()
    }

    /// The step in force, where there is a database to step back from.
    pub fn step(&self) -> Option<Step> {
        self.edge.load().step
    }

    /// Says from now on that this instance may receive traffic: it has asked every node once, and was told of changes where it is to be.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Says from now on that this instance must not receive traffic any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.close_connections();
    }

    /// Whether it must not receive traffic any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on each connection is given up as soon as its request is answered.
    pub fn close_connections(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether connections are to be given up as soon as their request is answered.
    pub fn closes_connections(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// The answer of a health path; `None` for other paths.
    pub fn respond(&self, path: &str) -> Option<Response<Bytes>> {
        let unavailable = |body| (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(body));
        let (status, body) = match path {
            "/health/live" => (StatusCode::OK, Bytes::from_static(b"{\"status\":\"live\"}")),
            "/health/ready" if self.is_draining() => unavailable(b"{\"status\":\"draining\"}"),
            // Until then others know better whom to read from, and fill what is good for longer.
            "/health/ready" if !self.settled.load(Ordering::Relaxed) => unavailable(b"{\"status\":\"starting\"}"),
            "/health/ready" if self.edge.load().verdict.reasons.contains(&Reason::NothingToServe) => {
                unavailable(b"{\"status\":\"nothing_to_serve\"}")
            }
            "/health/ready" => (StatusCode::OK, Bytes::from_static(b"{\"status\":\"ready\"}")),
            "/health/edge" => {
                let page = self.edge.load();
                (page.status, page.body.clone())
            }
            _ => return None,
        };
        let mut response = Response::with_body(status, body);
        let head = response.headers_mut();
        head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            head.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        Some(response)
    }
}

fn page(region: &str, verdict: &Verdict, step: Option<Step>) -> Page {
    let document = EdgeDocument {
        status: verdict.status.as_str(),
        region,
        replication_lag_secs: verdict.replication_lag_secs(),
        reasons: verdict.reasons.iter().map(|reason| reason.as_str()).collect(),
        step: step.filter(|step| *step != Step::Preferred).map(Step::as_str),
    };
    let status = if verdict.http_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Page { verdict: verdict.clone(), step, status, body: serde_json::to_vec(&document).unwrap_or_default().into() }
}
