//! Hits of callers who show a credential: an API key, or a signed token.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mainstay::auth::keys::{self, NewKey};
use mainstay::config::settings::{Layers, Settings};
use mainstay::database::maintenance::MaintenancePool;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

use crate::Outcome;
use crate::fetch::Answer;
use crate::load::Request;
use crate::servers::{Mainstay, Server};

/// The answer of the hits, once for holders of keys and once for holders of tokens.
const ROUTES: &str = concat!(
    include_str!("routes.toml"),
    r#"
[[route]]
path = "/keyed/blob"
result = "row"
sql = "SELECT json_build_object('digests', json_agg(md5(i::text))) AS body FROM generate_series(1, 28) AS i"
auth = "key"
shared = true
  [route.cache]
  ttl = "1h"
  watch = ["pgbench_branches"]

[[route]]
path = "/token/blob"
result = "row"
sql = "SELECT json_build_object('digests', json_agg(md5(i::text))) AS body FROM generate_series(1, 28) AS i"
auth = "jwt"
shared = true
  [route.cache]
  ttl = "1h"
  watch = ["pgbench_branches"]
"#
);
const ISSUER: &str = "https://id.bench";
const AUDIENCE: &str = "bench";

/// What is asked with a credential, of a Mainstay that asks for it.
pub struct Caller {
    pub name: &'static str,
    pub server: Rc<Server>,
    pub request: Request,
}

/// Starts a Mainstay on the database of this URL, with one who has a key and one who has a token.
pub fn start(work: &Path, mainstay: &Mainstay, url: &str) -> Outcome<[Caller; 2]> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| "no randomness")?;
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| "no key")?;
    let public = BASE64.encode(pair.public_key());
    let set = work.join("jwks.json");
    fs::write(&set, json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "x": public }] }).to_string())?;
    let mainstay = mainstay
        .clone()
        .with_routes(ROUTES)
        .with("MAINSTAY__AUTH__JWKS_FILE", set.display())
        .with("MAINSTAY__AUTH__ISSUER", ISSUER)
        .with("MAINSTAY__AUTH__AUDIENCE", AUDIENCE);
    mainstay.migrate(work)?;
    let server = Rc::new(mainstay.start(work, "mainstay-auth")?);
    let caller = |name, path, credential: &str| {
        learn_hit(&server, path, credential)?;
        let header = Some(format!("authorization: Bearer {credential}"));
        Ok::<_, Box<dyn std::error::Error>>(Caller {
            name,
            server: server.clone(),
            request: Request { path, header, status: 200 },
        })
    };
    Ok([
        caller("mainstay-key", "/keyed/blob", &key(work, url)?)?,
        caller("mainstay-token", "/token/blob", &token(&pair)?)?,
    ])
}

fn key(work: &Path, url: &str) -> Outcome<String> {
    let env = HashMap::from([("DATABASE_URL".to_owned(), url.to_owned())]);
    let settings = Settings::load(Layers { dir: work, env, flags: Vec::new() })?;
    let mut conn = MaintenancePool::open(&settings.database)?.get()?;
    let key = NewKey { name: "bench".to_owned(), ..NewKey::default() };
    Ok(keys::create(&mut conn, &key)?.api_key.expose().to_owned())
}

/// A token that outlives the run.
fn token(pair: &Ed25519KeyPair) -> Outcome<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let header = json!({ "alg": "EdDSA", "kid": "1", "typ": "JWT" });
    let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "bench", "iat": now, "exp": now + 86_400 });
    let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    Ok(format!("{signed}.{}", BASE64.encode(pair.sign(signed.as_bytes()))))
}

/// Asks until the answer comes out of L1.
fn learn_hit(server: &Server, path: &str, credential: &str) -> Outcome<()> {
    let (begun, bearer) = (Instant::now(), format!("Bearer {credential}"));
    loop {
        let answer = Answer::get(&format!("{}{path}", server.url), &[("authorization", &bearer)])?;
        let status = answer.header("cache-status").unwrap_or_default();
        if status.contains("; hit; ttl=") {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("{path} is answered {} and not from the cache: {}", answer.status, answer.body).into());
        }
        thread::sleep(Duration::from_millis(50));
    }
}
