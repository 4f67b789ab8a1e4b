//! What a trace shows: which part of a request began which other one.

use std::thread;

use mainstay::local::{Redis, RedisOptions, Scratch};
use mainstay::{Code, Error};

use super::receiver::Receiver;
use super::{CALLER, CALLERS_SPAN, CALLERS_TRACE, probed, traced};
use crate::auth::people::Issuer;
use crate::instance::client::Reply;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

/// What no exported byte may show.
const PARAMETER: &str = "hunter2-the-parameter";
const KEY: &str = "hunter3-the-key";

#[test]
fn a_miss_over_redis_and_a_replica_is_one_tree_without_values() {
    let (cluster, receiver) = (Cluster::shared(), Receiver::new());
    let database = cluster.database();
    let scratch = Scratch::new("traces").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let routes = r#"
[[route]]
path = "/public/things/{name}"
sql = "SELECT $1 AS name FROM generate_series(1, 3)"
params = [{ name = "name", in = "path", type = "text" }]
  [route.cache]
  ttl = "1h"
  watch = []
"#;
    let instance = traced(Plan::new(routes), &receiver, "1")
        .database(cluster, &database)
        .set("REDIS_URL", &redis.url())
        .set("redis.timeout", "10s")
        .set("redis.connect_timeout", "10s")
        .start();
    instance.wait_healthy();
    // Until the replica is known to be fit, which on a busy machine may be a moment after the rest is well.
    let (mut number, mut reply) = (0, None);
    let is_whole = |reply: &Reply| (reply.status, reply.cache()) == (200, "fwd=miss; stored; detail=replica");
    let found = mainstay::local::wait_until(PATIENCE, || {
        number += 1;
        let (target, id) = (format!("/public/things/{PARAMETER}-{number}"), format!("request-{number}"));
        let headers = [("Authorization", KEY), ("Cookie", KEY), ("X-Request-Id", &*id)];
        is_whole(&*reply.insert(instance.get_with(&target, &headers)))
    });
    let (reply, id) = (reply.unwrap(), format!("request-{number}"));
    assert!(found, "{reply:?}");
    assert!(reply.text().contains(PARAMETER));

    let name = "GET /public/things/{name}";
    let trace = receiver.trace(|span| span.attribute("mainstay.request_id") == id);
    let root = trace.only(name);
    assert_eq!(root.parent, "");
    assert_eq!(root.kind, 2, "a server");
    assert_eq!(root.attribute("http.route"), "/public/things/{name}");
    assert_eq!(root.attribute("http.response.status_code"), "200");
    assert_eq!(root.attribute("mainstay.cache_status"), "mainstay; fwd=miss; stored; detail=replica");
    let tree = [
        ("L1 look", name),
        ("fill", name),
        ("L2 look", "fill"),
        ("L2 lease", "fill"),
        ("admission", "fill"),
        ("sql", "fill"),
        ("read", "sql"),
        ("node choice", "read"),
        ("query", "read"),
        ("L2 put", "fill"),
    ];
    for (child, parent) in tree {
        assert_eq!(trace.parent_of(child), parent, "{child}");
    }
    assert_eq!(trace.0.len(), tree.len() + 1, "{trace:#?}");
    assert_eq!(trace.only("L1 look").attribute("mainstay.result"), "miss");
    assert_eq!(trace.only("L2 look").attribute("mainstay.result"), "nothing");
    assert_eq!(trace.only("L2 lease").attribute("mainstay.result"), "lead");
    assert_eq!(trace.only("node choice").attribute("mainstay.nodes"), "replica-1");
    assert_eq!(trace.only("query").attribute("mainstay.node"), "replica-1");
    assert_eq!(trace.only("query").kind, 3, "a client");
    assert_eq!(trace.only("sql").attribute("db.response.returned_rows"), "3");
    assert_eq!(trace.only("sql").attribute("mainstay.body_bytes"), reply.body.len().to_string());
    for span in &trace.0 {
        assert!(span.start <= span.end && root.start <= span.start, "{span:?}");
    }
    let resource = receiver.resource();
    for (key, value) in [("service.name", "mainstay"), ("cloud.region", "test-1"), ("mainstay.mode", "regional")] {
        assert_eq!(resource[key], value);
    }
    for secret in [PARAMETER, KEY, "SELECT"] {
        assert!(!receiver.has_bytes(secret), "{secret} was exported");
    }
}

