//! Routes that ask who asks: what is said of credentials, and that answers to those who show none are as described.

use mainstay::Answer;
use serde_json::{Value, json};

use super::checker::hold;
use super::document;
use crate::auth::people::Issuer;
use crate::instance::Plan;

const ROUTES: &str = r#"
[[route]]
path = "/mine/{id}"
methods = ["GET", "POST"]
handler = "mine"
auth = "jwt"
scopes = ["read", "things"]
params = [
  { name = "id", in = "path", type = "integer" },
  { name = "tenant", in = "claim", type = "integer" },
]

[[route]]
path = "/keyed"
handler = "mine"
auth = "key"

[[route]]
path = "/open"
handler = "mine"

[[route]]
path = "/session"
consistency = "session"
handler = "mine"
"#;

/// Keys are in a database, which need not be there to refuse who shows none.
fn plan() -> Plan {
    let plan = Plan::new(ROUTES).set("DATABASE_URL", "postgres://nobody@127.0.0.1:9/none");
    plan.handler("mine", async |_| Answer::json(&json!({ "one": 1 })))
}

fn enumerated(document: &Value, path: &str, method: &str, status: &str) -> Value {
    let response = &document["paths"][path][method]["responses"][status];
    response["content"]["application/problem+json"]["schema"]["properties"]["code"]["enum"].clone()
}

fn headers(document: &Value, path: &str) -> Vec<String> {
    let parameters = document["paths"][path]["get"]["parameters"].as_array().into_iter().flatten();
    let in_header = parameters.filter(|parameter| parameter["in"] == "header");
    in_header.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn credentials_scopes_and_refusals_are_described_and_claims_are_not() {
    let issuer = Issuer::new();
    let instance = issuer.believed(plan()).start();
    let document = document(&instance);
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!((&schemes["jwt"]["scheme"], &schemes["jwt"]["bearerFormat"]), (&json!("bearer"), &json!("JWT")));
    assert_eq!((&schemes["key"]["type"], &schemes["key"]["scheme"]), (&json!("http"), &json!("bearer")));
    let mine = &document["paths"]["/mine/{id}"]["get"];
    assert_eq!(mine["security"], json!([{ "jwt": ["read", "things"] }]));
    assert_eq!(document["paths"]["/keyed"]["get"]["security"], json!([{ "key": [] }]));
    assert!(document["paths"]["/open"]["get"].get("security").is_none());
    let unknown = ["unauthorized", "credentials_invalid", "credentials_expired"];
    assert_eq!(enumerated(&document, "/mine/{id}", "get", "401"), json!(unknown));
    assert_eq!(enumerated(&document, "/mine/{id}", "post", "403"), json!(["claim_invalid", "scope_missing"]));
    assert_eq!(enumerated(&document, "/open", "get", "401"), Value::Null);
    let text = instance.get("/openapi.json").text();
    assert!(!text.contains("tenant"), "a claim is none of the request's parameters");
    assert!(!instance.get("/docs").text().contains("tenant"));

    let bearer = |scopes: &str, tenant: Value| {
        let claims = json!({ "scope": scopes, "tenant": tenant });
        [("Authorization".to_owned(), issuer.claiming("ann", claims))]
    };
    for (path, given, status) in [
        ("/mine/1", Vec::from(bearer("read things", json!(7))), 200),
        ("/mine/1", vec![], 401),
        ("/mine/1", vec![("Authorization".to_owned(), "Bearer nonsense".to_owned())], 401),
        ("/mine/1", Vec::from(bearer("read", json!(7))), 403),
        ("/mine/1", Vec::from(bearer("read things", json!("no number"))), 403),
        ("/mine/x", Vec::from(bearer("read things", json!(7))), 400),
    ] {
        let given: Vec<(&str, &str)> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let reply = instance.get_with(path, &given);
        assert_eq!(reply.status, status, "{path} {given:?} {reply:?}");
        hold(&document, "GET", "/mine/{id}", &reply);
    }
    hold(&document, "GET", "/keyed", &instance.get("/keyed"));
}

#[test]
fn what_a_caller_may_say_of_consistency_is_what_is_heard() {
    let said = |plan: Plan| {
        let document = document(&plan.start());
        ["/open", "/session", "/mine/{id}"].map(|path| headers(&document, path).join(" "))
    };
    let issuer = Issuer::new();
    let plan = || issuer.believed(plan());
    assert_eq!(said(plan()), ["X-Consistency"; 3]);
    assert_eq!(said(plan().set("consistency.strong_header", "off")), [""; 3]);
    let with_tokens =
        plan().set("consistency.strong_header", "off").set("TOKEN_SECRET", "a secret of thirty-two characters");
    assert_eq!(said(with_tokens), ["", "X-Consistency-Token", ""]);
    // Who asks on a route without `auth` may be turned away for what was shown.
    let instance = plan().set("consistency.strong_header", "authenticated").start();
    let document = document(&instance);
    assert_eq!(headers(&document, "/open"), ["X-Consistency"]);
    let wrong = [("X-Consistency", "strong"), ("Authorization", "Bearer nonsense")];
    hold(&document, "GET", "/open", &instance.get_with("/open", &wrong));
    assert_eq!(enumerated(&document, "/open", "get", "401"), json!(["credentials_invalid", "credentials_expired"]));
}
