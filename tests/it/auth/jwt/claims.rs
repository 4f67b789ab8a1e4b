//! What a token must say.

use std::time::Duration;

use mainstay::auth::jwt::claims::Rules;
use mainstay::error::{Code, Error};
use mainstay::identity::Identity;
use serde_json::{Value, json};

use super::issuer::{NOW, claims_at};
use super::{AUDIENCE, ISSUER, settings};

fn rules() -> Rules {
    Rules::new(&settings(&[("leeway", "30s"), ("audience", &format!("other,{AUDIENCE}"))]))
}

fn check(change: Value) -> Result<(Identity, Duration), Error> {
    rules().check(claims_at(NOW, change).to_string().as_bytes(), NOW)
}

/// Seconds from now.
fn at(seconds: i64) -> i64 {
    i64::try_from(NOW.as_secs()).unwrap() + seconds
}

#[test]
fn an_identity_is_what_the_token_says() {
    let (identity, left) = check(json!({ "scope": "rates:read  fees:read", "tenant": { "id": 7 } })).unwrap();
    assert_eq!(&*identity.subject, "jwt:https://id.test|alice");
    assert_eq!(identity.key, None);
    assert!(identity.has_scopes(&["rates:read".to_owned(), "fees:read".to_owned()]) && identity.scopes.len() == 2);
    assert_eq!(identity.claims["tenant"]["id"], 7);
    assert_eq!(left, Duration::from_secs(630), "until exp, and the leeway");
}

#[test]
fn scopes_are_what_both_claims_say() {
    for (change, expected) in [
        (json!({}), vec![]),
        (json!({ "scope": "" }), vec![]),
        (json!({ "scope": "a b", "scp": ["b", "c"] }), vec!["a", "b", "c"]),
        (json!({ "scp": "a b" }), vec!["a", "b"]),
        (json!({ "scope": ["a", "b"] }), vec!["a", "b"]),
    ] {
        let (identity, _) = check(change.clone()).unwrap();
        assert_eq!(identity.scopes.iter().map(|scope| &**scope).collect::<Vec<_>>(), expected, "{change}");
    }
    for change in [json!({ "scope": 1 }), json!({ "scp": { "a": 1 } }), json!({ "scope": ["a", 1] })] {
        assert!(check(change).unwrap_err().detail.contains("neither a text nor an array"));
    }
}

/// Each refusal helps whoever has taken the wrong token, and says nothing of which would be the right one.
#[test]
fn each_claim_that_is_wrong_is_named() {
    for (change, code, says) in [
        (json!({ "iss": null }), Code::CredentialsInvalid, "iss is not this API's issuer"),
        (json!({ "iss": "https://id.test/" }), Code::CredentialsInvalid, "iss"),
        (json!({ "iss": [ISSUER] }), Code::CredentialsInvalid, "iss"),
        (json!({ "aud": null }), Code::CredentialsInvalid, "aud is not for this API"),
        (json!({ "aud": "https://other.test" }), Code::CredentialsInvalid, "aud"),
        (json!({ "aud": [] }), Code::CredentialsInvalid, "aud"),
        (json!({ "aud": ["a", "b"] }), Code::CredentialsInvalid, "aud"),
        (json!({ "aud": [AUDIENCE, 1] }), Code::CredentialsInvalid, "aud"),
        (json!({ "aud": { AUDIENCE: 1 } }), Code::CredentialsInvalid, "aud"),
        (json!({ "aud": format!("{AUDIENCE} ") }), Code::CredentialsInvalid, "aud"),
        (json!({ "sub": null }), Code::CredentialsInvalid, "sub"),
        (json!({ "sub": "" }), Code::CredentialsInvalid, "sub"),
        (json!({ "sub": 7 }), Code::CredentialsInvalid, "sub"),
        (json!({ "sub": "a\u{0}b" }), Code::CredentialsInvalid, "sub"),
        (json!({ "sub": "a\nb" }), Code::CredentialsInvalid, "sub"),
        (json!({ "sub": "a".repeat(256) }), Code::CredentialsInvalid, "sub"),
        (json!({ "exp": null }), Code::CredentialsInvalid, "has no exp"),
        (json!({ "exp": "tomorrow" }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": at(600).to_string() }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": [at(600)] }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": true }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": -1 }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": i64::MIN }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": u64::MAX }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": 1e300 }), Code::CredentialsInvalid, "exp is not a time"),
        // Milliseconds, which would be the year 58000.
        (json!({ "exp": at(600) * 1000 }), Code::CredentialsInvalid, "exp is not a time"),
        (json!({ "exp": 0 }), Code::CredentialsExpired, "expired"),
        (json!({ "exp": at(-30) }), Code::CredentialsExpired, "expired"),
        (json!({ "nbf": at(31) }), Code::CredentialsInvalid, "nbf"),
        (json!({ "nbf": "now" }), Code::CredentialsInvalid, "nbf is not a time"),
        (json!({ "iat": at(31) }), Code::CredentialsInvalid, "iat"),
        (json!({ "iat": 1e300 }), Code::CredentialsInvalid, "iat is not a time"),
        // Expired is what was right otherwise.
        (json!({ "exp": at(-60), "aud": "other-api" }), Code::CredentialsInvalid, "aud"),
        (json!({ "exp": at(-60), "nbf": at(60) }), Code::CredentialsInvalid, "nbf"),
    ] {
        let refused = check(change.clone()).unwrap_err();
        assert_eq!(refused.code, code, "{change}: {refused}");
        assert!(refused.detail.contains(says), "{change}: {refused}");
        assert!(!refused.detail.contains("test"), "nothing of the settings: {refused}");
    }
}

