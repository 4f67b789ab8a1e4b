//! Who is let in, what those are told who are not, and what the others get.

use mainstay::error::{Code, Error};
use mainstay::{Answer, Call};
use serde_json::json;

use super::people::Issuer;
use crate::instance::client::Reply;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/mine"
methods = ["GET", "POST"]
handler = "probe"
auth = "jwt"
middlewares = ["cors"]
params = [
  { name = "tenant", in = "claim", claim = "https://api.test/tenant", type = "integer", optional = true },
  { name = "groups", in = "claim", type = "text[]", default = [] },
  { name = "q", in = "query", type = "text", optional = true },
]

[[route]]
path = "/account/mine"
handler = "probe"
auth = "jwt"
scopes = ["read", "account"]

[[route]]
path = "/tenant"
handler = "probe"
auth = "jwt"
params = [{ name = "tenant", in = "claim", type = "uuid" }]

[[route]]
path = "/shared"
handler = "probe"
auth = "jwt"
shared = true
scopes = ["read"]
params = [{ name = "q", in = "query", type = "text", optional = true }]
[route.cache]
ttl = "1m"
edge_ttl = "5m"
stale_while_revalidate = "1m"
tags = ["shared"]

[[route]]
path = "/keyed"
upstream = "nobody"
auth = "key"

[[route]]
path = "/public/open"
handler = "probe"

[upstream.nobody]
endpoints = ["http://127.0.0.1:1"]
"#;

/// Says whom a call is for, and what it was told of them.
fn tell(call: &Call, _number: usize) -> Result<Answer, Error> {
    let caller = call.caller.as_ref();
    let identity = caller.and_then(|caller| caller.identity.as_ref());
    if call.params.text("q") == Some("absent") {
        return Err(Error::new(Code::NotFound, "not there"));
    }
    let answer = Answer::json(&json!({
        "subject": identity.map(|identity| &*identity.subject),
        "tenant": call.params.text("tenant"),
        "groups": call.params.list("groups"),
        "authorization": caller.and_then(|caller| caller.header("authorization")),
        "agent": caller.and_then(|caller| caller.header("x-agent")),
    }))?;
    let headers = vec![("x-own", "1".to_owned()), ("cache-control", "public, max-age=9".to_owned())];
    Ok(Answer { headers, ..answer })
}

struct World {
    issuer: Issuer,
    probe: Probe,
    instance: Instance,
}

fn start_with(change: impl FnOnce(Plan) -> Plan) -> World {
    let (issuer, probe) = (Issuer::new(), Probe::answering(tell));
    let routes = ROUTES.replace("auth = \"key\"", "auth = \"jwt\"");
    let plan = issuer.believed(Plan::probed(&routes, &probe)).set("cors.origins", "https://web.test");
    let instance = change(plan).start();
    World { issuer, probe, instance }
}

fn start() -> World {
    start_with(|plan| plan)
}

impl World {
    fn get_as(&self, target: &str, bearer: &str) -> Reply {
        self.instance.get_with(target, &[("Authorization", bearer), ("X-Agent", "a")])
    }
}

/// A refusal, which no cache may keep and which says how to do better.
#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str, challenge: &str) {
    assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{reply:?}");
    assert_eq!(reply.said("cache-control"), "no-store, private", "{reply:?}");
    let said = reply.said("www-authenticate");
    assert!(said.starts_with("Bearer realm=\"mainstay\"") && said.contains(challenge), "{challenge}: {reply:?}");
}

