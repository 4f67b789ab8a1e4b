//! Requests that need the primary, sent whole to the origin in its region: one crossing instead of one a statement.
//!
//! It is the way of a request to an upstream, with three things of its own. What comes back must be from the primary, for that
//! is what was asked for. Where nobody there can be reached, and nothing was sent, the request is run here, as if there were no
//! other origin. And what may have had an effect is not tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::Response;
use actix_http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use reqwest::header::HeaderValue as Value;

use super::forward::{Incoming, end_with_body, refused, relay};
use super::headers::{X_REGION, X_ROUTE_PRIMARY};
use super::pipeline::{Pipeline, Plan};
use super::respond;
use super::session::Session;
use super::surface::Endpoint;
use crate::database::read::Consistency;
use crate::error::{Code, Error};
use crate::source::handler::Call;
use crate::source::upstream::group::{Ask, Group, Reply, Unanswered};
use crate::source::upstream::headers::has_passed_one;

/// The region that has answered a forwarded request: `X-Region` says who answered.
struct AnsweredBy(HeaderValue);

/// Why the primary's region has not answered.
enum Failure {
    /// It gave no answer.
    Unanswered(Unanswered),
    /// Who answered a read was not the primary.
    NotPrimary,
}

impl Pipeline {
    /// The origin that a request is sent on to: one that needs the primary, which is far from here. Never one that another
    /// instance has sent here: two that take each other for the primary's region would send it back and forth.
    pub(super) fn primary_origin_of(
        &self,
        request: &HttpRequest,
        endpoint: &Endpoint,
        plan: &Plan,
    ) -> Option<&Arc<Group>> {
        let group = self.upstreams.primary_origin()?;
        let needs_primary = matches!(plan, Plan::Direct(Consistency::Strong)) && endpoint.producer.upstream().is_none();
        let was_sent_here = || has_passed_one(request.headers().get_all(header::VIA).map(HeaderValue::as_bytes));
        Some(group).filter(|_| needs_primary && !was_sent_here())
    }

    /// Sends a request on and answers with what comes back, or runs it here where that is no second try. A client that goes away
    /// takes its request along.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each used once")]
    pub(super) async fn forward_strong(
        self: &Arc<Self>,
        request: &HttpRequest,
        group: &Group,
        endpoint: &Arc<Endpoint>,
        mut call: Call,
        session: &Session,
        incoming: Incoming,
        request_id: &HeaderValue,
        started: Instant,
    ) -> HttpResponse {
        let mut ask = self.onward(group, target(request), request, incoming, request_id);
        let secrets = self.settings.server.origin_secret.list();
        if let Some(Ok(secret)) = secrets.first().map(|secret| Value::from_str(secret.expose())) {
            ask.headers.insert("x-origin-verify", secret);
        }
        let asked = Instant::now();
        let failure = match self.pass_on(group, &ask, request).await {
            Ok(reply) if is_answer(&reply, &ask) => {
                self.count_forwarded("answered");
                return self.forwarded(request, reply, group, endpoint, &ask, asked.elapsed(), started);
            }
            Ok(_) => Failure::NotPrimary,
            Err(unanswered) => Failure::Unanswered(unanswered),
        };
        let error = self.told(&failure, &ask, endpoint);
        if self.database.is_some() && may_be_run_here(&failure, group, &ask) {
            let mut held = self.admission.bodies.share();
            match ask.body.take_back(|bytes| held.grow(bytes)).await {
                Ok(body) => {
                    self.count_forwarded("run_here");
                    call.body = body;
                    let response = self.respond_direct(request, endpoint, call, session, request_id, started).await;
                    return HttpResponse::from(response).map_into_boxed_body();
                }
                Err(error) => return self.not_forwarded(&error, endpoint, request_id, &ask, started),
            }
        }
        self.not_forwarded(&error, endpoint, request_id, &ask, started)
    }

    /// The answer of the primary's region, as it is.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each used once")]
    fn forwarded(
        &self,
        request: &HttpRequest,
        reply: Reply,
        group: &Group,
        endpoint: &Endpoint,
        ask: &Ask,
        waited: Duration,
        started: Instant,
    ) -> HttpResponse {
        let mut response = relay(reply, request, group.config().idle_timeout);
        let via = HeaderValue::from_bytes(group.via().as_bytes()).unwrap_or(HeaderValue::from_static("1.1 mainstay"));
        respond::mark_strong_forwarded(&mut response, endpoint, via);
        if let Some(region) = response.headers().get(X_REGION).cloned() {
            response.extensions_mut().insert(AnsweredBy(region));
        }
        end_with_body(&mut response, &ask.body);
        respond::add_forward_timing(&mut response, &self.settings.region, waited, started.elapsed());
        HttpResponse::from(response)
    }

