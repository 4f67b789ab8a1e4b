//! Whole instances that are asked with tokens.

use std::sync::Arc;

use mainstay::source::Answer;
use serde_json::{Value, json};

use super::issuer::{Signer, claims, set};
use super::{AUDIENCE, ISSUER};
use crate::instance::client::Reply;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::source::upstream::server::{Service, answer};

const ROUTES: &str = r#"
[[route]]
path = "/own"
handler = "probe"
auth = "jwt"
scopes = ["own:read"]
params = [{ name = "sub", in = "claim", type = "text" }]
"#;

/// An issuer of one signer's tokens.
fn issuer(signer: &Signer) -> Service {
    let body = set(&[signer.public()]);
    Service::new(move |_, stream| answer(stream, "200 OK", &[("Connection", "close")], body.as_bytes()))
}

fn plan(jwks_url: &str) -> Plan {
    let probe = Probe::answering(|call, _| Answer::json(&json!({ "sub": call.params.text("sub") })));
    Plan::probed(ROUTES, &probe)
        .set("auth.jwks_url", jwks_url)
        .set("auth.issuer", ISSUER)
        .set("auth.audience", AUDIENCE)
}

fn ask(instance: &Instance, token: &str) -> Reply {
    instance.get_with("/own", &[("Authorization", &format!("Bearer {token}"))])
}

fn token(signer: &Signer, change: Value) -> String {
    signer.token(&claims(super::issuer::changed(json!({ "scope": "own:read" }), change)))
}

/// The whole way, with each algorithm, and each way to be refused.
#[test]
fn a_token_opens_what_its_scopes_allow_and_its_claims_are_parameters() {
    for algorithm in super::issuer::ALGORITHMS {
        let signer = Signer::new(algorithm, "1");
        let issuer = issuer(&signer);
        let instance = plan(&issuer.url()).start();
        let [alice, bob] = ["alice", "bob"].map(|sub| (sub, token(&signer, json!({ "sub": sub }))));
        for (sub, token) in [&alice, &bob, &alice] {
            let reply = ask(&instance, token);
            assert_eq!((reply.status, reply.json()["sub"].as_str()), (200, Some(*sub)), "{}", reply.text());
            assert_eq!(reply.said("cache-control"), "no-store, private");
        }
        let stranger = Signer::new("EdDSA", "1");
        for (token, status, code, says) in [
            (token(&signer, json!({ "scope": "other" })), 403, "scope_missing", "own:read"),
            (token(&signer, json!({ "exp": 1 })), 401, "credentials_expired", "the token has expired"),
            (token(&signer, json!({ "aud": "x" })), 401, "credentials_invalid", "aud is not for this API"),
            (token(&stranger, json!({})), 401, "credentials_invalid", "signature"),
            ("abc".to_owned(), 401, "credentials_invalid", "not a signed JWT"),
        ] {
            let reply = ask(&instance, &token);
            assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{}", reply.text());
            assert!(reply.text().contains(says), "{}", reply.text());
            assert!(reply.said("www-authenticate").starts_with("Bearer"));
        }
        assert_eq!(issuer.calls(), 2, "at the start, and for the stranger: it could have been a new key");
        // Whose scopes do not do was known all the same.
        for (result, times) in [("accepted", 3.0), ("remembered", 1.0), ("refused", 4.0)] {
            let sample = format!("mainstay_auth_checks_total{{method=\"jwt\",result=\"{result}\"}}");
            assert_eq!(instance.metric(&sample), times, "{result}");
        }
        assert_eq!(instance.metric("mainstay_jwks_fetches_total{result=\"ok\"}"), 2.0);
    }
}

#[test]
fn an_instance_starts_without_the_issuer_and_says_503_until_it_has_the_keys() {
    let signer = Signer::new("EdDSA", "1");
    let body: Arc<str> = set(&[signer.public()]).into();
    let issuer = Service::status("502 Bad Gateway");
    let instance = plan(&issuer.url()).set("auth.jwks_refresh", "20ms").start();
    let reply = ask(&instance, &token(&signer, json!({})));
    assert_eq!((reply.status, reply.problem().as_str()), (503, "auth_unavailable"));
    assert!(reply.header("retry-after").is_some());
    issuer.script(move |_, stream| answer(stream, "200 OK", &[("Connection", "close")], body.as_bytes()));
    let known = format!("Bearer {}", token(&signer, json!({})));
    assert!(mainstay::local::wait_until(crate::support::PATIENCE, || {
        instance.get_with("/own", &[("Authorization", &known)]).status == 200
    }));
}

/// SIGHUP reads the key set again, too.
#[test]
fn a_reload_fetches_the_keys_again() {
    let signer = Signer::new("EdDSA", "1");
    let issuer = issuer(&signer);
    let instance = plan(&issuer.url()).start();
    issuer.wait_calls(1);
    instance.reload(ROUTES).unwrap();
    issuer.wait_calls(2);
}

#[test]
fn a_key_set_without_what_its_tokens_must_say_does_not_start() {
    let good = || plan("https://id.test/keys");
    for (plan, says) in [
        (good().set("auth.jwks_file", "/k.json"), "auth.jwks_file and auth.jwks_url"),
        (good().unset("MAINSTAY__AUTH__ISSUER"), "auth.issuer"),
        (good().unset("MAINSTAY__AUTH__AUDIENCE"), "auth.audience"),
        (good().set("auth.leeway", "6m"), "auth.leeway"),
        (good().set("auth.jwks_refresh", "0s"), "auth.jwks_refresh"),
        (good().set("auth.jwks_timeout", "0s"), "auth.jwks_timeout"),
        (good().set("auth.jwks_url", "http://id.test/keys"), "auth.jwks_url: it begins with https://"),
        (good().set("auth.jwks_url", "http://10.0.0.1/keys"), "auth.jwks_url"),
        (good().set("auth.jwks_url", "http://127.0.0.1.id.test/keys"), "auth.jwks_url"),
        (good().set("auth.jwks_url", "file:///etc/keys"), "auth.jwks_url"),
        (good().set("auth.jwks_url", "https://me:it@id.test/keys"), "no place for a password"),
        (good().set("auth.jwks_url", "keys"), "auth.jwks_url"),
        (good().set("auth.jwks_ca_file", "/not/there.pem"), "auth.jwks_ca_file"),
        (good().unset("MAINSTAY__AUTH__JWKS_URL").set("auth.jwks_file", "/not/there"), "auth.jwks_file: /not/there"),
        (good().unset("MAINSTAY__AUTH__JWKS_URL"), "auth = \"jwt\" needs the keys"),
    ] {
        let refused = plan.try_start().err().unwrap_or_else(|| panic!("started, in spite of {says}"));
        assert!(refused.contains(says) && !refused.contains("me:it"), "{says}: {refused}");
    }
    for url in ["http://localhost:1/keys", "http://127.9.9.9:1/", "http://[::1]:1/keys"] {
        plan(url).start();
    }
}
