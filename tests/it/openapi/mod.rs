//! `/openapi.json` and `/docs`: who gets them, what they say of a manifest, and that answers are as they say.

mod access;
mod answers;
pub mod checker;
mod columns;
mod manifest;
mod pages;

use serde_json::Value;

use crate::instance::Instance;

/// The document, after checking what holds for every one.
fn document(instance: &Instance) -> Value {
    let reply = instance.get("/openapi.json");
    assert_eq!((reply.status, reply.said("content-type")), (200, "application/json"));
    let document = reply.json();
    checker::check_document(&document);
    document
}

/// Waits until the document is as wanted.
fn wait_document(instance: &Instance, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
    instance.wait_for(what, "/openapi.json", |reply| holds(&reply.json()));
    document(instance)
}

/// The schema of what a GET answers.
fn answer<'a>(document: &'a Value, path: &str) -> &'a Value {
    &document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
}
