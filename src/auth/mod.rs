//! Who asks: API keys, signed tokens, and what a session has seen.
//!
//! A request that shows a credential which was checked a moment ago is answered at once; the others wait for the one check.

pub mod jwt;
pub mod keys;
pub mod token;

use std::sync::Arc;
use std::time::Instant;

use crate::cache::fence::Fences;
use crate::config::ConfigError;
use crate::config::manifest::access::AuthMethod;
use crate::config::settings::Settings;
use crate::database::read::Database;
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::telemetry::metrics::Metrics;

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
    /// What an instance can check: keys where it has a database, whose changes these fences are told of; tokens where a key set is
    /// configured. A file of one is read here, which blocks.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(
        database: Option<&Arc<Database>>,
        fences: &Arc<Fences>,
        settings: &Settings,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ConfigError> {
        let keys = database.map(|database| keys::Keys::new(database, fences, settings, metrics));
        Ok(Self { keys, tokens: jwt::Tokens::new(&settings.auth, metrics)? })
    }

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

    /// Writes down now and then which keys were used, for as long as the instance lives.
    pub async fn keep_uses(&self) {
        if let Some(keys) = &self.keys {
            keys.keep_uses().await;
        }
    }

    /// Writes down which keys were used since that was last done, and says nothing where that cannot be.
    pub async fn write_uses(&self) {
        if let Some(keys) = &self.keys {
            let _counted_in_vain = keys.write_uses().await;
        }
    }

    /// Moves what was counted on hits into the exported metrics.
    pub fn export(&self) {
        if let Some(keys) = &self.keys {
            keys.export();
        }
        if let Some(tokens) = &self.tokens {
            tokens.export();
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
