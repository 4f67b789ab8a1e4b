//! Those who make tokens: rightly, and otherwise.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::{AUDIENCE, ISSUER};

pub const ALGORITHMS: [&str; 3] = ["EdDSA", "ES256", "RS256"];

/// The time in tests that have one of their own: some day in 2026.
pub const NOW: Duration = Duration::from_secs(1_790_000_000);

/// A key pair and its name.
pub struct Signer {
    pair: Pair,
    pub kid: String,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    /// A new key for this algorithm; for RS256 the one that there is.
    pub fn new(algorithm: &str, kid: &str) -> Self {
        let random = SystemRandom::new();
        let pair = match algorithm {
            "EdDSA" => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
            }
            "ES256" => {
                let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                Pair::P256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap())
            }
            _ => {
                let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(include_bytes!("rsa.pem")).unwrap();
                Pair::Rsa(RsaKeyPair::from_pkcs8(pkcs8.secret_pkcs8_der()).unwrap())
            }
        };
        Self { pair, kid: kid.to_owned() }
    }

    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ed25519(_) => "EdDSA",
            Pair::P256(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// The public part as a member of a key set.
    pub fn public(&self) -> Value {
        let kid = &self.kid;
        match &self.pair {
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": BASE64.encode(pair.public_key()) })
            }
            Pair::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": BASE64.encode(x), "y": BASE64.encode(y) })
            }
            Pair::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "kid": kid, "n": BASE64.encode(n), "e": BASE64.encode(e) })
            }
        }
    }

    /// The public part with other members, or without those that are null.
    pub fn public_with(&self, change: Value) -> Value {
        changed(self.public(), change)
    }

    /// A token with the usual header.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(json!({}), claims)
    }

    /// A token with another header.
    pub fn token_with(&self, change: Value, claims: &Value) -> String {
        let header = changed(json!({ "typ": "JWT", "alg": self.algorithm(), "kid": self.kid }), change);
        self.signed(&header.to_string(), &claims.to_string())
    }

    /// A token of these texts.
    pub fn signed(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Pair::P256(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

/// An object with other members, or without those that are null.
pub fn changed(mut object: Value, change: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    let Value::Object(change) = change else { panic!("no object") };
    for (name, value) in change {
        match value {
            Value::Null => members.remove(&name),
            value => members.insert(name, value),
        };
    }
    object
}

/// A key set.
pub fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Claims that are right at a time, changed.
pub fn claims_at(now: Duration, change: Value) -> Value {
    let now = now.as_secs();
    changed(json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600 }), change)
}

/// Claims that are right now, changed.
pub fn claims(change: Value) -> Value {
    claims_at(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap(), change)
}
