//! The manifest made ready to serve: a router over canonical paths, and for each route all that can be computed before a
//! request comes. A reload builds a new surface and swaps it in whole.

use std::sync::Arc;

use actix_http::header::{HeaderName, HeaderValue};

use super::counters::Counters;
use super::headers;
use super::middleware::{Middleware, Middlewares};
use super::openapi::Documents;
use super::rate_limit::RouteLimits;
use super::shadow::Twin;
use crate::cache::key::KeyMaker;
use crate::cache::tag::Tags;
use crate::config::manifest::upstream::Shadow;
use crate::config::manifest::{Manifest, Route, Source, Watch, unique};
use crate::config::settings::Settings;
use crate::error::Code;
use crate::source::Producer;
use crate::source::handler::Registry;
use crate::source::sql::SqlSource;
use crate::source::upstream::UpstreamSource;
use crate::source::upstream::group::Upstreams;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::sparing::Sparing;

/// All routes of an instance, ready to serve.
pub struct Surface {
    tree: matchit::Router<usize>,
    /// The patterns that take all the rest of a path, apart: they answer what no other route does, method by method.
    catch_alls: matchit::Router<usize>,
    patterns: Vec<Pattern>,
    /// `GET /public/rates`, …: the routes that anyone may know of.
    pub public_routes: Vec<String>,
    /// What is told of them, where it is.
    pub documents: Option<Arc<Documents>>,
}

/// The routes that share a path pattern.
pub struct Pattern {
    endpoints: Vec<Arc<Endpoint>>,
    /// The `Allow` header.
    pub allow: HeaderValue,
}

/// A route, ready to serve.
pub struct Endpoint {
    /// The route as declared.
    pub route: Arc<Route>,
    /// What produces a response.
    pub producer: Producer,
    /// What is compared with it.
    pub twin: Option<Twin>,
    /// Makes the keys of its answers.
    pub keys: KeyMaker,
    /// Makes the tags of its answers.
    pub tags: Tags,
    /// `Cache-Control` of answers that are good to keep.
    pub cache_control: HeaderValue,
    /// Where a CDN finds the tags of an answer that it may keep.
    pub tag_header: Option<HeaderName>,
    /// Whether the `cors` middleware is on.
    pub cors: bool,
    /// All other middlewares, outermost first.
    pub middlewares: Vec<Middleware>,
    /// How often it may be asked past L1.
    pub limits: RouteLimits,
    /// What was said of it in the log, by what went wrong.
    pub said: Sparing<Code>,
    /// Counters of the hit path, resolved beforehand so that a hit looks nothing up.
    pub counters: Counters,
}

/// A pattern that matched, with what its `{names}` stand for.
pub struct Found<'surface, 'path> {
    /// The pattern.
    pub pattern: &'surface Pattern,
    captures: matchit::Params<'surface, 'path>,
}

impl<'path> Found<'_, 'path> {
    /// What `{name}` stands for.
    pub fn capture(&self, name: &str) -> Option<&'path str> {
        self.captures.get(name)
    }
}

impl Surface {
    /// Makes a manifest ready to serve. What the manifest names is registered, since its validation saw to that; a name
    /// that is missing all the same leaves its route out, with a log line.
    pub fn new(
        manifest: &Manifest,
        registry: &Registry,
        middlewares: &Middlewares,
        upstreams: &Upstreams,
        settings: &Settings,
        metrics: &Metrics,
    ) -> Self {
        let mut surface = Self {
            tree: matchit::Router::new(),
            catch_alls: matchit::Router::new(),
            patterns: Vec::new(),
            public_routes: Vec::new(),
            documents: settings.openapi.enabled.then(|| Arc::new(Documents::new(manifest, registry, settings))),
        };
        for route in &manifest.routes {
            let Some(producer) = producer(route, registry, upstreams, settings) else {
                log::error!("route {} names a source that is not registered", route.path);
                continue;
            };
            let endpoint = Arc::new(Endpoint {
                producer,
                twin: twin(route, settings),
                keys: KeyMaker::new(&settings.cache.namespace, &route.fingerprint),
                tags: Tags::new(route),
                cache_control: headers::interned(cache_control(route, settings)),
                tag_header: HeaderName::try_from(settings.edge.tag_header.as_str()).ok(),
                cors: route.middlewares.iter().any(|name| name == super::cors::NAME),
                middlewares: route.middlewares.iter().filter_map(|name| middlewares.get(name)).collect(),
                limits: RouteLimits::new(route.rates, settings.rate_limit.clients_max),
                said: Sparing::default(),
                counters: Counters::new(metrics, route, settings),
                route: Arc::clone(route),
            });
            surface.add(endpoint);
        }
        surface.patterns.iter_mut().for_each(Pattern::set_allow);
        surface
    }

    fn add(&mut self, endpoint: Arc<Endpoint>) {
        let route = &endpoint.route;
        if !route.private {
            self.public_routes.extend(route.methods.iter().map(|method| format!("{method} {}", route.path)));
        }
        let same = self
            .patterns
            .iter_mut()
            .find(|pattern| pattern.endpoints.iter().any(|other| other.route.path == route.path));
        if let Some(pattern) = same {
            pattern.endpoints.push(endpoint);
        } else if let Err(error) = self.insert(route) {
            log::error!("route {} is left out: {error}", route.path);
        } else {
            self.patterns.push(Pattern { endpoints: vec![endpoint], allow: HeaderValue::from_static("") });
        }
    }

