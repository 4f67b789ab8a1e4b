//! `/openapi.json` and `/docs`: the API as its clients see it.
//!
//! Both are made when the manifest is read, and once more when the columns of its queries are known; a request is answered with
//! bytes that are there. Until then the document says less, and nothing that is wrong.

mod document;
mod errors;
mod example;
mod html;
mod operation;
mod page;
mod schema;
mod shape;

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use actix_http::header::{self, HeaderValue};
use actix_http::{Response, StatusCode};
use arc_swap::ArcSwap;
use bytes::Bytes;

use super::headers::{self, Asked};
use crate::cache::variants::Variants;
use crate::config::auth::StrongHeader;
use crate::config::manifest::{Consistency, Manifest, Route, Source};
use crate::config::param::Param;
use crate::config::settings::Settings;
use crate::database::read::{Column, Database};
use crate::error::{Code, Error};
use crate::source::handler::Registry;
use crate::source::sql::typed_sql;

pub use document::{Columns, Document};

/// The document.
pub const DOCUMENT: &str = "/openapi.json";
/// The page for people.
pub const PAGE: &str = "/docs";

/// What both say to caches: a deploy shows within a minute.
const CACHE_CONTROL: &str = "public, max-age=60";
/// How long one look at a query's columns may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(5);
/// After looks that failed: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What of the settings the document depends on.
#[derive(Clone, Debug)]
pub struct Facts {
    title: String,
    version: String,
    strong_header: StrongHeader,
    has_tokens: bool,
    has_origin_secret: bool,
    has_rates: bool,
    rows_max: u32,
    compress_bytes_min: usize,
}

impl Facts {
    /// Those of an instance.
    pub fn new(settings: &Settings) -> Self {
        Self {
            title: settings.openapi.title.clone(),
            version: settings.openapi.version.clone(),
            strong_header: settings.consistency.strong_header,
            has_tokens: !settings.consistency.token_secret.list().is_empty(),
            has_origin_secret: !settings.server.origin_secret.list().is_empty(),
            has_rates: settings.rate_limit.per_client.is_some(),
            rows_max: settings.limits.rows_max,
            compress_bytes_min: settings.cache.compress_bytes_min,
        }
    }

    /// Whether a caller may ask a route for a strong read that does not read so by itself.
    fn may_ask_strong(&self, route: &Route) -> bool {
        route.consistency != Consistency::Strong && self.strong_header != StrongHeader::Off
    }

    /// Whether who asks for one shows a credential, on a route that asks for none.
    fn asks_for_credentials(&self, route: &Route) -> bool {
        route.access.is_none() && self.strong_header == StrongHeader::Authenticated && self.may_ask_strong(route)
    }
}

/// The document and the page of one manifest, ready to send.
pub struct Documents {
    contents: Contents,
    pages: ArcSwap<Pages>,
}

/// What both are made of, but for the columns of queries.
struct Contents {
    routes: Vec<Arc<Route>>,
    registry: Registry,
    facts: Facts,
}

struct Pages {
    document: Variants,
    page: Variants,
}

impl Contents {
    /// Renders both. Encodings take some milliseconds, and are made for bodies from a length on.
    fn render(&self, columns: &Columns, compress_bytes_min: usize) -> Pages {
        let document = Document::new(&self.routes, &self.registry, columns, &self.facts);
        let page = page::render(&document);
        let document = serde_json::to_vec(&document.json).unwrap_or_default();
        Pages {
            document: Variants::of(document.into(), compress_bytes_min),
            page: Variants::of(page.into(), compress_bytes_min),
        }
    }
}

impl Documents {
    /// The document and the page of a manifest, without columns and encodings; [`Documents::complete`] brings both.
    pub fn new(manifest: &Manifest, registry: &Registry, settings: &Settings) -> Self {
        let (routes, registry) = (manifest.routes.clone(), registry.clone());
        let contents = Contents { routes, registry, facts: Facts::new(settings) };
        let pages = ArcSwap::from_pointee(contents.render(&Columns::new(), usize::MAX));
        Self { contents, pages }
    }

