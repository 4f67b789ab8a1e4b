//! A request whose client goes away before it is answered: nobody is told anything, and it is counted all the same. A dashboard on
//! which the impatient do not show is well while they are not.

use std::sync::Arc;

use actix_http::{Response, StatusCode};
use bytes::Bytes;

use super::{Front, Pending};
use crate::http::headers;
use crate::http::surface::Endpoint;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::traces;

/// What metrics, traces and the access log say in the place of a status. Nobody is ever answered so.
const STATUS: u16 = 499;

/// A request that waits for its answer. Where it is dropped before that, its client has gone away.
pub(super) struct Waiting<'a> {
    front: &'a Front,
    endpoint: &'a Arc<Endpoint>,
    pending: Pending,
    is_over: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(front: &'a Front, endpoint: &'a Arc<Endpoint>, pending: Pending) -> Self {
        Self { front, endpoint, pending, is_over: false }
    }

    /// What is kept of the request while it waits.
    pub(super) fn pending(&self) -> &Pending {
        &self.pending
    }

    /// What is kept of it, now that somebody else sees to its end.
    pub(super) fn over(&mut self) -> &mut Pending {
        self.is_over = true;
        &mut self.pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.front.gone(self.endpoint, &mut self.pending);
        }
    }
}

impl Front {
    /// Counts and logs a request that nobody waits for any more, and ends its trace.
    fn gone(&self, endpoint: &Arc<Endpoint>, pending: &mut Pending) {
        let took = pending.began.elapsed();
        let status = StatusCode::from_u16(STATUS).unwrap_or(StatusCode::REQUEST_TIMEOUT);
        let route = endpoint.route.path.as_str();
        self.metrics.requests.with_label_values(&[route, status.as_str()]).inc();
        self.metrics.request_seconds.with_label_values(&[route, Outcome::Gone.as_str()]).observe(took);
        let mut response = Response::with_body(status, Bytes::new());
        response.headers_mut().insert(headers::X_REQUEST_ID, pending.request_id.clone());
        let here = pending.trace.here();
        let line = || pending.line.take().map(|line| *line);
        traces::within(here, || self.log_access(&response, Some(endpoint), took, Some(Outcome::Gone), line));
        self.end_trace(status, response.headers(), pending);
    }
}
