//! Who gets in, and what is said to those who do not.

use super::{TOKEN, ask, ask_as, instance};
use crate::instance::Plan;
use crate::instance::client::Connection;
use crate::instance::probe::Probe;

const ROUTES: &str = "[[route]]\npath = \"/public/it\"\nhandler = \"probe\"\n";

/// Everything that asks for a token.
const PATHS: [(&str, &str); 6] = [
    ("POST", "/admin/cache/purge"),
    ("POST", "/admin/cache/flush"),
    ("GET", "/admin/cache/stats"),
    ("GET", "/admin/cache/entry?path=/public/it"),
    ("POST", "/admin/cache/warm"),
    ("GET", "/admin/status"),
];

#[test]
fn without_the_token_nothing_is_done_or_said() {
    let probe = Probe::default();
    let instance = instance(ROUTES, &probe);
    instance.get("/public/it");
    for ((method, path), wrong) in
        PATHS.into_iter().zip([None, Some("Bearer correct-hors"), Some(TOKEN)].iter().cycle())
    {
        let reply = ask_as(&instance, *wrong, method, path, "");
        assert_eq!((reply.status, reply.problem()), (401, "unauthorized".to_owned()), "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"mainstay\""));
    }
    let reply = ask_as(&instance, None, "GET", "/admin/what-is-not-there", "");
    assert_eq!(reply.status, 401, "what there is, is not said either");
    assert!(instance.get("/public/it").is_hit(), "nothing was flushed");
    assert_eq!(Connection::open(instance.admin).request("GET", "/metrics", &[]).status, 200, "which needs no token");
}

