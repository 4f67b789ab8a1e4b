//! The checks that are remembered, and those that are being made, one for each key.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::check::{Check, State};
use super::credential::Hash;
use super::lookup::tags;
use crate::cache::fence::{Fences, Standing};
use crate::cache::tag::Tag;
use crate::config::auth::AuthSettings;
use crate::error::{Code, Error};
use crate::position::Position;

/// Keys that are nobody's, and are remembered as such. Apart from the others, so that keys which are made up displace no right one.
const REFUSED_MAX: u64 = 10_000;
/// Keys that are asked for at a time.
const ASKED_MAX: usize = 1024;

/// The outcome of a check: what all who waited for it get.
pub(super) type Outcome = Result<Arc<Check>, Error>;

/// All checks of this instance.
pub(super) struct Checks {
    fences: Arc<Fences>,
    /// Of keys whose secret was right.
    right: Cache<Hash, Arc<Check>>,
    /// Of keys that are none.
    wrong: Cache<Hash, Arc<Check>>,
    running: Mutex<HashMap<Hash, Running>>,
    next_number: AtomicU64,
}

struct Running {
    number: u64,
    told: Option<Position>,
    tags: [Tag; 2],
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The part of a request in a check.
pub(super) enum Join {
    /// It has the check made, and waits like all others.
    Lead(Lead, Wait),
    /// It is being made.
    Follow(Wait),
    /// As many as may are being made.
    Refused,
}

/// The duty to finish a check. Dropped unfinished, it tells those who wait that it broke off.
pub(super) struct Lead {
    checks: Arc<Checks>,
    hash: Hash,
    number: u64,
    outcome: watch::Sender<Option<Outcome>>,
}

/// A wait for a check.
pub(super) struct Wait(watch::Receiver<Option<Outcome>>);

impl Checks {
    pub(super) fn new(fences: &Arc<Fences>, settings: &AuthSettings) -> Self {
        let kept = settings.check_ttl.0.saturating_add(settings.stale_if_error.0);
        Self {
            fences: Arc::clone(fences),
            right: Cache::builder().max_capacity(settings.checked_max).time_to_live(kept).build(),
            wrong: Cache::new(REFUSED_MAX),
            running: Mutex::default(),
            next_number: AtomicU64::new(0),
        }
    }

    /// What is remembered of a key, and what that is good for now.
    pub(super) fn find(&self, hash: &Hash, now: Instant) -> Option<(Arc<Check>, State)> {
        let judged = |check: Arc<Check>| {
            let state = check.state(&self.fences, now);
            (state != State::Over).then_some((check, state))
        };
        self.right.get(hash).and_then(judged).or_else(|| self.wrong.get(hash).and_then(judged))
    }

    /// Joins the check of a key, leading it where none is being made that will do: one that began before a change of the key
    /// was told may lack it, and is for those who came before that.
    pub(super) fn join(self: &Arc<Self>, hash: Hash, prefix: &str) -> Join {
        let tags = tags(prefix);
        let mut running = self.running.lock();
        let is_full = running.len() >= ASKED_MAX;
        let (told, is_overtaken) = self.fences.read(|ledger| {
            let lacks = |check: &Running| {
                matches!(ledger.standing(check.told, None, &check.tags), Standing::Purged | Standing::Forbidden)
            };
            (ledger.told(), running.get(&hash).is_some_and(lacks))
        });
        let place = running.entry(hash);
        match &place {
            Place::Occupied(place) if !is_overtaken => return Join::Follow(Wait(place.get().outcome.clone())),
            Place::Vacant(_) if is_full => return Join::Refused,
            Place::Occupied(_) | Place::Vacant(_) => {}
        }
        let (sender, receiver) = watch::channel(None);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        place.insert_entry(Running { number, told, tags, outcome: receiver.clone() });
        Join::Lead(Lead { checks: Arc::clone(self), hash, number, outcome: sender }, Wait(receiver))
    }

    fn remember(&self, hash: Hash, check: &Arc<Check>) {
        if check.is_right {
            self.wrong.invalidate(&hash);
            self.right.insert(hash, Arc::clone(check));
        } else {
            self.right.invalidate(&hash);
            self.wrong.insert(hash, Arc::clone(check));
        }
    }
}

impl Lead {
    /// Remembers the check and tells everyone who waits.
    pub(super) fn finish(self, outcome: Outcome) {
        if let Ok(check) = &outcome {
            self.checks.remember(self.hash, check);
        }
        self.tell(outcome);
    }

