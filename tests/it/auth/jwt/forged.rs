//! Tokens that nobody has signed, or not so.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD as BASE64};
use mainstay::auth::jwt::jws::{Jws, TOKEN_BYTES_MAX};
use mainstay::auth::jwt::keyset::{KeySet, Signed};
use mainstay::error::Code;
use ring::hmac;
use serde_json::{Value, json};

use super::issuer::{ALGORITHMS, NOW, Signer, changed, claims_at, set};

/// One key of each kind, named by its algorithm.
fn signers() -> Vec<Signer> {
    ALGORITHMS.iter().map(|algorithm| Signer::new(algorithm, algorithm)).collect()
}

fn keys(signers: &[Signer]) -> KeySet {
    let publics: Vec<Value> = signers.iter().map(Signer::public).collect();
    let (keys, left_out) = KeySet::read(set(&publics).as_bytes()).unwrap();
    assert_eq!(left_out, []);
    keys
}

/// What a set says of a token; `None`: it is not even one.
fn outcome(keys: &KeySet, token: impl AsRef<[u8]>) -> Option<Signed> {
    match Jws::parse(token.as_ref()) {
        Ok(jws) => Some(keys.verify(&jws)),
        Err(refused) => {
            assert_eq!(refused.code, Code::CredentialsInvalid);
            None
        }
    }
}

fn payload() -> Value {
    claims_at(NOW, json!({}))
}

#[test]
fn each_algorithm_is_taken_with_a_key_of_its_kind() {
    let signers = signers();
    let keys = keys(&signers);
    for signer in &signers {
        assert_eq!(outcome(&keys, signer.token(&payload())), Some(Signed::Yes), "{}", signer.algorithm());
        let nameless = signer.token_with(json!({ "kid": null }), &payload());
        assert_eq!(outcome(&keys, nameless), Some(Signed::Yes), "{}", signer.algorithm());
        let another = Signer::new("EdDSA", &signer.kid);
        assert_eq!(outcome(&keys, another.token(&payload())), Some(Signed::No), "a key of the same name");
    }
}

/// The name of a key is more than a hint.
#[test]
fn a_token_is_compared_with_the_key_that_it_names_alone() {
    let signers = [Signer::new("ES256", "one"), Signer::new("ES256", "other")];
    let keys = keys(&signers);
    for (signer, name) in [(&signers[0], "other"), (&signers[1], "one")] {
        assert_eq!(outcome(&keys, signer.token_with(json!({ "kid": name }), &payload())), Some(Signed::No));
    }
}

/// Whatever one letter is changed into, whatever is left off or added.
#[test]
fn no_mutation_passes() {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \0\xff";
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let signers = signers();
    let keys = keys(&signers);
    for signer in &signers {
        let token = signer.token(&payload()).into_bytes();
        let refused = |mutant: &[u8]| {
            let text = String::from_utf8_lossy(mutant);
            assert_ne!(outcome(&keys, mutant), Some(Signed::Yes), "{}: {text}", signer.algorithm());
        };
        for at in 0..token.len() {
            let mut mutant = token.clone();
            mutant[at] =
                *random.choice(LETTERS.iter().filter(|letter| **letter != token[at]).collect::<Vec<_>>()).unwrap();
            refused(&mutant);
            // At the end of a part, some letters differ in bits that no byte has.
            if token.get(at + 1).is_none_or(|next| *next == b'.') {
                for letter in LETTERS.iter().filter(|letter| **letter != token[at]) {
                    mutant[at] = *letter;
                    refused(&mutant);
                }
            }
            let mut shorter = token.clone();
            shorter.remove(at);
            refused(&shorter);
            refused(&token[..at]);
        }
        for letter in LETTERS {
            refused(&[&token[..], &[*letter]].concat());
            refused(&[&[*letter], &token[..]].concat());
        }
    }
}

/// The header does not say what a key is.
#[test]
fn a_key_is_taken_for_none_of_another_kind() {
    let signers = signers();
    let keys = keys(&signers);
    for signer in &signers {
        for said in ALGORITHMS.iter().filter(|said| **said != signer.algorithm()) {
            for change in
                [json!({ "alg": said }), json!({ "alg": said, "kid": said }), json!({ "alg": said, "kid": null })]
            {
                let token = signer.token_with(change, &payload());
                assert_eq!(outcome(&keys, token), Some(Signed::No), "{} as {said}", signer.algorithm());
            }
        }
    }
}

#[test]
fn no_public_key_is_taken_for_a_secret() {
    let signers = signers();
    let keys = keys(&signers);
    for signer in &signers {
        let public = signer.public();
        let parts = ["x", "n"].iter().filter_map(|name| public[name].as_str());
        let secrets = parts.flat_map(|part| [part.as_bytes().to_vec(), BASE64.decode(part).unwrap()]);
        for secret in secrets.chain([public.to_string().into_bytes()]) {
            for alg in ["HS256", "HS384", "HS512"] {
                let header = json!({ "alg": alg, "kid": signer.kid }).to_string();
                let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload().to_string()));
                let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
                assert_eq!(outcome(&keys, format!("{signed}.{}", BASE64.encode(tag))), None);
            }
        }
    }
}

