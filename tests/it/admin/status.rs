//! What is degraded and since when, what is asked, and what happened lately.

use mainstay::local::wait_until;
use mainstay::{Code, Error, ramp};
use serde_json::{Value, json};

use super::{TOKEN, ask, instance, look, order};
use crate::instance::Plan;
use crate::instance::probe::Probe;
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = r#"
[[route]]
path = "/public/echo"
handler = "probe"
[route.cache]
ttl = "1h"
tags = ["echo"]
"#;

fn wait_for(what: &str, instance: &crate::instance::Instance, target: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let came = wait_until(PATIENCE, || {
        last = look(instance, target);
        holds(&last)
    });
    assert!(came, "waited in vain for {what}: {last}");
    last
}

#[test]
fn what_is_well_is_said_in_one_sentence() {
    let instance = instance(ROUTES, &Probe::default());
    let status = wait_for("the first look", &instance, "/admin/status", |status| status["degraded"] == json!([]));
    assert_eq!(status["summary"], json!({ "level": "ok", "sentence": "All is well, with no database configured." }));
    assert_eq!(status["data_age_ms"], json!(null), "there is nothing to be behind of");
    assert_eq!(status["audit"], json!({ "checked": 0, "wrong": 0, "unacknowledged": {} }));
    let since = status["mode_since"].as_str().unwrap();
    assert!(since.ends_with('Z') && since.len() == "2026-11-21T07:05:00.000Z".len(), "{since}");
}

#[test]
fn traffic_is_told_as_it_was() {
    let instance = instance(ROUTES, &Probe::default());
    // What came before the first sample is nobody's.
    wait_for("a sample", &instance, "/admin/status", |status| status["traffic"]["window_s"] != 0.0);
    let mut connection = instance.connect();
    for _ in 0..40 {
        assert_eq!(connection.request("GET", "/public/echo", &[]).status, 200);
    }
    let traffic = look(&instance, "/admin/status")["traffic"].clone();
    let seconds = traffic["window_s"].as_f64().unwrap();
    let asked = traffic["requests_per_s"].as_f64().unwrap() * seconds;
    assert!((asked - 40.0).abs() < 1.0, "{traffic}");
    let ratio = &traffic["hit_ratio"];
    assert_eq!((&ratio["total"], &ratio["l1"], &ratio["l2"]), (&json!(0.975), &json!(0.975), &json!(null)));
    assert!(traffic["latency_ms"]["p50"].as_f64() <= traffic["latency_ms"]["p99"].as_f64(), "{traffic}");
    for name in ["errors_per_s", "stale_per_s", "shed_per_s"] {
        assert_eq!(traffic[name], 0.0, "{name}");
    }
}

