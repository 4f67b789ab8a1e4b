//! Signed tokens: JWTs (RFC 7519) in compact form, of one issuer, checked against its key set (RFC 7517).
//!
//! A token that was checked lately is found by its hash. Any other one is taken apart ([`jws`]), its signature is compared with
//! the keys of the set ([`keyset`]), which is kept up to date behind all requests ([`keyring`]), and then what it says is judged
//! ([`claims`]): in this order, so that nothing of a token is believed that nobody has signed.

pub mod claims;
mod fetch;
mod json;
pub mod jws;
pub mod keyring;
pub mod keyset;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::timeout_at;

use super::Look;
use crate::config::ConfigError;
use crate::config::auth::AuthSettings;
use crate::config::manifest::access::AuthMethod;
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::telemetry::metrics::{AuthResult, Metrics};
use crate::telemetry::striped::Striped;
use claims::Rules;
use jws::Jws;
use keyring::{Current, Keyring};
use keyset::Signed;

/// What an entry of the memory counts for: one for each begun part of so many bytes of its token, whose claims it holds.
const BYTES_PER_CHECK: usize = 1024;

const UNKNOWN_KEY: &str = "the token's key (kid) is none of this API's issuer";

/// Signed tokens of this instance.
pub struct Tokens {
    keyring: Arc<Keyring>,
    rules: Rules,
    checked: Cache<[u8; 32], Arc<Checked>>,
    check_ttl: Duration,
    remembered: Striped,
    metrics: Arc<Metrics>,
}

/// A token that was right.
struct Checked {
    identity: Arc<Identity>,
    /// When its time, or that of the check, is over.
    until: Instant,
    /// The key set that it was checked against. A key that has left the set takes its tokens with it.
    generation: u64,
    /// What it counts for in the memory.
    weight: u32,
}

impl Tokens {
    /// Signed tokens, where a key set is configured. A key set in a file is read here, and blocks for that; one behind a URL
    /// comes with [`Keyring::keep`].
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(settings: &AuthSettings, metrics: &Arc<Metrics>) -> Result<Option<Self>, ConfigError> {
        let Some(keyring) = Keyring::new(settings, metrics.jwks_fetches.clone())? else { return Ok(None) };
        let weight = |_: &[u8; 32], checked: &Arc<Checked>| checked.weight;
        let checked = Cache::builder().max_capacity(settings.checked_max).weigher(weight);
        Ok(Some(Self {
            keyring: Arc::new(keyring),
            rules: Rules::new(settings),
            checked: checked.build(),
            check_ttl: settings.check_ttl.0,
            remembered: Striped::new(metrics.auth_check(AuthMethod::Jwt, AuthResult::Remembered)),
            metrics: Arc::clone(metrics),
        }))
    }

    /// What keeps the key set up to date.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// See [`super::Auth::look`].
    pub fn look(&self, credential: &[u8], now: Instant) -> Look {
        match self.checked.get(&hash(credential)) {
            Some(checked) if now < checked.until && self.keyring.is_current(checked.generation) => {
                self.remembered.inc();
                Look::Known(Ok(Arc::clone(&checked.identity)))
            }
            _ => Look::Unknown,
        }
    }

    /// See [`super::Auth::ask`]. Who stops waiting changes nothing for others.
    ///
    /// # Errors
    /// See there.
    pub async fn ask(&self, credential: &[u8], deadline: Instant) -> Result<Arc<Identity>, Error> {
        let outcome = self.check(credential, deadline).await;
        let result = match &outcome {
            Ok(_) => AuthResult::Accepted,
            Err(error) if error.code == Code::AuthUnavailable => AuthResult::Unavailable,
            Err(_) => AuthResult::Refused,
        };
        self.metrics.auth_check(AuthMethod::Jwt, result).inc();
        outcome
    }

    /// Moves what was counted on hits into the exported metrics.
    pub fn export(&self) {
        self.remembered.export();
    }

    async fn check(&self, credential: &[u8], deadline: Instant) -> Result<Arc<Identity>, Error> {
        let token = Jws::parse(credential)?;
        let mut current = self.keyring.wait_first(deadline).await?;
        let mut signed = compared(&token, &current, deadline).await?;
        if signed != Signed::Yes {
            // The issuer may have a new key by now. Not all name their keys, and some give a new one the name of the old.
            let renewed = self.keyring.renewed(deadline).await?;
            if renewed.generation != current.generation {
                signed = compared(&token, &renewed, deadline).await?;
                current = renewed;
            }
        }
        match signed {
            Signed::Yes => self.remember(credential, &token, &current),
            Signed::UnknownKey => Err(invalid(UNKNOWN_KEY)),
            Signed::No => Err(invalid("the token's signature is not by a key of this API's issuer")),
        }
    }

    /// Judges what a token says whose signature is right, and remembers it. Tokens that are refused are not remembered: there
    /// are as many as anybody cares to send, and they would take the place of those that are right.
    fn remember(&self, credential: &[u8], token: &Jws<'_>, current: &Current) -> Result<Arc<Identity>, Error> {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (identity, left) = self.rules.check(&token.payload, epoch)?;
        let identity = Arc::new(identity);
        let now = Instant::now();
        let checked = Checked {
            identity: Arc::clone(&identity),
            until: now.checked_add(left.min(self.check_ttl)).unwrap_or(now),
            generation: current.generation,
            weight: u32::try_from(1 + credential.len() / BYTES_PER_CHECK).unwrap_or(u32::MAX),
        };
        self.checked.insert(hash(credential), Arc::new(checked));
        Ok(identity)
    }
}

/// Compares the signature of a token with the keys of a set, when it is its turn.
async fn compared(token: &Jws<'_>, current: &Current, deadline: Instant) -> Result<Signed, Error> {
    let _turn = timeout_at(deadline.into(), turn()).await.ok().flatten().ok_or_else(late)?;
    Ok(current.set.verify(token))
}

/// The right to check a signature on this worker, one at a time, and after all that waits there has had its turn.
///
/// A signature takes 20 to 40 µs, as long as several hits, and anybody can send a wrong one. On another thread it would be no
/// shorter, and there would be no more cores. So it is checked here, but however many are to be checked, a request that needs
/// none waits for one of them at most.
async fn turn() -> Option<OwnedSemaphorePermit> {
    thread_local! {
        static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
    }
    let turn = TURN.with(Arc::clone).acquire_owned().await.ok()?;
    yield_now().await;
    Some(turn)
}

fn hash(credential: &[u8]) -> [u8; 32] {
    Sha256::digest(credential).into()
}

fn invalid(sentence: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Code::CredentialsInvalid, sentence)
}

fn late() -> Error {
    Error::new(Code::AuthUnavailable, "the token could not be checked in time")
}
