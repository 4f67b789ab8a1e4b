//! Where the keys come from, and what becomes of tokens when they change or do not come.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mainstay::auth::Look;
use mainstay::auth::jwt::Tokens;
use mainstay::error::{Code, Error};
use mainstay::identity::Identity;
use mainstay::telemetry::metrics::Metrics;
use serde_json::json;

use super::issuer::{Signer, claims, set};
use super::{settings, tokens};
use crate::source::upstream::server::{Seen, Service, answer, say_nothing};
use crate::source::upstream::tls;
use crate::support::{PATIENCE, wait_for};

/// What answers with the public keys of these.
fn publishes(signers: &[&Signer]) -> impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static {
    let body = set(&signers.iter().map(|signer| signer.public()).collect::<Vec<_>>());
    move |_, stream| answer(stream, "200 OK", &[("Connection", "close")], body.as_bytes())
}

/// Tokens of the issuer behind a URL, whose keys are kept up to date.
fn kept(url: &str, more: &[(&str, &str)]) -> (Arc<Tokens>, Arc<Metrics>) {
    let (tokens, metrics) = tokens(&[&[("jwks_url", url)], more].concat());
    actix_rt::spawn(Arc::clone(tokens.keyring()).keep(None));
    (Arc::new(tokens), metrics)
}

/// A key set that would be right if it were shorter.
fn too_long(keys: &[serde_json::Value]) -> Vec<u8> {
    [set(keys).into_bytes(), vec![b' '; 1024 * 1024]].concat()
}

async fn ask(tokens: &Tokens, token: &str) -> Result<Arc<Identity>, Error> {
    tokens.ask(token.as_bytes(), Instant::now() + PATIENCE).await
}

async fn refused(tokens: &Tokens, token: &str) -> Code {
    ask(tokens, token).await.unwrap_err().code
}

fn is_remembered(tokens: &Tokens, token: &str) -> bool {
    matches!(tokens.look(token.as_bytes(), Instant::now()), Look::Known(Ok(_)))
}

fn failures(metrics: &Metrics, result: &str) -> u64 {
    metrics.jwks_fetches.with_label_values(&[result]).get()
}

/// The first requests wait for the keys. A token of a new key has them fetched; one of a key that has left counts no more, even
/// though it was checked a moment ago.
#[actix_rt::test]
async fn keys_are_rotated_without_a_restart() {
    let (old, new) = (Signer::new("EdDSA", "old"), Signer::new("ES256", "new"));
    let (of_old, of_new) = (old.token(&claims(json!({}))), new.token(&claims(json!({}))));
    let issuer = Service::new(publishes(&[&old]));
    let (tokens, metrics) = kept(&issuer.url(), &[]);
    assert_eq!(&*ask(&tokens, &of_old).await.unwrap().subject, "jwt:https://id.test|alice");
    assert!(is_remembered(&tokens, &of_old));
    assert_eq!(issuer.calls(), 1);
    assert_eq!(issuer.last().header("accept").as_deref(), Some("application/jwk-set+json, application/json"));

    issuer.script(publishes(&[&old, &new]));
    ask(&tokens, &of_new).await.unwrap();
    assert!(!is_remembered(&tokens, &of_old), "it is checked again");
    ask(&tokens, &of_old).await.unwrap();
    assert_eq!(issuer.calls(), 2);

    issuer.script(publishes(&[&new]));
    tokens.keyring().renew();
    wait_for("the old key to be gone", || !is_remembered(&tokens, &of_old)).await;
    assert_eq!(refused(&tokens, &of_old).await, Code::CredentialsInvalid);
    ask(&tokens, &of_new).await.unwrap();
    assert_eq!((issuer.calls(), failures(&metrics, "ok")), (3, 3));
}

