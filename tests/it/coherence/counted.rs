//! A fleet without a database: its clock is a count in Redis.

use std::path::Path;

use mainstay::local::{Redis, RedisOptions, Scratch, wait_until};
use serde_json::{Value, json};

use crate::instance::client::{Connection, Reply};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
[route.cache]
ttl = "1h"
tags = ["pages"]
"#;

fn redis(dir: &Path) -> Redis {
    let options = RedisOptions::new(dir).setting("dbfilename", "dump.rdb");
    Redis::start(&options).unwrap().expect("redis-server is installed")
}

fn instance(redis: &Redis, probe: &Probe) -> Instance {
    let plan = Plan::probed(ROUTES, probe).set("ADMIN_TOKEN", "t").set("REDIS_URL", &redis.url());
    plan.set("changes.heartbeat_interval", "100ms").start()
}

fn admin(instance: &Instance, method: &str, target: &str, body: &Value) -> Value {
    let headers = [("Authorization", "Bearer t")];
    let body = body.to_string();
    let reply = Connection::open(instance.admin).request_with_body(method, target, &headers, body.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// Waits until the instance believes what others have filled.
fn wait_caught_up(instance: &Instance) {
    let is_caught_up = || admin(instance, "GET", "/admin/status", &json!({}))["bus"]["caught_up"] == true;
    assert!(wait_until(PATIENCE, is_caught_up), "it does not catch up");
}

/// Whether a reply claims that its answer is good to keep.
fn is_claimed(reply: &Reply) -> bool {
    reply.said("cache-control") != "no-store" && !reply.cache().starts_with("hit; ttl=-")
}

#[test]
fn without_a_database_a_purge_reaches_the_whole_fleet() {
    let scratch = Scratch::new("counted").unwrap();
    let (redis, probe) = (redis(&scratch.join("redis")), Probe::default());
    let (one, other) = (instance(&redis, &probe), instance(&redis, &probe));
    wait_caught_up(&one);
    wait_caught_up(&other);
    assert_eq!(one.get("/public/page").json()["call"], 1);
    assert_eq!(other.get("/public/page").cache(), "hit; ttl=3599; detail=L2");
    let report = admin(&one, "POST", "/admin/cache/purge", &json!({ "tags": ["pages"] }));
    assert_eq!(report["instances"], json!({ "known": 2, "confirmed": 2 }), "{report}");
    for (instance, call) in [(&other, 2), (&one, 2)] {
        let reply = instance.get("/public/page");
        assert_eq!(reply.json()["call"], call, "{reply:?}");
    }
    assert_eq!(probe.calls(), 2, "one fill for the fleet");
}

#[test]
fn a_redis_that_lost_its_count_is_noticed() {
    let scratch = Scratch::new("counted-lost").unwrap();
    let redis = redis(&scratch.join("redis"));
    let probe = Probe::default();
    let one = instance(&redis, &probe);
    wait_caught_up(&one);
    assert_eq!(one.get("/public/page").json()["call"], 1);
    redis.command(&["SAVE"]).unwrap();
    admin(&one, "POST", "/admin/cache/purge", &json!({ "tags": ["pages"] }));
    assert_eq!(one.get("/public/page").json()["call"], 2);
    // The old dump has the answer of the first call, and knows of no purge.
    redis.server.kill9();
    redis.server.start().unwrap();
    let joined = instance(&redis, &probe);
    joined.wait_for("a new answer", "/public/page", |reply| {
        let call = reply.json()["call"].as_u64().unwrap();
        assert!(call > 1 || !is_claimed(reply), "{reply:?}");
        call > 2
    });
    redis.command(&["FLUSHALL"]).unwrap();
    let before = probe.calls();
    one.wait_for("a new generation", "/public/page", |_| probe.calls() > before);
}
