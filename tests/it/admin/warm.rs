//! Warming: what is asked for before clients do.

use std::time::Duration;

use mainstay::error::Code;
use mainstay::{Answer, Error};
use serde_json::json;

use super::{TOKEN, ask, instance, order};
use crate::instance::client::{Connection, head};
use crate::instance::probe::Probe;

const ROUTES: &str = r#"
[[route]]
path = "/public/echo"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", optional = true }]

[[route]]
path = "/account/it"
handler = "probe"
"#;

fn warm(instance: &crate::instance::Instance, paths: &[&str]) -> serde_json::Value {
    order(instance, "/admin/cache/warm", &json!({ "paths": paths }).to_string())["results"].clone()
}

#[test]
fn what_is_warmed_is_a_hit_and_what_is_warm_is_left_alone() {
    let probe = Probe::default();
    let instance = instance(ROUTES, &probe);
    instance.get("/public/echo?q=1");
    let results = warm(&instance, &["/public/echo?q=1", "/public/echo?q=2", "/public/echo?q=%32"]);
    assert_eq!(results[0], json!({ "path": "/public/echo?q=1", "status": 200, "cache": "hit" }));
    assert_eq!(results[1], json!({ "path": "/public/echo?q=2", "status": 200, "cache": "stored" }));
    assert_eq!(results[2]["status"], 200, "two spellings are one fill: {results}");
    assert_eq!(probe.calls(), 2);
    assert!(instance.get("/public/echo?q=2").is_hit());
    order(&instance, "/admin/cache/flush", "");
    assert_eq!(warm(&instance, &["/public/echo?q=1"])[0]["cache"], "stored", "what was purged is not warm");
    assert!(instance.get("/public/echo?q=1").is_hit());
}

#[test]
fn what_cannot_be_warmed_says_why_and_stops_nothing() {
    let probe = Probe::answering(|call, _| match call.params.text("q") {
        Some("down") => Err(Error::new(Code::DatabaseUnavailable, "as told")),
        Some("gone") => Err(Error::new(Code::NotFound, "there is none")),
        Some("teapot") => Ok(Answer { status: 418, ..Answer::json_bytes("{}") }),
        _ => Ok(Answer::json_bytes("{}")),
    });
    let instance = instance(ROUTES, &probe);
    let paths = ["down", "gone", "teapot", "fine"].map(|q| format!("/public/echo?q={q}"));
    let paths: Vec<&str> =
        paths.iter().map(String::as_str).chain(["/account/it", "/nowhere", "/public/echo?x=1", "nonsense"]).collect();
    let results = warm(&instance, &paths);
    let short = |result: &serde_json::Value| {
        let code = result["code"].as_str().unwrap_or_default().to_owned();
        (result["status"].as_u64().unwrap(), result["cache"].as_str().unwrap().to_owned(), code)
    };
    let expected = [
        (503, "none", "database_unavailable"),
        (404, "stored", ""),
        (418, "none", ""),
        (200, "stored", ""),
        (404, "none", "route_not_found"),
        (404, "none", "route_not_found"),
        (400, "none", "param_unknown"),
        (404, "none", "route_not_found"),
    ];
    let expected = expected.map(|(status, cache, code)| (status, cache.to_owned(), code.to_owned()));
    assert_eq!(results.as_array().unwrap().iter().map(short).collect::<Vec<_>>(), expected);
}

/// More paths than are asked for at once, so that some of them begin only when nobody listens any more.
#[test]
fn an_order_outlives_its_client() {
    let probe = Probe::default();
    probe.close();
    let instance = instance(ROUTES, &probe);
    let paths: Vec<String> = (0..20).map(|q| format!("/public/echo?q={q}")).collect();
    let body = json!({ "paths": paths }).to_string();
    let mut connection = Connection::open(instance.admin);
    connection.send(head(
        "POST",
        "/admin/cache/warm",
        &[("Authorization", &format!("Bearer {TOKEN}")), ("Content-Length", &body.len().to_string())],
    ));
    connection.send(body);
    probe.wait_calls(8);
    // Reset, not closed: then the server gives up at once what it does for the connection.
    socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(connection);
    // It has noticed once it has answered another one.
    order(&instance, "/admin/cache/purge", "{\"tags\":[\"other\"]}");
    assert_eq!(probe.calls(), 8, "no more than that at once");
    probe.open();
    probe.wait_finished(20);
    instance.wait_for("the last one", "/public/echo?q=19", crate::instance::client::Reply::is_hit);
}

#[test]
fn orders_have_limits() {
    let instance = instance(ROUTES, &Probe::default());
    let body = |count: usize| json!({ "paths": vec!["/public/echo"; count] }).to_string();
    for body in [body(0), body(101), "{}".to_owned(), "{\"paths\":[1]}".to_owned(), "{\"paths\":[],\"x\":1}".to_owned()]
    {
        let reply = ask(&instance, "POST", "/admin/cache/warm", &body);
        assert_eq!((reply.status, reply.problem()), (400, "body_invalid".to_owned()), "{body}");
    }
    assert_eq!(warm(&instance, &["/public/echo"; 100]).as_array().unwrap().len(), 100);
}