    /// The answer of a path; `None` for other paths.
    pub fn respond(&self, path: &str, asked: &Asked<'_>) -> Option<Response<Bytes>> {
        let pages = self.pages.load();
        let (variants, media_type) = match path {
            DOCUMENT => (&pages.document, "application/json"),
            PAGE => (&pages.page, "text/html; charset=utf-8"),
            _ => return None,
        };
        let (encoding, variant) = variants.choose(|encoding| asked.takes_encoding(encoding));
        let mut response = match headers::matching_etag(&asked.if_none_match, &variant.etag) {
            Some(_) => Response::with_body(StatusCode::NOT_MODIFIED, Bytes::new()),
            None => Response::with_body(StatusCode::OK, variant.bytes.clone()),
        };
        let is_whole = response.status() == StatusCode::OK;
        let head = response.headers_mut();
        head.insert(header::ETAG, headers::value(variant.etag.clone()));
        head.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
        head.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if is_whole {
            head.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            head.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if let Some(name) = encoding.name() {
                head.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            }
        }
        if path == PAGE {
            head.insert(header::CONTENT_SECURITY_POLICY, page::content_security_policy());
            head.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        Some(response)
    }

    /// The pages as they are, with their encodings: what was rendered once need not be in memory twice.
    fn encode(&self) -> Pages {
        let (pages, least) = (self.pages.load(), self.contents.facts.compress_bytes_min);
        let encoded = |variants: &Variants| Variants::of(variants.identity().bytes.clone(), least);
        Pages { document: encoded(&pages.document), page: encoded(&pages.page) }
    }

    fn render(&self, columns: &Columns) -> Pages {
        self.contents.render(columns, self.contents.facts.compress_bytes_min)
    }

    /// Makes the encodings, looks at the columns of all queries, and renders what it finds. Queries that could not be looked at
    /// are tried again, after longer and longer pauses, until all are known or another manifest is in force.
    pub async fn complete(documents: Weak<Self>, database: Option<Arc<Database>>) {
        let (mut columns, mut pause) = (Columns::new(), PAUSE_MIN);
        make(&documents, Documents::encode).await;
        let (Some(database), Some(these)) = (database, documents.upgrade()) else { return };
        let mut missing = queries(&these.contents.routes);
        drop(these);
        while !missing.is_empty() {
            let Some(these) = documents.upgrade() else { return };
            let found = look(&these.contents.routes, &mut missing, &database).await;
            drop(these);
            if !found.is_empty() {
                columns.extend(found);
                let columns = columns.clone();
                make(&documents, move |these| these.render(&columns)).await;
            }
            if !missing.is_empty() {
                actix_rt::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Makes pages on a thread for blocking work, and puts them in the place of those there were.
async fn make(documents: &Weak<Documents>, how: impl FnOnce(&Documents) -> Pages + Send + 'static) {
    let Some(documents) = documents.upgrade() else { return };
    let work = actix_rt::task::spawn_blocking(move || documents.pages.store(Arc::new(how(&documents))));
    if work.await.is_err() {
        log::error!("the document of the API was not rendered; the last one stays");
    }
}

/// Positions of the routes that queries answer.
fn queries(routes: &[Arc<Route>]) -> VecDeque<usize> {
    let all = routes.iter().enumerate();
    all.filter(|(_, route)| matches!(route.source, Source::Sql { .. })).map(|(position, _)| position).collect()
}

/// The columns of those queries that can be looked at, one after another: each look takes a connection of its own. What is left
/// is still missing.
async fn look(routes: &[Arc<Route>], missing: &mut VecDeque<usize>, database: &Database) -> Columns {
    let mut found = Columns::new();
    for _ in 0..missing.len() {
        let Some(position) = missing.pop_front() else { break };
        let Some(route) = routes.get(position) else { continue };
        match columns_of(route, database).await {
            Ok(columns) => drop(found.insert(position, columns)),
            Err(error) => {
                // It comes last the next time: one that hangs holds no other one back.
                missing.push_back(position);
                if error.code != Code::QueryFailed {
                    // Nobody answers now, and the others would ask in vain.
                    break;
                }
            }
        }
    }
    found
}

/// The columns of a route's query.
async fn columns_of(route: &Route, database: &Database) -> Result<Vec<Column>, Error> {
    let Source::Sql { statement, .. } = &route.source else { return Ok(Vec::new()) };
    let types: Vec<String> = route.params.iter().map(Param::sql_type).collect();
    database.describe(&typed_sql(statement, &types), Instant::now() + LOOK_TIME_MAX).await
}

/// The columns of all queries of a manifest, for who has no server. The second value names the routes that none are known of.
pub async fn look_at_all(manifest: &Manifest, database: &Database) -> (Columns, Vec<String>) {
    let mut missing = queries(&manifest.routes);
    let found = look(&manifest.routes, &mut missing, database).await;
    let routes = missing.iter().filter_map(|position| manifest.routes.get(*position));
    (found, routes.map(|route| route.path.clone()).collect())
}