/// Names are for those who have them: an issuer may give its keys none, or all of them the same.
#[actix_rt::test]
async fn a_new_key_is_found_whatever_it_is_called() {
    for kid in [json!(null), json!("same")] {
        let (old, new) = (Signer::new("EdDSA", "same"), Signer::new("EdDSA", "same"));
        let keys = |signers: &[&Signer]| {
            let keys: Vec<_> = signers.iter().map(|signer| signer.public_with(json!({ "kid": kid }))).collect();
            let body = set(&keys);
            move |_: &Seen, stream: &mut TcpStream| {
                answer(stream, "200 OK", &[("Connection", "close")], body.as_bytes())
            }
        };
        let [of_old, of_new] = [&old, &new].map(|signer| signer.token_with(json!({ "kid": kid }), &claims(json!({}))));
        let issuer = Service::new(keys(&[&old]));
        let (tokens, _) = kept(&issuer.url(), &[]);
        ask(&tokens, &of_old).await.unwrap();
        issuer.script(keys(&[&new]));
        ask(&tokens, &of_new).await.unwrap();
        assert_eq!((refused(&tokens, &of_old).await, issuer.calls()), (Code::CredentialsInvalid, 2), "{kid}");
    }
}

/// A set that is the same as before ends nothing.
#[actix_rt::test]
async fn the_set_is_fetched_again_and_again() {
    let signer = Signer::new("EdDSA", "a");
    let token = signer.token(&claims(json!({})));
    let issuer = Service::new(publishes(&[&signer]));
    let (tokens, _) = kept(&issuer.url(), &[("jwks_refresh", "5ms")]);
    ask(&tokens, &token).await.unwrap();
    let calls = issuer.calls();
    wait_for("further fetches", || issuer.calls() >= calls + 3).await;
    assert!(is_remembered(&tokens, &token));
}

#[actix_rt::test]
async fn however_many_are_signed_by_no_known_key_the_set_is_fetched_once() {
    let (signer, forger) = (Signer::new("EdDSA", "a"), Signer::new("EdDSA", "a"));
    let issuer = Service::new(publishes(&[&signer]));
    let (tokens, _) = kept(&issuer.url(), &[]);
    ask(&tokens, &signer.token(&claims(json!({})))).await.unwrap();
    let strange = |number: usize| match number % 3 {
        0 => forger.token(&claims(json!({ "sub": number.to_string() }))),
        1 => forger.token_with(json!({ "kid": null }), &claims(json!({ "sub": number.to_string() }))),
        _ => signer.token_with(json!({ "kid": number.to_string() }), &claims(json!({}))),
    };
    let strangers: Vec<String> = (0..51).map(strange).collect();
    for _ in 0..2 {
        let codes = join_all(strangers.iter().map(|token| refused(&tokens, token))).await;
        assert!(codes.iter().all(|code| *code == Code::CredentialsInvalid));
    }
    assert_eq!(issuer.calls(), 2);
    ask(&tokens, &signer.token(&claims(json!({ "sub": "bob" })))).await.unwrap();
}

/// Whoever waits for a fetch waits as long as his request may, and no longer.
#[actix_rt::test]
async fn an_issuer_that_is_slow_holds_nobody_up_who_needs_no_new_key() {
    let signer = Signer::new("EdDSA", "a");
    let issuer = Service::new(publishes(&[&signer]));
    let (tokens, metrics) = kept(&issuer.url(), &[("jwks_timeout", "200ms")]);
    ask(&tokens, &signer.token(&claims(json!({})))).await.unwrap();
    issuer.script(|_, stream| say_nothing(stream));
    let stranger = signer.token_with(json!({ "kid": "b" }), &claims(json!({})));
    let soon = Instant::now() + Duration::from_millis(20);
    let of_bob = signer.token(&claims(json!({ "sub": "bob" })));
    let (late, known) = tokio::join!(tokens.ask(stranger.as_bytes(), soon), ask(&tokens, &of_bob));
    assert_eq!(late.unwrap_err().code, Code::AuthUnavailable);
    known.unwrap();
    wait_for("the fetch to end", || failures(&metrics, "timeout") > 0).await;
}

