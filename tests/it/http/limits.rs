//! What a request may cost: lengths, counts, and time.

use std::time::{Duration, Instant};

use crate::instance::Plan;
use crate::instance::client::head;
use crate::instance::probe::Probe;

const ROUTES: &str = r#"
[[route]]
path = "/public/echo"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", optional = true }]

[[route]]
path = "/things"
methods = ["POST", "GET"]
handler = "probe"
"#;

/// Small limits, and a handler that answers how long the body was.
fn plan() -> (Plan, Probe) {
    let probe = Probe::answering(|call, _| mainstay::Answer::json(&call.body.len()));
    let plan = Plan::probed(ROUTES, &probe)
        .set("limits.uri_bytes_max", "200")
        .set("limits.headers_max", "20")
        .set("limits.header_bytes_max", "2000")
        .set("limits.body_bytes_max", "10000")
        .set("limits.body_timeout", "300ms");
    (plan, probe)
}

#[test]
fn the_target_has_a_bound() {
    let instance = plan().0.start();
    let target = |length: usize| format!("/public/echo?q={:x<1$}", "", length - "/public/echo?q=".len());
    assert_eq!(instance.get(&target(200)).status, 200);
    for length in [201, 5_000] {
        let reply = instance.get(&target(length));
        assert_eq!((reply.status, reply.problem()), (414, "uri_too_long".to_owned()));
    }
}

#[test]
fn header_lines_have_a_count_and_a_length() {
    let instance = plan().0.start();
    let lines = |count: usize| vec![("X-Filler", "1"); count - 1];
    assert_eq!(instance.get_with("/public/echo", &lines(20)).status, 200, "with Host they are twenty");
    let long = "x".repeat(2_000);
    for headers in [lines(21), lines(60), vec![("X-Long", long.as_str())]] {
        let reply = instance.get_with("/public/echo", &headers);
        assert_eq!((reply.status, reply.problem()), (431, "headers_too_large".to_owned()));
    }
    // Beyond what the parser takes there is no request to answer for; what matters is that it ends, with the right status.
    let huge = "x".repeat(300_000);
    for headers in [lines(200), vec![("X-Long", huge.as_str())]] {
        let mut connection = instance.connect();
        let _the_server_may_close_while_this_is_sent =
            std::io::Write::write_all(&mut connection.stream, head("GET", "/public/echo", &headers).as_bytes());
        let answer = String::from_utf8(connection.rest()).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[test]
fn bodies_have_a_bound_however_they_are_framed() {
    let (plan, probe) = plan();
    let instance = plan.start();
    let chunked = |length: usize| {
        let chunk = format!("{:x}\r\n{}\r\n", 100, "b".repeat(100));
        let last = format!("{:x}\r\n{}\r\n0\r\n\r\n", length % 100 + 1, "b".repeat(length % 100 + 1));
        head("POST", "/things", &[("Transfer-Encoding", "chunked")]) + &chunk.repeat(length / 100) + &last
    };
    let post = |length: usize| instance.connect().request_with_body("POST", "/things", &[], &vec![b'b'; length]);
    assert_eq!(post(10_000).text(), "10000");
    assert_eq!(post(0).text(), "0");
    let mut connection = instance.connect();
    connection.send(chunked(9_998));
    assert_eq!(connection.reply("POST").text(), "9999");
    let reply = post(10_001);
    assert_eq!((reply.status, reply.problem(), reply.said("connection")), (413, "body_too_large".to_owned(), "close"));
    let mut connection = instance.connect();
    connection.send(chunked(10_100));
    assert_eq!(connection.reply("POST").status, 413);
    assert_eq!(connection.rest(), b"", "the rest of the body is not taken for a request");
    assert_eq!(probe.calls(), 3);
}

/// Nothing has to be sent to learn that it is too much.
#[test]
fn an_announced_length_beyond_the_bound_is_refused_at_once() {
    let (plan, _) = plan();
    let instance = plan.set("limits.body_timeout", "60s").start();
    let mut connection = instance.connect();
    connection.send(head("POST", "/things", &[("Content-Length", "1000000000")]));
    assert_eq!(connection.reply("POST").status, 413);
    let mut connection = instance.connect();
    connection.send(head("POST", "/things", &[("Content-Length", "1000000000"), ("Expect", "100-continue")]));
    assert_eq!(connection.reply("POST").status, 413);
}

#[test]
fn a_body_that_does_not_come_is_a_408() {
    let instance = plan().0.start();
    let mut connection = instance.connect();
    let begin = Instant::now();
    connection.send(head("POST", "/things", &[("Content-Length", "10")]) + "half");
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.problem(), reply.said("connection")), (408, "body_incomplete".to_owned(), "close"));
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_body_that_breaks_off_reaches_no_handler() {
    let (plan, probe) = plan();
    let instance = plan.start();
    let mut connection = instance.connect();
    connection.send(head("POST", "/things", &[("Content-Length", "10")]) + "half");
    connection.end();
    let answer = String::from_utf8(connection.rest()).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(probe.calls(), 0);
}

#[test]
fn a_slow_header_is_dropped() {
    let instance = plan().0.set("server.header_timeout", "300ms").start();
    for bytes in ["", "G", "GET /public/echo HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut connection = instance.connect();
        connection.send(bytes);
        let answer = String::from_utf8(connection.rest()).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
}

/// A client must not escape the time limit by sending one whole request first.
#[test]
fn a_slow_header_is_dropped_after_a_whole_request_too() {
    let instance = plan().0.set("server.header_timeout", "300ms").set("server.keep_alive", "500ms").start();
    let mut connection = instance.connect();
    assert_eq!(connection.request("GET", "/public/echo", &[]).status, 200);
    connection.send("GET /public/echo HTTP/1.1\r\nX-Slow: ");
    let answer = String::from_utf8(connection.rest()).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let instance = plan().0.set("server.keep_alive", "300ms").set("server.header_timeout", "2s").start();
    let mut connection = instance.connect();
    assert_eq!(connection.request("GET", "/public/echo", &[]).status, 200, "a miss");
    assert_eq!(connection.request("GET", "/public/echo", &[]).status, 200, "a hit");
    assert_eq!(connection.rest(), b"");
}

/// A GET with a body is refused, and what its body holds is never taken for the next request.
#[test]
fn a_fat_get_smuggles_nothing() {
    let (plan, probe) = plan();
    let instance = plan.start();
    assert_eq!(instance.get("/public/echo").status, 200);
    let inner = "GET /public/echo?q=smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = inner.len().to_string();
    let by_length = [("Content-Length", length.as_str())];
    let chunk = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let chunked = [("Transfer-Encoding", "chunked")];
    for (headers, body) in [(&by_length, inner), (&chunked, &chunk)] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            for target in ["/public/echo", "/things", "/nowhere"] {
                let mut connection = instance.connect();
                connection.send(head(method, target, headers) + body);
                let reply = connection.reply(method);
                assert_eq!((reply.status, reply.said("connection")), (400, "close"), "{method} {target}");
                assert_eq!(connection.rest(), b"", "{method} {target}: something was smuggled");
            }
        }
    }
    assert_eq!(probe.calls(), 1);
    // An empty body is none.
    assert_eq!(instance.get_with("/public/echo", &[("Content-Length", "0")]).status, 200);
}

