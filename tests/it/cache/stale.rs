//! Answers past their freshness: revalidated behind, or served because the source failed.

use std::time::{Duration, Instant};

use mainstay::error::Code;
use mainstay::{Answer, Error};

use crate::instance::client::Reply;
use crate::instance::probe::{Probe, Told};
use crate::instance::{Instance, Plan};
use crate::support::Cluster;

fn routes(ttl: &str, swr: &str, sie: &str) -> String {
    format!(
        "[[route]]\npath = \"/public/it\"\nhandler = \"probe\"\n[route.cache]\nttl = \"{ttl}\"\n\
         stale_while_revalidate = \"{swr}\"\nstale_if_error = \"{sie}\"\n"
    )
}

fn fail(_: &mainstay::Call, _: usize) -> Result<Answer, Error> {
    Err(Error::new(Code::DatabaseUnavailable, "as told"))
}

#[test]
fn a_stale_answer_never_waits_for_its_source() {
    let probe = Probe::default();
    let instance = Instance::probed(&routes("30ms", "1h", "0s"), &probe);
    assert_eq!(instance.get("/public/it").json()["call"], 1);
    probe.close();
    // The source is held, so whatever is answered now did not wait for it.
    let stale = instance.wait_for("it to be stale", "/public/it", |reply| reply.is_hit() && reply.ttl() < 0);
    assert_eq!((stale.json()["call"].as_u64(), stale.status), (Some(1), 200));
    assert!(stale.cache().ends_with("; detail=L1"), "{stale:?}");
    probe.wait_calls(2);
    for _ in 0..20 {
        assert_eq!(instance.get("/public/it").json()["call"], 1);
    }
    assert_eq!(probe.calls(), 2, "one refresh for all of them");
    probe.open();
    instance.wait_for("the new answer", "/public/it", |reply| reply.json()["call"] != 1);
}

#[test]
fn a_stale_answer_holds_while_the_refresh_fails_and_the_source_is_not_hammered() {
    let probe = Probe::default();
    let instance = Instance::probed(&routes("30ms", "1h", "0s"), &probe);
    instance.get("/public/it");
    probe.answer(fail);
    instance.wait_for("a refresh", "/public/it", |_| probe.calls() >= 2);
    let begin = Instant::now();
    let mut asked = 0;
    while begin.elapsed() < Duration::from_millis(500) {
        let reply = instance.get("/public/it");
        assert_eq!((reply.status, reply.is_hit()), (200, true), "{reply:?}");
        asked += 1;
    }
    assert!(probe.calls() <= 3, "{} runs of the source for {asked} requests", probe.calls());
}

#[test]
fn past_revalidation_the_source_is_waited_for() {
    let probe = Probe::default();
    let instance = Instance::probed(&routes("20ms", "0s", "0s"), &probe);
    instance.get("/public/it");
    let next = instance.wait_for("a second run", "/public/it", |reply| !reply.is_hit());
    assert_eq!(next.json()["call"], 2);
    assert!(next.cache().starts_with("fwd="), "{next:?}");
}

#[test]
fn stale_if_error_serves_what_it_has_and_says_why() {
    let probe = Probe::default();
    let instance = Instance::probed(&routes("20ms", "0s", "1h"), &probe);
    let first = instance.get("/public/it");
    let broken: [(&str, Told); 2] = [("503", fail), ("500", |_, _| panic!("as told"))];
    for (status, failure) in broken {
        probe.answer(failure);
        let says_why = |reply: &Reply| reply.cache().contains(&format!("fwd-status={status}"));
        let reply = instance.wait_for("a stale answer", "/public/it", says_why);
        assert_eq!((reply.status, &reply.body), (200, &first.body));
        assert_eq!(reply.cache(), format!("hit; ttl={}; fwd-status={status}; detail=L1", reply.ttl()));
        assert!(reply.header("age").is_some());
        let tag = reply.header("etag").unwrap();
        assert_eq!(instance.get_with("/public/it", &[("If-None-Match", tag)]).status, 304);
    }
    // What the client did wrong is no failure of the source.
    probe.answer(|_, _| Err(Error::new(Code::ParamInvalid, "no")));
    instance.wait_for("the refusal", "/public/it", |reply| reply.status == 400);
    probe.answer(|_, number| Answer::json(&number));
    let fresh = instance.get("/public/it");
    assert_eq!((fresh.status, fresh.cache()), (200, "fwd=stale; stored; detail=handler"));
}

#[test]
fn past_stale_if_error_the_failure_is_told() {
    let probe = Probe::default();
    let instance = Instance::probed(&routes("20ms", "0s", "100ms"), &probe);
    instance.get("/public/it");
    probe.answer(fail);
    let reply = instance.wait_for("the failure", "/public/it", |reply| reply.status != 200);
    assert_eq!(reply.problem(), "database_unavailable");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
}

