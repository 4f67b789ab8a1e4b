//! What a failover origin answers with what a fleet has left behind.

use mainstay::error::Code;
use mainstay::local::wait_until;
use mainstay::{Answer, Error};
use serde_json::json;

use super::Pair;
use crate::instance::probe::Probe;
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
middlewares = ["cors"]
params = [{ name = "q", in = "query", type = "text", default = "" }]
[route.cache]
ttl = "1h"
tags = ["pages"]

[[route]]
path = "/public/brief"
handler = "probe"
[route.cache]
ttl = "1s"

[[route]]
path = "/uncached"
handler = "probe"

[[route]]
path = "/private"
handler = "probe"
consistency = "strong"

[[route]]
path = "/orders"
methods = ["POST"]
handler = "probe"
"#;

const PAGE: &str = "/public/page";

fn long() -> Probe {
    Probe::answering(|call, number| {
        Answer::json(&json!({ "call": number, "q": call.params.text("q"), "text": "abc".repeat(2_000) }))
    })
}

#[test]
fn what_a_fleet_has_stored_is_issued_anew_in_every_form() {
    let pair = Pair::new(ROUTES, long());
    let origin = pair.regional().set("cors.origins", "https://app.test").start();
    pair.fill_by(&origin, &[PAGE]);
    let failover = pair.failover().set("cors.origins", "https://app.test").set("failover.max_age", "11m").start();
    for encoding in ["identity", "gzip", "br"] {
        let headers = [("Accept-Encoding", encoding), ("Origin", "https://app.test")];
        let (there, here) = (origin.get_with(PAGE, &headers), failover.get_with(PAGE, &headers));
        assert_eq!((here.status, &here.body, here.header("age")), (200, &there.body, None), "{here:?}");
        assert_eq!(here.header("cache-control"), Some("public, max-age=660"));
        assert!(here.cache().starts_with("hit; ttl=") && here.cache().ends_with("; detail=failover"), "{here:?}");
        for same in ["etag", "content-type", "content-encoding", "access-control-allow-origin"] {
            assert_eq!(here.header(same), there.header(same), "{encoding}: {same}");
        }
        let varies = |reply: &crate::instance::client::Reply| reply.all("vary").map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(varies(&here), varies(&there));
        let etag = here.header("etag").unwrap().to_owned();
        let not_modified = failover.get_with(PAGE, &[("Accept-Encoding", encoding), ("If-None-Match", &etag)]);
        assert_eq!((not_modified.status, not_modified.header("etag")), (304, Some(etag.as_str())));
        assert_eq!(not_modified.header("cache-control"), Some("public, max-age=660"));
        assert_eq!(not_modified.header("age"), None);
        let head = failover.request("HEAD", PAGE, &headers);
        assert_eq!((head.status, head.header("etag"), head.body.len()), (200, Some(etag.as_str()), 0));
    }
    assert_eq!(failover.metric("mainstay_cache_hits_total{route=\"/public/page\"}"), 9.0, "from L2 or from L1");
    let preflight = [("Origin", "https://app.test"), ("Access-Control-Request-Method", "GET")];
    let (there, here) = (origin.request("OPTIONS", PAGE, &preflight), failover.request("OPTIONS", PAGE, &preflight));
    assert_eq!(here.status, there.status);
    for same in ["allow", "access-control-allow-origin", "access-control-allow-methods", "access-control-max-age"] {
        assert!(here.header(same).is_some(), "{same}");
        assert_eq!(here.header(same), there.header(same), "{same}");
    }
    assert_eq!(pair.unasked.calls(), 0);
}

#[test]
fn what_it_cannot_answer_is_a_503_and_what_is_wrong_stays_wrong() {
    let pair = Pair::new(ROUTES, Probe::default());
    pair.fill(&[PAGE]);
    let failover = pair.failover().start();
    assert_eq!(failover.get(PAGE).status, 200);
    let code = |method: &str, target: &str, headers: &[(&str, &str)]| {
        let reply = failover.request(method, target, headers);
        assert!(reply.said("cache-control").starts_with("no-store"), "{reply:?}");
        (reply.status, if method == "HEAD" { String::new() } else { reply.problem() })
    };
    let unknown = (503, "not_cached".to_owned());
    assert_eq!(code("GET", "/public/page?q=other", &[]), unknown);
    assert_eq!(code("HEAD", "/public/page?q=other", &[]).0, 503);
    assert_eq!(code("GET", "/uncached", &[]), unknown);
    assert_eq!(code("POST", "/orders", &[]), (503, "writes_unavailable".to_owned()));
    let body = failover.connect().request_with_body("POST", "/orders", &[], b"{}");
    assert_eq!((body.status, body.problem()), (503, "writes_unavailable".to_owned()));
    for (target, headers) in [("/private", &[][..]), (PAGE, &[("X-Consistency", "strong")][..])] {
        let reply = failover.get_with(target, headers);
        assert_eq!((reply.status, reply.problem()), (503, "strong_unavailable".to_owned()), "{target}");
        assert_eq!(reply.header("x-route-primary"), Some("true"));
    }
    assert_eq!(code("GET", "/nowhere", &[]), (404, "route_not_found".to_owned()));
    assert_eq!(code("GET", "/public/page?z=1", &[]), (400, "param_unknown".to_owned()));
    assert_eq!(code("DELETE", PAGE, &[]), (405, "method_not_allowed".to_owned()));
    assert_eq!(pair.unasked.calls(), 0);
}

