//! What a purge does to those who ask next.

use mainstay::error::Code;
use mainstay::{Answer, Error};
use serde_json::json;

use super::{ask, instance, look, order};
use crate::instance::client::{Reply, head};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/public/rates"
handler = "probe"
params = [
  { name = "base", in = "query", type = "text", default = "EUR" },
  { name = "symbols", in = "query", type = "text[]", default = [], set = true },
]
[route.cache]
ttl = "1h"
stale_while_revalidate = "1h"
stale_if_error = "1d"
tags = ["rates:{base}"]

[[route]]
path = "/public/rates/history"
handler = "probe"

[[route]]
path = "/public/rates-archive"
handler = "probe"

[[route]]
path = "/public/docs/{slug}"
handler = "probe"
params = [
  { name = "slug", in = "path", type = "text" },
  { name = "q", in = "query", type = "text", optional = true },
]

[[route]]
path = "/account/it"
handler = "probe"
"#;

fn fail(_: &mainstay::Call, _: usize) -> Result<Answer, Error> {
    Err(Error::new(Code::DatabaseUnavailable, "as told"))
}

/// An instance with an answer kept for each of these targets.
fn warmed(probe: &Probe, targets: &[&str]) -> Instance {
    let instance = instance(ROUTES, probe);
    for target in targets {
        assert_eq!(instance.get(target).status, 200, "{target}");
        assert!(instance.get(target).is_hit(), "{target}");
    }
    instance
}

fn purge(instance: &Instance, wish: serde_json::Value) -> serde_json::Value {
    order(instance, "/admin/cache/purge", &wish.to_string())
}

#[test]
fn a_purged_answer_is_never_a_hit_again() {
    let probe = Probe::default();
    let instance = warmed(&probe, &["/public/rates", "/public/rates?base=USD"]);
    assert_eq!(probe.calls(), 2);
    let purged = purge(&instance, json!({ "tags": ["rates:USD"] }));
    assert_eq!((&purged["mode"], &purged["tags"]), (&json!("soft"), &json!(["rates:USD"])));
    assert_eq!(purged["instances"], json!({ "known": 1, "confirmed": 1 }));
    assert_eq!(purged["regions"], json!({ "reached": ["test-1"], "unreached": [] }));
    assert!(purged["id"].as_str().is_some_and(|id| !id.is_empty()), "{purged}");
    let fence: mainstay::position::Position = purged["fence"].as_str().unwrap().parse().unwrap();
    let next = instance.get("/public/rates?base=USD");
    assert_eq!((next.json()["call"].as_u64(), next.cache()), (Some(3), "fwd=stale; stored; detail=handler"));
    assert!(instance.get("/public/rates?base=USD").is_hit());
    let told = look(&instance, "/admin/cache/entry?path=/public/rates?base=USD")["told"].clone();
    assert!(told.as_str().unwrap().parse::<mainstay::position::Position>().unwrap() >= fence, "{told}");
    assert!(instance.get("/public/rates").is_hit(), "another tag is no matter");
    assert_eq!(probe.calls(), 3);
}

#[test]
fn soft_is_for_when_the_source_fails_and_hard_is_for_good() {
    let probe = Probe::default();
    for (mode, status) in [("soft", 200), ("hard", 503)] {
        let instance = warmed(&probe, &["/public/rates"]);
        probe.answer(fail);
        assert_eq!(purge(&instance, json!({ "tags": ["rates:EUR"], "mode": mode }))["mode"], mode);
        let reply = instance.get("/public/rates");
        assert_eq!(reply.status, status, "{mode}: {reply:?}");
        match mode {
            "soft" => {
                assert!(reply.cache().contains("fwd-status=503"), "{reply:?}");
                assert_eq!(reply.said("cache-control"), "public, max-age=0");
            }
            _ => assert_eq!(reply.problem(), "database_unavailable"),
        }
        probe.answer(|_, number| Answer::json(&json!({ "call": number })));
    }
}