#[test]
fn a_replica_that_goes_is_named_with_since_when_and_what_to_do() {
    let cluster = Cluster::private("console");
    let name = cluster.database();
    let plan = Plan::probed(ROUTES, &Probe::default()).database(&cluster, &name).set("ADMIN_TOKEN", TOKEN);
    let instance = plan.start();
    instance.wait_healthy();
    wait_for("the age", &instance, "/admin/status", |status| {
        status["data_age_ms"].is_u64() && status["degraded"] == json!([])
    });
    cluster.replica.server.kill9();
    let has = |code: &'static str| {
        move |status: &Value| status["degraded"].as_array().unwrap().iter().any(|one| one["reason"] == code)
    };
    wait_for("the step", &instance, "/admin/status", has("reads_on_primary"));
    wait_for("what DNS makes of it", &instance, "/admin/status", has("out_of_rotation"));
    let status = wait_for("the replica's death", &instance, "/admin/status", has("replica_down"));
    let degraded = status["degraded"].as_array().unwrap();
    assert_eq!(degraded[0]["reason"], "out_of_rotation", "the worst comes first: {status}");
    let sentence = status["summary"]["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("/health/edge is a 503 (") && sentence.contains("replica_down"), "{sentence}");
    assert_eq!(instance.get("/health/edge").status, 503);
    assert_eq!(instance.metric("mainstay_degraded_reason{reason=\"out_of_rotation\"}"), 1.0);
    assert_eq!(degraded[1]["reason"], "reads_on_primary", "{status}");
    let replica = degraded.iter().find(|one| one["reason"] == "replica_down").unwrap();
    assert_eq!((&replica["detail"], &replica["level"]), (&json!("replica-1 does not answer."), &json!("warning")));
    assert!(replica["advice"].as_str().unwrap().ends_with('.') && replica["for_s"].is_u64(), "{replica}");
    assert_eq!(status["summary"]["level"], "critical");
    let again = look(&instance, "/admin/status");
    let since = |status: &Value| {
        status["degraded"].as_array().unwrap().iter().find(|one| one["reason"] == "replica_down").unwrap()["since"]
            .clone()
    };
    assert_eq!(since(&again), since(&status), "since when does not move");
    cluster.replica.server.start().unwrap();
    wait_for("the end of it", &instance, "/admin/status", |status| status["degraded"] == json!([]));
    let events = look(&instance, "/admin/journal")["events"].clone();
    let kinds: Vec<&str> = events.as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in ["start", "degraded", "recovered", "health"] {
        assert!(kinds.contains(&kind), "{kind}: {events}");
    }
    assert_eq!(kinds.last(), Some(&"start"), "the newest comes first: {events}");
}

/// As after a deploy that has lost its DATABASE_URL on the way.
#[test]
fn routes_that_read_a_database_where_there_is_none_are_said() {
    const ASKING: [&str; 3] = [
        "path = \"/one\"\nsql = \"SELECT 1 AS one\"",
        "path = \"/keyed\"\nhandler = \"probe\"\nauth = \"key\"",
        "path = \"/rates\"\nhandler = \"ramp.rates.latest\"",
    ];
    let asking = ASKING.map(|route| format!("\n[[route]]\n{route}\n")).concat();
    let plan = Plan::probed(&format!("{ROUTES}{asking}"), &Probe::default()).set("ADMIN_TOKEN", TOKEN);
    let instance = plan.parts(|parts| ramp::register(&mut parts.registry)).start();
    let status = wait_for("the finding", &instance, "/admin/status", |status| status["degraded"][0].is_object());
    let found = &status["degraded"][0];
    assert_eq!((&found["reason"], &found["level"]), (&json!("database_missing"), &json!("critical")));
    assert_eq!(found["detail"], "No database is configured, and 3 routes need one: such requests are a 503.");
    let keyed = instance.get_with("/keyed", &[("Authorization", "Bearer a-key")]).status;
    assert_eq!((instance.get("/one").status, keyed, instance.get("/rates").status), (503, 503, 503));
    assert_eq!(instance.get("/health/edge").status, 200, "what is not configured cannot be down");
    instance.reload(ROUTES).unwrap();
    assert_eq!(look(&instance, "/admin/status")["degraded"], json!([]));

    // Who stands in serves what others have read, and misses no database.
    let stands_in = Plan::probed(&format!("{ROUTES}{asking}"), &Probe::default()).set("ADMIN_TOKEN", TOKEN);
    let stands_in = stands_in.set("MODE", "failover").parts(|parts| ramp::register(&mut parts.registry)).start();
    let status = wait_for("a finding", &stands_in, "/admin/status", |status| status["degraded"][0].is_object());
    let found = status["degraded"].as_array().unwrap();
    assert!(found.iter().all(|one| one["reason"] != "database_missing"), "{status}");
}

/// What is found is what the manifest in force makes of it, so that a test can let it come and go.
#[test]
fn what_comes_and_goes_is_said_in_the_sentence_and_stays_said_while_it_is_well() {
    let asking = format!("{ROUTES}\n[[route]]\npath = \"/one\"\nsql = \"SELECT 1 AS one\"\n");
    let instance = instance(ROUTES, &Probe::default());
    wait_for("the first look", &instance, "/admin/status", |status| status["degraded"] == json!([]));
    let looks: Vec<Value> = [asking.as_str(), ROUTES]
        .into_iter()
        .cycle()
        .take(6)
        .map(|routes| {
            instance.reload(routes).unwrap();
            look(&instance, "/admin/status")
        })
        .collect();
    assert!(looks[..4].iter().all(|status| status["degraded"][0]["flapping"].is_null()), "{looks:#?}");
    assert_eq!(looks[3]["degraded"], json!([]), "what has come twice is over at once");
    let detail = "No database is configured, and 1 route needs one: such requests are a 503.";
    for (status, is_well) in [(&looks[4], false), (&looks[5], true)] {
        let one = &status["degraded"][0];
        assert_eq!((&one["detail"], &one["flapping"]["times"]), (&json!(detail), &json!(3)));
        assert_eq!(one["flapping"]["well_s"].is_u64(), is_well, "{one}");
        let sentence = format!("Comes and goes, 3 times within 5 minutes: {detail}");
        assert_eq!(status["summary"], json!({ "level": "critical", "sentence": sentence }));
    }
    let journal = look(&instance, "/admin/journal");
    let is_its_begin = |event: &Value| event["result"] == "database_missing, flapping: 3 times in 5m";
    assert!(journal["events"].as_array().unwrap().iter().any(is_its_begin), "{journal}");
}

#[test]
fn requests_that_fail_are_said_though_every_node_is_up() {
    let probe = Probe::default();
    let instance = instance(ROUTES, &probe);
    wait_for("a sample", &instance, "/admin/status", |status| status["traffic"]["window_s"] != 0.0);
    probe.answer(|_, _| Err(Error::new(Code::Internal, "it cannot")));
    let mut connection = instance.connect();
    for _ in 0..20 {
        assert_eq!(connection.request("GET", "/public/echo", &[]).status, 500);
    }
    let status = wait_for("the errors", &instance, "/admin/status", |status| status["summary"]["level"] == "critical");
    let sentence = "20 of the last minute's 20 answers were errors, with 500 or above.";
    assert_eq!(
        (&status["degraded"][0]["reason"], &status["summary"]["sentence"]),
        (&json!("errors"), &json!(sentence))
    );
    assert_eq!(status["health"]["status"], "healthy", "another region would fail alike");
    for sample in ["degraded", "degraded_reason{reason=\"errors\"}"] {
        assert_eq!(instance.metric(&format!("mainstay_{sample}")), 1.0, "{sample}");
    }
}

#[test]
fn the_journal_says_who_purged_what() {
    let instance = instance(ROUTES, &Probe::default());
    let purged = order(&instance, "/admin/cache/purge", "{\"tags\":[\"echo\"],\"mode\":\"hard\"}");
    order(&instance, "/admin/cache/flush", "");
    assert_eq!(ask(&instance, "POST", "/admin/cache/purge", "{}").status, 400);
    let events = look(&instance, "/admin/journal")["events"].clone();
    let told: Vec<(&str, &str, &str)> = events.as_array().unwrap()[..3]
        .iter()
        .map(|event| {
            (event["kind"].as_str().unwrap(), event["what"].as_str().unwrap(), event["result"].as_str().unwrap())
        })
        .collect();
    assert_eq!(told, [("purge", "", "body_invalid"), ("flush", "*", "soft done"), ("purge", "tags echo", "hard done")]);
    assert_eq!(events[2]["id"], purged["id"]);
    assert!(events[2]["by"].as_str().unwrap().starts_with("token ") && !events.to_string().contains(TOKEN), "{events}");
    instance.reload(ROUTES).unwrap();
    assert_eq!(look(&instance, "/admin/journal")["events"][0]["kind"], "reload");
}
