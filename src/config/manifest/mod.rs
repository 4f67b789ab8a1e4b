//! The manifest, `routes.toml`: the whole surface of an API in one file.
//!
//! [`Manifest::load`] reads it and proves what can be proved without a database; `mainstay check` proves the rest.

pub mod about;
pub mod access;
mod prefix;
mod raw;
mod source;
pub mod statement;
pub mod upstream;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::auth::AuthSettings;
use super::overload::RouteRates;
use super::param::{Param, Place};
use about::About;
use access::Access;
use raw::Parsed;
use statement::Statement;
use upstream::{Shadow, Upstream};

pub use raw::{CORS, Known, Problem};

/// The routes of an API, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// All routes.
    pub routes: Vec<Arc<Route>>,
    /// All upstreams, in the order of their names.
    pub upstreams: Vec<Arc<Upstream>>,
}

/// One entry of the manifest, validated: every rule that holds for it is applied, every default filled in.
#[derive(Clone, Debug)]
pub struct Route {
    /// The path pattern, `/accounts/{id}`.
    pub path: String,
    /// Methods, in capitals. HEAD and OPTIONS follow from GET and are not listed.
    pub methods: Vec<String>,
    /// What produces a response.
    pub source: Source,
    /// Which nodes may answer.
    pub consistency: Consistency,
    /// Names of middlewares, outermost first.
    pub middlewares: Vec<String>,
    /// What a caller must show; `None`: nothing.
    pub access: Option<Access>,
    /// The declared parameters, in the order of `$1`, `$2`, …
    pub params: Vec<Param>,
    /// Whether parameters that are not declared are dropped; else they are a 400.
    pub unknown_params: UnknownParams,
    /// How often it may be asked past L1.
    pub rates: RouteRates,
    /// The cache policy; `None`: never stored, `no-store`.
    pub cache: Option<CachePolicy>,
    /// Whether responses belong to one caller (`no-store, private`).
    pub private: bool,
    /// What it says of itself to readers.
    pub about: About,
    /// Hash of everything that gives a cached answer its meaning: part of every key, so that a deploy which changes a
    /// route never serves the old meaning.
    pub fingerprint: [u8; 16],
    /// Line of the manifest, for messages.
    pub line: usize,
}

/// Which nodes may answer a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Any eligible replica, else the primary.
    Eventual,
    /// A replica at or past the caller's token; without tokens the primary.
    Session,
    /// The primary.
    Strong,
}

impl Consistency {
    /// As the manifest writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Eventual => "eventual",
            Self::Session => "session",
            Self::Strong => "strong",
        }
    }
}

/// What is done with parameters that a route does not declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownParams {
    /// They are a 400 that names them.
    Refuse,
    /// They are dropped, from the key too.
    Ignore,
}

/// What produces a response on a miss.
#[derive(Clone, Debug)]
pub enum Source {
    /// A declared query.
    Sql {
        /// The statement.
        statement: Statement,
        /// Whether it yields one value or an array.
        result: ResultShape,
    },
    /// Rust, by its registered name.
    Handler(String),
    /// An HTTP service.
    Upstream {
        /// Which.
        upstream: Arc<Upstream>,
        /// A query that it is compared with.
        shadow: Option<Arc<Shadow>>,
    },
}

/// The shape of a `sql` route's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultShape {
    /// One value; 404 where there is none.
    Row,
    /// A JSON array.
    Rows,
}

/// How long a response is kept and what makes it fall.
#[derive(Clone, Debug, PartialEq)]
pub struct CachePolicy {
    /// Freshness in the cache.
    pub ttl: Duration,
    /// `max-age`.
    pub browser_ttl: Duration,
    /// `s-maxage`.
    pub edge_ttl: Option<Duration>,
    /// How long past its freshness an answer is served while it is refreshed behind.
    pub stale_while_revalidate: Duration,
    /// How long past its freshness an answer is served when the source fails.
    pub stale_if_error: Duration,
    /// Tags, with `{param}` in them.
    pub tags: Vec<String>,
    /// Tables whose changes purge; `None`: not declared, `Some([])`: by time alone.
    pub watch: Option<Vec<Watch>>,
    /// What a change does.
    pub on_change: OnChange,
}

/// A table whose changes purge a route's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The table, with its schema where it is not on the search path.
    pub table: String,
    /// A tag made of the changed row's columns; `None`: any change purges all of the route's entries.
    pub tag: Option<String>,
}

/// Each watch once, in the order of the first.
pub fn unique(watches: impl Iterator<Item = Watch>) -> Vec<Watch> {
    watches.fold(Vec::new(), |mut unique, watch| {
        if !unique.contains(&watch) {
            unique.push(watch);
        }
        unique
    })
}

/// What a database change does to the entries it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// Soft purge.
    Purge,
    /// Soft purge, and the hottest keys are rendered at once.
    Refresh,
    /// Soft purge, but stale-while-revalidate may serve.
    Stale,
}

impl Route {
    /// Whether any answer of this route may be shared through the cache.
    pub fn is_cacheable(&self) -> bool {
        self.cache.is_some()
    }

