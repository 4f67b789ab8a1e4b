//! The first span of a request: sampled at its start, or begun where the request goes past L1, or fails.

use std::sync::Arc;
use std::time::Instant;

use actix_http::header::{HeaderMap, HeaderValue};
use actix_http::{HttpMessage, Method, Request, StatusCode};

use super::{Front, Pending};
use crate::http::headers::{self, Asked};
use crate::http::surface::Endpoint;
use crate::telemetry::traces::{Here, Said, Span, SpanKind};

/// What is known of a request's trace.
#[derive(Default)]
pub(super) struct Traced {
    /// None while nothing is recorded.
    root: Span,
    /// What its caller said, for a span that begins later.
    said: Option<Box<Said>>,
    /// Whether the first span says where the request belongs. A request whose credentials are asked for comes there twice.
    is_placed: bool,
}

impl Traced {
    /// Where its children begin.
    pub(super) fn here(&self) -> Option<Here> {
        self.root.here()
    }

    /// Says where a request belongs, once that is known.
    pub(super) fn at(&mut self, endpoint: &Endpoint) {
        if self.root.is_some() && !std::mem::replace(&mut self.is_placed, true) {
            self.root.rename(|method| format!("{method} {}", endpoint.route.path));
            self.root.set("http.route", endpoint.route.path.clone());
        }
    }

    /// Tells of a look into L1.
    pub(super) fn looked(&self, began: Instant, result: &'static str) {
        if let Some(here) = self.root.here() {
            here.span_since("L1 look", SpanKind::Internal, began).set("mainstay.result", result);
        }
    }
}

impl Front {
    /// Begins a trace where the request is sampled. Else no more is done than to keep what its caller has said.
    pub(super) fn begin_trace(&self, request: &Request, asked: &Asked<'_>, began: Instant) -> Traced {
        let Some(traces) = &self.pipeline.traces else { return Traced::default() };
        let lines = |name| request.headers().get_all(name).map(HeaderValue::as_bytes);
        let said = if asked.has_trace { Said::read(lines) } else { None };
        if traces.samples(said.as_ref()) {
            return Traced {
                root: traces.root(name(request.method()), SpanKind::Server, said.as_ref(), true, began),
                ..Traced::default()
            };
        }
        Traced { said: said.map(Box::new), ..Traced::default() }
    }

    /// Records a request from here on, whose end decides whether that is kept.
    pub(super) fn record(&self, request: &Request, endpoint: Option<&Arc<Endpoint>>, pending: &mut Pending) {
        let Some(traces) = self.pipeline.traces.as_ref().filter(|_| !pending.trace.root.is_some()) else { return };
        let said = pending.trace.said.take();
        pending.trace.root =
            traces.root(name(request.method()), SpanKind::Server, said.as_deref(), false, pending.began);
        if let Some(endpoint) = endpoint {
            pending.trace.at(endpoint);
        }
    }

    /// Ends the trace of a request with what its response says.
    pub(super) fn end_trace(&self, status: StatusCode, head: &HeaderMap, pending: &mut Pending) {
        let mut root = std::mem::take(&mut pending.trace.root);
        if !root.is_some() {
            return;
        }
        root.set("http.response.status_code", status.as_u16());
        for (key, name) in
            [("mainstay.cache_status", &headers::CACHE_STATUS), ("mainstay.request_id", &headers::X_REQUEST_ID)]
        {
            if let Some(text) = head.get(name).and_then(|value| value.to_str().ok()) {
                root.set(key, text.to_owned());
            }
        }
        if status.is_server_error() {
            root.fail(status.canonical_reason().unwrap_or("server error"));
            root.keep();
        }
    }
}

/// A method as spans are named: of those that nobody knows there may be any number.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "HTTP",
    }
}
