//! What is kept of an upstream's answers, and for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay::local::{Redis, RedisOptions, Scratch};
use parking_lot::{Condvar, Mutex};

use super::server::{Service, answer, hang_up};
use super::{CACHED, CATCH_ALL, plan};
use crate::instance::Plan;
use crate::support::PATIENCE;

/// A door that requests wait at.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    fn open(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut is_open = self.0.0.lock();
        while !*is_open {
            self.0.1.wait(&mut is_open);
        }
    }
}

#[test]
fn an_answer_is_kept_with_its_media_type() {
    let service =
        Service::with(&[("Content-Type", "text/html; charset=utf-8"), ("X-Other", "1"), ("Vary", "Accept-Encoding")]);
    let instance = plan(&[&service], "", CACHED).start();
    let miss = instance.get("/a?x=1");
    assert_eq!((miss.cache(), miss.text()), ("fwd=miss; stored; detail=upstream", "{\"call\":1}".to_owned()));
    let hit = instance.get("/a?x=1");
    assert!(hit.is_hit() && hit.header("etag").is_some(), "{hit:?}");
    assert_eq!((hit.said("content-type"), hit.text()), ("text/html; charset=utf-8", "{\"call\":1}".to_owned()));
    assert_eq!((miss.header("x-other"), hit.header("x-other")), (None, None), "the first answer is as the later ones");
    assert!(!instance.get("/a?x=2").is_hit(), "the query is in the key as it was sent");
    assert!(!instance.get("/a?x=%31").is_hit());
    assert!(instance.get("/%61?x=1").is_hit(), "the path in its canonical form");
    assert_eq!(service.calls(), 3);
}

/// Nothing outside the key may make a shared answer another one, so nothing else is even said.
#[test]
fn nothing_but_the_key_reaches_the_upstream_of_a_kept_answer() {
    let service = Service::with(&[]);
    let instance = plan(&[&service], "", CACHED).set("ORIGIN_SECRET", "s").start();
    let headers = [
        ("Cookie", "a=1"),
        ("Authorization", "Bearer x"),
        ("Accept", "text/x"),
        ("Accept-Language", "de"),
        ("Accept-Encoding", "br"),
        ("User-Agent", "x"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Original-URL", "/admin"),
        ("X-Request-Id", "mine"),
        ("Origin", "https://evil.example"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", "\"x\""),
        ("X-Origin-Verify", "s"),
    ];
    assert_eq!(instance.get_with("/a", &headers).status, 200);
    let mut names: Vec<String> = service.last().headers.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["accept", "accept-encoding", "host", "user-agent", "via"]);
    assert_eq!(
        (service.last().header("accept"), service.last().header("accept-encoding")),
        (Some("*/*".into()), Some("identity".into()))
    );
}

#[test]
fn what_is_for_one_caller_is_never_kept() {
    let cases: [&'static [(&str, &str)]; 8] = [
        &[("Cache-Control", "private")],
        &[("Cache-Control", "max-age=60, no-store")],
        &[("Cache-Control", "no-cache")],
        &[("Set-Cookie", "session=1")],
        &[("Vary", "Cookie")],
        &[("Vary", "*")],
        &[("Vary", "Origin")],
        &[("Content-Encoding", "br")],
    ];
    for headers in cases {
        let service = Service::with(headers);
        let instance = plan(&[&service], "", CACHED).start();
        let first = instance.get_with("/a", &[("Cookie", "who=1")]);
        let second = instance.get_with("/a", &[("Cookie", "who=2")]);
        for (reply, who) in [(&first, "who=1"), (&second, "who=2")] {
            assert_eq!((reply.status, reply.cache()), (200, "fwd=bypass; detail=upstream"), "{headers:?} {reply:?}");
            assert_eq!(reply.said("cache-control"), "no-store", "{headers:?}");
            assert!(service.seen().iter().any(|seen| seen.header("cookie").as_deref() == Some(who)), "{headers:?}");
        }
        assert_ne!(first.text(), second.text(), "{headers:?}");
        // One request found out that it is so; from then on everyone goes by himself at once.
        assert_eq!(service.calls(), 3, "{headers:?}");
    }
}

