//! The way of a request that L1 did not answer: join the fill for its key, or go straight to the source.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::header::{self, HeaderName, HeaderValue};
use actix_http::{Method, Response};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::FutureExt;

use super::admission::Admission;
use super::alone::Alone;
use super::audit::Audit;
use super::client::Client;
use super::failover::Starting;
use super::fill::{Fill, Produced, beside, outcome_of};
use super::forward::Incoming;
use super::headers::{Asked, X_ORIGIN_VERIFY, without_console};
use super::hot::Hot;
use super::middleware::Next;
use super::nodes::NodePages;
use super::rate_limit::{Rated, Rates};
use super::respond::{self, CacheStatus};
use super::session::{Session, Sessions};
use super::shadow::Shadows;
use super::surface::Endpoint;
use crate::auth::Auth;
use crate::cache::Cache;
use crate::cache::entry::Entry;
use crate::cache::fence::Standing;
use crate::cache::fill::{Filled, Layer};
use crate::cache::key::Key;
use crate::cache::policy::Freshness;
use crate::cache::variants::Encoding;
use crate::config::param::Params;
use crate::config::settings::Settings;
use crate::database::read::{Consistency, Database};
use crate::database::row_settings::RowSettings;
use crate::database::write::in_doubt;
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::mode::Capabilities;
use crate::nodes::queue::Priority;
use crate::source::handler::{Call, Caller};
use crate::source::upstream::UpstreamSource;
use crate::source::upstream::group::Upstreams;
use crate::telemetry::metrics::stale::StaleServed;
use crate::telemetry::metrics::{Metrics, StaleReason};
use crate::telemetry::traces;
use crate::telemetry::traces::{SpanKind, Traces};

/// A request that goes past L1.
pub struct Passage {
    /// Its route.
    pub endpoint: Arc<Endpoint>,
    /// Its parameters.
    pub params: Params,
    /// Whether a shared answer may do.
    pub plan: Plan,
    /// Who asks, where the answer is for them alone.
    pub identity: Option<Arc<Identity>>,
    /// What is said of them to the database.
    pub rows: RowSettings,
    /// Where they ask from, where that is still to be counted.
    pub client: Option<Client>,
    /// What was counted already.
    pub rated: Rated,
    /// Its id.
    pub request_id: HeaderValue,
    /// When its header was read.
    pub started: Instant,
}

/// Whether a shared answer may do.
pub enum Plan {
    /// It is answered by a fill that is shared, and whose result is kept.
    Shared(Shared),
    /// It is answered by the source, for itself alone.
    Direct(Consistency),
}

/// What a fill needs to know of a request.
pub struct Shared {
    /// The key.
    pub key: Key,
    /// The canonical request.
    pub canonical: Box<[u8]>,
    /// What L1 holds that is too old to serve unless the source fails.
    pub stale: Option<Arc<Entry>>,
}

/// Everything that work on a miss needs.
pub struct Pipeline {
    /// The cache.
    pub cache: Cache,
    /// The databases, where configured.
    pub database: Option<Arc<Database>>,
    /// What this instance does.
    pub capabilities: Capabilities,
    /// What requests wait for that come while a failover origin starts.
    pub starting: Starting,
    /// The settings.
    pub settings: Arc<Settings>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What was served though it was not fresh.
    pub stale_served: StaleServed,
    /// How many sources may run.
    pub admission: Admission,
    /// What checks credentials.
    pub auth: Arc<Auth>,
    /// What sessions have seen.
    pub sessions: Sessions,
    /// How often clients may ask.
    pub rates: Rates,
    /// What is told of nodes.
    pub nodes: NodePages,
    /// Answers to render again when they fall.
    pub hot: Hot,
    /// Which hits are compared with the primary.
    pub audit: Audit,
    /// The endpoints of upstreams.
    pub upstreams: Upstreams,
    /// Keys whose answers are not shared.
    pub alone: Alone,
    /// What upstreams and their shadows have said.
    pub shadows: Shadows,
    /// What is traced, where anything is.
    pub traces: Option<Arc<Traces>>,
}