#[test]
fn who_shows_nothing_is_asked_for_a_credential_and_who_shows_something_wrong_is_told_so() {
    let World { instance, probe, issuer } = start();
    let reply = instance.get("/mine");
    refused(&reply, 401, "unauthorized", "");
    assert_eq!(reply.said("www-authenticate"), "Bearer realm=\"mainstay\"", "no error where nothing was sent");
    let good = issuer.bearer("alice", "read");
    let long = format!("Bearer {}", "a".repeat(8193));
    for wrong in
        ["Basic YTpi", "Bearer", "Bearer nonsense", "Bearer a b", &long, "Bearer a.b.c", &good.replace("Bearer ", "")]
    {
        refused(
            &instance.get_with("/mine", &[("Authorization", wrong)]),
            401,
            "credentials_invalid",
            "error=\"invalid_token\", error_description=\"",
        );
    }
    let twice = [("Authorization", good.as_str()), ("authorization", good.as_str())];
    refused(&instance.get_with("/mine", &twice), 401, "credentials_invalid", "more than once");
    assert_eq!(probe.calls(), 0);
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let reply = instance.get_with("/mine", &[("Authorization", &good.replace("Bearer", scheme))]);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[test]
fn whoever_is_not_let_in_learns_nothing_of_the_route() {
    let World { instance, issuer, probe } = start();
    for target in ["/mine", "/mine?unknown=1", "/mine?q=1&q=2", "/mine?q=absent", "/shared?x=%zz"] {
        refused(&instance.get(target), 401, "unauthorized", "");
        let head = instance.request("HEAD", target, &[]);
        assert_eq!((head.status, head.body.len()), (401, 0), "HEAD is as GET: {head:?}");
    }
    refused(&instance.request("POST", "/mine?unknown=1", &[]), 401, "unauthorized", "");
    let bearer = issuer.bearer("alice", "account");
    refused(
        &instance.get_with("/shared?x=1", &[("Authorization", &bearer)]),
        403,
        "scope_missing",
        "error=\"insufficient_scope\", scope=\"read\"",
    );
    assert_eq!(probe.calls(), 0);
    assert_eq!(instance.get_with("/mine?unknown=1", &[("Authorization", &bearer)]).problem(), "param_unknown");
    assert_eq!(instance.request("DELETE", "/mine", &[]).problem(), "method_not_allowed", "that is no secret");
}

#[test]
fn all_scopes_of_a_route_must_be_there() {
    let World { instance, issuer, .. } = start();
    for (scopes, is_in) in
        [("", false), ("read", false), ("account", false), ("readaccount", false), ("account x read", true)]
    {
        let reply = instance.get_with("/account/mine", &[("Authorization", &issuer.bearer("alice", scopes))]);
        assert_eq!(reply.header("x-route-primary"), Some("true"), "errors say it, too: {reply:?}");
        if is_in {
            assert_eq!(reply.status, 200, "{reply:?}");
        } else {
            refused(&reply, 403, "scope_missing", "error=\"insufficient_scope\", scope=\"read account\"");
        }
    }
    let reply = instance.get("/account/mine");
    assert_eq!((reply.status, reply.header("x-route-primary")), (401, Some("true")));
}

#[test]
fn each_caller_gets_an_answer_of_their_own_that_nobody_keeps() {
    let world = start();
    for (calls, subject) in ["alice", "bob", "alice"].into_iter().enumerate() {
        let reply = world.get_as("/mine", &world.issuer.bearer(subject, ""));
        assert_eq!(reply.json()["subject"], format!("jwt:https://id.test|{subject}"));
        assert_eq!((reply.said("cache-control"), reply.said("x-own")), ("no-store, private", "1"), "{reply:?}");
        assert_eq!(reply.cache(), "fwd=bypass; detail=handler");
        assert_eq!((reply.json()["authorization"].as_str(), reply.json()["agent"].as_str()), (None, Some("a")));
        assert_eq!(world.probe.calls(), calls + 1, "each is asked for by itself");
    }
    assert_eq!(world.instance.metric("mainstay_cache_entries"), 0.0);
}

#[test]
fn a_shared_answer_is_for_all_who_are_let_in_and_for_no_cache_of_others() {
    let world = start();
    let (alice, bob) = (world.issuer.bearer("alice", "read"), world.issuer.bearer("bob", "read"));
    let first = world.get_as("/shared", &alice);
    assert_eq!(first.json()["subject"], json!(null), "it is made for nobody");
    assert_eq!((first.cache(), first.header("x-own")), ("fwd=miss; stored; detail=handler", None));
    let second = world.get_as("/shared", &bob);
    assert!(second.is_hit() && second.body == first.body, "{second:?}");
    let etag = first.said("etag").to_owned();
    let third = world.instance.get_with("/shared", &[("Authorization", &alice), ("If-None-Match", &etag)]);
    assert_eq!(third.status, 304);
    for reply in [&first, &second, &third] {
        assert_eq!(reply.said("cache-control"), "private, max-age=60, stale-while-revalidate=60", "{reply:?}");
        assert_eq!(reply.said("vary"), "Accept-Encoding, Authorization");
    }
    let absent = world.get_as("/shared?q=absent", &bob);
    assert_eq!((absent.status, absent.said("cache-control")), (404, "private, max-age=10"));
    for bearer in ["", "Bearer x", &world.issuer.bearer("carol", "")] {
        let reply = world.get_as("/shared", bearer);
        assert!(matches!(reply.status, 401 | 403) && !reply.is_hit(), "each request is authorised: {reply:?}");
    }
    assert_eq!(world.probe.calls(), 2);
    let strong = [("Authorization", alice.as_str()), ("X-Consistency", "strong")];
    let strong = world.instance.get_with("/shared", &strong);
    assert_eq!(strong.json()["subject"], json!(null), "what is the same for all is so past the cache, too");
    assert_eq!(strong.said("cache-control"), "no-store, private");
}

#[test]
fn claims_are_parameters_that_nobody_else_can_set() {
    let World { instance, issuer, .. } = start();
    let get = |target: &str, claims: serde_json::Value| {
        let bearer = issuer.claiming("alice", claims);
        instance.get_with(target, &[("Authorization", &bearer)])
    };
    let tenant = "https://api.test/tenant";
    for (claims, expected) in [
        (json!({ tenant: 7 }), json!({ "tenant": "7", "groups": [] })),
        (json!({ tenant: "007", "groups": ["a,b", "c"] }), json!({ "tenant": "7", "groups": ["a,b", "c"] })),
        (json!({ "groups": "a" }), json!({ "tenant": null, "groups": ["a"] })),
        (json!({ "groups": [1, true, "x y"] }), json!({ "tenant": null, "groups": ["1", "true", "x y"] })),
    ] {
        let reply = get("/mine", claims);
        let told = reply.json();
        assert_eq!(json!({ "tenant": told["tenant"], "groups": told["groups"] }), expected, "{reply:?}");
    }
    for (target, claims, says) in [
        ("/mine", json!({ tenant: "x" }), "the claim https://api.test/tenant of the credential must be a whole number"),
        ("/mine", json!({ tenant: [7] }), "must be a text, a number or a boolean"),
        ("/mine", json!({ tenant: 7.5 }), "must be a whole number"),
        ("/mine", json!({ "groups": { "a": 1 } }), "must be a text, a number"),
        ("/mine", json!({ "groups": ["a", ""] }), "without empty items"),
        ("/tenant", json!({}), "the credential has no claim tenant"),
        ("/tenant", json!({ "tenant": "me" }), "must be a UUID"),
    ] {
        let reply = get(target, claims);
        assert_eq!((reply.status, reply.problem().as_str()), (403, "claim_invalid"), "{reply:?}");
        assert!(reply.json()["detail"].as_str().unwrap().contains(says), "{says}: {reply:?}");
    }
    let reply = get("/tenant?tenant=67e55044-10b1-426f-9247-bb680e5fe0c8", json!({}));
    assert_eq!(reply.problem(), "param_unknown", "a claim is none of the query's");
}

#[test]
fn browsers_ask_beforehand_without_a_credential_and_may_read_refusals() {
    let World { instance, .. } = start();
    let origin = [("Origin", "https://web.test"), ("Access-Control-Request-Method", "GET")];
    let reply = instance.request("OPTIONS", "/mine", &origin);
    assert_eq!((reply.status, reply.said("access-control-allow-origin")), (204, "https://web.test"), "{reply:?}");
    assert!(reply.said("access-control-allow-headers").contains("authorization"));
    let reply = instance.get_with("/mine", &origin[..1]);
    refused(&reply, 401, "unauthorized", "");
    assert_eq!(reply.said("access-control-allow-origin"), "https://web.test");
    assert!(reply.said("access-control-expose-headers").contains("www-authenticate"));
}

#[test]
fn a_list_of_routes_names_none_that_ask_for_credentials() {
    let World { instance, .. } = start();
    assert_eq!(instance.get("/nothing").json()["routes"], json!(["GET /public/open"]));
}

#[test]
fn routes_that_nobody_could_ask_do_not_start() {
    let of = |auth: &str| format!("[[route]]\npath = \"/x\"\nsql = \"SELECT 1\"\nauth = \"{auth}\"\n");
    let error = Plan::new(&of("jwt")).try_start().err().unwrap();
    assert!(
        error.contains("routes.toml:1: route /x: ") && error.contains("auth.jwks_url or auth.jwks_file"),
        "{error}"
    );
    // Keys are where all the data is: without a database both are missing, and the rest of the manifest is served.
    let instance = Plan::new(&of("key")).start();
    let error = instance.reload(&of("jwt")).unwrap_err();
    assert!(error.contains("auth.jwks_url"), "{error}");
    // All that is wrong is said in one go.
    let error = instance.reload(&format!("{}\n[[route]]\npath = \"b\"\nsql = \"SELECT 1\"\n", of("jwt"))).unwrap_err();
    assert!(error.contains("auth.jwks_url") && error.contains("route b: "), "{error}");
}