/// Many wait on one fill; it comes to an answer for one caller alone. Each gets his own, all at once, and no other's.
#[test]
fn those_who_waited_for_a_private_answer_go_by_themselves_at_once() {
    const CLIENTS: usize = 12;
    let (door, under_way) = (Door::default(), Arc::new(AtomicUsize::new(0)));
    let (passing, most) = (door.clone(), Arc::new(AtomicUsize::new(0)));
    let (counted, together) = (Arc::clone(&under_way), Arc::clone(&most));
    let service = Service::new(move |seen, stream| {
        let who = seen.header("cookie").unwrap_or_default();
        if who.is_empty() {
            passing.pass();
        } else {
            let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
            together.fetch_max(now, Ordering::SeqCst);
            // Nobody is answered before all have come: one after another would never get here.
            assert!(mainstay::local::wait_until(PATIENCE, || counted.load(Ordering::SeqCst) >= CLIENTS));
        }
        answer(stream, "200 OK", &[("Cache-Control", "private")], who.as_bytes());
    });
    let instance = plan(&[&service], "", CACHED).set("limits.request_timeout", "30s").start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|who| {
                let instance = &instance;
                scope.spawn(move || {
                    let cookie = format!("who={who}");
                    assert_eq!(instance.get_with("/a", &[("Cookie", &cookie)]).text(), cookie);
                })
            })
            .collect();
        let waiting = || instance.metric("mainstay_fill_waiters_total{route=\"/{*path}\"}");
        assert!(mainstay::local::wait_until(PATIENCE, || waiting() >= 11.0), "{}", waiting());
        door.open();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    assert_eq!((service.calls(), most.load(Ordering::SeqCst)), (CLIENTS + 1, CLIENTS));
}

#[test]
fn other_statuses_pass_through_and_are_not_kept() {
    let service = Service::new(|seen, stream| {
        let (status, _) = seen.target.trim_start_matches('/').split_once('/').unwrap();
        answer(stream, &format!("{status} X"), &[("Location", "/there"), ("WWW-Authenticate", "Basic")], b"own words");
    });
    let instance = plan(&[&service], "", CACHED).start();
    for status in [201_u16, 301, 302, 400, 401, 403, 410, 429] {
        let target = format!("/{status}/x");
        for _ in 0..2 {
            let reply = instance.get(&target);
            assert_eq!(
                (reply.status, reply.text(), reply.said("location")),
                (status, "own words".to_owned(), "/there")
            );
            assert_eq!((reply.cache(), reply.said("cache-control")), ("fwd=bypass; detail=upstream", "no-store"));
        }
    }
    let before = service.calls();
    for expected in [false, true] {
        let reply = instance.get("/404/x");
        assert_eq!(
            (reply.problem(), reply.is_hit()),
            ("not_found".to_owned(), expected),
            "a 404 is kept for a short time"
        );
    }
    assert_eq!(service.calls(), before + 1);
}

#[test]
fn a_private_404_is_not_kept_either() {
    let service =
        Service::new(|_, stream| answer(stream, "404 Not Found", &[("Cache-Control", "no-store")], b"own words"));
    let instance = plan(&[&service], "", CACHED).start();
    for _ in 0..2 {
        let reply = instance.get("/a");
        assert_eq!((reply.status, reply.text()), (404, "own words".to_owned()));
    }
}

