//! Key sets: which keys of one are of use.

use mainstay::auth::jwt::jws::Jws;
use mainstay::auth::jwt::keyset::{KeySet, Signed};
use serde_json::{Value, json};

use super::issuer::{NOW, Signer, claims_at, set};

/// Why the one key of a set is left out.
fn left_out(key: Value) -> Option<&'static str> {
    let (keys, mut left_out) = KeySet::read(set(&[key]).as_bytes()).unwrap();
    assert_eq!(keys.len() + left_out.len(), 1);
    left_out.pop().map(|key| key.reason)
}

#[test]
fn a_key_of_another_use_kind_or_size_is_left_out() {
    let (ed, p256, rsa) = (Signer::new("EdDSA", "e"), Signer::new("ES256", "p"), Signer::new("RS256", "r"));
    for (key, says) in [
        (json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "s" }), "symmetric"),
        (ed.public_with(json!({ "d": "AAAA" })), "private"),
        (p256.public_with(json!({ "d": "AAAA" })), "private"),
        (rsa.public_with(json!({ "d": "AAAA" })), "private"),
        (rsa.public_with(json!({ "p": "AAAA" })), "private"),
        (rsa.public_with(json!({ "use": "enc" })), "use"),
        (rsa.public_with(json!({ "key_ops": [] })), "key_ops"),
        (rsa.public_with(json!({ "key_ops": ["sign", "encrypt"] })), "key_ops"),
        (rsa.public_with(json!({ "alg": "RS512" })), "another alg"),
        (rsa.public_with(json!({ "alg": "PS256" })), "another alg"),
        (rsa.public_with(json!({ "alg": "HS256" })), "another alg"),
        (rsa.public_with(json!({ "alg": "EdDSA" })), "another alg"),
        (rsa.public_with(json!({ "alg": 1 })), "no JSON Web Key"),
        (rsa.public_with(json!({ "e": null })), "missing"),
        (rsa.public_with(json!({ "n": "a+b/" })), "base64url"),
        (rsa.public_with(json!({ "n": "A".repeat(171) + "A" })), "2048 to 8192"),
        (rsa.public_with(json!({ "n": format!("_{}", "A".repeat(170)) })), "2048 to 8192"),
        (rsa.public_with(json!({ "n": format!("_{}", "A".repeat(1399)) })), "2048 to 8192"),
        (rsa.public_with(json!({ "e": "AQ" })), "exponent"),
        (rsa.public_with(json!({ "e": "AQAA" })), "exponent"),
        (rsa.public_with(json!({ "e": "AAAA" })), "exponent"),
        (rsa.public_with(json!({ "e": "AQEBAQEB" })), "exponent"),
        (ed.public_with(json!({ "crv": "Ed448" })), "another kind"),
        (ed.public_with(json!({ "crv": "X25519" })), "another kind"),
        (ed.public_with(json!({ "x": "AAAA" })), "length"),
        (p256.public_with(json!({ "crv": "P-384" })), "another kind"),
        (p256.public_with(json!({ "crv": "secp256k1" })), "another kind"),
        (p256.public_with(json!({ "y": null })), "missing"),
        (p256.public_with(json!({ "kty": "ec" })), "another kind"),
        (json!({ "kid": "x" }), "no JSON Web Key"),
        (json!("x"), "no JSON Web Key"),
        (json!(null), "no JSON Web Key"),
    ] {
        let reason = left_out(key.clone()).unwrap_or_else(|| panic!("taken: {key}"));
        assert!(reason.contains(says), "{key}: {reason}");
    }
    for key in [
        ed.public_with(json!({ "use": "sig", "alg": "EdDSA", "key_ops": ["verify"] })),
        p256.public_with(json!({ "alg": "ES256", "x5t": "AAAA", "more": [1] })),
        rsa.public_with(json!({ "alg": "RS256", "x5c": ["MIIB"], "kid": null })),
    ] {
        assert_eq!(left_out(key.clone()), None, "{key}");
    }
}

/// One key that is odd does not take the others with it, and no secret of it is said.
#[test]
fn what_is_left_out_is_named_by_its_place() {
    let keys = [json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "old\n" }), Signer::new("EdDSA", "new").public()];
    let (keys, left_out) = KeySet::read(set(&keys).as_bytes()).unwrap();
    assert_eq!((keys.len(), left_out.len()), (1, 1));
    let said = left_out[0].to_string();
    assert!(said.starts_with("key 1 (\"old\\n\") is left out: it is symmetric") && !said.contains("c2V"), "{said}");
    assert!(left_out[0].is_secret());
}

#[test]
fn what_is_no_key_set_is_refused_whole() {
    let many = vec![Signer::new("EdDSA", "x").public(); 101];
    for (text, says) in [
        ("", "not a JSON object"),
        ("<html>", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{\"keys\":[]} x", "not a JSON object"),
        ("{\"keys\":[],\"keys\":[]}", "stands twice"),
        ("{}", "no array \"keys\""),
        ("{\"keys\":{}}", "no array \"keys\""),
        (&set(&many), "101 keys"),
    ] {
        let refused = KeySet::read(text.as_bytes()).unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
    assert_eq!(KeySet::read(set(&many[..100]).as_bytes()).unwrap().0.len(), 100);
    assert!(KeySet::read(b"{\"keys\":[]}").unwrap().0.is_empty());
}

/// A byte that some issuers write before the number.
#[test]
fn a_modulus_may_begin_with_a_zero() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let rsa = Signer::new("RS256", "r");
    let n = BASE64.decode(rsa.public()["n"].as_str().unwrap()).unwrap();
    let key = rsa.public_with(json!({ "n": BASE64.encode([vec![0], n].concat()) }));
    let (keys, _) = KeySet::read(set(&[key]).as_bytes()).unwrap();
    let token = rsa.token(&claims_at(NOW, json!({})));
    assert_eq!(keys.verify(&Jws::parse(token.as_bytes()).unwrap()), Signed::Yes);
}

/// Keys of one name, as RFC 7517 allows for keys of several kinds, and issuers that write no names.
#[test]
fn a_token_is_compared_with_all_keys_that_may_be_meant_up_to_a_limit() {
    let signers: Vec<Signer> = (0..9).map(|_| Signer::new("EdDSA", "same")).collect();
    let publics: Vec<Value> = signers.iter().map(Signer::public).collect();
    let (keys, _) = KeySet::read(set(&publics).as_bytes()).unwrap();
    for change in [json!({}), json!({ "kid": null })] {
        let outcomes = signers.iter().map(|signer| {
            let token = signer.token_with(change.clone(), &claims_at(NOW, json!({})));
            keys.verify(&Jws::parse(token.as_bytes()).unwrap())
        });
        let expected = [vec![Signed::Yes; 8], vec![Signed::No]].concat();
        assert_eq!(outcomes.collect::<Vec<_>>(), expected, "eight are tried");
    }
}
