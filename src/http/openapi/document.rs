//! The document as a whole: OpenAPI 3.1.0, out of the manifest, of what handlers say of themselves, and of columns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::operation::{Operation, shared_components, tag};
use super::schema::Components;
use super::{Facts, errors};
use crate::config::manifest::access::AuthMethod;
use crate::config::manifest::{Route, Source};
use crate::database::read::Column;
use crate::error::Code;
use crate::source::handler::Registry;

const ABOUT: &str = "Answers are JSON. Errors are problem documents (RFC 9457) with a stable `code`; those with `Retry-After` may pass. \
HEAD is answered wherever GET is, with the same headers, and is not listed by itself. \
Cached answers carry an `ETag`: sent back as `If-None-Match`, it makes the answer a 304 while nothing has changed.";

/// The document, and the codes that stand in it.
pub struct Document {
    /// OpenAPI 3.1.0.
    pub json: Value,
    /// Codes in the order in which operations first name them.
    pub codes: Vec<Code>,
}

/// Columns of queries, by the position of their routes.
pub type Columns = BTreeMap<usize, Vec<Column>>;

impl Document {
    /// Describes routes.
    pub fn new(routes: &[Arc<Route>], registry: &Registry, columns: &Columns, facts: &Facts) -> Self {
        let mut components = Components::default();
        components.insert("Problem", errors::problem());
        let ids = ids(routes);
        let mut paths: Map<String, Value> = Map::new();
        let mut codes: Vec<Code> = vec![Code::RouteNotFound, Code::MethodNotAllowed];
        // Those that take all the rest come last: they only fill gaps.
        let (named, rest): (Vec<_>, Vec<_>) = routes.iter().enumerate().partition(|(_, route)| !route.is_catch_all());
        for (position, route) in named.into_iter().chain(rest) {
            let Some(path) = place(&paths, &route.path) else { continue };
            let item = paths.entry(path).or_insert_with(|| json!({}));
            for method in &route.methods {
                let (Some(item), Some(id)) = (item.as_object_mut(), ids.get(&(position, method.as_str()))) else {
                    continue;
                };
                let handler = match &route.source {
                    Source::Handler(name) => registry.description(name),
                    Source::Sql { .. } | Source::Upstream { .. } => None,
                };
                let columns = columns.get(&position).map(Vec::as_slice);
                let operation =
                    Operation { route, method, description: handler.map(|handler| &**handler), columns, facts };
                let (written, its_codes) = operation.write(id.clone(), &mut components);
                codes.extend(its_codes.into_iter().filter(|code| !codes.contains(code)).collect::<Vec<_>>());
                item.entry(method.to_lowercase()).or_insert(written);
            }
        }
        let tags: BTreeSet<&str> = routes.iter().map(|route| tag(&route.path)).collect();
        let tags: Vec<Value> = tags.into_iter().map(|name| json!({ "name": name })).collect();
        let methods = [AuthMethod::Key, AuthMethod::Jwt];
        let used = |method: &AuthMethod| {
            routes.iter().any(|route| route.access.as_ref().is_some_and(|access| access.method == *method))
        };
        let methods: Vec<AuthMethod> = methods.into_iter().filter(used).collect();
        let json = json!({
            "openapi": "3.1.0",
            "info": { "title": facts.title, "version": facts.version, "description": ABOUT },
            "tags": tags,
            "paths": paths,
            "components": shared_components(components, &methods),
        });
        Self { json, codes }
    }
}

/// The path of a route as the document has it: `{*rest}` is `{rest}`. Nothing where another name for the same place is taken,
/// since there a client could not tell the two apart.
fn place(paths: &Map<String, Value>, path: &str) -> Option<String> {
    let path = path.replace("{*", "{");
    let is_taken = paths.keys().any(|other| *other != path && nameless(other) == nameless(&path));
    (!is_taken).then_some(path)
}

fn nameless(path: &str) -> String {
    let segments = path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// The ids of operations, which clients' code is named after: `get_public_docs_by_slug`. They depend on nothing but method and
/// path; where two would be the same, each has a hash of both at its end.
fn ids(routes: &[Arc<Route>]) -> HashMap<(usize, &str), String> {
    let all = routes.iter().enumerate();
    let all = all.flat_map(|(at, route)| route.methods.iter().map(move |method| (at, method.as_str(), &*route.path)));
    let mut count: HashMap<String, usize> = HashMap::new();
    all.clone().for_each(|(_, method, path)| *count.entry(id(method, path)).or_default() += 1);
    all.map(|(at, method, path)| {
        let id = id(method, path);
        let is_alone = count.get(&id).is_none_or(|count| *count == 1);
        let id = if is_alone { id } else { format!("{id}_{}", hash(&format!("{method} {path}"))) };
        ((at, method), id)
    })
    .collect()
}

fn id(method: &str, path: &str) -> String {
    let mut id = method.to_lowercase();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let capture = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        id.push_str(if capture.is_some() { "_by_" } else { "_" });
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        id.extend(capture.unwrap_or(segment).trim_start_matches('*').chars().map(plain));
    }
    id
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
