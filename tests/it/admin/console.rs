//! The console as a browser's requests meet it, and as forged ones do.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use serde_json::json;

use super::{TOKEN, ask, instance, look, order};
use crate::instance::client::{Connection, Reply, head};
use crate::instance::probe::{Probe, echo};
use crate::instance::{Instance, Plan};

const ROUTES: &str = echo!();

/// A browser that has signed in.
struct Browser<'a> {
    instance: &'a Instance,
    cookie: String,
    csrf: String,
}

impl<'a> Browser<'a> {
    fn new(instance: &'a Instance) -> Self {
        let reply = sign_in(instance, TOKEN, &[]);
        assert_eq!(reply.status, 200, "{reply:?}");
        let cookie = reply.said("set-cookie").split(';').next().unwrap().to_owned();
        Self { instance, cookie, csrf: reply.json()["csrf"].as_str().unwrap().to_owned() }
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let own = [("Cookie", self.cookie.as_str())];
        let headers: Vec<_> = own.into_iter().chain(headers.iter().copied()).collect();
        Connection::open(self.instance.admin).request_with_body(method, target, &headers, body.as_bytes())
    }

    fn order(&self, target: &str, body: &str) -> Reply {
        self.ask("POST", target, &[("X-CSRF-Token", &self.csrf)], body)
    }

    /// The open stream of events.
    fn events(&self) -> Events {
        let mut connection = Connection::open(self.instance.admin);
        connection.send(head("GET", "/console/events", &[("Cookie", &self.cookie)]));
        Events { stream: connection.stream, read: Vec::new() }
    }
}

struct Events {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Events {
    /// Reads until a text has come; false where the stream ended before.
    fn read_until(&mut self, text: &str) -> bool {
        let mut buffer = [0; 64 * 1024];
        while !String::from_utf8_lossy(&self.read).contains(text) {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => self.read.extend_from_slice(&buffer[..read]),
                // Who is paused, with the machine that it runs on, is interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the stream says nothing and does not end: {error}"),
            }
        }
        true
    }
}

fn sign_in(instance: &Instance, token: &str, headers: &[(&str, &str)]) -> Reply {
    let body = json!({ "token": token }).to_string();
    Connection::open(instance.admin).request_with_body("POST", "/console/session", headers, body.as_bytes())
}

#[test]
fn the_page_is_there_and_loads_nothing_from_elsewhere() {
    let instance = instance(ROUTES, &Probe::default());
    let mut bytes = 0;
    let page = ask_nobody(&instance, "/", &[]);
    let policy = page.said("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let text = page.text();
    let links = text.split(['"']).filter(|part| part.starts_with("/console/"));
    let files: Vec<&str> = ["/"]
        .into_iter()
        .chain(links)
        .chain([
            "/console/dom.js",
            "/console/charts.js",
            "/console/forms.js",
            "/console/stream.js",
            "/console/worker.js",
        ])
        .collect();
    for file in files {
        let reply = ask_nobody(&instance, file, &[]);
        assert_eq!((reply.status, reply.said("x-content-type-options")), (200, "nosniff"), "{file}: {reply:?}");
        assert!(!reply.text().contains("https://") && !reply.text().contains("//cdn"), "{file} names another origin");
        assert!(!reply.text().contains(" style=") && !reply.text().contains("innerHTML"), "{file}");
        let etag = reply.said("etag").to_owned();
        let again = ask_nobody(&instance, file, &[("If-None-Match", &etag)]);
        assert_eq!((again.status, again.body.len()), (304, 0), "{file}");
        bytes += reply.body.len();
    }
    assert!(bytes < 60_000, "{bytes} bytes");
    let without_token = Plan::probed(ROUTES, &Probe::default()).start();
    assert_eq!(ask_nobody(&without_token, "/", &[]).problem(), "route_not_found");
}

fn ask_nobody(instance: &Instance, target: &str, headers: &[(&str, &str)]) -> Reply {
    Connection::open(instance.admin).request("GET", target, headers)
}

#[test]
fn who_signs_in_does_what_a_token_may_until_he_signs_out() {
    let instance = instance(ROUTES, &Probe::default());
    assert_eq!(sign_in(&instance, "wrong", &[]).problem(), "unauthorized");
    assert_eq!(
        ask_nobody(&instance, "/console/session", &[]).json(),
        json!({ "signed_in": false, "may_change": false })
    );
    let reply = sign_in(&instance, TOKEN, &[("X-Forwarded-Proto", "https")]);
    let cookie = reply.said("set-cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Secure") && cookie.contains("; Path=/; "), "{cookie}");
    assert!(!sign_in(&instance, TOKEN, &[]).said("set-cookie").contains("Secure"), "plain http would lose it");
    let browser = Browser::new(&instance);
    let session = browser.ask("GET", "/console/session", &[("X-CSRF-Token", &browser.csrf)], "").json();
    assert_eq!((&session["signed_in"], &session["may_change"]), (&json!(true), &json!(true)));
    // A browser sends a cookie to every port of its host: whoever has it alone may look, and learns nothing that he could change things with.
    let by_cookie = browser.ask("GET", "/console/session", &[], "");
    assert_eq!(by_cookie.json()["may_change"], json!(false));
    assert!(!by_cookie.text().contains(&browser.csrf), "{by_cookie:?}");
    assert_eq!(browser.ask("GET", "/admin/status", &[], "").status, 200);
    assert_eq!(browser.order("/admin/cache/purge", "{\"tags\":[\"echo\"]}").status, 200);
    let event = look(&instance, "/admin/journal")["events"][0].clone();
    assert_eq!((&event["what"], &event["by"]), (&json!("tags echo"), &session["by"]));
    let out = browser.ask("DELETE", "/console/session", &[("X-CSRF-Token", &browser.csrf)], "");
    assert!(out.status == 200 && out.said("set-cookie").contains("Max-Age=0"), "{out:?}");
    // Pages stay open for longer than sessions live, and ask on: that must not shut their address out.
    for _ in 0..20 {
        let reply = browser.ask("GET", "/admin/status", &[], "");
        assert_eq!((reply.status, reply.problem()), (401, "unauthorized".to_owned()));
    }
    assert_eq!(ask(&instance, "GET", "/admin/status", "").status, 200);
}

