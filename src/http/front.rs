//! The front: every request passes here first, and an L1 hit ends here.
//!
//! It stands beneath Actix routing and all middlewares, as a service on raw requests around the `App`. The order of
//! [`Front::answer`] is the order of the design: limits, health, origin secret, route, consistency, cache. What it cannot
//! answer goes on into the `App` with a [`Passage`], and what comes back gets the headers that every response carries.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::body::{BoxBody, EitherBody};
use actix_http::header::{self, HeaderMap, HeaderValue};
use actix_http::{HttpMessage, Payload, Request, Response, StatusCode, Version};
use actix_service::{Service, ServiceFactory};
use actix_web::dev::{AppConfig, ServiceResponse};
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};
use smallvec::SmallVec;

use super::cors::Cors;
use super::health::HealthPages;
use super::pipeline::{Passage, Pipeline, Plan, Shared};
use super::respond::{self, CacheStatus};
use super::surface::{Endpoint, Pattern, Surface};
use super::target::{self, Arguments};
use super::{headers, problem};
use crate::cache::entry::Entry;
use crate::cache::policy::{Freshness, refreshes_early};
use crate::config::settings::{AccessLog, Settings, StrongHeader};
use crate::config::units::Secret;
use crate::database::read::Consistency;
use crate::error::{Code, Error};
use crate::telemetry::metrics::{LookupResult, Metrics};

/// The `route` label of requests that matched none.
const NO_ROUTE: &str = "none";
/// How much longer than its own deadline a request may take before it is cut off from outside.
const BACKSTOP: Duration = Duration::from_secs(2);

/// What every response of this server has in common, and what answers from L1.
pub struct Front {
    surface: Arc<ArcSwap<Surface>>,
    pipeline: Arc<Pipeline>,
    health: Arc<HealthPages>,
    cors: Cors,
    region: HeaderValue,
    origin_secrets: Vec<Secret>,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
}

type Answered = Response<EitherBody<Bytes, BoxBody>>;

/// What is kept of a request until its response is there.
struct Trace {
    request_id: HeaderValue,
    started: Instant,
    endpoint: Option<Arc<Endpoint>>,
    is_strong: bool,
    origin: Option<HeaderValue>,
    /// The request line, where an access log may want it.
    line: Option<String>,
}

/// What the front makes of a request.
enum Step {
    Answer(Response<Bytes>),
    Pass(Passage),
}

impl Front {
    /// A front over a surface that may be swapped, and a pipeline behind it.
    pub fn new(surface: Arc<ArcSwap<Surface>>, pipeline: Arc<Pipeline>, health: Arc<HealthPages>) -> Self {
        let (settings, metrics) = (Arc::clone(&pipeline.settings), Arc::clone(&pipeline.metrics));
        Self {
            surface,
            pipeline,
            health,
            cors: Cors::new(&settings.cors),
            region: headers::value(settings.region.clone()),
            origin_secrets: settings.server.origin_secret.list(),
            settings,
            metrics,
        }
    }

    /// The way of a request, up to where L1 has answered it or its source must.
    fn answer(&self, request: &Request, trace: &mut Trace) -> Step {
        match self.way(request, trace) {
            Ok(step) => step,
            Err(error) => Step::Answer(self.refuse(&error, trace)),
        }
    }

    fn way(&self, request: &Request, trace: &mut Trace) -> Result<Step, Error> {
        self.check_limits(request)?;
        let path = request.uri().path();
        if path.starts_with("/health/")
            && let Some(response) = self.health.respond(path)
        {
            return if is_read(request) { Ok(Step::Answer(response)) } else { Err(method_not_allowed("GET, HEAD")) };
        }
        if !self.origin_secrets.is_empty() && !headers::origin_is_verified(request.headers(), &self.origin_secrets) {
            return Err(Error::new(
                Code::OriginForbidden,
                "this origin answers only requests that carry its secret in X-Origin-Verify",
            ));
        }
        let surface = self.surface.load();
        let path = target::canonical_path(path)?;
        let Some(found) = surface.find(&path) else {
            return Ok(Step::Answer(self.unknown_path(&surface, trace)));
        };
        let Some(endpoint) = found.pattern.endpoint(request.method().as_str()) else {
            return Ok(Step::Answer(self.other_method(request, found.pattern, trace)));
        };
        trace.endpoint = Some(Arc::clone(endpoint));
        if endpoint.cors {
            trace.origin = request.headers().get(header::ORIGIN).cloned();
        }
        let consistency = self.consistency(request, endpoint);
        trace.is_strong = consistency == Consistency::Strong;
        let arguments = Arguments::read(&endpoint.route, |name| found.capture(name), request.uri().query())?;
        let is_shared = endpoint.route.is_cacheable() && !trace.is_strong;
        if !is_shared {
            let plan = Plan::Direct(consistency);
            return Ok(Step::Pass(self.passage(endpoint, arguments, plan, trace)));
        }
        Ok(self.lookup(request, endpoint, arguments, trace))
    }

