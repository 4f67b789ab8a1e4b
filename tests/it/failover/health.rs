//! What a failover origin says of itself.

use mainstay::local::wait_until;
use serde_json::json;

use super::{Pair, start_redis};
use crate::instance::probe::Probe;
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
[route.cache]
ttl = "1h"
"#;

const EDGE: &str = "/health/edge";

#[test]
fn it_is_degraded_while_it_has_something_to_serve_from_and_unhealthy_without() {
    let (server, _scratch) = start_redis("failover-health");
    let pair = Pair::on(&server, ROUTES, Probe::default());
    pair.fill(&["/public/page"]);
    let (idle, used) =
        (pair.failover().set("redis.timeout", "200ms").start(), pair.failover().set("redis.timeout", "200ms").start());
    for instance in [&idle, &used] {
        let reply = instance.wait_for("a verdict", EDGE, |reply| reply.status == 200);
        let said = reply.json();
        assert_eq!((&said["status"], &said["replication_lag_secs"]), (&json!("degraded"), &json!(0)), "{said}");
        assert_eq!(said["reasons"][0], "failover_mode");
        instance.wait_for("that it is ready", "/health/ready", |reply| reply.status == 200);
    }
    assert_eq!(used.get("/public/page").status, 200);
    server.server.kill9();
    let gone = idle.wait_for("that nothing is left", EDGE, |reply| reply.status == 503);
    assert_eq!((&gone.json()["status"], gone.header("retry-after").is_some()), (&json!("unhealthy"), true));
    assert!(gone.json()["reasons"].as_array().unwrap().contains(&json!("nothing_to_serve")), "{gone:?}");
    let ready = idle.get("/health/ready");
    assert_eq!((ready.status, ready.json()), (503, json!({ "status": "nothing_to_serve" })));
    let kept = used.wait_for("that Redis is gone", EDGE, |reply| {
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["reasons"].as_array().unwrap().contains(&json!("shared_cache_down"))
    });
    assert_eq!(kept.json()["status"], "degraded");
    assert_eq!((used.get("/public/page").status, used.get("/health/ready").status), (200, 200));
}

#[test]
fn without_any_store_it_starts_and_says_so() {
    let pair = Pair::new(ROUTES, Probe::default());
    let failover = pair.failover().set("REDIS_URL", "").start();
    failover.wait_for("a verdict", EDGE, |reply| {
        reply.status == 503 && reply.json()["reasons"].as_array().unwrap().contains(&json!("nothing_to_serve"))
    });
    assert_eq!(failover.get("/public/page").problem(), "not_cached");
    assert_eq!(failover.get("/health/live").status, 200);
}

/// A first request that has to open the connection by itself has spent its time by then, and gets a 503.
#[test]
fn every_worker_is_connected_to_redis_before_anybody_asks() {
    let (server, _scratch) = start_redis("failover-connections");
    let pair = Pair::on(&server, ROUTES, Probe::default());
    let _failover = pair.failover().set("server.workers", "3").start();
    // One for each worker, one for who looks whether Redis answers, one for who waits for the stream; and the one that asks.
    let connections = || server.command(&["CLIENT", "LIST"]).unwrap().lines().count();
    assert!(wait_until(PATIENCE, || connections() == 6), "{} connections", connections());
}
