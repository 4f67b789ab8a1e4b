//! `examples/own_handlers.rs`: what a user's own crate adds, running as that crate's own program.

use std::path::Path;

use crate::support::{MAINSTAY, Origin, command, repository, request};

#[test]
fn a_crate_of_one_s_own_adds_handlers_and_middlewares() {
    // `cargo test` builds the examples beside the binary.
    let program = Path::new(MAINSTAY).parent().unwrap().join("examples/own_handlers");
    assert!(program.exists(), "{} is not built; run cargo build --examples", program.display());
    let mut serve = command(program);
    serve.args(["serve", "--config", repository("examples/own_handlers").to_str().unwrap()]);
    let origin = Origin::start_command(serve, &[]);

    let miss = origin.get("/public/greetings/Ada");
    assert_eq!((miss.status, miss.body.as_str()), (200, r#"{"greeting":"Hello, Ada."}"#));
    assert_eq!(miss.cache(), "mainstay; fwd=miss; stored; detail=handler");
    assert!(origin.get("/public/greetings/Ada").cache().starts_with("mainstay; hit"));

    let url = format!("{}/notes", origin.base);
    let post = |headers: &[(&str, &str)], body: &str| request("POST", &url, headers, Some(body));
    let key = [("X-Api-Key", "let-me-in")];
    let refused = post(&[], r#"{"text":"hi"}"#);
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_ne!(refused.header("x-request-id"), "", "what every response carries is there, too");
    let made = post(&key, r#"{"text":"hi"}"#);
    assert_eq!((made.status, made.body.as_str()), (201, r#"{"text":"hi","characters":2}"#));
    assert_eq!((made.header("cache-control"), made.header("x-route-primary")), ("no-store", "true"));
    assert_eq!(made.header("x-served-for"), "let-me-in", "a middleware may change what comes back");
    assert_eq!(post(&key, "{").status, 422);
    assert_eq!(request("GET", &url, &key, None).status, 405);

    let mut routes = command(Path::new(MAINSTAY).parent().unwrap().join("examples/own_handlers"));
    routes.args(["routes", "--config", repository("examples/own_handlers").to_str().unwrap()]);
    let routes = String::from_utf8(routes.output().unwrap().stdout).unwrap();
    assert!(routes.contains("notes.create"), "the whole command line comes with it: {routes}");
}
