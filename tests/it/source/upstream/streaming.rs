//! Bodies in pieces, clients that go away, and limits.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::server::{Service, answer, say_nothing};
use super::{CACHED, CATCH_ALL, plan};
use crate::instance::client::head;
use crate::support::PATIENCE;

const MIB: usize = 1024 * 1024;

/// A service that writes without end, and counts what it got rid of.
fn endless() -> (Service, Arc<AtomicUsize>) {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let service = Service::new(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        while stream.write_all(&chunk).is_ok() {
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    });
    (service, written)
}

/// Waits until a number has stayed the same for a while.
fn settled(number: impl Fn() -> usize) -> usize {
    let (mut last, mut since) = (number(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(10));
        if number() != last {
            (last, since) = (number(), Instant::now());
        }
    }
    last
}

/// Hundreds of mebibytes could be read; as much is as fits into the buffers between.
#[test]
fn an_answer_is_read_no_faster_than_its_client_takes_it() {
    let (service, written) = endless();
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let mut connection = instance.connect();
    connection.send(head("GET", "/a", &[]));
    service.wait_calls(1);
    let before = settled(|| written.load(Ordering::SeqCst));
    assert!(before < 64 * MIB, "{before} bytes were read ahead");
    // It goes on as the client does.
    let mut buffer = vec![0; MIB];
    let mut read = 0;
    while read < before + 8 * MIB {
        read += std::io::Read::read(&mut connection.stream, &mut buffer).unwrap();
    }
    // And a client that goes away ends it.
    drop(connection);
    assert!(mainstay::local::wait_until(PATIENCE, || service.open() == 0), "the upstream still writes");
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let service = Service::new(|_, stream| say_nothing(stream));
    let instance = plan(&[&service], "try_timeout = \"60s\"", CATCH_ALL).set("limits.request_timeout", "60s").start();
    let mut connection = instance.connect();
    connection.send(head("POST", "/a", &[("Content-Length", "0")]));
    service.wait_calls(1);
    assert_eq!(service.open(), 1);
    drop(connection);
    assert!(mainstay::local::wait_until(PATIENCE / 2, || service.open() == 0), "the upstream still works for nobody");
}

/// A fill belongs to all who will ask: it goes on without the one who caused it.
#[test]
fn a_client_that_goes_away_leaves_a_fill_running() {
    let service = Service::new(|_, stream| {
        thread::sleep(Duration::from_millis(700));
        answer(stream, "200 OK", &[], b"filled");
    });
    let instance = plan(&[&service], "", CACHED).start();
    let mut connection = instance.connect();
    connection.send(head("GET", "/a", &[]));
    service.wait_calls(1);
    drop(connection);
    let reply = instance.wait_for("the fill's end", "/a", |reply| reply.status == 200);
    assert_eq!((reply.text(), service.calls()), ("filled".to_owned(), 1));
}

#[test]
fn a_long_body_passes_in_pieces_whatever_its_framing() {
    let service = Service::new(|seen, stream| answer(stream, "200 OK", &[], seen.body.len().to_string().as_bytes()));
    let instance = plan(&[&service], "", CATCH_ALL).set("limits.body_bytes_max", "8000000").start();
    let body = vec![b'x'; 5_000_000];
    let mut connection = instance.connect();
    assert_eq!(connection.request_with_body("POST", "/a", &[], &body).text(), "5000000");
    assert_eq!(service.last().header("content-length").as_deref(), Some("5000000"));
    connection.send(head("POST", "/a", &[("Transfer-Encoding", "chunked")]));
    for part in body.chunks(70_001) {
        connection.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
    }
    connection.send("0\r\n\r\n");
    assert_eq!(connection.reply("POST").text(), "5000000");
    assert_eq!(service.last().header("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(connection.request("GET", "/a", &[]).text(), "0", "the connection is still in step");
}

#[test]
fn a_body_beyond_the_limits_reaches_nobody_as_a_whole() {
    let service = Service::new(|seen, stream| answer(stream, "200 OK", &[], seen.body.len().to_string().as_bytes()));
    let instance = plan(&[&service], "", CATCH_ALL)
        .set("limits.body_bytes_max", "100000")
        .set("limits.body_timeout", "400ms")
        .start();
    let mut connection = instance.connect();
    connection.send(head("POST", "/a", &[("Content-Length", "100001")]));
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.problem(), reply.said("connection")), (413, "body_too_large".to_owned(), "close"));
    assert_eq!(service.calls(), 0);
    // One whose length nobody knows beforehand.
    let mut connection = instance.connect();
    connection.send(head("POST", "/a", &[("Transfer-Encoding", "chunked")]));
    let chunk = [b"ffff\r\n".as_slice(), &[b'x'; 0xffff], b"\r\n"].concat();
    for _ in 0..2 {
        let _it_may_be_refused_meanwhile = connection.stream.write_all(&chunk);
    }
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.said("connection")), (413, "close"), "{reply:?}");
    // One that does not come.
    let mut connection = instance.connect();
    connection.send(head("POST", "/a", &[("Content-Length", "90000")]) + "half");
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.problem(), reply.said("connection")), (408, "body_incomplete".to_owned(), "close"));
    // One that breaks off.
    let mut connection = instance.connect();
    connection.send(head("POST", "/a", &[("Content-Length", "90000")]) + "half");
    connection.end();
    connection.rest();
    assert!(service.seen().iter().all(|seen| seen.body.is_empty()), "a part was taken for the whole");
}

#[test]
fn an_answer_that_stands_still_is_cut_off_and_looks_cut_off() {
    let service = Service::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        say_nothing(stream);
    });
    let instance = plan(&[&service], "idle_timeout = \"200ms\"", CATCH_ALL).start();
    let mut connection = instance.connect();
    connection.send(head("GET", "/a", &[]));
    assert!(connection.try_reply("GET").is_none(), "half an answer was passed off as a whole one");
    let instance = plan(&[&service], "idle_timeout = \"200ms\"", CACHED).start();
    assert_eq!(instance.get("/a").problem(), "source_timeout");
}

/// A download may take longer than a request may: what counts is that it goes on.
#[test]
fn an_answer_that_goes_on_has_no_deadline() {
    let service = Service::new(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").unwrap();
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(100));
            let _gone = stream.write_all(b"x");
        }
    });
    let instance = plan(&[&service], "", CATCH_ALL)
        .set("limits.request_timeout", "300ms")
        .set("server.keep_alive", "200ms")
        .set("server.header_timeout", "200ms")
        .start();
    assert_eq!(instance.get("/a").text(), "xxxxxxxxxx");
}

#[test]
fn an_upstream_that_answers_before_the_body_is_there_is_heard() {
    let service =
        Service::new(|_, stream| answer(stream, "403 Forbidden", &[("Connection", "close")], b"no")).leave_bodies();
    let instance = plan(&[&service], "", CATCH_ALL).start();
    let mut connection = instance.connect();
    connection.send(head("POST", "/a", &[("Content-Length", "500000")]));
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.text(), reply.said("connection")), (403, "no".to_owned(), "close"));
}
