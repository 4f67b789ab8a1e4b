//! Long bodies both ways, and clients that go away.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mainstay::Answer;

use super::{Probe, THING, here, there, url};
use crate::instance::client::head;
use crate::source::upstream::server::{Service, say_nothing};
use crate::support::PATIENCE;

const MIB: usize = 1024 * 1024;

#[test]
fn long_bodies_pass_both_ways() {
    let (own, other) = (Probe::default(), Probe::default());
    other.answer(|call, _| {
        let all_x = call.body.iter().all(|byte| *byte == b'x');
        Ok(Answer::json_bytes(format!("{} {all_x} {}", call.body.len(), "y".repeat(6 * MIB))))
    });
    let there = there(&other).set("limits.body_bytes_max", "8000000").start();
    let here = here(&own, &url(&there)).set("limits.body_bytes_max", "8000000").start();
    let body = vec![b'x'; 5 * MIB];
    let mut connection = here.connect();
    let reply = connection.request_with_body("POST", THING, &[], &body);
    assert!(reply.text().starts_with("5242880 true yyyy") && reply.body.len() > 6 * MIB);
    connection.send(head("PUT", THING, &[("Transfer-Encoding", "chunked")]));
    for part in body.chunks(70_001) {
        connection.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
    }
    connection.send("0\r\n\r\n");
    let reply = connection.reply("PUT");
    assert!(reply.text().starts_with("5242880 true yyyy") && reply.body.len() > 6 * MIB);
    assert_eq!(connection.request("GET", THING, &[]).status, 200, "the connection is still in step");
    assert_eq!((own.calls(), other.calls()), (0, 3));
}

/// What is held of a body does not depend on its length: the client is read no faster than the other side takes.
#[test]
fn a_body_is_read_no_faster_than_it_is_taken() {
    let service = Service::new(|_, stream| say_nothing(stream)).leave_bodies();
    let here = here(&Probe::default(), &service.url()).set("limits.body_bytes_max", "1000000000").start();
    let mut connection = here.connect();
    connection.send(head("POST", THING, &[("Content-Length", "900000000")]));
    connection.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (chunk, mut sent) = (vec![b'x'; MIB], 0);
    while connection.stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
        assert!(sent < 200 * MIB, "all of it is taken, and nobody takes it there");
    }
}

#[test]
fn an_answer_is_read_no_faster_than_its_client_takes_it() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let service = Service::new(move |_, stream| {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Region: there-1\r\nX-Route-Primary: true\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        while stream.write_all(&chunk).is_ok() {
            count.fetch_add(chunk.len(), Ordering::SeqCst);
        }
        let _gone = stream.shutdown(std::net::Shutdown::Both);
    });
    let here = here(&Probe::default(), &service.url()).start();
    let mut connection = here.connect();
    connection.send(head("GET", THING, &[]));
    service.wait_calls(1);
    let (mut before, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        thread::sleep(Duration::from_millis(10));
        let now = written.load(Ordering::SeqCst);
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    assert!(before < 64 * MIB, "{before} bytes were read ahead");
    let (mut buffer, mut read) = (vec![0; MIB], 0);
    while read < before + 4 * MIB {
        read += connection.stream.read(&mut buffer).unwrap();
    }
    drop(connection);
    assert!(mainstay::local::wait_until(PATIENCE, || service.open() == 0), "it still writes for nobody");
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    let (own, service) = (Probe::default(), Service::new(|_, stream| say_nothing(stream)));
    let here = super::here_with_database(&own, &service.url()).set("limits.request_timeout", "60s").start();
    let mut connection = here.connect();
    connection.send(head("POST", THING, &[("Content-Length", "0")]));
    service.wait_calls(1);
    assert_eq!(service.open(), 1);
    drop(connection);
    assert!(mainstay::local::wait_until(PATIENCE / 2, || service.open() == 0), "it is still waited for");
    assert_eq!((service.calls(), own.calls()), (1, 0));
}
