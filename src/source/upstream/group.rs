//! The endpoints of an upstream: which is asked, for how long, and when another one is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};
use smallvec::SmallVec;

use super::body::Body;
use super::budget::Budget;
use super::client::Shape;
use super::headers::VIA_NAME;
use super::role::Role;
use crate::config::ConfigError;
use crate::config::manifest::upstream::Upstream;
use crate::config::settings::{NodeSettings, Settings};
use crate::error::{Code, Error};
use crate::nodes::minutes::Calendar;
use crate::nodes::node::{Identity, Kind, Node};
use crate::nodes::select::{Candidate, Pick, least_bad_first};
use crate::outgoing::reason;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces;
use crate::telemetry::traces::{Here, Span, SpanKind};

/// One of so many reads goes to another endpoint than the picked one, so that it is known which is the fastest.
const EXPLORED_ONE_IN: u32 = 64;

/// All upstreams of an instance. What was measured outlives a reload.
pub struct Upstreams {
    groups: Mutex<HashMap<String, Arc<Group>>>,
    /// The origin in the primary's region. No manifest names it, so that no reload forgets it.
    primary_origin: Option<Arc<Group>>,
    settings: NodeSettings,
    calendar: Calendar,
    metrics: Arc<Metrics>,
    via: HeaderValue,
}

/// The endpoints of one upstream.
pub struct Group {
    config: Arc<Upstream>,
    role: Role,
    endpoints: Vec<Endpoint>,
    shape: Result<Arc<Shape>, String>,
    pick: Mutex<Pick>,
    budget: Mutex<Budget>,
    /// Whether every breaker was open at the last choice.
    is_out: AtomicBool,
    settings: NodeSettings,
    metrics: Arc<Metrics>,
    via: HeaderValue,
}

struct Endpoint {
    url: Url,
    node: Arc<Node>,
}

/// A request to an upstream, as each try sends it.
pub struct Ask {
    /// Its method.
    pub method: Method,
    /// Path and query, canonical.
    pub target: String,
    /// Its headers, without `Host` and without those of one hop.
    pub headers: HeaderMap,
    /// The `Host` that the upstream sees; `None`: its endpoint's own.
    pub host: Option<HeaderValue>,
    /// Its body.
    pub body: Body,
    /// When all tries must have ended.
    pub deadline: Instant,
    /// How much longer a try may take because the client sends its body meanwhile.
    pub upload_time: Duration,
}

/// The header of an answer, with its body to come.
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// Who gave it.
    pub node: Arc<Node>,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum Unanswered {
    /// Nobody was reached, so nothing was sent.
    NotSent,
    /// The connection broke after something was sent.
    Broken,
    /// No answer in time.
    Timeout,
    /// Not the doing of who was asked.
    Own(Error),
}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::NotSent | Unanswered::Broken => {
                Self::new(Code::UpstreamUnavailable, "the upstream cannot be reached")
            }
            Unanswered::Timeout => Self::new(Code::SourceTimeout, "the upstream did not answer in time"),
            Unanswered::Own(error) => error,
        }
    }
}

/// Why a try is not the answer.
enum Trouble {
    /// No connection: nothing was sent.
    Connect(String),
    /// The connection broke.
    Broken(String),
    /// No answer in time.
    Timeout,
    /// 502, 503 or 504: whoever answered could not.
    Gateway(Response),
    /// Not the upstream's doing.
    Own(Error),
}

impl Trouble {
    /// The stable name, for metrics and traces.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Timeout => "timeout",
            Self::Gateway(_) => "status",
            Self::Own(_) => "own",
        }
    }
}

