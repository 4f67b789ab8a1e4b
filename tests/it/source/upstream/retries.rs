//! Who is asked, how often, and for how long.

use std::net::TcpListener;
use std::time::Instant;

use mainstay::local::{Proxy, ProxyMode, wait_until};

use super::server::{Service, answer, hang_up, hang_up_and_wait, say_nothing};
use super::{CACHED, CATCH_ALL, plan};
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An instance whose upstream has the endpoints of these URLs.
fn instance(urls: &[&str], more: &str, routes: &str) -> Instance {
    Plan::new(&format!("[upstream.old]\nendpoints = {urls:?}\n{more}\n{routes}"))
        .set("nodes.open_time", "60s")
        .set("nodes.open_time_max", "60s")
        .start()
}

#[test]
fn a_read_that_fails_is_repeated_elsewhere() {
    let hangs_up = Service::new(|_, stream| hang_up(stream));
    for (name, bad) in [("503", Service::status("503 X")), ("502", Service::status("502 X")), ("hung up", hangs_up)] {
        let good = Service::with(&[]);
        for routes in [CATCH_ALL, CACHED] {
            let instance = plan(&[&bad, &good], "", routes).start();
            assert_eq!(instance.get("/a").status, 200, "{name}");
        }
        assert!(bad.calls() >= 2, "{name}");
    }
}

#[test]
fn methods_that_change_something_are_sent_once() {
    let (bad, good) = (Service::status("503 X"), Service::with(&[]));
    let instance = plan(&[&bad, &good], "retry_budget = 1.0", CATCH_ALL).start();
    for method in ["POST", "PATCH"] {
        let before = (bad.calls(), good.calls());
        let reply = instance.connect().request_with_body(method, "/a", &[], b"x");
        let now = (bad.calls(), good.calls());
        assert_eq!(now.0 + now.1, before.0 + before.1 + 1, "{method}: {reply:?}");
    }
    let hangs_up = Service::new(|_, stream| hang_up(stream));
    let instance = plan(&[&hangs_up, &good], "retry_budget = 1.0", CATCH_ALL).start();
    for _ in 0..4 {
        let before = hangs_up.calls() + good.calls();
        instance.connect().request_with_body("POST", "/a", &[], b"x");
        assert_eq!(hangs_up.calls() + good.calls(), before + 1);
    }
    assert!(hangs_up.calls() >= 1);
}

/// Where no connection came about, nothing was sent: then a POST goes elsewhere, whatever its body.
#[test]
fn a_post_that_was_not_sent_at_all_goes_elsewhere() {
    let good = Service::with(&[]);
    let instance = instance(&[&nobody(), &good.url()], "retry_budget = 1.0", CATCH_ALL);
    let long = vec![b'x'; 200_000];
    for (number, body) in [&b"short"[..], &long].into_iter().enumerate() {
        let reply = instance.connect().request_with_body("POST", "/a", &[], body);
        assert_eq!((reply.status, good.calls()), (200, number + 1), "{reply:?}");
        assert_eq!(good.last().body.len(), body.len());
    }
}

#[test]
fn puts_and_deletes_are_repeated_where_their_body_is_at_hand() {
    let (bad, good) = (Service::new(|_, stream| hang_up(stream)), Service::with(&[]));
    for method in ["PUT", "DELETE"] {
        let instance = plan(&[&bad, &good], "retry_budget = 1.0", CATCH_ALL).start();
        assert_eq!(instance.connect().request_with_body(method, "/a", &[], b"small").status, 200, "{method}");
        assert_eq!(good.last().body, b"small");
    }
}

#[test]
fn retries_are_a_share_of_requests() {
    let (one, other) = (Service::status("503 X"), Service::status("503 X"));
    let instance =
        plan(&[&one, &other], "retry_budget = 0.1", CATCH_ALL).set("nodes.failures_to_open", "1000000").start();
    let began = Instant::now();
    let mut connection = instance.connect();
    for _ in 0..200 {
        assert_eq!(connection.request("GET", "/a", &[]).status, 503, "the upstream's own answer");
    }
    let retries = one.calls() + other.calls() - 200;
    // A tenth, and one a second.
    let most = 21 + usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    assert!((20..=most).contains(&retries), "{retries} of at most {most}");
    let metric = |outcome: &str| {
        instance.metric(&format!("mainstay_upstream_retries_total{{outcome=\"{outcome}\",upstream=\"old\"}}"))
    };
    assert_eq!(metric("sent") + metric("over_budget"), 200.0);
}

