//! Tags: the surrogate keys by which entries are purged, and which of them an entry carries.
//!
//! Beside the tags that a route declares, an entry has that of its route, of its path, of itself (its key), and for each
//! watched table `table:all` and, unless a row's tag covers it, `table:any`. `docs/coherence.md` says which change purges what.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::key::Key;
use crate::config::manifest::Route;
use crate::config::param::{Params, Value};

/// Stands for every entry there is, without any of them carrying it.
pub const EVERYTHING: &str = "*";

/// How tags of single entries begin.
const KEY: &str = "key:";

/// A surrogate key with its hash. Fences go by the hash alone: should two tags share one, a purge of the one makes entries of
/// the other fall as well, which costs a fill and is never wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    name: Arc<str>,
    hash: u64,
}

impl Tag {
    /// A tag of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        Self { hash: hash(&name), name }
    }

    /// The tag of a single entry, whose name is left to be told from the key.
    pub fn of_key(key: Key) -> Self {
        let name = key_name(key);
        Self { hash: hash(&name), name: Arc::default() }
    }

    /// Its name; empty for that of a single entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its hash.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What a CDN knows it by: its hash, which is short, fits into any header, and tells viewers nothing of tables and values.
    pub fn edge_name(&self) -> String {
        format!("{:016x}", self.hash)
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// The tag of all entries of a route, by its pattern.
pub fn route_name(pattern: &str) -> String {
    format!("route:{pattern}")
}

/// The tag of all entries of a path, whatever their query.
pub fn path_name(path: &str) -> String {
    format!("path:{path}")
}

/// The tag of a single entry.
pub fn key_name(key: Key) -> String {
    format!("{KEY}{:032x}", key.0)
}

/// Whether a tag is that of a single entry.
pub fn is_key_name(name: &str) -> bool {
    name.starts_with(KEY)
}

/// The tag of entries that any change of a table purges.
pub fn table_any(table: &str) -> String {
    format!("{table}:any")
}

/// The tag of all entries that depend on a table.
pub fn table_all(table: &str) -> String {
    format!("{table}:all")
}

/// The tags of a route's entries, as far as they are known before a request comes.
pub struct Tags {
    fixed: Vec<Tag>,
    templates: Vec<Template>,
    has_path_params: bool,
}

/// A tag with `{param}`s in it.
struct Template {
    text: String,
    /// The `table:any` that an entry carries in its place where a parameter has no single value, as in a list of all.
    otherwise: Vec<Tag>,
}

impl Tags {
    /// The tags of a route's entries.
    pub fn new(route: &Route) -> Self {
        let mut tags = Self {
            fixed: vec![Tag::new(route_name(&route.path))],
            templates: Vec::new(),
            has_path_params: route.path.contains('{'),
        };
        let Some(policy) = &route.cache else { return tags };
        let watches = policy.watch.as_deref().unwrap_or_default();
        for text in &policy.tags {
            let covers = watches.iter().filter(|watch| watch.tag.as_ref() == Some(text));
            if text.contains('{') {
                let otherwise = covers.map(|watch| Tag::new(table_any(&watch.table))).collect();
                tags.templates.push(Template { text: text.clone(), otherwise });
            } else {
                tags.fixed.push(Tag::new(text.as_str()));
            }
        }
        for watch in watches {
            tags.fixed.push(Tag::new(table_all(&watch.table)));
            if watch.tag.is_none() {
                tags.fixed.push(Tag::new(table_any(&watch.table)));
            }
        }
        tags
    }

    /// The tags of one entry.
    pub fn of(&self, key: Key, path: &str, params: &Params) -> Arc<[Tag]> {
        let mut tags = self.fixed.clone();
        tags.push(Tag::of_key(key));
        if self.has_path_params {
            tags.push(Tag::new(path_name(path)));
        }
        for template in &self.templates {
            match expand(&template.text, params) {
                Some(names) => tags.extend(names.into_iter().map(Tag::new)),
                None => tags.extend(template.otherwise.iter().cloned()),
            }
        }
        tags.into()
    }
}

/// A template with a request's values in it: one tag for each value of a list. `None`: a value is missing, or a list empty, so
/// that no single row's tag covers the answer.
fn expand(template: &str, params: &Params) -> Option<Vec<String>> {
    let mut tags = vec![String::new()];
    for (index, part) in template.split('{').enumerate() {
        match part.split_once('}').filter(|_| index > 0) {
            Some((name, rest)) => {
                tags = match params.get(name)? {
                    Value::One(text) => tags.into_iter().map(|tag| tag + text + rest).collect(),
                    Value::Many(items) if !items.is_empty() => {
                        let with =
                            |tag: &String| items.iter().map(|item| format!("{tag}{item}{rest}")).collect::<Vec<_>>();
                        tags.iter().flat_map(with).collect()
                    }
                    Value::Many(_) | Value::Null => return None,
                };
            }
            None => tags.iter_mut().for_each(|tag| tag.push_str(part)),
        }
    }
    Some(tags)
}
