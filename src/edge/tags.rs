//! Which tags a CDN is told of that knows the answers that it keeps by their tags.
//!
//! A tag is as exact as the purge was, and costs as much as a path with `*`, which may cover more. So tags are told as long as they
//! are few.

use std::slice;

use super::cloudfront::PATHS_MAX;
use super::paths;
use crate::cache::tag::{EVERYTHING, Tag, is_key_name};
use crate::config::manifest::Route;

/// What of these tags is told: those that some route's answers carry outside, in CloudFront's notation; in their place paths, where
/// these are fewer and the tags more than go into one call.
pub fn of<'a>(routes: impl Iterator<Item = &'a Route> + Clone, tags: &[String]) -> Vec<String> {
    let paths = paths::of(routes.clone(), tags);
    if tags.iter().any(|tag| tag == EVERYTHING) {
        return paths;
    }
    let is_carried = |tag: &&String| is_key_name(tag) || !paths::of(routes.clone(), slice::from_ref(*tag)).is_empty();
    let named: Vec<String> = tags.iter().filter(is_carried).map(|tag| notation(tag)).collect();
    if named.len() > PATHS_MAX && paths.len() < named.len() { paths } else { named }
}

fn notation(tag: &str) -> String {
    format!("#{}", Tag::new(tag).edge_name())
}
