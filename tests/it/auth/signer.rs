//! An issuer of signed tokens, with the key set that they are checked by.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::instance::Plan;

const ISSUER: &str = "https://id.test";
const AUDIENCE: &str = "test-api";

/// Someone whose tokens are believed.
pub struct Signer {
    key: Ed25519KeyPair,
    dir: TempDir,
}

impl Signer {
    /// A signer with a key of its own.
    pub fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let public = BASE64.encode(key.public_key().as_ref());
        let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "1", "x": public }] });
        std::fs::write(dir.path().join("jwks.json"), set.to_string()).unwrap();
        Self { key, dir }
    }

    /// A plan whose instance believes this signer.
    pub fn believed(&self, plan: Plan) -> Plan {
        plan.set("auth.jwks_file", self.dir.path().join("jwks.json").to_str().unwrap())
            .set("auth.issuer", ISSUER)
            .set("auth.audience", AUDIENCE)
    }

    /// A token of someone, with these claims beside those that every token has.
    pub fn token(&self, subject: &str, claims: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 3600 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let encoded = |part: Value| BASE64.encode(part.to_string());
        let signed = format!("{}.{}", encoded(json!({ "alg": "EdDSA", "kid": "1", "typ": "JWT" })), encoded(all));
        let signature = BASE64.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The `Authorization` of someone with these scopes.
    pub fn bearer(&self, subject: &str, scopes: &str) -> String {
        format!("Bearer {}", self.token(subject, &json!({ "scope": scopes })))
    }
}
