//! What is forwarded, what goes along, and what comes back.

use mainstay::local::Proxy;
use mainstay::{Answer, Code, Error};
use serde_json::json;

use super::{ROUTES, THING, counted, here, here_with_database, post, service, there, url};
use crate::instance::Plan;
use crate::instance::client::{Connection, head};
use crate::instance::probe::Probe;
use crate::source::upstream::server::answer;

#[test]
fn what_needs_the_primary_is_answered_in_its_region() {
    let (own, other) = (Probe::default(), Probe::default());
    let there = there(&other).start();
    let link = Proxy::start(there.public).unwrap();
    link.set_delay(std::time::Duration::from_millis(5));
    let here = here(&own, &format!("http://{}", link.address())).start();
    let strong = ("X-Consistency", "strong");
    for (calls, (method, target, headers)) in [
        ("GET", THING, vec![]),
        ("HEAD", THING, vec![]),
        ("DELETE", THING, vec![]),
        ("GET", "/public/things", vec![strong]),
        ("GET", "/eventual", vec![strong]),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = here.request(method, target, &[&headers[..], &[("X-Request-Id", "id-1")]].concat());
        assert_eq!((reply.status, own.calls(), other.calls()), (200, 0, calls + 1), "{method} {target}");
        let said = ["x-region", "x-route-primary", "x-request-id", "cache-status"].map(|name| reply.said(name));
        assert_eq!(said, ["there-1", "true", "id-1", "mainstay; fwd=bypass; detail=handler"], "{reply:?}");
        assert!(reply.said("cache-control").starts_with("no-store") && reply.said("via").starts_with("1.1 mainstay-"));
        let timings: Vec<&str> = reply.all("server-timing").collect();
        let [theirs, ours] = timings[..] else { panic!("{reply:?}") };
        assert!(theirs.starts_with("source;dur=") && ours.starts_with("forward;desc=\"test-1\";dur="), "{reply:?}");
    }
    let posted = post(&here, &[], b"{}");
    assert_eq!(posted.json(), json!({ "call": 6, "q": null }));
    assert_eq!((counted(&here, "answered"), counted(&there, "answered")), (6.0, 0.0));
    // All else is answered here.
    assert!(here.get("/public/things").header("via").is_none() && here.get("/public/things").is_hit());
    assert_eq!(here.get("/eventual").said("x-region"), "test-1");
    assert_eq!((own.calls(), other.calls()), (2, 6));
}

/// Who asks is told by what he has sent, and by nothing that we say of him.
#[test]
fn all_that_the_caller_sent_goes_along_and_no_secret_of_his() {
    let service = service();
    let here = here(&Probe::default(), &service.url()).set("ORIGIN_SECRET", "first, second").start();
    let headers = [
        ("X-Origin-Verify", "second"),
        ("Authorization", "Bearer theirs"),
        ("Cookie", "mainstay_ct=t"),
        ("Cookie", "mainstay_session_0a1b2c3d=s"),
        ("X-Consistency-Token", "t"),
        ("Idempotency-Key", "k"),
        ("CloudFront-Viewer-Address", "198.51.100.10:46532"),
        ("X-Forwarded-For", "198.51.100.10"),
        ("X-Request-Id", "id-1"),
        ("Via", "1.1 cdn"),
        ("Connection", "X-Own"),
        ("X-Own", "1"),
    ];
    let reply = here.connect().request_with_body("POST", "/account/things/%7Ea?q=%2f+b&n=02", &headers, b"body");
    assert_eq!((reply.status, reply.text()), (200, "POST /account/things/%7Ea?q=%2f+b&n=02".to_owned()));
    let seen = service.last();
    let said = |name: &str| seen.header(name).unwrap_or_default();
    for (name, value) in [&headers[1..3], &headers[4..7]].concat() {
        assert_eq!(said(&name.to_lowercase()), value, "{name}");
    }
    assert_eq!(seen.body, b"body");
    assert_eq!(said("x-origin-verify"), "first", "one that the origin there takes, whichever the caller knows");
    assert_eq!([said("x-forwarded-for"), said("x-forwarded-proto")], ["198.51.100.10, 127.0.0.1", "http"]);
    assert_eq!([said("x-request-id"), said("x-own")], ["id-1", ""]);
    assert!(said("via").starts_with("1.1 cdn, 1.1 mainstay-"), "{}", said("via"));
    // Without a secret of our own none is sent, and nobody's word on where he comes from.
    let here = super::here(&Probe::default(), &service.url()).start();
    post(&here, &headers, b"");
    let seen = service.last();
    let said = |name: &str| seen.header(name).unwrap_or_default();
    assert_eq!([said("x-origin-verify"), said("x-forwarded-for")], ["", "127.0.0.1"]);
}