impl Pipeline {
    /// Answers a request that L1 did not.
    pub async fn respond(self: &Arc<Self>, request: &HttpRequest, body: Incoming, passage: Passage) -> HttpResponse {
        let Passage { endpoint, params, plan, identity, rows, request_id, started, .. } = passage;
        let upstream = endpoint.producer.upstream();
        let primary_origin = self.primary_origin_of(request, &endpoint, &plan);
        if let Some(Err(error)) = upstream.map(|source| Self::check_loop(source, request)) {
            let response = respond::from_error(&error, &endpoint, &request_id, CacheStatus::Bypass);
            return HttpResponse::from(response).map_into_boxed_body();
        }
        if self.capabilities.fills && upstream.is_some() && request.method() == Method::GET {
            self.shadow(&endpoint, &params);
        }
        match (plan, upstream) {
            (Plan::Shared(shared), _) if self.capabilities.issues_anew => {
                let mut response = self.respond_anew(request, &endpoint, params, shared, &request_id).await;
                respond::add_timing(&mut response, None, started.elapsed());
                HttpResponse::from(response).map_into_boxed_body()
            }
            (Plan::Direct(consistency), upstream) => {
                let work = async {
                    match (upstream, primary_origin) {
                        (Some(source), _) => {
                            let forward = self.forward(request, source, &endpoint, &params, body, &request_id, started);
                            let mut response = forward.await;
                            if consistency == Consistency::Strong {
                                // Asked for at the source, it is no answer for others, whatever the upstream says.
                                respond::forbid_keeping(response.headers_mut(), &endpoint);
                            }
                            response
                        }
                        (None, primary_origin) => {
                            let method = request.method().as_str();
                            let session = self.sessions.of(request, consistency, identity.as_ref());
                            let call = self.call(params, method, Bytes::new(), consistency, session.seen);
                            let mut call = call.of(Arc::new(caller(request, identity, rows)));
                            match primary_origin {
                                Some(group) => {
                                    let forward = self.forward_strong(
                                        request,
                                        group,
                                        &endpoint,
                                        call,
                                        &session,
                                        body,
                                        &request_id,
                                        started,
                                    );
                                    forward.await
                                }
                                None => {
                                    call.body = body.whole();
                                    let response =
                                        self.respond_direct(request, &endpoint, call, &session, &request_id, started);
                                    HttpResponse::from(response.await).map_into_boxed_body()
                                }
                            }
                        }
                    }
                };
                Next::new(&endpoint.middlewares, work.boxed_local()).run(request).await
            }
            (Plan::Shared(shared), Some(source)) => {
                self.respond_or_forward(request, source, &endpoint, params, shared, &request_id, started).await
            }
            (Plan::Shared(shared), None) => {
                let response = self.respond_shared(request, &endpoint, params, shared, &request_id, started).await;
                let (Ok(response) | Err(response)) = response;
                HttpResponse::from(response).map_into_boxed_body()
            }
        }
    }

    /// Answers with a shared answer, or by itself where there is none to share.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each used once")]
    async fn respond_or_forward(
        self: &Arc<Self>,
        request: &HttpRequest,
        source: &UpstreamSource,
        endpoint: &Arc<Endpoint>,
        params: Params,
        shared: Shared,
        request_id: &HeaderValue,
        started: Instant,
    ) -> HttpResponse {
        if !self.alone.has(shared.key, Instant::now()) {
            let work = self.respond_shared(request, endpoint, params.clone(), shared, request_id, started);
            if let Ok(response) = work.await {
                return HttpResponse::from(response).map_into_boxed_body();
            }
        }
        let nothing = Incoming::Whole(Bytes::new());
        self.forward(request, source, endpoint, &params, nothing, request_id, started).await
    }

