//! Checks that are remembered: for how long, and how many.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay::auth::Look;
use mainstay::auth::jwt::Tokens;
use serde_json::json;

use super::issuer::{Signer, claims, set};
use super::tokens;
use crate::support::{PATIENCE, wait_for};

/// Tokens of one signer, whose keys are in a file, which was read a moment ago: wrong tokens do not have it read again.
async fn of(signer: &Signer, more: &[(&str, &str)]) -> Arc<Tokens> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    std::fs::write(&path, set(&[signer.public()])).unwrap();
    let tokens = Arc::new(tokens(&[&[("jwks_file", path.to_str().unwrap())], more].concat()).0);
    actix_rt::spawn(Arc::clone(tokens.keyring()).keep(None));
    tokens.keyring().renewed(Instant::now() + PATIENCE).await.unwrap();
    tokens
}

/// Whether a check is remembered so long from now.
fn is_remembered(tokens: &Tokens, token: &str, after: Duration) -> bool {
    matches!(tokens.look(token.as_bytes(), Instant::now() + after), Look::Known(Ok(_)))
}

#[actix_rt::test]
async fn a_check_counts_no_longer_than_its_token_and_no_longer_than_is_set() {
    let signer = Signer::new("EdDSA", "a");
    let tokens = of(&signer, &[("check_ttl", "60s"), ("leeway", "0s")]).await;
    let now = claims(json!({}))["iat"].as_u64().unwrap();
    let (short, long) = (signer.token(&claims(json!({ "exp": now + 30 }))), signer.token(&claims(json!({}))));
    for token in [&short, &long] {
        assert!(!is_remembered(&tokens, token, Duration::ZERO));
        let asked = tokens.ask(token.as_bytes(), Instant::now() + PATIENCE).await.unwrap();
        let Look::Known(Ok(known)) = tokens.look(token.as_bytes(), Instant::now()) else { panic!("not remembered") };
        assert!(Arc::ptr_eq(&asked, &known));
    }
    assert!(!is_remembered(&tokens, &short, Duration::from_secs(30)));
    assert!(!is_remembered(&tokens, &long, Duration::from_secs(60)));
    // However slow the machine is, within the next few seconds.
    assert!(is_remembered(&tokens, &long, Duration::from_secs(31)));
    assert!(!is_remembered(&tokens, &format!("{long} "), Duration::ZERO));
}

#[actix_rt::test]
async fn only_so_many_checks_are_remembered_and_none_of_what_was_refused() {
    let signer = Signer::new("EdDSA", "a");
    let tokens = of(&signer, &[("checked_max", "10")]).await;
    let right: Vec<String> =
        (0..40).map(|number| signer.token(&claims(json!({ "sub": number.to_string() })))).collect();
    for token in &right {
        tokens.ask(token.as_bytes(), Instant::now() + PATIENCE).await.unwrap();
    }
    let wrong = Signer::new("EdDSA", "a").token(&claims(json!({})));
    tokens.ask(wrong.as_bytes(), Instant::now() + PATIENCE).await.unwrap_err();
    assert!(!is_remembered(&tokens, &wrong, Duration::ZERO));
    let remembered = || right.iter().filter(|token| is_remembered(&tokens, token, Duration::ZERO)).count();
    wait_for("most to be forgotten", || (1..=10).contains(&remembered())).await;
}

/// A long token counts for as much as its claims may take.
#[actix_rt::test]
async fn long_tokens_take_the_places_of_several() {
    let signer = Signer::new("EdDSA", "a");
    let tokens = of(&signer, &[("checked_max", "16")]).await;
    let long = |number: usize| signer.token(&claims(json!({ "sub": number.to_string(), "pad": "x".repeat(4000) })));
    let long: Vec<String> = (0..10).map(long).collect();
    for token in &long {
        tokens.ask(token.as_bytes(), Instant::now() + PATIENCE).await.unwrap();
    }
    let remembered = || long.iter().filter(|token| is_remembered(&tokens, token, Duration::ZERO)).count();
    wait_for("most to be forgotten", || remembered() <= 3).await;
}

/// However many tokens are to be checked, right ones and wrong ones, what else the worker has to do is done in between.
#[actix_rt::test]
async fn between_two_signatures_all_others_have_their_turn() {
    const MANY: usize = 100;
    let signer = Signer::new("EdDSA", "a");
    let tokens = of(&signer, &[]).await;
    let done = Rc::new(Cell::new(0));
    for number in 0..MANY {
        let (tokens, done) = (Arc::clone(&tokens), Rc::clone(&done));
        let mut token = signer.token(&claims(json!({ "sub": number.to_string() })));
        if number % 2 == 0 {
            token.replace_range(
                token.len() - 20..token.len() - 19,
                if token.as_bytes()[token.len() - 20] == b'A' { "B" } else { "A" },
            );
        }
        actix_rt::spawn(async move {
            let outcome = tokens.ask(token.as_bytes(), Instant::now() + PATIENCE).await;
            assert_eq!(outcome.is_ok(), number % 2 == 1);
            done.set(done.get() + 1);
        });
    }
    let mut most = 0;
    while done.get() < MANY {
        let before = done.get();
        tokio::task::yield_now().await;
        most = most.max(done.get() - before);
    }
    assert!(most <= 2, "{most} signatures between two turns");
}
