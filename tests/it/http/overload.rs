//! More work than can be done: hits go on, what is stale is served, the rest is refused at once, and all of it comes back.

use crate::instance::client::{Connection, head};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/echo"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", optional = true }]

[[route]]
path = "/public/stale"
handler = "probe"
  [route.cache]
  ttl = "20ms"
  stale_if_error = "1h"

[[route]]
path = "/public/renewed"
handler = "probe"
  [route.cache]
  ttl = "20ms"
  stale_while_revalidate = "1h"

[[route]]
path = "/things"
methods = ["GET", "POST"]
handler = "probe"
"#;

type Client = Connection<std::net::TcpStream>;

/// So many sources may run, so many more wait, and those for as long as a test takes.
fn plan(probe: &Probe, places: usize, queue_max: usize) -> Plan {
    Plan::probed(ROUTES, probe)
        .set("overload.concurrency_min", &places.to_string())
        .set("overload.concurrency_max", &places.to_string())
        .set("overload.queue_max", &queue_max.to_string())
        .set("overload.queue_timeout", "60s")
        .set("overload.stale_timeout", "0s")
        .set("limits.request_timeout", "60s")
}

fn ask(instance: &Instance, method: &str, target: &str) -> Client {
    let mut connection = instance.connect();
    connection.send(head(method, target, &[]));
    connection
}

/// Holds the probe with one request for each target.
fn hold(instance: &Instance, probe: &Probe, targets: &[&str]) -> Vec<Client> {
    probe.close();
    let calls = probe.calls();
    let held = targets.iter().map(|target| ask(instance, "GET", target)).collect();
    probe.wait_calls(calls + targets.len());
    held
}

#[track_caller]
fn wait_metric(instance: &Instance, sample: &str, value: f64) {
    let is_there = || instance.metric(sample) == value;
    assert!(mainstay::local::wait_until(PATIENCE, is_there), "{sample} is {}, not {value}", instance.metric(sample));
}

#[track_caller]
fn is_refused(instance: &Instance, method: &str, target: &str) {
    let reply = instance.request(method, target, &[]);
    assert_eq!((reply.status, reply.problem()), (503, "overloaded".to_owned()));
    let retry_secs: u32 = reply.said("retry-after").parse().unwrap();
    assert!((1..=4).contains(&retry_secs), "{reply:?}");
    assert!(reply.said("cache-control").contains("no-store"));
}

#[test]
fn beyond_the_limit_misses_are_refused_and_hits_go_on() {
    let probe = Probe::default();
    let instance = plan(&probe, 2, 0).start();
    instance.get("/public/echo?q=kept");
    let held = hold(&instance, &probe, &["/public/echo?q=1", "/public/echo?q=2"]);
    for number in 0..20 {
        is_refused(&instance, "GET", &format!("/public/echo?q=more-{number}"));
        assert!(instance.get("/public/echo?q=kept").is_hit());
    }
    let refused = "mainstay_overload_refused_total{kind=\"fill\",priority=\"foreground\"}";
    assert_eq!((probe.calls(), instance.metric(refused)), (3, 20.0));
    let sample = |name: &str| instance.metric(&format!("mainstay_overload_{name}{{kind=\"fill\"}}"));
    assert_eq!((sample("limit"), sample("running"), sample("waiting")), (2.0, 2.0, 0.0));
    probe.open();
    for mut connection in held {
        assert_eq!(connection.reply("GET").status, 200);
    }
    assert_eq!(instance.get("/public/echo?q=more-0").status, 200, "all of it is back");
    wait_metric(&instance, "mainstay_overload_running{kind=\"fill\"}", 0.0);
}

/// Strong reads and writes must not be shut out by misses of public routes, nor the other way round; nor reads by writes.
#[test]
fn fills_and_direct_requests_have_a_limit_each() {
    let probe = Probe::default();
    let instance = plan(&probe, 1, 0).start();
    let mut fill = hold(&instance, &probe, &["/public/echo?q=1"]);
    let mut direct = hold(&instance, &probe, &["/things"]);
    let mut write = ask(&instance, "POST", "/things");
    probe.wait_calls(3);
    is_refused(&instance, "GET", "/public/echo?q=2");
    is_refused(&instance, "POST", "/things");
    is_refused(&instance, "GET", "/things");
    probe.open();
    let statuses = [fill[0].reply("GET"), direct[0].reply("GET"), write.reply("POST")].map(|reply| reply.status);
    assert_eq!(statuses, [200; 3]);
}

