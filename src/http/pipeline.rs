//! The way of a request that L1 did not answer: join the fill for its key, or go straight to the source.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::Response;
use actix_http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::FutureExt;

use super::admission::Admission;
use super::audit::Audit;
use super::client::Client;
use super::fill::{Fill, Produced, beside};
use super::headers::Asked;
use super::hot::Hot;
use super::middleware::Next;
use super::rate_limit::Rates;
use super::respond::{self, CacheStatus};
use super::surface::Endpoint;
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
use crate::error::{Code, Error};
use crate::nodes::queue::Priority;
use crate::telemetry::metrics::Metrics;

/// A request that goes past L1.
pub struct Passage {
    /// Its route.
    pub endpoint: Arc<Endpoint>,
    /// Its parameters.
    pub params: Params,
    /// Whether a shared answer may do.
    pub plan: Plan,
    /// Who asks, where that is counted.
    pub client: Option<Client>,
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
    /// The settings.
    pub settings: Arc<Settings>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How many sources may run.
    pub admission: Admission,
    /// How often clients may ask.
    pub rates: Rates,
    /// Answers to render again when they fall.
    pub hot: Hot,
    /// Which hits are compared with the primary.
    pub audit: Audit,
}

impl Pipeline {
    /// Answers a request that L1 did not.
    pub async fn respond(self: &Arc<Self>, request: &HttpRequest, body: Bytes, passage: Passage) -> HttpResponse {
        let Passage { endpoint, params, plan, request_id, started, .. } = passage;
        let response = match plan {
            Plan::Shared(shared) => self.respond_shared(request, &endpoint, params, shared, &request_id, started).await,
            Plan::Direct(consistency) => {
                let work = async {
                    let response =
                        self.respond_direct(request, &endpoint, params, body, consistency, &request_id, started);
                    HttpResponse::from(response.await).map_into_boxed_body()
                };
                return Next::new(&endpoint.middlewares, work.boxed_local()).run(request).await;
            }
        };
        HttpResponse::from(response).map_into_boxed_body()
    }

    async fn respond_shared(
        self: &Arc<Self>,
        request: &HttpRequest,
        endpoint: &Arc<Endpoint>,
        params: Params,
        shared: Shared,
        request_id: &HeaderValue,
        started: Instant,
    ) -> Response<Bytes> {
        let had_stale = shared.stale.is_some();
        let join = || self.join(Fill::new(endpoint, params, shared.key, &shared.canonical));
        let place = self.admission.waiters.take(1);
        let (outcome, collapsed) = match place.as_ref().and_then(|_| join()) {
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
                took = Some(entry.cost).filter(|_| layer == Layer::Source);
                respond::from_entry(&entry, endpoint, &asked, request_id, status, age)
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
                        let status = CacheStatus::StaleIfError { past, status: error.code.info().status, layer };
                        respond::from_entry(entry, endpoint, &asked, request_id, status, entry.age(now))
                    }
                    None => respond::from_error(&error, endpoint, request_id, status),
                }
            }
        };
        respond::add_timing(&mut response, took, started.elapsed());
        response
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, each used once")]
    async fn respond_direct(
        &self,
        request: &HttpRequest,
        endpoint: &Endpoint,
        params: Params,
        body: Bytes,
        consistency: Consistency,
        request_id: &HeaderValue,
        started: Instant,
    ) -> Response<Bytes> {
        let patience = self.admission.patience(false);
        let mut pass = match self.admission.direct.enter(Priority::Foreground, patience).await {
            Ok(pass) => pass,
            Err(error) => return respond::from_error(&error, endpoint, request_id, CacheStatus::Bypass),
        };
        let Produced { answer, detail, took, .. } =
            self.produce(endpoint, params, request.method().as_str(), body, consistency, None).await;
        pass.measured(&endpoint.route.path, &answer);
        let mut response = match answer {
            Ok(answer) => {
                let encoded = self.encoded(&answer.body, &Asked::read(request.headers())).await;
                respond::from_answer(&answer, endpoint, encoded, detail)
            }
            Err(error) => respond::from_error(&error, endpoint, request_id, CacheStatus::Bypass),
        };
        respond::add_timing(&mut response, Some(took), started.elapsed());
        response
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