#[test]
fn headers_that_ask_for_more_are_refused() {
    let signers = signers();
    let keys = keys(&signers);
    let signer = &signers[0];
    let other = Signer::new("EdDSA", "other");
    for (change, expected) in [
        (json!({ "alg": "none" }), None),
        (json!({ "alg": "None" }), None),
        (json!({ "alg": "nOnE" }), None),
        (json!({ "alg": "eddsa" }), None),
        (json!({ "alg": "EdDSA " }), None),
        (json!({ "alg": "RS512" }), None),
        (json!({ "alg": "PS256" }), None),
        (json!({ "alg": "ES384" }), None),
        (json!({ "alg": "ES256K" }), None),
        (json!({ "alg": ["EdDSA"] }), None),
        (json!({ "alg": 1 }), None),
        (json!({ "alg": null }), None),
        (json!({ "crit": ["exp"] }), None),
        (json!({ "crit": [] }), None),
        (json!({ "crit": ["b64"], "b64": false }), None),
        (json!({ "kid": 1 }), None),
        (json!({ "kid": ["EdDSA"] }), None),
        (json!({ "kid": { "a": 1 } }), None),
        (json!({ "kid": "" }), Some(Signed::UnknownKey)),
        (json!({ "kid": "../../../../dev/null" }), Some(Signed::UnknownKey)),
        (json!({ "kid": "file:///etc/passwd" }), Some(Signed::UnknownKey)),
        (json!({ "kid": "x' UNION SELECT 'k" }), Some(Signed::UnknownKey)),
        (json!({ "kid": "EdDSA\u{0}" }), Some(Signed::UnknownKey)),
        (json!({ "kid": "eddsa" }), Some(Signed::UnknownKey)),
        // What needs not be understood is not looked at.
        (json!({ "typ": "at+jwt", "cty": "x", "jku": "http://127.0.0.1:1/", "b64": true }), Some(Signed::Yes)),
    ] {
        assert_eq!(outcome(&keys, signer.token_with(change.clone(), &payload())), expected, "{change}");
    }
    // A token that brings its own key along.
    for kid in ["EdDSA", "other"] {
        let token = other.token_with(json!({ "kid": kid, "jwk": other.public(), "x5c": ["MIIB"] }), &payload());
        assert!(matches!(outcome(&keys, token), Some(Signed::No | Signed::UnknownKey)));
    }
}

#[test]
fn a_form_that_two_readers_could_read_in_two_ways_is_none() {
    let signers = signers();
    let keys = keys(&signers);
    let signer = &signers[0];
    let good = payload().to_string();
    assert_eq!(outcome(&keys, signer.signed(r#"{"alg":"EdDSA"}"#, &good)), Some(Signed::Yes));
    for header in [
        r#"{"alg":"none","alg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","\u0061lg":"none"}"#,
        r#"{"alg":"EdDSA","kid":"EdDSA","kid":"x"}"#,
        r#"{"alg":"EdDSA"}{}"#,
        r#"{"alg":"EdDSA",}"#,
        r#"["EdDSA"]"#,
        r#""EdDSA""#,
        "null",
        "",
    ] {
        assert_eq!(outcome(&keys, signer.signed(header, &good)), None, "{header}");
    }
    let deep = format!(r#"{{"alg":"EdDSA","a":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    assert_eq!(outcome(&keys, signer.signed(&deep, &good)), None);

    let token = signer.token(&payload());
    let [header, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let bytes = BASE64.decode(signature).unwrap();
    for form in [
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{header}.{claims}.{signature}."),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}.{claims}.{signature}.{signature}.{signature}"),
        format!("{header}.{claims}.{}", URL_SAFE.encode(&bytes)),
        format!("{header}.{claims}.{signature}\n"),
        format!("{header}.{claims} .{signature}"),
        String::new(),
        "..".to_owned(),
    ] {
        assert_ne!(outcome(&keys, &form), Some(Signed::Yes), "{form}");
    }
    let standard = STANDARD_NO_PAD.encode(&bytes);
    assert!(standard == signature || outcome(&keys, format!("{header}.{claims}.{standard}")).is_none());
}

#[test]
fn a_token_has_an_end() {
    let signers = signers();
    let keys = keys(&signers);
    let sized = |pad: usize| signers[0].token(&changed(payload(), json!({ "pad": "x".repeat(pad) })));
    let least = sized(0).len();
    let most = (TOKEN_BYTES_MAX - least) * 3 / 4 - 4;
    assert_eq!(outcome(&keys, sized(most)), Some(Signed::Yes));
    let longer = sized(most + 8);
    assert!(longer.len() > TOKEN_BYTES_MAX);
    assert_eq!(Jws::parse(longer.as_bytes()).unwrap_err().detail, "the token is longer than 8192 bytes");
}
