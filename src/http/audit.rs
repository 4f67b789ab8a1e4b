//! The audit: of the answers from L1 a few are computed again on the primary, and compared. It is how an instance knows how
//! often it is right, and would notice a change that reached no trigger.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::per_second::PerSecond;
use super::pipeline::Pipeline;
use super::surface::Endpoint;
use crate::cache::entry::Entry;
use crate::cache::fence::Standing;
use crate::cache::variants::Variants;
use crate::config::param::Params;
use crate::database::changes::feed::Reader;
use crate::database::read::Consistency;
use crate::error::Code;
use crate::nodes::queue::Priority;

/// How long it may take until this instance has been told all that the primary showed.
const HEARING_TIME_MAX: Duration = Duration::from_secs(5);
const HEARING_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// Hits of this worker until the next one that is audited; 0: not drawn yet.
    static UNTIL_NEXT: Cell<u32> = const { Cell::new(0) };
}

/// Which hits are audited.
pub struct Audit {
    one_in: u32,
    per_second: PerSecond,
}

impl Audit {
    /// One of so many hits, and at most so many a second.
    pub fn new(one_in: u32, per_second_max: u32) -> Self {
        Self { one_in, per_second: PerSecond::new(per_second_max) }
    }

    /// Whether this hit is one to audit. A counter of the worker's own says no without touching what others share.
    pub fn takes(&self, now: Instant) -> bool {
        if self.one_in == 0 {
            return false;
        }
        let left = UNTIL_NEXT.get();
        if left > 1 {
            UNTIL_NEXT.set(left - 1);
            return false;
        }
        // Around the mean, from 1 on, so that no rhythm of requests hides from it.
        UNTIL_NEXT.set(fastrand::u32(1..=self.one_in.saturating_mul(2).saturating_sub(1)));
        left == 1 && self.per_second.takes(now)
    }
}

impl Pipeline {
    /// Whether an answer can be held against the primary: only what a change would have purged must be as it is there.
    pub(super) fn can_audit(&self, endpoint: &Endpoint) -> bool {
        let watches = endpoint.route.cache.as_ref().and_then(|policy| policy.watch.as_ref());
        watches.is_some_and(|watches| !watches.is_empty())
            && self.cache.fences.read(|ledger| ledger.through().is_some())
    }

    /// Computes an answer again on the primary, and compares. What has changed since the entry was served explains a
    /// difference, and then the entry falls as soon as this instance has been told; if it does not fall, it was wrong.
    pub(super) async fn audit(self: Arc<Self>, endpoint: Arc<Endpoint>, params: Params, entry: Arc<Entry>) {
        // Requests come first: an audit that finds no room is not made.
        let Ok(mut pass) = self.admission.direct.enter(Priority::Background, Duration::ZERO).await else { return };
        let call = self.call(params, "GET", Bytes::new(), Consistency::Strong, None);
        let produced = self.produce(&endpoint, call).await;
        pass.measured(&endpoint.route.path, &produced.answer);
        drop(pass);
        let is_same = match produced.answer {
            Ok(answer) if entry.absence.is_none() => {
                Variants::of(answer.body, usize::MAX).identity().etag == entry.body.identity().etag
            }
            Ok(_) => false,
            Err(error) if error.code == Code::NotFound => entry.absence.is_some(),
            // The primary has not answered, so there is nothing to hold the entry against.
            Err(_) => return,
        };
        let path = endpoint.route.path.as_str();
        if is_same {
            self.metrics.audit_checked.with_label_values(&[path]).inc();
            return;
        }
        let Some(is_wrong) = self.still_stands(&entry).await else { return };
        // What is wrong first, so that nobody reads of an audit whose finding is still to come.
        if is_wrong {
            self.metrics.audit_wrong.with_label_values(&[path]).inc();
            self.metrics.audit_unacknowledged.with_label_values(&[path]).inc();
            let request = String::from_utf8_lossy(&entry.canonical);
            log::error!(
                target: "mainstay::audit",
                told = entry.told().map(|told| told.to_string()).unwrap_or_default().as_str();
                "a cached answer differs from the primary, and no change was told that explains it: {request}"
            );
        }
        self.metrics.audit_checked.with_label_values(&[path]).inc();
    }

    /// Whether the entry is still current when all has been told that the primary showed by now. `None`: that cannot be known.
    async fn still_stands(&self, entry: &Entry) -> Option<bool> {
        let database = self.database.as_ref()?;
        let reader = Reader { name: "audit".to_owned(), region: self.settings.region.clone() };
        let shown = database.feed(reader).fence().await.ok()?;
        let deadline = Instant::now() + HEARING_TIME_MAX;
        loop {
            let now = Instant::now();
            // Asked before the entry is: what is told in between must not be held against it.
            let is_told = self.cache.fences.read(|ledger| ledger.through().is_some_and(|through| through >= shown));
            let standing = entry.standing(&self.cache.fences, entry.age(now), now);
            if matches!(standing, Standing::Purged | Standing::Forbidden) {
                return Some(false);
            }
            if is_told {
                return Some(true);
            }
            if now > deadline {
                return None;
            }
            actix_rt::time::sleep(HEARING_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many hits are audited, spread evenly over so many seconds.
    fn audited(audit: &Audit, hits: u32, seconds: u32) -> usize {
        UNTIL_NEXT.set(0);
        let at = |hit: u32| audit.per_second.started + Duration::from_secs(seconds.into()) * hit / hits;
        (0..hits).filter(|hit| audit.takes(at(*hit))).count()
    }

    #[test]
    fn one_of_so_many_hits_is_audited_and_none_where_none_is_asked_for() {
        assert_eq!(audited(&Audit::new(0, u32::MAX), 1000, 1), 0);
        assert_eq!(audited(&Audit::new(1, u32::MAX), 1000, 1), 999, "the first hit of a worker only draws");
        let some = audited(&Audit::new(10, u32::MAX), 100_000, 1);
        assert!((9_000..11_000).contains(&some), "{some}");
    }

    #[test]
    fn no_second_has_more_audits_than_allowed() {
        assert_eq!(audited(&Audit::new(1, 3), 10_000, 10), 30);
        assert_eq!(audited(&Audit::new(1, 0), 1000, 1), 0);
    }
}