    /// The tables whose changes are to be told for it: what its answers are made of, and what its callers are known by.
    pub fn watches(&self) -> impl Iterator<Item = Watch> {
        let policy = self.cache.as_ref().and_then(|policy| policy.watch.as_deref());
        let of_access = self.access.as_ref().and_then(Access::watch);
        policy.unwrap_or_default().iter().cloned().chain(of_access)
    }

    /// Whether it answers for all paths below one, where no other route does.
    pub fn is_catch_all(&self) -> bool {
        upstream::captures(&self.path).any(|(_, is_rest)| is_rest)
    }

    /// Whether its answers are for one caller each. What is shared is the same for all, past the cache as well.
    pub fn is_one_callers(&self) -> bool {
        self.access.as_ref().is_some_and(|access| !access.shared)
    }

    /// Who may keep an answer, as `Cache-Control` says it: what only some may see is no CDN's to keep, whoever it is the same for.
    pub const fn audience(&self) -> &'static str {
        if self.private { "private" } else { "public" }
    }

    /// What `Cache-Control` says on answers that are good to keep, or on all answers of a route without a policy.
    pub fn cache_control(&self) -> String {
        let Some(policy) = &self.cache else {
            return if self.private { "no-store, private" } else { "no-store" }.to_owned();
        };
        let mut text = format!("{}, max-age={}", self.audience(), policy.browser_ttl.as_secs());
        if let Some(edge) = policy.edge_ttl.filter(|_| !self.private) {
            text.push_str(&format!(", s-maxage={}", edge.as_secs()));
        }
        if !policy.stale_while_revalidate.is_zero() {
            text.push_str(&format!(", stale-while-revalidate={}", policy.stale_while_revalidate.as_secs()));
        }
        text
    }

    /// Positions of the parameters of a place, in declared order.
    pub fn params_in(&self, place: Place) -> impl Iterator<Item = (usize, &Param)> {
        self.params.iter().enumerate().filter(move |(_, param)| param.place == place)
    }
}

impl Manifest {
    /// Reads `routes.toml` of a configuration folder and checks it against what is registered.
    ///
    /// # Errors
    /// Every problem found, each with file and line.
    pub fn load(dir: &Path, known: &Known<'_>) -> Result<Self, Vec<Problem>> {
        let (text, file) = read(dir)?;
        Self::parse(&text, &file, known)
    }

    /// Reads the manifest that an instance with these settings is to serve: what it asks for and they lack is a problem as well.
    ///
    /// # Errors
    /// Every problem found, each with file and line, in the order of the file.
    pub fn load_served(dir: &Path, known: &Known<'_>, settings: &AuthSettings) -> Result<Self, Vec<Problem>> {
        let (text, file) = read(dir)?;
        let mut parsed = raw::parse(&text, &file, known);
        let asking_tokens = std::mem::take(&mut parsed.asking_tokens);
        parsed.problems.extend(access::lacking_keys(asking_tokens, settings, &file));
        parsed.problems.sort_by_key(|problem| problem.line);
        Self::of(parsed)
    }

    /// Reads a manifest's text; `file` is for messages, and `sql_file`s are found beside it.
    ///
    /// # Errors
    /// Every problem found, each with file and line.
    pub fn parse(text: &str, file: &Path, known: &Known<'_>) -> Result<Self, Vec<Problem>> {
        Self::of(raw::parse(text, file, known))
    }

    fn of(parsed: Parsed) -> Result<Self, Vec<Problem>> {
        let Parsed { routes, upstreams, problems, .. } = parsed;
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self { routes: routes.into_iter().map(Arc::new).collect(), upstreams: upstreams.into_values().collect() })
    }

    /// The tables that any route depends on, each with each of its tags once.
    pub fn watches(&self) -> Vec<Watch> {
        unique(self.routes.iter().flat_map(|route| route.watches()))
    }

    /// The upstreams that no route names.
    pub fn unused_upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let is_of = |route: &Arc<Route>, name: &str| matches!(&route.source, Source::Upstream { upstream, .. } if upstream.name == name);
        self.upstreams.iter().filter(move |upstream| !self.routes.iter().any(|route| is_of(route, &upstream.name)))
    }

    /// Whether any route is answered by a handler of the built-in API, so that its tables are needed.
    pub fn uses_ramp(&self) -> bool {
        self.routes.iter().any(|route| matches!(&route.source, Source::Handler(name) if name.starts_with("ramp.")))
    }
}

/// The text of a folder's manifest, and its file.
fn read(dir: &Path) -> Result<(String, PathBuf), Vec<Problem>> {
    let file = dir.join("routes.toml");
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok((text, file)),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::NotFound => "; `mainstay init` writes a first one",
                ErrorKind::NotADirectory => "; --config names the folder",
                _ => "",
            };
            Err(vec![Problem { file, line: 0, reason: format!("cannot be read: {error}{hint}") }])
        }
    }
}

/// The file that `sql_file` names, beside the manifest.
fn beside(manifest: &Path, name: &str) -> PathBuf {
    manifest.parent().unwrap_or(Path::new(".")).join(name)
}