    /// Asks L1. This is the hit path: it allocates the values of three headers, takes no lock and copies no body.
    fn lookup(&self, request: &Request, endpoint: &Arc<Endpoint>, arguments: Arguments<'_>, trace: &Trace) -> Step {
        let mut canonical: SmallVec<[u8; 256]> = SmallVec::new();
        arguments.write(&endpoint.route, &mut canonical);
        let key = endpoint.keys.key(&canonical);
        let entry = self.pipeline.cache.memory.get(key, &canonical, &endpoint.route.fingerprint);
        let now = trace.started;
        let (result, served) = match entry.as_ref().map(|entry| (entry, entry.freshness(now))) {
            Some((entry, Freshness::Fresh(left))) => {
                if self.refreshes_early(entry, left) && entry.claim_refresh(now) {
                    self.pipeline.refresh(endpoint, arguments.into_params(&endpoint.route), key, &canonical);
                }
                endpoint.counters.hit.inc();
                return self.hit(request, endpoint, entry, CacheStatus::Hit(left), trace);
            }
            Some((entry, Freshness::Revalidate(past))) => {
                if entry.claim_refresh(now) {
                    self.pipeline.refresh(endpoint, arguments.into_params(&endpoint.route), key, &canonical);
                }
                endpoint.counters.stale.inc();
                return self.hit(request, endpoint, entry, CacheStatus::Stale(past), trace);
            }
            Some((entry, Freshness::IfError(_))) => (LookupResult::Expired, Some(Arc::clone(entry))),
            Some((_, Freshness::Gone)) => (LookupResult::Expired, None),
            None => (LookupResult::Miss, None),
        };
        self.metrics.lookups.with_label_values(&["L1", result.as_str()]).inc();
        let plan = Plan::Shared(Shared { key, canonical: canonical.into_vec().into_boxed_slice(), stale: served });
        Step::Pass(self.passage(endpoint, arguments, plan, trace))
    }

    fn hit(&self, request: &Request, endpoint: &Endpoint, entry: &Entry, status: CacheStatus, trace: &Trace) -> Step {
        Step::Answer(respond::from_entry(entry, endpoint, request.headers(), &trace.request_id, status, trace.started))
    }

    fn refreshes_early(&self, entry: &Entry, left: Duration) -> bool {
        refreshes_early(left, entry.cost, self.settings.cache.early_refresh_beta, || 1.0 - fastrand::f64())
    }

    fn passage(&self, endpoint: &Arc<Endpoint>, arguments: Arguments<'_>, plan: Plan, trace: &Trace) -> Passage {
        Passage {
            endpoint: Arc::clone(endpoint),
            params: arguments.into_params(&endpoint.route),
            plan,
            request_id: trace.request_id.clone(),
            started: trace.started,
        }
    }

    /// The consistency of a request: its route's, or strong where the caller may ask for it and does. Without tokens
    /// `session` acts as strong, and so does every request that may write.
    fn consistency(&self, request: &Request, endpoint: &Endpoint) -> Consistency {
        let may_ask = self.settings.consistency.strong_header == StrongHeader::Anyone;
        let is_strong = endpoint.route.consistency != Consistency::Eventual
            || !is_read(request)
            || (may_ask && headers::asks_for_strong(request.headers()));
        if is_strong { Consistency::Strong } else { Consistency::Eventual }
    }

