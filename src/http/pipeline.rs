//! The way of a request that L1 did not answer: join the fill for its key, or go straight to the source.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::Response;
use actix_http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::FutureExt;

use super::headers::Asked;
use super::middleware::Next;
use super::respond::{self, CacheStatus};
use super::surface::Endpoint;
use crate::cache::Cache;
use crate::cache::entry::{Entry, Parts};
use crate::cache::fill::{Filled, Join, Lead, Wait};
use crate::cache::key::Key;
use crate::cache::policy::{Freshness, Limits};
use crate::cache::variants::{Encoding, Variants};
use crate::config::manifest::CachePolicy;
use crate::config::param::{Params, Value};
use crate::config::settings::{LimitSettings, Settings};
use crate::database::read::{Consistency, Database, Role};
use crate::error::{Code, Error};
use crate::source::Answer;
use crate::source::handler::Call;
use crate::telemetry::metrics::Metrics;

/// Bodies from this size on are compressed on a thread for blocking work, not on the worker that serves requests.
const BLOCKING_BYTES: usize = 16 * 1024;

/// A request that goes past L1.
pub struct Passage {
    /// Its route.
    pub endpoint: Arc<Endpoint>,
    /// Its parameters.
    pub params: Params,
    /// Whether a shared answer may do.
    pub plan: Plan,
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
}

/// What a source came to, who answered, and how long it took.
struct Produced {
    answer: Result<Answer, Error>,
    detail: &'static str,
    took: Duration,
}

impl Pipeline {
    /// Answers a request that L1 did not.
    pub async fn respond(self: &Arc<Self>, request: &HttpRequest, body: Bytes, passage: Passage) -> HttpResponse {
        let Passage { endpoint, params, plan, request_id, started } = passage;
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
        let (outcome, collapsed) = match self.join(endpoint, params, shared.key, &shared.canonical) {
            Some((wait, collapsed)) => {
                let outcome = actix_rt::time::timeout(self.settings.limits.request_timeout.0, wait.outcome()).await;
                let late = |_| Err(Error::new(Code::SourceTimeout, "the source did not answer in time"));
                (outcome.unwrap_or_else(late), collapsed)
            }
            None => (Err(Error::new(Code::Overloaded, "as many sources as may are running")), false),
        };
        let (asked, now) = (Asked::read(request.headers()), Instant::now());
        let mut status = CacheStatus::Forwarded { had_stale, stored: false, collapsed };
        let mut took = None;
        let mut response = match outcome {
            Ok(filled) => {
                took = Some(filled.entry.cost);
                status = CacheStatus::Forwarded { had_stale, stored: filled.stored, collapsed };
                respond::from_entry(&filled.entry, endpoint, &asked, request_id, status, filled.entry.age(now))
            }
            Err(error) => match shared.stale.as_ref().and_then(|entry| usable_on_error(entry, &error, now)) {
                Some((entry, past)) => {
                    let status = CacheStatus::StaleIfError(past, error.code.info().status);
                    respond::from_entry(entry, endpoint, &asked, request_id, status, entry.age(now))
                }
                None => respond::from_error(&error, endpoint, request_id, status),
            },
        };
        respond::add_timing(&mut response, took, started.elapsed());
        response
    }

    /// Joins the fill of a key, leading it where none runs. `None`: as many as may are running.
    fn join(
        self: &Arc<Self>,
        endpoint: &Arc<Endpoint>,
        params: Params,
        key: Key,
        canonical: &[u8],
    ) -> Option<(Wait, bool)> {
        match self.cache.fills.join(key, canonical, &endpoint.route.fingerprint) {
            Join::Lead(lead, wait) => {
                // Another fill may have ended between this request's lookup and here.
                let is_fresh =
                    |entry: &&Arc<Entry>| matches!(entry.freshness(entry.age(Instant::now())), Freshness::Fresh(_));
                let fresh = |entry: Option<&Arc<Entry>>| entry.filter(is_fresh).cloned();
                if let Some(entry) = self.cache.memory.with(key, canonical, &endpoint.route.fingerprint, fresh) {
                    lead.finish(Ok(Filled { entry, stored: true }));
                    return Some((wait, true));
                }
                self.spawn_fill(lead, endpoint, params, key, canonical);
                Some((wait, false))
            }
            Join::Follow(wait) => {
                self.metrics.fill_waiters.with_label_values(&[endpoint.route.path.as_str()]).inc();
                Some((wait, true))
            }
            Join::Refused => None,
        }
    }

