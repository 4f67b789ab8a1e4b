//! Cross-origin requests: added after the lookup, so that nothing kept depends on an origin.

use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/public/open"
handler = "probe"
middlewares = ["cors"]

[[route]]
path = "/public/closed"
handler = "probe"

[[route]]
path = "/open"
methods = ["POST"]
handler = "probe"
middlewares = ["cors"]
"#;

const LISTED: &str = "https://app.test";
const OTHER: &str = "https://evil.test";

fn start(origins: &str) -> (Instance, Probe) {
    let probe = Probe::default();
    (Plan::probed(ROUTES, &probe).set("cors.origins", origins).start(), probe)
}

fn allowed(reply: &crate::instance::client::Reply) -> Option<&str> {
    reply.header("access-control-allow-origin")
}

#[test]
fn a_listed_origin_may_read_and_another_may_not_from_one_entry() {
    let (instance, probe) = start("https://app.test,https://second.test");
    let orders = [
        Some(OTHER),
        Some(LISTED),
        None,
        Some("https://second.test"),
        Some("null"),
        Some("https://app.test.evil.test"),
    ];
    for origin in orders {
        let headers: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
        let reply = instance.get_with("/public/open", &headers);
        let expected = origin.filter(|origin| [LISTED, "https://second.test"].contains(origin));
        assert_eq!((reply.status, allowed(&reply)), (200, expected), "{origin:?}");
        let vary: Vec<_> = reply.all("vary").collect();
        assert_eq!(vary, ["Accept-Encoding", "Origin"], "{origin:?}: also where the origin is not allowed, or missing");
        assert_eq!(reply.header("access-control-expose-headers").is_some(), expected.is_some());
        assert_eq!(reply.header("access-control-allow-credentials"), None);
    }
    assert_eq!(probe.calls(), 1);
}

#[test]
fn a_star_answers_everyone_alike() {
    let (instance, _) = start("*");
    // Without `Vary: Origin` a cache on the way answers browsers with what it was given for a request without an origin.
    for headers in [&[("Origin", OTHER)][..], &[]] {
        let reply = instance.get_with("/public/open", headers);
        assert_eq!((allowed(&reply), reply.header("vary")), (Some("*"), Some("Accept-Encoding")), "{headers:?}");
        assert!(reply.header("access-control-expose-headers").is_some(), "{headers:?}");
    }
}

#[test]
fn without_the_middleware_or_without_origins_nothing_is_said() {
    let (instance, _) = start(LISTED);
    let reply = instance.get_with("/public/closed", &[("Origin", LISTED)]);
    assert_eq!((allowed(&reply), reply.header("vary")), (None, Some("Accept-Encoding")));
    let silent = Instance::probed(ROUTES, &Probe::default());
    let reply = silent.get_with("/public/open", &[("Origin", LISTED)]);
    assert_eq!((allowed(&reply), reply.header("vary")), (None, Some("Accept-Encoding")));
}

#[test]
fn a_preflight_is_answered_for_listed_origins() {
    let (instance, probe) = start(LISTED);
    let ask = |path: &str, origin: &str| {
        instance.request("OPTIONS", path, &[("Origin", origin), ("Access-Control-Request-Method", "GET")])
    };
    let reply = ask("/public/open", LISTED);
    assert_eq!((reply.status, allowed(&reply)), (204, Some(LISTED)));
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(reply.header("access-control-max-age"), Some("86400"));
    assert!(reply.said("access-control-allow-headers").contains("x-consistency"));
    assert_eq!(reply.header("vary"), Some("Origin"));
    for (path, origin) in [("/public/open", OTHER), ("/public/closed", LISTED)] {
        let reply = ask(path, origin);
        assert_eq!((reply.status, allowed(&reply)), (204, None), "{path} {origin}");
        assert_eq!(reply.header("access-control-allow-methods"), None);
    }
    assert_eq!(ask("/open", LISTED).header("access-control-allow-methods"), Some("POST, OPTIONS"));
    assert_eq!(probe.calls(), 0, "no preflight reaches a source");
}

/// A script that may not read an error cannot tell its user what went wrong.
#[test]
fn errors_can_be_read_too() {
    let (instance, probe) = start(LISTED);
    probe.answer(|_, _| panic!("as told"));
    for (target, status) in [("/public/open?x=1", 400), ("/public/open", 500)] {
        let reply = instance.get_with(target, &[("Origin", LISTED)]);
        assert_eq!((reply.status, allowed(&reply)), (status, Some(LISTED)), "{target}");
        assert!(reply.all("vary").any(|vary| vary == "Origin"));
    }
    let reply = instance.request("DELETE", "/open", &[("Origin", LISTED)]);
    assert_eq!((reply.status, allowed(&reply)), (405, Some(LISTED)));
}