#[test]
fn guessing_tokens_in_the_form_is_limited_like_anywhere() {
    let instance = instance(ROUTES, &Probe::default());
    for _ in 0..10 {
        assert_eq!(sign_in(&instance, "wrong", &[]).problem(), "unauthorized");
    }
    assert_eq!(sign_in(&instance, TOKEN, &[]).problem(), "rate_limited");
    assert_eq!(ask(&instance, "GET", "/admin/status", "").problem(), "rate_limited");
}

#[test]
fn forged_requests_do_nothing() {
    let instance = instance(ROUTES, &Probe::default());
    let browser = Browser::new(&instance);
    assert_eq!(instance.get("/public/echo").status, 200);
    let host = "origin.test";
    let purge = "{\"tags\":[\"echo\"]}";
    let csrf = ("X-CSRF-Token", browser.csrf.as_str());
    let same_port = format!("http://{host}");
    for (what, headers) in [
        ("no token of the page", vec![]),
        ("a wrong one", vec![("X-CSRF-Token", "0")]),
        ("an empty one", vec![("X-CSRF-Token", "")]),
        ("another site", vec![csrf, ("Sec-Fetch-Site", "cross-site")]),
        ("another port of this machine", vec![csrf, ("Sec-Fetch-Site", "same-site")]),
        ("another origin", vec![csrf, ("Origin", "http://evil.test")]),
        ("another port, by an old browser", vec![csrf, ("Origin", "http://origin.test:81")]),
        ("no origin worth the name", vec![csrf, ("Origin", "null")]),
        ("both", vec![csrf, ("Sec-Fetch-Site", "cross-site"), ("Origin", &same_port)]),
    ] {
        let reply = browser.ask("POST", "/admin/cache/purge", &headers, purge);
        assert_eq!((reply.status, reply.problem()), (403, "cross_site".to_owned()), "{what}");
    }
    assert_eq!(browser.ask("DELETE", "/console/session", &[], "").problem(), "cross_site", "nobody is signed out");
    for headers in [vec![("Sec-Fetch-Site", "cross-site")], vec![("Origin", "http://evil.test")]] {
        assert_eq!(sign_in(&instance, TOKEN, &headers).problem(), "cross_site");
        // What other sites' pages send counts for no wrong token: they could shut the operator out.
        for _ in 0..12 {
            let reply = ask_nobody(&instance, "/admin/status", &headers);
            assert_eq!(reply.problem(), "cross_site");
        }
    }
    assert!(instance.get("/public/echo").is_hit(), "nothing was purged");
    for headers in [vec![csrf, ("Sec-Fetch-Site", "same-origin")], vec![csrf, ("Origin", &same_port)]] {
        assert_eq!(browser.ask("POST", "/admin/cache/purge", &headers, purge).status, 200);
    }
    let reply = ask(&instance, "GET", "/admin/status", "");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
}

