//! The cache in numbers, and what is hot in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::entry::seconds;
use super::{Desk, document, read_query};
use crate::cache::Cache;
use crate::cache::entry::Entry;
use crate::error::{Code, Error};
use crate::http::pipeline::Pipeline;
use crate::http::surface::Surface;
use crate::position::Position;
use crate::telemetry::metrics::LookupResult;

/// Hot entries that may be asked for.
const HOT_MAX: usize = 1000;
/// What a lookup in each layer may come to.
const LAYERS: [(&str, &[LookupResult]); 2] = [
    ("L1", &[LookupResult::Hit, LookupResult::Stale, LookupResult::Expired, LookupResult::Miss]),
    (
        "L2",
        &[
            LookupResult::Hit,
            LookupResult::Expired,
            LookupResult::Miss,
            LookupResult::Corrupt,
            LookupResult::Unavailable,
        ],
    ),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default)]
    hot: usize,
}

#[derive(Serialize)]
struct Stats {
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    hot: Option<Vec<Hot>>,
}

/// The cache in numbers.
#[derive(Serialize)]
pub(super) struct Figures {
    entries: u64,
    bytes: u64,
    bytes_max: u64,
    fills_running: usize,
    fills_max: usize,
    /// By layer and result, since the start.
    lookups: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Tags whose fences are kept.
    tags: usize,
    tags_max: usize,
    told: Option<String>,
    through: Option<String>,
    floor: Option<String>,
    heard_ago_s: Option<f64>,
    /// How long nothing has been heard, where that is too long.
    silent_s: Option<f64>,
    generation: u64,
}

/// A hot entry.
#[derive(Serialize)]
pub(super) struct Hot {
    path: String,
    route: String,
    hits: u64,
    age_s: f64,
    bytes: usize,
}

/// `GET /admin/cache/stats?hot=N`
pub(super) async fn stats(desk: &Desk, query: &str) -> Result<Vec<u8>, Error> {
    let Wish { hot: wanted } = read_query(query)?;
    if wanted > HOT_MAX {
        return Err(Error::new(Code::ParamInvalid, format!("parameter hot must be at most {HOT_MAX}")));
    }
    let figures = figures(desk);
    let hot = if wanted == 0 { None } else { Some(desk.walks.walk(hottest(desk, wanted)).await?) };
    document(&Stats { figures, hot })
}

pub(super) fn figures(desk: &Desk) -> Figures {
    let Pipeline { cache, settings, .. } = &*desk.parts.pipeline;
    let (now, usage) = (Instant::now(), cache.memory.usage());
    let position = |position: Option<Position>| position.map(|position| position.to_string());
    let (tags, told, through, floor) =
        cache.fences.read(|ledger| (ledger.tags(), ledger.told(), ledger.through(), ledger.floor()));
    Figures {
        entries: usage.entries,
        bytes: usage.bytes,
        bytes_max: settings.cache.memory_bytes_max,
        fills_running: cache.fills.running(),
        fills_max: settings.limits.fills_max,
        lookups: lookups(desk),
        tags,
        tags_max: settings.cache.tags_max,
        told: position(told),
        through: position(through),
        floor: position(floor),
        heard_ago_s: cache.fences.heard_ago(now).map(seconds),
        silent_s: cache.fences.silence(now).map(seconds),
        generation: cache.fences.generation(),
    }
}

fn lookups(desk: &Desk) -> BTreeMap<&'static str, BTreeMap<&'static str, u64>> {
    desk.parts.surface.load().endpoints().for_each(|endpoint| endpoint.counters.export());
    let counted = &desk.parts.pipeline.metrics.lookups;
    let count =
        |layer, result: &LookupResult| (result.as_str(), counted.with_label_values(&[layer, result.as_str()]).get());
    let of = |(layer, results): (&'static str, &[LookupResult])| {
        (layer, results.iter().map(|result| count(layer, result)).collect())
    };
    LAYERS.into_iter().map(of).collect()
}

/// What finds the entries with the most hits, by a look at all of them.
pub(super) fn hottest(desk: &Desk, wanted: usize) -> impl FnOnce() -> Vec<Hot> + Send + use<> {
    let (pipeline, surface) = (Arc::clone(&desk.parts.pipeline), desk.parts.surface.load_full());
    move || select(&pipeline.cache, &surface, wanted)
}

fn select(cache: &Cache, surface: &Surface, wanted: usize) -> Vec<Hot> {
    // What another manifest left behind is of no use to those who ask what to warm.
    let routes: HashMap<[u8; 16], &str> =
        surface.cached_routes().map(|endpoint| (endpoint.route.fingerprint, endpoint.route.path.as_str())).collect();
    // The least of those kept is on top, to make room for the next that has more.
    let mut kept: BinaryHeap<Reverse<(u64, u128)>> = BinaryHeap::new();
    let mut entries: HashMap<u128, Arc<Entry>> = HashMap::new();
    for (key, entry) in cache.memory.entries().filter(|(_, entry)| routes.contains_key(&entry.fingerprint)) {
        kept.push(Reverse((entry.hits(), key.0)));
        entries.insert(key.0, entry);
        if kept.len() > wanted
            && let Some(Reverse((_, least))) = kept.pop()
        {
            entries.remove(&least);
        }
    }
    let now = Instant::now();
    let shown = |(hits, key): (u64, u128)| {
        let entry = entries.get(&key)?;
        Some(Hot {
            path: String::from_utf8_lossy(&entry.canonical).into_owned(),
            route: (*routes.get(&entry.fingerprint)?).to_owned(),
            hits,
            age_s: seconds(entry.age(now)),
            bytes: entry.weight_bytes(),
        })
    };
    kept.into_sorted_vec().into_iter().filter_map(|Reverse(kept)| shown(kept)).collect()
}
