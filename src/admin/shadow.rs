//! What upstream routes and the queries that are to take their place have said to the same requests.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{Desk, body_invalid, document, read_body};
use crate::error::Error;
use crate::http::shadow::{Case, Compared};

/// Requests of one order.
const REQUESTS_MAX: usize = 100;
/// Requests that are compared at once.
const AT_ONCE: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    requests: Vec<String>,
}

#[derive(Serialize)]
struct Summary {
    routes: Vec<RouteSummary>,
    /// The newest first.
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct RouteSummary {
    route: String,
    sample: f64,
    compared: u64,
    equal: u64,
    different: u64,
    failed: u64,
}

#[derive(Serialize)]
struct Outcomes {
    results: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    request: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    case: Option<Case>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// `GET /admin/shadow`
pub(super) fn summary(desk: &Desk) -> Result<Vec<u8>, Error> {
    let counted = &desk.parts.pipeline.metrics.shadow_compared;
    let surface = desk.parts.surface.load();
    let routes = surface.endpoints().filter_map(|endpoint| {
        let route = endpoint.route.path.clone();
        let count = |outcome: &str| counted.with_label_values(&[route.as_str(), outcome]).get();
        let (equal, different, failed) = (count("equal"), count("different"), count("failed"));
        let sample = endpoint.twin.as_ref()?.sample;
        Some(RouteSummary { sample, compared: equal + different, equal, different, failed, route })
    });
    document(&Summary { routes: routes.collect(), cases: desk.parts.pipeline.shadows.cases() })
}

/// `POST /admin/shadow/compare`
pub(super) async fn compare(desk: &Desk, body: &[u8]) -> Result<Vec<u8>, Error> {
    let Wish { requests } = read_body(body)?;
    if !(1..=REQUESTS_MAX).contains(&requests.len()) {
        return Err(body_invalid(&format!("requests: 1 to {REQUESTS_MAX} paths, not {}", requests.len())));
    }
    let work = stream::iter(requests).map(|request| one(desk, request)).buffered(AT_ONCE);
    document(&Outcomes { results: work.collect().await })
}

async fn one(desk: &Desk, request: String) -> Outcome {
    let target = desk.parts.surface.load().target(&request);
    let compared = match target {
        Ok((endpoint, params)) => Arc::clone(&desk.parts.pipeline).compare(&endpoint, &params).await,
        Err(error) => Compared::Failed(error),
    };
    let outcome = compared.as_str();
    match compared {
        Compared::Equal => Outcome { request, outcome, case: None, detail: None },
        Compared::Different(case) => Outcome { request, outcome, case: Some(case), detail: None },
        Compared::Failed(error) => Outcome { request, outcome, case: None, detail: Some(error.detail.into_owned()) },
    }
}