#[test]
fn a_flush_is_a_purge_of_everything() {
    let targets = ["/public/rates", "/public/rates/history", "/public/docs/a"];
    for (query, mode, status) in [("", "soft", 200), ("?mode=soft", "soft", 200), ("?mode=hard", "hard", 503)] {
        let probe = Probe::default();
        let instance = warmed(&probe, &targets);
        let flushed = order(&instance, &format!("/admin/cache/flush{query}"), "");
        assert_eq!((&flushed["mode"], &flushed["tags"]), (&json!(mode), &json!(["*"])));
        for target in &targets[1..] {
            assert!(!instance.get(target).is_hit(), "{target}");
        }
        probe.answer(fail);
        assert_eq!(instance.get(targets[0]).status, status, "{mode}");
    }
    let instance = instance(ROUTES, &Probe::default());
    for query in ["?mode=gentle", "?mod=hard", "?mode"] {
        let reply = ask(&instance, "POST", &format!("/admin/cache/flush{query}"), "");
        assert_eq!((reply.status, reply.problem()), (400, "param_invalid".to_owned()), "{query}");
    }
}

/// Each form, the tags that it comes to, and which of the targets fall.
#[test]
fn paths_name_one_answer_or_a_path_or_all_below() {
    const TARGETS: [&str; 7] = [
        "/public/rates",
        "/public/rates?base=USD&symbols=CHF,JPY",
        "/public/rates/history",
        "/public/rates-archive",
        "/public/docs/a%20b",
        "/public/docs/a%20b?q=x",
        "/public/docs/other",
    ];
    let by_key: &[&str] = &[];
    let cases: [(&str, &[&str], &[usize]); 10] = [
        ("/public/rates", &["route:/public/rates"], &[0, 1]),
        ("/public/r%61tes", &["route:/public/rates"], &[0, 1]),
        ("/public/rates?", by_key, &[0]),
        ("/public/rates?base=EUR", by_key, &[0]),
        ("/public/rates?symbols=JPY&symbols=CHF&base=%55SD", by_key, &[1]),
        ("/public/rates/*", &["route:/public/rates", "route:/public/rates/history"], &[0, 1, 2]),
        ("/public/docs/a b", &["path:/public/docs/a%20b"], &[4, 5]),
        ("/public/docs/a%20b?q=x", by_key, &[5]),
        ("/public/docs/{slug}", &["route:/public/docs/{slug}"], &[4, 5, 6]),
        ("/public/docs/*", &["route:/public/docs/{slug}"], &[4, 5, 6]),
    ];
    for (path, tags, fall) in cases {
        let instance = warmed(&Probe::default(), &TARGETS);
        let purged = purge(&instance, json!({ "path": path }));
        if tags.is_empty() {
            assert!(purged["tags"][0].as_str().unwrap().starts_with("key:"), "{path}: {purged}");
        } else {
            assert_eq!(purged["tags"], json!(tags), "{path}");
        }
        for (index, target) in TARGETS.iter().enumerate() {
            assert_eq!(instance.get(target).is_hit(), !fall.contains(&index), "{target} after {path}");
        }
    }
    let instance = warmed(&Probe::default(), &TARGETS);
    let purged = purge(&instance, json!({ "path": "/*" }));
    assert_eq!(purged["tags"].as_array().unwrap().len(), 4, "all cached routes: {purged}");
}

#[test]
fn an_answer_falls_by_its_key() {
    let probe = Probe::default();
    let instance = warmed(&probe, &["/public/rates", "/public/rates/history"]);
    let key = look(&instance, "/admin/cache/entry?path=/public/rates")["key"].clone();
    let purged = purge(&instance, json!({ "key": key.as_str().unwrap().to_uppercase() }));
    assert_eq!(purged["tags"], json!([format!("key:{}", key.as_str().unwrap())]));
    assert!(!instance.get("/public/rates").is_hit());
    assert!(instance.get("/public/rates/history").is_hit());
}