impl Upstreams {
    /// No upstreams of a manifest yet.
    ///
    /// # Errors
    /// A sentence on what is wrong with the settings of the origin in the primary's region.
    pub fn new(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Self, ConfigError> {
        let via = HeaderValue::from_str(&format!("1.1 {VIA_NAME}{:016x}", fastrand::u64(..)));
        let mut upstreams = Self {
            groups: Mutex::default(),
            primary_origin: None,
            settings: settings.nodes.clone(),
            calendar: Calendar::of_this_machine(),
            metrics: Arc::clone(metrics),
            via: via.unwrap_or(HeaderValue::from_static("1.1 mainstay-")),
        };
        // Who answers nothing that needs the primary has nothing to send there either.
        let is_used = settings.capabilities().answers_alone;
        if let Some(config) = settings.forward.upstream(&settings.limits)?.filter(|_| is_used) {
            let role = Role::PrimaryOrigin { has_other_way: !settings.database.url.is_empty() };
            let group = upstreams.make(&Arc::new(config), role, None);
            if let Err(reason) = &group.shape {
                return Err(ConfigError::new(format!("forward.tls_ca_file: {reason}")));
            }
            upstreams.primary_origin = Some(Arc::new(group));
        }
        Ok(upstreams)
    }

    /// The origin in the primary's region, where strong requests are sent there.
    pub const fn primary_origin(&self) -> Option<&Arc<Group>> {
        self.primary_origin.as_ref()
    }

    /// The endpoints of an upstream: those in use, unless it is new or has changed.
    pub fn group(&self, config: &Arc<Upstream>) -> Arc<Group> {
        let mut groups = self.groups.lock();
        let old = groups.get(&config.name);
        if let Some(old) = old.filter(|old| Upstream { line: config.line, ..(*old.config).clone() } == **config) {
            return Arc::clone(old);
        }
        let group = Arc::new(self.make(config, Role::Service, old.map(|old| &**old)));
        if let Err(reason) = &group.shape {
            log::error!("upstream {} cannot be asked: {reason}", config.name);
        }
        groups.insert(config.name.clone(), Arc::clone(&group));
        group
    }

    /// A group that takes over what was measured of the endpoints that it had before.
    fn make(&self, config: &Arc<Upstream>, role: Role, old: Option<&Group>) -> Group {
        let measured = |url: &Url| {
            let known = old.and_then(|old| old.endpoints.iter().find(|endpoint| endpoint.url == *url));
            known.map_or_else(|| Arc::new(self.node(&config.name, url, role)), |known| Arc::clone(&known.node))
        };
        self.metrics.upstream_out.with_label_values(&[config.name.as_str()]).set(0);
        Group {
            config: Arc::clone(config),
            role,
            endpoints: config.endpoints.iter().map(|url| Endpoint { node: measured(url), url: url.clone() }).collect(),
            shape: Shape::new(config).map(Arc::new),
            pick: Mutex::default(),
            budget: Mutex::new(Budget::new(config.retry_budget, Instant::now())),
            is_out: AtomicBool::new(false),
            settings: self.settings.clone(),
            metrics: Arc::clone(&self.metrics),
            via: self.via.clone(),
        }
    }

    /// Forgets all upstreams but these.
    pub fn keep(&self, upstreams: &[Arc<Upstream>]) {
        self.groups.lock().retain(|name, _| upstreams.iter().any(|upstream| upstream.name == *name));
    }

    /// Whether there is an upstream of this name.
    pub fn has(&self, name: &str) -> bool {
        self.groups.lock().contains_key(name)
    }

    /// All endpoints, as nodes.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        let groups = self.groups.lock();
        let groups = groups.values().chain(&self.primary_origin);
        let mut nodes: Vec<Arc<Node>> = groups.flat_map(|group| group.nodes()).map(Arc::clone).collect();
        nodes.sort_by(|one, other| one.identity().id.cmp(&other.identity().id));
        nodes
    }

    fn node(&self, upstream: &str, url: &Url, role: Role) -> Node {
        let host = url.host_str().unwrap_or_default();
        let endpoint = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        let id = match role {
            Role::Service => format!("{upstream}/{endpoint}{}", url.path().trim_end_matches('/')),
            Role::PrimaryOrigin { .. } => upstream.to_owned(),
        };
        let region = self.settings.region(&id).map(str::to_owned);
        Node::new(Identity { id: id.into(), kind: Kind::Upstream, endpoint, region }, &self.settings, self.calendar)
    }
}

impl Group {
    /// As the manifest has it.
    pub fn config(&self) -> &Upstream {
        &self.config
    }

    /// This instance among the members of `Via`.
    pub fn via(&self) -> &HeaderValue {
        &self.via
    }

