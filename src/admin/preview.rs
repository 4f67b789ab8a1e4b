//! What a purge would make fall, before it does: of the entries of this instance.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::purge::{Mode, Wish};
use super::{Desk, document, read_body};
use crate::cache::Cache;
use crate::cache::fence::Standing;
use crate::cache::tag::Tag;
use crate::error::Error;

/// Entries that are named.
const EXAMPLES_MAX: usize = 10;

#[derive(Serialize)]
struct Preview {
    mode: Mode,
    tags: Vec<String>,
    #[serde(flatten)]
    found: Found,
}

#[derive(Default, Serialize)]
struct Found {
    /// Entries that would fall, of those in this instance's L1.
    entries: u64,
    bytes: u64,
    of_entries: u64,
    /// Some of them, in no order.
    examples: Vec<String>,
}

/// `POST /admin/cache/preview`: the body of a purge.
pub(super) async fn preview(desk: &Desk, body: &[u8]) -> Result<Vec<u8>, Error> {
    let wish: Wish = read_body(body)?;
    let (mode, tags) = (wish.mode, wish.tags(&desk.parts.surface.load())?);
    let hashes: HashSet<u64> = tags.iter().map(|tag| Tag::new(tag.as_str()).hash()).collect();
    let pipeline = Arc::clone(&desk.parts.pipeline);
    let found = desk.walks.walk(move || find(&pipeline.cache, &hashes, mode)).await?;
    document(&Preview { mode, tags, found })
}

fn find(cache: &Cache, hashes: &HashSet<u64>, mode: Mode) -> Found {
    let (mut found, now) = (Found::default(), Instant::now());
    for (_, entry) in cache.memory.entries() {
        found.of_entries += 1;
        let stands = match entry.standing(&cache.fences, entry.age(now), now) {
            Standing::Current | Standing::Unknown => true,
            // What has fallen for when the source works falls for good.
            Standing::Purged => mode == Mode::Hard,
            Standing::Forbidden => false,
        };
        if !stands || !entry.tags.iter().any(|tag| hashes.contains(&tag.hash())) {
            continue;
        }
        found.entries += 1;
        found.bytes += u64::try_from(entry.weight_bytes()).unwrap_or(u64::MAX);
        if found.examples.len() < EXAMPLES_MAX {
            found.examples.push(String::from_utf8_lossy(&entry.canonical).into_owned());
        }
    }
    found
}