/// What can be refused without the primary is refused without a crossing.
#[test]
fn what_is_wrong_is_refused_before_it_crosses() {
    let service = service();
    let routes = ROUTES.replacen("handler = \"probe\"", "handler = \"probe\"\nrate_limit = \"3/h\"", 1);
    let here = Plan::probed(&routes, &Probe::default())
        .set("PRIMARY_ORIGIN", &service.url())
        .set("ORIGIN_SECRET", "s")
        .set("limits.body_bytes_max", "1000")
        .start();
    let secret = [("X-Origin-Verify", "s")];
    assert_eq!(here.get(THING).problem(), "origin_forbidden");
    assert_eq!(here.request("PATCH", THING, &secret).problem(), "method_not_allowed");
    assert_eq!(here.get_with("/account/others", &secret).problem(), "route_not_found");
    assert_eq!(here.get_with(&format!("{THING}?n=10"), &secret).problem(), "param_invalid");
    let mut connection = here.connect();
    connection.send(head("POST", THING, &[secret[0], ("Content-Length", "1001")]));
    assert_eq!(connection.reply("POST").problem(), "body_too_large");
    assert_eq!(service.calls(), 0);
    for _ in 0..2 {
        assert_eq!(here.get_with(THING, &secret).status, 200);
    }
    assert_eq!(here.get_with(THING, &secret).problem(), "rate_limited");
    assert_eq!(service.calls(), 2);
}

/// An answer is an answer, and says nothing bad of who gives it: its origin is not let alone for its failures.
#[test]
fn problems_come_back_as_they_are() {
    let (own, other) = (Probe::default(), Probe::default());
    let (there, cases) = (there(&other).start(), [Code::BodyInvalid, Code::DatabaseUnavailable, Code::SourceTimeout]);
    let here = here_with_database(&own, &url(&there)).start();
    for case in cases {
        other.answer(move |_, _| Err(Error::new(case, "so it is")));
        for _ in 0..4 {
            let reply = post(&here, &[("X-Request-Id", "id-1")], b"{}");
            let expected = there.connect().request_with_body("POST", THING, &[("X-Request-Id", "id-1")], b"{}");
            assert_eq!((reply.status, reply.text()), (expected.status, expected.text()));
            let said = |name: &str| (reply.header(name), expected.header(name));
            for (ours, theirs) in ["x-region", "retry-after", "content-type", "x-request-id"].map(said) {
                assert_eq!(ours, theirs, "{reply:?}");
            }
        }
    }
    other.answer(|_, _| Answer::json(&1));
    assert_eq!((post(&here, &[], b"{}").said("x-region"), own.calls()), ("there-1", 0));
}

/// It is asked for the primary's word. Whoever gives another is not heard, be it an origin with other settings or a balancer.
#[test]
fn a_read_that_the_primary_has_not_answered_is_none() {
    let (own, other) = (Probe::default(), Probe::default());
    let there = there(&other).set("consistency.strong_header", "off").start();
    there.get("/public/things");
    let strong = [("X-Consistency", "strong")];
    assert!(there.get_with("/public/things", &strong).is_hit());
    let without = here(&own, &url(&there)).start();
    assert_eq!(without.get_with("/public/things", &strong).problem(), "strong_unavailable");
    let with = here_with_database(&own, &url(&there)).start();
    let reply = with.get_with("/public/things", &strong);
    assert_eq!((reply.status, reply.said("x-region"), own.calls()), (200, "test-1", 1));
    let balancer = super::Service::new(|_, stream| answer(stream, "503 X", &[], b"<html>no targets</html>"));
    let with = here_with_database(&own, &balancer.url()).start();
    assert_eq!((with.get(THING).said("x-region"), own.calls()), ("test-1", 2));
    // Of a write nobody knows more than it says.
    let reply = post(&with, &[], b"{}");
    assert_eq!((reply.status, reply.text(), own.calls()), (503, "<html>no targets</html>".to_owned(), 2));
}