#[test]
fn who_waits_for_anothers_fill_refers_to_it() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    probe.close();
    let instance = probed(&probe, &receiver, "0").start();
    let ask = |traceparent: &'static str| {
        let public = instance.public;
        thread::spawn(move || {
            let mut connection = crate::instance::client::Connection::open(public);
            connection.request("GET", "/public/things/a", &[("traceparent", traceparent)])
        })
    };
    // Who leads is not sampled: it is kept for the one that refers to it.
    let leader = ask("00-11111111111111111111111111111111-0000000000000001-00");
    probe.wait_calls(1);
    let follower = ask(CALLER);
    let waiters = "mainstay_fill_waiters_total{route=\"/public/things/{name}\"}";
    assert!(mainstay::local::wait_until(PATIENCE, || instance.metric(waiters) >= 1.0));
    probe.open();
    assert_eq!((leader.join().unwrap().status, follower.join().unwrap().status), (200, 200));
    let fill = receiver.wait_for("the fill", |span| span.name == "fill");
    let wait = receiver.wait_for("the wait", |span| span.name == "fill wait");
    assert_eq!((&*wait.trace, &*fill.trace), (CALLERS_TRACE, "11111111111111111111111111111111"));
    assert_eq!(wait.links, [(fill.trace.clone(), fill.id.clone())]);
    assert_eq!(receiver.spans().iter().filter(|span| span.name == "fill").count(), 1);
}

/// Another instance's fill is known by the lease that it has taken. Each exports its own part.
#[test]
fn who_waits_for_another_instances_fill_refers_to_it() {
    let scratch = Scratch::new("traces-lease").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let (probe, receiver) = (Probe::default(), Receiver::new());
    probe.close();
    let instance = || {
        let plan =
            probed(&probe, &receiver, "0").set("REDIS_URL", &redis.url()).set("changes.heartbeat_interval", "50ms");
        ["redis.timeout", "redis.connect_timeout", "redis.lease_timeout"]
            .into_iter()
            .fold(plan, |plan, limit| plan.set(limit, "10s"))
            .start()
    };
    let (leads, waits) = (instance(), instance());
    // Whoever has not heard of the fleet yet takes nothing that others have filled for fresh.
    let heard = |instance: &Instance| {
        instance.metric("mainstay_bus_messages_total{kind=\"heartbeat\",source=\"stream\"}") > 0.0
    };
    assert!(mainstay::local::wait_until(PATIENCE, || heard(&leads) && heard(&waits)), "no heartbeat");
    let ask = |instance: &Instance, traceparent: &'static str| {
        let public = instance.public;
        thread::spawn(move || {
            let mut connection = crate::instance::client::Connection::open(public);
            connection.request("GET", "/public/things/a", &[("traceparent", traceparent)])
        })
    };
    let leader = ask(&leads, "00-11111111111111111111111111111111-0000000000000001-01");
    probe.wait_calls(1);
    let follower = ask(&waits, CALLER);
    let script = "local lease = redis.call('KEYS', '*:lease:*')[1] return lease and redis.call('GET', lease) or ''";
    let lease = || redis.command(&["EVAL", script, "0"]).unwrap();
    // The mark that somebody waits for it.
    assert!(mainstay::local::wait_until(PATIENCE, || lease().starts_with('1')), "{}", lease());
    probe.open();
    assert_eq!((leader.join().unwrap().status, follower.join().unwrap().status), (200, 200));
    let fill = receiver.wait_for("the fill", |span| span.name == "fill" && span.trace != CALLERS_TRACE);
    let wait = receiver.wait_for("the wait", |span| span.name == "fleet wait");
    assert_eq!(wait.trace, CALLERS_TRACE);
    assert_eq!(wait.links, [(fill.trace.clone(), fill.id.clone())]);
    assert_eq!(probe.calls(), 1);
}

