//! API keys: a check is remembered until a change of its key is told, or for `auth.check_ttl`.
//!
//! A replica may say that a key is right, where it has read all changes of it that this instance was told of; that a key is none
//! says the primary alone, so that a key made a moment ago works at once. Both questions are asked whatever is wrong with a key,
//! so that nobody learns from the time whether there is one of its prefix.

mod check;
mod checks;
mod credential;
mod issue;
mod lookup;
#[cfg(test)]
mod testing;
mod uses;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use self::check::{Check, State};
use self::checks::Checks;
use self::credential::{Hash, Shown};
use self::lookup::{Found, Lookup};
use self::uses::Uses;
use super::Look;
use crate::cache::fence::Fences;
use crate::cache::flight::{Join, Lead};
use crate::config::auth::AuthSettings;
use crate::config::manifest::access::AuthMethod;
use crate::config::settings::Settings;
use crate::database::changes::feed::{FeedError, Reader};
use crate::database::read::{Consistency, Database, Role};
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::telemetry::metrics::{AuthResult, Metrics};
use crate::telemetry::sparing::Sparing;
use crate::telemetry::striped::Striped;

pub use issue::{IssueError, Issued, Listed, NewKey, Revoked, create, list, revoke};

/// Whether a credential has the form of an API key, whoever's it is.
pub fn is_api_key(credential: &[u8]) -> bool {
    Shown::parse(credential).is_some()
}

/// How long a request waits for a check where an earlier one still counts.
const STALE_PATIENCE: Duration = Duration::from_millis(250);

/// API keys of this instance.
pub struct Keys {
    checks: Arc<Checks>,
    asker: Arc<Asker>,
    uses: Uses,
    remembered: Striped,
    metrics: Arc<Metrics>,
    settings: AuthSettings,
    region: String,
    database: Arc<Database>,
}

/// Asks the database.
struct Asker {
    replicas: Lookup,
    primary: Lookup,
    settings: AuthSettings,
    said: Sparing<Code>,
}

impl Keys {
    /// Keys in a database. What is remembered of them falls by these fences.
    pub fn new(database: &Arc<Database>, fences: &Arc<Fences>, settings: &Settings, metrics: &Arc<Metrics>) -> Self {
        let auth = settings.auth.clone();
        let lookup = |consistency| Lookup::new(database, fences, consistency);
        let remembered = metrics.auth_check(AuthMethod::Key, AuthResult::Remembered);
        Self {
            checks: Arc::new(Checks::new(fences, &auth)),
            asker: Arc::new(Asker {
                replicas: lookup(Consistency::Eventual),
                primary: lookup(Consistency::Strong),
                settings: auth.clone(),
                said: Sparing::default(),
            }),
            uses: Uses::new(usize::try_from(auth.checked_max).unwrap_or(usize::MAX)),
            remembered: Striped::new(remembered),
            metrics: Arc::clone(metrics),
            settings: auth,
            region: settings.region.clone(),
            database: Arc::clone(database),
        }
    }

    /// See [`super::Auth::look`].
    pub fn look(&self, credential: &[u8], now: Instant) -> Look {
        let Some(shown) = Shown::parse(credential) else { return Look::Known(Err(self.malformed())) };
        match self.checks.find(&shown.hash(), now) {
            Some((check, State::Fresh)) => {
                self.remembered.inc();
                Look::Known(self.answer(&check, now))
            }
            Some((check, State::Stale { is_tried: true, .. })) => {
                self.count(AuthResult::Stale);
                Look::Known(self.answer(&check, now))
            }
            _ => Look::Unknown,
        }
    }

    /// See [`super::Auth::ask`]. The question goes on when the request that caused it has gone.
    ///
    /// # Errors
    /// See there; `overloaded` where as many keys are being asked for as may.
    pub async fn ask(&self, credential: &[u8], deadline: Instant) -> Result<Arc<Identity>, Error> {
        let Some(shown) = Shown::parse(credential) else { return Err(self.malformed()) };
        let (hash, now) = (shown.hash(), Instant::now());
        let stale = self.checks.find(&hash, now).filter(|(_, state)| matches!(state, State::Stale { .. }));
        let patience = match &stale {
            Some((_, State::Stale { has_failed: true, .. })) => now,
            Some(_) => deadline.min(now + STALE_PATIENCE),
            None => deadline,
        };
        let outcome = match self.checks.join(hash, shown.prefix) {
            Join::Lead(lead, wait) => {
                let (asker, checks) = (Arc::clone(&self.asker), Arc::clone(&self.checks));
                actix_rt::spawn(check(asker, checks, lead, shown.prefix.to_owned()));
                timeout_at(patience.into(), wait.outcome()).await
            }
            Join::Follow(wait) => timeout_at(patience.into(), wait.outcome()).await,
            Join::Refused => Ok(Err(Error::new(Code::Overloaded, "too many API keys are being checked"))),
        };
        let now = Instant::now();
        match (outcome, stale) {
            (Ok(Ok(check)), _) => {
                let answer = self.answer(&check, now);
                self.count(if answer.is_ok() { AuthResult::Accepted } else { AuthResult::Refused });
                answer
            }
            (_, Some((check, _))) => {
                check.note_failure(now);
                self.count(AuthResult::Stale);
                self.answer(&check, now)
            }
            (Ok(Err(error)), None) => {
                self.count(AuthResult::Unavailable);
                Err(error)
            }
            (Err(_), None) => {
                self.count(AuthResult::Unavailable);
                Err(unavailable())
            }
        }
    }

