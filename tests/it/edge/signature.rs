//! A strict reader of Signature Version 4: makes the signature again from what came over the wire, by the published rules.

use ring::digest::{SHA256, digest};
use ring::hmac;

use crate::source::upstream::server::Seen;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// What is wrong with a request's signature, if anything is.
pub fn check(seen: &Seen, access_key_id: &str, secret: &str, region: &str) -> Result<(), String> {
    let header = |name: &str| seen.header(name).ok_or_else(|| format!("no {name}: {seen:?}"));
    let authorization = header("authorization")?;
    let rest = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("another algorithm")?;
    let member = |name: &str| {
        let value = rest.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        value.ok_or_else(|| format!("no {name}: {authorization}"))
    };
    let (credential, signed, signature) = (member("Credential")?, member("SignedHeaders")?, member("Signature")?);
    let time = header("x-amz-date")?;
    let date = time.get(..8).ok_or("no date")?;
    let scope = format!("{date}/{region}/cloudfront/aws4_request");
    if credential != format!("{access_key_id}/{scope}") {
        return Err(format!("the scope is {credential}, not {scope}"));
    }
    let names: Vec<&str> = signed.split(';').collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    if sorted != names || !names.contains(&"host") || !names.contains(&"x-amz-date") {
        return Err(format!("these headers are signed: {signed}"));
    }
    if seen.header("x-amz-security-token").is_some() && !names.contains(&"x-amz-security-token") {
        return Err("the token is not signed".to_owned());
    }
    let mut lines = String::new();
    for name in &names {
        lines.push_str(&format!("{name}:{}\n", header(name)?.trim()));
    }
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let body = hex(digest(&SHA256, &seen.body).as_ref());
    let canonical = format!("{}\n{path}\n{query}\n{lines}\n{signed}\n{body}", seen.method);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(digest(&SHA256, canonical.as_bytes()).as_ref()));
    let key = [date, region, "cloudfront", "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
    let expected = hex(&mac(&key, &text));
    if expected == signature { Ok(()) } else { Err(format!("signed {signature}, not {expected}: {canonical}")) }
}
