//! The key set in use, and its renewal.
//!
//! One task reads the set: at the start, every `auth.jwks_refresh`, when its file has changed, on SIGHUP, and when a token comes
//! that no key of it has signed. Requests only wait for that task, so however many come with new keys, the set is read once. A set
//! that cannot be read leaves the one before in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use tokio::sync::{Notify, watch};
use tokio::time::{timeout, timeout_at};

use super::fetch::{Failure, Source};
use super::keyset::{KeySet, LeftOut};
use crate::config::ConfigError;
use crate::config::auth::AuthSettings;
use crate::error::{Code, Error};
use crate::telemetry::metrics::declare::Labelled;
use crate::telemetry::traces::{self, Traces};

/// How often keys that nobody knows make the set be read again, all requests together: anybody can sign with one.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// After a failure the set is read again after this time, longer each time, or after `auth.jwks_refresh` where that is shorter.
const BACKOFF_TIME: Duration = Duration::from_secs(1);
const BACKOFF_TIME_MAX: Duration = Duration::from_secs(30);

/// A key set, and which one in the order of those that were in use.
#[derive(Debug)]
pub struct Current {
    /// The keys.
    pub set: KeySet,
    /// Another set has another number.
    pub generation: u64,
}

/// The key set in use.
pub struct Keyring {
    source: Source,
    current: ArcSwapOption<Current>,
    rounds: watch::Sender<Rounds>,
    asked: Mutex<Asked>,
    wanted: Notify,
    refresh: Duration,
    fetches: Labelled<IntCounterVec, 1>,
}

/// How often the set was read.
#[derive(Clone, Copy, Default)]
struct Rounds {
    begun: u64,
    ended: u64,
    /// Whether the last one was in vain.
    is_failed: bool,
}

/// When an unknown key last made the set be read.
#[derive(Clone, Copy, Default)]
struct Asked {
    at: Option<Instant>,
    /// In which round that is answered.
    round: u64,
}

impl Asked {
    /// The round that answers whoever asks now; `None`: the set was read for such a key a moment ago.
    fn round(&mut self, rounds: Rounds, now: Instant) -> Option<u64> {
        if rounds.ended < self.round {
            return Some(self.round);
        }
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < UNKNOWN_KEY_INTERVAL) {
            return None;
        }
        // One that has begun may have read the set before the key was in it.
        *self = Self { at: Some(now), round: rounds.begun + 1 };
        Some(self.round)
    }
}

/// A set that cannot be read: each kind of failure is said once until it is over.
#[derive(Default)]
struct Trouble {
    failures: u32,
    said: Vec<&'static str>,
}

impl Keyring {
    /// The key set that is configured, if one is. A file is read at once, and blocks for that.
    ///
    /// # Errors
    /// A sentence that names the setting: a file must be there and have a key, what is behind a URL may come later.
    pub fn new(settings: &AuthSettings, fetches: Labelled<IntCounterVec, 1>) -> Result<Option<Self>, ConfigError> {
        let Some(source) = Source::new(settings)? else { return Ok(None) };
        let keyring = Self {
            source,
            current: ArcSwapOption::empty(),
            rounds: watch::Sender::new(Rounds::default()),
            asked: Mutex::default(),
            wanted: Notify::new(),
            refresh: settings.jwks_refresh.0,
            fetches,
        };
        if let Source::File(file) = &keyring.source {
            let fail = |why: &dyn std::fmt::Display| {
                ConfigError::new(format!("auth.jwks_file: {}: {why}", settings.jwks_file))
            };
            let bytes = file.read().map_err(|failure| fail(&failure))?;
            let (set, left_out) = KeySet::read(&bytes).map_err(|why| fail(&why))?;
            if set.is_empty() {
                let reasons: Vec<String> = left_out.iter().map(ToString::to_string).collect();
                return Err(fail(&format!("no key of it is of use; {}", reasons.join("; "))));
            }
            keyring.take(set, &left_out);
        }
        Ok(Some(keyring))
    }

    /// The key set in use, once there is one.
    pub fn current(&self) -> Option<Arc<Current>> {
        self.current.load_full()
    }

    /// Whether this is the number of the key set in use. Takes nothing that other workers write to.
    pub fn is_current(&self, generation: u64) -> bool {
        self.current.load().as_ref().is_some_and(|current| current.generation == generation)
    }

    /// The key set in use. Until one was read for the first time it is waited for.
    ///
    /// # Errors
    /// `auth_unavailable` where there is none, or one without keys.
    pub async fn wait_first(&self, deadline: Instant) -> Result<Arc<Current>, Error> {
        if self.current.load().is_none() {
            self.wait_round(1, deadline).await;
        }
        let current = self.current().filter(|current| !current.set.is_empty());
        current.ok_or_else(|| Error::new(Code::AuthUnavailable, "the issuer's keys could not be had yet"))
    }

    /// The key set after it was read again for a token that no key of it has signed, or a moment ago was.
    ///
    /// # Errors
    /// `auth_unavailable` where it could not be read: it may have the key.
    pub async fn renewed(&self, deadline: Instant) -> Result<Arc<Current>, Error> {
        let round = self.answering_round();
        if let Some(round) = round {
            self.wait_round(round, deadline).await;
        }
        let is_failed = self.rounds.borrow().is_failed || round.is_some_and(|round| self.rounds.borrow().ended < round);
        match self.current() {
            Some(current) if !is_failed => Ok(current),
            _ => Err(Error::new(
                Code::AuthUnavailable,
                "the token's key is not known yet, and the issuer's keys cannot be had",
            )),
        }
    }

