//! Rules of `routes.toml` that need no database: each breach is named with its line.

use std::path::Path;

use mainstay::config::auth::AccountReads;
use mainstay::config::manifest::{Known, Manifest};

const KNOWN: Known<'_> =
    Known { handlers: &["h"], middlewares: &["cors", "m"], version: "1", account_reads: AccountReads::Strong };

fn parse(text: &str) -> Result<Manifest, String> {
    let problems = |problems: Vec<mainstay::config::manifest::Problem>| {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    Manifest::parse(text, Path::new("routes.toml"), &KNOWN).map_err(problems)
}

/// A route of this path, with a handler and what else is said.
fn route(path: &str, more: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nhandler = \"h\"\n{more}\n")
}

#[test]
fn each_breach_is_named() {
    let param = |text: &str| route("/x", &format!("params = [{{ name = \"p\", in = \"query\", {text} }}]"));
    let claim =
        |rest: &str| route("/x", &format!("params = [{{ name = \"p\", in = \"claim\", type = \"text\" }}]\n{rest}"));
    let sql = |text: &str| format!("[[route]]\npath = \"/x\"\nsql = '''{text}'''\n");
    for (text, says) in [
        (route("x", ""), "must start with /"),
        (route("/health/x", ""), "answered by the server itself"),
        (route("/a//b", ""), "segments are plain characters"),
        (route("/a/../b", ""), "segments are plain characters"),
        (route("/a/%41", ""), "segments are plain characters"),
        (route("/a/x{p}", ""), "segments are plain characters"),
        (route("/{p}", ""), "{p} of the path is not declared"),
        (route("/x", "params = [{ name = \"p\", in = \"path\", type = \"text\" }]"), "the path has no {p}"),
        (route("/x", "methods = [\"HEAD\"]"), "follows from GET"),
        (route("/x", "methods = [\"get\"]"), "one of GET"),
        (route("/x", "methods = []"), "at least one"),
        (route("/x", "middlewares = [\"n\"]"), "no middleware is called \"n\""),
        (route("/x", "auth = \"token\""), "unknown variant `token`"),
        (route("/x", "shared = true"), "shared = true is for routes with auth"),
        (route("/x", "scopes = [\"a\"]"), "scopes are for routes with auth"),
        (route("/x", "auth = \"key\"\nscopes = [\"a b\"]"), "scope \"a b\": printable characters"),
        (route("/x", "auth = \"key\"\nshared = true"), "add [route.cache]"),
        (route("/x", "auth = \"key\"\n[route.cache]\nttl = \"1m\""), "each caller's own"),
        (claim(""), "in = \"claim\" needs auth"),
        (claim("auth = \"key\"\nshared = true\n[route.cache]\nttl = \"1m\""), "not be the same for all"),
        (param("type = \"text\", claim = \"sub\""), "claim is for parameters in = \"claim\""),
        (route("/x", "consistency = \"weak\""), "routes.toml:4"),
        (route("/x", "consistency = \"strong\"\n[route.cache]\nttl = \"1m\""), "needs consistency = \"eventual\""),
        (route("/x", "methods = [\"POST\"]\n[route.cache]\nttl = \"1m\""), "GET alone"),
        (route("/x", "middlewares = [\"m\"]\n[route.cache]\nttl = \"1m\""), "cached routes take \"cors\" alone"),
        (route("/x", "[route.cache]\nttl = \"0s\""), "longer than zero"),
        (route("/x", "[route.cache]\nttl = \"1m\"\ntags = [\"a{nope}\"]"), "no parameter is called nope"),
        (route("/x", "[route.cache]\nttl = \"1m\"\nttl2 = \"1m\""), "ttl2"),
        (route("/x", "") + &route("/x", ""), "GET is declared twice"),
        (
            route("/x/{id}/{id}", "params = [{ name = \"id\", in = \"path\", type = \"integer\" }]\n"),
            "the path has {id} twice",
        ),
        (
            route("/x/{p}", "params = [{ name = \"p\", in = \"path\", type = \"text\" }]")
                + &route("/x/{q}", "params = [{ name = \"q\", in = \"path\", type = \"text\" }]"),
            "routes.toml:5",
        ),
        (param("type = \"int\""), "one of text, integer"),
        (param("type = \"text\", min = 1"), "min and max are for"),
        (param("type = \"integer\", min = 2, max = 1"), "min is greater than max"),
        (param("type = \"integer\", default = 5, max = 1"), "default: must be at most 1"),
        (param("type = \"text\", set = true"), "set = true is for arrays"),
        (param("type = \"text\", pattern = \"(\""), "pattern"),
        (param("type = \"text[]\", optional = true"), "optional = true is for scalar"),
        (sql("SELECT 1; SELECT 2"), "more than one statement"),
        (sql("SELECT $1"), "sql uses $1, but 0 parameters are declared"),
        (sql("SELECT 'open"), "not closed"),
        (sql("SELECT set_config('a', 'b', false)"), "a route only reads"),
        ("[[route]]\npath = \"/x\"\n".to_owned(), "exactly one of sql, sql_file, handler"),
        ("[[route]]\npath = \"/x\"\nsql_file = \"none.sql\"\n".to_owned(), "sql_file"),
        ("[[routes]]\n".to_owned(), "routes"),
    ] {
        let error = parse(&text).err().unwrap_or_else(|| panic!("taken: {text}"));
        assert!(error.contains(says), "{text}\n{error}");
    }
}

/// Everything that is wrong is said at once, each with its own line.
#[test]
fn all_problems_are_told_together() {
    let error = parse(&(route("a", "") + &route("/ok", "") + &route("/b//", ""))).unwrap_err();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].starts_with("routes.toml:1: route a:") && lines[1].starts_with("routes.toml:9: route /b//:"),
        "{error}"
    );
}

