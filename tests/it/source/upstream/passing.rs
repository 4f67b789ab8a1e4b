//! What goes through as it is, and what does not.

use mainstay::{Answer, Call};
use serde_json::json;

use super::server::{Service, answer, unchunked};
use super::{CATCH_ALL, plan};
use crate::instance::Plan;
use crate::instance::client::{Connection, head};

/// A service that answers what it was asked, method and target.
fn echo() -> Service {
    Service::new(|seen, stream| {
        answer(
            stream,
            "200 OK",
            &[("Content-Type", "text/plain")],
            format!("{} {}", seen.method, seen.target).as_bytes(),
        );
    })
}

#[test]
fn a_catch_all_stands_behind_everything_and_specific_routes_win() {
    let service = echo();
    let routes = format!(
        "{CATCH_ALL}\n{}",
        r#"
[[route]]
path = "/users/{id}"
handler = "probe"
params = [{ name = "id", in = "path", type = "integer" }]

[[route]]
path = "/old/{*rest}"
methods = ["GET"]
upstream = "old"
params = [{ name = "q", in = "query", type = "integer", default = 1 }]
"#
    );
    let instance = plan(&[&service], "", &routes)
        .handler("probe", |call| async move { mainstay::Answer::json(&call.params.text("id")) })
        .start();
    let text = |method: &str, target: &str| instance.request(method, target, &[]).text();
    assert_eq!(text("GET", "/users/07"), "\"7\"");
    assert_eq!(text("GET", "/users/7/orders"), "GET /users/7/orders");
    assert_eq!(text("DELETE", "/users/7"), "DELETE /users/7", "methods move over one at a time");
    assert_eq!(text("GET", "/"), "GET /");
    assert_eq!(text("GET", "/a/b/"), "GET /a/b/");
    assert_eq!(text("GET", "/a?b=%2f&&C+d;e"), "GET /a?b=%2f&&C+d;e", "the query as it was sent");
    assert_eq!(text("GET", "/%7Euser/a%20b;v=1/%C3%BC"), "GET /~user/a%20b;v=1/%C3%BC");
    assert_eq!(text("GET", "/old/x?q=007"), "GET /old/x?q=7", "declared ones are strict");
    assert_eq!(instance.get("/old/x?z=1").problem(), "param_unknown");
    assert_eq!(text("OPTIONS", "/a"), "OPTIONS /a");
    let reply = instance.request("OPTIONS", "/users/7", &[]);
    assert_eq!((reply.status, reply.said("allow")), (204, "GET, HEAD, OPTIONS"), "it follows from the route's GET");
    let reply = instance.get("/a");
    assert_eq!(
        (reply.said("cache-status"), reply.said("cache-control")),
        ("mainstay; fwd=bypass; detail=upstream", "no-store")
    );
    assert!(reply.said("server-timing").starts_with("source;dur="));
}

#[test]
fn a_path_that_could_mean_two_things_goes_nowhere() {
    let service = echo();
    let instance = plan(&[&service], "", CATCH_ALL).start();
    for (target, status) in [
        ("/a/../b", 404),
        ("/a/..", 404),
        ("/./a", 404),
        ("/%2e%2e/b", 404),
        ("/a/%2E", 404),
        // Many servers leave empty segments out: to them it would be a path that may have a route of its own, with `auth`.
        ("//other.example/x", 404),
        ("///a", 404),
        ("/a//b", 404),
        ("/a//", 404),
        ("/a%2fb", 400),
        ("/a%00", 400),
        ("/a%zz", 400),
        ("/a%ff", 400),
    ] {
        assert_eq!(instance.get(target).status, status, "{target}");
    }
    assert_eq!(service.calls(), 0);
    assert_eq!(instance.get("/a\\..\\b").text(), "GET /a%5C..%5Cb");
}

/// Headers for CDNs alone count for more with them than `Cache-Control`; and what is asked for at the source is no answer for others.
#[test]
fn what_nobody_may_keep_says_so_to_cdns_as_well() {
    let service = Service::with(&[
        ("Cache-Control", "public, max-age=600"),
        ("CDN-Cache-Control", "max-age=600"),
        ("Surrogate-Control", "max-age=600"),
        ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
    ]);
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let plain = instance.get("/a");
    assert_eq!((plain.said("cache-control"), plain.said("cdn-cache-control")), ("public, max-age=600", "max-age=600"));
    let strong = instance.get_with("/a", &[("X-Consistency", "strong")]);
    assert_eq!(strong.said("cache-control"), "no-store");
    for header in ["cdn-cache-control", "surrogate-control", "expires"] {
        assert_eq!(strong.header(header), None, "{header}");
    }
}

