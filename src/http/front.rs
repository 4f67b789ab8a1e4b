//! The front: every request passes here first, and an L1 hit ends here.
//!
//! It stands beneath Actix routing and all middlewares, as a service on raw requests around the `App`. The order of
//! `Front::go` is the order of the design: limits, health, origin secret, route, credentials, consistency, cache. What it
//! cannot answer goes on into the `App` with a [`Passage`], and what comes back gets the headers that every response carries.

mod access;
mod gone;
mod service;
mod trace;

pub use service::FrontFactory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::body::MessageBody;
use actix_http::header::{self, HeaderValue};
use actix_http::{ConnectionType, HttpMessage, Method, Request, Response, StatusCode};
use arc_swap::ArcSwap;
use bytes::Bytes;
use smallvec::SmallVec;

use self::access::{Access, Line};
use super::cors::Cors;
use super::gate::{self, Check, Checked, Door};
use super::headers::Asked;
use super::health::HealthPages;
use super::pipeline::{Passage, Pipeline, Plan, Shared};
use super::rate_limit::Rated;
use super::respond::{self, CacheStatus};
use super::surface::{Endpoint, Pattern, Surface};
use super::target::{self, Arguments};
use super::{failover, headers, problem};
use crate::cache::entry::Entry;
use crate::cache::fence::Standing;
use crate::cache::policy::{Freshness, refreshes_early};
use crate::config::auth::StrongHeader;
use crate::config::manifest::access::AuthMethod;
use crate::config::settings::Settings;
use crate::config::units::Secret;
use crate::database::read::Consistency;
use crate::database::row_settings::RowSettings;
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::nodes::queue::Priority;
use crate::telemetry::metrics::{LookupResult, Metrics, Outcome, StaleReason};
use crate::telemetry::traces;
use trace::Traced;

/// The `route` label of requests that matched none.
pub const NO_ROUTE: &str = "none";
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
    access: Access,
}

/// What is kept of a request until its response is there.
struct Pending {
    request_id: HeaderValue,
    /// When it came.
    began: Instant,
    /// When it was looked at, which is later where its credentials had to be asked for.
    started: Instant,
    is_strong: bool,
    /// What L1 made of it, where that has answered; of all others the response says it.
    outcome: Option<Outcome>,
    /// What rates have said of it so far, where any has.
    rated: Option<Box<Rated>>,
    origin: Option<HeaderValue>,
    /// What the access log may say of it, where it goes on into the application.
    line: Option<Box<Line>>,
    trace: Traced,
}

/// What the front makes of a request.
enum Step {
    Answer(Response<Bytes>),
    Pass(Box<Passage>),
    /// It begins anew once this is answered.
    Ask(Box<Check>, Arc<Endpoint>),
}

/// What L1 had for a request.
enum Found {
    /// An answer, which the caller may have to refresh behind.
    Hit {
        response: Response<Bytes>,
        /// Why the answer is stale, where it is.
        stale: Option<StaleReason>,
        refresh: Option<Priority>,
        /// The entry, where the answer is to be compared with the primary.
        audit: Option<Arc<Entry>>,
    },
    /// Something too old to serve, unless the source fails and it is not too old for that.
    Expired(Option<Arc<Entry>>),
    Nothing,
}

