//! One entry, as it is kept.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Desk, document, read_query};
use crate::cache::entry::{Entry, Origin};
use crate::cache::key::Key;
use crate::cache::policy::Freshness;
use crate::cache::tag::key_name;
use crate::error::{Code, Error};

/// The query: the path, whose own query is url-encoded in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    path: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    path: String,
    key: String,
    route: &'a str,
    layer: &'static str,
    /// Where this process has it from.
    origin: &'static str,
    status: u16,
    age_s: f64,
    /// Freshness that is left; below zero it is stale.
    ttl_s: f64,
    standing: &'static str,
    tags: Vec<String>,
    told: Option<String>,
    as_of: Option<String>,
    detail: &'static str,
    /// With bookkeeping, as it counts toward the bound.
    bytes: usize,
    etag: String,
    hits: u64,
}

/// `GET /admin/cache/entry?path=…`: of this process, or else of the shared cache.
pub(super) async fn entry(desk: &Desk, query: &str) -> Result<Vec<u8>, Error> {
    let Wish { path } = read_query(query)?;
    let target = desk.parts.surface.load().resolve(&path)?;
    let cache = &desk.parts.pipeline.cache;
    let fingerprint = &target.endpoint.route.fingerprint;
    let (layer, entry) = match (cache.memory.peek(target.key, &target.canonical, fingerprint), &cache.shared) {
        (Some(entry), _) => ("L1", Some(entry)),
        (None, Some(shared)) => {
            ("L2", shared.look(target.key, &target.canonical, fingerprint).await.found().map(|found| found.entry))
        }
        (None, None) => ("", None),
    };
    let entry = entry.ok_or_else(|| Error::new(Code::NotFound, "the cache has no entry for this path"))?;
    let now = Instant::now();
    let age = entry.age(now);
    let (_, identity) = entry.body.choose(|_| false);
    document(&Shown {
        path: String::from_utf8_lossy(&entry.canonical).into_owned(),
        key: format!("{:032x}", target.key.0),
        route: &target.endpoint.route.path,
        layer,
        origin: match entry.origin {
            Origin::Filled => "filled",
            Origin::Shared => "shared",
            Origin::Snapshot => "snapshot",
        },
        status: entry.status,
        age_s: seconds(age),
        ttl_s: ttl_s(&entry, age),
        standing: entry.standing(&cache.fences, age, now).as_str(),
        tags: tags(&entry, target.key),
        told: entry.told().map(|told| told.to_string()),
        as_of: entry.as_of().map(|as_of| as_of.to_string()),
        detail: entry.detail,
        bytes: entry.weight_bytes(),
        etag: String::from_utf8_lossy(&identity.etag).into_owned(),
        hits: entry.hits(),
    })
}

/// The names of all tags. An entry does not keep the name of its own, which follows from its key.
fn tags(entry: &Entry, key: Key) -> Vec<String> {
    let name = |name: &str| if name.is_empty() { key_name(key) } else { name.to_owned() };
    entry.tags.iter().map(|tag| name(tag.name())).collect()
}

fn ttl_s(entry: &Entry, age: Duration) -> f64 {
    match entry.freshness(age) {
        Freshness::Fresh(left) => seconds(left),
        Freshness::Revalidate(past) | Freshness::IfError(past) => -seconds(past),
        Freshness::Gone => -seconds(age.saturating_sub(entry.limits.fresh)),
    }
}

/// Seconds to the millisecond.
pub(super) fn seconds(span: Duration) -> f64 {
    Duration::from_millis(super::status::millis(span)).as_secs_f64()
}