    /// Reads the set soon.
    pub fn renew(&self) {
        self.wanted.notify_one();
    }

    /// Keeps the set up to date, and each reading of it is a trace of its own. Runs until it is dropped.
    pub async fn keep(self: Arc<Self>, traces: Option<Arc<Traces>>) {
        let mut trouble = Trouble::default();
        loop {
            self.rounds.send_modify(|rounds| rounds.begun += 1);
            let mut span = traces::call(traces.as_ref(), "key set");
            let outcome = self.read().await;
            let result = outcome.as_ref().map_or_else(Failure::as_str, |()| "ok");
            if outcome.is_err() {
                span.fail(result);
                span.keep();
            }
            drop(span);
            self.fetches.with_label_values(&[result]).inc();
            let rest = trouble.note(&self.source, outcome, self.refresh);
            let is_failed = trouble.failures > 0;
            self.rounds.send_modify(|rounds| *rounds = Rounds { ended: rounds.begun, is_failed, ..*rounds });
            // Instances that were started together do not ask together for ever.
            let news = async {
                tokio::select! {
                    () = self.wanted.notified() => {}
                    () = self.source.changed() => {}
                }
            };
            let _time_or_news = timeout(rest.mul_f64(0.9 + 0.2 * fastrand::f64()), news).await;
        }
    }

    async fn read(&self) -> Result<(), Failure> {
        let bytes = self.source.read().await?;
        let (set, left_out) = KeySet::read(&bytes).map_err(Failure::Invalid)?;
        self.take(set, &left_out);
        Ok(())
    }

    /// Uses a set from now on. One that is the same as before ends no check that is remembered.
    fn take(&self, set: KeySet, left_out: &[LeftOut]) {
        let last = self.current();
        if last.as_ref().is_some_and(|last| last.set == set) {
            return;
        }
        let name = self.source.name();
        for key in left_out {
            let level = if key.is_secret() { log::Level::Error } else { log::Level::Info };
            log::log!(level, "key set {name}: {key}");
        }
        match set.len() {
            0 => log::error!("key set {name} has no key that is of use: no token can be checked"),
            keys => log::info!("key set {name}: keys in use: {keys}"),
        }
        let generation = last.map_or(0, |last| last.generation) + 1;
        self.current.store(Some(Arc::new(Current { set, generation })));
    }

    /// The round that answers who asks for an unknown key now. The first who asks has it begun, others join it.
    fn answering_round(&self) -> Option<u64> {
        let mut asked = self.asked.lock();
        let last = asked.round;
        let round = asked.round(*self.rounds.borrow(), Instant::now());
        if round.is_some_and(|round| round != last) {
            self.wanted.notify_one();
        }
        round
    }

    async fn wait_round(&self, round: u64, deadline: Instant) {
        let mut rounds = self.rounds.subscribe();
        let _ended_or_late = timeout_at(deadline.into(), rounds.wait_for(|rounds| rounds.ended >= round)).await;
    }
}

impl Trouble {
    /// Says what is to be said, and for how long to rest.
    fn note(&mut self, source: &Source, outcome: Result<(), Failure>, refresh: Duration) -> Duration {
        let Err(failure) = outcome else {
            if !self.said.is_empty() {
                log::info!("key set {}: it is read again", source.name());
            }
            *self = Self::default();
            return refresh;
        };
        if !self.said.contains(&failure.as_str()) {
            log::warn!("key set {}: it cannot be read, and the one before stays in use: {failure}", source.name());
            self.said.push(failure.as_str());
        }
        let grown = BACKOFF_TIME.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_TIME_MAX);
        self.failures = self.failures.saturating_add(1);
        grown.min(refresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many ask, one look in half a minute answers them; who asks while one is under way waits for that one.
    #[test]
    fn unknown_keys_make_the_set_be_read_once_in_a_while() {
        let start = Instant::now();
        let mut asked = Asked::default();
        let idle = Rounds { begun: 3, ended: 3, is_failed: false };
        assert_eq!(asked.round(idle, start), Some(4), "nobody has asked yet");
        assert_eq!(asked.round(idle, start), Some(4), "the same look");
        let running = Rounds { begun: 4, ..idle };
        assert_eq!(asked.round(running, start + UNKNOWN_KEY_INTERVAL * 2), Some(4), "it takes its time");
        let done = Rounds { begun: 4, ended: 4, is_failed: false };
        assert_eq!(asked.round(done, start + UNKNOWN_KEY_INTERVAL - Duration::from_millis(1)), None);
        assert_eq!(asked.round(done, start + UNKNOWN_KEY_INTERVAL), Some(5));
    }

    #[test]
    fn a_look_that_has_begun_may_be_too_early() {
        let mut asked = Asked::default();
        assert_eq!(asked.round(Rounds { begun: 4, ended: 3, is_failed: false }, Instant::now()), Some(5));
    }
}