/// What was had stays in use, whatever comes instead of a key set, and from wherever the answer leads.
#[actix_rt::test]
async fn an_outage_of_the_issuer_leaves_the_keys_that_there_are() {
    let signer = Signer::new("EdDSA", "a");
    let token = signer.token(&claims(json!({})));
    let elsewhere = Service::new(publishes(&[&signer]));
    let there = Box::leak(elsewhere.url().into_boxed_str());
    let redirect: &[(&str, &str)] = Box::leak(Box::new([("Location", &*there), ("Connection", "close")]));
    let issuer = Service::new(publishes(&[&signer]));
    let (tokens, metrics) = kept(&issuer.url(), &[("jwks_refresh", "5ms"), ("jwks_timeout", "300ms")]);
    ask(&tokens, &token).await.unwrap();
    let generation = tokens.keyring().current().unwrap().generation;
    type Script = Box<dyn Fn(&Seen, &mut TcpStream) + Send + Sync>;
    let says = |status: &'static str, body: Vec<u8>| -> Script {
        Box::new(move |_, stream| answer(stream, status, &[("Connection", "close")], &body))
    };
    let wrong: [(&str, Script); 9] = [
        ("status", says("500 Internal Server Error", b"{}".to_vec())),
        ("status", says("404 Not Found", set(&[signer.public()]).into_bytes())),
        ("status", says("204 No Content", Vec::new())),
        ("status", Box::new(move |_, stream| answer(stream, "302 Found", redirect, b""))),
        ("invalid", says("200 OK", b"<html>Sign in</html>".to_vec())),
        ("invalid", says("200 OK", b"{}".to_vec())),
        ("invalid", says("200 OK", too_long(&[Signer::new("ES256", "b").public()]))),
        ("unreachable", Box::new(|_, stream| crate::source::upstream::server::hang_up(stream))),
        ("timeout", Box::new(|_, stream| say_nothing(stream))),
    ];
    for (result, script) in wrong {
        let before = failures(&metrics, result);
        issuer.script(script);
        // One that had begun may end as the script before has it.
        wait_for(result, || failures(&metrics, result) >= before + 2).await;
        assert!(is_remembered(&tokens, &token), "{result}");
        ask(&tokens, &token).await.unwrap();
        for kid in [json!("b"), json!("a"), json!(null)] {
            let stranger = Signer::new("EdDSA", "b").token_with(json!({ "kid": kid }), &claims(json!({})));
            let code = refused(&tokens, &stranger).await;
            assert_eq!(code, Code::AuthUnavailable, "{result}, {kid}: the issuer may have a new key");
        }
    }
    assert_eq!(tokens.keyring().current().unwrap().generation, generation);
    assert_eq!(elsewhere.calls(), 0, "nobody is redirected");
    issuer.script(publishes(&[&signer, &Signer::new("ES256", "b")]));
    wait_for("the next set", || tokens.keyring().current().unwrap().generation > generation).await;
}

/// An issuer that has taken all its keys back is believed.
#[actix_rt::test]
async fn a_set_without_keys_ends_all_tokens() {
    let signer = Signer::new("EdDSA", "a");
    let token = signer.token(&claims(json!({})));
    let issuer = Service::new(publishes(&[&signer]));
    let (tokens, _) = kept(&issuer.url(), &[]);
    ask(&tokens, &token).await.unwrap();
    issuer.script(publishes(&[]));
    tokens.keyring().renew();
    wait_for("the keys to be gone", || !is_remembered(&tokens, &token)).await;
    assert_eq!(refused(&tokens, &token).await, Code::AuthUnavailable);
}