    /// Its endpoints.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.endpoints.iter().map(|endpoint| &endpoint.node)
    }

    /// Asks one endpoint, and others where that did not answer and the request may be repeated, within the retry budget and
    /// the deadline. An answer of any status is an answer. Cancelling gives the connection up, by which the upstream learns
    /// that nobody waits.
    ///
    /// # Errors
    /// Why nobody has answered; what was wrong with the client's body is among it.
    pub async fn ask(&self, ask: &Ask) -> Result<Reply, Unanswered> {
        let mut tried: SmallVec<[usize; 4]> = SmallVec::new();
        self.budget.lock().deposit(Instant::now());
        loop {
            let began = Instant::now();
            let Some((index, endpoint)) = self.choose(began, &tried, ask) else {
                return Err(Unanswered::NotSent);
            };
            tried.push(index);
            let trouble = match self.attempt(endpoint, ask, began, tried.len()).await {
                Ok(response) => return Ok(Reply { response, node: Arc::clone(&endpoint.node) }),
                Err(trouble) => trouble,
            };
            if self.may_repeat(ask, &trouble, tried.len()) {
                let has_one = self.budget.lock().withdraw();
                let outcome = if has_one { "sent" } else { "over_budget" };
                self.metrics.upstream_retries.with_label_values(&[self.config.name.as_str(), outcome]).inc();
                if has_one {
                    continue;
                }
            }
            return Err(match trouble {
                Trouble::Gateway(response) => return Ok(Reply { response, node: Arc::clone(&endpoint.node) }),
                Trouble::Own(error) => Unanswered::Own(error),
                Trouble::Timeout => Unanswered::Timeout,
                Trouble::Connect(_) => Unanswered::NotSent,
                Trouble::Broken(_) => Unanswered::Broken,
            });
        }
    }

    /// Whether a request may be sent once more, after it was sent: because it changes nothing, or says the same twice.
    pub fn is_repeatable(&self, ask: &Ask) -> bool {
        self.role.is_repeatable(ask) && ask.body.is_there()
    }

    /// Whether it is worth it to send a request once more.
    fn may_repeat(&self, ask: &Ask, trouble: &Trouble, tries: usize) -> bool {
        let is_allowed = match trouble {
            Trouble::Own(_) => false,
            Trouble::Connect(_) => !self.role.has_other_way() && ask.body.is_there(),
            // What has just answered so, or not at all, would again.
            Trouble::Timeout | Trouble::Gateway(_) => self.is_repeatable(ask) && tries < self.endpoints.len(),
            Trouble::Broken(_) => self.is_repeatable(ask),
        };
        is_allowed
            && u32::try_from(tries).is_ok_and(|tries| tries <= self.config.retries)
            && Instant::now() < ask.deadline
    }

    /// The endpoint to ask next: of those that were not tried the picked one. Where each is let alone it is the least bad, or
    /// none if there is another way.
    fn choose(&self, now: Instant, tried: &[usize], ask: &Ask) -> Option<(usize, &Endpoint)> {
        let at = |index: usize| self.endpoints.get(index).map(|endpoint| (index, endpoint));
        let is_left = |index: &usize| !tried.contains(index) || tried.len() >= self.endpoints.len();
        let left: SmallVec<[usize; 8]> = (0..self.endpoints.len()).filter(is_left).collect();
        let candidates: SmallVec<[Candidate; 8]> = left
            .iter()
            .filter_map(|index| at(*index))
            .filter(|(_, endpoint)| endpoint.node.would_admit(now))
            .map(|(index, endpoint)| {
                let candidate = Candidate::of(index, &endpoint.node, now, &self.settings);
                // One that was never asked is asked soon: only so it is known how fast it is.
                Candidate { latency: candidate.latency.or(Some(Duration::ZERO)), ..candidate }
            })
            .collect();
        let mut order = self.pick.lock().order(now, &candidates, &self.settings);
        if tried.is_empty() && matches!(ask.method, Method::GET | Method::HEAD) && fastrand::u32(..EXPLORED_ONE_IN) == 0
        {
            // Until all are measured those that are not are asked first anyway.
            let is_measured = |one: &Candidate| one.latency > Some(Duration::ZERO) && !one.shaken;
            let is_well = |index: &usize| candidates.iter().any(|one| one.node == *index && is_measured(one));
            if order.len() > 1 && order.iter().all(is_well) {
                let other = fastrand::usize(1..order.len());
                order.swap(0, other);
            }
        }
        let admitted = order.into_iter().filter_map(at).find(|(_, endpoint)| endpoint.node.admit(now));
        if admitted.is_none() {
            self.note_out(now);
        }
        admitted.or_else(|| {
            if self.role.has_other_way() {
                return None;
            }
            let nodes = left.iter().filter_map(|index| at(*index)).map(|(index, endpoint)| (index, &*endpoint.node));
            least_bad_first(nodes).first().copied().and_then(at)
        })
    }

    /// Nobody was let in. Where that is so for all endpoints it is said, once.
    fn note_out(&self, now: Instant) {
        let is_out = !self.endpoints.iter().any(|endpoint| endpoint.node.would_admit(now));
        if is_out && !self.is_out.swap(true, Ordering::Relaxed) {
            let instead = match self.role.has_other_way() {
                true => "what it would answer is run here meanwhile",
                false => "the least bad is asked all the same",
            };
            log::error!("every endpoint of upstream {} has failed; {instead}", self.config.name);
            self.metrics.upstream_out.with_label_values(&[self.config.name.as_str()]).set(1);
        }
    }

    fn note_well(&self) {
        if self.is_out.load(Ordering::Relaxed) && self.is_out.swap(false, Ordering::Relaxed) {
            log::info!("upstream {} answers again", self.config.name);
            self.metrics.upstream_out.with_label_values(&[self.config.name.as_str()]).set(0);
        }
    }

    /// One try, which the endpoint has let in at `began`, and what it says of the endpoint.
    async fn attempt(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        began: Instant,
        number: usize,
    ) -> Result<Response, Trouble> {
        let mut span = self.span(endpoint, ask, number);
        let outcome = self.send(endpoint, ask, began, span.here().as_ref()).await;
        trace_try(&mut span, &outcome);
        let (now, took) = (Instant::now(), began.elapsed());
        let label = outcome.as_ref().map_or_else(Trouble::as_str, |_| "ok");
        self.metrics.upstream_tries.with_label_values(&[self.config.name.as_str(), label]).inc();
        match &outcome {
            Ok(_) => {
                endpoint.node.succeeded(now, took);
                self.note_well();
            }
            Err(Trouble::Connect(reason) | Trouble::Broken(reason)) => endpoint.node.failed(now, reason),
            Err(Trouble::Gateway(response)) => {
                endpoint.node.failed(now, &format_args!("it answers {}", response.status().as_u16()));
            }
            // The rest of a deadline that others have used up says nothing.
            Err(Trouble::Timeout) if number == 1 || took >= self.config.try_timeout => {
                endpoint.node.failed(now, &"it does not answer in time");
            }
            Err(Trouble::Timeout | Trouble::Own(_)) => endpoint.node.give_back(began, now),
        }
        outcome
    }

    /// The span of one try. The path that is asked for it does not say: there are values in it.
    fn span(&self, endpoint: &Endpoint, ask: &Ask, number: usize) -> Span {
        let mut span = traces::span("upstream try", SpanKind::Client);
        if span.is_some() {
            span.set("mainstay.upstream", self.config.name.clone());
            span.set("mainstay.node", &endpoint.node.identity().id);
            span.set("http.request.method", ask.method.as_str().to_owned());
            span.set("http.request.resend_count", number - 1);
        }
        span
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        now: Instant,
        here: Option<&Here>,
    ) -> Result<Response, Trouble> {
        let internal = |reason: &dyn std::fmt::Display| {
            log::error!("upstream {}: a request could not be made: {reason}", self.config.name);
            Trouble::Own(Error::new(Code::Internal, "the request could not be passed on; the log says why"))
        };
        let shape = self.shape.as_ref().map_err(|reason| internal(reason))?;
        let client = shape.client().map_err(|reason| internal(&reason))?;
        let mut request = request(endpoint, ask).map_err(|reason| internal(&reason))?;
        if let Some(here) = here {
            here.write(request.headers_mut());
        }
        let patience = self.config.try_timeout.min(ask.deadline.saturating_duration_since(now)) + ask.upload_time;
        let sent = tokio::time::timeout(patience, client.execute(request)).await;
        if let Body::Stream(upload) = &ask.body
            && let Some(error) = upload.trouble()
        {
            return Err(Trouble::Own(error));
        }
        match sent {
            Err(_) => Err(Trouble::Timeout),
            Ok(Err(error)) if error.is_connect() => Err(Trouble::Connect(reason(error))),
            Ok(Err(error)) => Err(Trouble::Broken(reason(error))),
            Ok(Ok(response)) => match response.status() {
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                    if !self.role.speaks_for_itself(response.headers()) =>
                {
                    Err(Trouble::Gateway(response))
                }
                _ => Ok(response),
            },
        }
    }
}

