//! Purges as operators order them: by tags, by a path, by a key, or all at once. Whatever they name becomes tags.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::journal::Kind;
use super::{Desk, body_invalid, document, read_body, read_query};
use crate::cache::key::Key;
use crate::cache::tag::{EVERYTHING, key_name, path_name, route_name};
use crate::error::{Code, Error};
use crate::http::surface::Surface;
use crate::position::Position;

/// Tags of one purge.
const TAGS_MAX: usize = 1000;
/// Bytes of a tag.
const TAG_BYTES_MAX: usize = 256;

/// What is to be purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The tags.
    pub tags: Vec<String>,
    /// Whether it is never served again, not even when its source fails.
    pub hard: bool,
}

/// What a purge came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By which it is found in the logs of all instances.
    pub id: String,
    /// What an answer must reflect from now on; none where it could not be written down.
    pub fence: Option<Position>,
    /// Instances that are known to run.
    pub known: usize,
    /// Those of them that have applied it.
    pub confirmed: usize,
    /// Regions that have it.
    pub reached: Vec<String>,
    /// Regions that do not.
    pub unreached: Vec<String>,
}

/// Purges, wherever the tags are.
pub trait Purger: Send + Sync {
    /// Purges. Ends when all instances have confirmed it, or enough time has passed.
    fn purge(&self, order: Order) -> BoxFuture<'_, Result<Report, Error>>;
}

/// How thoroughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// What is purged may still stand in for a source that fails.
    #[default]
    Soft,
    /// It is never served again.
    Hard,
}

impl Mode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }
}

/// The body of a purge: exactly one of `tags`, `path` and `key`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    tags: Option<Vec<String>>,
    path: Option<String>,
    key: Option<String>,
    #[serde(default)]
    pub(super) mode: Mode,
}

/// The query of a flush.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlushWish {
    #[serde(default)]
    mode: Mode,
}

#[derive(Serialize)]
struct Purged {
    id: String,
    mode: Mode,
    tags: Vec<String>,
    fence: Option<String>,
    instances: Instances,
    regions: Regions,
}

#[derive(Serialize)]
struct Instances {
    known: usize,
    confirmed: usize,
}

#[derive(Serialize)]
struct Regions {
    reached: Vec<String>,
    unreached: Vec<String>,
}

/// `POST /admin/cache/purge`
pub(super) async fn purge(desk: &Desk, caller: &Caller, body: &[u8]) -> Result<Vec<u8>, Error> {
    let wish: Wish = read_body(body).inspect_err(|error| desk.audit(caller, Kind::Purge, "-", "-", Err(error)))?;
    let tags = wish.tags(&desk.parts.surface.load());
    run(desk, caller, Kind::Purge, &wish.named(), wish.mode, tags).await
}

/// `POST /admin/cache/flush`
pub(super) async fn flush(desk: &Desk, caller: &Caller, query: &str) -> Result<Vec<u8>, Error> {
    let (mode, tags) = match read_query::<FlushWish>(query) {
        Ok(FlushWish { mode }) => (mode, Ok(vec![EVERYTHING.to_owned()])),
        Err(error) => (Mode::default(), Err(error)),
    };
    run(desk, caller, Kind::Flush, EVERYTHING, mode, tags).await
}

async fn run(
    desk: &Desk,
    caller: &Caller,
    kind: Kind,
    what: &str,
    mode: Mode,
    tags: Result<Vec<String>, Error>,
) -> Result<Vec<u8>, Error> {
    let outcome = match tags {
        Ok(tags) => execute(desk, mode, tags).await,
        Err(error) => Err(error),
    };
    desk.audit(caller, kind, mode.as_str(), what, outcome.as_ref().map(|purged| purged.id.as_str()));
    document(&outcome?)
}