#[test]
fn without_a_budget_nothing_is_repeated() {
    let (bad, good) = (Service::status("503 X"), Service::with(&[]));
    let instance =
        plan(&[&bad, &good], "retry_budget = 0.0", CATCH_ALL).set("nodes.failures_to_open", "1000000").start();
    for _ in 0..5 {
        instance.get("/a");
    }
    assert_eq!(bad.calls() + good.calls(), 5);
}

/// A network that drops every packet: connections come about, and nothing ever comes back.
#[test]
fn a_black_holed_endpoint_costs_one_try_and_is_then_left_alone() {
    let (far, near) = (Service::with(&[]), Service::with(&[]));
    let hole = Proxy::start(far.address()).unwrap();
    let url = format!("http://{}", hole.address());
    let instance = instance(&[&url, &near.url()], "try_timeout = \"150ms\"\nretry_budget = 1.0", CATCH_ALL);
    for _ in 0..4 {
        assert_eq!(instance.get("/a").status, 200);
    }
    assert!(far.calls() >= 1, "both are measured");
    hole.set_mode(ProxyMode::BlackHole);
    for _ in 0..20 {
        assert_eq!(instance.get("/a").status, 200);
    }
    let timeouts = instance.metric("mainstay_upstream_tries_total{outcome=\"timeout\",upstream=\"old\"}");
    assert!(timeouts <= 4.0, "{timeouts} requests waited for the hole");
}

#[test]
fn all_tries_together_have_one_deadline() {
    let (one, other) = (Service::new(|_, stream| say_nothing(stream)), Service::new(|_, stream| say_nothing(stream)));
    for routes in [CATCH_ALL, CACHED] {
        let instance = plan(&[&one, &other], "try_timeout = \"5s\"\nretries = 5\nretry_budget = 1.0", routes)
            .set("limits.request_timeout", "300ms")
            .start();
        let reply = instance.get("/a");
        assert_eq!((reply.status, reply.problem()), (503, "source_timeout".to_owned()));
        assert!(reply.header("retry-after").is_some());
    }
}

#[test]
fn an_endpoint_that_fails_in_a_row_is_left_alone() {
    let (bad, good) = (Service::status("503 X"), Service::with(&[]));
    let instance = plan(&[&bad, &good], "retry_budget = 1.0", CATCH_ALL).start();
    for _ in 0..50 {
        assert_eq!(instance.get("/a").status, 200);
    }
    assert!(bad.calls() <= 3, "{}", bad.calls());
    let failed = instance.metric("mainstay_upstream_tries_total{outcome=\"status\",upstream=\"old\"}");
    assert_eq!(failed.to_string(), bad.calls().to_string());
}

/// Refusing would be the only other thing to do.
#[test]
fn when_all_are_let_alone_the_least_bad_is_asked_and_it_is_said() {
    let (one, other) = (Service::status("503 X"), Service::status("503 X"));
    let instance = plan(&[&one, &other], "retry_budget = 1.0", CATCH_ALL).start();
    for _ in 0..10 {
        assert_eq!(instance.get("/a").status, 503);
    }
    let is_out = || instance.metric("mainstay_upstream_out{upstream=\"old\"}");
    assert_eq!(is_out(), 1.0);
    for service in [&one, &other] {
        service.script(|_, stream| answer(stream, "200 OK", &[], b"back"));
    }
    assert_eq!(instance.get("/a").text(), "back", "while both breakers are open");
    assert_eq!(is_out(), 0.0);
}

/// A response of the application's own that says 500 is no reason to ask elsewhere, nor to leave its server alone.
#[test]
fn a_500_is_an_answer() {
    let service = Service::status("500 X");
    let instance = plan(&[&service], "retry_budget = 1.0", CATCH_ALL).start();
    for calls in 1..=10 {
        let reply = instance.get("/a");
        assert_eq!((reply.status, reply.text(), service.calls()), (500, "{\"own\":true}".to_owned(), calls));
    }
}

/// A connection that lay idle too long is found closed; the request on it is sent again, and nobody sees it.
#[test]
fn a_kept_connection_that_was_closed_costs_nothing() {
    let service = Service::new(|_, stream| {
        answer(stream, "200 OK", &[], b"ok");
        hang_up_and_wait(stream);
    });
    let instance = plan(&[&service], "retry_budget = 1.0", CATCH_ALL).start();
    for _ in 0..20 {
        assert_eq!(instance.get("/a").text(), "ok");
        assert!(wait_until(PATIENCE, || service.open() == 0), "the connection stays");
    }
}