#[test]
fn a_hit_is_recorded_where_it_is_sampled_and_else_not() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let instance = probed(&probe, &receiver, "0").start();
    assert_eq!(instance.get("/public/things/a").status, 200);
    assert!(instance.get("/public/things/a").is_hit());
    assert!(instance.get_with("/public/things/a", &[("traceparent", CALLER)]).is_hit());
    let trace = receiver.trace(|span| span.trace == CALLERS_TRACE);
    let root = trace.only("GET /public/things/{name}");
    assert_eq!(root.parent, CALLERS_SPAN);
    assert_eq!(trace.only("L1 look").attribute("mainstay.result"), "hit");
    assert_eq!(trace.0.len(), 2, "{trace:#?}");
    assert_eq!(receiver.spans().len(), 2, "nothing else was");
}

#[test]
fn a_fill_belongs_to_the_trace_of_a_client_that_has_gone() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    probe.close();
    let instance = probed(&probe, &receiver, "1").start();
    let mut connection = instance.connect();
    connection.send(crate::instance::client::head("GET", "/public/things/a", &[]));
    probe.wait_calls(1);
    drop(connection);
    probe.open();
    let trace = receiver.trace(|span| span.name == "handler");
    assert_eq!(trace.parent_of("handler"), "fill");
    assert_eq!(trace.parent_of("fill"), "GET /public/things/{name}");
}

#[test]
fn a_request_whose_credential_is_asked_for_is_named_once() {
    let (issuer, probe, receiver) = (Issuer::new(), Probe::default(), Receiver::new());
    let routes = "[[route]]\npath = \"/bought/{id}\"\nhandler = \"probe\"\nauth = \"jwt\"\n\
        params = [{ name = \"id\", in = \"path\", type = \"text\" }]\n";
    for (ratio, id) in [("1", "sampled"), ("0", "failed")] {
        let instance = traced(issuer.believed(Plan::probed(routes, &probe)), &receiver, ratio).start();
        if ratio == "0" {
            probe.answer(|_, _| Err(Error::new(Code::DatabaseUnavailable, "gone")));
        }
        instance.get_with("/bought/1", &[("Authorization", &issuer.bearer("ada", "")), ("X-Request-Id", id)]);
        let trace = receiver.trace(|span| span.attribute("mainstay.request_id") == id);
        let root = trace.only("GET /bought/{id}");
        assert_eq!((&*root.parent, root.attribute("http.route")), ("", "/bought/{id}"));
        assert_eq!(trace.parent_of("auth check"), "GET /bought/{id}");
    }
}

#[test]
fn a_problem_says_which_trace_it_is_of() {
    let receiver = Receiver::new();
    let probe = Probe::answering(|_, _| Err(Error::new(Code::DatabaseUnavailable, "gone")));
    let instance = probed(&probe, &receiver, "0").start();
    for target in ["/public/things/a", "/account/things"] {
        let reply = instance.get(target);
        assert_eq!((reply.status, reply.problem().as_str()), (503, "database_unavailable"));
        let said = reply.json()["trace_id"].as_str().unwrap().to_owned();
        let root = receiver.wait_for("the trace of the problem", |span| span.trace == said && span.parent.is_empty());
        assert_eq!(root.error.as_deref(), Some("Service Unavailable"));
    }
    let own = instance.get_with("/public/things/b", &[("traceparent", CALLER)]).json();
    assert_eq!(own["trace_id"], CALLERS_TRACE);
    assert_eq!(
        Plan::probed(super::ROUTES, &probe).start().get("/public/things/a").json()["trace_id"],
        serde_json::Value::Null
    );
}
