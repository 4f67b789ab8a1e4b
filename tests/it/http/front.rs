//! What the front makes of requests: routing, methods, the headers of every response, the origin secret, and all that
//! must not change an answer.

use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/public/echo"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", optional = true }]

[[route]]
path = "/public/docs/{slug}"
handler = "probe"
params = [{ name = "slug", in = "path", type = "text" }]

[[route]]
path = "/account/me"
handler = "probe"
consistency = "eventual"

[[route]]
path = "/things"
methods = ["GET"]
handler = "probe"

[[route]]
path = "/things"
methods = ["POST", "DELETE"]
handler = "probe"
"#;

#[test]
fn an_unknown_path_lists_the_public_routes() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    let reply = instance.get("/nowhere");
    assert_eq!((reply.status, reply.problem()), (404, "route_not_found".to_owned()));
    let public = ["GET /public/echo", "GET /public/docs/{slug}", "GET /things", "POST /things", "DELETE /things"];
    assert_eq!(reply.json()["routes"], serde_json::json!(public));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let silent = Plan::probed(ROUTES, &Probe::default()).set("server.list_routes_on_404", "false").start();
    assert_eq!(silent.get("/nowhere").json().get("routes"), None);
}

#[test]
fn other_methods_are_a_405_that_names_those_there_are() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    for (method, path, allow) in [
        ("DELETE", "/public/echo", "GET, HEAD, OPTIONS"),
        ("PUT", "/things", "GET, POST, DELETE, HEAD, OPTIONS"),
        ("get", "/public/echo", "GET, HEAD, OPTIONS"),
        ("BREW", "/public/docs/x", "GET, HEAD, OPTIONS"),
        ("TRACE", "/public/echo", "GET, HEAD, OPTIONS"),
    ] {
        let reply = instance.request(method, path, &[]);
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(reply.problem(), "method_not_allowed");
    }
    let reply = instance.request("OPTIONS", "/things", &[]);
    assert_eq!((reply.status, reply.header("allow")), (204, Some("GET, POST, DELETE, HEAD, OPTIONS")));
    assert_eq!(instance.request("POST", "/health/live", &[]).header("allow").unwrap_or("GET, HEAD"), "GET, HEAD");
    assert_eq!(instance.request("POST", "/health/live", &[]).status, 405);
}

#[test]
fn every_response_says_who_answered_and_for_which_request() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    let requests = [
        ("GET", "/public/echo"),
        ("GET", "/public/echo"),
        ("HEAD", "/public/echo"),
        ("GET", "/public/echo?x=1"),
        ("GET", "/nowhere"),
        ("PUT", "/things"),
        ("OPTIONS", "/things"),
        ("GET", "/health/live"),
        ("GET", "/health/edge"),
        ("GET", "/%zz"),
        ("GET", "/account/me"),
    ];
    for (method, target) in requests {
        let reply = instance.request(method, target, &[("X-Request-Id", "req-1:a/b+c=.")]);
        assert_eq!(reply.header("x-region"), Some("test-1"), "{method} {target}");
        assert_eq!(reply.header("x-request-id"), Some("req-1:a/b+c=."), "{method} {target}");
    }
    let long = "a".repeat(129);
    for bad in ["", "a b", "<script>", "a\"b", "\u{e9}", &long] {
        let reply = instance.get_with("/public/echo", &[("X-Request-Id", bad)]);
        let id = reply.header("x-request-id").unwrap();
        assert!(
            id.len() > 15 && id != bad && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{bad:?} came back as {id}"
        );
    }
}

/// Poisoning: nothing that is not in the key may change what is kept for everyone.
#[test]
fn headers_outside_the_key_change_nothing() {
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    let headers = [
        ("Authorization", "Bearer someone"),
        ("Cookie", "session=1; mainstay_ct=x"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Prefix", "/evil"),
        ("Forwarded", "host=evil.test;proto=http"),
        ("X-Host", "evil.test"),
        ("X-Original-URL", "/account/me"),
        ("X-Rewrite-URL", "/account/me"),
        ("X-HTTP-Method-Override", "POST"),
        ("X-HTTP-Method", "DELETE"),
        ("X-Method-Override", "PUT"),
        ("Range", "bytes=0-1"),
        ("Cache-Control", "no-cache"),
        ("Pragma", "no-cache"),
        ("If-Modified-Since", "Thu, 01 Jan 2099 00:00:00 GMT"),
        ("Accept", "text/html"),
        ("Accept-Language", "de"),
        ("Origin", "https://evil.test"),
        ("X-Consistency", "eventual"),
        ("X-Middleware-Subrequest", "x"),
    ];
    // Each sends its header on the request that fills, then a plain one is answered from what it left.
    for (index, (name, value)) in headers.iter().enumerate() {
        let target = format!("/public/echo?q={index}");
        let filling = instance.get_with(&target, &[(name, value)]);
        let plain = instance.get(&target);
        assert_eq!((filling.status, plain.status), (200, 200), "{name}");
        assert_eq!(filling.body, plain.body, "{name}");
        assert!(plain.is_hit(), "{name}: {plain:?}");
        assert!(instance.get_with(&target, &[(name, value)]).is_hit(), "{name} is a key of its own");
        for reply in [&filling, &plain] {
            assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "{name}");
            assert_eq!(reply.header("set-cookie"), None);
            let echoed = reply.headers.iter().any(|(_, other)| other.contains("evil"));
            assert!(!echoed && !reply.text().contains("evil"), "{name}: {reply:?}");
        }
    }
    assert_eq!(probe.calls(), headers.len());
}

