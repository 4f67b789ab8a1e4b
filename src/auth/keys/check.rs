//! What a check of a key came to, and for how long that may be relied on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use subtle::{Choice, ConstantTimeEq};

use super::credential::Hash;
use super::lookup::{Found, Row, tags};
use crate::cache::fence::{Fences, Standing};
use crate::cache::tag::Tag;
use crate::config::auth::AuthSettings;
use crate::error::{Code, Error};
use crate::identity::{Identity, Key};
use crate::position::Position;

/// How long it is remembered that a key is none. Anybody can make such keys up, so this holds off those that come again, and a
/// change that is told ends it before.
const REFUSED_TIME: Duration = Duration::from_secs(5);
/// How long nobody is asked again who could not be asked, where what is known still counts.
const FAILED_TIME: Duration = Duration::from_secs(1);

/// What is compared where there is no such key, so that this takes as long.
const NOBODYS: Hash = [0; 32];

/// A check that was made.
pub(super) struct Check {
    /// Whose it is, or why it is nobody's.
    verdict: Result<Arc<Identity>, Error>,
    /// The public part of the key.
    pub(super) prefix: Arc<str>,
    tags: [Tag; 2],
    told: Option<Position>,
    as_of: Option<Position>,
    made: Instant,
    expires: Option<Instant>,
    fresh_for: Duration,
    stale_for: Duration,
    /// Whether the secret was right, whatever else was the matter: nobody can make many such keys up.
    pub(super) is_right: bool,
    /// The generation of the fences under which it was found current.
    noted: AtomicU64,
    /// When nobody could be asked, in milliseconds since it was made; 0: that has not happened.
    failed_ms: AtomicU64,
    /// The round of [`super::uses::Uses`] in which its use was noted.
    pub(super) used_in: AtomicU64,
}

/// What a check is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It holds.
    Fresh,
    /// It is to be made anew, and holds where nobody can be asked.
    Stale {
        /// Nobody could be asked a moment ago.
        is_tried: bool,
        /// Nobody could be asked when that was tried last.
        has_failed: bool,
    },
    /// It says nothing any more.
    Over,
}

impl Check {
    /// Judges a key by what was found under its prefix.
    pub(super) fn new(hash: &Hash, prefix: &str, found: Found, settings: &AuthSettings) -> Self {
        let Found { row, told, as_of, at, .. } = found;
        let known = row.as_ref().map_or(NOBODYS.as_slice(), |row| &row.hash);
        let is_right: bool = (known.ct_eq(hash) & Choice::from(u8::from(row.is_some()))).into();
        let row = row.filter(|_| is_right);
        let left = row.as_ref().and_then(|row| row.left_ms);
        let left = left.map(|left_ms| Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)));
        let expires = left.and_then(|left| at.checked_add(left));
        let verdict = match row {
            None => Err(Error::new(Code::CredentialsInvalid, "there is no such API key")),
            Some(Row { is_revoked: true, .. }) => Err(Error::new(Code::CredentialsInvalid, "this API key was revoked")),
            Some(row) => Ok(Arc::new(identity(row))),
        };
        // Keys that nobody made are not worth remembering for long.
        let (fresh_for, stale_for) = match is_right {
            true => (settings.check_ttl.0, settings.stale_if_error.0),
            false => (REFUSED_TIME, Duration::ZERO),
        };
        Self {
            verdict,
            prefix: prefix.into(),
            tags: tags(prefix),
            told,
            as_of,
            made: at,
            expires,
            fresh_for,
            stale_for,
            is_right,
            noted: AtomicU64::new(0),
            failed_ms: AtomicU64::new(0),
            used_in: AtomicU64::new(0),
        }
    }

    /// Whether it lets the caller in now.
    pub(super) fn answer(&self, now: Instant) -> Result<Arc<Identity>, Error> {
        let identity = self.verdict.clone()?;
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(Error::new(Code::CredentialsExpired, "this API key has expired"));
        }
        Ok(identity)
    }

    /// What it is good for now.
    pub(super) fn state(&self, fences: &Fences, now: Instant) -> State {
        let age = now.saturating_duration_since(self.made);
        let noted = self.noted.load(Ordering::Relaxed);
        let (standing, generation) = fences.standing(|| (self.told, self.as_of), &self.tags, noted, age, now);
        if generation != noted {
            self.noted.store(generation, Ordering::Relaxed);
        }
        match standing {
            Standing::Purged | Standing::Forbidden => State::Over,
            Standing::Current if age < self.fresh_for => State::Fresh,
            _ if age < self.fresh_for + self.stale_for => {
                let failed_ms = self.failed_ms.load(Ordering::Relaxed);
                let since = age.saturating_sub(Duration::from_millis(failed_ms));
                State::Stale { is_tried: failed_ms != 0 && since < FAILED_TIME, has_failed: failed_ms != 0 }
            }
            _ => State::Over,
        }
    }

    /// Nobody could be asked.
    pub(super) fn note_failure(&self, now: Instant) {
        let age_ms = now.saturating_duration_since(self.made).as_millis();
        self.failed_ms.store(u64::try_from(age_ms).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }
}

