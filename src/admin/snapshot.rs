//! Snapshots for other origins, page by page: see `cache/walk.rs`.

use std::sync::Arc;
use std::time::Instant;

use actix_web::http::header::{HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::read_query;
use crate::cache::page::{Cursor, PAGE_BYTES_MAX};
use crate::cache::shared::codec::Codec;
use crate::cache::walk::{Ask, Walks};
use crate::config::settings::Settings;
use crate::error::{Code, Error};
use crate::telemetry::traces::{Said, Span, SpanKind};

/// Pages that are made at once: each may look at every entry there is, and takes a core for that long.
const AT_ONCE: usize = 2;
/// Bytes of a page that nobody has asked for otherwise.
const BYTES: usize = 4 * 1024 * 1024;

/// What hands out pages.
pub(super) struct Desk {
    walks: Walks,
    codec: Codec,
    places: Arc<Semaphore>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    after: Option<String>,
    #[serde(default = "bytes")]
    bytes_max: usize,
    #[serde(default = "everything")]
    keep_bytes_max: u64,
}

fn bytes() -> usize {
    BYTES
}

fn everything() -> u64 {
    u64::MAX
}

impl Desk {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            walks: Walks::new(),
            codec: Codec::new(&settings.cache.namespace, settings.limits.response_bytes_max),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

/// The span of a page, where the origin that asks for it has said to which trace it belongs, and nothing else: its own trace has the
/// whole call already, and nobody looks for what a page took without that.
pub(super) fn span(desk: &super::Desk, headers: &HeaderMap) -> Span {
    let Some(traces) = &desk.parts.pipeline.traces else { return Span::default() };
    let said = Said::read(|name| headers.get_all(name).map(HeaderValue::as_bytes)).filter(|said| said.ids.is_some());
    let root = |said: Said| {
        let is_sampled = traces.samples(Some(&said));
        traces.root("GET /admin/snapshot", SpanKind::Server, Some(&said), is_sampled, Instant::now())
    };
    said.map(root).unwrap_or_default()
}

/// `GET /admin/snapshot`
pub(super) async fn snapshot(desk: &super::Desk, query: &str) -> Result<Vec<u8>, Error> {
    let wish: Wish = read_query(query)?;
    let ask = Ask {
        after: wish.after.as_deref().and_then(Cursor::parse),
        goes_on: wish.after.is_some(),
        bytes_max: wish.bytes_max.min(PAGE_BYTES_MAX / 4),
        keep_bytes_max: wish.keep_bytes_max,
    };
    let busy = |_| Error::new(Code::Overloaded, "as many pages of the snapshot as may are being made");
    let place = Arc::clone(&desk.snapshot.places).try_acquire_owned().map_err(busy)?;
    let (own, pipeline) = (Arc::clone(&desk.snapshot), Arc::clone(&desk.parts.pipeline));
    // It may look at a million entries, and nobody waits behind it.
    let work = actix_rt::task::spawn_blocking(move || {
        let cache = &pipeline.cache;
        let made = own.walks.page(&cache.memory, &cache.fences, &own.codec, ask);
        drop(place);
        made
    });
    let (page, entries) = work.await.map_err(|_| Error::new(Code::Internal, "the page could not be made"))?;
    log::debug!("a page of the snapshot was handed out: {entries} entries, {} bytes", page.len());
    Ok(page)
}