/// A request on its way, with what has been found out about it.
struct Way<'a> {
    request: &'a Request,
    asked: Asked<'a>,
    has_payload: bool,
    /// What came of its credentials, where they had to be asked for.
    checked: Option<&'a Checked>,
    /// Who asks, on a route with `auth`, once that is known.
    identity: Option<Arc<Identity>>,
    /// What is said of them to the database.
    rows: RowSettings,
    /// The route, once it is known: errors before that are nobody's.
    endpoint: Option<&'a Arc<Endpoint>>,
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
            region: headers::interned(settings.region.clone()),
            origin_secrets: settings.server.origin_secret.list(),
            access: Access::new(&settings.log, &metrics),
            settings,
            metrics,
        }
    }

    /// Takes a request as far as L1 has answered it, or its source must, or its credentials have to be asked for.
    fn answer<'a>(
        &self,
        surface: &'a Surface,
        (request, asked): (&'a Request, Asked<'a>),
        has_payload: bool,
        checked: Option<&'a Checked>,
        pending: &mut Pending,
    ) -> Step {
        let mut way =
            Way { request, asked, has_payload, checked, identity: None, rows: RowSettings::default(), endpoint: None };
        let mut step = self
            .go(surface, &mut way, pending)
            .unwrap_or_else(|error| Step::Answer(self.refused(&error, &way, pending)));
        if let Step::Answer(response) = &mut step {
            let line = |_: &mut Pending| Some(self.line(&way));
            traces::within(pending.trace.here(), || self.finish(response, way.endpoint, pending, line));
        }
        step
    }

    fn go<'a>(&self, surface: &'a Surface, way: &mut Way<'a>, pending: &mut Pending) -> Result<Step, Error> {
        let request = way.request;
        self.check_limits(way)?;
        let path = request.uri().path();
        if path.starts_with("/health/")
            && let Some(response) = self.health.respond(path)
        {
            let allow = HeaderValue::from_static("GET, HEAD");
            return Ok(Step::Answer(if is_read(request) { response } else { method_not_allowed(&allow, pending) }));
        }
        if !self.origin_secrets.is_empty() && !way.asked.origin_is_verified(&self.origin_secrets) {
            return Err(Error::new(
                Code::OriginForbidden,
                "this origin answers only requests that carry its secret in X-Origin-Verify",
            ));
        }
        let path = target::canonical_path(path)?;
        if let Some(response) = self.pipeline.nodes.respond(&path, request, &pending.request_id) {
            let allow = HeaderValue::from_static("GET, HEAD");
            return Ok(Step::Answer(if is_read(request) { response } else { method_not_allowed(&allow, pending) }));
        }
        let Some(found) = surface.find(&path, request.method().as_str()) else {
            let documents = surface.documents.as_ref();
            if let Some(response) = documents.and_then(|documents| documents.respond(&path, &way.asked)) {
                let allow = HeaderValue::from_static("GET, HEAD");
                return Ok(Step::Answer(if is_read(request) { response } else { method_not_allowed(&allow, pending) }));
            }
            return Ok(Step::Answer(self.unknown_path(surface, pending)));
        };
        let Some(endpoint) = found.pattern.endpoint(request.method().as_str()) else {
            return Ok(Step::Answer(self.other_method(way, found.pattern, pending)));
        };
        way.endpoint = Some(endpoint);
        pending.trace.at(endpoint);
        if endpoint.cors {
            pending.origin = way.asked.origin.cloned();
        }
        let mut consistency = self.consistency(way, endpoint);
        pending.is_strong = consistency == Consistency::Strong;
        if let Some(method) = self.auth_method(way, endpoint)? {
            match gate::look(&self.pipeline.auth, method, &way.asked, way.checked)? {
                Door::Known(identity) => way.identity = Some(identity),
                Door::Unknown(check) => return self.ask(way, endpoint, check, pending),
            }
            self.admit(way, endpoint, pending)?;
            consistency = self.consistency(way, endpoint);
            pending.is_strong = consistency == Consistency::Strong;
        }
        if let Some(identity) = way.identity.as_ref().filter(|_| endpoint.route.is_one_callers()) {
            way.rows = gate::rows(&self.settings.auth.claims_settings, identity)?;
        }
        let claims = way.identity.as_ref().map(|identity| &identity.claims);
        let arguments = Arguments::read(&endpoint.route, |name| found.capture(name), request.uri().query(), claims)?;
        if !endpoint.route.is_cacheable() || pending.is_strong {
            if !self.pipeline.capabilities.answers_alone {
                return Err(failover::refusal(is_read(request), consistency));
            }
            return Ok(self.pass(way, endpoint, arguments, Plan::Direct(consistency), pending));
        }
        Ok(self.lookup(way, endpoint, arguments, pending))
    }

    /// What the front says to an error of its own. Where that is the server's, it is worth a trace.
    fn refused(&self, error: &Error, way: &Way<'_>, pending: &mut Pending) -> Response<Bytes> {
        if error.code.info().status >= 500 {
            self.record(way.request, way.endpoint, pending);
        }
        traces::within(pending.trace.here(), || refuse(error, way.endpoint, pending))
    }

    /// What a request must show, or may show to be heard with `X-Consistency`.
    fn auth_method(&self, way: &Way<'_>, endpoint: &Endpoint) -> Result<Option<AuthMethod>, Error> {
        if let Some(access) = &endpoint.route.access {
            return Ok(Some(access.method));
        }
        let is_anothers = endpoint.producer.upstream().is_some() && gate::is_for_another(&way.asked);
        let is_wanted = way.asked.strong && !way.asked.authorization.is_empty() && !is_anothers;
        if is_wanted && self.settings.consistency.strong_header == StrongHeader::Authenticated {
            return gate::method_of(&self.pipeline.auth, &way.asked);
        }
        Ok(None)
    }

    /// Leaves a request whose credential must be asked for. It counts against where it comes from: anyone can make credentials up.
    fn ask(
        &self,
        way: &Way<'_>,
        endpoint: &Arc<Endpoint>,
        mut check: Box<Check>,
        pending: &mut Pending,
    ) -> Result<Step, Error> {
        let client = self.pipeline.rates.client(way.request, endpoint);
        self.pipeline.rates.count_client(endpoint, client, &mut check.rated);
        self.check_rates(&check.rated, endpoint, pending)?;
        pending.line = self.kept_line(way);
        Ok(Step::Ask(check, Arc::clone(endpoint)))
    }

    /// Lets in who is known: by the rates of the key, and with the scopes of the route.
    fn admit(&self, way: &Way<'_>, endpoint: &Endpoint, pending: &mut Pending) -> Result<(), Error> {
        let Some(identity) = &way.identity else { return Ok(()) };
        if let Some(key) = &identity.key {
            let mut rated = Rated::default();
            self.pipeline.rates.count_key(endpoint, key, &mut rated);
            self.check_rates(&rated, endpoint, pending)?;
        }
        endpoint.route.access.as_ref().map_or(Ok(()), |access| gate::check_scopes(identity, access))
    }

    /// Whether a request is not one too many. What the rates say is told with whatever answers it.
    fn check_rates(&self, rated: &Rated, endpoint: &Endpoint, pending: &mut Pending) -> Result<(), Error> {
        if !rated.is_empty() {
            pending.rated.get_or_insert_default().extend(rated);
        }
        rated.check().inspect_err(|_| {
            self.metrics.rate_limited.with_label_values(&[endpoint.route.path.as_str()]).inc();
        })
    }

    /// Asks L1. This is the hit path: it takes no lock, copies no body, and allocates a request id.
    fn lookup(
        &self,
        way: &mut Way<'_>,
        endpoint: &Arc<Endpoint>,
        arguments: Arguments<'_>,
        pending: &mut Pending,
    ) -> Step {
        let mut canonical: SmallVec<[u8; 256]> = SmallVec::new();
        arguments.write(&endpoint.route, &mut canonical);
        let key = endpoint.keys.key(&canonical);
        let fingerprint = &endpoint.route.fingerprint;
        let found = self
            .pipeline
            .cache
            .memory
            .with(key, &canonical, fingerprint, |entry| self.judge(entry, way, endpoint, pending));
        let (result, stale) = match found {
            Found::Hit { response, stale, refresh, audit } => {
                pending.outcome = Some(if stale.is_some() { Outcome::Stale } else { Outcome::Hit });
                if let Some(reason) = stale {
                    self.pipeline.stale_served.inc(reason);
                }
                if let Some(entry) = audit {
                    let params = arguments.clone().into_params(&endpoint.route);
                    actix_rt::spawn(Arc::clone(&self.pipeline).audit(Arc::clone(endpoint), params, entry));
                }
                pending.trace.looked(pending.started, LookupResult::Hit.as_str());
                if let Some(priority) = refresh {
                    let params = arguments.into_params(&endpoint.route);
                    let refresh = || self.pipeline.refresh(endpoint, params, key, &canonical, priority);
                    traces::within(pending.trace.here(), refresh);
                }
                return Step::Answer(response);
            }
            Found::Expired(entry) => (LookupResult::Expired, entry),
            Found::Nothing => (LookupResult::Miss, None),
        };
        self.metrics.lookups.with_label_values(&["L1", result.as_str()]).inc();
        let plan = Plan::Shared(Shared { key, canonical: canonical.into_vec().into_boxed_slice(), stale });
        let step = self.pass(way, endpoint, arguments, plan, pending);
        pending.trace.looked(pending.started, result.as_str());
        step
    }

    /// What L1's entry is good for, and the response made of it where that is a hit.
    fn judge(&self, entry: Option<&Arc<Entry>>, way: &Way<'_>, endpoint: &Endpoint, pending: &Pending) -> Found {
        let Some(entry) = entry else { return Found::Nothing };
        let age = entry.age(pending.started);
        let standing = entry.standing(&self.pipeline.cache.fences, age, pending.started);
        if self.pipeline.capabilities.issues_anew {
            return self.judge_anew(entry, standing, age, way, endpoint, pending);
        }
        let (status, stale, refresh) = match usability(standing, entry, age) {
            Freshness::Fresh(left) => {
                let early = self.refreshes_early(entry, left) && entry.claim_refresh(age);
                (CacheStatus::Hit(left), None, early.then_some(Priority::Early))
            }
            Freshness::Revalidate(past) => {
                let reason = match standing {
                    Standing::Unknown => StaleReason::Unknown,
                    Standing::Purged => StaleReason::Changed,
                    _ => StaleReason::Expired,
                };
                (CacheStatus::Stale(past), Some(reason), entry.claim_refresh(age).then_some(Priority::Revalidate))
            }
            Freshness::IfError(past) => match entry.recent_failure(age, self.failure_memory()) {
                // The source failed a moment ago: nobody waits for it again, and one request looks behind whether it is back.
                Some(status) => {
                    let status = CacheStatus::StaleIfError { past, status, layer: "L1" };
                    let refresh = entry.claim_refresh(age).then_some(Priority::Revalidate);
                    (status, Some(StaleReason::SourceFailed), refresh)
                }
                None => return Found::Expired(Some(Arc::clone(entry))),
            },
            Freshness::Gone => return Found::Expired(None),
        };
        let response = respond::from_entry(entry, endpoint, &way.asked, &pending.request_id, status, age);
        let is_audited = matches!(status, CacheStatus::Hit(_)) && self.pipeline.audit.takes(pending.started);
        let audit = (is_audited && self.pipeline.can_audit(endpoint)).then(|| Arc::clone(entry));
        Found::Hit { response, stale, refresh, audit }
    }

    /// What a failover origin makes of L1's entry, whatever its age; it looks behind whether there is a newer one.
    fn judge_anew(
        &self,
        entry: &Arc<Entry>,
        standing: Standing,
        age: Duration,
        way: &Way<'_>,
        endpoint: &Endpoint,
        pending: &Pending,
    ) -> Found {
        let Some(ttl_secs) = failover::ttl_secs(standing, entry, age) else { return Found::Nothing };
        let is_looked_for = failover::wants_newer(standing, entry, age) && entry.claim_refresh(age);
        // A CDN keeps what it gets for a while. So what is known to be purged is looked for before, not behind.
        if is_looked_for && standing == Standing::Purged {
            return Found::Expired(None);
        }
        let status = CacheStatus::Reissued { ttl_secs, collapsed: false };
        let response = respond::from_entry(entry, endpoint, &way.asked, &pending.request_id, status, age);
        let stale = (ttl_secs < 0).then_some(StaleReason::Failover);
        Found::Hit { response, stale, refresh: is_looked_for.then_some(Priority::Revalidate), audit: None }
    }

    /// For how long a failed source is not waited for: until the next look at it would have failed, too.
    fn failure_memory(&self) -> Duration {
        self.settings.limits.request_timeout.0 + BACKSTOP
    }

    fn refreshes_early(&self, entry: &Entry, left: Duration) -> bool {
        refreshes_early(left, entry.cost(), self.settings.cache.early_refresh_beta, || 1.0 - fastrand::f64())
    }

    fn pass(
        &self,
        way: &mut Way<'_>,
        endpoint: &Arc<Endpoint>,
        arguments: Arguments<'_>,
        plan: Plan,
        pending: &mut Pending,
    ) -> Step {
        pending.line = self.kept_line(way);
        self.record(way.request, Some(endpoint), pending);
        Step::Pass(Box::new(Passage {
            endpoint: Arc::clone(endpoint),
            params: arguments.into_params(&endpoint.route),
            plan,
            rated: pending.rated.take().map(|rated| *rated).unwrap_or_default(),
            rows: std::mem::take(&mut way.rows),
            identity: way.identity.clone().filter(|_| endpoint.route.is_one_callers()),
            client: if way.checked.is_some() { None } else { self.pipeline.rates.client(way.request, endpoint) },
            request_id: pending.request_id.clone(),
            started: pending.began,
        }))
    }

    /// The consistency of a request: its route's, or strong where the caller may ask for it and does. Without tokens
    /// `session` acts as strong, and so does every request that may write.
    fn consistency(&self, way: &Way<'_>, endpoint: &Endpoint) -> Consistency {
        let may_ask = match self.settings.consistency.strong_header {
            StrongHeader::Anyone => true,
            StrongHeader::Authenticated => way.identity.is_some(),
            StrongHeader::Off => false,
        };
        if !is_read(way.request) || (may_ask && way.asked.strong) {
            return Consistency::Strong;
        }
        // What an upstream has seen nobody knows.
        let has_sessions = self.pipeline.sessions.are_on() && endpoint.producer.upstream().is_none();
        match endpoint.route.consistency {
            Consistency::Session if !has_sessions => Consistency::Strong,
            consistency => consistency,
        }
    }

    fn check_limits(&self, way: &Way<'_>) -> Result<(), Error> {
        let (limits, uri) = (&self.settings.limits, way.request.uri());
        let uri_bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
        if uri_bytes > limits.uri_bytes_max {
            let detail = format!("the request target has more than {} bytes", limits.uri_bytes_max);
            return Err(Error::new(Code::UriTooLong, detail));
        }
        if way.asked.lines > limits.headers_max || way.asked.bytes > limits.header_bytes_max {
            let detail =
                format!("more than {} header lines, or {} bytes in them", limits.headers_max, limits.header_bytes_max);
            return Err(Error::new(Code::HeadersTooLarge, detail));
        }
        // What may follow an `Upgrade` is no body: the offer is not taken up, and the request is answered as it is.
        let has_body = way.has_payload && !way.request.upgrade();
        if has_body && (is_read(way.request) || way.request.method() == Method::OPTIONS) {
            return Err(Error::new(Code::BodyNotAllowed, "a GET, HEAD or OPTIONS request has no body"));
        }
        Ok(())
    }

    fn unknown_path(&self, surface: &Surface, pending: &Pending) -> Response<Bytes> {
        let error = Error::new(Code::RouteNotFound, "no route has this path");
        let routes = self.settings.server.list_routes_on_404.then_some(surface.public_routes.as_slice());
        problem::response(&error, &pending.request_id, routes)
    }

    /// OPTIONS, or a method that the path does not have.
    fn other_method(&self, way: &Way<'_>, pattern: &Pattern, pending: &Pending) -> Response<Bytes> {
        let mut response = if way.request.method() == Method::OPTIONS {
            let mut response = Response::with_body(StatusCode::NO_CONTENT, Bytes::new());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response.headers_mut().insert(header::ALLOW, pattern.allow.clone());
            response
        } else {
            method_not_allowed(&pattern.allow, pending)
        };
        if pattern.cors() {
            self.cors.apply(way.asked.origin, response.headers_mut());
            self.cors.preflight(way.request.headers(), &pattern.allow, response.headers_mut());
        }
        response
    }

    /// What every response carries, whoever made it; then it is counted and, where asked for, logged: `line` is what there
    /// is to say of the request.
    fn finish<B: MessageBody>(
        &self,
        response: &mut Response<B>,
        endpoint: Option<&Arc<Endpoint>>,
        pending: &mut Pending,
        line: impl FnOnce(&mut Pending) -> Option<Line>,
    ) {
        let status = response.status();
        if self.health.closes_connections() {
            // The client opens its next connection elsewhere, instead of finding this one cut off under a request.
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        // Moved, not cloned: to share a value that nobody shared yet takes an allocation.
        let request_id = std::mem::replace(&mut pending.request_id, HeaderValue::from_static(""));
        let own = [(headers::X_REGION, self.region.clone()), (headers::X_REQUEST_ID, request_id)];
        let head = response.headers_mut();
        if pending.outcome.is_some() {
            // L1 has said neither, and appending is cheaper.
            own.into_iter().for_each(|(name, value)| head.append(name, value));
        } else {
            own.into_iter().for_each(|(name, value)| drop(head.insert(name, value)));
        }
        if pending.is_strong {
            head.insert(headers::X_ROUTE_PRIMARY, HeaderValue::from_static("true"));
        }
        if let Some(rated) = pending.rated.take() {
            rated.tell(head);
        }
        if endpoint.is_some_and(|endpoint| endpoint.cors) {
            self.cors.apply(pending.origin.as_ref(), head);
        }
        let cached = endpoint.and_then(|endpoint| endpoint.counters.cached.as_deref());
        match (endpoint, cached, status) {
            (Some(endpoint), _, StatusCode::OK) => endpoint.counters.ok.inc(),
            (_, Some(cached), StatusCode::NOT_MODIFIED) => cached.not_modified.inc(),
            (endpoint, _, status) => {
                self.metrics.requests.with_label_values(&[route_label(endpoint), status.as_str()]).inc();
            }
        }
        let took = pending.began.elapsed();
        match (pending.outcome, cached) {
            (Some(Outcome::Hit), Some(cached)) => cached.hit.observe(took),
            (Some(Outcome::Stale), Some(cached)) => cached.stale.observe(took),
            _ => {
                let outcome = respond::outcome(status, head);
                self.metrics
                    .request_seconds
                    .with_label_values(&[route_label(endpoint), outcome.as_str()])
                    .observe(took);
            }
        }
        let known = pending.outcome;
        self.log_access(response, endpoint, took, known, || line(pending));
        self.end_trace(status, response.headers(), pending);
    }

    fn pending(
        &self,
        request: &Request,
        asked: &Asked<'_>,
        checked: Option<&Checked>,
        trace: Option<Traced>,
    ) -> Pending {
        let started = Instant::now();
        Pending {
            request_id: asked.request_id(),
            began: checked.map_or(started, |checked| checked.began),
            started,
            is_strong: false,
            outcome: None,
            rated: checked.filter(|checked| !checked.rated.is_empty()).map(|checked| Box::new(checked.rated.clone())),
            origin: None,
            line: None,
            trace: trace.unwrap_or_else(|| self.begin_trace(request, asked, started)),
        }
    }
}

