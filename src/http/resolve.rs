//! What a target means, for those who name it without sending a request: operators who purge, look at or warm it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::surface::{Endpoint, Found, Surface};
use super::target::{self, Arguments};
use crate::cache::key::Key;
use crate::config::param::Params;
use crate::error::{Code, Error};

/// Routes that the error about an unknown path names.
const NEAR_MAX: usize = 5;

/// What a GET of a target would ask the cache for.
pub struct Resolved {
    /// Its route.
    pub endpoint: Arc<Endpoint>,
    /// Its parameters.
    pub params: Params,
    /// Its key.
    pub key: Key,
    /// The canonical request.
    pub canonical: Box<[u8]>,
}

impl Surface {
    /// What a GET of a target, path and query, would ask the cache for.
    ///
    /// # Errors
    /// What such a request would be refused for, and `route_not_found` where its route is not cached.
    pub fn resolve(&self, target: &str) -> Result<Resolved, Error> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let path = target::canonical_path(path)?;
        let (found, endpoint) = self.cached(&path)?;
        let arguments = Arguments::read(&endpoint.route, |name| found.capture(name), query, None)?;
        let canonical = written(&arguments, endpoint);
        Ok(Resolved {
            endpoint: Arc::clone(endpoint),
            params: arguments.into_params(&endpoint.route),
            key: endpoint.keys.key(&canonical),
            canonical: canonical.into_vec().into_boxed_slice(),
        })
    }

    /// The endpoint that answers a GET of a target, cached or not, and its parameters.
    ///
    /// # Errors
    /// What such a request would be refused for.
    pub fn target(&self, target: &str) -> Result<(Arc<Endpoint>, Params), Error> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let path = target::canonical_path(path)?;
        let found = self.find(&path, "GET").and_then(|found| Some((found.pattern.endpoint("GET")?, found)));
        let (endpoint, found) = found.ok_or_else(|| Error::new(Code::RouteNotFound, "no route has this path"))?;
        let arguments = Arguments::read(&endpoint.route, |name| found.capture(name), query, None)?;
        Ok((Arc::clone(endpoint), arguments.into_params(&endpoint.route)))
    }

    /// The canonical form of a path without its query, and the cached route that it belongs to.
    ///
    /// # Errors
    /// As [`Surface::resolve`], but for the query.
    pub fn resolve_path(&self, path: &str) -> Result<(String, &Arc<Endpoint>), Error> {
        let path = target::canonical_path(path)?;
        let (found, endpoint) = self.cached(&path)?;
        let arguments = Arguments::of_path(&endpoint.route, |name| found.capture(name))?;
        Ok((String::from_utf8_lossy(&written(&arguments, endpoint)).into_owned(), endpoint))
    }

    /// All cached routes that are asked with GET.
    pub fn cached_routes(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints().filter(|endpoint| endpoint.route.is_cacheable())
    }

    /// No cached route has this path: the error names those that look most like it.
    pub fn no_cached_route(&self, path: &str) -> Error {
        let common = |route: &str| route.bytes().zip(path.bytes()).take_while(|(one, other)| one == other).count();
        let mut near: Vec<&str> = self.cached_routes().map(|endpoint| endpoint.route.path.as_str()).collect();
        near.sort_by_key(|route| std::cmp::Reverse(common(route)));
        near.truncate(NEAR_MAX);
        let shown: String = path.chars().filter(|c| !c.is_control()).take(128).collect();
        let detail = if near.is_empty() {
            format!("no cached route has the path {shown}: none is cached")
        } else {
            format!("no cached route has the path {shown}; near it are {}", near.join(", "))
        };
        Error::new(Code::RouteNotFound, detail)
    }

    fn cached<'surface, 'path>(
        &'surface self,
        path: &'path str,
    ) -> Result<(Found<'surface, 'path>, &'surface Arc<Endpoint>), Error> {
        let found = self.find(path, "GET").ok_or_else(|| self.no_cached_route(path))?;
        let endpoint = found.pattern.endpoint("GET").filter(|endpoint| endpoint.route.is_cacheable());
        let endpoint = endpoint.ok_or_else(|| self.no_cached_route(path))?;
        Ok((found, endpoint))
    }
}

fn written(arguments: &Arguments<'_>, endpoint: &Endpoint) -> SmallVec<[u8; 256]> {
    let mut canonical = SmallVec::new();
    arguments.write(&endpoint.route, &mut canonical);
    canonical
}