#[test]
fn when_the_upstream_fails_what_was_kept_answers() {
    let service = Service::with(&[]);
    let routes = CACHED.replace("ttl = \"1m\"", "ttl = \"1ms\"");
    let instance = plan(&[&service], "retries = 0", &routes).start();
    assert_eq!(instance.get("/a").text(), "{\"call\":1}");
    for status in ["500 X", "502 X", "503 X", "504 X"] {
        service.script(move |_, stream| answer(stream, status, &[], b"broken"));
        let reply = instance.wait_for("a stale answer", "/a", |reply| reply.cache().contains("fwd-status=503"));
        assert_eq!((reply.status, reply.text()), (200, "{\"call\":1}".to_owned()), "{status}");
        let reply = instance.get("/never");
        assert_eq!(
            (reply.status, reply.problem(), reply.header("retry-after").is_some()),
            (503, "upstream_unavailable".to_owned(), true)
        );
    }
    service.script(|_, stream| hang_up(stream));
    assert_eq!(instance.get("/a").text(), "{\"call\":1}");
    assert_eq!(instance.get("/never").problem(), "upstream_unavailable");
    // And it comes back by itself.
    service.script(|_, stream| answer(stream, "200 OK", &[], b"back"));
    instance.wait_for("the upstream to be asked again", "/a", |reply| reply.text() == "back");
}

/// An upstream has no position, so all that can be known of its answer is when it was asked for.
#[test]
fn a_fill_that_began_before_a_purge_is_not_kept() {
    let door = Door::default();
    let (passing, number) = (door.clone(), AtomicUsize::new(0));
    let service = Service::new(move |_, stream| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        if number == 0 {
            passing.pass();
        }
        answer(stream, "200 OK", &[], format!("{number}").as_bytes());
    });
    let instance = plan(&[&service], "", CACHED).set("ADMIN_TOKEN", "t").set("limits.request_timeout", "30s").start();
    std::thread::scope(|scope| {
        let early = scope.spawn(|| instance.get("/a"));
        service.wait_calls(1);
        let mut admin = crate::instance::client::Connection::open(instance.admin);
        let reply = admin.request_with_body(
            "POST",
            "/admin/cache/purge",
            &[("Authorization", "Bearer t")],
            b"{\"tags\":[\"pages\"]}",
        );
        assert_eq!(reply.status, 200, "{reply:?}");
        let late = instance.get("/a");
        assert_eq!(late.text(), "1", "who comes after the purge does not get what was asked for before it");
        door.open();
        let early = early.join().unwrap();
        assert_eq!((early.text(), early.said("cache-control")), ("0".to_owned(), "no-store"));
    });
    let hit = instance.get("/a");
    assert_eq!((hit.is_hit(), hit.text()), (true, "1".to_owned()));
}

#[test]
fn an_answer_that_is_too_long_is_an_error_and_not_half_of_it() {
    let service = Service::new(|_, stream| answer(stream, "200 OK", &[], &[b'x'; 2000]));
    let instance = plan(&[&service], "response_bytes_max = 1999", CACHED).start();
    assert_eq!(instance.get("/a").problem(), "response_too_large");
    let instance = plan(&[&service], "response_bytes_max = 1999", CATCH_ALL).start();
    assert_eq!(instance.get("/a").body.len(), 2000, "what only passes through takes no room");
}