/// Whether something is kept is declared for its route; how a path ends has no say in it.
#[test]
fn private_paths_are_not_kept_whatever_they_end_with() {
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    for _ in 0..2 {
        let reply = instance.get("/account/me");
        assert_eq!(reply.header("cache-control"), Some("no-store, private"));
        assert!(!reply.is_hit());
    }
    assert_eq!(probe.calls(), 2);
    let tricks = [
        "/account/me/x.css",
        "/account/me.css",
        "/account/me;x.css",
        "/account/me%3Bx.css",
        "/account/me%2Fx.css",
        "/account/me%00.css",
        "/account/me%0A.css",
        "/account/me/",
        "/account//me",
        "/public/../account/me",
        "/public/%2e%2e/account/me",
        "/public/docs/../../account/me",
        "/public/echo/..%2f..%2faccount/me",
    ];
    for target in tricks {
        let reply = instance.get(target);
        assert!(matches!(reply.status, 400 | 404), "{target}: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{target}");
    }
    // `?` ends the path, so this is a parameter that the route does not know.
    assert_eq!(instance.get("/account/me?x.css").problem(), "param_unknown");
    assert_eq!(probe.calls(), 2, "none of them reached the source");
}

/// A proxy in front may resolve `..`, so a route must not see it as a value.
#[test]
fn dot_segments_are_no_values() {
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    for target in ["/public/docs/..", "/public/docs/.", "/public/docs/%2E%2e", "/public/docs/%2e"] {
        let reply = instance.get(target);
        assert_eq!((reply.status, reply.problem()), (404, "route_not_found".to_owned()), "{target}");
    }
    assert_eq!(probe.calls(), 0);
    assert_eq!(instance.get("/public/docs/...").status, 200);
    assert_eq!(instance.get("/public/docs/.a").status, 200);
}

#[test]
fn the_origin_secret_is_asked_for_by_all_but_health() {
    let probe = Probe::default();
    let instance = Plan::probed(ROUTES, &probe).set("ORIGIN_SECRET", "new-secret, old-secret").start();
    for secret in ["new-secret", "old-secret"] {
        assert_eq!(instance.get_with("/public/echo", &[("X-Origin-Verify", secret)]).status, 200);
    }
    // Hits are no way around it either.
    for secret in ["", "new-secre", "new-secret2", "new-secret, old-secret", "NEW-SECRET"] {
        let reply = instance.get_with("/public/echo", &[("X-Origin-Verify", secret)]);
        assert_eq!((reply.status, reply.problem()), (403, "origin_forbidden".to_owned()), "{secret:?}");
        assert!(!reply.text().contains("old-secret"));
    }
    for (method, target) in [("GET", "/nowhere"), ("OPTIONS", "/things"), ("PUT", "/things"), ("GET", "/public/echo")] {
        assert_eq!(instance.request(method, target, &[]).status, 403, "{method} {target}");
    }
    for target in ["/health/live", "/health/ready", "/health/edge"] {
        assert_ne!(instance.get(target).status, 403, "{target}");
    }
}

#[test]
fn a_miss_says_where_the_time_went_and_a_hit_is_silent() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    let miss = instance.get("/public/echo");
    assert!(miss.said("server-timing").starts_with("source;dur="), "{miss:?}");
    assert_eq!(miss.cache(), "fwd=miss; stored; detail=handler");
    assert_eq!(miss.header("age"), None);
    assert_eq!(miss.header("cache-control"), Some("public, max-age=300, stale-while-revalidate=60"));
    let hit = instance.get("/public/echo");
    assert_eq!((hit.header("server-timing"), hit.header("age")), (None, Some("0")));
    assert!(matches!(hit.ttl(), 298..=300) && hit.cache().ends_with("; detail=L1"), "{hit:?}");
}
