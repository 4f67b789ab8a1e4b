//! The public keys of an issuer (RFC 7517), and signatures by them.
//!
//! Signatures are checked by `ring`. A key is of one kind and so for one algorithm, and a token is compared with keys of its own
//! algorithm alone: no header can have a key taken for another kind of key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::json;
use super::jws::{Algorithm, Jws};

/// How many keys a set may have.
const KEYS_MAX: usize = 100;
/// How many keys a token is compared with: one, unless it does not say which, or several have the same name.
const TRIES_MAX: usize = 8;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// ring takes exponents up to 33 bits.
const RSA_EXPONENT_BYTES_MAX: usize = 5;
/// Of an Ed25519 key, and of each coordinate of a point on P-256.
const CURVE_BYTES: usize = 32;

const SYMMETRIC: &str = "it is symmetric: whoever has read it can make tokens; replace it by a public one";
const PRIVATE: &str =
    "it is private: whoever has read it can make tokens; replace it by a new one, of which the set has the public part";

/// The keys of a set that tokens can be compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<PublicKey>,
}

/// A key of a set that is of no use here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its place in the set, from 1.
    pub place: usize,
    /// Its name.
    pub kid: Option<String>,
    /// Why.
    pub reason: &'static str,
}

impl LeftOut {
    /// Whether it should not be there at all. That a set has keys for other uses is common.
    pub fn is_secret(&self) -> bool {
        [SYMMETRIC, PRIVATE].contains(&self.reason)
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, kid, reason } = self;
        match kid {
            Some(kid) => write!(f, "key {place} ({kid:?}) is left out: {reason}"),
            None => write!(f, "key {place} is left out: {reason}"),
        }
    }
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// The token is signed by a key of the set.
    Yes,
    /// It is not.
    No,
    /// It names a key that the set does not have.
    UnknownKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PublicKey {
    kid: Option<String>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl KeySet {
    /// Reads a set: its keys that are of use, and those that are not.
    ///
    /// # Errors
    /// What is wrong with the set as a whole, in a sentence.
    pub fn read(bytes: &[u8]) -> Result<(Self, Vec<LeftOut>), String> {
        let mut set = json::object(bytes).map_err(|error| format!("it is not a JSON object: {error}"))?;
        let Some(Value::Array(members)) = set.remove("keys") else {
            return Err("it is not a key set: it has no array \"keys\"".to_owned());
        };
        if members.len() > KEYS_MAX {
            return Err(format!("it has {} keys, more than {KEYS_MAX}", members.len()));
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (place, member) in (1..).zip(members) {
            let kid = member.get("kid").and_then(Value::as_str).map(str::to_owned);
            match material(member) {
                Ok(material) => keys.push(PublicKey { kid, material }),
                Err(reason) => left_out.push(LeftOut { place, kid, reason }),
            }
        }
        Ok((Self { keys }, left_out))
    }

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no token can be right.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Compares the signature of a token with the key that it names; where it names none, with all for its algorithm.
    pub fn verify(&self, token: &Jws<'_>) -> Signed {
        let kid = token.kid.as_deref();
        // Names are compared and nothing else is done with them.
        if kid.is_some() && !self.keys.iter().any(|key| key.kid.as_deref() == kid) {
            return Signed::UnknownKey;
        }
        let is_meant = |key: &&PublicKey| {
            key.material.algorithm() == token.algorithm && (kid.is_none() || key.kid.as_deref() == kid)
        };
        let is_signed = self.keys.iter().filter(is_meant).take(TRIES_MAX).any(|key| key.material.verifies(token));
        if is_signed { Signed::Yes } else { Signed::No }
    }
}

impl Material {
    const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::EdDsa,
            Self::P256(_) => Algorithm::Es256,
            Self::Rsa { .. } => Algorithm::Rs256,
        }
    }

    fn verifies(&self, token: &Jws<'_>) -> bool {
        let (signed, signature) = (token.signed, &token.signature);
        let outcome = match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature),
            Self::P256(key) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(signed, signature),
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
            }
        };
        outcome.is_ok()
    }
}

/// A member of a set as it is written. Of what is secret only that it is there is read.
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
}

fn material(member: Value) -> Result<Material, &'static str> {
    let key: RawKey = serde_json::from_value(member).map_err(|_| "it is no JSON Web Key")?;
    if key.kty == "oct" {
        return Err(SYMMETRIC);
    }
    if key.d.is_some() || key.p.is_some() {
        return Err(PRIVATE);
    }
    if key.usage.as_ref().is_some_and(|usage| usage != "sig") {
        return Err("its use is not sig");
    }
    if key.key_ops.as_ref().is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return Err("its key_ops have no verify");
    }
    let material = match (key.kty.as_str(), key.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => Material::Ed25519(curve(key.x.as_deref())?),
        ("EC", Some("P-256")) => Material::P256(point(key.x.as_deref(), key.y.as_deref())?),
        ("RSA", _) => rsa(key.n.as_deref(), key.e.as_deref())?,
        _ => return Err("it is of another kind than Ed25519, P-256 and RSA"),
    };
    match &key.alg {
        Some(alg) if alg != material.algorithm().as_str() => Err("it is for another alg than EdDSA, ES256 and RS256"),
        _ => Ok(material),
    }
}

fn decoded(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let text = text.ok_or("a part of it is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of it is not base64url")
}

fn curve(text: Option<&str>) -> Result<Vec<u8>, &'static str> {
    let bytes = decoded(text)?;
    if bytes.len() == CURVE_BYTES { Ok(bytes) } else { Err("a part of it has not the length that its curve asks for") }
}

/// A point in the uncompressed form.
fn point(x: Option<&str>, y: Option<&str>) -> Result<Vec<u8>, &'static str> {
    Ok([vec![4], curve(x)?, curve(y)?].concat())
}

fn rsa(n: Option<&str>, e: Option<&str>) -> Result<Material, &'static str> {
    // Some issuers write the byte that keeps a number from being taken for a negative one, which ring does not take.
    let number = |text| decoded(text).map(|bytes| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>());
    let (n, e) = (number(n)?, number(e)?);
    let bits = n.first().map_or(0, |first| n.len() * 8 - usize::try_from(first.leading_zeros()).unwrap_or_default());
    if !RSA_BITS.contains(&bits) {
        return Err("its modulus has not 2048 to 8192 bits");
    }
    let is_odd = e.last().is_some_and(|last| last % 2 == 1);
    if !is_odd || e == [1] || e.len() > RSA_EXPONENT_BYTES_MAX {
        return Err("its exponent is none of RSA");
    }
    Ok(Material::Rsa { n, e })
}
