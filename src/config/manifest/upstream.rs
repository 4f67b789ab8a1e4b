//! `[upstream.NAME]` of the manifest, and what only routes with `upstream = "NAME"` have.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use super::statement::Statement;
use super::{ResultShape, beside};
use crate::config::param::{Param, Place, Scalar};
use crate::config::units::Span;

/// More endpoints than any service behind one name has.
const ENDPOINTS_MAX: usize = 32;
/// More retries than could help: each is within the request's deadline.
const RETRIES_MAX: u32 = 5;
/// How long an idle connection is kept: less than common servers keep theirs (5 s), so that no request is written into a
/// connection that is just being closed.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// The longest pause within the body of an answer, where nothing else is said.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the origin in the primary's region is called among upstreams.
pub const PRIMARY_ORIGIN: &str = "primary-origin";
/// The parameter that is the whole query. No declared one can be called so.
pub const WHOLE_QUERY: &str = "?";

/// An HTTP service that answers routes: one entry of `[upstream.NAME]`, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// The name that routes use.
    pub name: String,
    /// Where it is reached: any of these, with the path that stands before a route's.
    pub endpoints: Vec<Url>,
    /// Opening a connection, DNS and TLS included.
    pub connect_timeout: Duration,
    /// From the request to the header of the answer, of one try.
    pub try_timeout: Duration,
    /// The longest pause within the body of an answer.
    pub idle_timeout: Duration,
    /// Further tries of a request that may be repeated.
    pub retries: u32,
    /// Retries as a share of requests, so that an upstream in trouble does not get a multiple of its load.
    pub retry_budget: f64,
    /// How long an idle connection to an endpoint is kept.
    pub keep_alive: Duration,
    /// Whether the upstream sees the client's `Host`; else its endpoint's own.
    pub forward_host: bool,
    /// Bytes of an answer that is kept whole; `None`: `limits.response_bytes_max`.
    pub response_bytes_max: Option<usize>,
    /// PEM roots for `https`; `None`: the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Line of the manifest, for messages.
    pub line: usize,
}

/// A declared query that is to take an upstream route's place, and is compared with it until then.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// The statement.
    pub statement: Statement,
    /// Whether it yields one value or an array.
    pub result: ResultShape,
    /// The share of requests that are compared.
    pub sample: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    endpoints: Vec<String>,
    connect_timeout: Option<Span>,
    try_timeout: Option<Span>,
    idle_timeout: Option<Span>,
    retries: Option<u32>,
    retry_budget: Option<f64>,
    #[serde(default)]
    forward_host: bool,
    response_bytes_max: Option<usize>,
    tls_ca_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawShadow {
    pub(super) sql: Option<String>,
    pub(super) sql_file: Option<String>,
    pub(super) result: Option<ResultShape>,
    sample: f64,
}

impl Upstream {
    pub(super) fn new(name: String, raw: RawUpstream, manifest: &Path, line: usize) -> Result<Self, String> {
        if name == PRIMARY_ORIGIN {
            return Err("that is what PRIMARY_ORIGIN is called; give it another name".to_owned());
        }
        if raw.endpoints.is_empty() || raw.endpoints.len() > ENDPOINTS_MAX {
            return Err(format!("endpoints: 1 to {ENDPOINTS_MAX} URLs"));
        }
        let endpoints = raw.endpoints.iter().map(|url| base_url(url)).collect::<Result<Vec<_>, _>>();
        let endpoints = endpoints.map_err(|reason| format!("endpoint {reason}"))?;
        if let Some((at, twice)) =
            endpoints.iter().enumerate().find(|(at, url)| endpoints.iter().take(*at).any(|other| other == *url))
        {
            return Err(format!("endpoints: {twice} is there twice (number {})", at + 1));
        }
        let retries = raw.retries.unwrap_or(1);
        if retries > RETRIES_MAX {
            return Err(format!("retries: at most {RETRIES_MAX}"));
        }
        let retry_budget = raw.retry_budget.unwrap_or(0.2);
        if !(0.0..=1.0).contains(&retry_budget) {
            return Err("retry_budget: a share of requests, from 0 to 1".to_owned());
        }
        let span = |key: &str, span: Option<Span>, default: Duration| match span {
            Some(Span(span)) if span.is_zero() => Err(format!("{key} must be longer than zero")),
            span => Ok(span.map_or(default, |span| span.0)),
        };
        Ok(Self {
            name,
            endpoints,
            connect_timeout: span("connect_timeout", raw.connect_timeout, Duration::from_secs(1))?,
            try_timeout: span("try_timeout", raw.try_timeout, Duration::from_secs(5))?,
            idle_timeout: span("idle_timeout", raw.idle_timeout, IDLE_TIMEOUT)?,
            retries,
            retry_budget,
            keep_alive: KEEP_ALIVE,
            forward_host: raw.forward_host,
            response_bytes_max: raw.response_bytes_max,
            tls_ca_file: raw.tls_ca_file.map(|file| beside(manifest, &file)),
            line,
        })
    }
}

/// The URL of a server. Its path stands before that of each request, so it has no slash at its end.
///
/// # Errors
/// The URL and what is wrong with it.
pub fn base_url(text: &str) -> Result<Url, String> {
    let wrong = |what: &str| format!("{text:?}: {what}");
    let mut url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // It would stand in logs and in metrics.
        return Err(format!("{}: a URL has no place for a password", url.host_str().unwrap_or_default()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("a URL without ? and #, since path and query of the request follow"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Whether what is sent there stays on this machine.
pub fn is_own_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl RawShadow {
    /// The share of requests, from none to all.
    pub(super) fn sample(&self) -> Result<f64, String> {
        let is_share = self.sample > 0.0 && self.sample <= 1.0;
        if is_share { Ok(self.sample) } else { Err("shadow.sample: a share above 0, at most 1".to_owned()) }
    }
}

/// The names that a path captures, and whether all the rest of it is captured.
pub(super) fn captures(path: &str) -> impl Iterator<Item = (&str, bool)> {
    path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        Some(name.strip_prefix('*').map_or((name, false), |name| (name, true)))
    })
}

/// What an upstream route takes beside what it declares: captures are texts, and where nothing at all is declared the query
/// is taken as it is.
pub(super) fn complete(path: &str, params: &mut Vec<Param>, takes_query: bool) {
    let text = |name: &str, place| Param {
        name: name.to_owned(),
        place,
        scalar: Scalar::Text,
        array: false,
        set: false,
        pattern: None,
        min: None,
        max: None,
        default: None,
        optional: place != Place::Path,
        claim: None,
        description: None,
    };
    let takes_query = takes_query && params.is_empty();
    for (name, _) in captures(path) {
        if !params.iter().any(|param| param.name == name) {
            params.push(text(name, Place::Path));
        }
    }
    if takes_query {
        params.push(text(WHOLE_QUERY, Place::WholeQuery));
    }
}