    fn tell(&self, outcome: Outcome) {
        let mut running = self.checks.running.lock();
        if running.get(&self.hash).is_some_and(|check| check.number == self.number) {
            running.remove(&self.hash);
        }
        drop(running);
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if self.outcome.borrow().is_none() {
            self.tell(Err(broke_off()));
        }
    }
}

impl Wait {
    /// Waits for the outcome. Cancelling only stops the waiting; callers bring their own deadline.
    pub(super) async fn outcome(mut self) -> Outcome {
        match self.0.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            Ok(None) | Err(_) => Err(broke_off()),
        }
    }
}

fn broke_off() -> Error {
    Error::new(Code::Draining, "the server is shutting down")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::testing::{HASH, PREFIX, fences, found, row, settings};
    use super::*;

    fn checks() -> (Arc<Fences>, Arc<Checks>) {
        let fences = Arc::new(fences());
        let checks = Arc::new(Checks::new(&fences, &settings()));
        (fences, checks)
    }

    fn lead(join: Join) -> (Lead, Wait) {
        let Join::Lead(lead, wait) = join else { panic!("it leads") };
        (lead, wait)
    }

    fn right(now: Instant) -> Arc<Check> {
        Arc::new(Check::new(&HASH, PREFIX, found(Some(row()), now), &settings()))
    }

    #[test]
    fn one_has_it_checked_and_the_rest_are_told() {
        let ((_, checks), now) = (checks(), Instant::now());
        let (first, own) = lead(checks.join(HASH, PREFIX));
        let Join::Follow(other) = checks.join(HASH, PREFIX) else { panic!("the second follows") };
        assert!(matches!(checks.join([8; 32], PREFIX), Join::Lead(..)), "another secret is another key");
        assert!(checks.find(&HASH, now).is_none());
        first.finish(Ok(right(now)));
        for wait in [own, other] {
            assert!(wait.outcome().now_or_never().unwrap().unwrap().answer(now).is_ok());
        }
        assert!(matches!(checks.find(&HASH, now), Some((_, State::Fresh))));
        assert!(matches!(checks.join(HASH, PREFIX), Join::Lead(..)), "the next one asks again");
    }

    #[test]
    fn who_comes_after_a_change_does_not_join_a_check_from_before() {
        let ((fences, checks), now) = (checks(), Instant::now());
        let (old, old_wait) = lead(checks.join(HASH, PREFIX));
        fences.change(|ledger| ledger.purge_here(&tags("mnopqrstuvwx")[..1], None, false));
        assert!(matches!(checks.join(HASH, PREFIX), Join::Follow(_)), "another key is no matter");
        fences.change(|ledger| ledger.purge_here(&tags(PREFIX)[..1], None, false));
        let (_new, new_wait) = lead(checks.join(HASH, PREFIX));
        old.finish(Ok(right(now)));
        assert!(old_wait.outcome().now_or_never().unwrap().is_ok(), "for those who came before the change");
        assert!(checks.find(&HASH, now).is_none(), "and for nobody else");
        assert!(new_wait.outcome().now_or_never().is_none());
        assert!(
            matches!(checks.join(HASH, PREFIX), Join::Follow(_)),
            "the end of the old one is not that of the new one"
        );
    }

    #[test]
    fn a_check_that_breaks_off_leaves_nobody_waiting() {
        let (_, checks) = checks();
        let (broken, wait) = lead(checks.join(HASH, PREFIX));
        drop(broken);
        let error = wait.outcome().now_or_never().unwrap().err().unwrap();
        assert_eq!(error.code, Code::Draining);
        assert!(matches!(checks.join(HASH, PREFIX), Join::Lead(..)));
    }

    /// Keys that are made up have a place of their own, however many they are.
    #[test]
    fn wrong_keys_displace_no_right_one() {
        let ((_, checks), now) = (checks(), Instant::now());
        lead(checks.join(HASH, PREFIX)).0.finish(Ok(right(now)));
        let settings = settings();
        for number in 0..20_000_u32 {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_le_bytes());
            let wrong = Check::new(&hash, PREFIX, found(None, now), &settings);
            checks.remember(hash, &Arc::new(wrong));
        }
        checks.wrong.run_pending_tasks();
        assert!(checks.wrong.entry_count() <= REFUSED_MAX);
        assert!(matches!(checks.find(&HASH, now), Some((_, State::Fresh))));
    }
}