#[test]
fn what_is_stale_is_served_and_only_who_has_nothing_waits() {
    let probe = Probe::default();
    let instance = plan(&probe, 1, 10).start();
    instance.get("/public/stale");
    let mut held = hold(&instance, &probe, &["/public/echo?q=1"]);
    let mut waits = ask(&instance, "GET", "/public/echo?q=2");
    wait_metric(&instance, "mainstay_overload_waiting{kind=\"fill\"}", 1.0);
    let reply = instance.wait_for("the stale answer", "/public/stale", |reply| reply.ttl() < 0);
    assert!(reply.status == 200 && reply.cache().contains("fwd-status=503"), "{reply:?}");
    assert_eq!(probe.calls(), 2, "nobody had a place but the one who holds it");
    probe.open();
    assert_eq!(held[0].reply("GET").status, 200);
    assert_eq!(waits.reply("GET").json()["call"], 3, "the place that came free was its");
}

/// A renewal behind a hit waits where there is room, and makes room for a request that has nothing to show.
#[test]
fn renewals_are_dropped_first() {
    let probe = Probe::default();
    let instance = plan(&probe, 1, 1).start();
    instance.get("/public/renewed");
    let mut held = hold(&instance, &probe, &["/public/echo?q=1"]);
    let reply = instance.wait_for("a stale hit", "/public/renewed", |reply| reply.ttl() < 0);
    assert!(reply.status == 200 && !reply.cache().contains("fwd-status"), "it was answered at once: {reply:?}");
    wait_metric(&instance, "mainstay_overload_waiting{kind=\"fill\"}", 1.0);
    let mut miss = ask(&instance, "GET", "/public/echo?q=2");
    wait_metric(&instance, "mainstay_overload_refused_total{kind=\"fill\",priority=\"revalidate\"}", 1.0);
    is_refused(&instance, "GET", "/public/echo?q=3");
    probe.open();
    assert_eq!((held[0].reply("GET").status, miss.reply("GET").status), (200, 200));
    assert_eq!(probe.calls(), 3);
    instance.wait_for("the renewal, once there is room", "/public/renewed", |_| probe.calls() >= 4);
}

#[test]
fn requests_that_wait_for_fills_have_a_bound() {
    let probe = Probe::default();
    let instance = plan(&probe, 8, 8).set("overload.waiters_max", "3").start();
    let mut waiting = hold(&instance, &probe, &["/public/echo?q=1"]);
    waiting.extend((0..2).map(|_| ask(&instance, "GET", "/public/echo?q=1")));
    wait_metric(&instance, "mainstay_fill_waiters_total{route=\"/public/echo\"}", 2.0);
    is_refused(&instance, "GET", "/public/echo?q=1");
    is_refused(&instance, "GET", "/public/echo?q=2");
    assert_eq!(probe.calls(), 1);
    probe.open();
    for mut connection in waiting {
        assert_eq!(connection.reply("GET").status, 200);
    }
    assert_eq!(instance.get("/public/echo?q=2").status, 200);
}

#[test]
fn bodies_have_a_bound_together() {
    let probe = Probe::default();
    let instance = plan(&probe, 8, 8).set("overload.bodies_bytes_max", "1000").start();
    probe.close();
    let mut first = instance.connect();
    first.send(head("POST", "/things", &[("Content-Length", "600")]) + &"x".repeat(600));
    probe.wait_calls(1);
    let post = || instance.connect().request_with_body("POST", "/things", &[], &[b'x'; 600]);
    let refused = post();
    assert_eq!((refused.problem(), refused.said("connection")), ("overloaded".to_owned(), "close"));
    probe.open();
    assert_eq!(first.reply("POST").status, 200);
    instance.wait_for("what it held to be free again", "/public/echo", |_| post().status == 200);
}

/// A source that hangs costs the first ones their patience. Then nobody waits for it, and it may run less at once.
#[test]
fn a_source_that_hangs_lowers_the_limit_and_comes_back() {
    let probe = Probe::default();
    let instance = plan(&probe, 4, 4)
        .set("overload.concurrency_max", "64")
        .set("overload.queue_timeout", "10ms")
        .set("limits.request_timeout", "300ms")
        .start();
    instance.get("/public/echo?q=kept");
    probe.close();
    let limit = || instance.metric("mainstay_overload_limit{kind=\"fill\"}");
    assert_eq!(limit(), 16.0);
    let mut number = 0;
    let fell = mainstay::local::wait_until(PATIENCE, || {
        let asked: Vec<Client> =
            (0..40).map(|at| ask(&instance, "GET", &format!("/public/echo?q={number}-{at}"))).collect();
        number += 1;
        for mut connection in asked {
            let code = connection.reply("GET").problem();
            assert!(code == "overloaded" || code == "source_timeout", "{code}");
        }
        assert!(instance.get("/public/echo?q=kept").is_hit());
        limit() == 4.0
    });
    assert!(fell, "the limit is {}", limit());
    probe.open();
    for number in 0..100 {
        assert_eq!(instance.get(&format!("/public/echo?q=after-{number}")).status, 200);
    }
}