    /// Renews an entry behind a hit, unless a fill for it runs already. Never waits.
    pub fn refresh(self: &Arc<Self>, endpoint: &Arc<Endpoint>, params: Params, key: Key, canonical: &[u8]) {
        if let Join::Lead(lead, _) = self.cache.fills.join(key, canonical, &endpoint.route.fingerprint) {
            self.spawn_fill(lead, endpoint, params, key, canonical);
        }
    }

    /// Runs a fill that belongs to no connection: it goes on when the client who caused it has gone.
    fn spawn_fill(self: &Arc<Self>, lead: Lead, endpoint: &Arc<Endpoint>, params: Params, key: Key, canonical: &[u8]) {
        let (pipeline, endpoint, canonical) = (Arc::clone(self), Arc::clone(endpoint), Box::<[u8]>::from(canonical));
        actix_rt::spawn(async move {
            let Some(policy) = endpoint.route.cache.clone() else { return };
            let made = Instant::now();
            let tags = tags(&policy, &params);
            let produced = pipeline.produce(&endpoint, params, "GET", Bytes::new(), Consistency::Eventual).await;
            let Produced { answer, detail, .. } = produced;
            let label = answer.as_ref().map_or_else(|error| error.code.as_str(), |_| "ok");
            pipeline.metrics.fills.with_label_values(&[endpoint.route.path.as_str(), label]).inc();
            let filled = match answer {
                Ok(answer) => {
                    let parts = pipeline.parts(answer, &policy, tags, made, detail).await;
                    // What a handler answers with another status is for those who asked now: errors are not kept.
                    Ok((parts.status == 200, parts))
                }
                Err(error) if error.code == Code::NotFound => {
                    let parts = pipeline.absence(error, tags, made, detail);
                    Ok((!parts.limits.fresh.is_zero(), parts))
                }
                Err(error) => Err(error),
            };
            let filled = filled.map(|(stored, parts)| Filled {
                entry: Arc::new(Entry::new(&canonical, endpoint.route.fingerprint, parts)),
                stored,
            });
            match &filled {
                Ok(Filled { entry, stored: true }) => pipeline.cache.memory.put(key, Arc::clone(entry)),
                Ok(_) => {}
                Err(error) => {
                    // What the request itself did wrong says that the source is there.
                    let status = if error.code.is_source_failure() { error.code.info().status } else { 0 };
                    let note = |entry: &Arc<Entry>| entry.note_failure(entry.age(Instant::now()), status);
                    let fingerprint = &endpoint.route.fingerprint;
                    pipeline.cache.memory.with(key, &canonical, fingerprint, |entry| entry.map(note));
                }
            }
            lead.finish(filled);
        });
    }

    async fn parts(
        &self,
        answer: Answer,
        policy: &CachePolicy,
        mut tags: Vec<String>,
        made: Instant,
        detail: &'static str,
    ) -> Parts {
        let compress_bytes_min = self.settings.cache.compress_bytes_min;
        let body = answer.body.clone();
        let variants = beside(body.len(), move || Variants::of(body, compress_bytes_min)).await;
        let body = variants.unwrap_or_else(|| Variants::of(answer.body, usize::MAX));
        tags.extend(answer.tags);
        let limits = Limits {
            fresh: policy.ttl,
            stale_while_revalidate: policy.stale_while_revalidate,
            stale_if_error: policy.stale_if_error,
        };
        Parts {
            status: answer.status,
            content_type: answer.content_type,
            body,
            tags,
            made,
            limits,
            detail,
            absence: None,
        }
    }