#[test]
fn an_answer_that_breaks_off_is_no_answer() {
    let service = Service::new(|_, stream| {
        std::io::Write::write_all(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        hang_up(stream);
    });
    let instance = plan(&[&service], "", CACHED).start();
    assert_eq!(instance.get("/a").problem(), "upstream_unavailable");
}

/// Where the `cors` middleware speaks for the route, an upstream that varies on the origin says nothing new.
#[test]
fn with_cors_an_upstream_may_vary_on_the_origin() {
    let service = Service::with(&[("Vary", "Origin, Accept-Encoding")]);
    let routes = CACHED.replace("upstream = \"old\"", "upstream = \"old\"\nmiddlewares = [\"cors\"]");
    let instance = plan(&[&service], "", &routes).set("cors.origins", "https://app.example").start();
    let origin = [("Origin", "https://app.example")];
    assert_eq!(instance.get_with("/a", &origin).said("access-control-allow-origin"), "https://app.example");
    assert!(instance.get_with("/a", &origin).is_hit());
}

#[test]
fn without_a_policy_of_its_own_no_answer_is_kept() {
    let service = Service::with(&[("Cache-Control", "public, max-age=60")]);
    let routes = "[[route]]\npath = \"/public/x\"\nupstream = \"old\"\n";
    let instance = plan(&[&service], "", routes).start();
    assert_eq!(instance.get("/public/x").text(), "{\"call\":1}");
    let reply = instance.get("/public/x");
    assert_eq!((reply.text(), reply.said("cache-control")), ("{\"call\":2}".to_owned(), "public, max-age=60"));
}

#[test]
fn a_strong_read_is_passed_on() {
    let service = Service::with(&[]);
    let instance = plan(&[&service], "", CACHED).start();
    assert_eq!(instance.get("/a").text(), "{\"call\":1}");
    let reply = instance.get_with("/a", &[("X-Consistency", "strong")]);
    assert_eq!((reply.text(), reply.said("cache-control")), ("{\"call\":2}".to_owned(), "no-store"));
    assert_eq!(instance.get("/a").text(), "{\"call\":1}");
}

/// A manifest is read again under traffic: what was kept for a route that did not change stays, and so do its endpoints.
#[test]
fn a_reload_keeps_what_has_not_changed() {
    let service = Service::with(&[]);
    let upstream = format!("[upstream.old]\nendpoints = [\"{}\"]\n", service.url());
    let instance = Plan::new(&format!("{upstream}{CACHED}")).start();
    assert_eq!(instance.get("/a").text(), "{\"call\":1}");
    assert_eq!(instance.reload(&format!("# moved\n{upstream}{CACHED}")), Ok(1));
    assert!(instance.get("/a").is_hit());
    assert!(instance.reload(&format!("{upstream}retries = 9\n{CACHED}")).unwrap_err().contains("retries: at most 5"));
    assert!(instance.get("/a").is_hit());
    assert!(instance.metrics().contains("kind=\"upstream old\""));
    assert_eq!(instance.reload(""), Ok(0));
    let metrics = instance.metrics();
    assert!(!metrics.contains("upstream old") && !metrics.contains("upstream=\"old\""), "{metrics}");
}

/// What one instance of a fleet was answered all of them have, as it was; what is for one caller none has.
#[test]
fn a_fleet_shares_what_may_be_shared() {
    let scratch = Scratch::new("upstream-fleet").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let service = Service::new(|seen, stream| {
        let private: &[(&str, &str)] = &[("Cache-Control", "private")];
        let html: &[(&str, &str)] = &[("Content-Type", "text/html; charset=iso-8859-1")];
        answer(stream, "200 OK", if seen.target == "/mine" { private } else { html }, b"<p>\xe4</p>");
    });
    let start = || {
        plan(&[&service], "", CACHED)
            .set("REDIS_URL", &redis.url())
            .set("redis.timeout", "10s")
            .set("redis.connect_timeout", "10s")
            .start()
    };
    let (one, other) = (start(), start());
    // Until an instance has heard of the fleet's clock it shares nothing.
    let mut number = 0;
    let shared = mainstay::local::wait_until(PATIENCE, || {
        number += 1;
        let target = format!("/page/{number}");
        one.get(&target);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let reply = other.get(&target);
        assert_eq!(
            (reply.said("content-type"), &*reply.body),
            ("text/html; charset=iso-8859-1", b"<p>\xe4</p>".as_slice())
        );
        reply.cache().contains("detail=L2")
    });
    assert!(shared, "nothing is shared");
    for instance in [&one, &other, &one] {
        assert_eq!(instance.get("/mine").cache(), "fwd=bypass; detail=upstream");
    }
}