    fn check_limits(&self, request: &Request) -> Result<(), Error> {
        let limits = &self.settings.limits;
        let uri = request.uri();
        let uri_bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
        if uri_bytes > limits.uri_bytes_max {
            return Err(Error::new(
                Code::UriTooLong,
                format!("the request target has more than {} bytes", limits.uri_bytes_max),
            ));
        }
        let (mut lines, mut bytes) = (0, 0);
        for (name, value) in request.headers() {
            lines += 1;
            bytes += name.as_str().len() + value.len();
        }
        if lines > limits.headers_max || bytes > limits.header_bytes_max {
            let detail =
                format!("more than {} header lines, or {} bytes in them", limits.headers_max, limits.header_bytes_max);
            return Err(Error::new(Code::HeadersTooLarge, detail));
        }
        if has_body(request) && (is_read(request) || request.method() == "OPTIONS") {
            return Err(Error::new(Code::BodyNotAllowed, "a GET, HEAD or OPTIONS request has no body"));
        }
        Ok(())
    }

    fn refuse(&self, error: &Error, trace: &Trace) -> Response<Bytes> {
        match &trace.endpoint {
            Some(endpoint) => respond::from_error(error, endpoint, &trace.request_id, CacheStatus::Bypass),
            None => problem::response(error, &trace.request_id, None),
        }
    }

    fn unknown_path(&self, surface: &Surface, trace: &Trace) -> Response<Bytes> {
        let error = Error::new(Code::RouteNotFound, "no route has this path");
        let routes = self.settings.server.list_routes_on_404.then_some(surface.public_routes.as_slice());
        problem::response(&error, &trace.request_id, routes)
    }

    /// OPTIONS, or a method that the path does not have.
    fn other_method(&self, request: &Request, pattern: &Pattern, trace: &mut Trace) -> Response<Bytes> {
        let mut response = if request.method() == "OPTIONS" {
            let mut response = Response::with_body(StatusCode::NO_CONTENT, Bytes::new());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        } else {
            let allow = pattern.allow.to_str().unwrap_or_default();
            problem::response(&method_not_allowed(allow), &trace.request_id, None)
        };
        response.headers_mut().insert(header::ALLOW, pattern.allow.clone());
        if pattern.cors() {
            self.cors.apply(request.headers().get(header::ORIGIN), response.headers_mut());
            self.cors.preflight(request.headers(), &pattern.allow, response.headers_mut());
        }
        response
    }

    /// What every response carries, whoever made it; then it is counted and, where asked for, logged.
    fn finish<B>(&self, response: &mut Response<B>, trace: &Trace, from_front: bool) {
        let status = response.status();
        let head = response.headers_mut();
        head.insert(headers::X_REGION, self.region.clone());
        head.insert(headers::X_REQUEST_ID, trace.request_id.clone());
        if trace.is_strong {
            head.insert(headers::X_ROUTE_PRIMARY, HeaderValue::from_static("true"));
        }
        if trace.endpoint.as_ref().is_some_and(|endpoint| endpoint.cors) {
            self.cors.apply(trace.origin.as_ref(), head);
        }
        self.count(status, trace, from_front);
        self.log_access(status, head, trace);
    }

    fn count(&self, status: StatusCode, trace: &Trace, from_front: bool) {
        match (&trace.endpoint, status) {
            (Some(endpoint), StatusCode::OK) => endpoint.counters.ok.inc(),
            (Some(endpoint), StatusCode::NOT_MODIFIED) => endpoint.counters.not_modified.inc(),
            (endpoint, status) => {
                let route = endpoint.as_ref().map_or(NO_ROUTE, |endpoint| &endpoint.route.path);
                self.metrics.requests.with_label_values(&[route, status.as_str()]).inc();
            }
        }
        if !from_front {
            let route = trace.endpoint.as_ref().map_or(NO_ROUTE, |endpoint| &endpoint.route.path);
            let outcome = if status.is_server_error() { "error" } else { "ok" };
            self.metrics
                .request_seconds
                .with_label_values(&[route, outcome])
                .observe(trace.started.elapsed().as_secs_f64());
        }
    }

    fn log_access(&self, status: StatusCode, head: &HeaderMap, trace: &Trace) {
        let wanted = match self.settings.log.access {
            AccessLog::All => true,
            AccessLog::Errors => status.is_server_error(),
            AccessLog::Off => false,
        };
        if wanted {
            let cache = head.get(&headers::CACHE_STATUS).and_then(|value| value.to_str().ok()).unwrap_or_default();
            log::info!(
                target: "mainstay::access",
                status = status.as_u16(),
                request_id = trace.request_id.to_str().unwrap_or_default(),
                duration_us = u64::try_from(trace.started.elapsed().as_micros()).unwrap_or(u64::MAX),
                cache_status = cache;
                "{}", trace.line.as_deref().or(trace.endpoint.as_ref().map(|endpoint| &*endpoint.route.path)).unwrap_or(NO_ROUTE)
            );
        }
    }

