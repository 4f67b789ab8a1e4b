//! A token in its compact form (RFC 7515): `header.payload.signature`, each in base64url without padding.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{invalid, json};
use crate::error::Error;

/// How long a token may be, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// How a token may be signed. There are no others: `none` is no signature, and with `HS256` and its kind whoever knows a key to
/// check tokens with could make them, which here is everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// As `alg` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// A token whose parts can be read. Nothing of it is believed yet.
#[derive(Debug)]
pub struct Jws<'a> {
    /// How it says it is signed.
    pub algorithm: Algorithm,
    /// Which key it says signed it.
    pub kid: Option<String>,
    /// What is signed.
    pub signed: &'a [u8],
    /// What should prove it.
    pub signature: Vec<u8>,
    /// What it says.
    pub payload: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// `credentials_invalid`, with what is wrong about its form.
    pub fn parse(token: &'a [u8]) -> Result<Self, Error> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(invalid("the token is longer than 8192 bytes"));
        }
        let malformed = || invalid("the token is not a signed JWT: header.payload.signature, each in base64url");
        let text = std::str::from_utf8(token).map_err(|_| malformed())?;
        let (signed, signature) = text.rsplit_once('.').ok_or_else(malformed)?;
        // A further dot is no letter of base64url.
        let (header, payload) = signed.split_once('.').ok_or_else(malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header = json::object(&header).map_err(|_| invalid("the token's header is not a JSON object"))?;
        Ok(Self { algorithm: algorithm(&header)?, kid: kid(&header)?, signed: signed.as_bytes(), signature, payload })
    }
}

/// The header's algorithm. Keys that a header brings or points to (`jwk`, `jku`, `x5c`, `x5u`) are not looked at.
fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, Error> {
    // What must be understood is not: no extension is (RFC 7515, section 4.1.11).
    if header.contains_key("crit") {
        return Err(invalid("the token's header has crit, and no extension is understood here"));
    }
    let name = header.get("alg").and_then(Value::as_str);
    name.and_then(Algorithm::of_name).ok_or_else(|| invalid("the token's alg is not one of EdDSA, ES256, RS256"))
}

fn kid(header: &Map<String, Value>) -> Result<Option<String>, Error> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) => Ok(Some(kid.clone())),
        Some(_) => Err(invalid("the token's kid is not a text")),
    }
}
