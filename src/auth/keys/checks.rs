//! The checks that are remembered, and those that are being made, one for each key.

use std::sync::Arc;
use std::time::Instant;

use moka::sync::Cache;

use super::check::{Check, State};
use super::credential::Hash;
use super::lookup::tags;
use crate::cache::fence::Fences;
use crate::cache::flight::{Flights, Join, Lead};
use crate::config::auth::AuthSettings;
use crate::error::Error;

/// Keys that are nobody's, and are remembered as such. Apart from the others, so that keys which are made up displace no right one.
const REFUSED_MAX: u64 = 10_000;
/// Keys that are asked for at a time.
const ASKED_MAX: usize = 1024;

/// All checks of this instance.
pub(super) struct Checks {
    fences: Arc<Fences>,
    /// Of keys whose secret was right.
    right: Cache<Hash, Arc<Check>>,
    /// Of keys that are none.
    wrong: Cache<Hash, Arc<Check>>,
    running: Flights<Hash, Arc<Check>>,
}

impl Checks {
    pub(super) fn new(fences: &Arc<Fences>, settings: &AuthSettings) -> Self {
        let kept = settings.check_ttl.0.saturating_add(settings.stale_if_error.0);
        Self {
            fences: Arc::clone(fences),
            right: Cache::builder().max_capacity(settings.checked_max).time_to_live(kept).build(),
            wrong: Cache::new(REFUSED_MAX),
            running: Flights::new(ASKED_MAX),
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
    pub(super) fn join(&self, hash: Hash, prefix: &str) -> Join<Hash, Arc<Check>> {
        self.running.join(hash, &Arc::from(tags(prefix)), &self.fences)
    }

    /// Finishes a check: remembers it, and tells everyone who waits.
    pub(super) fn finish(&self, lead: Lead<Hash, Arc<Check>>, outcome: Result<Arc<Check>, Error>) {
        if let Ok(check) = &outcome {
            self.remember(*lead.wanted(), check);
        }
        lead.finish(outcome);
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::testing::{HASH, PREFIX, fences, found, row, settings};
    use super::*;
    use crate::cache::flight::Wait;

    fn checks() -> (Arc<Fences>, Checks) {
        let fences = Arc::new(fences());
        let checks = Checks::new(&fences, &settings());
        (fences, checks)
    }

    fn lead(join: Join<Hash, Arc<Check>>) -> (Lead<Hash, Arc<Check>>, Wait<Arc<Check>>) {
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
        checks.finish(first, Ok(right(now)));
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
        checks.finish(old, Ok(right(now)));
        assert!(old_wait.outcome().now_or_never().unwrap().is_ok(), "for those who came before the change");
        assert!(checks.find(&HASH, now).is_none(), "and for nobody else");
        assert!(new_wait.outcome().now_or_never().is_none());
    }

    /// Keys that are made up have a place of their own, however many they are.
    #[test]
    fn wrong_keys_displace_no_right_one() {
        let ((_, checks), now) = (checks(), Instant::now());
        checks.finish(lead(checks.join(HASH, PREFIX)).0, Ok(right(now)));
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