#[actix_rt::test]
async fn until_there_are_keys_tokens_cannot_be_checked() {
    let signer = Signer::new("EdDSA", "a");
    let token = signer.token(&claims(json!({})));
    let issuer = Service::status("503 Service Unavailable");
    let (tokens, _) = kept(&issuer.url(), &[("jwks_refresh", "5ms")]);
    let error = ask(&tokens, &token).await.unwrap_err();
    assert_eq!((error.code, &*error.detail), (Code::AuthUnavailable, "the issuer's keys could not be had yet"));
    assert_eq!(
        refused(&tokens, "no.token").await,
        Code::CredentialsInvalid,
        "what is no token is not for want of keys"
    );
    issuer.script(publishes(&[&signer]));
    wait_for("the keys", || tokens.keyring().current().is_some()).await;
    ask(&tokens, &token).await.unwrap();
}

#[actix_rt::test]
async fn an_issuer_is_believed_by_its_certificate_alone() {
    let signer = Signer::new("EdDSA", "a");
    let token = signer.token(&claims(json!({})));
    let (config, root) = tls::server();
    let body: &'static str = set(&[signer.public()]).leak();
    let port = tls::listen(config, body).port();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("root.pem");
    std::fs::write(&file, root).unwrap();
    let roots = ("jwks_ca_file", file.to_str().unwrap());
    let (tokens, _) = kept(&format!("https://localhost:{port}/keys"), &[roots]);
    ask(&tokens, &token).await.unwrap();
    for (host, more) in [("localhost", &[][..]), ("127.0.0.1", &[roots][..])] {
        let (tokens, metrics) = kept(&format!("https://{host}:{port}/keys"), more);
        assert_eq!(refused(&tokens, &token).await, Code::AuthUnavailable);
        assert_eq!(failures(&metrics, "unreachable"), 1);
    }
}

/// A file is read at the start, and again when it has changed; one that is half written is not taken.
#[actix_rt::test]
async fn a_file_is_read_again_when_it_changes() {
    let (old, new) = (Signer::new("EdDSA", "old"), Signer::new("RS256", "new"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, set(&[old.public()])).unwrap();
    let (tokens, metrics) = tokens(&[("jwks_file", path.to_str().unwrap())]);
    let of_old = old.token(&claims(json!({})));
    ask(&tokens, &of_old).await.unwrap();
    actix_rt::spawn(Arc::clone(tokens.keyring()).keep(None));
    wait_for("the keeper", || failures(&metrics, "ok") == 1).await;
    let next = set(&[new.public()]);
    std::fs::write(&path, &next[..next.len() / 2]).unwrap();
    wait_for("the half to be read", || failures(&metrics, "invalid") > 0).await;
    assert!(is_remembered(&tokens, &of_old));
    std::fs::write(&path, &next).unwrap();
    wait_for("the whole to be read", || failures(&metrics, "ok") == 2).await;
    ask(&tokens, &new.token(&claims(json!({})))).await.unwrap();
    assert_eq!(refused(&tokens, &of_old).await, Code::CredentialsInvalid);
}

#[test]
fn a_file_that_cannot_be_used_is_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let refusal = || {
        let settings = settings(&[("jwks_file", path.to_str().unwrap())]);
        Tokens::new(&settings, &Arc::new(Metrics::new().unwrap())).map(drop).unwrap_err().to_string()
    };
    assert!(refusal().contains("No such file"), "{}", refusal());
    for (text, says) in [
        ("{", "not a JSON object"),
        ("{\"keys\":[]}", "no key of it is of use"),
        ("{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}]}", "key 1 is left out: it is symmetric"),
    ] {
        std::fs::write(&path, text).unwrap();
        let refusal = refusal();
        assert!(refusal.starts_with("auth.jwks_file: ") && refusal.contains(says), "{refusal}");
    }
    std::fs::write(&path, too_long(&[Signer::new("ES256", "b").public()])).unwrap();
    assert!(refusal().contains("longer than 1048576 bytes"), "{}", refusal());
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(refusal().contains("it is not a file"), "{}", refusal());
}