/// A source that hangs is a source that failed: after the deadline there is the stale answer, not an error.
#[test]
fn a_source_that_hangs_ends_in_the_stale_answer() {
    let probe = Probe::default();
    // Long enough for the requests below on any machine: what is asked for behind them hangs as long.
    let instance = Plan::probed(&routes("20ms", "0s", "1h"), &probe).set("limits.request_timeout", "1s").start();
    instance.get("/public/it");
    probe.close();
    let reply = instance.wait_for("a stale answer", "/public/it", |reply| reply.ttl() < 0);
    assert!(reply.status == 200 && reply.cache().contains("fwd-status=503"), "{reply:?}");
    // Those who come next do not wait for it again: they are answered while the next look at it still hangs.
    instance.wait_for("a look behind", "/public/it", |_| probe.calls() == 3);
    for _ in 0..20 {
        let reply = instance.get("/public/it");
        assert!(reply.status == 200 && reply.cache().contains("fwd-status=503"), "{reply:?}");
    }
    assert_eq!(probe.calls(), 3);
    probe.open();
    instance
        .wait_for("the new answer", "/public/it", |reply| reply.status == 200 && !reply.cache().contains("fwd-status"));
}

/// More sources than may run is a failure that the stale answer covers.
#[test]
fn overload_is_covered_too() {
    let routes = routes("20ms", "0s", "1h") + "[[route]]\npath = \"/public/other\"\nhandler = \"probe\"\n";
    let probe = Probe::default();
    let instance = Plan::probed(&routes, &probe).set("limits.fills_max", "1").start();
    instance.get("/public/it");
    probe.close();
    let mut held = instance.connect();
    held.send(crate::instance::client::head("GET", "/public/other", &[]));
    probe.wait_calls(2);
    let reply = instance.wait_for("a stale answer", "/public/it", |reply| reply.ttl() < 0);
    assert!(reply.cache().contains("fwd-status=503"), "{reply:?}");
    probe.open();
    assert_eq!(held.reply("GET").status, 200);
}

#[test]
fn age_counts_from_when_the_source_was_asked() {
    let probe = Probe::default();
    probe.close();
    let instance = Instance::probed(&routes("1h", "0s", "0s"), &probe);
    let mut asked = instance.connect();
    asked.send(crate::instance::client::head("GET", "/public/it", &[]));
    probe.wait_calls(1);
    std::thread::sleep(Duration::from_millis(1_050));
    probe.open();
    assert_eq!(asked.reply("GET").status, 200);
    let hit = instance.get("/public/it");
    let age: i64 = hit.said("age").parse().unwrap();
    assert!(age >= 1, "the wait for the source counts: {hit:?}");
    assert!((3_599..=3_600).contains(&(age + hit.ttl())) && hit.said("cache-control").contains("max-age=3600"));
}

/// A key that is asked for all the time is renewed before it expires, so that nobody ever waits for it.
#[test]
fn a_hot_key_is_refreshed_before_it_expires() {
    let probe = Probe::answering(|_, number| {
        std::thread::sleep(Duration::from_millis(20));
        Answer::json(&number)
    });
    let plan = Plan::probed(&routes("1200ms", "0s", "0s"), &probe);
    let instance = plan.set("cache.early_refresh_beta", "10").start();
    instance.get("/public/it");
    let mut connection = instance.connect();
    let begin = Instant::now();
    while probe.calls() < 3 {
        let reply = connection.request("GET", "/public/it", &[]);
        assert!(reply.is_hit() && reply.ttl() >= 0, "somebody had to wait: {reply:?}");
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    let lazy = Instance::probed(&routes("1h", "0s", "0s"), &probe);
    let calls = probe.calls();
    (0..100).for_each(|_| drop(lazy.get("/public/it")));
    assert_eq!(probe.calls(), calls + 1);
}

/// With Postgres gone, kept answers go on and say so; nothing kept is an error that says when to come back.
#[test]
fn with_postgres_gone_what_is_kept_goes_on() {
    let cluster = Cluster::private("gone");
    let routes = "[[route]]\npath = \"/public/now\"\nresult = \"row\"\nsql = \"SELECT 1 AS one\"\n[route.cache]\n\
                  ttl = \"50ms\"\nstale_if_error = \"1d\"\n\
                  [[route]]\npath = \"/public/never\"\nsql = \"SELECT 2 AS two\"\n";
    // A replica that a busy machine makes slow is no failure, or the primary would be asked.
    let plan = Plan::new(routes).database(&cluster, "postgres");
    let slow = ["replication.probe_timeout", "database.connect_timeout", "database.wait_timeout"];
    let instance = slow.iter().fold(plan, |plan, key| plan.set(key, "20s")).start();
    instance.wait_healthy();
    let first = instance.get("/public/now");
    assert_eq!((first.text().as_str(), first.cache()), ("{\"one\":1}", "fwd=miss; stored; detail=replica"));
    cluster.replica.server.kill9();
    cluster.primary.server.kill9();
    let stale = instance.wait_for("a stale answer", "/public/now", |reply| reply.ttl() < 0);
    assert_eq!((stale.status, &stale.body), (200, &first.body));
    assert_eq!(stale.cache(), format!("hit; ttl={}; fwd-status=503; detail=L1", stale.ttl()));
    let never = instance.get("/public/never");
    assert_eq!((never.status, never.problem()), (503, "database_unavailable".to_owned()));
    let strong = instance.get_with("/public/now", &[("X-Consistency", "strong")]);
    assert_eq!((strong.status, strong.problem()), (503, "strong_unavailable".to_owned()), "never what is kept");
    cluster.primary.server.start().unwrap();
    let back = instance.wait_for("a fresh answer", "/public/now", |reply| !Reply::is_hit(reply) && reply.status == 200);
    assert_eq!(back.cache(), "fwd=stale; stored; detail=primary");
}