/// What is taken for a route here is the same route, with the same parameters, there.
#[test]
fn a_target_means_the_same_on_both_sides() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let script = |call: &mainstay::Call, _: usize| {
        Answer::json(&json!([call.params.text("name"), call.params.text("q"), call.params.text("n")]))
    };
    let there = there(&Probe::answering(script)).start();
    let own = Probe::default();
    let here = here(&own, &url(&there)).start();
    let (mut direct, mut forwarded) = (there.connect(), here.connect());
    const PIECES: [&str; 26] = [
        "a", "~", "%7E", "%2e", ".", "..", "%2E%2e", "\\", "%5C", "+", "%20", ";", "=", "@", ":", "%C3%BC", "%25", "|",
        "^", "\"", "<", "`", "{", "'", "!", "$&",
    ];
    let mut piece = |count: usize| -> String { (0..count).map(|_| random.choice(PIECES).unwrap()).collect() };
    let mut answered = 0;
    for number in 0..300 {
        let query = piece(number % 4).replace('&', "%26").replace('=', "%3D");
        let target = format!("/account/things/{}?q={query}", piece(1 + number % 3));
        let expected = direct.request("GET", &target, &[]);
        let reply = forwarded.request("GET", &target, &[]);
        assert_eq!(reply.status, expected.status, "{target}");
        if reply.status == 200 {
            assert_eq!((reply.text(), reply.said("x-region")), (expected.text(), "there-1"), "{target}");
            answered += 1;
        }
        if reply.status == 400 {
            (direct, forwarded) = (there.connect(), here.connect());
        }
    }
    assert!(answered > 100 && own.calls() == 0, "{answered}");
}

#[test]
fn a_failover_origin_refuses_what_it_refuses_in_any_case() {
    let service = service();
    let here = here(&Probe::default(), &service.url()).set("MODE", "failover").start();
    assert_eq!(post(&here, &[], b"").problem(), "writes_unavailable");
    assert_eq!((here.get(THING).problem(), service.calls()), ("strong_unavailable".to_owned(), 0));
}

#[test]
fn the_primary_origin_is_a_node_among_others() {
    let (service, token) = (service(), [("Authorization", "Bearer t")]);
    let here = here(&Probe::default(), &service.url())
        .set("ADMIN_TOKEN", "t")
        .set("nodes.regions", "primary-origin=there-1")
        .start();
    here.get(THING);
    let ask = |target: &str| Connection::open(here.admin).request("GET", target, &token).json();
    let nodes = ask("/nodes");
    let endpoint = service.address().to_string();
    let said = ["id", "kind", "endpoint", "region", "status"].map(|key| nodes[0][key].clone());
    assert_eq!(json!(said), json!(["primary-origin", "upstream", endpoint, "there-1", "Online"]));
    let status = ask("/admin/status");
    let said = ["endpoint", "breaker", "answered", "failed"].map(|key| status["primary_origin"][key].clone());
    assert_eq!(json!(said), json!([endpoint, "closed", 1, 0]));
    // A reload forgets upstreams that are named no longer; this one no manifest names.
    here.reload(ROUTES).unwrap();
    here.get(THING);
    assert_eq!(ask("/admin/status")["primary_origin"]["answered"], 2);
    assert_eq!(here.metric("mainstay_upstream_tries_total{outcome=\"ok\",upstream=\"primary-origin\"}"), 2.0);
}

/// A balancer there says 502 and 504, of writes that it gets no answer to. What appears with its first count has no rate.
#[test]
fn what_a_gateway_there_fails_writes_with_is_counted_from_zero_on() {
    let service = service();
    let here = here(&Probe::default(), &service.url()).start().metrics();
    let is_there = |route: &str, status: &str| {
        here.contains(&format!("mainstay_http_requests_total{{route=\"{route}\",status=\"{status}\"}} 0\n"))
    };
    for status in ["500", "502", "503", "504"] {
        assert!(is_there("/account/things/{name}", status), "{status}: {here}");
    }
    assert!(is_there("/eventual", "503") && !is_there("/eventual", "502"), "it takes no writes");
}
