//! What the admin listener shows.

use mainstay::Answer;
use mainstay::local::wait_until;
use serde_json::json;

use super::{TOKEN, ask, instance, look, order};
use crate::instance::Plan;
use crate::instance::client::{Connection, Reply, head};
use crate::instance::probe::{Probe, echo};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = echo!();

/// Each look takes a core for as long as it lasts. Whoever asks for one too many is turned away.
#[test]
fn looks_at_all_entries_are_few_at_once() {
    const AT_ONCE: usize = 16;
    let instance = instance(ROUTES, &Probe::default());
    (0..200).for_each(|number| assert_eq!(instance.get(&format!("/public/echo?q={number}")).status, 200));
    for (method, target, body) in
        [("POST", "/admin/cache/preview", "{\"tags\":[\"echo\"]}"), ("GET", "/admin/cache/stats?hot=3", "")]
    {
        let (token, length) = (format!("Bearer {TOKEN}"), body.len().to_string());
        let asked = head(method, target, &[("Authorization", &token), ("Content-Length", &length)]) + body;
        let some_are_turned_away = || {
            let mut connections: Vec<_> = (0..AT_ONCE).map(|_| Connection::open(instance.admin)).collect();
            connections.iter_mut().for_each(|connection| connection.send(&asked));
            let replies: Vec<Reply> = connections.iter_mut().map(|connection| connection.reply(method)).collect();
            let (busy, done): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 503);
            assert!(busy.iter().all(|reply| reply.json()["code"] == "overloaded"), "{busy:?}");
            assert!(!done.is_empty() && done.iter().all(|reply| reply.status == 200), "{target}: {done:?}");
            !busy.is_empty()
        };
        assert!(wait_until(PATIENCE, some_are_turned_away), "{target}: {AT_ONCE} at once");
        assert_eq!(ask(&instance, method, target, body).status, 200);
    }
}

#[test]
fn an_entry_is_shown_as_it_is_kept() {
    let instance = instance(ROUTES, &Probe::default());
    let reply = ask(&instance, "GET", "/admin/cache/entry?path=/public/echo?q=a", "");
    assert_eq!((reply.status, reply.problem()), (404, "not_found".to_owned()));
    let first = instance.get("/public/echo?q=a%20b");
    for path in ["/public/echo?q=a%2520b", "%2Fpublic%2Fecho%3Fq%3Da%2520b", "/public/echo?q=a%2bb"] {
        let entry = look(&instance, &format!("/admin/cache/entry?path={path}"));
        assert_eq!(entry["path"], "/public/echo?q=a%20b", "{path}");
        assert_eq!((&entry["route"], &entry["layer"]), (&json!("/public/echo"), &json!("L1")));
        assert_eq!((&entry["status"], &entry["detail"]), (&json!(200), &json!("handler")));
        assert_eq!((&entry["standing"], &entry["as_of"]), (&json!("current"), &json!(null)));
        assert_eq!(entry["etag"], first.header("etag").unwrap());
        let key = entry["key"].as_str().unwrap();
        assert_eq!(entry["tags"], json!(["route:/public/echo", "echo", format!("key:{key}"), "echo:a b"]));
        let (age, ttl) = (entry["age_s"].as_f64().unwrap(), entry["ttl_s"].as_f64().unwrap());
        assert!((0.0..60.0).contains(&age) && (age + ttl - 3600.0).abs() < 0.01, "{entry}");
        assert!(entry["bytes"].as_u64().unwrap() > 100 && entry["told"].is_string(), "{entry}");
        assert_eq!(entry["hits"], 0, "a look is no hit");
    }
    order(&instance, "/admin/cache/purge", "{\"tags\":[\"echo\"]}");
    assert_eq!(look(&instance, "/admin/cache/entry?path=/public/echo?q=a%2520b")["standing"], "purged");
    order(&instance, "/admin/cache/flush?mode=hard", "");
    assert_eq!(look(&instance, "/admin/cache/entry?path=/public/echo?q=a%2520b")["standing"], "forbidden");
    for (query, code) in
        [("", "param_invalid"), ("?path=/nowhere", "route_not_found"), ("?path=/public/echo?x=1", "param_unknown")]
    {
        assert_eq!(ask(&instance, "GET", &format!("/admin/cache/entry{query}"), "").problem(), code, "{query}");
    }
}