/// A key is for this server alone, also where the route asks for none.
#[test]
fn api_keys_go_along_to_no_upstream() {
    let service = echo();
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let key = format!("Bearer mk_{}_{}", "a".repeat(12), "b".repeat(43));
    for (credential, goes) in [(key.as_str(), false), ("Bearer something.of.theirs", true), ("Basic YTpi", true)] {
        assert_eq!(instance.get_with("/a", &[("Authorization", credential)]).status, 200);
        assert_eq!(service.last().header("authorization").as_deref() == Some(credential), goes, "{credential}");
    }
}

/// Cookies know no ports: whoever is signed in on the admin listener sends his session here as well.
#[test]
fn sessions_of_the_console_go_along_to_nobody() {
    let service = echo();
    let routes = format!("{CATCH_ALL}\n[[route]]\npath = \"/own\"\nhandler = \"cookies\"\n");
    let cookies = |call: Call| async move {
        let caller = call.caller.as_ref().unwrap();
        let lines = caller.headers.iter().filter(|(name, _)| &**name == "cookie");
        Answer::json(&lines.map(|(_, line)| String::from_utf8_lossy(line)).collect::<Vec<_>>())
    };
    let instance = plan(&[&service], "", &routes).handler("cookies", cookies).set("ADMIN_TOKEN", "t").start();
    let mut admin = Connection::open(instance.admin);
    let signed_in = admin.request_with_body("POST", "/console/session", &[], br#"{"token":"t"}"#);
    let session = signed_in.said("set-cookie").split(';').next().unwrap();
    let beside_others = format!("a=1; {session};b=2");
    let sent = [beside_others.as_str(), session, "mainstay_ct=t"].map(|line| ("Cookie", line));
    assert_eq!(instance.get_with("/a", &sent).status, 200);
    assert_eq!(service.last().header("cookie").as_deref(), Some("a=1; b=2, mainstay_ct=t"));
    assert_eq!(instance.get_with("/own", &sent).json(), json!(["a=1; b=2", "mainstay_ct=t"]));
}

#[test]
fn the_path_of_an_endpoint_stands_before_the_routes() {
    let service = echo();
    let upstream = format!("[upstream.old]\nendpoints = [\"{}/v1/\"]\n", service.url());
    let instance = Plan::new(&format!("{upstream}{CATCH_ALL}")).start();
    assert_eq!(instance.get("/a").text(), "GET /v1/a");
    assert_eq!(instance.get("/").text(), "GET /v1/");
}

#[test]
fn headers_of_one_hop_stay_on_it() {
    let service = Service::new(|_, stream| {
        let headers = [
            ("Connection", "X-Theirs, keep-alive"),
            ("X-Theirs", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic"),
            ("Trailer", "X-Sum"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("Location", "/elsewhere"),
            ("Cache-Control", "private, max-age=5"),
        ];
        answer(stream, "302 Found", &headers, b"");
    });
    let instance = plan(&[&service], "", CATCH_ALL).set("ORIGIN_SECRET", "s3cret").start();
    let reply = instance.get_with(
        "/a",
        &[
            ("Connection", "X-Own, close"),
            ("X-Own", "1"),
            ("Keep-Alive", "1"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("Proxy-Authorization", "Basic x"),
            ("Proxy-Connection", "close"),
            ("X-Origin-Verify", "s3cret"),
            ("Cookie", "session=1"),
            ("Authorization", "Bearer x"),
            ("Accept-Encoding", "gzip"),
            ("X-Request-Id", "id-1"),
            ("X-Forwarded-For", "203.0.113.9"),
            ("X-Forwarded-Proto", "https"),
            ("Via", "1.1 cdn"),
        ],
    );
    assert_eq!((reply.status, reply.said("location")), (302, "/elsewhere"), "no redirect is followed");
    assert_eq!(reply.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
    assert_eq!(reply.said("cache-control"), "private, max-age=5");
    for name in ["x-theirs", "keep-alive", "proxy-authenticate", "trailer"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    let seen = service.last();
    for name in [
        "x-own",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "proxy-authorization",
        "proxy-connection",
        "x-origin-verify",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let said = |name: &str| seen.header(name).unwrap_or_default();
    assert_eq!((said("cookie"), said("authorization")), ("session=1".to_owned(), "Bearer x".to_owned()));
    assert_eq!((said("accept-encoding"), said("x-request-id")), ("gzip".to_owned(), "id-1".to_owned()));
    assert_eq!(
        (said("x-forwarded-for"), said("x-forwarded-proto")),
        ("203.0.113.9, 127.0.0.1".to_owned(), "https".to_owned())
    );
    assert_eq!(said("host"), service.address().to_string());
    assert!(said("via").starts_with("1.1 cdn, 1.1 mainstay-"), "{}", said("via"));
}

/// Anyone can say where he comes from; only the CDN is believed, by its secret.
#[test]
fn without_the_origin_secret_nobody_is_believed() {
    let service = echo();
    let instance = plan(&[&service], "forward_host = true", CATCH_ALL).start();
    let claims = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Prefix", "/admin"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
    ];
    instance.get_with("/a", &claims);
    let seen = service.last();
    let said = |name: &str| seen.header(name).unwrap_or_default();
    assert_eq!((said("x-forwarded-for"), said("x-forwarded-proto")), ("127.0.0.1".to_owned(), "http".to_owned()));
    assert_eq!((said("x-forwarded-prefix"), said("forwarded"), said("x-real-ip")), Default::default());
    assert_eq!((said("x-forwarded-host"), said("host")), ("origin.test".to_owned(), "origin.test".to_owned()));
}

#[test]
fn head_has_the_headers_and_no_body() {
    let service = Service::new(|seen, stream| {
        let body: &[u8] = if seen.method == "HEAD" { b"" } else { b"12345" };
        std::io::Write::write_all(
            stream,
            &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n", body].concat(),
        )
        .unwrap();
    });
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let mut connection = instance.connect();
    for _ in 0..2 {
        let reply = connection.request("HEAD", "/a", &[]);
        assert_eq!((reply.status, reply.said("content-length"), reply.said("etag")), (200, "5", "\"x\""));
        assert_eq!(connection.request("GET", "/a", &[]).text(), "12345", "the connection is still in step");
    }
}

#[test]
fn conditions_and_statuses_pass_through() {
    let service = Service::new(|seen, stream| match seen.header("if-none-match") {
        Some(_) => drop(std::io::Write::write_all(stream, b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n")),
        None if seen.target == "/teapot" => {
            answer(stream, "418 I'm a teapot", &[("Retry-After", "7")], b"short and stout")
        }
        None => drop(std::io::Write::write_all(stream, b"HTTP/1.1 204 No Content\r\n\r\n")),
    });
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let mut connection = instance.connect();
    let reply = connection.request("GET", "/a", &[("If-None-Match", "\"x\"")]);
    assert_eq!((reply.status, reply.said("etag")), (304, "\"x\""));
    let reply = connection.request("GET", "/teapot", &[]);
    assert_eq!((reply.status, reply.said("retry-after"), reply.text()), (418, "7", "short and stout".to_owned()));
    assert_eq!(connection.request("DELETE", "/a", &[]).status, 204);
}

#[test]
fn a_request_that_comes_round_again_is_stopped() {
    let service = echo();
    let instance = plan(&[&service], "", CATCH_ALL).start();
    // The upstream is the instance itself: what it passes on comes back to it.
    let own = format!("[upstream.old]\nendpoints = [\"http://{}/x\"]\n", instance.public);
    instance.reload(&format!("{own}{CATCH_ALL}")).unwrap();
    let reply = instance.get("/a");
    assert_eq!((reply.status, reply.problem()), (508, "loop_detected".to_owned()));
    instance.reload(&format!("{own}{}", super::CACHED)).unwrap();
    let reply = instance.get("/b");
    assert_eq!((reply.status, reply.problem()), (503, "upstream_unavailable".to_owned()));
    let via = "1.1 mainstay-1, 1.1 mainstay-2, 1.1 mainstay-3, 1.1 mainstay-4";
    assert_eq!(instance.get_with("/a", &[("Via", via)]).status, 508);
}

#[test]
fn trailers_are_dropped_and_chunks_pass() {
    let service = Service::new(|_, stream| {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n";
        std::io::Write::write_all(stream, bytes).unwrap();
    });
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let mut connection = instance.connect();
    connection.send(head("GET", "/a", &[("Connection", "close")]));
    let all = connection.rest();
    let at = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(!String::from_utf8_lossy(&all).to_lowercase().contains("x-sum"));
    assert_eq!(unchunked(&all[at..]), b"abcde");
}

/// Nothing of a database is configured in any of these tests; the health page says so and the routes answer.
#[test]
fn an_instance_of_upstream_routes_alone_is_healthy_and_ready() {
    let service = echo();
    let instance = plan(&[&service], "", CATCH_ALL).start();
    assert_eq!(instance.get("/health/ready").status, 200);
    assert_eq!(instance.get("/health/edge").status, 200);
    assert_eq!(instance.get("/a").status, 200);
    assert_eq!(instance.metric("mainstay_upstream_tries_total{outcome=\"ok\",upstream=\"old\"}"), 1.0);
}
