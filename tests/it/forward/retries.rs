//! What is run once, what may be tried again, and where.

use std::net::TcpListener;

use mainstay::Answer;
use mainstay::local::{Proxy, ProxyMode, wait_until};

use super::{Probe, THING, code, counted, here, here_with_database, nobody, post, reply, service, there};
use crate::instance::client::head;
use crate::source::upstream::server::{Service, hang_up, hang_up_and_wait, say_nothing};
use crate::support::PATIENCE;

#[test]
fn what_could_not_be_sent_is_run_here_once() {
    let own = Probe::default();
    let here = here_with_database(&own, &nobody()).start();
    let long = vec![b'x'; 200_000];
    own.answer(|call, _| Answer::json(&call.body.len()));
    let mut calls = 0;
    for (method, body) in [("GET", &b""[..]), ("POST", b"short"), ("PUT", &long), ("DELETE", b"")] {
        for _ in 0..3 {
            let mut connection = here.connect();
            let reply = match method {
                "GET" => connection.request(method, THING, &[]),
                _ => connection.request_with_body(method, THING, &[], body),
            };
            calls += 1;
            assert_eq!((reply.status, reply.text(), own.calls()), (200, body.len().to_string(), calls), "{method}");
            assert_eq!([reply.said("x-region"), reply.said("x-route-primary")], ["test-1", "true"]);
            assert_eq!(reply.said("via"), "");
        }
    }
    // A body that streams, and on the same connection another request.
    let mut connection = here.connect();
    for _ in 0..2 {
        connection.send(head("POST", THING, &[("Transfer-Encoding", "chunked")]));
        for part in long.chunks(30_000) {
            connection.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
        }
        connection.send("0\r\n\r\n");
        assert_eq!(connection.reply("POST").text(), "200000");
    }
    assert_eq!((own.calls(), counted(&here, "run_here")), (14, 14.0));
    let tried = here.metric("mainstay_upstream_tries_total{outcome=\"connect\",upstream=\"primary-origin\"}");
    assert_eq!(tried, 3.0, "nobody is waited for who is known to be away");
}

#[test]
fn without_a_database_it_says_that_nothing_was_done() {
    let own = Probe::default();
    let here = here(&own, &nobody()).start();
    for method in ["GET", "POST"] {
        for _ in 0..5 {
            let reply = here.request(method, THING, &[]);
            assert_eq!((reply.status, reply.problem()), (503, "strong_unavailable".to_owned()));
            assert!(reply.json()["detail"].as_str().unwrap().contains("nothing was sent"), "{reply:?}");
        }
    }
    assert_eq!((own.calls(), counted(&here, "failed")), (0, 10.0));
}

/// Nobody is waited for longer than to connect takes, not even where packets are dropped.
#[test]
fn one_who_is_silent_from_the_start_is_not_waited_for() {
    let black_hole = Proxy::start(service().address()).unwrap();
    black_hole.set_mode(ProxyMode::BlackHole);
    let own = Probe::default();
    // The handshake of TLS is part of connecting, and before that nothing is sent.
    let here = here_with_database(&own, &format!("https://{}", black_hole.address()))
        .set("forward.connect_timeout", "100ms")
        .set("limits.request_timeout", "60s")
        .start();
    assert_eq!((post(&here, &[], b"{}").status, own.calls()), (200, 1));
}

/// It was sent, and then nothing was heard: it may have been done.
#[test]
fn what_may_have_had_an_effect_is_not_tried_again() {
    let hangs_up = Service::new(|_, stream| hang_up(stream));
    let own = Probe::default();
    let here = here_with_database(&own, &hangs_up.url()).set("nodes.failures_to_open", "100").start();
    let long = vec![b'x'; 200_000];
    for (calls, (method, body)) in
        [("POST", &b"{}"[..]), ("PUT", b"{}"), ("DELETE", b""), ("POST", &long)].into_iter().enumerate()
    {
        let reply = here.connect().request_with_body(method, THING, &[], body);
        assert_eq!((reply.status, reply.problem()), (503, "outcome_unknown".to_owned()), "{method}");
        assert_eq!((hangs_up.calls(), own.calls()), (calls + 1, 0), "{method}");
    }
    // Whether the handler knows a second request by its key, nobody knows here: the client asks again.
    let keyed = here.request("POST", THING, &[("Idempotency-Key", "k")]);
    assert_eq!((keyed.problem().as_str(), hangs_up.calls(), own.calls()), ("outcome_unknown", 5, 0));
    // Reads are asked for again: there, and then here.
    let reply = here.request("GET", THING, &[]);
    assert_eq!((reply.status, reply.said("x-region")), (200, "test-1"));
    assert_eq!((hangs_up.calls(), own.calls()), (7, 1));
}

