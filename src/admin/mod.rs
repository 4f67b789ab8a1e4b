//! The admin listener: apart from the public one, so that nothing of it can be reached from outside by mistake.
//!
//! `/metrics` needs no token. All else is for operators, who name one of `ADMIN_TOKEN`, or sign in with it at the `console`; without
//! such a setting it is not there.

mod audit;
mod auth;
mod console;
mod degraded;
mod entry;
mod found;
pub mod journal;
mod log;
mod lookout;
mod memory;
mod preview;
pub mod purge;
mod settings;
mod shadow;
mod snapshot;
mod stats;
pub mod status;
mod traffic;
mod walks;
mod warm;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use actix_http::ConnectionType;
use actix_web::dev::Server;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use arc_swap::ArcSwap;
use bytes::Bytes;
use chrono::Utc;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::MissedTickBehavior;

use crate::config::ConfigError;
use crate::config::manifest::Source;
use crate::error::{Code, Error};
use crate::http::headers::{self, Asked};
use crate::http::health::HealthPages;
use crate::http::nodes;
use crate::http::pipeline::Pipeline;
use crate::http::surface::Surface;
use crate::http::{problem, server};
use crate::telemetry::traces::Span;
use auth::{Caller, Gate, Shut};
use console::{SessionKey, Sessions, Viewers};
use journal::{Event, Journal, Kind};
use lookout::{LOOK_INTERVAL, Lookout};
use purge::Purger;
use walks::Walks;

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
    /// Whether a source is known to ask the database; handlers of others' are not.
    pub asks_database: fn(&Source) -> bool,
    /// What happened lately.
    pub journal: Arc<Journal>,
}

/// The listener's state.
struct Desk {
    parts: Parts,
    gate: Gate,
    snapshot: Arc<snapshot::Desk>,
    lookout: Lookout,
    sessions: Sessions,
    viewers: Viewers,
    walks: Walks,
    region: HeaderValue,
}

/// What the listener does, by path.
#[derive(Clone, Copy)]
enum Action {
    Purge,
    Preview,
    Flush,
    Stats,
    Entry,
    Warm,
    Status,
    Journal,
    Settings,
    Snapshot,
    Nodes,
    NodeMinutes,
    Shadow,
    ShadowCompare,
    Log,
    LogChange,
    LogReset,
    AuditAcknowledge,
}

impl Action {
    const PATHS: [(&str, Action); 18] = [
        ("/admin/cache/purge", Action::Purge),
        ("/admin/cache/preview", Action::Preview),
        ("/admin/cache/flush", Action::Flush),
        ("/admin/cache/stats", Action::Stats),
        ("/admin/cache/entry", Action::Entry),
        ("/admin/cache/warm", Action::Warm),
        ("/admin/status", Action::Status),
        ("/admin/journal", Action::Journal),
        ("/admin/settings", Action::Settings),
        ("/admin/snapshot", Action::Snapshot),
        (nodes::NODES, Action::Nodes),
        (nodes::MINUTES, Action::NodeMinutes),
        ("/admin/shadow", Action::Shadow),
        ("/admin/shadow/compare", Action::ShadowCompare),
        ("/admin/log", Action::Log),
        ("/admin/log", Action::LogChange),
        ("/admin/log", Action::LogReset),
        ("/admin/audit/acknowledge", Action::AuditAcknowledge),
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
            Self::Purge | Self::Preview | Self::Flush | Self::Warm | Self::ShadowCompare | Self::AuditAcknowledge => {
                Method::POST
            }
            Self::LogChange => Method::PUT,
            Self::LogReset => Method::DELETE,
            Self::Stats
            | Self::Entry
            | Self::Status
            | Self::Journal
            | Self::Settings
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

/// `GET /admin/journal`
#[derive(Serialize)]
struct Events {
    /// The newest first.
    events: Vec<Event>,
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
        lookout: Lookout::new(),
        sessions: Sessions::new(),
        viewers: Viewers::new(),
        walks: Walks::new(),
        region: headers::interned(settings.region.clone()),
    });
    let (by, what) = ("this instance".to_owned(), format!("mode {}", settings.mode.as_str()));
    let (kind, result) = (Kind::Start, format!("version {}", env!("CARGO_PKG_VERSION")));
    desk.parts.journal.note(Event { at: desk.lookout.started_at, kind, by, what, result, id: None });
    actix_rt::spawn(keep_looking(Arc::downgrade(&desk)));
    let application = move || App::new().app_data(desk.clone()).default_service(web::to(answer));
    let server = HttpServer::new(application)
        .workers(1)
        .on_connect(|io, data| {
            // A second handle on the socket, by which a page that does not read is cut off.
            let socket = io.downcast_ref::<TcpStream>().and_then(|tcp| tcp.as_fd().try_clone_to_owned().ok());
            socket.map(|socket| data.insert(Arc::new(socket)));
        })
        .client_request_timeout(settings.server.header_timeout.0)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(listener)
        .map_err(unusable)?;
    Ok((server.run(), address))
}

/// Looks once a second, for as long as the listener is there.
async fn keep_looking(desk: Weak<Desk>) {
    let mut ticks = actix_rt::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(desk) = desk.upgrade() else { return };
        desk.look();
        desk.show().await;
    }
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
    // Whatever it is, no browser is to take it for something else, or for a part of another site's page.
    head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    head.insert(header::CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    response
}

