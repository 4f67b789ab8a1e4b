//! `/nodes` and `/stats/nodes/minute`: what they say, and to whom.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{ask_admin, behind_proxy, node, plan, sum, wait_node};
use crate::instance::client::Connection;
use crate::support::Cluster;

fn members(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn every_node_is_listed_with_what_was_measured() {
    let cluster = Cluster::shared();
    let (proxy, replica) = behind_proxy(&cluster.replica.server);
    let plan = plan(&cluster.primary.url("postgres", "postgres"), &replica);
    let instance = plan.set("nodes.regions", "replica-1=eu-west-1, upstream-9=nowhere").start();
    instance.wait_healthy();
    let reply = ask_admin(&instance, "/nodes");
    assert_eq!(
        (reply.status, reply.said("content-type"), reply.said("cache-control")),
        (200, "application/json", "no-store")
    );
    assert!(!reply.text().contains("hunter2") && !reply.text().contains("postgres"), "{reply:?}");
    let nodes = reply.json();
    assert_eq!(nodes.as_array().unwrap().len(), 2);
    let expected = ["id", "kind", "endpoint", "region", "status", "latency_ms", "lag_ms"];
    assert!(nodes.as_array().unwrap().iter().all(|node| members(node) == expected), "{nodes}");
    let replica = node(&instance, "replica-1");
    assert_eq!(members(&replica["latency_ms"]), ["p50", "p95"]);
    assert_eq!((&replica["kind"], &replica["status"]), (&json!("replica"), &json!("Online")));
    assert_eq!(replica["endpoint"], format!("127.0.0.1:{}", proxy.port()));
    assert_eq!(replica["region"], "eu-west-1");
    assert!(replica["lag_ms"].is_u64() && replica["latency_ms"]["p50"].as_f64() > Some(0.0), "{replica}");
    let primary = node(&instance, "primary");
    assert_eq!(
        (&primary["kind"], &primary["region"], &primary["lag_ms"]),
        (&json!("primary"), &Value::Null, &Value::Null)
    );
}

#[test]
fn a_node_that_is_gone_is_offline_and_one_that_is_behind_is_lagging() {
    let cluster = Cluster::private("nodes-status");
    let url = |server: &mainstay::local::Postgres| server.url("postgres", "postgres");
    let instance = plan(&url(&cluster.primary), &url(&cluster.replica)).set("replication.lag_max", "500ms").start();
    wait_node(&instance, "replica-1", |node| node["status"] == "Online");
    cluster.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    cluster.primary.psql("postgres", "CREATE TABLE more (id int)").unwrap();
    let lagging = wait_node(&instance, "replica-1", |node| node["status"] == "Lagging");
    assert!(lagging["lag_ms"].as_u64() >= Some(500), "{lagging}");
    cluster.replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    wait_node(&instance, "replica-1", |node| node["status"] == "Online");
    cluster.primary.server.kill9();
    wait_node(&instance, "primary", |node| node["status"] == "Offline");
    assert_eq!(
        node(&instance, "replica-1")["status"],
        "Online",
        "it answers, and was up to date when that was last known"
    );
    cluster.replica.server.kill9();
    wait_node(&instance, "replica-1", |node| node["status"] == "Offline");
}

#[test]
fn each_minute_has_a_row_for_each_node() {
    let cluster = Cluster::shared();
    let url = |server: &mainstay::local::Postgres| server.url("postgres", "postgres");
    let instance = plan(&url(&cluster.primary), &url(&cluster.replica)).start();
    instance.wait_healthy();
    for _ in 0..7 {
        assert_eq!(instance.get("/now").status, 200);
    }
    assert_eq!((sum(&instance, "replica-1", "ops"), sum(&instance, "replica-1", "errors")), (7, 0));
    let rows = ask_admin(&instance, "/stats/nodes/minute").json();
    let rows = rows.as_array().unwrap();
    for row in rows {
        assert_eq!(members(row), ["minute", "id", "ops", "errors", "latency_ms"]);
        assert_eq!(members(&row["latency_ms"]), ["p50", "p95", "p99"]);
        let minute: DateTime<Utc> = row["minute"].as_str().unwrap().parse().unwrap();
        assert!(minute.timestamp() % 60 == 0 && (0..300).contains(&(Utc::now() - minute).num_seconds()), "{row}");
        let percentile = |name: &str| row["latency_ms"][name].as_f64().unwrap();
        assert!(percentile("p50") <= percentile("p95") && percentile("p95") <= percentile("p99"), "{row}");
    }
    let of_primary = rows.iter().filter(|row| row["id"] == "primary").count();
    assert!(of_primary > 0 && of_primary < rows.len(), "{rows:?}");
    let one = ask_admin(&instance, "/stats/nodes/minute?id=primary").json();
    assert!(one.as_array().unwrap().iter().all(|row| row["id"] == "primary"), "{one}");
    for (target, status, code) in [
        ("/stats/nodes/minute?id=replica-2", 404, "not_found"),
        ("/stats/nodes/minute?node=primary", 400, "param_invalid"),
        ("/nodes?id=primary", 400, "param_invalid"),
    ] {
        let reply = ask_admin(&instance, target);
        assert_eq!((reply.status, reply.problem()), (status, code.to_owned()), "{target}");
    }
}

#[test]
fn without_a_token_nobody_learns_of_nodes() {
    let cluster = Cluster::shared();
    let plan = || plan(&cluster.primary.url("postgres", "postgres"), "").set("ORIGIN_SECRET", "of-the-cdn");
    let closed = plan().start();
    let verified = ("X-Origin-Verify", "of-the-cdn");
    for target in ["/nodes", "/stats/nodes/minute"] {
        assert_eq!(Connection::open(closed.admin).request("GET", target, &[]).status, 401, "{target}");
        let reply = closed.get_with(target, &[verified, ("Authorization", "Bearer for-operators")]);
        assert_eq!(reply.problem(), "route_not_found", "nodes.public is off");
    }
    let open = plan().set("nodes.public", "true").set("nodes.public_token", "old, for-clients").start();
    for target in ["/nodes", "/stats/nodes/minute"] {
        let reply = open.get_with(target, &[verified, ("Authorization", "Bearer for-clients")]);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!((reply.said("cache-control"), reply.said("x-region")), ("no-store", "test-1"));
        assert!(reply.json().is_array());
        for headers in [&[verified][..], &[verified, ("Authorization", "Bearer for-operators")]] {
            let reply = open.get_with(target, headers);
            assert_eq!((reply.status, reply.said("www-authenticate")), (401, "Bearer realm=\"mainstay\""), "{reply:?}");
        }
        let reply = open.get_with(target, &[("Authorization", "Bearer for-clients")]);
        assert_eq!(reply.problem(), "origin_forbidden", "the origin's secret is asked for, as everywhere");
        let reply = open.request("POST", target, &[verified]);
        assert_eq!((reply.status, reply.said("allow")), (405, "GET, HEAD"));
    }
    let reply = open.get_with("/stats/nodes/minute?id=x", &[verified, ("Authorization", "Bearer for-clients")]);
    assert_eq!((reply.status, reply.problem()), (404, "not_found".to_owned()));
}