#[test]
fn wrong_tokens_are_counted_and_then_not_heard() {
    let instance = instance(ROUTES, &Probe::default());
    // Whoever names none has guessed nothing: any site's page can have the operator's browser ask that way.
    for _ in 0..12 {
        assert_eq!(ask_as(&instance, None, "GET", "/admin/status", "").status, 401);
    }
    assert_eq!(ask(&instance, "GET", "/admin/status", "").status, 200);
    for _ in 0..10 {
        assert_eq!(ask_as(&instance, Some("Bearer guess"), "GET", "/admin/status", "").status, 401);
    }
    for authorization in ["Bearer guess".to_owned(), format!("Bearer {TOKEN}")] {
        let reply = ask_as(&instance, Some(&authorization), "GET", "/admin/status", "");
        assert_eq!((reply.status, reply.problem()), (429, "rate_limited".to_owned()));
        let wait: u32 = reply.said("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert_eq!(Connection::open(instance.admin).request("GET", "/metrics", &[]).status, 200);
    assert_eq!(instance.get("/public/it").status, 200);
}

#[test]
fn right_tokens_are_never_counted() {
    let plan = Plan::probed(ROUTES, &Probe::default()).set("ADMIN_TOKEN", "old, new");
    let instance = plan.start();
    for _ in 0..30 {
        for token in ["Bearer old", "bearer new"] {
            assert_eq!(ask_as(&instance, Some(token), "GET", "/admin/status", "").status, 200);
        }
    }
}

#[test]
fn without_a_setting_it_is_not_there_and_says_what_to_set() {
    let instance = Plan::probed(ROUTES, &Probe::default()).start();
    for (method, path) in PATHS {
        for authorization in [None, Some("Bearer "), Some("Bearer x")] {
            let reply = ask_as(&instance, authorization, method, path, "");
            assert_eq!((reply.status, reply.problem()), (404, "route_not_found".to_owned()), "{path}");
            assert!(reply.text().contains("ADMIN_TOKEN"), "{reply:?}");
        }
    }
}

#[test]
fn nothing_of_it_is_on_the_public_listener() {
    let instance = instance(ROUTES, &Probe::default());
    let token = format!("Bearer {TOKEN}");
    for (method, path) in PATHS.into_iter().chain([("GET", "/metrics")]) {
        let reply = instance.request(method, path, &[("Authorization", &token)]);
        assert_eq!((reply.status, reply.problem()), (404, "route_not_found".to_owned()), "{path}");
    }
}

#[test]
fn methods_and_paths_that_are_not_there_are_named() {
    let instance = instance(ROUTES, &Probe::default());
    for (method, path) in PATHS {
        let other = if method == "GET" { "POST" } else { "GET" };
        let reply = ask(&instance, other, path, "");
        assert_eq!((reply.status, reply.problem()), (405, "method_not_allowed".to_owned()), "{path}");
        assert_eq!(reply.header("allow"), Some(method));
    }
    let reply = ask(&instance, "GET", "/admin", "");
    assert_eq!((reply.status, reply.problem()), (404, "route_not_found".to_owned()));
    assert!(reply.text().contains("/admin/cache/purge"), "{reply:?}");
}

/// A connection whose body was not read is given up, so that the body is never taken for a request.
#[test]
fn hostile_bodies_are_refused_by_name() {
    let instance = instance(ROUTES, &Probe::default());
    let tags = |count: usize| format!("{{\"tags\":[{}]}}", vec!["\"a\""; count].join(","));
    let cases = [
        (String::new(), "JSON object"),
        ("not json".to_owned(), "JSON object"),
        ("[[\"a\"],null,null,\"soft\"]".to_owned(), "JSON object"),
        ("{\"tags\":[\"a\"".to_owned(), "EOF"),
        ("{\"tags\":[\"\u{fffd}".replace('\u{fffd}', "\\ud800\"]}"), "tags[0]"),
        ("{}".to_owned(), "exactly one"),
        ("{\"tags\":[\"a\"],\"path\":\"/public/it\"}".to_owned(), "exactly one"),
        ("{\"tags\":[\"a\"],\"force\":true}".to_owned(), "force"),
        ("{\"tags\":\"a\"}".to_owned(), "tags"),
        ("{\"tags\":[\"a\",3]}".to_owned(), "tags[1]"),
        ("{\"tags\":[\"a\"]} {}".to_owned(), "trailing"),
        ("{\"tags\":[\"a\"],\"mode\":\"gentle\"}".to_owned(), "mode"),
        ("{\"tags\":[]}".to_owned(), "tags: 1 to 1000"),
        (tags(1001), "not 1001"),
        ("{\"tags\":[\"\"]}".to_owned(), "tags[0]"),
        ("{\"tags\":[\"a\",\"*\"]}".to_owned(), "flush"),
        ("{\"tags\":[\"a\\nb\"]}".to_owned(), "control"),
        (format!("{{\"tags\":[\"{}\"]}}", "x".repeat(257)), "256"),
        (format!("{{\"{}\":1}}", "x".repeat(100_000)), "unknown field"),
        ("{\"key\":\"abc\"}".to_owned(), "key"),
        (format!("{{\"key\":\"{}\"}}", "+".repeat(32)), "key"),
        (format!("{{\"tags\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000)), "tags"),
        (format!("{{\"x\":{}", "[".repeat(100_000)), "unknown field"),
    ];
    for (body, named) in cases {
        let reply = ask(&instance, "POST", "/admin/cache/purge", &body);
        let shown: String = body.chars().take(80).collect();
        assert_eq!((reply.status, reply.problem()), (400, "body_invalid".to_owned()), "{shown}");
        assert!(reply.text().contains(named), "{shown}: {reply:?}");
        assert!(reply.body.len() < 2_000, "what was sent is not sent back at length");
    }
    assert_eq!(ask(&instance, "POST", "/admin/cache/purge", &tags(1000)).status, 200);

    let mut connection = Connection::open(instance.admin);
    connection.send(format!(
        "POST /admin/cache/purge HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 99999999\r\n\r\n"
    ));
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.problem()), (413, "body_too_large".to_owned()));
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(connection.rest().is_empty());
}

/// A comparison that ends at the first wrong byte tells how many were right. No clock of a busy machine shows that, so the text is read.
#[test]
fn secrets_are_compared_in_constant_time() {
    let read = |name: &str| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let headers = read("src/http/headers.rs");
    let comparison = headers.split("pub fn is_one_of(").nth(1).unwrap().split("\n}").next().unwrap();
    assert!(comparison.contains(".ct_eq(given)") && !comparison.contains("=="), "{comparison}");
    assert!(!comparison.contains(".any("), "which would end at the first right one");
    let gate = read("src/admin/auth.rs").split("#[cfg(test)]").next().unwrap().to_owned();
    assert!(gate.contains("is_one_of(given, &self.tokens)"), "{gate}");
    assert_eq!(gate.matches(".tokens").count(), 2, "nothing else looks at the tokens but whether there are any");
}