    fn trace(&self, request: &Request) -> Trace {
        let wants_line = self.settings.log.access == AccessLog::All;
        Trace {
            request_id: headers::request_id(request.headers()),
            started: Instant::now(),
            endpoint: None,
            is_strong: false,
            origin: None,
            line: wants_line.then(|| format!("{} {}", request.method(), request.uri())),
        }
    }
}

fn is_read(request: &Request) -> bool {
    matches!(request.method().as_str(), "GET" | "HEAD")
}

/// Whether a body follows. In HTTP/2 a payload is always there, so that its announced length has to tell.
fn has_body(request: &Request) -> bool {
    if request.version() == Version::HTTP_2 {
        return request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    }
    request.headers().contains_key(header::TRANSFER_ENCODING)
        || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn method_not_allowed(allow: &str) -> Error {
    Error::new(Code::MethodNotAllowed, format!("this path answers {allow}"))
}

/// Makes a [`FrontService`] for each worker.
pub struct FrontFactory<F> {
    /// The front, shared by all workers.
    pub front: Arc<Front>,
    /// The Actix application behind it.
    pub app: F,
}

/// The front as a service around the Actix application.
pub struct FrontService<S> {
    front: Arc<Front>,
    app: S,
}

impl<F> ServiceFactory<Request> for FrontFactory<F>
where
    F: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<BoxBody>,
            Error = actix_web::Error,
            InitError = (),
        >,
    F::Future: 'static,
    F::Service: 'static,
{
    type Response = Answered;
    type Error = actix_web::Error;
    type Config = AppConfig;
    type Service = FrontService<F::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, config: AppConfig) -> Self::Future {
        let front = Arc::clone(&self.front);
        let app = self.app.new_service(config);
        async move { Ok(FrontService { front, app: app.await? }) }.boxed_local()
    }
}

impl<S> Service<Request> for FrontService<S>
where
    S: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
    S::Future: 'static,
{
    type Response = Answered;
    type Error = actix_web::Error;
    type Future =
        Either<Ready<Result<Answered, actix_web::Error>>, LocalBoxFuture<'static, Result<Answered, actix_web::Error>>>;

    actix_service::forward_ready!(app);

    fn call(&self, request: Request) -> Self::Future {
        let mut trace = self.front.trace(&request);
        match self.front.answer(&request, &mut trace) {
            Step::Answer(mut response) => {
                self.front.finish(&mut response, &trace, true);
                if has_unread_body(request) {
                    // What is left of the body must not be read as the next request.
                    response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
                }
                Either::Left(ready(Ok(response.map_body(|_, body| EitherBody::left(body)))))
            }
            Step::Pass(passage) => {
                request.extensions_mut().insert(passage);
                let (front, work) = (Arc::clone(&self.front), self.app.call(request));
                Either::Right(async move { Ok(front.pass(work, trace).await) }.boxed_local())
            }
        }
    }
}

fn has_unread_body(mut request: Request) -> bool {
    matches!(request.take_payload(), Payload::H1 { .. })
}

impl Front {
    /// Waits for the application. A panic in it, or work without an end, is answered like other errors.
    async fn pass<F>(&self, work: F, trace: Trace) -> Answered
    where
        F: Future<Output = Result<ServiceResponse<BoxBody>, actix_web::Error>>,
    {
        let limits = &self.settings.limits;
        let longest = limits.request_timeout.0 + limits.body_timeout.0 + BACKSTOP;
        let work = AssertUnwindSafe(work).catch_unwind();
        let mut response = match actix_rt::time::timeout(longest, work).await {
            Ok(Ok(Ok(response))) => Response::from(response).map_body(|_, body| EitherBody::right(body)),
            Ok(Ok(Err(error))) => self.failed(format!("the application failed: {error}"), Code::Internal, &trace),
            Ok(Err(_)) => self.failed("a middleware panicked".to_owned(), Code::Internal, &trace),
            Err(_) => self.failed("a request ran past all deadlines".to_owned(), Code::SourceTimeout, &trace),
        };
        self.finish(&mut response, &trace, false);
        response
    }

    fn failed(&self, log_line: String, code: Code, trace: &Trace) -> Answered {
        log::error!("{log_line}");
        let response = self.refuse(&Error::new(code, "the request failed; the log says why"), trace);
        response.map_body(|_, body| EitherBody::left(body))
    }
}