    /// Answers with what a fill makes, or with what is kept for when it fails. An error: the answer is one that is not shared, and
    /// what to say where the request cannot go by itself.
    async fn respond_shared(
        self: &Arc<Self>,
        request: &HttpRequest,
        endpoint: &Arc<Endpoint>,
        params: Params,
        shared: Shared,
        request_id: &HeaderValue,
        started: Instant,
    ) -> Result<Response<Bytes>, Response<Bytes>> {
        let had_stale = shared.stale.is_some();
        let (outcome, collapsed) = match self.join(Fill::new(endpoint, params, shared.key, &shared.canonical)) {
            Some((wait, collapsed)) => {
                let outcome = actix_rt::time::timeout(self.settings.limits.request_timeout.0, wait.outcome()).await;
                let late = |_| Err(Error::new(Code::SourceTimeout, "the source did not answer in time"));
                (outcome.unwrap_or_else(late), collapsed)
            }
            None => (Err(Error::new(Code::Overloaded, "as many requests as may are waiting")), false),
        };
        let (asked, now) = (Asked::read(request.headers()), Instant::now());
        let mut status = CacheStatus::Forwarded { had_stale, stored: false, collapsed };
        let mut took = None;
        let mut response = match outcome {
            Ok(Filled { entry, stored, layer, .. }) => {
                let age = entry.age(now);
                // A purge may have come since the fill ended.
                let standing = entry.standing(&self.cache.fences, age, now);
                let stored = stored && !matches!(standing, Standing::Purged | Standing::Forbidden);
                status = match (layer, entry.freshness(age)) {
                    (Layer::Shared, Freshness::Fresh(left)) if stored => CacheStatus::SharedHit { left, collapsed },
                    _ => CacheStatus::Forwarded { had_stale, stored, collapsed },
                };
                took = Some(entry.cost()).filter(|_| layer == Layer::Source);
                respond::from_entry(&entry, endpoint, &asked, request_id, status, age)
            }
            Err(error) if error.code == Code::NotShareable => {
                return Err(respond::from_error(&error, endpoint, request_id, status));
            }
            Err(error) => {
                // What L1 had, or what the shared cache had that the fill kept for this case.
                let kept = || {
                    self.cache.memory.with(shared.key, &shared.canonical, &endpoint.route.fingerprint, |it| it.cloned())
                };
                let (stale, layer) = match shared.stale {
                    Some(entry) => (Some(entry), "L1"),
                    None => (kept(), "L2"),
                };
                match stale.as_ref().and_then(|entry| self.usable_on_error(entry, &error, now)) {
                    Some((entry, past)) => {
                        self.stale_served.inc(StaleReason::SourceFailed);
                        status = CacheStatus::StaleIfError { past, status: error.code.info().status, layer };
                        respond::from_entry(entry, endpoint, &asked, request_id, status, entry.age(now))
                    }
                    None => respond::from_error(&error, endpoint, request_id, status),
                }
            }
        };
        if matches!(status, CacheStatus::SharedHit { .. } | CacheStatus::StaleIfError { .. }) {
            endpoint.counters.answered();
        }
        respond::add_timing(&mut response, took, started.elapsed());
        Ok(response)
    }

    pub(super) async fn respond_direct(
        self: &Arc<Self>,
        request: &HttpRequest,
        endpoint: &Arc<Endpoint>,
        call: Call,
        session: &Session,
        request_id: &HeaderValue,
        started: Instant,
    ) -> Response<Bytes> {
        if let Err(error) = self.catch_up(session).await {
            return respond::from_error(&error, endpoint, request_id, CacheStatus::Bypass);
        }
        let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let gate = if only_reads { &self.admission.direct } else { &self.admission.writes };
        let admission = traces::span("admission", SpanKind::Internal);
        let entered = gate.enter(Priority::Foreground, self.admission.patience(false)).await;
        drop(admission);
        let mut pass = match entered {
            Ok(pass) => pass,
            Err(error) => return respond::from_error(&error, endpoint, request_id, CacheStatus::Bypass),
        };
        let (pipeline, at) = (Arc::clone(self), Arc::clone(endpoint));
        let work = async move {
            let produced = pipeline.produce(&at, call).await;
            pass.measured(&at.route.path, &produced.answer);
            produced
        };
        let produced = if only_reads { work.await } else { apart(work).await };
        if !only_reads {
            let outcome = outcome_of(&produced.answer);
            self.metrics.writes.with_label_values(&[endpoint.route.path.as_str(), outcome]).inc();
        }
        let mut response = match &produced.answer {
            Ok(answer) => {
                let encoded = self.encoded(&answer.body, &Asked::read(request.headers())).await;
                respond::from_answer(answer, endpoint, encoded, produced.detail)
            }
            Err(error) => respond::from_error(error, endpoint, request_id, CacheStatus::Bypass),
        };
        self.sessions.tell(session, &produced, self.database.as_deref(), response.headers_mut());
        respond::add_timing(&mut response, Some(produced.took), started.elapsed());
        response
    }