/// What an entry may be used for, by its age and by what was told of changes.
fn usability(standing: Standing, entry: &Entry, age: Duration) -> Freshness {
    match (standing, entry.freshness(age)) {
        (Standing::Current, freshness) => freshness,
        (Standing::Forbidden, _) | (_, Freshness::Gone) => Freshness::Gone,
        // Nobody says that it is wrong, so nobody waits; but it is not claimed to be fresh.
        (Standing::Unknown, Freshness::Fresh(_)) => Freshness::Revalidate(Duration::ZERO),
        (Standing::Unknown, freshness) => freshness,
        (Standing::Purged, Freshness::Fresh(_)) if entry.outlives_change => Freshness::Revalidate(Duration::ZERO),
        (Standing::Purged, freshness @ Freshness::Revalidate(_)) if entry.outlives_change => freshness,
        (Standing::Purged, _) if entry.limits.stale_if_error.is_zero() => Freshness::Gone,
        (Standing::Purged, Freshness::Fresh(_)) => Freshness::IfError(Duration::ZERO),
        (Standing::Purged, Freshness::Revalidate(past) | Freshness::IfError(past)) => Freshness::IfError(past),
    }
}

fn refuse(error: &Error, endpoint: Option<&Arc<Endpoint>>, pending: &Pending) -> Response<Bytes> {
    match endpoint {
        Some(endpoint) => respond::from_error(error, endpoint, &pending.request_id, CacheStatus::Bypass),
        None => problem::response(error, &pending.request_id, None),
    }
}

fn route_label(endpoint: Option<&Arc<Endpoint>>) -> &str {
    endpoint.map_or(NO_ROUTE, |endpoint| &endpoint.route.path)
}

fn is_read(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn method_not_allowed(allow: &HeaderValue, pending: &Pending) -> Response<Bytes> {
    let detail = format!("this path answers {}", allow.to_str().unwrap_or_default());
    let mut response = problem::response(&Error::new(Code::MethodNotAllowed, detail), &pending.request_id, None);
    response.headers_mut().insert(header::ALLOW, allow.clone());
    response
}