async fn execute(desk: &Desk, mode: Mode, tags: Vec<String>) -> Result<Purged, Error> {
    let order = Order { tags: tags.clone(), hard: mode == Mode::Hard };
    let deadline = desk.parts.pipeline.settings.limits.request_timeout.0;
    let late = |_| Err(Error::new(Code::SourceTimeout, "the purge did not end in time; it may be under way"));
    let report = actix_rt::time::timeout(deadline, desk.parts.purger.purge(order)).await.unwrap_or_else(late)?;
    Ok(Purged {
        id: report.id,
        mode,
        tags,
        fence: report.fence.map(|fence| fence.to_string()),
        instances: Instances { known: report.known, confirmed: report.confirmed },
        regions: Regions { reached: report.reached, unreached: report.unreached },
    })
}

impl Wish {
    /// What it names, for the audit log.
    fn named(&self) -> String {
        match (&self.tags, &self.path, &self.key) {
            (Some(tags), ..) => format!("tags {}", tags.join(" ")),
            (_, Some(path), _) => format!("path {path}"),
            (_, _, Some(key)) => format!("key {key}"),
            _ => String::new(),
        }
    }

    /// The tags that it means.
    pub(super) fn tags(&self, surface: &Surface) -> Result<Vec<String>, Error> {
        match (&self.tags, &self.path, &self.key) {
            (Some(tags), None, None) => check_tags(tags).map(|()| tags.clone()),
            (None, Some(path), None) => path_tags(surface, path),
            (None, None, Some(key)) => key_tag(key).map(|tag| vec![tag]),
            _ => Err(body_invalid("exactly one of tags, path and key is to be given")),
        }
    }
}

fn check_tags(tags: &[String]) -> Result<(), Error> {
    if tags.is_empty() || tags.len() > TAGS_MAX {
        return Err(body_invalid(&format!("tags: 1 to {TAGS_MAX} tags, not {}", tags.len())));
    }
    let reason = |tag: &String| match tag.as_str() {
        "" => Some("is empty"),
        EVERYTHING => Some("stands for everything; /admin/cache/flush does that"),
        tag if tag.len() > TAG_BYTES_MAX => Some("is longer than 256 bytes"),
        tag if tag.chars().any(char::is_control) => Some("has control characters"),
        _ => None,
    };
    let wrong = tags.iter().enumerate().find_map(|(index, tag)| Some((index, reason(tag)?)));
    wrong.map_or(Ok(()), |(index, reason)| Err(body_invalid(&format!("tags[{index}]: {reason}"))))
}

fn key_tag(key: &str) -> Result<String, Error> {
    let is_key = key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parsed = u128::from_str_radix(key, 16).ok().filter(|_| is_key);
    let parsed = parsed.ok_or_else(|| body_invalid("key: 32 hexadecimal digits, as /admin/cache/entry shows them"))?;
    Ok(key_name(Key(parsed)))
}

/// The tags of a path: of all routes below it (`/public/rates/*`), of one answer (with a query), or of all answers of a path.
fn path_tags(surface: &Surface, path: &str) -> Result<Vec<String>, Error> {
    if let Some(above) = path.strip_suffix("/*") {
        // The route that has the prefix itself as its path belongs to it; what only begins with the same letters does not.
        let is_below =
            |route: &str| route.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let routes = surface.cached_routes().map(|endpoint| endpoint.route.path.as_str());
        let tags: Vec<String> = routes.filter(|route| is_below(route)).map(route_name).collect();
        return if tags.is_empty() { Err(surface.no_cached_route(path)) } else { Ok(tags) };
    }
    if path.contains('?') {
        return Ok(vec![key_name(surface.resolve(path)?.key)]);
    }
    if surface.cached_routes().any(|endpoint| endpoint.route.path == path) {
        return Ok(vec![route_name(path)]);
    }
    let (canonical, endpoint) = surface.resolve_path(path)?;
    let is_pattern = endpoint.route.path.contains('{');
    Ok(vec![if is_pattern { path_name(&canonical) } else { route_name(&endpoint.route.path) }])
}
