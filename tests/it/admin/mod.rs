//! The admin listener as its clients meet it.

mod auth;
mod console;
mod look;
mod page;
mod purge;
mod snapshot;
mod status;
mod stream;
mod warm;

use crate::instance::client::{Connection, Reply};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

/// The token of all instances here.
const TOKEN: &str = "correct-horse";

/// An instance with a token, whose only handler is a probe.
pub fn instance(routes: &str, probe: &Probe) -> Instance {
    Plan::probed(routes, probe).set("ADMIN_TOKEN", TOKEN).start()
}

/// A request to the admin listener, with a header line for the token.
fn ask_as(instance: &Instance, authorization: Option<&str>, method: &str, target: &str, body: &str) -> Reply {
    let headers: Vec<(&str, &str)> = authorization.map(|value| ("Authorization", value)).into_iter().collect();
    Connection::open(instance.admin).request_with_body(method, target, &headers, body.as_bytes())
}

/// A request with the right token.
fn ask(instance: &Instance, method: &str, target: &str, body: &str) -> Reply {
    ask_as(instance, Some(&format!("Bearer {TOKEN}")), method, target, body)
}

/// A GET that must be answered.
fn look(instance: &Instance, target: &str) -> serde_json::Value {
    let reply = ask(instance, "GET", target, "");
    assert_eq!((reply.status, reply.said("content-type")), (200, "application/json"), "{reply:?}");
    assert_eq!(reply.said("cache-control"), "no-store");
    reply.json()
}

/// A POST that must be answered.
pub fn order(instance: &Instance, target: &str, body: &str) -> serde_json::Value {
    let reply = ask(instance, "POST", target, body);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}
