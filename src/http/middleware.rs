//! Middlewares by the name that the manifest gives them.
//!
//! A middleware sees every request of its routes, so it can only stand before routes that are never answered from the
//! cache; the manifest's validation sees to that. `cors` is the exception: it is applied after the lookup.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;

/// A middleware: it may answer by itself, or go on and change what comes back.
pub type Middleware = Arc<dyn for<'a> Fn(&'a HttpRequest, Next<'a>) -> LocalBoxFuture<'a, HttpResponse> + Send + Sync>;

/// What stands behind a middleware.
pub struct Next<'a> {
    rest: &'a [Middleware],
    source: LocalBoxFuture<'a, HttpResponse>,
}

impl<'a> Next<'a> {
    /// The whole chain before a source.
    pub fn new(chain: &'a [Middleware], source: LocalBoxFuture<'a, HttpResponse>) -> Self {
        Self { rest: chain, source }
    }

    /// Goes on to the next middleware, or to the source.
    pub fn run(self, request: &'a HttpRequest) -> LocalBoxFuture<'a, HttpResponse> {
        match self.rest.split_first() {
            Some((first, rest)) => first(request, Next { rest, source: self.source }),
            None => self.source,
        }
    }
}

/// Middlewares by name.
#[derive(Clone, Default)]
pub struct Middlewares(HashMap<String, Middleware>);

impl Middlewares {
    /// Adds a middleware; a later one of the same name takes its place.
    pub fn add<F>(&mut self, name: impl Into<String>, middleware: F)
    where
        F: for<'a> Fn(&'a HttpRequest, Next<'a>) -> LocalBoxFuture<'a, HttpResponse> + Send + Sync + 'static,
    {
        self.0.insert(name.into(), Arc::new(middleware));
    }

    /// The middleware of a name.
    pub fn get(&self, name: &str) -> Option<Middleware> {
        self.0.get(name).cloned()
    }

    /// All names, with the built-in one, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).chain([super::cors::NAME]).collect();
        names.sort_unstable();
        names
    }
}
