//! Signed tokens, as an operator sets them up: by the environment, with a key set in a file.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mainstay::local::Signal;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use crate::support::{Cluster, Folder, Origin, PATIENCE, mainstay, request};

const ROUTES: &str = r#"
[[route]]
path = "/me"
sql = "SELECT $1 AS who"
result = "row"
auth = "jwt"
params = [{ name = "sub", in = "claim", type = "text" }]
"#;

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap())
    }

    fn key_set(&self) -> String {
        let public = BASE64.encode(self.0.public_key());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": public, "x": public }] }).to_string()
    }

    fn bearer(&self, sub: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "alg": "EdDSA", "kid": BASE64.encode(self.0.public_key()) });
        let claims = json!({ "iss": "https://id.test", "aud": "api", "sub": sub, "exp": now + 3600 });
        let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        format!("Bearer {signed}.{}", BASE64.encode(self.0.sign(signed.as_bytes())))
    }
}

#[test]
fn a_key_set_in_a_file_is_all_it_takes_and_its_keys_can_be_changed_while_it_runs() {
    let (old, new) = (Signer::new(), Signer::new());
    let cluster = Cluster::shared();
    let url = cluster.primary.url("postgres", &cluster.database(""));
    let folder = Folder::new(ROUTES);
    folder.write("keys.json", &old.key_set());
    let keys = folder.join("keys.json");
    let mut origin = Origin::start(
        folder.path(),
        &[
            ("DATABASE_URL", &url),
            ("MAINSTAY__AUTH__JWKS_FILE", keys.to_str().unwrap()),
            ("MAINSTAY__AUTH__ISSUER", "https://id.test"),
            ("MAINSTAY__AUTH__AUDIENCE", "api"),
        ],
    );
    let me = format!("{}/me", origin.base);
    let ask = |bearer: &str| request("GET", &me, &[("Authorization", bearer)], None);
    let mut last = None;
    let is_answered = || last.insert(ask(&old.bearer("alice"))).status == 200;
    assert!(mainstay::local::wait_until(PATIENCE, is_answered), "{last:?}");
    assert_eq!(last.unwrap().json()["who"], "alice");
    let reply = ask(&new.bearer("alice"));
    assert_eq!((reply.status, reply.code().as_str()), (401, "credentials_invalid"));
    assert_eq!(origin.get("/me").code(), "unauthorized");

    folder.write("keys.json", &new.key_set());
    origin.program.signal(Signal::HUP);
    assert!(mainstay::local::wait_until(PATIENCE, || ask(&new.bearer("bob")).status == 200));
    assert_eq!(ask(&old.bearer("alice")).code(), "credentials_invalid");
    let output = origin.program.output();
    assert!(!output.contains("eyJ"), "no token is logged: {output}");
    origin.program.signal(Signal::TERM);
    assert!(origin.program.wait().success());
}

#[test]
fn a_key_set_that_is_of_no_use_is_64() {
    let folder = Folder::new(ROUTES);
    folder.write("keys.json", "{\"keys\":[{\"kty\":\"oct\",\"kid\":\"shared\",\"k\":\"c2VjcmV0\"}]}");
    let keys = folder.join("keys.json");
    let env = [
        ("BIND_ADDR", "127.0.0.1:0"),
        ("ADMIN_ADDR", "127.0.0.1:0"),
        ("MAINSTAY__AUTH__JWKS_FILE", keys.to_str().unwrap()),
        ("MAINSTAY__AUTH__ISSUER", "https://id.test"),
        ("MAINSTAY__AUTH__AUDIENCE", "api"),
    ];
    let outcome = mainstay(&["serve", "--config", folder.text()], &env);
    assert_eq!(outcome.code, Some(64), "{outcome:?}");
    assert!(
        outcome.stderr.contains("auth.jwks_file: ") && outcome.stderr.contains("key 1 (\"shared\")"),
        "{outcome:?}"
    );
    assert!(!outcome.stderr.contains("c2VjcmV0"), "{outcome:?}");
    let outcome = mainstay(&["check", "--config", folder.text()], &[]);
    assert!(outcome.stderr.contains("auth = \"jwt\" needs"), "{outcome:?}");
}
