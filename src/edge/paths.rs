//! Which paths of the edge show what a tag stands for.
//!
//! A purge names tags, and the edge knows paths. Routes say which tags their answers have; so a tag leads to the patterns of routes, with
//! what the tag itself says filled in, and `*` for the rest. A path with `*` is paid for as one, however much it covers.

use std::collections::BTreeSet;

use crate::cache::tag::{EVERYTHING, path_name, route_name, table_all, table_any};
use crate::config::manifest::{Route, UnknownParams};
use crate::config::param::Place;

/// What `*` stands for everything.
const ALL: &str = "/*";

/// The paths that show any of these tags, each once, and none that another one covers. Tags of single entries (`key:…`) lead nowhere:
/// what they stand for is a hash.
pub fn of<'a>(routes: impl Iterator<Item = &'a Route>, tags: &[String]) -> Vec<String> {
    if tags.iter().any(|tag| tag == EVERYTHING) {
        return vec![ALL.to_owned()];
    }
    let mut paths = BTreeSet::new();
    for route in routes.filter(|route| is_kept_outside(route)) {
        paths.extend(tags.iter().flat_map(|tag| of_tag(route, tag)));
    }
    uncovered(&paths)
}

/// Whether a CDN may keep this route's answers: they are the same for all, and good for any time there.
fn is_kept_outside(route: &Route) -> bool {
    let Some(policy) = &route.cache else { return false };
    !route.private && !policy.edge_ttl.unwrap_or(policy.browser_ttl).is_zero()
}

fn of_tag(route: &Route, tag: &str) -> Vec<String> {
    let whole = || vec![pattern(route, None)];
    let Some(policy) = &route.cache else { return Vec::new() };
    if tag == route_name(&route.path) {
        return whole();
    }
    // An operator's purge of a path has its name from the path that was asked for, so that it fits the pattern or not.
    if let Some(path) = tag.strip_prefix(&path_name("")) {
        return if fits(&route.path, path) { vec![with_queries(route, path)] } else { Vec::new() };
    }
    let watches = policy.watch.as_deref().unwrap_or_default();
    if watches.iter().any(|watch| tag == table_all(&watch.table)) {
        return whole();
    }
    let is_loose =
        |template: &Option<String>| template.as_ref().is_none_or(|template| !is_always_filled(route, template));
    if watches.iter().any(|watch| tag == table_any(&watch.table) && is_loose(&watch.tag)) {
        return whole();
    }
    policy.tags.iter().filter_map(|template| filled(route, template, tag)).collect()
}

/// Whether every answer of the route has a value for each parameter of a tag, so that none carries `table:any` in its place.
fn is_always_filled(route: &Route, template: &str) -> bool {
    let is_in_path = |name: &str| route.params_in(Place::Path).any(|(_, param)| param.name == name);
    names(template).all(is_in_path)
}

fn names(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name)
}

/// The paths of a tag that a template makes. With several parameters it is not certain where one value ends, so none is filled in.
fn filled(route: &Route, template: &str, tag: &str) -> Option<String> {
    let mut between = template.split('{').enumerate().map(|(index, part)| match part.split_once('}') {
        Some((_, rest)) if index > 0 => rest,
        _ => part,
    });
    let begin = between.next()?;
    let parts: Vec<&str> = between.collect();
    match parts.as_slice() {
        [] => (begin == tag).then(|| pattern(route, None)),
        [end] => {
            let value = tag.strip_prefix(begin)?.strip_suffix(end).filter(|value| !value.is_empty())?;
            Some(pattern(route, names(template).next().map(|name| (name, value))))
        }
        [.., end] => (tag.starts_with(begin) && tag.ends_with(end)).then(|| pattern(route, None)),
    }
}

/// The path of a route, up to the first parameter whose value is not known. A value that could be written in several ways counts as
/// not known: viewers may have asked for any of them.
fn pattern(route: &Route, known: Option<(&str, &str)>) -> String {
    let is_plain = |value: &str| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let mut path = String::new();
    for (index, part) in route.path.split('{').enumerate() {
        match part.split_once('}').filter(|_| index > 0) {
            None => path.push_str(part),
            Some((name, rest)) => match known.filter(|(other, value)| *other == name && is_plain(value)) {
                Some((_, value)) => {
                    path.push_str(value);
                    path.push_str(rest);
                }
                None => return path + "*",
            },
        }
    }
    with_queries(route, &path)
}

/// A path with whatever query, where the route may have been asked with one. `?` alone would be a path more to pay for.
fn with_queries(route: &Route, path: &str) -> String {
    let has_queries = route.params_in(Place::Query).next().is_some()
        || route.unknown_params == UnknownParams::Ignore
        || route.is_catch_all();
    if has_queries { format!("{path}*") } else { path.to_owned() }
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(_)) if part.starts_with("{*") => return true,
            (Some(part), Some(segment)) if part.contains('{') || part == segment => {}
            _ => return false,
        }
    }
}

fn uncovered(paths: &BTreeSet<String>) -> Vec<String> {
    let covers = |other: &String, path: &String| {
        other != path && other.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
    };
    paths.iter().filter(|path| !paths.iter().any(|other| covers(other, path))).cloned().collect()
}
