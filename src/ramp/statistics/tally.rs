//! What an instance has counted and not handed over yet.
//!
//! Counters only go up; what is handed over is by how much, in batches with a number. A batch whose outcome is unknown stays as it is
//! and is handed over again under its number, while the next one gathers: the database adds each once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use uuid::Uuid;

/// Days that are kept while they cannot be handed over. Those before are lost.
const DAYS_MAX: Days = Days::new(31);

/// What was counted of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered requests.
    pub requests: u64,
    /// Those of them that were answered with 500 or above.
    pub errors: u64,
    /// Those of them that were answered out of a cache.
    pub hits: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            hits: self.hits.saturating_sub(before.hits),
        }
    }

    fn add(&mut self, more: Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.errors = self.errors.saturating_add(more.errors);
        self.hits = self.hits.saturating_add(more.hits);
    }
}

/// Counts of days and routes that are handed over together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose it is.
    pub instance: Uuid,
    /// Its number; later ones have greater numbers.
    pub sequence: i64,
    /// The counts.
    pub rows: BTreeMap<(NaiveDate, String), Counts>,
}

/// What an instance has counted and not handed over yet.
pub struct Tally {
    instance: Uuid,
    sequence: i64,
    /// The counters at the last look, and its day: what they have gone up by since is that day's.
    totals: BTreeMap<String, Counts>,
    day: NaiveDate,
    gathered: BTreeMap<(NaiveDate, String), Counts>,
    in_flight: Option<Arc<Batch>>,
}

impl Tally {
    /// That of an instance which begins now.
    pub fn new(instance: Uuid, now: DateTime<Utc>) -> Self {
        let day = now.date_naive();
        Self { instance, sequence: 0, totals: BTreeMap::new(), day, gathered: BTreeMap::new(), in_flight: None }
    }

    /// Looks at the counters, by route. What they have gone up by belongs to the day of the look before, so there is to be one
    /// [at midnight](next_look).
    pub fn look(&mut self, totals: BTreeMap<String, Counts>, now: DateTime<Utc>) {
        for (route, total) in &totals {
            let before = self.totals.get(route).copied().unwrap_or_default();
            let more = total.since(before);
            if more != Counts::default() {
                self.gathered.entry((self.day, route.clone())).or_default().add(more);
            }
        }
        self.skip(totals, now);
        if let Some(oldest) = self.day.checked_sub_days(DAYS_MAX) {
            self.gathered.retain(|(day, _), _| *day >= oldest);
        }
    }

    /// Looks at the counters without counting: nobody wants to know.
    pub fn skip(&mut self, totals: BTreeMap<String, Counts>, now: DateTime<Utc>) {
        (self.totals, self.day) = (totals, now.date_naive());
    }

    /// What is to be handed over: the batch that was not heard of, else what has gathered.
    pub fn batch(&mut self) -> Option<Arc<Batch>> {
        if self.in_flight.is_none() && !self.gathered.is_empty() {
            self.sequence += 1;
            let rows = std::mem::take(&mut self.gathered);
            self.in_flight = Some(Arc::new(Batch { instance: self.instance, sequence: self.sequence, rows }));
        }
        self.in_flight.clone()
    }

    /// A batch was added, now or before.
    pub fn is_added(&mut self, batch: &Batch) {
        self.in_flight.take_if(|in_flight| in_flight.sequence == batch.sequence);
    }
}

/// How long to wait for the next look: an interval, or until midnight in UTC.
pub fn next_look(now: DateTime<Utc>, interval: Duration) -> Duration {
    let midnight = now.date_naive().succ_opt().map(|day| day.and_time(chrono::NaiveTime::MIN).and_utc());
    let until_midnight = midnight.and_then(|midnight| (midnight - now).to_std().ok());
    until_midnight.map_or(interval, |until| interval.min(until))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn totals(requests: u64) -> BTreeMap<String, Counts> {
        [("/a".to_owned(), Counts { requests, errors: requests / 2, hits: requests / 3 })].into()
    }

    #[test]
    fn a_look_at_midnight_parts_the_days() {
        let evening = time("2026-11-21T23:59:30Z");
        assert_eq!(next_look(evening, Duration::from_secs(60)), Duration::from_secs(30));
        assert_eq!(next_look(evening, Duration::from_secs(10)), Duration::from_secs(10));
        let mut tally = Tally::new(Uuid::nil(), evening);
        tally.look(totals(10), time("2026-11-22T00:00:00.004Z"));
        tally.look(totals(16), time("2026-11-22T00:01:00Z"));
        let batch = tally.batch().unwrap();
        let of = |day: &str| batch.rows[&(day.parse::<NaiveDate>().unwrap(), "/a".to_owned())];
        assert_eq!(of("2026-11-21"), Counts { requests: 10, errors: 5, hits: 3 });
        assert_eq!(of("2026-11-22"), Counts { requests: 6, errors: 3, hits: 2 });
    }

    #[test]
    fn what_was_not_heard_of_is_handed_over_again_as_it_was() {
        let now = time("2026-11-21T12:00:00Z");
        let mut tally = Tally::new(Uuid::nil(), now);
        assert_eq!(tally.batch(), None);
        tally.look(totals(6), now);
        let first = tally.batch().unwrap();
        tally.look(totals(12), now);
        assert_eq!(tally.batch(), Some(Arc::clone(&first)));
        tally.is_added(&first);
        let second = tally.batch().unwrap();
        assert_eq!((first.sequence, second.sequence), (1, 2));
        assert_eq!(second.rows.values().map(|counts| counts.requests).sum::<u64>(), 6);
        // Late news of one that was heard of meanwhile.
        tally.is_added(&first);
        assert_eq!(tally.batch(), Some(Arc::clone(&second)));
        tally.is_added(&second);
        tally.look(totals(12), now);
        assert_eq!(tally.batch(), None, "nothing was asked");
        tally.skip(totals(100), now);
        tally.look(totals(101), now);
        assert_eq!(tally.batch().unwrap().rows.values().next().unwrap().requests, 1);
    }

    #[test]
    fn a_long_outage_costs_the_oldest_days() {
        let mut tally = Tally::new(Uuid::nil(), time("2026-01-01T12:00:00Z"));
        for day in 0..100u64 {
            let now = time("2026-01-01T12:00:00Z") + Days::new(day);
            tally.look(totals(day + 1), now);
        }
        assert_eq!(tally.batch().unwrap().rows.len(), 31);
    }

    proptest! {
        /// However looks, losses of answers and repetitions fall, each request is added once.
        #[test]
        fn each_request_is_added_once(steps in prop::collection::vec((0u64..5, any::<bool>(), any::<bool>()), 1..60)) {
            let mut now = time("2026-11-21T22:00:00Z");
            let mut tally = Tally::new(Uuid::nil(), now);
            let (mut counted, mut added, mut last_added) = (0, 0, 0);
            for (more, reaches, is_heard) in steps.into_iter().chain([(0, true, true), (0, true, true)]) {
                counted += more;
                now += Duration::from_secs(600);
                tally.look([("/a".to_owned(), Counts { requests: counted, ..Counts::default() })].into(), now);
                let Some(batch) = tally.batch() else { continue };
                if reaches && batch.sequence > last_added {
                    added += batch.rows.values().map(|counts| counts.requests).sum::<u64>();
                    last_added = batch.sequence;
                }
                if reaches && is_heard {
                    tally.is_added(&batch);
                }
            }
            prop_assert_eq!(added, counted);
        }
    }
}