/// A request that was answered before its body was read: the body comes later, and must not be a request.
#[test]
fn a_body_that_nobody_reads_is_not_the_next_request() {
    let (plan, probe) = plan();
    let instance = plan.start();
    let inner = "GET /public/echo?q=smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = inner.len().to_string();
    for (method, target) in
        [("POST", "/nowhere"), ("PUT", "/things"), ("POST", "/public/echo"), ("POST", "/health/live")]
    {
        let mut connection = instance.connect();
        connection.send(head(method, target, &[("Content-Length", &length)]));
        let reply = connection.reply(method);
        assert_eq!((reply.status / 100, reply.said("connection")), (4, "close"), "{method} {target}");
        let _the_server_may_have_closed = std::io::Write::write_all(&mut connection.stream, inner.as_bytes());
        assert_eq!(connection.rest(), b"", "{method} {target}");
    }
    assert_eq!(probe.calls(), 0);
}

/// `curl --http2` asks for an upgrade with every first request; the request itself is as good as any.
#[test]
fn an_upgrade_that_is_not_taken_is_an_ordinary_request() {
    let instance = plan().0.start();
    let headers =
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
    assert_eq!(instance.get_with("/public/echo", &headers).status, 200, "a miss");
    assert_eq!(instance.get_with("/public/echo", &headers).status, 200, "a hit");
    assert_eq!(instance.get_with("/things", &headers).status, 200);
    // What would follow a WebSocket's opening has no end, and is not waited for.
    let opening = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let reply = instance.get_with("/things", &opening);
    assert_eq!((reply.status, reply.said("connection")), (200, "close"), "{reply:?}");
}

/// Who asks and never reads would hold a connection and its answer for ever.
#[test]
fn a_client_that_does_not_read_is_dropped() {
    const BYTES: usize = 40_000_000;
    let probe = Probe::answering(|_, _| Ok(mainstay::Answer::json_bytes(vec![b' '; BYTES])));
    let instance = Plan::probed(ROUTES, &probe)
        .set("limits.response_bytes_max", "50000000")
        .set("server.keep_alive", "300ms")
        .set("server.header_timeout", "300ms")
        .start();
    let mut connection = instance.connect();
    connection.send(head("GET", "/things", &[]));
    probe.wait_finished(1);
    // Time itself is tested: only not reading for long enough is what it is about.
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(connection.rest().len() < BYTES, "the answer was kept for a client that did not take it");
}
