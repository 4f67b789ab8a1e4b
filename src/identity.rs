//! Who asks, once that is proven: what an API key or a signed token says of its bearer.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::overload::Rate;

/// A caller whose credential was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Who it is, the same for every credential of theirs: `key:` and the owner of the key, or `jwt:`, the issuer, `|` and the
    /// token's `sub`. What belongs to one caller alone belongs to this.
    pub subject: Arc<str>,
    /// The key that was shown, where it was one.
    pub key: Option<Key>,
    /// What the caller may do.
    pub scopes: Vec<Box<str>>,
    /// What is known of the caller: the claims of a token; of a key `sub`, `scope` and what it was created with.
    pub claims: Map<String, Value>,
}

/// An API key, as far as requests are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its public part, by which it is listed, revoked and logged.
    pub prefix: Arc<str>,
    /// How often it may be used.
    pub rate: Option<Rate>,
}

impl Identity {
    /// Whether the caller has all of these scopes.
    pub fn has_scopes(&self, required: &[String]) -> bool {
        required.iter().all(|required| self.scopes.iter().any(|scope| **scope == **required))
    }
}