#[test]
fn each_claim_may_be_written_in_the_ways_there_are() {
    for change in [
        json!({ "aud": [AUDIENCE] }),
        json!({ "aud": ["a", AUDIENCE, "b"] }),
        json!({ "aud": "other" }),
        json!({ "exp": at(-29) }),
        json!({ "exp": 1_790_000_000.5 }),
        json!({ "exp": 253_402_300_799_i64 }),
        json!({ "nbf": at(30), "iat": at(30) }),
        json!({ "nbf": at(-100_000), "iat": null }),
        json!({ "sub": "ä".repeat(127) }),
    ] {
        check(change.clone()).unwrap_or_else(|refused| panic!("{change}: {refused}"));
    }
}

/// The edges of time, to the second: with the leeway of 30 s a token counts for so long.
#[test]
fn a_token_counts_until_its_time_is_over() {
    let payload = claims_at(NOW, json!({ "nbf": at(0) })).to_string();
    for (seconds, is_right) in
        [(-31, false), (-30, true), (0, true), (600, true), (629, true), (630, false), (631, false)]
    {
        let now = Duration::from_secs(u64::try_from(at(seconds)).unwrap());
        assert_eq!(rules().check(payload.as_bytes(), now).is_ok(), is_right, "{seconds}");
    }
    assert!(rules().check(payload.as_bytes(), Duration::ZERO).is_err());
    assert!(rules().check(payload.as_bytes(), Duration::MAX).is_err(), "a clock that is broken");
}

#[test]
fn claims_that_two_readers_could_read_in_two_ways_are_none() {
    let good = claims_at(NOW, json!({})).to_string();
    let inside = good.strip_suffix('}').unwrap();
    assert!(rules().check(good.as_bytes(), NOW).is_ok());
    for payload in [
        format!("{inside},\"sub\":\"mallory\"}}"),
        format!("{inside},\"\\u0073ub\":\"mallory\"}}"),
        format!("{inside},\"a\":{{\"b\":1,\"b\":2}}}}"),
        format!("{inside},\"a\":1e999}}"),
        format!("{inside},\"a\":{}{}}}", "[".repeat(100), "]".repeat(100)),
        format!("{good}{good}"),
        format!("[{good}]"),
        format!("\u{feff}{good}"),
        String::new(),
    ] {
        let refused = rules().check(payload.as_bytes(), NOW).unwrap_err();
        assert_eq!(refused.detail, "the token's claims are not a JSON object", "{payload}");
    }
}