    /// Waits for a replica that has seen what the session has.
    async fn catch_up(&self, session: &Session) -> Result<(), Error> {
        let Some((seen, database)) = session.seen.zip(self.database.as_ref()) else { return Ok(()) };
        let full = || Error::new(Code::Overloaded, "as many requests as may are waiting");
        let _place = self.admission.waiters.take(1).ok_or_else(full)?;
        traces::span("session wait", SpanKind::Internal).around(database.catch_up(seen)).await;
        Ok(())
    }

    /// A body for one client alone, in the encoding that it takes.
    async fn encoded(&self, body: &Bytes, asked: &Asked<'_>) -> (Encoding, Bytes) {
        let taken = [Encoding::Brotli, Encoding::Gzip].into_iter().find(|encoding| asked.takes_encoding(*encoding));
        let worth_it = body.len() >= self.settings.cache.compress_bytes_min;
        let Some(encoding) = taken.filter(|_| worth_it) else { return (Encoding::Identity, body.clone()) };
        let whole = body.clone();
        match beside(body.len(), move || encoding.encode(&whole)).await.flatten() {
            Some(encoded) => (encoding, encoded),
            None => (Encoding::Identity, body.clone()),
        }
    }

    /// The entry, where it may stand in for a source that failed, and how long ago it expired.
    fn usable_on_error<'a>(&self, entry: &'a Arc<Entry>, error: &Error, now: Instant) -> Option<(&'a Entry, Duration)> {
        if !error.code.is_source_failure() {
            return None;
        }
        self.stands_in(entry, now).map(|past| (&**entry, past))
    }

    /// Whether an entry is good where its source fails, and how long ago it expired.
    pub(super) fn stands_in(&self, entry: &Entry, now: Instant) -> Option<Duration> {
        let age = entry.age(now);
        if entry.standing(&self.cache.fences, age, now) == Standing::Forbidden {
            return None;
        }
        match entry.freshness(age) {
            // Fresh by its age, so it was purged: the answer of last resort until it would have expired anyway.
            Freshness::Fresh(_) if entry.limits.stale_if_error.is_zero() => None,
            Freshness::Fresh(_) => Some(Duration::ZERO),
            Freshness::Revalidate(past) | Freshness::IfError(past) => Some(past),
            Freshness::Gone => None,
        }
    }
}

/// Who asks, with what was sent along, but for what only this server must know.
fn caller(request: &HttpRequest, identity: Option<Arc<Identity>>, rows: RowSettings) -> Caller {
    let is_secret = |name: &HeaderName| *name == header::AUTHORIZATION || *name == X_ORIGIN_VERIFY;
    let headers = request.headers().iter().filter(|(name, _)| !is_secret(name));
    let seen = |name: &HeaderName, line: &[u8]| Some((name.as_str().into(), without_console(name, line)?.into()));
    let headers = headers.filter_map(|(name, value)| seen(name, value.as_bytes())).collect();
    Caller { identity, headers, rows }
}

/// Runs what may write to its end, or to its deadline, also where its client goes away. A transaction that is dropped is rolled
/// back, so nothing would be half done; but the statement under way goes on in the database with all its locks, and a COMMIT under
/// way has an outcome that nobody would have heard. The client who asks again finds what came of the first time.
async fn apart(work: impl Future<Output = Produced> + 'static) -> Produced {
    actix_rt::spawn(traces::scope(traces::current(), work)).await.unwrap_or_else(|ended| {
        log::error!("a request that may write was ended: {ended}");
        Produced::failed(in_doubt())
    })
}
