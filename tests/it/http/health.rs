//! `/health/*`, answered from sampled state.

use serde_json::json;

use crate::instance::Plan;
use crate::support::Cluster;

#[test]
fn without_a_database_there_is_nothing_to_be_ill_of() {
    let instance = Plan::new("").start();
    let edge = instance.wait_for("the first look", "/health/edge", |reply| reply.status == 200);
    assert_eq!(edge.text(), r#"{"status":"healthy","region":"test-1","replication_lag_secs":0,"reasons":[]}"#);
    assert_eq!(instance.get("/health/live").text(), r#"{"status":"live"}"#);
    assert_eq!(instance.get("/health/ready").text(), r#"{"status":"ready"}"#);
    for target in ["/health/edge", "/health/live", "/health/ready"] {
        let reply = instance.get(target);
        assert_eq!(
            (reply.header("cache-control"), reply.header("content-type")),
            (Some("no-store"), Some("application/json"))
        );
        assert_eq!(instance.request("HEAD", target, &[]).status, 200);
        let reply = instance.request("POST", target, &[]);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    }
    assert_eq!(instance.get("/health/other").problem(), "route_not_found");
    assert_eq!(instance.get("/health/").status, 404);
}

#[test]
fn a_healthy_pair_says_its_lag() {
    let instance = Plan::new("").database(Cluster::shared(), "postgres").start();
    instance.wait_healthy();
    let edge = instance.get("/health/edge").json();
    assert_eq!(edge, json!({ "status": "healthy", "region": "test-1", "replication_lag_secs": 0, "reasons": [] }));
}

#[test]
fn without_replicas_the_lag_is_zero() {
    let cluster = Cluster::shared();
    let instance = Plan::new("").set("DATABASE_URL", &cluster.primary.url("postgres", "postgres")).start();
    instance.wait_healthy();
    assert_eq!(instance.get("/health/edge").json()["replication_lag_secs"], 0);
}

/// A replica that never answered: its lag is not known, and what is not known is not zero.
#[test]
fn what_is_not_known_is_null_and_a_503() {
    let cluster = Cluster::shared();
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres", mainstay::local::free_port().unwrap());
    let plan = |required: &str| {
        let plan = Plan::new("").database(cluster, "postgres").set("DATABASE_READ_REPLICA_URL", &nobody);
        if required.is_empty() { plan } else { plan.set("health.required", required) }
    };
    let instance = plan("").start();
    let edge =
        instance.wait_for("a look at the replica", "/health/edge", |reply| reply.text().contains("replica_down"));
    assert_eq!((edge.status, edge.json()["replication_lag_secs"].is_null()), (503, true), "{edge:?}");
    assert_eq!(edge.json()["status"], "unhealthy");
    // Where the replica is not required the region is as good as it has to be, and says what is off.
    let lenient = plan("primary").start();
    let edge = lenient.wait_for("a degraded 200", "/health/edge", |reply| reply.status == 200);
    assert_eq!(edge.json()["status"], "degraded", "{edge:?}");
    assert!(edge.text().contains("replica_down"));
}

#[test]
fn with_nobody_there_the_process_is_live_and_not_healthy() {
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres", mainstay::local::free_port().unwrap());
    let instance = Plan::new("").set("DATABASE_URL", &nobody).start();
    let edge =
        instance.wait_for("a look at the primary", "/health/edge", |reply| reply.text().contains("primary_down"));
    assert_eq!(edge.status, 503);
    assert_eq!(instance.get("/health/live").status, 200);
    instance.wait_for("readiness: it answers what it can", "/health/ready", |reply| reply.status == 200);
}
