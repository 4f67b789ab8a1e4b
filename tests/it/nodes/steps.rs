//! How far eventual reads have stepped back, as health, operators and metrics see it.

use mainstay::local::free_port;

use super::{ADMIN, ask_admin, plan};
use crate::instance::Plan;
use crate::support::Cluster;

/// With nobody to read from and nothing kept there is nothing left; a kept answer is a step more than nothing.
#[test]
fn with_nobody_there_it_counts_whether_anything_is_kept() {
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres", free_port().unwrap());
    let routes = "[[route]]\npath = \"/public/hi\"\nhandler = \"hi\"\n[route.cache]\nttl = \"1h\"\n";
    let plan = Plan::new(routes).handler("hi", async |_| mainstay::Answer::json(&"hi"));
    let instance = plan.set("ADMIN_TOKEN", ADMIN).set("DATABASE_URL", &nobody).start();
    let edge = instance.wait_for("the first look", "/health/edge", |reply| reply.json()["step"] == "unavailable");
    assert_eq!(edge.status, 503);
    assert_eq!(instance.metric("mainstay_degradation_step"), 4.0);
    assert_eq!(instance.get("/public/hi").status, 200);
    instance.wait_for("something kept", "/health/edge", |reply| reply.json()["step"] == "stale");
    assert_eq!(instance.metric("mainstay_degradation_step"), 3.0);
    assert_eq!(ask_admin(&instance, "/admin/status").json()["health"]["step"], "stale");
}

/// Without replicas the primary is where reads should be.
#[test]
fn without_replicas_the_primary_is_preferred() {
    let instance = plan(&Cluster::shared().primary.url("postgres", "postgres"), "").start();
    instance.wait_healthy();
    assert!(instance.get("/health/edge").json().get("step").is_none(), "what is as it should be is not worth a word");
    assert_eq!(ask_admin(&instance, "/admin/status").json()["health"]["step"], "preferred");
    assert_eq!(instance.metric("mainstay_degradation_step"), 0.0);
}