#[test]
fn figures_count_what_happened() {
    let instance = instance(ROUTES, &Probe::default());
    for target in ["/public/echo?q=1", "/public/echo?q=1", "/public/echo?q=1", "/public/echo?q=2"] {
        assert_eq!(instance.get(target).status, 200);
    }
    let stats = look(&instance, "/admin/cache/stats");
    assert_eq!(stats["lookups"]["L1"], json!({ "expired": 0, "hit": 2, "miss": 2, "stale": 0 }));
    assert_eq!((&stats["entries"], &stats["fills_running"], &stats["tags"]), (&json!(2), &json!(0), &json!(0)));
    assert!(stats["bytes"].as_u64().unwrap() > 0 && stats["bytes_max"] == 268_435_456, "{stats}");
    assert!(stats["hot"].is_null() && stats["silent_s"].is_null(), "{stats}");
    order(&instance, "/admin/cache/purge", "{\"tags\":[\"a\",\"b\"]}");
    let after = look(&instance, "/admin/cache/stats");
    assert_eq!(after["tags"], 2);
    assert!(after["generation"].as_u64() > stats["generation"].as_u64() && after["told"] != stats["told"], "{after}");
}

#[test]
fn the_hottest_come_first_and_no_more_than_asked() {
    let probe = Probe::answering(|call, _| {
        // The heaviest is too heavy for what a worker notes, and counts like the others all the same.
        let size = if call.params.text("q") == Some("2") { 100_000 } else { 10 };
        Ok(Answer::json_bytes(format!("\"{}\"", fastrand::Rng::with_seed(1).alphanumeric().to_string().repeat(size))))
    });
    let instance = Plan::probed(ROUTES, &probe).set("ADMIN_TOKEN", TOKEN).set("server.workers", "1").start();
    for (q, times) in [("1", 400), ("2", 30), ("3", 200), ("4", 1)] {
        let mut connection = instance.connect();
        for _ in 0..times {
            assert_eq!(connection.request("GET", &format!("/public/echo?q={q}"), &[]).status, 200);
        }
    }
    let hot = look(&instance, "/admin/cache/stats?hot=3")["hot"].clone();
    let paths: Vec<&str> = hot.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/public/echo?q=1", "/public/echo?q=3", "/public/echo?q=2"], "{hot}");
    assert_eq!((&hot[0]["route"], &hot[2]["hits"]), (&json!("/public/echo"), &json!(29)));
    assert!(hot[2]["bytes"].as_u64().unwrap() > 100_000, "{hot}");
    for hot in ["1001", "-1", "x"] {
        assert_eq!(ask(&instance, "GET", &format!("/admin/cache/stats?hot={hot}"), "").problem(), "param_invalid");
    }
}

#[test]
fn the_status_shows_nodes_and_settings_and_no_secret() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    let plan = Plan::probed(ROUTES, &Probe::default()).database(cluster, &name).set("ADMIN_TOKEN", TOKEN);
    let instance = plan.set("ORIGIN_SECRET", "opensesame").start();
    instance.wait_healthy();
    let status = look(&instance, "/admin/status");
    assert_eq!((&status["mode"], &status["region"]), (&json!("regional"), &json!("test-1")));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["health"]["status"], "healthy");
    assert_eq!(status["health"]["reasons"], json!([]));
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(
        (&nodes[0]["name"], &nodes[0]["role"], &nodes[0]["eligible"]),
        (&json!("primary"), &json!("primary"), &json!(null))
    );
    assert_eq!(
        (&nodes[1]["role"], &nodes[1]["up"], &nodes[1]["eligible"]),
        (&json!("replica"), &json!(true), &json!(true))
    );
    for node in nodes {
        assert!(node["lsn"].as_str().unwrap().contains('/') && node["breaker"] == "closed", "{node}");
    }
    assert!(nodes[1]["lag_ms"].is_u64() && nodes[1]["latency_ms"].is_f64(), "{status}");
    assert_eq!(status["bus"]["silent"], false);
    assert_eq!(
        (&status["settings"]["has_redis"], &status["settings"]["namespace"]),
        (&json!(false), &json!("mainstay"))
    );
    let text = status.to_string();
    for secret in [TOKEN, "opensesame", "postgres://"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