impl Desk {
    /// The way of a request: metrics and the page's files for everyone; then who it is, before anything else is said; then the action.
    async fn go(self: &Arc<Self>, request: &HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
        let path = request.path();
        if path == "/metrics" {
            only(&Method::GET, request)?;
            // It sets what the metrics say of it, to what is so now.
            self.degraded();
            return Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body((self.parts.metrics)()));
        }
        if !self.gate.has_tokens() {
            let detail = "the admin listener has /metrics alone; with ADMIN_TOKEN set it has more";
            return Err(Error::new(Code::RouteNotFound, detail).into());
        }
        if let Some(asset) = console::asset(path) {
            only(&Method::GET, request)?;
            return Ok(asset.answer(request));
        }
        console::check_site(request.headers())?;
        let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        if path == console::SESSION {
            return console::session(self, request, payload, peer).await;
        }
        let (caller, session) = self.admit(request, peer)?;
        if path == console::EVENTS {
            only(&Method::GET, request)?;
            return console::events(self, request, session).await;
        }
        let action = Action::of(request)?;
        let query = request.query_string().to_owned();
        let body = self.body(request, payload).await?;
        // Only another origin's trace goes on here: what an operator asks for is in no request's way.
        let mut span = match action {
            Action::Snapshot => snapshot::span(self, request.headers()),
            _ => Span::default(),
        };
        // What has begun ends, and is written down, though its client has gone.
        let work = actix_rt::spawn(Arc::clone(self).act(action, caller, query, body));
        let broke_off = |_| Error::new(Code::Internal, "the action broke off; the log says why");
        let outcome = work.await.map_err(broke_off)?;
        if let Err(error) = &outcome {
            span.fail(error.code.as_str());
        }
        let document = outcome?;
        let response = HttpResponse::Ok()
            .content_type(action.content_type())
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
            .body(document);
        Ok(response)
    }

    /// Who asks: whoever has a token, or has shown one and has a session since. A session that is over is no wrong token: pages
    /// stay open for longer.
    fn admit(&self, request: &HttpRequest, peer: IpAddr) -> Result<(Caller, Option<SessionKey>), Refusal> {
        let (request_headers, now) = (request.headers(), Instant::now());
        let authorization = request_headers.get(header::AUTHORIZATION);
        if authorization.is_some() || !self.sessions.is_named(request_headers) {
            return Ok((self.gate.admit(peer, authorization, now)?, None));
        }
        let Some(session) = self.sessions.of(request_headers, now) else {
            return Err(Error::new(Code::Unauthorized, "the session is over; sign in again").into());
        };
        if *request.method() != Method::GET && !session.has_sent(request_headers) {
            return Err(console::not_from_the_page().into());
        }
        Ok((Caller::new(peer, session.token), Some(session.key)))
    }

    async fn body(&self, request: &HttpRequest, payload: web::Payload) -> Result<Bytes, Error> {
        let pipeline = &self.parts.pipeline;
        server::read_body(request, payload, &pipeline.settings, &mut pipeline.admission.bodies.share()).await
    }

    /// Writes down what somebody did, or why it was not done: in the log for good, and in the journal for a while.
    fn audit(&self, caller: &Caller, kind: Kind, mode: &str, what: &str, outcome: Result<&str, &Error>) {
        caller.audit(kind.as_str(), mode, what, outcome);
        let result = match outcome {
            Ok(_) if mode == "-" => "done".to_owned(),
            Ok(_) => format!("{mode} done"),
            Err(error) => error.code.as_str().to_owned(),
        };
        let id = outcome.ok().filter(|id| *id != "-").map(str::to_owned);
        self.parts.journal.note(Event { at: Utc::now(), kind, by: caller.name(), what: what.to_owned(), result, id });
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
            Action::Preview => preview::preview(&self, &body).await,
            Action::Flush => purge::flush(&self, &caller, &query).await,
            Action::Stats => stats::stats(&self, &query).await,
            Action::Entry => entry::entry(&self, &query).await,
            Action::Warm => warm::warm(&self, &caller, &body).await,
            Action::Status => status::status(&self),
            Action::Journal => document(&Events { events: self.parts.journal.events() }),
            Action::Settings => settings::settings(&self),
            Action::Snapshot => snapshot::snapshot(&self, &query).await,
            Action::Nodes => self.parts.pipeline.nodes.list(&query),
            Action::NodeMinutes => self.parts.pipeline.nodes.minutes(&query),
            Action::Shadow => shadow::summary(&self),
            Action::ShadowCompare => shadow::compare(&self, &body).await,
            Action::Log => log::show(),
            Action::LogChange => log::change(&self, &caller, &body),
            Action::LogReset => log::reset(&self, &caller),
            Action::AuditAcknowledge => audit::acknowledge(&self, &caller, &body),
        }
    }
}

fn unknown_path() -> Error {
    let mut paths: Vec<&str> = Action::PATHS.iter().map(|(path, _)| *path).collect();
    paths.dedup();
    Error::new(Code::RouteNotFound, format!("the admin listener has /metrics, {}", paths.join(", ")))
}

fn only(method: &Method, request: &HttpRequest) -> Result<(), Refusal> {
    if request.method() == *method { Ok(()) } else { Err(other_method(std::slice::from_ref(method))) }
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