fn identity(row: Row) -> Identity {
    let Row { prefix, owner, scopes, claims, rate, .. } = row;
    let mut claims = match claims {
        Value::Object(claims) => claims,
        // The table takes nothing else.
        _ => serde_json::Map::new(),
    };
    claims.insert("sub".to_owned(), Value::String(owner.clone()));
    claims.insert("scope".to_owned(), Value::String(scopes.join(" ")));
    Identity {
        subject: format!("key:{owner}").into(),
        // What is no rate the table refuses.
        key: Some(Key { prefix: prefix.into(), rate: rate.and_then(|rate| rate.parse().ok()) }),
        scopes: scopes.into_iter().map(String::into_boxed_str).collect(),
        claims,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{HASH, PREFIX, fences, found, row, settings};
    use super::*;

    fn check(hash: &Hash, row: Option<Row>, now: Instant) -> Check {
        Check::new(hash, PREFIX, found(row, now), &settings())
    }

    fn code(check: &Check, now: Instant) -> Option<Code> {
        check.answer(now).err().map(|error| error.code)
    }

    fn stale(is_tried: bool, has_failed: bool) -> State {
        State::Stale { is_tried, has_failed }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_is_right_by_its_hash_and_by_nothing_else() {
        let now = Instant::now();
        assert_eq!(code(&check(&HASH, Some(row()), now), now), None);
        let nobodys = Row { hash: NOBODYS.to_vec(), ..row() };
        for (hash, row) in [
            ([8; 32], Some(row())),
            (HASH, None),
            (NOBODYS, None),
            (HASH, Some(Row { hash: vec![7; 31], ..row() })),
            (HASH, Some(Row { hash: Vec::new(), ..row() })),
            (HASH, Some(nobodys)),
        ] {
            let check = check(&hash, row, now);
            assert_eq!((code(&check, now), check.is_right), (Some(Code::CredentialsInvalid), false));
        }
        let revoked = check(&HASH, Some(Row { is_revoked: true, left_ms: Some(-1), ..row() }), now);
        assert_eq!((code(&revoked, now), revoked.is_right), (Some(Code::CredentialsInvalid), true));
        for left_ms in [0, -1, i64::MIN] {
            let expired = check(&HASH, Some(Row { left_ms: Some(left_ms), ..row() }), now);
            assert_eq!(code(&expired, now), Some(Code::CredentialsExpired));
        }
        let forever = check(&HASH, Some(Row { left_ms: Some(i64::MAX), ..row() }), now);
        assert_eq!(code(&forever, now + seconds(1_000_000)), None);
        let soon = check(&HASH, Some(Row { left_ms: Some(1500), ..row() }), now);
        assert_eq!(
            (code(&soon, now + seconds(1)), code(&soon, now + seconds(2))),
            (None, Some(Code::CredentialsExpired))
        );
    }

    #[test]
    fn it_holds_for_a_while_then_if_nobody_can_be_asked_and_then_no_more() {
        let (fences, now) = (fences(), Instant::now());
        let check = check(&HASH, Some(row()), now);
        let state = |after| check.state(&fences, now + seconds(after));
        assert_eq!((state(0), state(59)), (State::Fresh, State::Fresh));
        assert_eq!((state(60), state(659), state(660)), (stale(false, false), stale(false, false), State::Over));
        check.note_failure(now + seconds(70));
        assert_eq!((state(70), state(71)), (stale(true, true), stale(false, true)), "it is tried again each second");
        assert_eq!(state(660), State::Over);
    }

    #[test]
    fn that_a_key_is_none_holds_for_a_moment() {
        let (fences, now) = (fences(), Instant::now());
        let check = check(&HASH, None, now);
        let state = |after| check.state(&fences, now + seconds(after));
        assert_eq!((state(0), state(4), state(5)), (State::Fresh, State::Fresh, State::Over));
        fences.change(|ledger| ledger.purge_here(&tags(PREFIX), None, false));
        assert_eq!(state(0), State::Over, "somebody has made it");
    }

    #[test]
    fn a_change_of_the_key_or_of_all_ends_it_and_one_of_another_does_not() {
        for (tag, state) in [
            ("mainstay.api_keys:abcdefghijkl", State::Over),
            ("mainstay.api_keys:all", State::Over),
            ("*", State::Over),
            ("mainstay.api_keys:abcdefghijkm", State::Fresh),
            ("mainstay.api_keys:any", State::Fresh),
        ] {
            for is_hard in [false, true] {
                let (fences, now) = (fences(), Instant::now());
                let check = check(&HASH, Some(row()), now);
                assert_eq!(check.state(&fences, now), State::Fresh);
                fences.change(|ledger| ledger.purge_here(&[Tag::new(tag)], None, is_hard));
                assert_eq!(check.state(&fences, now), state, "{tag}");
            }
        }
    }

    /// Whoever is told nothing knows of no revocation: it asks, and goes on with what it knows where nobody answers.
    #[test]
    fn in_silence_it_is_to_be_made_anew() {
        let (fences, now) = (fences(), Instant::now());
        fences.expect_messages();
        let check = check(&HASH, Some(row()), now);
        assert_eq!(check.state(&fences, now + seconds(1)), State::Fresh);
        assert_eq!(check.state(&fences, now + seconds(4)), stale(false, false));
    }
}