/// Also past all limits of its own, as long as Redis keeps it; and what Redis has lost since is kept here.
#[test]
fn what_has_long_expired_is_served_and_says_for_how_long() {
    let pair = Pair::new(ROUTES, Probe::default());
    pair.fill(&["/public/brief"]);
    let failover = pair.failover().start();
    let old = failover.wait_for("an answer two seconds past its freshness", "/public/brief", |reply| {
        assert_eq!((reply.status, reply.json()["call"].as_i64()), (200, Some(1)), "{reply:?}");
        assert_eq!(reply.header("cache-control"), Some("public, max-age=600"));
        reply.ttl() <= -2
    });
    assert_eq!(old.header("age"), None);
    let key = format!(
        "for _, key in ipairs(redis.call('KEYS', '{}:2:*')) do redis.call('DEL', key) end return 'x'",
        pair.namespace
    );
    pair.redis.command(&["EVAL", &key, "0"]).unwrap();
    assert_eq!(failover.get("/public/brief").status, 200);
}

#[test]
fn what_a_living_region_stores_meanwhile_reaches_viewers() {
    let pair = Pair::new(ROUTES, Probe::default());
    let origin = pair.regional().start();
    pair.fill_by(&origin, &["/public/brief"]);
    let failover = pair.failover().start();
    assert_eq!(failover.get("/public/brief").json()["call"], 1);
    origin.wait_for("a second fill", "/public/brief", |reply| reply.json()["call"] == 2);
    failover.wait_for("the second fill", "/public/brief", |reply| reply.json()["call"] == 2);
    // It is looked for behind the answers, and no more than once a second: many requests are few look-ups.
    let lookups = || {
        ["hit", "expired"]
            .map(|result| failover.metric(&format!("mainstay_cache_lookups_total{{layer=\"L2\",result=\"{result}\"}}")))
    };
    drop(origin);
    failover.wait_for("a stale answer", "/public/brief", |reply| reply.ttl() < 0);
    let (before, began) = (lookups().iter().sum::<f64>(), std::time::Instant::now());
    let mut connection = failover.connect();
    (0..200).for_each(|_| assert_eq!(connection.request("GET", "/public/brief", &[]).status, 200));
    let looked = lookups().iter().sum::<f64>() - before;
    assert!(looked <= began.elapsed().as_secs_f64() + 2.0, "{looked} look-ups");
}

/// A 404 is repeated while it is fresh, and by no cache outside; after that nobody knows.
#[test]
fn an_absence_is_told_for_a_moment() {
    let probe = Probe::answering(|_, _| Err(Error::new(Code::NotFound, "no such page")));
    let pair = Pair::new(ROUTES, probe);
    let origin = pair.regional().set("cache.not_found_ttl", "2s").start();
    pair.fill_by(&origin, &[PAGE]);
    let failover = pair.failover().start();
    let reply = failover.get(PAGE);
    assert_eq!(
        (reply.status, reply.problem(), reply.header("cache-control")),
        (404, "not_found".to_owned(), Some("no-store"))
    );
    let over = failover.wait_for("its end", PAGE, |reply| reply.status != 404);
    assert_eq!((over.status, over.problem()), (503, "not_cached".to_owned()));
}

#[test]
fn requests_for_one_key_are_one_look_up() {
    let pair = Pair::new(ROUTES, Probe::default());
    pair.fill(&[PAGE]);
    let failover = pair.failover().start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(failover.get(PAGE).status, 200));
        }
    });
    let looked = || {
        failover.metric("mainstay_cache_lookups_total{layer=\"L2\",result=\"hit\"}")
            + failover.metric("mainstay_cache_lookups_total{layer=\"L2\",result=\"expired\"}")
    };
    assert!(wait_until(PATIENCE, || looked() >= 1.0));
    assert!(looked() <= 2.0, "{}", looked());
}