    fn not_forwarded(
        &self,
        error: &Error,
        endpoint: &Endpoint,
        request_id: &HeaderValue,
        ask: &Ask,
        started: Instant,
    ) -> HttpResponse {
        self.count_forwarded("failed");
        let mut response = refused(error, endpoint, request_id);
        end_with_body(&mut response, &ask.body);
        respond::add_timing(&mut response, None, started.elapsed());
        HttpResponse::from(response)
    }

    /// What to say of a failure, to the caller and, where nobody else says it, to the log.
    fn told(&self, failure: &Failure, ask: &Ask, endpoint: &Endpoint) -> Error {
        let unknown = |what: &str| {
            let detail = format!("{what}: whether the request had its effect is not known");
            Error::new(Code::OutcomeUnknown, detail)
        };
        match failure {
            Failure::NotPrimary if !is_read(ask) => {
                if let Some(kept_back) = endpoint.said.may_say(Instant::now(), Code::OutcomeUnknown) {
                    log::error!(kept_back; "{}: who answered a write at PRIMARY_ORIGIN is no origin", endpoint.route.path);
                }
                unknown("who answered is not the primary's region")
            }
            Failure::NotPrimary => {
                if let Some(kept_back) = endpoint.said.may_say(Instant::now(), Code::StrongUnavailable) {
                    log::error!(kept_back; "{}: the answer to a strong read did not come from the primary; look at PRIMARY_ORIGIN, ORIGIN_SECRET and consistency.strong_header there", endpoint.route.path);
                }
                Error::new(Code::StrongUnavailable, "the primary's region did not answer from the primary")
            }
            Failure::Unanswered(Unanswered::NotSent) => {
                Error::new(Code::StrongUnavailable, "the primary's region cannot be reached; nothing was sent to it")
            }
            Failure::Unanswered(Unanswered::Broken) if is_read(ask) => {
                Error::new(Code::StrongUnavailable, "the connection to the primary's region broke")
            }
            Failure::Unanswered(Unanswered::Broken) => unknown("the connection to the primary's region broke"),
            Failure::Unanswered(Unanswered::Timeout) if is_read(ask) => {
                Error::new(Code::SourceTimeout, "the primary's region did not answer in time")
            }
            Failure::Unanswered(Unanswered::Timeout) => unknown("the primary's region did not answer in time"),
            Failure::Unanswered(Unanswered::Own(error)) => error.clone(),
        }
    }

    fn count_forwarded(&self, outcome: &str) {
        self.metrics.forwarded.with_label_values(&[outcome]).inc();
    }
}

/// Path and query as they came. They mean one thing, or there would be no route; what parses URLs must not find another one.
fn target(request: &HttpRequest) -> String {
    let mut target = request.uri().path().replace('\\', "%5C");
    if let Some(query) = request.uri().query() {
        target.push('?');
        target.push_str(query);
    }
    target
}

fn is_read(ask: &Ask) -> bool {
    matches!(ask.method.as_str(), "GET" | "HEAD")
}

/// Whether an answer is the primary's. One that is not comes from something on the way, or from an origin that has other
/// settings and did not take the request for a strong one: then it may come out of a cache.
fn says_primary(reply: &Reply) -> bool {
    reply.response.headers().get(X_ROUTE_PRIMARY.as_str()).is_some_and(|value| value == "true")
}

/// Whether an answer may be passed on. A read has one of the primary's alone. That a write was done says none but an origin; that it
/// was not, what stands before the origin may say as well.
fn is_answer(reply: &Reply, ask: &Ask) -> bool {
    let head = reply.response.headers();
    let is_refusal = reply.response.status().is_client_error() || reply.response.status().is_server_error();
    says_primary(reply) || (!is_read(ask) && (is_refusal || head.contains_key(X_REGION.as_str())))
}

/// Whether it is no second try to run a request here, or one that changes nothing.
fn may_be_run_here(failure: &Failure, group: &Group, ask: &Ask) -> bool {
    match failure {
        Failure::Unanswered(Unanswered::NotSent) => true,
        Failure::NotPrimary => is_read(ask),
        Failure::Unanswered(Unanswered::Broken) => group.is_repeatable(ask),
        Failure::Unanswered(Unanswered::Timeout | Unanswered::Own(_)) => false,
    }
}

/// Takes the name of the region that has answered out of a response, where that is another one.
pub(super) fn answered_by<B>(response: &mut Response<B>) -> Option<HeaderValue> {
    response.extensions_mut().remove::<AnsweredBy>().map(|AnsweredBy(region)| region)
}