/// Tells a span what its try has come to.
fn trace_try(span: &mut Span, outcome: &Result<Response, Trouble>) {
    if let Ok(response) | Err(Trouble::Gateway(response)) = outcome {
        span.set("http.response.status_code", response.status().as_u16());
    }
    match outcome {
        Ok(response) if response.status().is_client_error() || response.status().is_server_error() => {
            span.fail("status");
        }
        Ok(_) => {}
        Err(trouble) => span.fail(trouble.as_str()),
    }
}

fn request(endpoint: &Endpoint, ask: &Ask) -> Result<Request, String> {
    // By hand, since joining would take `//x` for another host.
    let base = endpoint.url.as_str().trim_end_matches('/');
    let url = Url::parse(&format!("{base}{}", ask.target)).map_err(|error| error.to_string())?;
    let mut request = Request::new(ask.method.clone(), url);
    *request.headers_mut() = ask.headers.clone();
    if let Some(host) = &ask.host {
        request.headers_mut().insert(header::HOST, host.clone());
    }
    match &ask.body {
        Body::Whole(bytes) if bytes.is_empty() && ask.method != Method::POST => {}
        Body::Whole(bytes) => *request.body_mut() = Some(bytes.clone().into()),
        Body::Stream(upload) => {
            if let Some(length) = upload.length() {
                request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            *request.body_mut() = Some(upload.to_body());
        }
    }
    Ok(request)
}