#[test]
fn a_page_hears_the_past_and_then_the_present_until_its_session_ends() {
    let instance = instance(ROUTES, &Probe::default());
    assert_eq!(ask_nobody(&instance, "/console/events", &[]).problem(), "unauthorized");
    let browser = Browser::new(&instance);
    let mut events = browser.events();
    assert!(events.read_until("event: history\ndata: [") && events.read_until("event: picture\ndata: {"));
    assert!(
        events.read_until("\"sentence\":\"All is well, with no database configured.\""),
        "{}",
        String::from_utf8_lossy(&events.read)
    );
    events.read.clear();
    order(&instance, "/admin/cache/flush", "");
    assert!(events.read_until("event: picture"), "another one comes");
    browser.ask("DELETE", "/console/session", &[("X-CSRF-Token", &browser.csrf)], "");
    assert!(events.read_until("event: over"));
    assert!(!events.read_until("this never comes"), "the stream ends");
    let mut events = Browser::new(&instance).events();
    assert!(events.read_until("event: picture"));
    drop(instance);
    assert!(!events.read_until("this never comes"), "open pages hold up nobody's end");
}

#[test]
fn a_preview_names_what_would_fall_and_purges_nothing() {
    let instance = instance(ROUTES, &Probe::default());
    for q in ["a", "b", "c"] {
        assert_eq!(instance.get(&format!("/public/echo?q={q}")).status, 200);
    }
    let preview = |body: &str| order(&instance, "/admin/cache/preview", body);
    let one = preview("{\"tags\":[\"echo:a\",\"nothing\"]}");
    assert_eq!((&one["entries"], &one["of_entries"]), (&json!(1), &json!(3)));
    assert_eq!((&one["examples"], &one["mode"]), (&json!(["/public/echo?q=a"]), &json!("soft")));
    assert!(one["bytes"].as_u64().unwrap() > 0);
    assert_eq!(preview("{\"path\":\"/public/echo\"}")["entries"], 3);
    assert_eq!(preview("{\"path\":\"/public/echo?q=b\"}")["examples"], json!(["/public/echo?q=b"]));
    assert!(instance.get("/public/echo?q=a").is_hit(), "a preview purges nothing");
    order(&instance, "/admin/cache/purge", "{\"tags\":[\"echo:a\"]}");
    assert_eq!(preview("{\"tags\":[\"echo\"]}")["entries"], 2, "what has fallen does not fall again");
    assert_eq!(preview("{\"tags\":[\"echo\"],\"mode\":\"hard\"}")["entries"], 3, "but it does for good");
    assert_eq!(ask(&instance, "POST", "/admin/cache/preview", "{\"tags\":[]}").problem(), "body_invalid");
}

#[test]
fn settings_are_shown_and_no_secret_is() {
    const SECRET: &str = "open-sesame-8f3a";
    let mut plan = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", &format!("{TOKEN},{SECRET}"));
    for name in [
        "ORIGIN_SECRET",
        "TOKEN_SECRET",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "FAILOVER_PEER_TOKEN",
        "nodes.public_token",
    ] {
        plan = plan.set(name, &format!("{SECRET}-and-more-than-thirty-two-characters"));
    }
    let plan = plan.set("DATABASE_URL", &format!("postgres://somebody:{SECRET}@127.0.0.1:1/somewhere"));
    let plan = plan.set("REDIS_URL", &format!("redis://:{SECRET}@127.0.0.1:1/"));
    // Where no secret belongs, and somebody puts one all the same.
    let plan = plan.set("auth.jwks_url", &format!("http://127.0.0.1:1/keys?api_key={SECRET}"));
    let plan = plan.set("auth.issuer", "https://somebody.test").set("auth.audience", "this");
    let plan = plan.set("traces.endpoint", &format!("http://somebody:a,{SECRET}@127.0.0.1:1"));
    let instance = plan.set("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").set("limits.rows_max", "123").start();
    let settings = look(&instance, "/admin/settings");
    assert!(!settings.to_string().contains(SECRET) && !settings.to_string().contains(TOKEN), "{settings}");
    let get =
        |key: &str| settings["settings"].as_array().unwrap().iter().find(|one| one["key"] == key).unwrap().clone();
    assert_eq!(get("limits.rows_max"), json!({ "key": "limits.rows_max", "value": 123, "is_default": false }));
    assert_eq!(get("server.admin_token")["value"], "***");
    assert_eq!((&get("database.url")["value"], &get("redis.url")["value"]), (&json!("***"), &json!("***")));
    assert_eq!(get("auth.jwks_url")["value"], "http://127.0.0.1:1/keys?***");
    assert_eq!(get("traces.endpoint")["value"], "http://***@127.0.0.1:1");
    assert_eq!(get("database.direct_url"), json!({ "key": "database.direct_url", "value": "", "is_default": true }));
    assert_eq!(
        get("limits.request_timeout"),
        json!({ "key": "limits.request_timeout", "value": "10s", "is_default": true })
    );
}