/// The origin there ends in the middle of a write that has had its effect.
#[test]
fn a_write_whose_origin_dies_is_done_once() {
    let (own, other) = (Probe::default(), Probe::default());
    let there = there(&other).start();
    let link = Proxy::start(there.public).unwrap();
    let here = here_with_database(&own, &format!("http://{}", link.address())).start();
    other.close();
    let mut connection = here.connect();
    connection.send(head("POST", THING, &[("Content-Length", "2")]) + "{}");
    other.wait_calls(1);
    link.reset();
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.problem()), (503, "outcome_unknown".to_owned()));
    assert!(reply.json()["detail"].as_str().unwrap().contains("not known"));
    other.open();
    assert_eq!((other.calls(), own.calls()), (1, 0));
    assert_eq!(post(&here, &[], b"{}").said("x-region"), "there-1", "one broken connection says nothing of its origin");
}

#[test]
fn a_deadline_that_passes_is_told_and_nothing_is_run_here() {
    let silent = Service::new(|_, stream| say_nothing(stream));
    let own = Probe::default();
    let here = here_with_database(&own, &silent.url()).set("limits.request_timeout", "100ms").start();
    let cases = [
        ("GET", None, "source_timeout"),
        ("POST", None, "outcome_unknown"),
        ("POST", Some(("Idempotency-Key", "k")), "outcome_unknown"),
    ];
    let sent = cases.map(|(method, key, code)| {
        let mut connection = here.connect();
        connection.send(head(method, THING, key.as_slice()));
        (connection, method, code)
    });
    for (mut connection, method, code) in sent {
        let reply = connection.reply(method);
        assert_eq!((reply.status, reply.problem().as_str()), (503, code));
    }
    assert_eq!((silent.calls(), own.calls()), (3, 0));
}

/// Its word that the time is over says more than ours: it knows what it has given up.
#[test]
fn the_deadline_of_the_primarys_region_is_waited_for() {
    let (own, other) = (Probe::default(), Probe::default());
    let there = there(&other).set("limits.request_timeout", "300ms").start();
    let here = here_with_database(&own, &super::url(&there)).set("limits.request_timeout", "300ms").start();
    other.close();
    let reply = post(&here, &[], b"{}");
    assert_eq!((code(&reply).as_str(), reply.said("x-region")), ("source_timeout", "there-1"));
    other.open();
    assert_eq!((other.calls(), own.calls()), (1, 0));
}

#[test]
fn an_origin_that_is_back_is_used_again() {
    let (own, other) = (Probe::default(), Probe::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let here = here_with_database(&own, &format!("http://{address}"))
        .set("nodes.open_time", "50ms")
        .set("nodes.open_time_max", "50ms")
        .start();
    for _ in 0..5 {
        assert_eq!(post(&here, &[], b"{}").said("x-region"), "test-1");
    }
    let out = || here.metric("mainstay_upstream_out{upstream=\"primary-origin\"}");
    assert_eq!((own.calls(), out()), (5, 1.0));
    let _there = there(&other).set("BIND_ADDR", &address).start();
    here.wait_for("the primary's region", THING, |reply| reply.said("x-region") == "there-1");
    assert_eq!((post(&here, &[], b"{}").said("x-region"), out()), ("there-1", 0.0));
}

/// A connection that lay idle and was closed there meanwhile costs nothing: nothing was sent on it.
#[test]
fn a_kept_connection_that_was_closed_is_no_failure() {
    let service = Service::new(|seen, stream| {
        reply(seen, stream, "200 OK");
        hang_up_and_wait(stream);
    });
    let own = Probe::default();
    let here = here(&own, &service.url()).start();
    for calls in 1..=10 {
        assert_eq!((here.get(THING).status, service.calls()), (200, calls));
        assert!(wait_until(PATIENCE, || service.open() == 0), "the connection stays");
    }
}
