//! The admin listener: apart from the public one, so that nothing of it can be reached from outside by mistake.
//!
//! `/metrics` needs no token. All else is for operators, who name one of `ADMIN_TOKEN`; without such a setting it is not there.

mod auth;
mod entry;
mod log;
pub mod purge;
mod shadow;
mod snapshot;
mod stats;
pub mod status;
mod warm;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use actix_http::ConnectionType;
use actix_web::dev::Server;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::ConfigError;
use crate::error::{Code, Error};
use crate::http::headers::{self, Asked};
use crate::http::health::HealthPages;
use crate::http::nodes;
use crate::http::pipeline::Pipeline;
use crate::http::surface::Surface;
use crate::http::{problem, server};
use auth::{Caller, Gate, Shut};
use purge::Purger;

/// Renders the metrics as of now.
pub type Metrics = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Characters of an error's sentence: what a body has in it may be quoted, at no length.
const DETAIL_CHARS_MAX: usize = 300;
/// Characters of the name of a field in it.
const FIELD_CHARS_MAX: usize = 64;

/// What operators see and move.
pub struct Parts {
    /// The cache and what fills it.
    pub pipeline: Arc<Pipeline>,
    /// The routes.
    pub surface: Arc<ArcSwap<Surface>>,
    /// The verdict in force.
    pub health: Arc<HealthPages>,
    /// What purges.
    pub purger: Arc<dyn Purger>,
    /// `/metrics`.
    pub metrics: Metrics,
    /// The origins whose snapshots this one pulls.
    pub peers: status::Peers,
}

/// The listener's state.
struct Desk {
    parts: Parts,
    gate: Gate,
    snapshot: Arc<snapshot::Desk>,
    started: Instant,
    region: HeaderValue,
}

/// What the listener does, by path.
#[derive(Clone, Copy)]
enum Action {
    Purge,
    Flush,
    Stats,
    Entry,
    Warm,
    Status,
    Snapshot,
    Nodes,
    NodeMinutes,
    Shadow,
    ShadowCompare,
    Log,
    LogChange,
    LogReset,
}

impl Action {
    const PATHS: [(&str, Action); 14] = [
        ("/admin/cache/purge", Action::Purge),
        ("/admin/cache/flush", Action::Flush),
        ("/admin/cache/stats", Action::Stats),
        ("/admin/cache/entry", Action::Entry),
        ("/admin/cache/warm", Action::Warm),
        ("/admin/status", Action::Status),
        ("/admin/snapshot", Action::Snapshot),
        (nodes::NODES, Action::Nodes),
        (nodes::MINUTES, Action::NodeMinutes),
        ("/admin/shadow", Action::Shadow),
        ("/admin/shadow/compare", Action::ShadowCompare),
        ("/admin/log", Action::Log),
        ("/admin/log", Action::LogChange),
        ("/admin/log", Action::LogReset),
    ];

    fn of(request: &HttpRequest) -> Result<Self, Refusal> {
        let known = || Self::PATHS.into_iter().filter(|(path, _)| *path == request.path()).map(|(_, action)| action);
        let methods: Vec<Method> = known().map(Self::method).collect();
        if methods.is_empty() {
            return Err(unknown_path().into());
        }
        let action = known().find(|action| action.method() == *request.method());
        action.ok_or_else(|| other_method(&methods))
    }

    const fn method(self) -> Method {
        match self {
            Self::Purge | Self::Flush | Self::Warm | Self::ShadowCompare => Method::POST,
            Self::LogChange => Method::PUT,
            Self::LogReset => Method::DELETE,
            Self::Stats
            | Self::Entry
            | Self::Status
            | Self::Nodes
            | Self::NodeMinutes
            | Self::Shadow
            | Self::Snapshot
            | Self::Log => Method::GET,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Snapshot => "application/octet-stream",
            _ => "application/json",
        }
    }
}

/// An error, with the header that belongs to it.
struct Refusal {
    error: Error,
    header: Option<(HeaderName, HeaderValue)>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, header: None }
    }
}

impl From<Shut> for Refusal {
    fn from(shut: Shut) -> Self {
        match shut {
            Shut::Unauthorized => Self {
                error: Error::new(
                    Code::Unauthorized,
                    "this path asks for Authorization: Bearer, and one of ADMIN_TOKEN",
                ),
                header: None,
            },
            Shut::Limited(wait) => Self {
                error: Error::new(Code::RateLimited, "too many wrong tokens came from this address"),
                header: Some((header::RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)))),
            },
        }
    }
}

/// Serves on the admin listener. The server runs once it is awaited; it does not listen for signals itself.
///
/// # Errors
/// Where the socket cannot be used; the sentence names the setting.
pub fn listen(parts: Parts, listener: TcpListener) -> Result<(Server, SocketAddr), ConfigError> {
    let settings = Arc::clone(&parts.pipeline.settings);
    let unusable =
        |error: std::io::Error| ConfigError::new(format!("server.admin_addr: its socket cannot be used: {error}"));
    let address = listener.local_addr().map_err(unusable)?;
    let desk = web::Data::new(Desk {
        snapshot: Arc::new(snapshot::Desk::new(&settings)),
        parts,
        gate: Gate::new(&settings.server.admin_token),
        started: Instant::now(),
        region: headers::interned(settings.region.clone()),
    });
    let application = move || App::new().app_data(desk.clone()).default_service(web::to(answer));
    let server = HttpServer::new(application)
        .workers(1)
        .client_request_timeout(settings.server.header_timeout.0)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener)
        .map_err(unusable)?;
    Ok((server.run(), address))
}

