//! A manifest that changes under a running server.

use crate::instance::Instance;
use crate::instance::probe::Probe;

fn route(more: &str) -> String {
    format!("[[route]]\npath = \"/public/it\"\nhandler = \"probe\"\n{more}")
}

#[test]
fn a_manifest_with_an_error_changes_nothing() {
    let probe = Probe::default();
    let instance = Instance::probed(&route(""), &probe);
    instance.get("/public/it");
    for (broken, says) in [
        (route("nonsense = 1\n"), "nonsense"),
        ("[[route]\n".to_owned(), "routes.toml:1"),
        (route("") + &route(""), "declared twice"),
        (
            "[[route]]\npath = \"/x\"\nhandler = \"nobody\"\n".to_owned(),
            "routes.toml:1: route /x: no handler is called \"nobody\"",
        ),
    ] {
        let problems = instance.reload(&broken).unwrap_err();
        assert!(problems.contains(says), "{problems}");
        assert!(instance.get("/public/it").is_hit(), "the old one stays in force, with what it kept");
    }
    assert_eq!(probe.calls(), 1);
}

#[test]
fn an_equal_manifest_keeps_what_is_kept_and_routes_come_and_go() {
    let probe = Probe::default();
    let instance = Instance::probed(&route(""), &probe);
    instance.get("/public/it");
    let second = "[[route]]\npath = \"/public/second\"\nhandler = \"probe\"\n";
    assert_eq!(instance.reload(&("# a comment\n".to_owned() + second + &route(""))), Ok(2));
    assert!(instance.get("/public/it").is_hit());
    assert_eq!(instance.get("/public/second").status, 200);
    assert_eq!(instance.reload(second), Ok(1));
    assert_eq!(instance.get("/public/it").status, 404);
}

/// Whatever gives an answer its meaning makes another key, so that the old meaning is never served again; and when a
/// deploy is taken back, what was kept before it is good again.
#[test]
fn a_changed_route_never_serves_the_old_meaning() {
    let probe = Probe::default();
    let instance = Instance::probed(&route(""), &probe);
    let number = || instance.get("/public/it").json()["call"].as_u64().unwrap();
    assert_eq!((number(), number()), (1, 1));
    let changes = [
        "params = [{ name = \"q\", in = \"query\", type = \"text\", default = \"x\" }]\n",
        "params = [{ name = \"q\", in = \"query\", type = \"text\", default = \"y\" }]\n",
        "unknown_params = \"ignore\"\n",
        "[route.cache]\nttl = \"4m\"\n",
        "[route.cache]\nttl = \"4m\"\ntags = [\"t\"]\n",
    ];
    for (index, change) in changes.iter().enumerate() {
        instance.reload(&route(change)).unwrap();
        let made = u64::try_from(index).unwrap() + 2;
        assert_eq!((number(), number()), (made, made), "{change}");
    }
    instance.reload(&route("")).unwrap();
    assert_eq!(number(), 1);
}

/// What was under way for a route that is no more is counted when it ends, and that must not make its series anew: they would stay
/// until the next reload. A route that comes back is counted as ever.
#[test]
fn what_ends_after_its_route_is_gone_brings_no_series_back() {
    let probe = Probe::default();
    let second = "[[route]]\npath = \"/public/second\"\nhandler = \"probe\"\n";
    let instance = Instance::probed(&(route("") + second), &probe);
    let is_shown = || instance.metrics().contains("route=\"/public/it\"");
    assert!(is_shown());
    probe.close();
    let mut waiting = instance.connect();
    waiting.send(crate::instance::client::head("GET", "/public/it", &[]));
    probe.wait_calls(1);
    (0..2).for_each(|_| instance.reload(second).map(drop).unwrap());
    assert!(!is_shown());
    probe.open();
    assert_eq!(waiting.reply("GET").status, 200);
    assert_eq!(instance.get("/public/second").status, 200, "it is counted after what came before it");
    assert!(!is_shown(), "{}", instance.metrics());
    instance.reload(&(route("") + second)).unwrap();
    assert_eq!(instance.get("/public/it").status, 200);
    assert_eq!(instance.metric("mainstay_http_requests_total{route=\"/public/it\",status=\"200\"}"), 1.0);
}

/// A fill that runs while its route changes answers those who asked for the old one and nobody else.
#[test]
fn a_fill_that_spans_a_reload_stays_with_the_old_route() {
    let probe = Probe::default();
    let instance = Instance::probed(&route(""), &probe);
    probe.close();
    let mut old = instance.connect();
    old.send(crate::instance::client::head("GET", "/public/it", &[]));
    probe.wait_calls(1);
    instance.reload(&route("[route.cache]\nttl = \"1h\"\n")).unwrap();
    let mut new = instance.connect();
    new.send(crate::instance::client::head("GET", "/public/it", &[]));
    probe.wait_calls(2);
    probe.open();
    let (old, new) = (old.reply("GET"), new.reply("GET"));
    assert_eq!((old.json()["call"].as_u64(), new.json()["call"].as_u64()), (Some(1), Some(2)));
    assert!(old.said("cache-control").contains("max-age=300") && new.said("cache-control").contains("max-age=3600"));
    assert_eq!(instance.get("/public/it").json()["call"], 2);
}
