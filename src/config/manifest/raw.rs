//! What `routes.toml` says, and how it becomes [`Route`]s: every rule of the manifest that needs no database.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex::Regex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::about::about;
use super::access::{self, NOT_SHARED, RawAuth, access};
use super::prefix::{Prefix, consistency_of, default_policy, prefix_of};
use super::source::source;
use super::upstream::{RawShadow, RawUpstream, Upstream, captures, complete};
use super::{CachePolicy, Consistency, OnChange, ResultShape, Route, Source, UnknownParams, Watch};
use crate::config::auth::AccountReads;
use crate::config::overload::RouteRates;
use crate::config::param::{Param, Place, Scalar, Value};
use crate::config::units::{Span, fingerprint_part};

/// The middleware that is applied after the cache lookup, so that cached routes may have it.
pub const CORS: &str = "cors";

/// The names that a manifest may refer to.
pub struct Known<'a> {
    /// Registered handlers.
    pub handlers: &'a [&'a str],
    /// Registered middlewares.
    pub middlewares: &'a [&'a str],
    /// The version of the program that the handlers are part of: what another version of it has cached is not served.
    pub version: &'a str,
    /// The consistency of reads of accounts and transactions that say nothing of it.
    pub account_reads: AccountReads,
}

/// Something wrong in a manifest, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file it stands in.
    pub file: PathBuf,
    /// Its line; 0 where it concerns the file as a whole.
    pub line: usize,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.reason),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.reason),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(default)]
    route: Vec<Spanned<RawRoute>>,
    #[serde(default)]
    upstream: BTreeMap<String, Spanned<RawUpstream>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    pub(super) path: String,
    #[serde(default = "get_only")]
    pub(super) methods: Vec<String>,
    pub(super) sql: Option<String>,
    pub(super) sql_file: Option<String>,
    pub(super) handler: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) shadow: Option<RawShadow>,
    pub(super) result: Option<ResultShape>,
    consistency: Option<Consistency>,
    #[serde(default)]
    middlewares: Vec<String>,
    #[serde(default)]
    auth: RawAuth,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    params: Vec<RawParam>,
    unknown_params: Option<UnknownParams>,
    #[serde(default)]
    rate_limit: RouteRates,
    cache: Option<RawCache>,
    pub(super) summary: Option<String>,
    pub(super) description: Option<String>,
    #[serde(default)]
    pub(super) deprecated: bool,
    pub(super) schema_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawParam {
    name: String,
    #[serde(rename = "in")]
    place: String,
    #[serde(rename = "type")]
    kind: String,
    pattern: Option<String>,
    min: Option<f64>,
    max: Option<f64>,
    default: Option<toml::Value>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    set: bool,
    claim: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCache {
    ttl: Span,
    browser_ttl: Option<Span>,
    edge_ttl: Option<Span>,
    stale_while_revalidate: Option<Span>,
    stale_if_error: Option<Span>,
    #[serde(default)]
    tags: Vec<String>,
    watch: Option<Vec<RawWatch>>,
    on_change: Option<OnChange>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a table's name, or { table = \"…\", tag = \"…\" }")]
enum RawWatch {
    Table(String),
    Tagged(TaggedWatch),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaggedWatch {
    table: String,
    tag: Option<String>,
}

fn get_only() -> Vec<String> {
    vec!["GET".to_owned()]
}

/// Upstreams by name.
pub(super) type Upstreams = BTreeMap<String, Arc<Upstream>>;

/// A manifest as it was read.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) routes: Vec<Route>,
    pub(super) upstreams: Upstreams,
    /// Whatever is wrong; what is right is above.
    pub(super) problems: Vec<Problem>,
    /// Path and line of each route that asks for a signed token, be it right or wrong otherwise.
    pub(super) asking_tokens: Vec<(String, usize)>,
}

/// Reads all routes and upstreams of a manifest's text.
pub(super) fn parse(text: &str, file: &Path, known: &Known<'_>) -> Parsed {
    let line_of = |at: usize| text.get(..at).map_or(0, |before| before.matches('\n').count() + 1);
    let problem = |line, reason: String| Problem { file: file.to_owned(), line, reason };
    let raw: RawManifest = match toml::from_str(text) {
        Ok(raw) => raw,
        Err(error) => {
            let line = error.span().map_or(0, |span| line_of(span.start));
            return Parsed { problems: vec![problem(line, error.message().to_owned())], ..Parsed::default() };
        }
    };
    let mut parsed = Parsed::default();
    let Parsed { routes, upstreams, problems, asking_tokens } = &mut parsed;
    // A wrong one is known all the same, so that its routes are not problems of their own.
    let names: Vec<String> = raw.upstream.keys().cloned().collect();
    for (name, spanned) in raw.upstream {
        let line = line_of(spanned.span().start);
        let checked = if is_name(&name) { Ok(()) } else { Err("its name must be letters, digits, _ or -".to_owned()) };
        match checked.and_then(|()| Upstream::new(name.clone(), spanned.into_inner(), file, line)) {
            Ok(upstream) => drop(upstreams.insert(name, Arc::new(upstream))),
            Err(reason) => problems.push(problem(line, format!("upstream {name}: {reason}"))),
        }
    }
    let (mut tree, mut catch_alls) = (matchit::Router::new(), matchit::Router::new());
    let mut taken = HashSet::new();
    for spanned in raw.route {
        let line = line_of(spanned.span().start);
        let raw = spanned.into_inner();
        let path = raw.path.clone();
        if raw.auth == RawAuth::Jwt {
            asking_tokens.push((path.clone(), line));
        }
        if let Some(name) = raw.upstream.as_ref().filter(|name| !upstreams.contains_key(*name)) {
            if !names.contains(name) {
                let there_are = if names.is_empty() {
                    "there are none".to_owned()
                } else {
                    format!("there are: {}", names.join(", "))
                };
                let reason = format!("no upstream is called {name:?}; {there_are}");
                problems.push(problem(line, format!("route {path}: {reason}")));
            }
            continue;
        }
        match validate(raw, file, known, upstreams, line) {
            Ok(route) => {
                let tree = if route.is_catch_all() { &mut catch_alls } else { &mut tree };
                let is_new_pattern = taken.iter().all(|(taken, _)| *taken != path);
                if is_new_pattern && let Err(error) = tree.insert(path.clone(), ()) {
                    problems.push(problem(line, format!("route {path}: {error}")));
                }
                for method in &route.methods {
                    if !taken.insert((path.clone(), method.clone())) {
                        problems.push(problem(line, format!("route {path}: {method} is declared twice")));
                    }
                }
                routes.push(route);
            }
            Err(reason) => problems.push(problem(line, format!("route {path}: {reason}"))),
        }
    }
    parsed
}

fn validate(
    raw: RawRoute,
    file: &Path,
    known: &Known<'_>,
    upstreams: &Upstreams,
    line: usize,
) -> Result<Route, String> {
    let is_upstream = raw.upstream.is_some();
    check_path(&raw.path, is_upstream)?;
    check_methods(&raw.methods, is_upstream)?;
    let access = access(raw.auth, raw.scopes.clone(), raw.shared)?;
    let is_one_callers = access.as_ref().is_some_and(|access| !access.shared);
    if let Some(unknown) = raw.middlewares.iter().find(|name| !known.middlewares.contains(&name.as_str())) {
        return Err(format!("no middleware is called {unknown:?}; there are: {}", known.middlewares.join(", ")));
    }
    let mut params = raw.params.iter().map(param).collect::<Result<Vec<_>, _>>()?;
    if is_upstream {
        complete(&raw.path, &mut params, raw.unknown_params.is_none());
    }
    check_params(&raw.path, &params)?;
    access::check(access.as_ref(), &params, &raw.methods, &raw.rate_limit, raw.shadow.is_some())?;
    let source = source(&raw, file, known, &params, upstreams)?;
    let about = about(&raw, file)?;
    let prefix = prefix_of(&raw.path);
    let consistency = raw.consistency.unwrap_or_else(|| consistency_of(&raw.path, known.account_reads));
    let reads_only = raw.methods == ["GET"];
    let cache = match (raw.cache, &prefix) {
        (Some(_), _) if !reads_only => return Err("[route.cache] is for routes with GET alone".to_owned()),
        (Some(_), _) if consistency != Consistency::Eventual => {
            return Err(
                "[route.cache] needs consistency = \"eventual\"; strong and session reads are never shared".to_owned()
            );
        }
        (Some(_), _) if matches!(&source, Source::Upstream { upstream, .. } if upstream.forward_host) => {
            return Err(
                "[route.cache]: its upstream has forward_host = true, and the Host is not in the cache key".to_owned()
            );
        }
        (Some(_), _) if is_one_callers => return Err(NOT_SHARED.to_owned()),
        (Some(cache), _) => Some(policy(cache, &params)?),
        (None, _) if is_one_callers => None,
        // Only who knows an upstream can say that its answers are for everyone.
        (None, Prefix::Public) if !is_upstream && reads_only && consistency == Consistency::Eventual => {
            Some(default_policy())
        }
        (None, _) => None,
    };
    if cache.is_none() && access.as_ref().is_some_and(|access| access.shared) {
        return Err("shared = true says that all callers get one cached answer; add [route.cache]".to_owned());
    }
    if cache.is_some()
        && let Some(name) = raw.middlewares.iter().find(|name| *name != CORS)
    {
        return Err(format!(
            "middleware {name:?} would not see requests that are answered from the cache; cached routes take {CORS:?} alone"
        ));
    }
    let mut route = Route {
        private: matches!(prefix, Prefix::Private) || access.is_some(),
        access,
        path: raw.path,
        methods: raw.methods,
        source,
        consistency,
        middlewares: raw.middlewares,
        params,
        unknown_params: raw.unknown_params.unwrap_or(UnknownParams::Refuse),
        rates: raw.rate_limit,
        cache,
        about,
        fingerprint: [0; 16],
        line,
    };
    route.fingerprint = fingerprint(&route, known);
    Ok(route)
}

fn check_path(path: &str, may_catch_all: bool) -> Result<(), String> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("the path must start with /".to_owned());
    };
    if path == "/health" || path.starts_with("/health/") {
        return Err("/health is answered by the server itself".to_owned());
    }
    let literal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c);
    for (index, segment) in rest.split('/').enumerate() {
        let is_last = index == rest.matches('/').count();
        let is_root = rest.is_empty();
        let name = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
        let fine = match name {
            Some(name) if may_catch_all && is_last => is_name(name.strip_prefix('*').unwrap_or(name)),
            Some(name) => is_name(name),
            None => {
                is_root || (!segment.is_empty() && segment != "." && segment != ".." && segment.chars().all(literal))
            }
        };
        if !fine {
            let what = match name {
                Some(name) if name.starts_with('*') && !may_catch_all => "catch-all segments are for upstream routes",
                Some(name) if name.starts_with('*') => "a catch-all segment is the last one",
                _ => "segments are plain characters, or one {name}",
            };
            return Err(format!("path segment {segment:?}: {what}"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn check_methods(methods: &[String], may_have_options: bool) -> Result<(), String> {
    const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
    if methods.is_empty() {
        return Err("methods must name at least one".to_owned());
    }
    let is_known = |method: &&String| METHODS.contains(&method.as_str()) || (may_have_options && *method == "OPTIONS");
    match methods.iter().find(|method| !is_known(method)) {
        Some(method) if method == "HEAD" || method == "OPTIONS" => {
            Err(format!("{method} follows from GET; leave it out"))
        }
        Some(method) => Err(format!("method {method:?}: one of {}", METHODS.join(", "))),
        None => Ok(()),
    }
}

fn param(raw: &RawParam) -> Result<Param, String> {
    let name = &raw.name;
    let wrong = |what: String| format!("parameter {name}: {what}");
    if !is_name(name) {
        return Err(wrong("its name must be letters, digits, _ or -".to_owned()));
    }
    let place = match raw.place.as_str() {
        "path" => Place::Path,
        "query" => Place::Query,
        "claim" => Place::Claim,
        other => return Err(wrong(format!("in = {other:?}: one of path, query, claim"))),
    };
    let (kind, array) = raw.kind.strip_suffix("[]").map_or((raw.kind.as_str(), false), |kind| (kind, true));
    let scalar = Scalar::from_name(kind).ok_or_else(|| {
        wrong(format!(
            "type = {:?}: one of text, integer, number, boolean, date, timestamp, uuid, or an array like text[]",
            raw.kind
        ))
    })?;
    let numeric = matches!(scalar, Scalar::Integer | Scalar::Number);
    if (raw.min.is_some() || raw.max.is_some()) && !numeric {
        return Err(wrong("min and max are for integer and number".to_owned()));
    }
    if raw.min.zip(raw.max).is_some_and(|(min, max)| min > max) {
        return Err(wrong("min is greater than max".to_owned()));
    }
    if raw.set && !array {
        return Err(wrong("set = true is for arrays".to_owned()));
    }
    if raw.optional && (raw.default.is_some() || place == Place::Path || array) {
        return Err(wrong("optional = true is for scalars of the query or of claims without a default".to_owned()));
    }
    if raw.claim.is_some() && place != Place::Claim {
        return Err(wrong("claim is for parameters in = \"claim\"".to_owned()));
    }
    let pattern =
        raw.pattern.as_deref().map(Regex::new).transpose().map_err(|error| wrong(format!("pattern: {error}")))?;
    let mut param = Param {
        name: name.clone(),
        place,
        scalar,
        array,
        set: raw.set,
        pattern,
        min: raw.min,
        max: raw.max,
        default: None,
        optional: raw.optional,
        claim: raw.claim.clone(),
        description: raw.description.clone(),
    };
    if let Some(default) = &raw.default {
        if place == Place::Path {
            return Err(wrong("a path parameter is always given; it needs no default".to_owned()));
        }
        let value = default_value(&param, default).map_err(|what| wrong(format!("default: must be {what}")))?;
        param.default = Some(value);
    }
    Ok(param)
}

/// A default obeys the same rules as a value that a caller sends.
fn default_value(param: &Param, default: &toml::Value) -> Result<Value<'static>, String> {
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(value) => Ok(value.to_string()),
        toml::Value::Datetime(time) => Ok(time.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => Err("a single value".to_owned()),
    };
    let value = match (param.array, default) {
        (true, toml::Value::Array(items)) => {
            let texts = items.iter().map(text).collect::<Result<Vec<_>, _>>()?;
            param.array_value(texts.into_iter().map(Into::into))?
        }
        (true, _) => return Err("an array".to_owned()),
        (false, value) => param.scalar_value(text(value)?.into())?,
    };
    Ok(value.into_owned())
}

fn check_params(path: &str, params: &[Param]) -> Result<(), String> {
    let mut names = HashSet::new();
    if let Some(twice) = params.iter().find(|param| !names.insert(param.name.as_str())) {
        return Err(format!("parameter {} is declared twice", twice.name));
    }
    if let Some((name, _)) = captures(path).find(|(name, is_rest)| {
        *is_rest && params.iter().any(|param| param.name == *name && (param.array || param.scalar != Scalar::Text))
    }) {
        return Err(format!("parameter {name} is all the rest of the path, which is a text"));
    }
    let in_path: Vec<&str> = captures(path).map(|(name, _)| name).collect();
    let mut in_path_once = HashSet::new();
    if let Some(twice) = in_path.iter().find(|name| !in_path_once.insert(**name)) {
        return Err(format!("the path has {{{twice}}} twice; a parameter has one value"));
    }
    if let Some(undeclared) =
        in_path.iter().find(|name| !params.iter().any(|param| param.place == Place::Path && param.name == **name))
    {
        return Err(format!(
            "{{{undeclared}}} of the path is not declared; add {{ name = \"{undeclared}\", in = \"path\", type = … }}"
        ));
    }
    match params.iter().find(|param| param.place == Place::Path && !in_path.contains(&param.name.as_str())) {
        Some(missing) => Err(format!(
            "parameter {} is declared in = \"path\", but the path has no {{{}}}",
            missing.name, missing.name
        )),
        None => Ok(()),
    }
}

fn policy(raw: RawCache, params: &[Param]) -> Result<CachePolicy, String> {
    let ttl = raw.ttl.0;
    if ttl.is_zero() {
        return Err("cache.ttl must be longer than zero; leave [route.cache] out to store nothing".to_owned());
    }
    for tag in &raw.tags {
        check_tag(tag, params)?;
    }
    let watch = |raw: RawWatch| match raw {
        RawWatch::Table(table) => Watch { table, tag: None },
        RawWatch::Tagged(TaggedWatch { table, tag }) => Watch { table, tag },
    };
    let watch: Option<Vec<Watch>> = raw.watch.map(|watches| watches.into_iter().map(watch).collect());
    let untagged = watch.iter().flatten().filter_map(|watch| watch.tag.as_ref()).find(|tag| !raw.tags.contains(tag));
    if let Some(tag) = untagged {
        return Err(format!("watch: tag {tag:?} is none of the route's tags, so that a change would purge nothing"));
    }
    for tag in watch.iter().flatten().filter_map(|watch| watch.tag.as_ref()) {
        check_watched_tag(tag, params)?;
    }
    Ok(CachePolicy {
        ttl,
        browser_ttl: raw.browser_ttl.map_or(ttl, |span| span.0),
        edge_ttl: raw.edge_ttl.map(|span| span.0),
        stale_while_revalidate: raw.stale_while_revalidate.map_or_else(Default::default, |span| span.0),
        stale_if_error: raw.stale_if_error.map_or_else(Default::default, |span| span.0),
        tags: raw.tags,
        watch,
        on_change: raw.on_change.unwrap_or(OnChange::Purge),
    })
}

/// A tag of a row's columns is the tag of a request's parameters only where both have one text.
fn check_watched_tag(tag: &str, params: &[Param]) -> Result<(), String> {
    let names = tag.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name);
    let mut named = names.filter_map(|name| params.iter().find(|param| param.name == name));
    match named.find(|param| matches!(param.scalar, Scalar::Number | Scalar::Timestamp)) {
        Some(param) => Err(format!(
            "watch: tag {tag:?}: {} is a number or a timestamp, which Postgres may print otherwise than the request does; watch the table by its name alone",
            param.name
        )),
        None => Ok(()),
    }
}

/// A tag names parameters only that exist, and stays within what a surrogate key may hold.
fn check_tag(tag: &str, params: &[Param]) -> Result<(), String> {
    let fine = !tag.is_empty() && tag.len() <= 256 && tag.chars().all(|c| c.is_ascii_graphic() && c != ',');
    if !fine {
        return Err(format!("tag {tag:?}: printable characters without spaces or commas, at most 256"));
    }
    for part in tag.split('{').skip(1) {
        let name =
            part.split_once('}').map(|(name, _)| name).ok_or_else(|| format!("tag {tag:?}: {{ is not closed"))?;
        if !params.iter().any(|param| param.name == name) {
            return Err(format!("tag {tag:?}: no parameter is called {name}"));
        }
    }
    Ok(())
}

/// Hash of what a cached answer's meaning depends on.
fn fingerprint(route: &Route, known: &Known<'_>) -> [u8; 16] {
    let mut bytes = Vec::new();
    fingerprint_part(&mut bytes, &route.path);
    match &route.source {
        Source::Sql { statement, result } => {
            fingerprint_part(&mut bytes, &format!("{result:?}"));
            fingerprint_part(&mut bytes, &statement.render(|index| format!("${index}")));
        }
        Source::Handler(name) => {
            fingerprint_part(&mut bytes, name);
            fingerprint_part(&mut bytes, known.version);
        }
        // Where it runs may change, as a database's address may; what it is asked for may not.
        Source::Upstream { upstream, .. } => {
            fingerprint_part(&mut bytes, &upstream.name);
            let prefixes: BTreeSet<&str> = upstream.endpoints.iter().map(reqwest::Url::path).collect();
            prefixes.iter().for_each(|prefix| fingerprint_part(&mut bytes, prefix));
        }
    }
    route.params.iter().for_each(|param| param.describe(&mut bytes));
    fingerprint_part(&mut bytes, &format!("{:?} {:?} {:?}", route.unknown_params, route.cache, route.access));
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    let (half, _) = digest.split_at(16);
    half.try_into().unwrap_or_default()
}