    fn insert(&mut self, route: &Route) -> Result<(), matchit::InsertError> {
        let index = self.patterns.len();
        if !route.is_catch_all() {
            return self.tree.insert(route.path.clone(), index);
        }
        // `/{*path}` is for `/` as well, where the rest is empty.
        let (before, _) = route.path.rsplit_once('/').unwrap_or_default();
        self.catch_alls.insert(format!("{before}/"), index)?;
        self.catch_alls.insert(route.path.clone(), index)
    }

    /// The pattern of a canonical path that has a method, or else one that has others: first those that name the path, then
    /// those that take all the rest of one. A path with dot segments has none: a proxy on the way may have resolved them, and
    /// then it would keep the answer under another path.
    pub fn find<'surface, 'path>(&'surface self, path: &'path str, method: &str) -> Option<Found<'surface, 'path>> {
        let has_method = |found: &Found<'_, '_>| found.pattern.endpoint(method).is_some();
        let named = self.find_in(&self.tree, path);
        // OPTIONS follows from GET.
        let follows = |found: &Found<'_, '_>| method == "OPTIONS" && found.pattern.endpoint("GET").is_some();
        if named.as_ref().is_some_and(|found| has_method(found) || follows(found)) {
            return named;
        }
        let rest = self.find_in(&self.catch_alls, path);
        if rest.as_ref().is_some_and(has_method) { rest } else { named.or(rest) }
    }

    fn find_in<'surface, 'path>(
        &'surface self,
        tree: &'surface matchit::Router<usize>,
        path: &'path str,
    ) -> Option<Found<'surface, 'path>> {
        let found = tree.at(path).ok()?;
        if found.params.iter().any(|(_, captured)| may_be_read_otherwise(captured)) {
            return None;
        }
        Some(Found { pattern: self.patterns.get(*found.value)?, captures: found.params })
    }

    /// The tables that any route watches, each with each of its tags once.
    pub fn watches(&self) -> Vec<Watch> {
        unique(self.endpoints().flat_map(|endpoint| endpoint.route.watches()))
    }

    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.patterns.iter().flat_map(|pattern| &pattern.endpoints)
    }
}

/// Whether a proxy or a server behind this one may take a captured part of a path for another one: with segments of dots, or with
/// empty ones, which many leave out. The last segment may be empty, as that of `/things/` is.
fn may_be_read_otherwise(captured: &str) -> bool {
    let mut segments = captured.split('/').rev();
    let last = segments.next().unwrap_or_default();
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    is_dots(last) || segments.any(|segment| segment.is_empty() || is_dots(segment))
}

/// What is issued anew is good for as long as the origin that stands in says, whatever was left of it.
fn cache_control(route: &Route, settings: &Settings) -> String {
    if settings.capabilities().issues_anew {
        format!("{}, max-age={}", route.audience(), settings.failover.max_age.0.as_secs())
    } else {
        route.cache_control()
    }
}

fn producer(route: &Route, registry: &Registry, upstreams: &Upstreams, settings: &Settings) -> Option<Producer> {
    match &route.source {
        Source::Sql { statement, result } => {
            let limits = &settings.limits;
            Some(Producer::Sql(SqlSource::new(
                statement,
                *result,
                &route.params,
                limits.rows_max,
                limits.response_bytes_max,
            )))
        }
        Source::Handler(name) => registry.get(name).map(Producer::Handler),
        Source::Upstream { upstream, .. } => {
            let varies_on_origin = route.middlewares.iter().any(|name| name == super::cors::NAME);
            let group = upstreams.group(upstream);
            Some(Producer::Upstream(UpstreamSource::new(&route.path, group, &settings.limits, varies_on_origin)))
        }
    }
}

fn twin(route: &Route, settings: &Settings) -> Option<Twin> {
    let Source::Upstream { shadow: Some(shadow), .. } = &route.source else { return None };
    let limits = &settings.limits;
    let Shadow { statement, result, sample } = &**shadow;
    let source = SqlSource::new(statement, *result, &route.params, limits.rows_max, limits.response_bytes_max);
    Some(Twin { source, sample: *sample })
}

impl Pattern {
    /// The endpoint of a method; HEAD is GET's.
    pub fn endpoint(&self, method: &str) -> Option<&Arc<Endpoint>> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.endpoints.iter().find(|endpoint| endpoint.route.methods.iter().any(|declared| declared == method))
    }

    /// Whether any of its routes answers other origins, and so their preflight requests.
    pub fn cors(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.cors)
    }

    fn set_allow(&mut self) {
        let mut methods: Vec<&str> =
            self.endpoints.iter().flat_map(|endpoint| &endpoint.route.methods).map(String::as_str).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        if !methods.contains(&"OPTIONS") {
            methods.push("OPTIONS");
        }
        self.allow = headers::value(methods.join(", "));
    }
}