/// The defaults by path that the built-in API relies on.
#[test]
fn paths_have_their_default_policy() {
    let is_kept = |path: &str, more: &str| parse(&route(path, more)).unwrap().routes[0].is_cacheable();
    for path in ["/public/x", "/api/v1/rates", "/api/v1/rates/history", "/api/v1/fees/quote"] {
        assert!(is_kept(path, ""), "{path}");
        assert!(!is_kept(path, "consistency = \"strong\""), "{path}");
        assert!(!is_kept(path, "methods = [\"POST\"]"), "{path}");
    }
    for path in ["/account/x", "/api/v1/transfer", "/api/v1/mint/1", "/x", "/publicity", "/api/v1/other"] {
        assert!(!is_kept(path, ""), "{path}");
    }
    for (path, private) in [("/account/x", true), ("/api/v1/offramp/1", true), ("/x", false)] {
        assert_eq!(parse(&route(path, "")).unwrap().routes[0].private, private, "{path}");
    }
}

/// An upstream called `old`, and a route of it.
fn upstream(more: &str, path: &str, route: &str) -> String {
    format!(
        "[upstream.old]\nendpoints = [\"http://127.0.0.1:8080\"]\n{more}\n\n[[route]]\npath = \"{path}\"\nupstream = \"old\"\n{route}\n"
    )
}

#[test]
fn each_breach_of_an_upstream_is_named() {
    let of = |more: &str| upstream(more, "/x", "");
    let endpoint = |url: &str| of("").replace("http://127.0.0.1:8080", url);
    let shadow = |more: &str| upstream("", "/x", &format!("[route.shadow]\n{more}"));
    for (text, says) in [
        (of("retrys = 1"), "routes.toml:3: unknown field `retrys`"),
        (of("retries = 6"), "routes.toml:1: upstream old: retries: at most 5"),
        (of("retry_budget = 1.5"), "a share of requests"),
        (of("try_timeout = \"0s\""), "try_timeout must be longer than zero"),
        (of("").replace("\"http://127.0.0.1:8080\"", ""), "1 to 32 URLs"),
        (endpoint("127.0.0.1:8080"), "endpoint"),
        (endpoint("ftp://a"), "http or https"),
        (endpoint("http://u:p@a"), "no place for a password"),
        (endpoint("http://a/?x"), "without ? and #"),
        (endpoint("http://a\", \"http://a/"), "there twice"),
        (
            upstream("", "/x", "[[route]]\npath = \"/y\"\nupstream = \"new\""),
            "routes.toml:8: route /y: no upstream is called \"new\"; there are: old",
        ),
        (upstream("", "/x", "handler = \"h\""), "exactly one of sql, sql_file, handler, upstream"),
        (upstream("", "/x", "result = \"row\""), "result is for sql"),
        (upstream("", "/{*a}/b", ""), "a catch-all segment is the last one"),
        (upstream("", "/{*a}", "params = [{ name = \"a\", in = \"path\", type = \"integer\" }]"), "which is a text"),
        (upstream("", "/{*a}", "[[route]]\npath = \"/{*b}\"\nupstream = \"old\""), "routes.toml:8"),
        (upstream("forward_host = true", "/x", "[route.cache]\nttl = \"1m\""), "the Host is not in the cache key"),
        (upstream("", "/x", "methods = [\"CONNECT\"]"), "one of GET"),
        (route("/{*rest}", ""), "catch-all segments are for upstream routes"),
        (route("/x", "methods = [\"OPTIONS\"]"), "follows from GET"),
        (upstream("", "/x", "methods = [\"OPTIONS\"]\nauth = \"key\""), "OPTIONS comes without credentials"),
        (
            upstream("", "/x", "auth = \"key\"\n[route.shadow]\nsql = \"SELECT 1\"\nsample = 0.1"),
            "answers each caller by itself",
        ),
        (route("/x", "[route.shadow]\nsql = \"SELECT 1\"\nsample = 0.1"), "shadow is for upstream routes"),
        (shadow("sample = 0.1"), "exactly one of sql, sql_file"),
        (shadow("sql = \"SELECT 1\"\nsample = 0.0"), "a share above 0"),
        (shadow("sql = \"SELECT $1\"\nsample = 0.1"), "sql uses $1, but 0 parameters are declared"),
        (upstream("", "/{*a}", "[route.shadow]\nsql = \"SELECT 1\"\nsample = 0.1"), "declare the route by itself"),
    ] {
        let problem = parse(&text).expect_err(&text);
        assert!(problem.contains(says), "{says}: {problem}\n{text}");
    }
}

#[test]
fn upstream_routes_say_little_and_mean_something() {
    let manifest = parse(&upstream("", "/users/{id}/{*rest}", "")).unwrap();
    let names = |manifest: &Manifest| -> Vec<String> {
        manifest.routes[0].params.iter().map(|param| param.name.clone()).collect()
    };
    assert_eq!(names(&manifest), ["id", "rest", "?"]);
    assert!(manifest.routes[0].is_catch_all());
    let strict = parse(&upstream("", "/users/{id}", "unknown_params = \"refuse\"")).unwrap();
    assert_eq!(names(&strict), ["id"]);
    assert!(parse(&upstream("", "/public/x", "")).unwrap().routes[0].cache.is_none(), "no default policy");
    // Where an upstream runs is no matter of its answers; the path that it is asked for is.
    let fingerprint = |text: &str| parse(text).unwrap().routes[0].fingerprint;
    let text = upstream("", "/x", "");
    assert_eq!(fingerprint(&text), fingerprint(&text.replace("127.0.0.1", "10.0.0.1")));
    assert_ne!(fingerprint(&text), fingerprint(&text.replace(":8080", ":8080/v2")));
}