async fn answer(request: HttpRequest, payload: web::Payload, desk: web::Data<Desk>) -> HttpResponse {
    let request_id = Asked::read(request.headers()).request_id();
    let desk = desk.into_inner();
    let mut response = match desk.go(&request, payload).await {
        Ok(response) => response,
        Err(Refusal { error, header }) => {
            let mut response = problem::response(&error, &request_id, None);
            // What is left of the body must not be read as the next request.
            response.head_mut().set_connection_type(ConnectionType::Close);
            if let Some((name, value)) = header {
                response.headers_mut().insert(name, value);
            }
            HttpResponse::from(response).map_into_boxed_body()
        }
    };
    let head = response.headers_mut();
    head.insert(headers::X_REGION, desk.region.clone());
    head.insert(headers::X_REQUEST_ID, request_id);
    response
}

impl Desk {
    /// The way of a request: metrics for everyone; then the token, before anything else is said; then the action.
    async fn go(self: &Arc<Self>, request: &HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
        if request.path() == "/metrics" {
            if request.method() != Method::GET {
                return Err(other_method(&[Method::GET]));
            }
            return Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body((self.parts.metrics)()));
        }
        if !self.gate.has_tokens() {
            let detail = "the admin listener has /metrics alone; with ADMIN_TOKEN set it has more";
            return Err(Error::new(Code::RouteNotFound, detail).into());
        }
        let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let caller = self.gate.admit(peer, request.headers().get(header::AUTHORIZATION), Instant::now())?;
        let action = Action::of(request)?;
        let query = request.query_string().to_owned();
        let pipeline = &self.parts.pipeline;
        let body =
            server::read_body(request, payload, &pipeline.settings, &mut pipeline.admission.bodies.share()).await?;
        // What has begun ends, and is written down, though its client has gone.
        let work = actix_rt::spawn(Arc::clone(self).act(action, caller, query, body));
        let broke_off = |_| Error::new(Code::Internal, "the action broke off; the log says why");
        let document = work.await.map_err(broke_off)??;
        let response = HttpResponse::Ok()
            .content_type(action.content_type())
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .body(document);
        Ok(response)
    }

    async fn act(
        self: Arc<Self>,
        action: Action,
        caller: Caller,
        query: String,
        body: Bytes,
    ) -> Result<Vec<u8>, Error> {
        match action {
            Action::Purge => purge::purge(&self, &caller, &body).await,
            Action::Flush => purge::flush(&self, &caller, &query).await,
            Action::Stats => stats::stats(&self, &query).await,
            Action::Entry => entry::entry(&self, &query).await,
            Action::Warm => warm::warm(&self, &caller, &body).await,
            Action::Status => status::status(&self),
            Action::Snapshot => snapshot::snapshot(&self, &query).await,
            Action::Nodes => self.parts.pipeline.nodes.list(&query),
            Action::NodeMinutes => self.parts.pipeline.nodes.minutes(&query),
            Action::Shadow => shadow::summary(&self),
            Action::ShadowCompare => shadow::compare(&self, &body).await,
            Action::Log => log::show(),
            Action::LogChange => log::change(&caller, &body),
            Action::LogReset => log::reset(&caller),
        }
    }
}

fn unknown_path() -> Error {
    let mut paths: Vec<&str> = Action::PATHS.iter().map(|(path, _)| *path).collect();
    paths.dedup();
    Error::new(Code::RouteNotFound, format!("the admin listener has /metrics, {}", paths.join(", ")))
}

fn other_method(methods: &[Method]) -> Refusal {
    let methods = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let allow = HeaderValue::from_str(&methods).unwrap_or(HeaderValue::from_static(""));
    Refusal {
        error: Error::new(Code::MethodNotAllowed, format!("this path answers {methods}")),
        header: Some((header::ALLOW, allow)),
    }
}

/// Reads a JSON object; the error names the field.
fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // An array would be taken for the fields in their order, which nobody means.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(body_invalid("the body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field: String = error.path().to_string().chars().take(FIELD_CHARS_MAX).collect();
        body_invalid(&format!("{field}: {}", error.inner()))
    })?;
    json.end().map_err(|error| body_invalid(&error.to_string()))?;
    Ok(read)
}

/// Reads a query; the error names the parameter.
fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, Error> {
    let read = web::Query::<T>::from_query(query).map(web::Query::into_inner);
    read.map_err(|error| Error::new(Code::ParamInvalid, shortened(&error.to_string())))
}

fn body_invalid(sentence: &str) -> Error {
    Error::new(Code::BodyInvalid, shortened(sentence))
}

fn shortened(sentence: &str) -> String {
    sentence.chars().take(DETAIL_CHARS_MAX).collect()
}

/// The body of an answer.
fn document(answer: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(answer)
        .map_err(|error| Error::new(Code::Internal, format!("the answer cannot be written: {error}")))
}