    fn answer(&self, check: &Check, now: Instant) -> Result<Arc<Identity>, Error> {
        let identity = check.answer(now)?;
        self.uses.note(check);
        Ok(identity)
    }

    fn malformed(&self) -> Error {
        self.count(AuthResult::Refused);
        Error::new(Code::CredentialsInvalid, "this is no API key: one is mk_, 12 letters and digits, _, and 43 of them")
    }

    fn count(&self, result: AuthResult) {
        self.metrics.auth_check(AuthMethod::Key, result).inc();
    }

    /// Moves what was counted on hits into the exported metrics.
    pub fn export(&self) {
        self.remembered.export();
    }

    /// Writes down now and then which keys were used, for as long as the instance lives.
    pub async fn keep_uses(&self) {
        let mut is_said = false;
        loop {
            // Not all instances at the same time.
            sleep(self.settings.last_use_interval.0.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
            match self.write_uses().await {
                Err(error @ (FeedError::Denied | FeedError::NotMigrated)) if !std::mem::replace(&mut is_said, true) => {
                    log::warn!("the last uses of API keys are not written down: {error}");
                }
                Err(error) => log::debug!("the last uses of API keys could not be written down: {error}"),
                Ok(()) => is_said = false,
            }
        }
    }

    /// Writes down which keys were used since this was last done.
    ///
    /// # Errors
    /// When the primary cannot be reached, or refuses; then they are still to be written down.
    pub async fn write_uses(&self) -> Result<(), FeedError> {
        let used = self.uses.take();
        if used.is_empty() {
            return Ok(());
        }
        let reader = Reader { name: "uses of keys".to_owned(), region: self.region.clone() };
        let mut feed = self.database.feed(reader);
        let written = feed.note_key_uses(&used).await;
        if written.is_err() {
            self.uses.put_back(used);
        }
        written
    }
}

/// Checks a key and tells all who wait. It belongs to nobody's request.
async fn check(asker: Arc<Asker>, checks: Arc<Checks>, lead: Lead<Hash, Arc<Check>>, prefix: String) {
    let outcome = asker.check(lead.wanted(), &prefix).await;
    checks.finish(lead, outcome.map(Arc::new));
}

impl Asker {
    async fn check(&self, hash: &Hash, prefix: &str) -> Result<Check, Error> {
        match self.replicas.find(prefix).await {
            Ok(found) => {
                let is_last_word = found.role == Role::Primary;
                let check = self.judge(hash, prefix, found);
                if is_last_word || check.answer(Instant::now()).is_ok() {
                    return Ok(check);
                }
            }
            // A replica may lack even the table.
            Err(error) if error.code == Code::QueryFailed => {}
            Err(error) => return Err(self.meaning(error)),
        }
        // Where the primary cannot be asked this is no refusal: the key may be one that the replica has not heard of, and
        // a client that is told 401 throws its key away.
        let found = self.primary.find(prefix).await.map_err(|error| self.meaning(error))?;
        Ok(self.judge(hash, prefix, found))
    }

    fn judge(&self, hash: &Hash, prefix: &str, found: Found) -> Check {
        Check::new(hash, prefix, found, &self.settings)
    }

    /// What a failed look-up means for who has shown a key.
    fn meaning(&self, error: Error) -> Error {
        match error.code {
            Code::Draining => return error,
            // The primary answers, and does not know what it is asked for.
            Code::QueryFailed => {
                if let Some(kept_back) = self.said.may_say(Instant::now(), error.code) {
                    log::error!(kept_back; "API keys cannot be looked up, so callers who show one get a 503: the primary lacks what `mainstay migrate` makes, or this role may not use it; run `mainstay migrate`");
                }
            }
            _ => log::debug!("a key could not be looked up: {error}"),
        }
        unavailable()
    }
}

fn unavailable() -> Error {
    Error::new(Code::AuthUnavailable, "nobody who could check this API key can be reached")
}
