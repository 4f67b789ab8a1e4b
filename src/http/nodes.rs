//! `/nodes` and `/stats/nodes/minute`: what is known of the nodes, so that clients can choose for themselves.
//!
//! On the admin listener for operators; on the public one where `nodes.public` is set, for whoever has a token of its own. Both
//! answer from measured state and ask nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::header::{self, HeaderValue};
use actix_http::{HttpMessage, Request, Response};
use actix_web::web::Query;
use arc_swap::ArcSwap;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};

use super::headers::{bearer, is_one_of};
use super::problem;
use crate::config::settings::NodeSettings;
use crate::config::units::Secret;
use crate::database::read::Database;
use crate::error::{Code, Error};
use crate::nodes::minutes::{MinuteRow, Percentiles};
use crate::nodes::node::{Identity, Node};
use crate::nodes::report::NodeReport;

/// The nodes.
pub const NODES: &str = "/nodes";
/// Their last hour.
pub const MINUTES: &str = "/stats/nodes/minute";

/// What is told of nodes.
pub struct NodePages {
    database: Option<Arc<Database>>,
    upstreams: ArcSwap<Vec<Arc<Node>>>,
    /// Who may ask on the public listener; nothing: nobody, the paths are not there.
    public: Option<Vec<Secret>>,
}

#[derive(Serialize)]
struct NodeDocument<'a> {
    id: &'a str,
    kind: &'static str,
    endpoint: &'a str,
    region: Option<&'a str>,
    status: &'static str,
    latency_ms: RecentLatency,
    lag_ms: Option<u64>,
}

#[derive(Serialize)]
struct RecentLatency {
    p50: Option<f64>,
    p95: Option<f64>,
}

#[derive(Serialize)]
struct MinuteDocument<'a> {
    minute: String,
    id: &'a str,
    ops: u64,
    errors: u64,
    latency_ms: MinuteLatency,
}

#[derive(Serialize)]
struct MinuteLatency {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    id: Option<String>,
}

impl NodePages {
    /// Pages on the nodes of a database, and on those of upstreams once there are any.
    pub fn new(database: Option<Arc<Database>>, settings: &NodeSettings) -> Self {
        let public = settings.public.then(|| settings.public_token.list());
        Self { database, upstreams: ArcSwap::default(), public }
    }

    /// From now on these are the nodes of upstreams.
    pub fn set_upstreams(&self, nodes: Vec<Arc<Node>>) {
        self.upstreams.store(Arc::new(nodes));
    }

    /// All nodes, and how they are: the primary, the replicas, the upstreams.
    pub fn reports(&self) -> Vec<NodeReport> {
        let now = Instant::now();
        let databases = self.database.as_ref().map(|database| database.reports()).unwrap_or_default();
        let upstreams = self.upstreams.load();
        let upstreams = upstreams.iter().map(|node| NodeReport::by_breaker(node, now));
        databases.into_iter().chain(upstreams).collect()
    }

    /// `GET /nodes`
    ///
    /// # Errors
    /// `param_invalid` where there is a query.
    pub fn list(&self, query: &str) -> Result<Vec<u8>, Error> {
        if !query.is_empty() {
            return Err(Error::new(Code::ParamInvalid, "this path has no parameters"));
        }
        let (now, reports) = (Instant::now(), self.reports());
        let documents: Vec<_> = reports.iter().map(|report| node_document(report, now)).collect();
        json(&documents)
    }

    /// `GET /stats/nodes/minute?id=`
    ///
    /// # Errors
    /// `not_found` for an id that no node has, `param_invalid` for another parameter.
    pub fn minutes(&self, query: &str) -> Result<Vec<u8>, Error> {
        let wish = Query::<Wish>::from_query(query);
        let Wish { id } = wish.map_err(|error| Error::new(Code::ParamInvalid, error.to_string()))?.into_inner();
        let (now, mut reports) = (Instant::now(), self.reports());
        if let Some(id) = id {
            reports.retain(|report| *report.node.identity().id == *id);
            if reports.is_empty() {
                return Err(Error::new(Code::NotFound, "no node has this id; /nodes lists them"));
            }
        }
        let rows = reports.iter().flat_map(|report| {
            let rows = report.node.minutes(now).into_iter();
            rows.map(|row| minute_document(&report.node.identity().id, &row))
        });
        json(&rows.collect::<Vec<_>>())
    }

    /// The answer on the public listener; nothing for other paths, and where nodes are nobody's business.
    pub fn respond(&self, path: &str, request: &Request, request_id: &HeaderValue) -> Option<Response<Bytes>> {
        let tokens = self.public.as_ref()?;
        let query = request.uri().query().unwrap_or_default();
        let page = match path {
            NODES => Self::list,
            MINUTES => Self::minutes,
            _ => return None,
        };
        let given = request.headers().get(header::AUTHORIZATION).and_then(bearer).unwrap_or_default();
        if !is_one_of(given, tokens) {
            let detail = "this path asks for Authorization: Bearer, and one of nodes.public_token";
            return Some(problem::response(&Error::new(Code::Unauthorized, detail), request_id, None));
        }
        Some(page(self, query).map_or_else(|error| problem::response(&error, request_id, None), document))
    }
}

fn document(body: Vec<u8>) -> Response<Bytes> {
    let mut response = Response::ok().set_body(Bytes::from(body));
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn node_document(report: &NodeReport, now: Instant) -> NodeDocument<'_> {
    let Identity { id, kind, endpoint, region } = report.node.identity();
    let latency = report.node.recent(now);
    NodeDocument {
        id,
        kind: kind.as_str(),
        endpoint,
        region: region.as_deref(),
        status: report.status.as_str(),
        latency_ms: RecentLatency {
            p50: latency.map(|latency| millis(latency.p50)),
            p95: latency.map(|latency| millis(latency.p95)),
        },
        lag_ms: report.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
    }
}

fn minute_document<'a>(id: &'a str, row: &MinuteRow) -> MinuteDocument<'a> {
    let at = |pick: fn(Percentiles) -> Duration| row.latency.map(|latency| millis(pick(latency)));
    MinuteDocument {
        minute: rfc_3339(row.minute),
        id,
        ops: row.ops,
        errors: row.errors,
        latency_ms: MinuteLatency {
            p50: at(|latency| latency.p50),
            p95: at(|latency| latency.p95),
            p99: at(|latency| latency.p99),
        },
    }
}

/// To the microsecond, which is as far as a measurement means anything.
fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn rfc_3339(minute: u64) -> String {
    let seconds = i64::try_from(minute.saturating_mul(60)).unwrap_or(i64::MAX);
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn json(answer: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(answer)
        .map_err(|error| Error::new(Code::Internal, format!("the answer cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_told_as_the_time_it_began() {
        assert_eq!(rfc_3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc_3339(29_920_745), "2026-11-21T07:05:00Z");
        assert!(!rfc_3339(u64::MAX).is_empty());
    }

    #[test]
    fn milliseconds_have_no_more_digits_than_were_measured() {
        assert_eq!(serde_json::to_string(&millis(Duration::from_nanos(1_234_567))).unwrap(), "1.235");
        assert_eq!(millis(Duration::from_micros(900)), 0.9);
    }
}