#[test]
fn a_path_that_no_cached_route_has_is_a_404_that_names_those_near() {
    let instance = instance(ROUTES, &Probe::default());
    for path in ["/public/rate", "/public/ra/*", "/public/rates/history/x", "/account/it", "", "*", "/account/*"] {
        let reply = ask(&instance, "POST", "/admin/cache/purge", &json!({ "path": path }).to_string());
        assert_eq!((reply.status, reply.problem()), (404, "route_not_found".to_owned()), "{path}");
        assert!(reply.text().contains("/public/rates"), "{reply:?}");
    }
    for (path, code) in [("/public/rates?bse=USD", "param_unknown"), ("/public/%zz", "uri_invalid")] {
        let reply = ask(&instance, "POST", "/admin/cache/purge", &json!({ "path": path }).to_string());
        assert_eq!((reply.status, reply.problem()), (400, code.to_owned()));
    }
}

/// Those who waited get the answer that may be old, and nobody keeps it; who comes after the purge gets a fill of its own.
#[test]
fn a_purge_during_a_fill_leaves_nothing_of_it_behind() {
    let probe = Probe::default();
    let instance = instance(ROUTES, &probe);
    probe.close();
    let mut before = instance.connect();
    before.send(head("GET", "/public/rates", &[]));
    probe.wait_calls(1);
    purge(&instance, json!({ "tags": ["rates:EUR"] }));
    let mut after = instance.connect();
    after.send(head("GET", "/public/rates", &[]));
    probe.wait_calls(2);
    probe.open();
    let (before, after) = (before.reply("GET"), after.reply("GET"));
    assert_eq!((before.json()["call"].as_u64(), before.said("cache-control")), (Some(1), "no-store"));
    assert!(!before.cache().contains("stored"), "{before:?}");
    assert_eq!(after.json()["call"], 2);
    assert!(after.cache().contains("stored"), "{after:?}");
    let hit = instance.wait_for("a hit", "/public/rates", Reply::is_hit);
    assert_eq!(hit.json()["call"], 2);
    assert_eq!(probe.calls(), 2);
}

/// `on_change = "stale"`: what was purged softly is served while one fill renews it.
#[test]
fn stale_on_change_serves_while_it_is_renewed() {
    let routes = "[[route]]\npath = \"/public/it\"\nhandler = \"probe\"\n[route.cache]\nttl = \"1h\"\n\
                  stale_while_revalidate = \"1h\"\non_change = \"stale\"\n";
    let probe = Probe::default();
    let instance = instance(routes, &probe);
    instance.get("/public/it");
    probe.close();
    purge(&instance, json!({ "path": "/public/it" }));
    for _ in 0..5 {
        let stale = instance.get("/public/it");
        assert!(stale.is_hit() && stale.ttl() < 0 && stale.json()["call"] == 1, "{stale:?}");
        assert_eq!(stale.said("cache-control"), "public, max-age=0", "no cache outside takes it for fresh");
    }
    probe.wait_calls(2);
    probe.open();
    let renewed = instance.wait_for("the new answer", "/public/it", |reply| reply.json()["call"] == 2);
    assert!(renewed.is_hit() && renewed.ttl() > 0, "{renewed:?}");
    assert_eq!(probe.calls(), 2);
    purge(&instance, json!({ "path": "/public/it", "mode": "hard" }));
    assert!(!instance.get("/public/it").is_hit(), "hard is hard");
}

#[test]
fn absences_fall_with_their_route() {
    let probe = Probe::answering(|_, _| Err(Error::new(Code::NotFound, "there is none")));
    let plan = Plan::probed(ROUTES, &probe).set("ADMIN_TOKEN", super::TOKEN).set("cache.not_found_ttl", "1h");
    let instance = plan.start();
    assert_eq!(instance.get("/public/docs/a").status, 404);
    assert!(instance.get("/public/docs/a").is_hit());
    purge(&instance, json!({ "path": "/public/docs/a" }));
    assert!(!instance.get("/public/docs/a").is_hit());
}