    /// The entry of a 404: kept for a short time, with the tags of its route, so that an insert makes it fall.
    fn absence(&self, error: Error, tags: Vec<String>, made: Instant, detail: &'static str) -> Parts {
        let fresh = self.settings.cache.not_found_ttl.0;
        let limits = Limits { fresh, stale_while_revalidate: Duration::ZERO, stale_if_error: Duration::ZERO };
        let body = Variants::of(Bytes::new(), usize::MAX);
        Parts {
            status: 404,
            content_type: "application/problem+json",
            body,
            tags,
            made,
            limits,
            detail,
            absence: Some(error.detail),
        }
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
        let Produced { answer, detail, took } =
            self.produce(endpoint, params, request.method().as_str(), body, consistency).await;
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

    /// Runs the source inside its deadline. A panic in it is an error like others.
    async fn produce(
        &self,
        endpoint: &Endpoint,
        params: Params,
        method: &str,
        body: Bytes,
        consistency: Consistency,
    ) -> Produced {
        let began = Instant::now();
        let LimitSettings { request_timeout, response_bytes_max, .. } = self.settings.limits;
        let call =
            Call::new(method.into(), params, body, self.database.clone(), consistency, began + request_timeout.0);
        let work = AssertUnwindSafe(endpoint.producer.run(&call)).catch_unwind();
        let answer = match actix_rt::time::timeout(request_timeout.0, work).await {
            Ok(Ok(Ok(answer))) if answer.body.len() > response_bytes_max => {
                let detail = format!("the answer of this route would be longer than {response_bytes_max} bytes");
                Err(Error::new(Code::ResponseTooLarge, detail))
            }
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(panicked(endpoint, panic.as_ref())),
            Err(_) => Err(Error::new(Code::SourceTimeout, "the source did not answer in time")),
        };
        let detail = match call.served().map(|served| served.role) {
            Some(Role::Replica) => "replica",
            Some(Role::Primary) => "primary",
            None => "handler",
        };
        Produced { answer, detail, took: began.elapsed() }
    }
}

/// Does work on a body of so many bytes: at once where it is short, else on a thread for blocking work, so that no other
/// request waits for it. `None` where that thread failed.
async fn beside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes < BLOCKING_BYTES { Some(work()) } else { actix_rt::task::spawn_blocking(work).await.ok() }
}

/// The entry, where it may stand in for a source that failed, and how long ago it expired.
fn usable_on_error<'a>(entry: &'a Arc<Entry>, error: &Error, now: Instant) -> Option<(&'a Entry, Duration)> {
    match entry.freshness(entry.age(now)) {
        Freshness::Revalidate(past) | Freshness::IfError(past) if error.code.is_source_failure() => Some((entry, past)),
        _ => None,
    }
}

/// The tags of a policy with the request's values in them.
fn tags(policy: &CachePolicy, params: &Params) -> Vec<String> {
    let fill_in = |template: &String| {
        let mut tag = String::new();
        for (index, part) in template.split('{').enumerate() {
            match part.split_once('}').filter(|_| index > 0) {
                Some((name, rest)) => {
                    match params.get(name) {
                        Some(Value::One(text)) => tag.push_str(text),
                        Some(Value::Many(items)) => tag.push_str(&items.join(",")),
                        Some(Value::Null) | None => {}
                    }
                    tag.push_str(rest);
                }
                None => tag.push_str(part),
            }
        }
        tag
    };
    policy.tags.iter().map(fill_in).collect()
}

fn panicked(endpoint: &Endpoint, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    log::error!("the source of {} panicked: {text}", endpoint.route.path);
    Error::new(Code::Internal, "the source of this route failed; the log says why")
}
