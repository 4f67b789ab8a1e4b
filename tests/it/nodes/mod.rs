//! Nodes as clients and operators see them, on real servers behind a proxy that misbehaves.

mod pages;
mod steps;
mod trouble;

use mainstay::local::{Proxy, Server};
use serde_json::Value;

use crate::instance::client::{Connection, Reply};
use crate::instance::{Instance, Plan};

const ADMIN: &str = "for-operators";
const READ: &str = r#"
[[route]]
path = "/now"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"
"#;

/// A proxy in front of a server, and the URL that leads through it.
fn behind_proxy(server: &Server) -> (Proxy, String) {
    let proxy = Proxy::start(([127, 0, 0, 1], server.port()).into()).unwrap();
    let url = format!("postgres://postgres:hunter2@127.0.0.1:{}/postgres", proxy.port());
    (proxy, url)
}

/// A plan that reads from these, with an admin token.
fn plan(primary: &str, replicas: &str) -> Plan {
    let plan =
        Plan::new(READ).set("ADMIN_TOKEN", ADMIN).set("nodes.open_time", "60s").set("nodes.open_time_max", "60s");
    plan.set("DATABASE_URL", primary).set("DATABASE_READ_REPLICA_URL", replicas)
}

fn ask_admin(instance: &Instance, target: &str) -> Reply {
    let token = format!("Bearer {ADMIN}");
    Connection::open(instance.admin).request("GET", target, &[("Authorization", &token)])
}

/// A node of `/nodes`.
fn node(instance: &Instance, id: &str) -> Value {
    let nodes = ask_admin(instance, "/nodes").json();
    nodes.as_array().unwrap().iter().find(|node| node["id"] == id).unwrap().clone()
}

/// Waits until a node is such.
fn wait_node(instance: &Instance, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let came = mainstay::local::wait_until(crate::support::PATIENCE, || {
        last = node(instance, id);
        holds(&last)
    });
    assert!(came, "waited in vain: {last}");
    last
}

/// The sum of a member over the minutes of a node.
fn sum(instance: &Instance, id: &str, member: &str) -> u64 {
    let rows = ask_admin(instance, &format!("/stats/nodes/minute?id={id}")).json();
    rows.as_array().unwrap().iter().map(|row| row[member].as_u64().unwrap()).sum()
}
