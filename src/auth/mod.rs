//! Who asks: API keys, signed tokens, and what a session has seen.
//!
//! A request that shows a credential which was checked a moment ago is answered at once; the others wait for the one check.

pub mod jwt;
pub mod keys;
pub mod token;

use std::sync::Arc;
use std::time::Instant;

use crate::config::manifest::access::AuthMethod;
use crate::error::{Code, Error};
use crate::identity::Identity;

/// All that checks credentials.
#[derive(Default)]
pub struct Auth {
    /// API keys, where there is a database.
    pub keys: Option<keys::Keys>,
    /// Signed tokens, where a key set is configured.
    pub tokens: Option<jwt::Tokens>,
}

/// What is known of a credential without asking anybody.
#[derive(Debug)]
pub enum Look {
    /// Whose it is, or why it is nobody's.
    Known(Result<Arc<Identity>, Error>),
    /// It must be checked.
    Unknown,
}

impl Auth {
    /// What is known of a credential. Takes no lock for longer than a moment, and asks nobody.
    pub fn look(&self, method: AuthMethod, credential: &[u8], now: Instant) -> Look {
        match (method, &self.keys, &self.tokens) {
            (AuthMethod::Key, Some(keys), _) => keys.look(credential, now),
            (AuthMethod::Jwt, _, Some(tokens)) => tokens.look(credential, now),
            _ => Look::Known(Err(unchecked(method))),
        }
    }

    /// Checks a credential, until the deadline.
    ///
    /// # Errors
    /// `credentials_invalid`, `credentials_expired`; `auth_unavailable` where nobody can be asked.
    pub async fn ask(&self, method: AuthMethod, credential: &[u8], deadline: Instant) -> Result<Arc<Identity>, Error> {
        match (method, &self.keys, &self.tokens) {
            (AuthMethod::Key, Some(keys), _) => keys.ask(credential, deadline).await,
            (AuthMethod::Jwt, _, Some(tokens)) => tokens.ask(credential, deadline).await,
            _ => Err(unchecked(method)),
        }
    }
}

fn unchecked(method: AuthMethod) -> Error {
    Error::new(
        Code::AuthUnavailable,
        match method {
            AuthMethod::Key => "API keys cannot be checked here: this instance has no database",
            AuthMethod::Jwt => "tokens cannot be checked here: no key set is configured",
        },
    )
}
